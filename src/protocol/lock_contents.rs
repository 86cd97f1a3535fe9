//! What is in a lock file. It is a public protocol: see `src/docs/protocol.md`.
//!
//! Bytes 0 to 2047 are for people: the path that the lock is named after, and a newline. An empty lock file is as good. One
//! that is longer is *marked*: from byte 2048 on it has the name of an intent, and whoever takes its lock has something
//! to finish before it looks at the file (`intent.rs`).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::protocol::lock_name::lock_name;

/// Where the name of an intent is. In the first block of the file, where the text is: a block of its own would have to be
/// allocated and freed for every change, which took half as long again as a change of 100 files on ext4.
pub(crate) const MARK: u64 = 2048;

/// Whether a lock file of this size is marked.
pub(crate) fn is_marked(size: u64) -> bool {
    size > MARK
}

/// What is for people in the lock file of this name. `None`: the path has another lock file, or would not fit, or not into a
/// line.
pub(crate) fn text(named_after: &Path, lock_file: &[u8]) -> Option<Vec<u8>> {
    let path = named_after.as_os_str().as_bytes();
    let fits = (path.len() as u64) < MARK && !path.contains(&b'\n');
    (fits && is_of(named_after, lock_file)).then(|| [path, b"\n"].concat())
}

/// The path in what is before the mark. `None`: there is none, or it has another lock file, so that whoever may write into
/// this one has made it up.
pub(crate) fn guarded<'a>(before: &'a [u8], lock_file: &[u8]) -> Option<&'a Path> {
    let newline = before.iter().position(|byte| *byte == b'\n')?;
    let path = Path::new(OsStr::from_bytes(&before[..newline]));
    is_of(path, lock_file).then_some(path)
}

fn is_of(named_after: &Path, lock_file: &[u8]) -> bool {
    lock_name(named_after).as_bytes() == lock_file
}

/// How much of what is before the mark is for people, to be kept when the mark is taken away.
pub(crate) fn text_len(before: &[u8]) -> u64 {
    before.iter().position(|byte| *byte == b'\n').map_or(0, |newline| newline as u64 + 1)
}
