//! The settings of an adapter: plain values, which every room below the front door may read.

use std::sync::Arc;
use std::time::Duration;

use crate::lock::{LockDir, OnWait, Patience, Recent};
use crate::sys::Links;

/// The settings of an adapter.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) lock_dir: Arc<LockDir>,
    pub(crate) recent: Recent,
    pub(crate) lock_timeout: Option<Duration>,
    pub(crate) on_wait: Option<OnWait>,
    /// Whether the paths of callers may have symbolic links in them.
    pub(crate) links: Links,
    pub(crate) replace: Options,
}

impl Config {
    /// How long a call that begins now waits for its locks.
    pub(crate) fn patience(&self) -> Patience<'_> {
        Patience::new(self.lock_timeout, self.on_wait.as_ref())
    }

    /// The same for a call that says itself how long.
    pub(crate) fn patience_for(&self, timeout: Duration) -> Patience<'_> {
        Patience::new(Some(timeout), self.on_wait.as_ref())
    }
}

/// What a write promises about a crash of the whole machine (power cut, kernel panic). About crashes of processes
/// all three promise the same: a reader sees the old version or the new one, whole.
///
/// ```
/// use atomic_file_adapter::{AtomicFileAdapter, Durability};
///
/// let cache = AtomicFileAdapter::builder().durability(Durability::Ordered).build()?;
/// # drop(cache);
/// # Ok::<(), atomic_file_adapter::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Durability {
    /// The new version is on the device when the call returns. The file is synced
    /// ([fsync(2)](https://man7.org/linux/man-pages/man2/fsync.2.html)) before the rename and its directory after it.
    /// On Apple's systems a sync is `fcntl(F_FULLFSYNC)`, because `fsync` only hands the data to the drive there; on a
    /// file system that does not have it (a network volume, for example) `fsync` is the best to be had.
    ///
    /// A file system that has no sync of directories says EINVAL or ENOTSUP to it: some FUSE servers, and SMB before
    /// Linux 4.17. There the write is done all the same, as PostgreSQL and SQLite have it: the contents are synced, and
    /// whether the rename survives a power cut is up to the file system, which has been told by nobody. Every other
    /// error of that sync is [`NotDurable`](crate::Error::NotDurable). The kernel itself says that it is done where a
    /// FUSE server knows no such request (`fuse_dir_fsync` in fs/fuse/dir.c), and of NFS and SMB, where the server has
    /// answered the rename before it returns (`nfs_fsync_dir` in fs/nfs/dir.c, `cifs_dir_fsync` in
    /// fs/smb/client/cifsfs.c): it is as durable as the server makes it by then, which one that exports with `async`
    /// (exports(5)) does later.
    #[default]
    Full,
    /// After a crash the file is the old or the new version, whole; which one is not promised. The file is synced
    /// before the rename, the directory is not.
    ///
    /// On Apple's systems that holds for a crash of the system, but for a power cut only if the drive keeps the order of
    /// its writes. The sync is `fsync` there, of which the manual page says that "the drive itself may not physically
    /// write the data to the platters for quite some time and it may be written in an out-of-order sequence". What would
    /// be right, `fcntl(F_BARRIERFSYNC)`, cannot be had without unsafe code; take [`Full`](Self::Full) where it matters.
    Ordered,
    /// Nothing is synced: atomic for other processes only. A crash may leave anything, an empty file for example.
    None,
}

/// How files are replaced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) durability: Durability,
    /// The exact mode of a new file; `None`: 0666 less the umask.
    pub(crate) new_file_mode: Option<u32>,
}
