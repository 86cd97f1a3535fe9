//! The verbs that take locks to keep: of one file, and of several in one order for all. They return guards.

use std::path::Path;
use std::time::Duration;

use crate::adapter::{AtomicFileAdapter, Config};
use crate::error::Result;
use crate::file::AtomicFile;
use crate::guard::{Guard, ReadGuard, WriteGuard};
use crate::lock::{self, Lock, Patience};
use crate::sys::LockMode;

impl AtomicFile {
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
    /// [`Error::Timeout`]: crate::Error::Timeout
    /// [`Error::Deadlock`]: crate::Error::Deadlock
    /// [`Error::Io`]: crate::Error::Io
    /// [fcntl_locking(2)]: https://man7.org/linux/man-pages/man2/fcntl_locking.2.html
    pub fn lock(&self) -> Result<WriteGuard> {
        self.acquire(LockMode::Exclusive, self.0.config.patience()).map(WriteGuard)
    }

    /// Takes the shared lock: others may hold it at the same time, writers not. Otherwise as [`lock`](Self::lock).
    ///
    /// Of the threads of a process, a reader waits for a writer that came before it, even while other readers are inside.
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
    /// [`Error::WouldBlock`]: crate::Error::WouldBlock
    /// [`Error::Io`]: crate::Error::Io
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

    fn acquire(&self, mode: LockMode, patience: Patience) -> Result<Guard> {
        Ok(Guard::new(self.0.lock.acquire(mode, patience)?, self.0.clone()))
    }
}

impl AtomicFileAdapter {
    /// Takes the exclusive locks of several files, or none of them. The guards are in the order of `paths`.
    ///
    /// The locks are taken in one order that is the same for all callers, so that two such calls are never in a
    /// deadlock with each other, whatever the order of `paths` and even where two paths are one file or share a lock
    /// file. The builder's `lock_timeout` is one limit for all of them together.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let [from, to] = ["from", "to"].map(|name| scratch.path().join(name));
    /// # files.write_atomic(&from, "goods")?;
    /// let guards = files.lock_many([&from, &to])?;
    /// guards[1].write(guards[0].read()?.unwrap_or_default())?;
    /// guards[0].delete()?;
    /// # assert_eq!(guards[1].read()?.as_deref(), Some(&b"goods"[..]));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`AtomicFile::lock`], or a path cannot be resolved. No lock is held then.
    pub fn lock_many<P: AsRef<Path>>(&self, paths: impl IntoIterator<Item = P>) -> Result<Vec<WriteGuard>> {
        lock_many(&self.config, &self.files(paths)?)
    }

    /// Takes the shared locks of several files, or none of them, in the order of [`lock_many`](Self::lock_many).
    ///
    /// Settings in layers, as a program that reads them: all files are locked before the first is read, so a program that
    /// changes two of them under [`lock_many`](Self::lock_many) is not seen between the two changes (unless it dies or
    /// fails there). To edit one, [`try_update`](Self::try_update) has an example. All programs need the same lock directory:
    /// here, those of one user.
    ///
    /// ```
    /// use std::collections::BTreeMap;
    /// use std::error::Error;
    /// use std::path::PathBuf;
    ///
    /// use atomic_file_adapter::AtomicFileAdapter;
    /// use toml_edit::{DocumentMut, Item};
    ///
    /// /// The defaults; over them the project's file, over that the user's, and the environment over all.
    /// fn load(files: &AtomicFileAdapter, layers: &[PathBuf]) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
    ///     let mut settings = BTreeMap::from([("colour".into(), "red".into()), ("size".into(), "3".into())]);
    ///     for guard in files.lock_many_shared(layers)? {
    ///         let Some(contents) = guard.read()? else { continue }; // no such layer
    ///         let layer: DocumentMut = String::from_utf8(contents)?.parse()?;
    ///         let strings = layer.iter().filter_map(|(name, item): (&str, &Item)| Some((name, item.as_str()?)));
    ///         settings.extend(strings.map(|(name, value)| (name.to_owned(), value.to_owned())));
    ///     }
    ///     let variables = std::env::vars_os().filter_map(|(name, value)| {
    ///         Some((name.to_str()?.strip_prefix("PAINT_")?.to_lowercase(), value.into_string().ok()?))
    ///     });
    ///     settings.extend(variables);
    ///     Ok(settings)
    /// }
    ///
    /// fn main() -> Result<(), Box<dyn Error>> {
    ///     # let scratch = tempfile::tempdir()?;
    ///     # let (project, home) = (scratch.path().join("project"), scratch.path().join("home"));
    ///     let files = AtomicFileAdapter::with_lock_dir(home.join(".local/state/paint/locks"))?;
    ///     let layers = [project.join("paint.toml"), home.join(".config/paint.toml")];
    ///     files.write_atomic(&layers[1], "colour = 'blue'\n")?;
    ///     let settings = load(&files, &layers)?;
    ///     assert_eq!((&*settings["colour"], &*settings["size"]), ("blue", "3"));
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`lock_many`](Self::lock_many).
    pub fn lock_many_shared<P: AsRef<Path>>(&self, paths: impl IntoIterator<Item = P>) -> Result<Vec<ReadGuard>> {
        Ok(acquire_many(&self.config, &self.files(paths)?, LockMode::Shared)?.map(ReadGuard).collect())
    }

    fn files<P: AsRef<Path>>(&self, paths: impl IntoIterator<Item = P>) -> Result<Vec<AtomicFile>> {
        paths.into_iter().map(|path| self.file(path)).collect()
    }
}

/// The exclusive locks of several files, in the order of `files`.
pub(crate) fn lock_many(config: &Config, files: &[AtomicFile]) -> Result<Vec<WriteGuard>> {
    Ok(acquire_many(config, files, LockMode::Exclusive)?.map(WriteGuard).collect())
}

fn acquire_many(config: &Config, files: &[AtomicFile], mode: LockMode) -> Result<impl Iterator<Item = Guard>> {
    let locks: Vec<&Lock> = files.iter().map(|file| &*file.0.lock).collect();
    let held = lock::acquire_all(&locks, mode, config.patience())?;
    Ok(files.iter().zip(held).map(|(file, held)| Guard::new(held, file.0.clone())))
}
