//! A bar on standard error while much is copied, if that is a terminal.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// From this size on a bar is shown. The copy of a smaller file ends before anybody could read the bar.
const LARGE: u64 = 16 << 20;

/// A reader that shows its progress.
pub struct Watched<R> {
    from: R,
    bar: ProgressBar,
}

impl<R: Read> Watched<R> {
    /// `length`: the number of bytes to read, if it is known.
    pub fn new(from: R, length: Option<u64>) -> Self {
        let template = match length {
            Some(_) => "{wide_bar} {percent:>3}% of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left",
            None => "{binary_bytes}, {binary_bytes_per_sec}",
        };
        // A hidden bar measures the speed already.
        let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Watched { from, bar }
    }
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buf)?;
        let before = self.bar.position();
        self.bar.inc(count as u64);
        if before <= LARGE && self.bar.position() > LARGE {
            // If standard error is not a terminal, the bar stays hidden.
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.bar.tick();
        }
        Ok(count)
    }
}

impl<R: AsFd> AsFd for Watched<R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.from.as_fd()
    }
}

impl<R> Drop for Watched<R> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Whether a bar is useful while so much is written to standard output: somebody sees the bar, and does not see the
/// output.
pub fn wanted(length: Option<u64>) -> bool {
    length.is_some_and(|length| length > LARGE) && io::stderr().is_terminal() && !io::stdout().is_terminal()
}

/// The number of bytes left to read, if it is known. It is for a file.
pub fn rest(of: impl AsFd) -> Option<u64> {
    let mut file = File::from(of.as_fd().try_clone_to_owned().ok()?);
    let meta = file.metadata().ok()?;
    let position = if meta.is_file() { file.stream_position().ok()? } else { return None };
    Some(meta.len().saturating_sub(position))
}
