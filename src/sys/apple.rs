//! What only Apple's systems do this way.
//!
//! Manual pages named here are macOS's; the files are XNU's, the kernel's (github.com/apple-oss-distributions/xnu).

use std::ffi::{CStr, CString, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rustix::fs::{self, Mode, OFlags, Stat};
use rustix::path::Arg;

use super::{Errno, Fd, InodeAndBirth, Links, Meta, Result, Syscall, way};

/// As many symbolic links as the kernel follows in one path (MAXSYMLINKS in bsd/sys/param.h); then ELOOP.
pub(crate) const MAX_LINKS: usize = 32;

// Two flags of open(2) without a name in rustix, from bsd/sys/fcntl.h. O_SEARCH is O_EXEC and O_DIRECTORY.
const O_EXEC: OFlags = OFlags::from_bits_retain(0x4000_0000);
const O_EVTONLY: OFlags = OFlags::from_bits_retain(0x8000);

/// `openat` of a directory that may be searched but not read (O_SEARCH in open(2)). It serves to open files in it.
pub(crate) fn open_search_only(at: BorrowedFd<'_>, path: impl Arg + Copy, links: Links) -> Result<Fd> {
    let flags = O_EXEC | OFlags::DIRECTORY | OFlags::CLOEXEC | links.flag();
    super::open(at, path, flags, Mode::empty())
}

/// `None`: without a link in it, a path may still be spelled in another case than the directory is.
pub(crate) fn open_dir_without_links(_: impl Arg + Copy) -> Option<Fd> {
    None
}

/// `None`: there is no such call.
pub(crate) fn open_read_without_links(_: &CStr) -> Option<Fd> {
    None
}

/// The absolute path of an open directory, without symbolic links and spelled as it is stored: `fcntl(F_GETPATH)`,
/// fcntl(2). `None` where the kernel has no such path to give, or one longer than MAXPATHLEN, 1024 bytes.
pub(crate) fn real_path(dir: BorrowedFd<'_>) -> Option<PathBuf> {
    let path = way::on_file(Syscall::FcntlGetpath, dir, || fs::getpath(dir)).ok()?;
    Some(OsString::from_vec(path.into_bytes()).into())
}

/// Only a directory can be one here (mount(2)).
pub(crate) fn is_mount_point(_: BorrowedFd<'_>, _: &CStr) -> bool {
    false
}

/// `None`: no system call tells who waits for a record lock.
pub(crate) fn waiters(_: &CStr) -> Option<Vec<(u64, u32)>> {
    None
}

/// Nobody asks further here.
pub(crate) fn is_on_disk(_: u64) -> bool {
    true
}

/// Nobody looks.
pub(crate) fn check_changeable(_: BorrowedFd<'_>) -> Result<()> {
    Ok(())
}

/// Which file has a name, or which directory is open if the name is empty: its inode number and when it was made (stat(2)).
pub(crate) fn inode_and_birth(at: BorrowedFd<'_>, name: &CStr) -> Result<InodeAndBirth> {
    let name = if name.is_empty() { c"." } else { name };
    let look = || fs::statat(at, name, fs::AtFlags::SYMLINK_NOFOLLOW);
    let found = way::on_name(Syscall::Fstatat, at, name, look)?;
    let nanoseconds = u32::try_from(found.st_birthtime_nsec).unwrap_or(0);
    Ok((found.st_ino, Some((found.st_birthtime, nanoseconds))))
}

/// The same. Whether it can be removed nobody looks here.
pub(crate) fn look_before_removal(
    at: BorrowedFd<'_>,
    _: &Meta,
    name: &CStr,
) -> Result<(InodeAndBirth, Option<(Errno, &'static str)>)> {
    Ok((inode_and_birth(at, name)?, None))
}

/// A disk in memory looks like any other here.
pub(crate) fn is_in_memory(_: BorrowedFd<'_>) -> bool {
    false
}

/// Nobody has looked here.
pub(crate) fn syncs_parents(_: BorrowedFd<'_>) -> bool {
    false
}

/// What Apple's NFS client remembers of names nobody has measured yet.
pub(crate) fn is_nfs(_: BorrowedFd<'_>, _: Option<u64>) -> bool {
    false
}

/// Never called, for the reason above.
pub(crate) fn refresh(_: BorrowedFd<'_>, _: &CStr, _: Links) -> Result<()> {
    Ok(())
}

/// As [`refresh`].
pub(crate) fn read_directly(_: BorrowedFd<'_>) -> Result<()> {
    Ok(())
}

/// What `getxattr` answers where there is no such attribute.
pub(crate) const NO_ATTRIBUTE: Errno = Errno::NOATTR;

/// Does something to a file by its name in an open directory, without following a link, that the kernel only does to a path
/// or to an open file.
pub(super) fn by_name<T>(
    at: BorrowedFd<'_>,
    name: &CStr,
    _: impl FnOnce(&CStr) -> Result<T>,
    by_file: impl FnOnce(&Fd) -> Result<T>,
) -> Result<T> {
    by_file(&super::open_read(at, name)?)
}

/// There are no user namespaces here.
pub(crate) fn is_unmapped_uid(_: u32) -> bool {
    false
}

/// As [`is_unmapped_uid`].
pub(crate) fn is_unmapped_gid(_: u32) -> bool {
    false
}

/// The name of a file as it is stored, if that is another case of the same letters. Mac volumes ignore case unless
/// they were made not to, so `name` may lead to a file that is called otherwise, and that must not have two locks.
///
/// It is the end of what F_GETPATH says of the open file, with three limits:
///
/// - Only ASCII letters may differ. HFS+ stores names in a Unicode normalization of its own (Apple's Technical Note
///   TN1150), so that a file `é` would be called otherwise as soon as it exists, and have another lock than before. APFS
///   stores the bytes as they came.
/// - Of a file with several hard links F_GETPATH may tell any name (`lookup` in bsd/vfs/vfs_lookup.c says why), so such a
///   file has the name by which it was asked for.
/// - Another process may rename files meanwhile. A file that was renamed just now can still have its old name, a
///   temporary one, as its path: `renameat_internal` in bsd/vfs/vfs_syscalls.c updates it after the file system has
///   renamed. Then it is asked again.
///
/// Opens the file and closes it, by which this process drops its record locks on it (fcntl(2)), as by reading it.
pub(crate) fn stored_name(dir: BorrowedFd<'_>, name: &CStr) -> Option<CString> {
    const ATTEMPTS: usize = 3;
    for _ in 0..ATTEMPTS {
        // Needs no permission to read the file.
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
            // Where case matters, it is the new name of a file that is being renamed, and `name` is another one's.
            let named = super::stat(dir, name).ok()?;
            return if named.ino == open.st_ino { CString::new(stored).ok() } else { None };
        }
    }
    None
}

/// A durable sync: `fcntl(F_FULLFSYNC)`, of a directory too (`hfs_vnop_ioctl` in Apple's hfs makes no difference).
///
/// fsync alone is not enough. fsync(2) says: "while fsync() will flush all data from the host to the drive (i.e. the
/// "permanent storage device"), the drive itself may not physically write the data to the platters for quite some time
/// and it may be written in an out-of-order sequence", and that applications which need more should use F_FULLFSYNC.
///
/// Not every file system has it: fcntl(2) names HFS, MS-DOS, UDF and APFS. Those that do not answer ENOTSUP (SMB, NTFS),
/// EINVAL (WebDAV, FUSE) or ENOTTY (ZFS); XNU itself takes just these three for "not supported" when it tries
/// F_BARRIERFSYNC (`fcntl_nocancel` in bsd/kern/kern_descrip.c). There fsync is the best to be had. After any other
/// error data may be lost, and a second sync would not tell.
pub(crate) fn sync(file: impl AsFd) -> Result<()> {
    match way::on_file(Syscall::FcntlFullfsync, file.as_fd(), || fs::fcntl_fullfsync(&file)) {
        Err(Errno::NOTSUP | Errno::NOTTY | Errno::INVAL) => sync_ordered(file),
        result => result,
    }
}

/// A sync that hands the data to the drive: fsync(2). What fits the purpose is `fcntl(F_BARRIERFSYNC)`, which rustix 1.1
/// does not have and which takes unsafe code without it.
pub(crate) fn sync_ordered(file: impl AsFd) -> Result<()> {
    way::on_file(Syscall::Fsync, file.as_fd(), || fs::fsync(&file))
}

/// `fchmod`, exact, whatever the umask; without the setgid bit where the caller may not set it. A new file here gets the
/// group of its directory (open(2)), which its owner need not be in, and to set the bit is EPERM then (`vnode_authattr`
/// in bsd/vfs/vfs_subr.c). Linux leaves the bit out by itself.
pub(crate) fn set_mode(file: impl AsFd, mode: u32) -> Result<()> {
    const SET_GROUP_ID: u32 = 0o2000;
    match super::fchmod(&file, mode) {
        Err(Errno::PERM) if mode & SET_GROUP_ID != 0 => super::fchmod(file, mode & !SET_GROUP_ID),
        result => result,
    }
}

/// There is no call that starts the write-back here.
pub(crate) fn start_write_back(_: impl AsFd, _: u64, _: u64) {}

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
