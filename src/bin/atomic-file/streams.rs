//! Standard input and output, and the files that they must not be.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{OFlags, SeekFrom, fcntl_getfl, seek};

use crate::Failure;

/// Standard input without a buffer. With a buffer, a wait for input would not notice that bytes are left in it.
pub fn input() -> io::Result<File> {
    let stdin = io::stdin();
    if was_closed(stdin.as_fd()) {
        return Err(io::Error::other(
            "it is closed, or /dev/null that is open for writing, too (to empty the file: </dev/null)",
        ));
    }
    Ok(stdin.as_fd().try_clone_to_owned()?.into())
}

/// A plain descriptor, which lets the kernel copy from file to file.
pub fn output() -> Result<File, Failure> {
    let output = io::stdout().as_fd().try_clone_to_owned().map_err(cannot_write)?;
    Ok(output.into())
}

pub fn cannot_write(error: io::Error) -> Failure {
    Failure::Io("cannot write to standard output".into(), error)
}

/// Whether the contents of a file come to an end on standard output.
///
/// This does not check whether the output is closed. A closed one looks the same as a /dev/null that is open for
/// reading and writing, with which other programs discard output (`subprocess.DEVNULL` in Python).
pub fn check_output(path: &Path, version: &File) -> Result<(), Failure> {
    let version = version.metadata().map_err(cannot_write)?;
    let stdout = output()?;
    let out = stdout.metadata().map_err(cannot_write)?;
    if !out.is_file() || (out.dev(), out.ino()) != (version.dev(), version.ino()) {
        return Ok(());
    }
    // The offset of the next write. If bytes are read before they are overwritten, the copy ends. cat(1) has the same
    // rule.
    let appends = fcntl_getfl(&stdout).is_ok_and(|flags| flags.contains(OFlags::APPEND));
    let position = if appends { out.len() } else { seek(&stdout, SeekFrom::Current(0)).unwrap_or(0) };
    match position {
        0 => Ok(()),
        _ => Err(Failure::Io(
            format!("cannot read {}", path.display()),
            io::Error::other("it is also standard output, and would be read for ever; write to another file"),
        )),
    }
}

/// Whether this process was started without this stream. Rust's runtime opens /dev/null in its place, for reading and
/// writing (`sanitize_standard_fds` in library/std/src/sys/pal/unix/mod.rs), so that no other file gets its number. A
/// shell opens `</dev/null` for reading only, and `>/dev/null` for writing only.
fn was_closed(stream: BorrowedFd<'_>) -> bool {
    let Ok(file) = stream.try_clone_to_owned().map(File::from) else { return false };
    let (Ok(meta), Ok(null), Ok(flags)) = (file.metadata(), std::fs::metadata("/dev/null"), fcntl_getfl(&file)) else {
        return false;
    };
    let is_null = meta.file_type().is_char_device() && meta.rdev() == null.rdev();
    is_null && flags.contains(OFlags::RDWR)
}
