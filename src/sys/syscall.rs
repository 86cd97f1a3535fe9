//! The names of the system calls that this crate makes.

/// A system call, by the name of its manual page (section 2).
///
/// ```
/// # #[cfg(feature = "fault-injection")] {
/// # let scratch = tempfile::tempdir()?;
/// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
/// # let path = scratch.path().join("settings.toml");
/// use std::cell::Cell;
/// use std::rc::Rc;
///
/// use atomic_file_adapter::fault::{Action, Syscall, inject};
///
/// let syncs = Rc::new(Cell::new(0));
/// let counter = syncs.clone();
/// let count = move |call: &atomic_file_adapter::fault::Call<'_>| {
///     counter.set(counter.get() + usize::from(matches!(call.syscall, Syscall::Fsync | Syscall::FcntlFullfsync)));
///     Action::Proceed
/// };
/// inject(count, || files.write_atomic(&path, "contents")).0?;
/// assert!(syncs.get() >= 2); // of the file and of its directory
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[cfg_attr(not(feature = "fault-injection"), allow(dead_code, reason = "each system makes some of these calls only"))]
pub enum Syscall {
    /// [`openat`](https://man7.org/linux/man-pages/man2/openat.2.html)
    Openat,
    /// [`openat2`](https://man7.org/linux/man-pages/man2/openat2.2.html), on Linux
    Openat2,
    /// [`mkdirat`](https://man7.org/linux/man-pages/man2/mkdirat.2.html)
    Mkdirat,
    /// [`fstatat`](https://man7.org/linux/man-pages/man2/fstatat.2.html)
    Fstatat,
    /// [`fstat`](https://man7.org/linux/man-pages/man2/fstat.2.html)
    Fstat,
    /// [`statx`](https://man7.org/linux/man-pages/man2/statx.2.html), on Linux: whether a name is a mount point, and, with
    /// AT_STATX_FORCE_SYNC, to ask a server anew
    Statx,
    /// [`faccessat2`](https://man7.org/linux/man-pages/man2/access.2.html), on Linux: whether a directory may be changed
    Faccessat,
    /// [`readlinkat`](https://man7.org/linux/man-pages/man2/readlinkat.2.html), on Linux also to ask /proc for the
    /// real path of an open directory
    Readlinkat,
    /// [`read`](https://man7.org/linux/man-pages/man2/read.2.html)
    Read,
    /// [`pread`](https://man7.org/linux/man-pages/man2/pread.2.html): whether a lock is still there, on NFS, and what is in a
    /// lock file
    Pread,
    /// [`pwrite`](https://man7.org/linux/man-pages/man2/pwrite.2.html): the path and the mark in a lock file
    Pwrite,
    /// [`ftruncate`](https://man7.org/linux/man-pages/man2/ftruncate.2.html): removes the mark
    Ftruncate,
    /// [`write`](https://man7.org/linux/man-pages/man2/write.2.html)
    Write,
    /// [`posix_fadvise`](https://man7.org/linux/man-pages/man2/posix_fadvise.2.html), on Linux; its error is ignored
    PosixFadvise,
    /// [`fchown`](https://man7.org/linux/man-pages/man2/fchown.2.html)
    Fchown,
    /// [`fchmod`](https://man7.org/linux/man-pages/man2/fchmod.2.html)
    Fchmod,
    /// [`llistxattr`](https://man7.org/linux/man-pages/man2/listxattr.2.html), on Linux
    Llistxattr,
    /// [`lgetxattr`](https://man7.org/linux/man-pages/man2/getxattr.2.html), on Linux
    Lgetxattr,
    /// [`flistxattr`](https://man7.org/linux/man-pages/man2/listxattr.2.html)
    Flistxattr,
    /// [`fgetxattr`](https://man7.org/linux/man-pages/man2/getxattr.2.html)
    Fgetxattr,
    /// [`fsetxattr`](https://man7.org/linux/man-pages/man2/setxattr.2.html)
    Fsetxattr,
    /// [`fremovexattr`](https://man7.org/linux/man-pages/man2/removexattr.2.html)
    Fremovexattr,
    /// [`renameat`](https://man7.org/linux/man-pages/man2/renameat.2.html)
    Renameat,
    /// [`linkat`](https://man7.org/linux/man-pages/man2/linkat.2.html)
    Linkat,
    /// [`unlinkat`](https://man7.org/linux/man-pages/man2/unlinkat.2.html)
    Unlinkat,
    /// [`readdir`](https://man7.org/linux/man-pages/man3/readdir.3.html), one an entry and one for the end; several of
    /// them are one [`getdents`](https://man7.org/linux/man-pages/man2/getdents.2.html)
    Readdir,
    /// [`getcwd`](https://man7.org/linux/man-pages/man2/getcwd.2.html)
    Getcwd,
    /// [`getpid`](https://man7.org/linux/man-pages/man2/getpid.2.html), which cannot fail
    Getpid,
    /// [`getrlimit`](https://man7.org/linux/man-pages/man2/getrlimit.2.html), which cannot fail as it is used here
    Getrlimit,
    /// [`geteuid`](https://man7.org/linux/man-pages/man2/geteuid.2.html), which cannot fail
    Geteuid,
    /// [`fcntl(F_SETLKW)`](https://man7.org/linux/man-pages/man2/fcntl_locking.2.html): waits for a record lock
    FcntlSetlkw,
    /// [`fcntl(F_SETLK)`](https://man7.org/linux/man-pages/man2/fcntl_locking.2.html): asks for a record lock
    FcntlSetlk,
    /// [`fcntl(F_SETLK, F_UNLCK)`](https://man7.org/linux/man-pages/man2/fcntl_locking.2.html): releases a record lock
    FcntlUnlock,
    /// [`fcntl(F_GETLK)`](https://man7.org/linux/man-pages/man2/fcntl_locking.2.html): who holds a record lock
    FcntlGetlk,
    /// [`fcntl(F_DUPFD_CLOEXEC)`](https://man7.org/linux/man-pages/man2/F_DUPFD.2const.html): a copy of a descriptor,
    /// to be closed
    FcntlDupfd,
    /// [`fcntl(F_SETFL, O_DIRECT)`](https://man7.org/linux/man-pages/man2/F_GETFL.2const.html), of a lock file on NFS
    FcntlSetfl,
    /// [`fsync`](https://man7.org/linux/man-pages/man2/fsync.2.html)
    Fsync,
    /// [`syncfs`](https://man7.org/linux/man-pages/man2/syncfs.2.html), on Linux
    Syncfs,
    /// [`fstatfs`](https://man7.org/linux/man-pages/man2/fstatfs.2.html), on Linux
    Fstatfs,
    /// [`uname`](https://man7.org/linux/man-pages/man2/uname.2.html), on Linux, which cannot fail
    Uname,
    /// `fcntl(F_FULLFSYNC)`, on Apple's systems
    FcntlFullfsync,
    /// `fcntl(F_GETPATH)`, on Apple's systems
    FcntlGetpath,
    /// [`close`](https://man7.org/linux/man-pages/man2/close.2.html), whose error is ignored
    Close,
}
