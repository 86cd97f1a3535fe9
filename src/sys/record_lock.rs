//! Record locks, over the whole file: `fcntl` with F_SETLKW, F_SETLK and F_GETLK.

use std::os::fd::{AsFd, BorrowedFd};
use std::panic::catch_unwind;

use rustix::fs::{self, FlockOperation};
use rustix::process;

use super::{Errno, Fd, Result, Syscall, way};

/// The mode of a record lock.
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
    fcntl_lock(Syscall::FcntlSetlkw, file, operation)
}

fn fcntl_lock(syscall: Syscall, file: impl AsFd, operation: FlockOperation) -> Result<()> {
    way::on_file(syscall, file.as_fd(), || fs::fcntl_lock(&file, operation))
}

/// `fcntl(F_SETLK)` over the whole file. False: another process holds the lock.
pub(crate) fn try_lock(file: impl AsFd, mode: LockMode) -> Result<bool> {
    let operation = match mode {
        LockMode::Shared => FlockOperation::NonBlockingLockShared,
        LockMode::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    match fcntl_lock(Syscall::FcntlSetlk, file, operation) {
        Ok(()) => Ok(true),
        // POSIX allows both errors. Linux and Apple's systems report EAGAIN (fcntl(2)).
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
        Err(error) => Err(error),
    }
}

/// `fcntl(F_SETLK, F_UNLCK)` over the whole file.
pub(crate) fn unlock(file: impl AsFd) -> Result<()> {
    fcntl_lock(Syscall::FcntlUnlock, file, FlockOperation::NonBlockingUnlock)
}

/// Closes a copy of the descriptor. With that, the process loses all its record locks on the file, as with the close of
/// any descriptor of it ([fcntl_locking(2)](https://man7.org/linux/man-pages/man2/fcntl_locking.2.html), "Advisory
/// record locking"). Does nothing if the descriptor cannot be copied (EMFILE).
pub(crate) fn close_copy(file: impl AsFd) {
    let copy = way::on_file(Syscall::FcntlDupfd, file.as_fd(), || rustix::io::fcntl_dupfd_cloexec(&file, 0));
    drop(copy.map(Fd::from));
}

/// A lock that another process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) mode: LockMode,
    /// `None`: the kernel cannot name a process here. The holder has an open file description lock, is on another
    /// machine, or is in another PID namespace.
    pub(crate) pid: Option<u32>,
}

/// `fcntl(F_GETLK)`: the lock of another process that keeps this one from locking the whole file in this mode.
pub(crate) fn holder(file: BorrowedFd<'_>, mode: LockMode) -> Result<Option<Holder>> {
    let wanted = process::Flock::from(match mode {
        LockMode::Shared => process::FlockType::ReadLock,
        LockMode::Exclusive => process::FlockType::WriteLock,
    });
    // If the holder has an open file description lock or is on another machine, the kernel reports a negative pid
    // (`locks_translate_pid` in Linux's fs/locks.c, `lf_getlock` in XNU's bsd/kern/kern_lockf.c). rustix 1.1 has a
    // debug assertion against that. Only builds with debug assertions need the `catch_unwind`.
    let ask = || catch_unwind(|| process::fcntl_getlk(file, &wanted)).map_or(Ok(None), |found| found.map(Some));
    let Some(found) = way::on_file(Syscall::FcntlGetlk, file, ask)? else {
        return Ok(Some(Holder { mode: LockMode::Exclusive, pid: None }));
    };
    Ok(found.map(|lock| Holder {
        mode: if lock.typ == process::FlockType::ReadLock { LockMode::Shared } else { LockMode::Exclusive },
        pid: lock.pid.and_then(|pid| u32::try_from(pid.as_raw_pid()).ok()).filter(|pid| *pid != 0),
    }))
}
