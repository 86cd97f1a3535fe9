//! The settings of an adapter: plain values.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
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
    /// Whether the callers' paths may contain symbolic links.
    pub(crate) links: Links,
    pub(crate) replace: Options,
    /// How many first writes will still look for temporary files of killed writers.
    pub(crate) looks: AtomicUsize,
}

/// A program that writes more files than this, each once, must not become slower by the looks.
pub(crate) const LOOKS_FOR_LITTER: usize = 100;

impl Config {
    /// Whether this first write looks for temporary files of killed writers.
    pub(crate) fn take_look(&self) -> bool {
        self.looks.fetch_update(Relaxed, Relaxed, |looks| looks.checked_sub(1)).is_ok()
    }

    /// How long a call that begins now waits for its locks.
    pub(crate) fn patience(&self) -> Patience<'_> {
        Patience::new(self.lock_timeout, self.on_wait.as_ref())
    }

    /// The same for a call with its own timeout.
    pub(crate) fn patience_for(&self, timeout: Duration) -> Patience<'_> {
        Patience::new(Some(timeout), self.on_wait.as_ref())
    }
}

/// What a write promises for a crash of the whole machine (power cut, kernel panic). For crashes of processes, all
/// three promise the same: a reader sees the old version or the new one, complete.
///
/// ```
/// use atomic_file_adapter::{AtomicFileAdapter, Durability};
///
/// let cache = AtomicFileAdapter::builder().durability(Durability::Ordered).build()?;
/// # drop(cache);
/// # Ok::<(), atomic_file_adapter::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Durability {
    /// The new version is on the device when the call returns. The file is synced
    /// ([fsync(2)](https://man7.org/linux/man-pages/man2/fsync.2.html)) before the rename, and its directory after it.
    /// On Apple's systems a sync is `fcntl(F_FULLFSYNC)`, because `fsync` only hands the data to the drive there. On a
    /// file system without that (a network volume, for example), `fsync` is the best there is.
    ///
    /// Some file systems have no sync of directories, and return EINVAL or ENOTSUP: some FUSE servers, and SMB before
    /// Linux 4.17. There the write succeeds all the same, as in PostgreSQL and SQLite. The contents are synced, and the
    /// file system decides whether the rename survives a power cut. Every other error of that sync is
    /// [`NotDurable`](crate::Error::NotDurable). In two cases the kernel itself reports success. If a FUSE server does
    /// not know the request (`fuse_dir_fsync` in fs/fuse/dir.c), nobody has synced the directory. On NFS and SMB the
    /// server has already answered the rename (`nfs_fsync_dir` in fs/nfs/dir.c, `cifs_dir_fsync` in
    /// fs/smb/client/cifsfs.c), and the rename is as durable as the server has made it by then; a server that exports
    /// with `async` (exports(5)) does that later.
    #[default]
    Full,
    /// After a crash the file is the old or the new version, complete; which of them is not promised. The file is
    /// synced before the rename, the directory is not.
    ///
    /// On Apple's systems this holds for a crash of the system, but for a power cut only if the drive keeps the order
    /// of its writes. The sync there is `fsync`. Its manual page says that "the drive itself may not physically write
    /// the data to the platters for quite some time and it may be written in an out-of-order sequence".
    /// `fcntl(F_BARRIERFSYNC)` would be right, but needs unsafe code. Use [`Full`](Self::Full) where it matters.
    Ordered,
    /// Nothing is synced: the write is atomic for other processes only. A crash may leave anything, an empty file for
    /// example.
    None,
}

/// How files are replaced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) durability: Durability,
    /// The exact mode of a new file. `None`: 0666 less the umask.
    pub(crate) new_file_mode: Option<u32>,
}
