//! One file, looked up once, and its verbs, each under its own lock. The verbs that return a guard are in `locking.rs`.

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

/// One file, looked up once: the fast way to use a file often. [`AtomicFileAdapter::file`] returns it.
///
/// It holds two descriptors: the file's directory, through which every call goes, and its lock file. A clone is cheap
/// and shares them. The path is not looked up again: if the directory is renamed, the handle goes with it; if a
/// symbolic link in the path is changed, the handle stays where it is. The directory need not exist yet: the handle
/// opens it when it exists.
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
    pub(crate) fn new(config: &Arc<Config>, path: &Path) -> Result<Self> {
        let mut place = place_to_lock(config, path, |_| false)?;
        if place.is_on_nfs() {
            // If the directory's path has links or `..`, opening it did not make the NFS client ask the server. The
            // cached name may lead to another file or link by now. An error is ignored: then the directory is gone, and
            // the next look finds that out.
            let _ = place.freshen(Home { device: 0, nfs: true });
            place = place_to_lock(config, path, |_| false)?;
            // Found out here, so that no later call, not even the first, has to.
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
    /// [`Error::NotRegularFile`]; [`Error::Timeout`], [`Error::Deadlock`] and [`Error::LockFileDenied`] as from
    /// [`lock_shared`](Self::lock_shared); or a system call failed. A caller that may not use the lock file can use
    /// [`read_unlocked`](Self::read_unlocked).
    pub fn read(&self) -> Result<Option<Vec<u8>>> {
        self.under_lock(LockMode::Shared, |file, _| file.read())
    }

    /// Reads the whole file under a shared lock into `buf`, replaces what is in `buf`, and returns the number of bytes.
    /// `None`: there is no such file, and `buf` is empty. It does not allocate if `buf` has room for one byte more than
    /// the file has.
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
    /// As [`read`](Self::read). After an error, the contents of `buf` are not specified.
    pub fn read_into(&self, buf: &mut Vec<u8>) -> Result<Option<usize>> {
        self.under_lock(LockMode::Shared, |file, _| file.read_into(buf))
    }

    /// Reads the whole file without the lock. `None`: there is no such file.
    ///
    /// It makes and opens no lock file, and waits for nobody. It costs what [`std::fs::read`] costs, and one look
    /// before the file is opened. It is for programs that read often and need no more than some complete version, and
    /// for programs that may read the file but not use its lock file ([`Error::LockFileDenied`]). It works while
    /// another thread or process, or this thread itself, holds the exclusive lock.
    ///
    /// It returns one complete version, because a writer makes a new file and renames it over the old one
    /// ([rename(2)](https://man7.org/linux/man-pages/man2/rename.2.html): "there is no point at which another process
    /// attempting to access `newpath` will find it missing"). This depends on the writers: if a program changes the
    /// file in place, a reader may see a part of the change. With the lock, you also get this:
    ///
    /// * A durable version. A writer syncs the directory after the rename, before it releases the lock. A power cut in
    ///   between brings the old version back. A reader with the lock never sees the old version after the new one.
    /// * Several files that fit together. A writer that holds the locks of all of them may have written one and not yet
    ///   the other.
    /// * A version that is still the current one when you act on it. To change the file, [`update`](Self::update) it.
    /// * On NFS, a file that is always there. If another machine replaces a file, it can be missing for a moment
    ///   ([`open`](Self::open) says when). And this read, which has the old version open, can be the reason why it is
    ///   missing for others.
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
    /// [`Error::NotRegularFile`]; [`Error::InvalidPath`] for a hard link to a lock file that this process is using; or
    /// a system call failed.
    pub fn read_unlocked(&self) -> Result<Option<Vec<u8>>> {
        self.0.read()
    }

    /// Opens the current version under a shared lock, to read it piece by piece. `None`: there is no such file.
    ///
    /// The lock is released before this returns. The open file still keeps one complete version, because a write makes
    /// a new file and never changes an old one.
    ///
    /// On NFS, do not keep it open for longer than necessary. NFS has no open files without a name. So if a process on
    /// the writer's machine has the old version open, the client of that machine renames it to `.nfs` and a number,
    /// before it renames the new version into its place (`nfs_rename` in fs/nfs/dir.c calls `nfs_sillyrename` of
    /// fs/nfs/unlink.c). For that moment the file has no name, and a reader on another machine that takes no lock, for
    /// example by [`read_unlocked`](Self::read_unlocked), finds no file. A reader with the lock does not see this,
    /// because the writer holds the lock all the time. But if the writer is killed or its machine fails just then, the
    /// file stays missing, and the old version is the one called `.nfs`. A writer cannot prevent this.
    /// [`read`](Self::read) closes the file before it releases the lock, and does no harm.
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

    /// Replaces the contents under an exclusive lock. If there is no file, it makes the file and the directories above
    /// it.
    ///
    /// When this returns, every reader sees the new version, and with [`Durability::Full`] it survives a power cut. The
    /// file keeps its owner, group, mode, access control list, `user` attributes, label and capabilities, where the
    /// system lets the writer set them. Where it does not, the new version lets in fewer people than the old one;
    /// [limits](crate::docs::limits#several-users-and-people-you-do-not-trust) has the details. Other names of the file
    /// (hard links) keep the old version. A file that is read-only (mode 0444) is replaced all the same; its directory
    /// must be writable.
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
    /// [`Error::NotRegularFile`]; [`Error::InvalidPath`] for a hard link to a lock file that this process is using;
    /// [`Error::Timeout`], [`Error::Deadlock`] and [`Error::LockFileDenied`] as from [`lock`](Self::lock); or a system
    /// call failed. The file is unchanged, and no temporary file is left (unless removing it fails, too), except with
    /// [`Error::NotDurable`], and on NFS with an [`Error::LockLost`] that says `replaced`. Directories that were made
    /// for the file stay.
    ///
    /// [`Durability::Full`]: crate::Durability::Full
    pub fn write(&self, contents: impl AsRef<[u8]>) -> Result<()> {
        let contents = contents.as_ref();
        self.under_lock(LockMode::Exclusive, |file, held| file.write(held, contents))
    }

    /// Reads, changes and replaces the contents under one exclusive lock, so no update of others is lost. `change` gets
    /// `None` if there is no file.
    ///
    /// `change` must not use this file through another handle: this thread holds the lock already, and to ask for it
    /// again is [`Error::Deadlock`].
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

    /// As [`update`](Self::update), with a `change` that can fail. If it fails, the file is unchanged.
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

    /// Removes the file under an exclusive lock. `false`: there was no such file. With [`Durability::Full`] the file stays
    /// absent after a power cut, whatever this returned: another call may have removed it, and may have failed or died before
    /// that was durable. So the directory is synced in either case.
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
    /// As [`write`](Self::write). On a read-only file system that is an error with `Full` even if there is no such file:
    /// it may have become read-only because its device has failed, with the removal lost.
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
