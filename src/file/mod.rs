//! One file, looked up once, and its verbs, each under its own lock. Those that take a lock to keep are in `locking.rs`.

pub(crate) mod by_path;
pub(crate) mod guard;
pub(crate) mod locking;
pub(crate) mod resolved;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::file::resolved::{Resolved, place_to_lock};
use crate::lock::{Held, Home, Lock};
use crate::path::Place;
use crate::settings::Config;
use crate::sys::LockMode;

/// One file, looked up once: the fast path for a file that is used often. From [`AtomicFileAdapter::file`].
///
/// It holds two descriptors: the file's directory, through which every call goes, and its lock file. Cloning is
/// cheap and shares them. The path is not looked up again: if the directory is renamed, the handle goes with it, and
/// if a symbolic link on the way is changed, the handle stays. The directory need not exist yet; it is opened when
/// it first can be.
///
/// Its verbs take the lock themselves. For several steps under one lock, take a guard:
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let scratch = tempfile::tempdir()?;
/// # let adapter = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
/// # let path = scratch.path().join("counter");
/// let file = adapter.file(&path)?;
/// file.write("41")?;
///
/// let guard = file.lock()?; // exclusive: nobody reads or writes until it is dropped
/// let old: u32 = String::from_utf8(guard.read()?.unwrap_or_default())?.parse()?;
/// guard.write((old + 1).to_string())?;
/// drop(guard);
///
/// assert_eq!(file.read()?.as_deref(), Some(&b"42"[..]));
/// # Ok(())
/// # }
/// ```
///
/// [`AtomicFileAdapter::file`]: crate::AtomicFileAdapter::file
#[derive(Debug, Clone)]
pub struct AtomicFile(pub(crate) Arc<Resolved>);

impl AtomicFile {
    /// A handle with a lock of its own.
    pub(crate) fn new(config: &Arc<Config>, path: &Path) -> Result<Self> {
        let mut place = place_to_lock(config, path, |_| false)?;
        if place.is_on_nfs() {
            // Where the directory's path is not a plain one, opening it has not had the client ask the server: what it
            // remembers of the name may be another file or link. A directory that cannot be asked is gone, which the next
            // look finds.
            let _ = place.freshen(Home { device: 0, nfs: true });
            place = place_to_lock(config, path, |_| false)?;
            // So that its first lock counts, and no call has to find out.
            let _ = place.is_on_nfs();
        }
        let lock = Arc::new(Lock::of(&config.lock_dir, place.path())?);
        Ok(AtomicFile(Arc::new(Resolved { config: config.clone(), place, lock })))
    }

    /// The canonical path: absolute, without symbolic links.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let dir = scratch.path().canonicalize()?;
    /// let file = files.file(dir.join("some//where/./settings.toml"))?; // none of these exists yet
    /// assert_eq!(file.path(), dir.join("some/where/settings.toml"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn path(&self) -> &Path {
        self.0.place.path()
    }

    /// Where it is.
    pub(crate) fn place(&self) -> &Place {
        &self.0.place
    }

    /// The path of the lock file that guards this file.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let file = files.file(scratch.path().join("settings.toml"))?;
    /// let lock = file.lock_path();
    /// assert!(lock.starts_with(files.lock_dir()) && lock.extension().is_some_and(|it| it == "lock"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lock_path(&self) -> &Path {
        self.0.lock.path()
    }

    /// Reads the whole file under a shared lock. `None`: there is no such file.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let file = files.file(scratch.path().join("settings.toml"))?;
    /// assert_eq!(file.read()?, None);
    /// file.write("colour = 'red'\n")?;
    /// assert_eq!(file.read()?.as_deref(), Some(&b"colour = 'red'\n"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Besides system calls that fail: [`Error::NotRegularFile`], and [`Error::Timeout`], [`Error::Deadlock`] and
    /// [`Error::LockFileDenied`] of [`lock_shared`](Self::lock_shared). Whoever may not use the lock file has
    /// [`read_unlocked`](Self::read_unlocked).
    pub fn read(&self) -> Result<Option<Vec<u8>>> {
        self.under_lock(LockMode::Shared, |file, _| file.read())
    }

    /// Reads the whole file under a shared lock into `buf`, in place of what is in it, and returns the number of
    /// bytes. `None`: there is no such file, and `buf` is empty. Does not allocate if `buf` has room for one byte
    /// more than the file has.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let file = files.file(scratch.path().join("settings.toml"))?;
    /// # file.write("colour = 'red'\n")?;
    /// let mut buf = Vec::with_capacity(4096); // again and again the same one
    /// if let Some(len) = file.read_into(&mut buf)? {
    ///     assert_eq!(len, buf.len());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read). What is in `buf` after an error is not part of the promise.
    pub fn read_into(&self, buf: &mut Vec<u8>) -> Result<Option<usize>> {
        self.under_lock(LockMode::Shared, |file, _| file.read_into(buf))
    }

    /// Reads the whole file without the lock. `None`: there is no such file.
    ///
    /// No lock file is made or opened, and nobody is waited for, at the price of [`std::fs::read`] with a look before
    /// the file is opened: for programs that read often and need no more than some whole version, and for those that
    /// may read the file but not use its lock file ([`Error::LockFileDenied`]). It works while others hold the
    /// exclusive lock, this very thread included.
    ///
    /// It is one whole version, because whoever writes makes a new file and renames it over the old one
    /// ([rename(2)](https://man7.org/linux/man-pages/man2/rename.2.html): "there is no point at which another process
    /// attempting to access `newpath` will find it missing"). That rests on the writers: one that changes the file in
    /// place is seen in the middle of it. What the lock adds, and this does not have:
    ///
    /// * The version may not be durable yet. A writer syncs the directory after the rename, before it lets go of the
    ///   lock; a power cut in between brings the old version back, which a reader with the lock never sees after the
    ///   new one.
    /// * Several files may not fit together: a writer that holds the locks of all of them can be between the one and
    ///   the other.
    /// * What is decided by it may be out of date by then. To change the file, [`update`](Self::update) it.
    /// * On NFS a file that another machine replaces can be missing for a moment ([`open`](Self::open) says when), and
    ///   this very read, by which the old version is open, can be why for others.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let file = files.file(scratch.path().join("settings.toml"))?;
    /// file.write("colour = 'red'\n")?;
    /// let guard = file.lock()?; // keeps out whoever asks for the lock
    /// assert_eq!(file.read_unlocked()?.as_deref(), Some(&b"colour = 'red'\n"[..]));
    /// # drop(guard);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotRegularFile`], [`Error::InvalidPath`] for a hard link to a lock file that this process is using, or
    /// a system call failed.
    pub fn read_unlocked(&self) -> Result<Option<Vec<u8>>> {
        self.0.read()
    }

    /// Opens the current version under a shared lock, to read it piece by piece. `None`: there is no such file.
    ///
    /// The lock is free again when this returns. The open file stays what it is all the same, whole, because a
    /// write makes a new file and never changes an old one.
    ///
    /// On NFS, do not keep it open for longer than need be. NFS knows no open file without a name. So while a process
    /// of the machine that writes has the old version open, that machine's client renames it out of the way, to `.nfs`
    /// and a number, before it renames the new one into its place (`nfs_rename` in fs/nfs/dir.c calls `nfs_sillyrename`
    /// of fs/nfs/unlink.c). For that moment the file has no name, and who looks from another machine without the lock,
    /// by [`read_unlocked`](Self::read_unlocked) for example, is told that there is none. With the lock nobody sees it,
    /// because the writer holds that all the while; but should the writer be killed or its machine fail just then, the
    /// file stays missing, and the old version is what is called `.nfs`. Nothing that a writer can do keeps its client
    /// from it. [`read`](Self::read) has closed the file before it lets go of the lock, and does no harm.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let file = files.file(scratch.path().join("settings.toml"))?;
    /// use std::io::{BufRead, BufReader};
    ///
    /// file.write("first\nsecond\n")?;
    /// if let Some(version) = file.open()? {
    ///     file.write("all new\n")?; // the open version does not change
    ///     let lines = BufReader::new(version).lines().collect::<Result<Vec<_>, _>>()?;
    ///     assert_eq!(lines, ["first", "second"]);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn open(&self) -> Result<Option<File>> {
        self.under_lock(LockMode::Shared, |file, _| file.open())
    }

    /// Replaces the contents under an exclusive lock; makes the file, and the directories above it, if there are
    /// none.
    ///
    /// When this returns, every reader sees the new version, and with [`Durability::Full`] it survives a power cut. The
    /// file keeps its owner, group, mode, access control list, `user` attributes, label and capabilities where the
    /// system lets the writer set them. Where it does not, the new version lets in fewer than the old one did; the
    /// [crate's page](crate) has the details. Other names of it (hard links) keep the old version. That the file itself
    /// is read-only (mode 0444) does not keep it from being replaced; its directory must be writable.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let file = files.file(scratch.path().join("settings.toml"))?;
    /// file.write("colour = 'red'\n")?;
    /// file.write(b"colour = 'blue'\n")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Besides system calls that fail: [`Error::NotRegularFile`], [`Error::InvalidPath`] for a hard link to a lock file
    /// that this process is using, and [`Error::Timeout`], [`Error::Deadlock`] and [`Error::LockFileDenied`] of
    /// [`lock`](Self::lock). The file is what it was before, and no temporary file is left (unless removing it fails,
    /// too), except with [`Error::NotDurable`] and, on NFS, with an [`Error::LockLost`] that says `replaced`.
    /// Directories that were made for the file stay.
    ///
    /// [`Durability::Full`]: crate::Durability::Full
    pub fn write(&self, contents: impl AsRef<[u8]>) -> Result<()> {
        let contents = contents.as_ref();
        self.under_lock(LockMode::Exclusive, |file, held| file.write(held, contents))
    }

    /// Reads, changes and replaces the contents under one exclusive lock, so that no other update gets in between.
    /// `change` is given `None` if there is no file.
    ///
    /// `change` must not use this file through any other handle: the lock is taken, and asking for it again is
    /// [`Error::Deadlock`].
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let file = files.file(scratch.path().join("settings.toml"))?;
    /// # file.write("one\n")?;
    /// file.update(|old| [old.unwrap_or_default(), b"one line more\n"].concat())?;
    /// # assert_eq!(file.read()?.as_deref(), Some(&b"one\none line more\n"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn update(&self, change: impl FnOnce(Option<&[u8]>) -> Vec<u8>) -> Result<()> {
        self.try_update(|old| Ok(change(old)))
    }

    /// As [`update`](Self::update), with a `change` that can fail; then nothing has happened.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let file = files.file(scratch.path().join("settings.toml"))?;
    /// use std::error::Error;
    ///
    /// let count = |old: Option<&[u8]>| -> Result<Vec<u8>, Box<dyn Error>> {
    ///     let old: u32 = old.map_or(Ok(0), |old| std::str::from_utf8(old)?.parse().map_err(Box::<dyn Error>::from))?;
    ///     Ok((old + 1).to_string().into_bytes())
    /// };
    /// file.try_update(count)?;
    /// file.write("not a number")?;
    /// assert!(file.try_update(count).is_err());
    /// assert_eq!(file.read()?.as_deref(), Some(&b"not a number"[..])); // nothing has happened to it
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What `change` returns; otherwise as [`write`](Self::write).
    pub fn try_update<E: From<Error>>(
        &self,
        change: impl FnOnce(Option<&[u8]>) -> Result<Vec<u8>, E>,
    ) -> Result<(), E> {
        let (held, old) = self.0.locked(LockMode::Exclusive, &self.0.config.patience(), |file, _| file.read())?;
        self.0.update(held, old, change)
    }

    /// Removes the file under an exclusive lock. False: there was none. With [`Durability::Full`] it stays removed
    /// after a power cut.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let file = files.file(scratch.path().join("settings.toml"))?;
    /// file.write("colour = 'red'\n")?;
    /// assert!(file.delete()?);
    /// assert!(!file.delete()?); // there was none any more
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    ///
    /// [`Durability::Full`]: crate::Durability::Full
    pub fn delete(&self) -> Result<bool> {
        self.under_lock(LockMode::Exclusive, |file, held| file.delete(held))
    }

    fn under_lock<T>(&self, mode: LockMode, verb: impl FnOnce(&Resolved, &Held) -> Result<T>) -> Result<T> {
        let (held, done) = self.0.locked(mode, &self.0.config.patience(), verb)?;
        held.release();
        Ok(done)
    }
}
