//! What only Apple's systems do this way.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{self, Mode, Stat};
use rustix::path::Arg;

use super::{Errno, Fd, Links, Result, Syscall, way};

/// There is no O_PATH here: a directory that cannot be read cannot be used.
pub(crate) fn open_search_only(_: BorrowedFd<'_>, _: impl Arg + Copy, _: Links) -> Result<Fd> {
    Err(Errno::ACCESS)
}

/// `None`: without a link in it, a path may still be spelled in another case than the directory is.
pub(crate) fn open_dir_without_links(_: impl Arg + Copy) -> Option<Fd> {
    None
}

/// The absolute path of an open directory, by `fcntl(F_GETPATH)` (manual page fcntl(2) of macOS).
pub(crate) fn real_path(dir: BorrowedFd<'_>) -> Option<PathBuf> {
    let path = way::on_file(Syscall::FcntlGetpath, dir, || fs::getpath(dir)).ok()?;
    Some(OsString::from_vec(path.into_bytes()).into())
}

/// A durable sync: `fcntl(F_FULLFSYNC)`. fsync(2) of macOS says that fsync alone leaves the data in the drive's
/// cache, to be lost or reordered in a power cut. A file system that does not know F_FULLFSYNC answers ENOTSUP (or
/// ENOTTY or EINVAL); plain fsync is the best to be had there.
pub(crate) fn sync(file: impl AsFd) -> Result<()> {
    match way::on_file(Syscall::FcntlFullfsync, file.as_fd(), || fs::fcntl_fullfsync(&file)) {
        Err(Errno::NOTSUP | Errno::NOTTY | Errno::INVAL) => sync_ordered(file),
        result => result,
    }
}

/// A sync that hands the data to the drive: fsync(2).
pub(crate) fn sync_ordered(file: impl AsFd) -> Result<()> {
    way::on_file(Syscall::Fsync, file.as_fd(), || fs::fsync(&file))
}

/// There is no syncfs here: `Ok(false)`, each file has to be synced.
pub(crate) fn sync_file_system(_: BorrowedFd<'_>) -> Result<bool> {
    Ok(false)
}

pub(super) fn device(stat: &Stat) -> u64 {
    // st_dev is a signed 32-bit number here; only its identity matters.
    u64::from(stat.st_dev as u32)
}

pub(super) fn mode_bits(stat: &Stat) -> u32 {
    u32::from(stat.st_mode) & 0o7777
}

pub(super) fn mode(bits: u32) -> Mode {
    // Twelve bits fit the 16 of this system's mode_t.
    Mode::from_raw_mode((bits & 0o7777) as u16)
}
