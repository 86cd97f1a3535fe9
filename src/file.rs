//! One resolved file, and its verbs, each under its lock.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::adapter::Config;
use crate::error::{Error, Result};
use crate::guard::{Guard, ReadGuard, WriteGuard};
use crate::lock::{self, Held, Lock, Patience, is_like_lock_name};
use crate::path::Place;
use crate::read;
use crate::replace::{Replacement, remove};
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
pub struct AtomicFile(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    config: Arc<Config>,
    place: Place,
    lock: Arc<Lock>,
}

impl AtomicFile {
    /// A handle with a lock of its own.
    pub(crate) fn new(config: &Arc<Config>, path: &Path) -> Result<Self> {
        Self::with_lock(config, path, |place| Ok(Arc::new(Lock::of(&config.lock_dir, place.path())?)))
    }

    /// A handle for one use.
    pub(crate) fn once(config: &Arc<Config>, path: &Path) -> Result<Self> {
        Self::with_lock(config, path, |place| config.recent.lock_of(&config.lock_dir, place.path()))
    }

    fn with_lock(config: &Arc<Config>, path: &Path, lock: impl FnOnce(&Place) -> Result<Arc<Lock>>) -> Result<Self> {
        let place = Place::resolve(path)?;
        // By its name first, which costs nothing.
        if is_like_lock_name(place.name().to_bytes()) && place.dir()?.is_some_and(|dir| config.lock_dir.is(dir.as_fd()))
        {
            return Err(Error::InvalidPath { path: path.to_owned(), reason: "it is one of the adapter's lock files" });
        }
        let lock = lock(&place)?;
        Ok(AtomicFile(Arc::new(Inner { config: config.clone(), place, lock })))
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
    /// Besides system calls that fail: [`Error::NotRegularFile`], and [`Error::Timeout`] and [`Error::Deadlock`] of
    /// [`lock_shared`](Self::lock_shared).
    pub fn read(&self) -> Result<Option<Vec<u8>>> {
        self.under_lock(LockMode::Shared, |_| self.0.read())
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
        self.under_lock(LockMode::Shared, |_| self.0.read_into(buf))
    }

    /// Opens the current version under a shared lock, to read it piece by piece. `None`: there is no such file.
    ///
    /// The lock is free again when this returns. The open file stays what it is all the same, whole, because a
    /// write makes a new file and never changes an old one.
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
        self.under_lock(LockMode::Shared, |_| self.0.open())
    }

    /// Replaces the contents under an exclusive lock; makes the file, and the directories above it, if there are
    /// none.
    ///
    /// When this returns, every reader sees the new version, and with [`Durability::Full`] it survives a power cut.
    /// The file keeps its mode, and its owner and group where the system allows that; other names of it (hard
    /// links) keep the old version. Access control lists and extended attributes are not carried over. That the
    /// file itself is read-only (mode 0444) does not keep it from being replaced; its directory must be writable.
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
    /// Besides system calls that fail: [`Error::NotRegularFile`], and [`Error::Timeout`] and [`Error::Deadlock`] of
    /// [`lock`](Self::lock). The file is what it was before, and no temporary file is left (unless removing it fails, too),
    /// except with [`Error::NotDurable`]. Directories that were made for the file stay.
    ///
    /// [`Durability::Full`]: crate::Durability::Full
    pub fn write(&self, contents: impl AsRef<[u8]>) -> Result<()> {
        let contents = contents.as_ref();
        self.under_lock(LockMode::Exclusive, |held| self.0.writer(held, false)?.put_all(contents))
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
        let guard = self.lock()?;
        let old = guard.read()?;
        let new = change(old.as_deref())?;
        Ok(guard.write(new)?)
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
        self.under_lock(LockMode::Exclusive, |_| self.0.delete())
    }

    /// Takes the exclusive lock, waiting for as long as the adapter's `lock_timeout` says (by default, for ever, in
    /// `fcntl(F_SETLKW)`: [fcntl_locking(2)]).
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let file = files.file(scratch.path().join("settings.toml"))?;
    /// # file.write("colour = 'red'\n")?;
    /// let guard = file.lock()?;
    /// if guard.read()?.is_some_and(|old| old.starts_with(b"colour")) {
    ///     guard.write("color = 'red'\n")?;
    /// } // and here the lock is free again
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`]; [`Error::Deadlock`] if the calling thread holds this lock already, or if waiting would
    /// close a cycle; otherwise a system call failed ([`Error::Io`]).
    ///
    /// [fcntl_locking(2)]: https://man7.org/linux/man-pages/man2/fcntl_locking.2.html
    pub fn lock(&self) -> Result<WriteGuard> {
        self.acquire(LockMode::Exclusive, self.0.config.patience()).map(WriteGuard)
    }

    /// Takes the shared lock: others may hold it at the same time, writers not. Otherwise as [`lock`](Self::lock).
    ///
    /// The threads of a process are admitted in the order in which they came, so a reader waits for a writer that came
    /// before it, even while other readers are inside.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let file = files.file(scratch.path().join("settings.toml"))?;
    /// let guard = file.lock_shared()?;
    /// let before = guard.read()?;
    /// // However long this takes, nobody replaces the file.
    /// assert_eq!(guard.read()?, before);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    pub fn lock_shared(&self) -> Result<ReadGuard> {
        self.acquire(LockMode::Shared, self.0.config.patience()).map(ReadGuard)
    }

    /// Takes the exclusive lock, waiting for `timeout` at the most.
    ///
    /// A wait with a limit asks the kernel again and again (F_SETLK), at least every 2 ms, because F_SETLKW knows no limit:
    /// [fcntl_locking(2)]. It takes no part in the kernel's search for deadlocks.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let file = files.file(scratch.path().join("settings.toml"))?;
    /// use std::time::Duration;
    ///
    /// use atomic_file_adapter::Error;
    ///
    /// match file.lock_timeout(Duration::from_millis(500)) {
    ///     Ok(guard) => guard.write("mine")?,
    ///     // Of a process, where the system can tell.
    ///     Err(Error::Timeout { holder, .. }) => eprintln!("process {holder:?} does not let go"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    ///
    /// [fcntl_locking(2)]: https://man7.org/linux/man-pages/man2/fcntl_locking.2.html
    pub fn lock_timeout(&self, timeout: Duration) -> Result<WriteGuard> {
        self.acquire(LockMode::Exclusive, Patience::new(Some(timeout))).map(WriteGuard)
    }

    /// Takes the shared lock, waiting for `timeout` at the most. See [`lock_timeout`](Self::lock_timeout).
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let file = files.file(scratch.path().join("settings.toml"))?;
    /// use std::time::Duration;
    ///
    /// let guard = file.lock_shared_timeout(Duration::from_secs(1))?;
    /// # drop(guard);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    pub fn lock_shared_timeout(&self, timeout: Duration) -> Result<ReadGuard> {
        self.acquire(LockMode::Shared, Patience::new(Some(timeout))).map(ReadGuard)
    }

    /// Takes the exclusive lock if it is free, without waiting.
    ///
    /// A cron job that must not run twice at a time, however long it takes. If it is killed its lock is free, and nothing
    /// stays behind that somebody has to clear away. What it starts does not inherit the lock ([fcntl_locking(2)]): a child
    /// that outlives a killed job keeps nobody out.
    ///
    /// ```
    /// use std::error::Error;
    /// use std::process::Command;
    /// use std::time::{SystemTime, UNIX_EPOCH};
    ///
    /// use atomic_file_adapter::AtomicFileAdapter;
    ///
    /// fn main() -> Result<(), Box<dyn Error>> {
    ///     # let scratch = tempfile::tempdir()?;
    ///     # let state = scratch.path();
    ///     let files = AtomicFileAdapter::with_lock_dir(state.join("locks"))?;
    ///     let job = files.file(state.join("backup"))?; // there need not be such a file
    ///     let _guard = match job.try_lock() {
    ///         Err(atomic_file_adapter::Error::WouldBlock { .. }) => {
    ///             eprintln!("the one before is still at work");
    ///             return Ok(());
    ///         }
    ///         taken => taken?,
    ///     };
    ///     if Command::new("true").status()?.success() {
    ///         let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    ///         files.write_atomic(state.join("last-run"), now.to_string())?;
    ///     }
    ///     # assert!(job.try_lock().is_err());
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::WouldBlock`] if somebody holds the lock, or another thread of this process is taking it or waits for it;
    /// otherwise a system call failed ([`Error::Io`]).
    ///
    /// [fcntl_locking(2)]: https://man7.org/linux/man-pages/man2/fcntl_locking.2.html
    pub fn try_lock(&self) -> Result<WriteGuard> {
        self.acquire(LockMode::Exclusive, Patience::NONE).map(WriteGuard)
    }

    /// Takes the shared lock if nobody holds the exclusive one, without waiting.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let file = files.file(scratch.path().join("settings.toml"))?;
    /// use atomic_file_adapter::Error;
    ///
    /// match file.try_lock_shared() {
    ///     Ok(guard) => println!("{:?}", guard.read()?),
    ///     Err(Error::WouldBlock { .. }) => println!("somebody writes, or is about to"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`try_lock`](Self::try_lock).
    pub fn try_lock_shared(&self) -> Result<ReadGuard> {
        self.acquire(LockMode::Shared, Patience::NONE).map(ReadGuard)
    }

    /// One of our own verbs under the lock. No code of a caller runs in it that could fork, so it need not look whether it
    /// is still in the process that took the lock.
    fn under_lock<T>(&self, mode: LockMode, verb: impl FnOnce(&Held) -> Result<T>) -> Result<T> {
        let held = self.0.lock.acquire(mode, self.0.config.patience())?;
        let result = verb(&held);
        held.release();
        result
    }

    fn acquire(&self, mode: LockMode, patience: Patience) -> Result<Guard> {
        Ok(Guard::new(self.0.lock.acquire(mode, patience)?, self.0.clone()))
    }
}

/// The exclusive locks of several files, in the order of `files`.
pub(crate) fn lock_many(config: &Config, files: &[AtomicFile]) -> Result<Vec<WriteGuard>> {
    Ok(acquire_many(config, files, LockMode::Exclusive)?.map(WriteGuard).collect())
}

/// The shared locks of several files.
pub(crate) fn lock_many_shared(config: &Config, files: &[AtomicFile]) -> Result<Vec<ReadGuard>> {
    Ok(acquire_many(config, files, LockMode::Shared)?.map(ReadGuard).collect())
}

fn acquire_many(config: &Config, files: &[AtomicFile], mode: LockMode) -> Result<impl Iterator<Item = Guard>> {
    let locks: Vec<&Lock> = files.iter().map(|file| &*file.0.lock).collect();
    let held = lock::acquire_all(&locks, mode, config.patience())?;
    Ok(files.iter().zip(held).map(|(file, held)| Guard::new(held, file.0.clone())))
}

/// What can be done while the lock is held.
impl Inner {
    pub(crate) fn read(&self) -> Result<Option<Vec<u8>>> {
        let mut contents = Vec::new();
        Ok(self.read_into(&mut contents)?.map(|_| contents))
    }

    pub(crate) fn read_into(&self, buf: &mut Vec<u8>) -> Result<Option<usize>> {
        read::read_into(&self.place, buf)
    }

    pub(crate) fn open(&self) -> Result<Option<File>> {
        read::open(&self.place)
    }

    pub(crate) fn writer<'lock>(&'lock self, held: &'lock Held, anew: bool) -> Result<Replacement<'lock>> {
        Replacement::begin(held, &self.place, self.config.replace, anew)
    }

    pub(crate) fn delete(&self) -> Result<bool> {
        remove(&self.place, self.config.replace)
    }
}
