//! The functions that work differently on Linux.

use std::ffi::{CStr, CString, OsString};
use std::io::Write;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{self, Access, Advice, AtFlags, CWD, Mode, OFlags, ResolveFlags, Stat, StatxAttributes, StatxFlags};
use rustix::path::Arg;
use rustix::system::uname;

use super::{Errno, Fd, InodeAndBirth, Links, Meta, Result, Syscall, way};

/// The number of symbolic links that the kernel follows in one path (MAXSYMLINKS in include/linux/namei.h). More are
/// ELOOP.
pub(crate) const MAX_LINKS: usize = 40;

/// `openat` of a directory that may be searched but not read (O_PATH). Files in it can be opened, but it cannot be
/// synced.
pub(crate) fn open_search_only(at: BorrowedFd<'_>, path: impl Arg + Copy, links: Links) -> Result<Fd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | links.flag();
    super::open(at, path, flags, Mode::empty())
}

/// Opens a directory by a path without symbolic links. If the path is absolute and has no `.`, `..` or `//`, it is then
/// the directory's real path. [openat2(2)](https://man7.org/linux/man-pages/man2/openat2.2.html) with
/// RESOLVE_NO_SYMLINKS, since Linux 5.6. `None`: the path has a link, or there is no such directory, or no such call.
pub(crate) fn open_dir_without_links(path: impl Arg + Copy) -> Option<Fd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = || fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    way::on_name(Syscall::Openat2, CWD, path, open).ok().map(Fd::from)
}

/// The same for a file, opened as [`open_read`](super::open_read) does.
pub(crate) fn open_read_without_links(path: &CStr) -> Option<Fd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let open = || fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    way::on_name(Syscall::Openat2, CWD, path, open).ok().map(Fd::from)
}

/// The absolute path of an open directory, without symbolic links: the text of the link `/proc/self/fd/N`
/// ([proc_pid_fd(5)](https://man7.org/linux/man-pages/man5/proc_pid_fd.5.html)). `None`: there is no /proc, the
/// directory was removed, or it is outside this process's root.
pub(crate) fn real_path(dir: BorrowedFd<'_>) -> Option<PathBuf> {
    let link = format!("/proc/self/fd/{}", dir.as_raw_fd());
    let read = || fs::readlinkat(CWD, link.as_str(), Vec::new());
    let path = way::on_name(Syscall::Readlinkat, CWD, link.as_str(), read).ok()?.into_bytes();
    // A name may legally end like this. The caller then finds the path in another way.
    if !path.starts_with(b"/") || path.ends_with(super::REMOVED) {
        return None;
    }
    Some(OsString::from_vec(path).into())
}

/// Whether something is mounted on this name: STATX_ATTR_MOUNT_ROOT of
/// [statx(2)](https://man7.org/linux/man-pages/man2/statx.2.html), since Linux 5.8. Also false if the kernel cannot
/// tell.
pub(crate) fn is_mount_point(at: BorrowedFd<'_>, name: &CStr) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let look = || fs::statx(at, name, flags, StatxFlags::empty()).map(Some);
    let found = way::on_name(Syscall::Statx, at, name, look);
    matches!(found, Ok(Some(found)) if found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// An error if this process cannot make and remove names in a directory: [faccessat2(2)] with the effective ids. A
/// kernel without that call (before 5.8) reports no error.
///
/// [faccessat2(2)]: https://man7.org/linux/man-pages/man2/access.2.html
pub(crate) fn check_changeable(dir: BorrowedFd<'_>) -> Result<()> {
    let ask = || fs::accessat(dir, c".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS);
    match way::on_file(Syscall::Faccessat, dir, ask) {
        Err(error @ (Errno::ACCESS | Errno::ROFS)) => Err(error),
        _ => Ok(()),
    }
}

/// Makes a file without a name in a directory, which is gone when it is closed: O_TMPFILE in
/// [open(2)](https://man7.org/linux/man-pages/man2/open.2.html). This starts a transaction. If a failed device has stopped
/// the file system, the error is EROFS or EIO (`ext4_journal_check_start` in fs/ext4/ext4_jbd2.c, `xfs_trans_alloc` in
/// fs/xfs/xfs_trans.c, `start_transaction` in fs/btrfs/transaction.c). Other errors say nothing about that: the file system
/// has no such files, it is full, or this process may not make files there.
pub(crate) fn try_change(dir: BorrowedFd<'_>) -> Result<()> {
    match super::open(dir, c".", OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
        Err(error @ (Errno::ROFS | Errno::IO | Errno::SHUTDOWN | Errno::UCLEAN)) => Err(error),
        _ => Ok(()),
    }
}

/// The inode number of a name, or of the open directory if the name is empty, and the time of birth if the file system
/// tells it (STATX_BTIME of [statx(2)](https://man7.org/linux/man-pages/man2/statx.2.html)).
pub(crate) fn inode_and_birth(at: BorrowedFd<'_>, name: &CStr) -> Result<InodeAndBirth> {
    look(at, name).map(|look| look.which)
}

/// The same, and the reason if the file cannot be removed or renamed over, as far as this can be seen: it is a mount
/// point; it has one of the attributes i and a ([chattr(1)](https://man7.org/linux/man-pages/man1/chattr.1.html)); it
/// belongs to another user and is in a directory with the sticky bit (`may_delete` in fs/namei.c). `dir` is the
/// directory.
pub(crate) fn look_before_removal(
    at: BorrowedFd<'_>,
    dir: &Meta,
    name: &CStr,
) -> Result<(InodeAndBirth, Option<(Errno, &'static str)>)> {
    let Look { which, uid, attributes } = look(at, name)?;
    let is_others = || dir.is_sticky() && ![0, uid, dir.uid].contains(&super::effective_uid());
    let why = if attributes.contains(StatxAttributes::MOUNT_ROOT) {
        Some((Errno::BUSY, super::MOUNT_POINT))
    } else if attributes.intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND) {
        Some((Errno::PERM, "it has the attribute i or a (chattr(1)), and cannot be replaced or removed"))
    } else if is_others() {
        Some((Errno::PERM, "it belongs to somebody else, in a directory with the sticky bit"))
    } else {
        None
    };
    Ok((which, why))
}

struct Look {
    which: InodeAndBirth,
    uid: u32,
    attributes: StatxAttributes,
}

fn look(at: BorrowedFd<'_>, name: &CStr) -> Result<Look> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::EMPTY_PATH;
    let ask = || fs::statx(at, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME).map(Some);
    let found = match way::on_name(Syscall::Statx, at, name, ask) {
        // Linux before 4.11, or a sandbox that does not know the call.
        Err(Errno::NOSYS | Errno::PERM) => None,
        found => found?,
    };
    let Some(found) = found else {
        let meta = if name.is_empty() { super::stat_open(at)? } else { super::stat(at, name)? };
        return Ok(Look { which: (meta.ino, None), uid: meta.uid, attributes: StatxAttributes::empty() });
    };
    let is_told = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
    let born = is_told.then_some((found.stx_btime.tv_sec, found.stx_btime.tv_nsec));
    Ok(Look { which: (found.stx_ino, born), uid: found.stx_uid, attributes: found.stx_attributes })
}

/// Whether a device number is that of a disk. No other machine changes names on a disk without this kernel's knowledge.
/// (If machines share a disk, GFS2 and OCFS2 invalidate a machine's cache.) Only file systems without a device have the
/// major number 0 ([devices.txt](https://docs.kernel.org/admin-guide/devices.html): "Unnamed devices").
pub(crate) fn is_on_disk(device: u64) -> bool {
    fs::major(device) != 0
}

/// Whether an open file or directory is on NFS, where other machines change names without this kernel's knowledge. If
/// the device number is known and is that of a disk, there is no system call.
///
/// Other file systems are not asked. tmpfs, overlayfs and btrfs have no device number either, but no other machine
/// changes them. CephFS invalidates a client's cache before it lets another client change a name. FUSE and SMB keep
/// each name for a fixed time, whatever happens to the directory (`fuse_dentry_revalidate` in fs/fuse/dir.c,
/// `cifs_d_revalidate` in fs/smb/client/dir.c), so asking would not help (`tests/locks/remembered_names.rs`). There the
/// mount options have to turn off the caching of names.
///
/// If the system call fails, the answer is true, because asking the server costs only time.
pub(crate) fn is_nfs(file: BorrowedFd<'_>, device: Option<u64>) -> bool {
    /// NFS_SUPER_MAGIC in include/uapi/linux/magic.h
    const NFS: u32 = 0x6969;
    if device.is_some_and(is_on_disk) {
        return false;
    }
    match way::on_file(Syscall::Fstatfs, file, || fs::fstatfs(file).map(Some)) {
        Ok(Some(kind)) => kind.f_type as u32 == NFS,
        Ok(None) | Err(_) => true,
    }
}

/// Whether a file is in a file system in memory (tmpfs(5), ramfs), which a power cut destroys. A file system on top of
/// one, such as overlayfs, is not noticed.
pub(crate) fn is_in_memory(file: BorrowedFd<'_>) -> bool {
    /// TMPFS_MAGIC and RAMFS_MAGIC in include/uapi/linux/magic.h
    const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58F6];
    is_of_kind(file, &IN_MEMORY)
}

/// Whether the sync of a new directory is known to sync its name in the parent directory as well. POSIX does not
/// require this, but the crash tests have seen it on these file systems.
pub(crate) fn syncs_parents(dir: BorrowedFd<'_>) -> bool {
    is_of_kind(dir, &TESTED)
}

/// The file systems whose crash states the tests look at: EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC and BTRFS_SUPER_MAGIC in
/// include/uapi/linux/magic.h.
const TESTED: [u32; 3] = [0xEF53, 0x5846_5342, 0x9123_683E];

fn is_of_kind(file: BorrowedFd<'_>, kinds: &[u32]) -> bool {
    let kind = way::on_file(Syscall::Fstatfs, file, || fs::fstatfs(file).map(Some));
    // The type of f_type differs between machines. The numbers have 32 bits.
    matches!(kind, Ok(Some(kind)) if kinds.contains(&(kind.f_type as u32)))
}

/// Makes the kernel ask the server for the attributes of a directory. That corrects the names that the kernel has
/// cached. Cached entries, also those of missing names, are assumed to be "valid until their parent directory's cached
/// attributes expire" (`lookupcache` in [nfs(5)](https://man7.org/linux/man-pages/man5/nfs.5.html); after a minute at
/// the most, `acdirmax`), or until the attributes have changed (`nfs_check_verifier` in fs/nfs/dir.c).
///
/// [statx(2)](https://man7.org/linux/man-pages/man2/statx.2.html) with AT_STATX_FORCE_SYNC. If there is no such call
/// (before Linux 4.11, or in a sandbox), the directory is opened, which asks the server as well ("Close-to-open cache
/// consistency" in nfs(5)). For a file, this corrects its mode and owner.
pub(crate) fn refresh(at: BorrowedFd<'_>, path: &CStr, links: Links) -> Result<()> {
    let follow = if links == Links::Refuse { AtFlags::SYMLINK_NOFOLLOW } else { AtFlags::empty() };
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC | follow;
    let ask = || fs::statx(at, path, flags, StatxFlags::BASIC_STATS).map(drop);
    match way::on_name(Syscall::Statx, at, path, ask) {
        Err(Errno::NOSYS | Errno::PERM) => {
            match super::open_dir(at, if path.is_empty() { c"." } else { path }, links) {
                Err(Errno::NOTDIR | Errno::LOOP) => super::open_read(at, path).map(drop),
                opened => opened.map(drop),
            }
        }
        result => result,
    }
}

/// Makes reads of this file come from the server (O_DIRECT).
pub(crate) fn read_directly(file: BorrowedFd<'_>) -> Result<()> {
    let flags = OFlags::DIRECT;
    way::on_file(Syscall::FcntlSetfl, file, || fs::fcntl_setfl(file, flags))
}

/// The error of `getxattr` if there is no such attribute.
pub(crate) const NO_ATTRIBUTE: Errno = Errno::NODATA;

/// Calls a function on a file by its name in an open directory, without following a link. The kernel has that function
/// only for a path or an open file. A path through /proc is tried first, because it needs no permission to read the
/// file ([proc_pid_fd(5)](https://man7.org/linux/man-pages/man5/proc_pid_fd.5.html)). It is `/proc/thread-self`,
/// because a thread may have its own descriptors (CLONE_FILES in
/// [unshare(2)](https://man7.org/linux/man-pages/man2/unshare.2.html)). If there is no /proc, or a sandbox forbids it,
/// the file is opened for reading.
pub(super) fn by_name<T>(
    at: BorrowedFd<'_>,
    name: &CStr,
    by_path: impl FnOnce(&CStr) -> Result<T>,
    by_file: impl FnOnce(&Fd) -> Result<T>,
) -> Result<T> {
    // On the stack, with room for the longest name.
    let mut path = [0; 320];
    let mut rest = &mut path[..319];
    let fits = write!(rest, "/proc/thread-self/fd/{}/", at.as_raw_fd()).and_then(|()| rest.write_all(name.to_bytes()));
    let path = CStr::from_bytes_until_nul(&path).map_err(|_| Errno::NAMETOOLONG)?;
    match if fits.is_ok() { by_path(path) } else { Err(Errno::NAMETOOLONG) } {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::PERM | Errno::LOOP | Errno::NAMETOOLONG) => {
            by_file(&super::open_read(at, name)?)
        }
        result => result,
    }
}

/// Whether this user id from `stat` may stand for an id that this process's user namespace does not map.
///
/// For such an id, `stat` reports the overflow id
/// ([user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html), "Unmapped user and group IDs").
/// It is 65534 by default (DEFAULT_OVERFLOWUID in include/linux/highuid.h). Another one, set with the sysctl
/// kernel.overflowuid, is not noticed. If the namespace maps that number too, the two cannot be told apart.
pub(crate) fn is_unmapped_uid(uid: u32) -> bool {
    uid == OVERFLOW_ID && !is_whole(c"/proc/self/uid_map")
}

/// The same for a group id.
pub(crate) fn is_unmapped_gid(gid: u32) -> bool {
    gid == OVERFLOW_ID && !is_whole(c"/proc/self/gid_map")
}

const OVERFLOW_ID: u32 = 65534;

/// Whether a map contains all ids. The last number is no id.
fn is_whole(map: &CStr) -> bool {
    let mut text = Vec::with_capacity(4096);
    let read = super::open_read(CWD, map).and_then(|file| super::read(&file, &mut text));
    let lengths = std::str::from_utf8(&text).unwrap_or_default().lines().map(|line| line.split_whitespace().nth(2));
    let mapped: u64 = lengths.map(|length| length.and_then(|it| it.parse::<u64>().ok()).unwrap_or(0)).sum();
    read.is_ok() && mapped >= u64::from(u32::MAX)
}

/// The waiters for the record locks of the files in the directory `path`: for each, the inode number of the file, and
/// the process. `None`: the system does not tell.
///
/// [proc_locks(5)](https://man7.org/linux/man-pages/man5/proc_locks.5.html) has a line with `->` for each waiter, below
/// the line of the lock. It shows only locks whose process is in this PID namespace (`locks_show` in fs/locks.c). The
/// pids are those of /proc's namespace. A process without one there is 0, and an open file description lock is -1
/// (`locks_translate_pid`). The device number is that of the file system (`lock_get_status` takes `i_sb->s_dev`). On
/// btrfs, `stat` reports another one for each subvolume, so the number comes from
/// [proc_pid_mountinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html).
pub(crate) fn waiters(path: &CStr) -> Option<Vec<(u64, u32)>> {
    let devices = [Some(super::stat_follow(CWD, path).ok()?.dev), device_of_mount(path)];
    let text = read_to_end(c"/proc/locks").ok()?;
    let waiter = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        if (words.next(), words.next()) != (Some("->"), Some("POSIX")) {
            return None;
        }
        let pid = words.nth(2)?.parse::<u32>().ok().filter(|pid| *pid != 0)?;
        let mut file = words.next()?.splitn(3, ':');
        let mut number = || u32::from_str_radix(file.next()?, 16).ok();
        let device = fs::makedev(number()?, number()?);
        devices.contains(&Some(device)).then_some((file.next()?.parse().ok()?, pid))
    };
    Some(String::from_utf8_lossy(&text).lines().filter_map(waiter).collect())
}

fn device_of_mount(path: &CStr) -> Option<u64> {
    let look = || fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).map(Some);
    let found = way::on_name(Syscall::Statx, CWD, path, look).ok()??;
    // Since Linux 5.8.
    StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID).then_some(())?;
    let text = read_to_end(c"/proc/self/mountinfo").ok()?;
    String::from_utf8_lossy(&text).lines().find_map(|line| {
        let mut words = line.split(' ');
        (words.next()?.parse() == Ok(found.stx_mnt_id)).then_some(())?;
        let (major, minor) = words.nth(1)?.split_once(':')?;
        Some(fs::makedev(major.parse().ok()?, minor.parse().ok()?))
    })
}

fn read_to_end(path: &CStr) -> Result<Vec<u8>> {
    let (file, mut text) = (super::open_read(CWD, path)?, Vec::new());
    loop {
        text.reserve(1 << 16);
        if super::read(&file, &mut text)? == 0 {
            return Ok(text);
        }
    }
}

/// `None`: a name is stored as it is spelled. Only a directory that was made to ignore case (the attribute F in
/// [chattr(1)](https://man7.org/linux/man-pages/man1/chattr.1.html)) finds a file by another spelling, too.
pub(crate) fn stored_name(_: BorrowedFd<'_>, _: &CStr) -> Option<CString> {
    None
}

/// A durable sync: [fsync(2)](https://man7.org/linux/man-pages/man2/fsync.2.html), which on Linux also flushes the
/// device's cache.
pub(crate) fn sync(file: impl AsFd) -> Result<()> {
    way::on_file(Syscall::Fsync, file.as_fd(), || fs::fsync(&file))
}

/// Makes the kernel write back what lies between two offsets, without waiting. The sync that follows then has less to
/// do.
///
/// sync_file_range would be the right call, but rustix 1.1 does not have it.
/// [posix_fadvise(2)](https://man7.org/linux/man-pages/man2/posix_fadvise.2.html) with POSIX_FADV_DONTNEED starts the
/// same write-back (`generic_fadvise` in mm/fadvise.c). Then it drops clean pages, of which there are hardly any yet.
/// In a file system in memory it does nothing.
pub(crate) fn start_write_back(file: impl AsFd, from: u64, to: u64) {
    let len = NonZeroU64::new(to.saturating_sub(from));
    let advise = || fs::fadvise(&file, from, len, Advice::DontNeed);
    // The sync reports what could not be written back.
    let _ = way::on_file(Syscall::PosixFadvise, file.as_fd(), advise);
}

/// A sync that keeps the order of the writes before and after it. On Linux it is no cheaper than a durable one.
pub(crate) fn sync_ordered(file: impl AsFd) -> Result<()> {
    sync(file)
}

/// `fchmod`: the exact mode, whatever the umask. The kernel itself leaves out the setgid bit if the caller may not set
/// it ([chmod(2)](https://man7.org/linux/man-pages/man2/chmod.2.html)).
pub(crate) fn set_mode(file: impl AsFd, mode: u32) -> Result<()> {
    super::fchmod(file, mode)
}

/// Syncs everything on the file system of `file`, if that is as good as a sync of each file. `Ok(false)`: it is not.
///
/// [syncfs(2)](https://man7.org/linux/man-pages/man2/syncfs.2.html) gives the guarantees of fsync for every file, but
/// it reports errors only since Linux 5.8. Each file system's `sync_fs` decides whether the device's cache is flushed.
/// FUSE, for one, does not tell its server (`fuse_sync_fs` in fs/fuse/inode.c). So syncfs is used only on the file
/// systems whose crash states the tests look at. (ext4 without a journal has the same number. There the flush comes
/// before the last metadata is written, but no rename is safe on it anyway.)
pub(crate) fn sync_file_system(file: BorrowedFd<'_>) -> Result<bool> {
    if !is_of_kind(file, &TESTED) || !reports_errors_of_syncfs() {
        return Ok(false);
    }
    match way::on_file(Syscall::Syncfs, file, || fs::syncfs(file)) {
        // A sandbox that does not know the call (seccomp(2)).
        Err(Errno::PERM | Errno::NOSYS) => Ok(false),
        result => result.map(|()| true),
    }
}

/// Linux 5.8 or later.
fn reports_errors_of_syncfs() -> bool {
    let name = way::infallible(Syscall::Uname, uname);
    let mut numbers = name.release().to_bytes().split(|byte| !byte.is_ascii_digit());
    let mut next = || std::str::from_utf8(numbers.next()?).ok()?.parse::<u32>().ok();
    (next(), next()) >= (Some(5), Some(8))
}

pub(super) fn device(stat: &Stat) -> u64 {
    stat.st_dev
}

pub(super) fn mode_bits(stat: &Stat) -> u32 {
    stat.st_mode & 0o7777
}

pub(super) fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(bits & 0o7777)
}
