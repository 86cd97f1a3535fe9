//! The only door to the kernel: one thin function a system call, the same names on every system.
//!
//! No function here knows why it is called; the order of calls is the business of `replace.rs` and `lock/`. Every
//! call that can be interrupted by a signal is made again when it was (EINTR), here and nowhere else. What differs
//! between systems is in `linux.rs` and `apple.rs`.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::catch_unwind;

use rustix::buffer::spare_capacity;
use rustix::fs::{self, AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::retry_on_intr;
use rustix::path::Arg;
use rustix::process;

use crate::error::FileKind;

pub(crate) use rustix::io::Errno;

// `build.rs` has said the same already; this is for those who build without it.
#[cfg(not(any(linux_backend, apple_backend)))]
compile_error!("atomic-file-adapter runs on Linux and on Apple's systems only");

#[cfg(apple_backend)]
#[path = "apple.rs"]
mod backend;
#[cfg(linux_backend)]
#[path = "linux.rs"]
mod backend;

pub(crate) use backend::{open_search_only, real_path, sync, sync_ordered};

pub(crate) type Result<T> = std::result::Result<T, Errno>;

/// Where a relative path starts when there is no directory to start from.
pub(crate) fn cwd() -> BorrowedFd<'static> {
    CWD
}

/// How the text of a link in Linux's /proc ends if what it leads to was removed (`d_path` in fs/d_path.c).
pub(crate) const REMOVED: &[u8] = b" (deleted)";

/// What `fstat` and `fstatat` tell, in the same types on every system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    /// `None`: a regular file.
    pub(crate) special: Option<FileKind>,
    /// Permission, setuid, setgid and sticky bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
}

impl Meta {
    fn new(stat: &Stat) -> Self {
        let special = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => None,
            FileType::Directory => Some(FileKind::Directory),
            FileType::Symlink => Some(FileKind::Symlink),
            FileType::Fifo => Some(FileKind::Fifo),
            FileType::Socket => Some(FileKind::Socket),
            FileType::CharacterDevice | FileType::BlockDevice => Some(FileKind::Device),
            _ => Some(FileKind::Other),
        };
        Meta {
            dev: backend::device(stat),
            ino: stat.st_ino,
            special,
            mode: backend::mode_bits(stat),
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: u64::try_from(stat.st_size).unwrap_or(0),
        }
    }
}

/// Whether a symbolic link in the last place of a path is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    Follow,
    Refuse,
}

impl Links {
    fn flag(self) -> OFlags {
        match self {
            Links::Follow => OFlags::empty(),
            Links::Refuse => OFlags::NOFOLLOW,
        }
    }
}

/// `openat` of a directory, readable, because only a readable descriptor can be synced.
pub(crate) fn open_dir(at: BorrowedFd<'_>, path: impl Arg + Copy, links: Links) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | links.flag();
    retry_on_intr(|| fs::openat(at, path, flags, Mode::empty()))
}

/// `openat` for reading. Never follows a symbolic link and never waits: O_NONBLOCK changes nothing for a regular
/// file, and keeps the open of a FIFO from blocking until somebody writes to it.
pub(crate) fn open_read(at: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    open_special(at, name, OFlags::RDONLY | OFlags::NONBLOCK)
}

/// As [`open_read`], but waits, for a file that somebody has a lease on (F_SETLEASE in fcntl(2)): with O_NONBLOCK the
/// open fails with EAGAIN, and the kernel asks the holder to give the lease up.
pub(crate) fn open_read_waiting(at: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    open_special(at, name, OFlags::RDONLY)
}

/// As [`open_read`], for reading and writing.
pub(crate) fn open_read_write(at: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    open_special(at, name, OFlags::RDWR | OFlags::NONBLOCK)
}

fn open_special(at: BorrowedFd<'_>, name: &CStr, access: OFlags) -> Result<OwnedFd> {
    let flags = access | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    retry_on_intr(|| fs::openat(at, name, flags, Mode::empty()))
}

/// `openat` of a file that does not exist yet, with `mode` less the umask; EEXIST if the name is taken by anything,
/// a symbolic link included.
pub(crate) fn create_new(at: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    retry_on_intr(|| fs::openat(at, name, flags, backend::mode(mode)))
}

/// `mkdirat` with mode 0777 less the umask.
pub(crate) fn make_dir(at: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    retry_on_intr(|| fs::mkdirat(at, name, backend::mode(0o777)))
}

/// `fstatat`, of the symbolic link itself if there is one.
pub(crate) fn stat(at: BorrowedFd<'_>, name: &CStr) -> Result<Meta> {
    retry_on_intr(|| fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)).map(|stat| Meta::new(&stat))
}

/// `fstatat`, through symbolic links.
pub(crate) fn stat_follow(at: BorrowedFd<'_>, path: impl Arg + Copy) -> Result<Meta> {
    retry_on_intr(|| fs::statat(at, path, AtFlags::empty())).map(|stat| Meta::new(&stat))
}

/// `fstat`.
pub(crate) fn stat_open(file: impl AsFd) -> Result<Meta> {
    retry_on_intr(|| fs::fstat(&file)).map(|stat| Meta::new(&stat))
}

/// `readlinkat`.
pub(crate) fn read_link(at: BorrowedFd<'_>, name: &CStr) -> Result<CString> {
    retry_on_intr(|| fs::readlinkat(at, name, Vec::new()))
}

/// `read` into the spare capacity of `buf`, which must have some. 0 is the end of the file.
pub(crate) fn read(file: impl AsFd, buf: &mut Vec<u8>) -> Result<usize> {
    retry_on_intr(|| rustix::io::read(&file, spare_capacity(buf)))
}

/// `write`; may take less than all of `bytes`.
pub(crate) fn write(file: impl AsFd, bytes: &[u8]) -> Result<usize> {
    retry_on_intr(|| rustix::io::write(&file, bytes))
}

/// `fchown`; `None` leaves that one as it is.
pub(crate) fn set_owner(file: impl AsFd, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    let (uid, gid) = (uid.map(fs::Uid::from_raw), gid.map(fs::Gid::from_raw));
    retry_on_intr(|| fs::fchown(&file, uid, gid))
}

/// `fchmod`, exact, whatever the umask.
pub(crate) fn set_mode(file: impl AsFd, mode: u32) -> Result<()> {
    retry_on_intr(|| fs::fchmod(&file, backend::mode(mode)))
}

/// `renameat` within one directory.
pub(crate) fn rename(at: BorrowedFd<'_>, from: &CStr, to: &CStr) -> Result<()> {
    retry_on_intr(|| fs::renameat(at, from, at, to))
}

/// `linkat`: EEXIST if the new name is taken.
pub(crate) fn link(at: BorrowedFd<'_>, from: &CStr, to: &CStr) -> Result<()> {
    retry_on_intr(|| fs::linkat(at, from, at, to, AtFlags::empty()))
}

/// `unlinkat` of a file.
pub(crate) fn unlink(at: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    retry_on_intr(|| fs::unlinkat(at, name, AtFlags::empty()))
}

/// The names in a directory, but for `.` and `..`.
pub(crate) fn list(dir: OwnedFd) -> Result<impl Iterator<Item = Result<CString>>> {
    let names = fs::Dir::new(dir)?.map(|entry| entry.map(|entry| entry.file_name().to_owned()));
    Ok(names.filter(|name| !matches!(name, Ok(name) if name.as_bytes() == b"." || name.as_bytes() == b"..")))
}

/// `getcwd`.
pub(crate) fn current_dir() -> Result<CString> {
    retry_on_intr(|| process::getcwd(Vec::new()))
}

/// `getpid`.
pub(crate) fn pid() -> u32 {
    process::getpid().as_raw_pid().unsigned_abs()
}

/// `geteuid`.
pub(crate) fn effective_uid() -> u32 {
    process::geteuid().as_raw()
}

/// How a record lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockMode {
    /// `F_RDLCK`
    Shared,
    /// `F_WRLCK`
    Exclusive,
}

/// `fcntl(F_SETLKW)` over the whole file: waits.
pub(crate) fn lock(file: impl AsFd, mode: LockMode) -> Result<()> {
    let operation = match mode {
        LockMode::Shared => FlockOperation::LockShared,
        LockMode::Exclusive => FlockOperation::LockExclusive,
    };
    retry_on_intr(|| fs::fcntl_lock(&file, operation))
}

/// `fcntl(F_SETLK)` over the whole file: false if another process is in the way.
pub(crate) fn try_lock(file: impl AsFd, mode: LockMode) -> Result<bool> {
    let operation = match mode {
        LockMode::Shared => FlockOperation::NonBlockingLockShared,
        LockMode::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    match retry_on_intr(|| fs::fcntl_lock(&file, operation)) {
        Ok(()) => Ok(true),
        // POSIX allows either.
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
        Err(error) => Err(error),
    }
}

/// `fcntl(F_SETLK, F_UNLCK)` over the whole file.
pub(crate) fn unlock(file: impl AsFd) -> Result<()> {
    retry_on_intr(|| fs::fcntl_lock(&file, FlockOperation::NonBlockingUnlock))
}

/// A lock that another process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) mode: LockMode,
    /// `None`: the kernel cannot name a process here (an open file description lock, a remote holder, one in
    /// another PID namespace).
    pub(crate) pid: Option<u32>,
}

/// `fcntl(F_GETLK)`: another process's lock that keeps this one from taking `mode` over the whole file.
pub(crate) fn holder(file: BorrowedFd<'_>, mode: LockMode) -> Result<Option<Holder>> {
    let wanted = process::Flock::from(match mode {
        LockMode::Shared => process::FlockType::ReadLock,
        LockMode::Exclusive => process::FlockType::WriteLock,
    });
    // For the holder of an open file description lock, or of a remote one, the kernel answers with a negative pid
    // (`locks_translate_pid` in fs/locks.c), on which rustix 1.1 has a debug assertion. Only builds that check
    // assertions come this way.
    let found = catch_unwind(|| retry_on_intr(|| process::fcntl_getlk(file, &wanted)));
    let Ok(found) = found else { return Ok(Some(Holder { mode: LockMode::Exclusive, pid: None })) };
    Ok(found?.map(|lock| Holder {
        mode: if lock.typ == process::FlockType::ReadLock { LockMode::Shared } else { LockMode::Exclusive },
        pid: lock.pid.and_then(|pid| u32::try_from(pid.as_raw_pid()).ok()).filter(|pid| *pid != 0),
    }))
}
