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

/// Prints the paths that were removed. Then prints each error on standard error.
pub fn print_removed(removed: Result<Vec<PathBuf>>, ends: &Ends) -> Result<(), Failure> {
    let (done, failed) = match removed {
        Err(Error::Partial { done, failed, .. }) => (done, failed),
        removed => (removed?, Vec::new()),
    };
    let printed = print(&done, ends);
    complain(failed.iter().map(Error::to_string)).and(printed)
}

/// Prints a line for each of these. A failure if there are any.
pub fn complain(messages: impl Iterator<Item = String>) -> Result<(), Failure> {
    let mut failed = Ok(());
    for message in messages {
        crate::say(&message);
        failed = Err(Failure::Status(FAILED));
    }
    failed
}

/// The path as one line of UTF-8, without control characters. Different paths give different lines: it escapes as Rust
/// does in a string.
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

/// Characters that change the direction of others. With them a path can look like another one (Unicode Standard Annex
/// #9).
pub fn turns_text(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
