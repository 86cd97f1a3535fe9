//! The functions that work differently on Apple's systems.
//!
//! Manual pages named here are macOS's; the files are XNU's, the kernel's (github.com/apple-oss-distributions/xnu).

use std::ffi::{CStr, CString, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rustix::fs::{self, Mode, OFlags, Stat};
use rustix::path::Arg;

use super::{Errno, Fd, InodeAndBirth, Links, Meta, Result, Syscall, way};

/// The number of symbolic links that the kernel follows in one path (MAXSYMLINKS in bsd/sys/param.h). More are ELOOP.
pub(crate) const MAX_LINKS: usize = 32;

// Two flags of open(2) without a name in rustix, from bsd/sys/fcntl.h. O_SEARCH is O_EXEC and O_DIRECTORY.
const O_EXEC: OFlags = OFlags::from_bits_retain(0x4000_0000);
const O_EVTONLY: OFlags = OFlags::from_bits_retain(0x8000);

/// `openat` of a directory that may be searched but not read (O_SEARCH in open(2)). Files in it can be opened.
pub(crate) fn open_search_only(at: BorrowedFd<'_>, path: impl Arg + Copy, links: Links) -> Result<Fd> {
    let flags = O_EXEC | OFlags::DIRECTORY | OFlags::CLOEXEC | links.flag();
    super::open(at, path, flags, Mode::empty())
}

/// `None`: a path without a link may still differ from the directory's real path in case.
pub(crate) fn open_dir_without_links(_: impl Arg + Copy) -> Option<Fd> {
    None
}

/// `None`: this system has no such call.
pub(crate) fn open_read_without_links(_: &CStr) -> Option<Fd> {
    None
}

/// The absolute path of an open directory, without symbolic links and spelled as the file system stores it:
/// `fcntl(F_GETPATH)`, fcntl(2). `None`: the kernel knows no such path, or it is longer than MAXPATHLEN, 1024 bytes.
pub(crate) fn real_path(dir: BorrowedFd<'_>) -> Option<PathBuf> {
    let path = way::on_file(Syscall::FcntlGetpath, dir, || fs::getpath(dir)).ok()?;
    Some(OsString::from_vec(path.into_bytes()).into())
}

/// Only a directory can be a mount point here (mount(2)).
pub(crate) fn is_mount_point(_: BorrowedFd<'_>, _: &CStr) -> bool {
    false
}

/// `None`: no system call tells which processes wait for a record lock.
pub(crate) fn waiters(_: &CStr) -> Option<Vec<(u64, u32)>> {
    None
}

/// True, so that nobody asks further.
pub(crate) fn is_on_disk(_: u64) -> bool {
    true
}

/// This system is not asked.
pub(crate) fn check_changeable(_: BorrowedFd<'_>) -> Result<()> {
    Ok(())
}

/// Nobody tries: it is not known what a dead file system answers here.
pub(crate) fn try_change(_: BorrowedFd<'_>) -> Result<()> {
    Ok(())
}

/// The inode number and the time of birth of a name, or of the open directory if the name is empty (stat(2)).
pub(crate) fn inode_and_birth(at: BorrowedFd<'_>, name: &CStr) -> Result<InodeAndBirth> {
    let name = if name.is_empty() { c"." } else { name };
    let look = || fs::statat(at, name, fs::AtFlags::SYMLINK_NOFOLLOW);
    let found = way::on_name(Syscall::Fstatat, at, name, look)?;
    let nanoseconds = u32::try_from(found.st_birthtime_nsec).unwrap_or(0);
    Ok((found.st_ino, Some((found.st_birthtime, nanoseconds))))
}

/// The same. Whether the file can be removed is not checked here.
pub(crate) fn look_before_removal(
    at: BorrowedFd<'_>,
    _: &Meta,
    name: &CStr,
) -> Result<(InodeAndBirth, Option<(Errno, &'static str)>)> {
    Ok((inode_and_birth(at, name)?, None))
}

/// A disk in memory looks like any other disk here.
pub(crate) fn is_in_memory(_: BorrowedFd<'_>) -> bool {
    false
}

/// False, because nobody has tested this here.
pub(crate) fn syncs_parents(_: BorrowedFd<'_>) -> bool {
    false
}

/// Nobody has measured yet which names Apple's NFS client caches.
pub(crate) fn is_nfs(_: BorrowedFd<'_>, _: Option<u64>) -> bool {
    false
}

/// Never called, because of `is_nfs`.
pub(crate) fn refresh(_: BorrowedFd<'_>, _: &CStr, _: Links) -> Result<()> {
    Ok(())
}

/// Never called, because of `is_nfs`.
pub(crate) fn read_directly(_: BorrowedFd<'_>) -> Result<()> {
    Ok(())
}

/// The error of `getxattr` if there is no such attribute.
pub(crate) const NO_ATTRIBUTE: Errno = Errno::NOATTR;

/// Calls a function on a file by its name in an open directory, without following a link. The kernel has that function
/// only for a path or an open file.
pub(super) fn by_name<T>(
    at: BorrowedFd<'_>,
    name: &CStr,
    _: impl FnOnce(&CStr) -> Result<T>,
    by_file: impl FnOnce(&Fd) -> Result<T>,
) -> Result<T> {
    by_file(&super::open_read(at, name)?)
}

/// This system has no user namespaces.
pub(crate) fn is_unmapped_uid(_: u32) -> bool {
    false
}

/// This system has no user namespaces.
pub(crate) fn is_unmapped_gid(_: u32) -> bool {
    false
}

/// The name of a file as the file system stores it, if it differs from `name` in the case of letters. Mac volumes
/// ignore case unless they were made otherwise. So `name` may lead to a file with another spelling, and that file must
/// not have two locks.
///
/// The stored name is the last name of the path that F_GETPATH returns for the open file, with three limits:
///
/// - Only ASCII letters may differ. HFS+ stores names in its own Unicode normalization (Apple's Technical Note TN1150).
///   So a file `é` would have another name, and another lock, as soon as it exists. APFS stores the bytes as they are
///   given.
/// - If a file has several hard links, F_GETPATH may return any of its names (`lookup` in bsd/vfs/vfs_lookup.c says
///   why). So such a file keeps the name by which it was asked for.
/// - Another process may rename files meanwhile. Just after a rename, the path of a file can still have the old,
///   temporary name: `renameat_internal` in bsd/vfs/vfs_syscalls.c updates the path after the file system has renamed.
///   Then the kernel is asked again.
///
/// This opens the file and closes it. The close drops this process's record locks on it (fcntl(2)), as reading it
/// would.
pub(crate) fn stored_name(dir: BorrowedFd<'_>, name: &CStr) -> Option<CString> {
    const ATTEMPTS: usize = 3;
    for _ in 0..ATTEMPTS {
        // This needs no permission to read the file.
        let file = super::open_special(dir, name, O_EVTONLY | OFlags::NONBLOCK).ok()?;
        let open = way::on_file(Syscall::Fstat, file.as_fd(), || fs::fstat(&file)).ok()?;
        if open.st_nlink > 1 {
            return None;
        }
        let path = real_path(file.as_fd())?;
        let stored = path.file_name()?.as_bytes();
        if stored == name.to_bytes() {
            return None;
        }
        if stored.eq_ignore_ascii_case(name.to_bytes()) {
            // On a volume where case matters, this is the new name of a file that was renamed, and `name` belongs to
            // another file.
            let named = super::stat(dir, name).ok()?;
            return if named.ino == open.st_ino { CString::new(stored).ok() } else { None };
        }
    }
    None
}

/// A durable sync: `fcntl(F_FULLFSYNC)`, also for a directory (`hfs_vnop_ioctl` in Apple's hfs makes no difference).
///
/// fsync alone is not enough. fsync(2) says: "while fsync() will flush all data from the host to the drive (i.e. the
/// "permanent storage device"), the drive itself may not physically write the data to the platters for quite some time
/// and it may be written in an out-of-order sequence", and that applications which need more should use F_FULLFSYNC.
///
/// Not every file system has it: fcntl(2) names HFS, MS-DOS, UDF and APFS. The others report ENOTSUP (SMB, NTFS),
/// EINVAL (WebDAV, FUSE) or ENOTTY (ZFS). XNU itself takes just these three for "not supported" when it tries
/// F_BARRIERFSYNC (`fcntl_nocancel` in bsd/kern/kern_descrip.c). For them fsync is the best there is. After any other
/// error data may be lost, and a second sync would not report that.
pub(crate) fn sync(file: impl AsFd) -> Result<()> {
    match way::on_file(Syscall::FcntlFullfsync, file.as_fd(), || fs::fcntl_fullfsync(&file)) {
        Err(Errno::NOTSUP | Errno::NOTTY | Errno::INVAL) => sync_ordered(file),
        result => result,
    }
}

/// A sync that hands the data to the drive: fsync(2). `fcntl(F_BARRIERFSYNC)` would be right, but rustix 1.1 does not
/// have it, and without rustix it needs unsafe code.
pub(crate) fn sync_ordered(file: impl AsFd) -> Result<()> {
    way::on_file(Syscall::Fsync, file.as_fd(), || fs::fsync(&file))
}

/// `fchmod`: the exact mode, whatever the umask. It leaves out the setgid bit if the caller may not set it. A new file
/// here gets the group of its directory (open(2)). If its owner is not in that group, setting the bit is EPERM
/// (`vnode_authattr` in bsd/vfs/vfs_subr.c). Linux leaves the bit out by itself.
pub(crate) fn set_mode(file: impl AsFd, mode: u32) -> Result<()> {
    const SET_GROUP_ID: u32 = 0o2000;
    match super::fchmod(&file, mode) {
        Err(Errno::PERM) if mode & SET_GROUP_ID != 0 => super::fchmod(file, mode & !SET_GROUP_ID),
        result => result,
    }
}

/// This system has no call that starts the write-back.
pub(crate) fn start_write_back(_: impl AsFd, _: u64, _: u64) {}

/// This system has no syncfs. `Ok(false)`: each file has to be synced.
pub(crate) fn sync_file_system(_: BorrowedFd<'_>) -> Result<bool> {
    Ok(false)
}

pub(super) fn device(stat: &Stat) -> u64 {
    // st_dev is a signed 32-bit number here. It is only compared.
    u64::from(stat.st_dev as u32)
}

pub(super) fn mode_bits(stat: &Stat) -> u32 {
    u32::from(stat.st_mode) & 0o7777
}

pub(super) fn mode(bits: u32) -> Mode {
    // The twelve mode bits fit into this system's 16-bit mode_t.
    Mode::from_raw_mode((bits & 0o7777) as u16)
}
