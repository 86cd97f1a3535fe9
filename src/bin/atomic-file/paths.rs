//! Paths on standard output: as they are for programs, escaped on a terminal.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use atomic_file_adapter::{Error, Result};

use crate::Failure;
use crate::args::{Ends, FAILED};

pub fn print(paths: &[PathBuf], ends: &Ends) -> Result<(), Failure> {
    let mut text = Vec::new();
    for path in paths {
        match ends.null {
            true => text.extend([path.as_os_str().as_bytes(), b"\0"].concat()),
            false if io::stdout().is_terminal() => text.extend((escaped(path) + "\n").into_bytes()),
            false => text.extend([path.as_os_str().as_bytes(), b"\n"].concat()),
        }
    }
    crate::to_stdout(|out| out.write_all(&text))
}

/// What was removed, and then, on standard error, each thing that could not be.
pub fn print_removed(removed: Result<Vec<PathBuf>>, ends: &Ends) -> Result<(), Failure> {
    let (done, failed) = match removed {
        Err(Error::Partial { done, failed, .. }) => (done, failed),
        removed => (removed?, Vec::new()),
    };
    let printed = print(&done, ends);
    complain(failed.iter().map(Error::to_string)).and(printed)
}

/// A line for each of these; a failure if there are any.
pub fn complain(messages: impl Iterator<Item = String>) -> Result<(), Failure> {
    let mut failed = Ok(());
    for message in messages {
        crate::say(&message);
        failed = Err(Failure::Status(FAILED));
    }
    failed
}

/// One line in UTF-8, without commands to the terminal, that tells different paths apart: as Rust would escape it in a
/// string.
pub fn escaped(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.extend(c.escape_default()),
                c if c.is_control() || turns_text(c) => text.extend(c.escape_default()),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Characters that change the direction of others, by which a path can look like another one (Unicode Standard Annex #9).
pub fn turns_text(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
