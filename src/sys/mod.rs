//! The only access to the kernel: one thin function for each system call, with the same names on every system.
//!
//! No function here knows why it is called. The order of the calls is in `version/` and `lock/`. Every call goes
//! through `way`. There it is made again if a signal interrupted it (EINTR), and there a test can watch it and make it
//! fail (`fault.rs`). What differs between systems is in `linux.rs` and `apple.rs`.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::buffer::spare_capacity;
use rustix::fs::{self, AtFlags, CWD, Dir, Mode, OFlags};
use rustix::path::Arg;
use rustix::process;

pub(crate) use rustix::io::Errno;

// `build.rs` checks this, too. This is for builds without it.
#[cfg(not(any(linux_backend, apple_backend)))]
compile_error!("atomic-file-adapter runs on Linux and on Apple's systems only");

#[cfg(apple_backend)]
#[path = "apple.rs"]
mod backend;
#[cfg(linux_backend)]
#[path = "linux.rs"]
mod backend;

#[cfg(feature = "fault-injection")]
pub mod fault;
#[cfg(not(feature = "fault-injection"))]
#[path = "direct.rs"]
mod way;
#[cfg(feature = "fault-injection")]
use fault as way;

mod attributes;
mod fd;
mod meta;
mod record_lock;
mod syscall;

pub(crate) use self::attributes::{
    ACCESS_LIST, attribute, list_attributes, list_open_attributes, open_attribute, remove_attribute, set_attribute,
};
pub(crate) use self::fd::Fd;
pub use self::meta::FileKind;
pub(crate) use self::meta::Meta;
pub(crate) use self::record_lock::{Holder, LockMode, close_copy, holder, lock, try_lock, unlock};
pub use self::syscall::Syscall;
pub(crate) use backend::{
    MAX_LINKS, NO_ATTRIBUTE, check_changeable, inode_and_birth, is_in_memory, is_mount_point, is_nfs, is_on_disk,
    is_unmapped_gid, is_unmapped_uid, look_before_removal, open_dir_without_links, open_read_without_links,
    open_search_only, read_directly, real_path, refresh, set_mode, start_write_back, stored_name, sync,
    sync_file_system, sync_ordered, syncs_parents, waiters,
};

pub(crate) type Result<T> = std::result::Result<T, Errno>;

/// The directory in which relative paths start.
pub(crate) fn cwd() -> BorrowedFd<'static> {
    CWD
}

/// An inode number, and the inode's time of birth if the file system tells it: seconds and nanoseconds.
pub(crate) type InodeAndBirth = (u64, Option<(i64, u32)>);

pub(crate) const MOUNT_POINT: &str = "it is a mount point, for example a single file that was mounted into a container; a mount \
                                      point cannot be replaced or removed (EBUSY): mount its directory instead";

/// The end of a link's text in Linux's /proc if the file was removed (`d_path` in fs/d_path.c).
pub(crate) const REMOVED: &[u8] = b" (deleted)";

/// Whether a symbolic link as the last name of a path is followed.
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

/// `openat` of a directory. It is readable, because only a readable descriptor can be synced.
pub(crate) fn open_dir(at: BorrowedFd<'_>, path: impl Arg + Copy, links: Links) -> Result<Fd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | links.flag();
    open(at, path, flags, Mode::empty())
}

fn open(at: BorrowedFd<'_>, path: impl Arg + Copy, flags: OFlags, mode: Mode) -> Result<Fd> {
    way::on_name(Syscall::Openat, at, path, || fs::openat(at, path, flags, mode)).map(Fd::from)
}

/// `openat` for reading. Never follows a symbolic link and never waits: O_NONBLOCK changes nothing for a regular
/// file, and keeps the open of a FIFO from blocking until somebody writes to it.
pub(crate) fn open_read(at: BorrowedFd<'_>, name: &CStr) -> Result<Fd> {
    open_special(at, name, OFlags::RDONLY | OFlags::NONBLOCK)
}

/// As [`open_read`], but waits if another process has a lease on the file (F_SETLEASE in fcntl(2)). With O_NONBLOCK the
/// open fails with EAGAIN, and the kernel asks the other process to give up its lease.
pub(crate) fn open_read_waiting(at: BorrowedFd<'_>, name: &CStr) -> Result<Fd> {
    open_special(at, name, OFlags::RDONLY)
}

/// As [`open_read`], for reading and writing.
pub(crate) fn open_read_write(at: BorrowedFd<'_>, name: &CStr) -> Result<Fd> {
    open_special(at, name, OFlags::RDWR | OFlags::NONBLOCK)
}

fn open_special(at: BorrowedFd<'_>, name: &CStr, access: OFlags) -> Result<Fd> {
    let flags = access | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    open(at, name, flags, Mode::empty())
}

/// `openat` of a file that does not exist yet, with `mode` less the umask. EEXIST if the name exists, even as a
/// symbolic link.
pub(crate) fn create_new(at: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<Fd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    open(at, name, flags, backend::mode(mode))
}

/// `mkdirat` with mode 0777 less the umask.
pub(crate) fn make_dir(at: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    way::on_name(Syscall::Mkdirat, at, name, || fs::mkdirat(at, name, backend::mode(0o777)))
}

/// `fstatat`, of the symbolic link itself if there is one.
pub(crate) fn stat(at: BorrowedFd<'_>, name: &CStr) -> Result<Meta> {
    stat_with(at, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// `fstatat`, through symbolic links.
pub(crate) fn stat_follow(at: BorrowedFd<'_>, path: impl Arg + Copy) -> Result<Meta> {
    stat_with(at, path, AtFlags::empty())
}

fn stat_with(at: BorrowedFd<'_>, path: impl Arg + Copy, flags: AtFlags) -> Result<Meta> {
    way::on_name(Syscall::Fstatat, at, path, || fs::statat(at, path, flags)).map(|stat| Meta::new(&stat))
}

/// `fstat`.
pub(crate) fn stat_open(file: impl AsFd) -> Result<Meta> {
    way::on_file(Syscall::Fstat, file.as_fd(), || fs::fstat(&file)).map(|stat| Meta::new(&stat))
}

/// `readlinkat`.
pub(crate) fn read_link(at: BorrowedFd<'_>, name: &CStr) -> Result<CString> {
    way::on_name(Syscall::Readlinkat, at, name, || fs::readlinkat(at, name, Vec::new()))
}

/// `read` into the spare capacity of `buf`, which must have some. 0 is the end of the file.
pub(crate) fn read(file: impl AsFd, buf: &mut Vec<u8>) -> Result<usize> {
    let room = buf.capacity() - buf.len();
    way::on_bytes(Syscall::Read, file.as_fd(), room, |len| {
        if len >= room {
            return rustix::io::read(&file, spare_capacity(buf));
        }
        // Only if a test cuts the read short.
        let mut part = Vec::with_capacity(len);
        let read = rustix::io::read(&file, spare_capacity(&mut part))?;
        buf.append(&mut part);
        Ok(read)
    })
}

/// `pread` of the first byte, only for its error.
pub(crate) fn probe(file: BorrowedFd<'_>) -> Result<()> {
    way::on_file(Syscall::Pread, file, || rustix::io::pread(file, &mut [0; 1], 0).map(drop))
}

/// `pread` into `buf` from `offset` on. It may read less than there is. 0: the end of the file.
pub(crate) fn read_at(file: impl AsFd, buf: &mut [u8], offset: u64) -> Result<usize> {
    way::on_bytes(Syscall::Pread, file.as_fd(), buf.len(), |len| rustix::io::pread(&file, &mut buf[..len], offset))
}

/// `pwrite`. It may write less than all of `bytes`.
pub(crate) fn write_at(file: impl AsFd, bytes: &[u8], offset: u64) -> Result<usize> {
    way::on_bytes(Syscall::Pwrite, file.as_fd(), bytes.len(), |len| rustix::io::pwrite(&file, &bytes[..len], offset))
}

/// `ftruncate`.
pub(crate) fn truncate(file: impl AsFd, len: u64) -> Result<()> {
    way::on_file(Syscall::Ftruncate, file.as_fd(), || fs::ftruncate(&file, len))
}

/// `write`. It may write less than all of `bytes`.
pub(crate) fn write(file: impl AsFd, bytes: &[u8]) -> Result<usize> {
    way::on_bytes(Syscall::Write, file.as_fd(), bytes.len(), |len| rustix::io::write(&file, &bytes[..len]))
}

/// `fchown`. `None`: that id stays.
pub(crate) fn set_owner(file: impl AsFd, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    let (uid, gid) = (uid.map(fs::Uid::from_raw), gid.map(fs::Gid::from_raw));
    way::on_file(Syscall::Fchown, file.as_fd(), || fs::fchown(&file, uid, gid))
}

/// `fchmod`
fn fchmod(file: impl AsFd, mode: u32) -> Result<()> {
    way::on_file(Syscall::Fchmod, file.as_fd(), || fs::fchmod(&file, backend::mode(mode)))
}

/// `renameat` within one directory.
pub(crate) fn rename(at: BorrowedFd<'_>, from: &CStr, to: &CStr) -> Result<()> {
    way::on_names(Syscall::Renameat, at, from, to, || fs::renameat(at, from, at, to))
}

/// `linkat`. EEXIST if the new name exists.
pub(crate) fn link(at: BorrowedFd<'_>, from: &CStr, to: &CStr) -> Result<()> {
    way::on_names(Syscall::Linkat, at, from, to, || fs::linkat(at, from, at, to, AtFlags::empty()))
}

/// `unlinkat` of a file.
pub(crate) fn unlink(at: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    way::on_name(Syscall::Unlinkat, at, name, || fs::unlinkat(at, name, AtFlags::empty()))
}

/// A durable sync of a directory, where the file system has one.
///
/// Some file systems have none. The kernel reports EINVAL for them (`vfs_fsync_range` in fs/sync.c), as for SMB before
/// Linux 4.17. A FUSE server may report EINVAL or ENOTSUP itself. (For ENOSYS from a FUSE server, the kernel reports
/// success: `fuse_dir_fsync` in fs/fuse/dir.c.) Then there is nothing to wait for, and nothing that a caller could do.
/// PostgreSQL ignores EINVAL and EBADF of a directory (`fsync_fname_ext` in src/backend/storage/file/fd.c), SQLite
/// ignores every error (`unixSync` in src/os_unix.c, ticket 1657). Here EBADF is an error, because on these systems it
/// means an invalid descriptor (fsync(2)), and EIO is an error, too.
///
/// After an error the directory is changed, without a trace. The caller may try again, find that there is nothing to do,
/// and sync a directory without changes. On ext4 that succeeds although the journal is dead
/// (`__jbd2_journal_force_commit` in fs/jbd2/journal.c), until a change has made ext4 notice it.
pub(crate) fn sync_dir(dir: impl AsFd) -> Result<()> {
    match sync(&dir) {
        Err(Errno::INVAL | Errno::NOTSUP) => Ok(()),
        Err(error) => {
            let _ = backend::try_change(dir.as_fd());
            Err(error)
        }
        Ok(()) => Ok(()),
    }
}

/// Fails if the file system of a directory was stopped by a failed device, as far as a look can tell. The sync of a
/// directory in which nothing has changed since succeeds all the same. On xfs (`xfs_dir_fsync` in fs/xfs/xfs_file.c) the
/// look itself fails. btrfs is read-only then; so may be a file system that was never written to, but nobody knows what
/// happened before.
pub(crate) fn check_alive(dir: impl AsFd) -> Result<()> {
    stat_open(&dir)?;
    match check_changeable(dir.as_fd()) {
        Err(Errno::ROFS) => Err(Errno::ROFS),
        _ => Ok(()),
    }
}

/// The same by a change, which ext4 refuses, too. It is not for directories that otherwise stay as they are: programs that
/// watch them (inotify(7)) are told of a file that was written, and overlayfs copies them up.
pub(crate) fn prove_alive(dir: impl AsFd) -> Result<()> {
    check_alive(&dir)?;
    backend::try_change(dir.as_fd())
}

/// The names in a directory, without `.` and `..`.
pub(crate) fn list(dir: Fd) -> Result<impl Iterator<Item = Result<CString>>> {
    let Fd { closing, fd } = dir;
    let mut entries = Dir::new(fd)?;
    let mut next = move || {
        // The descriptor is closed when `entries` is dropped.
        let _ = &closing;
        way::on_nothing(Syscall::Readdir, || entries.read().transpose()).transpose()
    };
    let names = std::iter::from_fn(move || Some(next()?.map(|entry| entry.file_name().to_owned())));
    Ok(names.filter(|name| !matches!(name, Ok(name) if name.as_bytes() == b"." || name.as_bytes() == b"..")))
}

/// `getcwd`.
pub(crate) fn current_dir() -> Result<CString> {
    way::on_nothing(Syscall::Getcwd, || process::getcwd(Vec::new()))
}

/// `getpid`.
pub(crate) fn pid() -> u32 {
    way::infallible(Syscall::Getpid, process::getpid).as_raw_pid().unsigned_abs()
}

/// `geteuid`.
pub(crate) fn effective_uid() -> u32 {
    way::infallible(Syscall::Geteuid, process::geteuid).as_raw()
}

/// `getrlimit(RLIMIT_FSIZE)`: the largest file that this process may write. A write past it sends the signal SIGXFSZ,
/// which ends the process ([getrlimit(2)](https://man7.org/linux/man-pages/man2/getrlimit.2.html)).
pub(crate) fn file_size_limit() -> u64 {
    way::infallible(Syscall::Getrlimit, || process::getrlimit(process::Resource::Fsize)).current.unwrap_or(u64::MAX)
}

/// `getrlimit(RLIMIT_NOFILE)`: how many descriptors this process may have open.
pub(crate) fn descriptor_limit() -> u64 {
    way::infallible(Syscall::Getrlimit, || process::getrlimit(process::Resource::Nofile)).current.unwrap_or(u64::MAX)
}
