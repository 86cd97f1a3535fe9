//! The verbs that take a lock to keep, and the locks of several files in one order for all. They return guards.

use std::time::Duration;

use crate::error::Result;
use crate::file::AtomicFile;
use crate::file::guard::{Guard, ReadGuard, WriteGuard};
use crate::lock::{self, Lock, Patience};
use crate::settings::Config;
use crate::sys::LockMode;

impl AtomicFile {
    /// Takes the exclusive lock, waiting for as long as the adapter's `lock_timeout` says (by default, for ever, in
    /// `fcntl(F_SETLKW)`: [fcntl_locking(2)]).
    ///
    /// Of the threads of a process, those that wait go in in the order in which they came. Between processes the kernel
    /// decides; one that has had the lock for 10 ms lets the others have a chance (0.07 ms) before one of its threads
    /// takes it again.
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
    /// [`Error::Timeout`]; [`Error::LockFileDenied`]; [`Error::Deadlock`] if the calling thread holds this lock
    /// already, or if waiting would close a cycle; otherwise a system call failed ([`Error::Io`]).
    ///
    /// [`Error::Timeout`]: crate::Error::Timeout
    /// [`Error::Deadlock`]: crate::Error::Deadlock
    /// [`Error::LockFileDenied`]: crate::Error::LockFileDenied
    /// [`Error::Io`]: crate::Error::Io
    /// [fcntl_locking(2)]: https://man7.org/linux/man-pages/man2/fcntl_locking.2.html
    pub fn lock(&self) -> Result<WriteGuard> {
        self.acquire(LockMode::Exclusive, &self.0.config.patience()).map(WriteGuard)
    }

    /// Takes the shared lock: others may hold it at the same time, writers not. Otherwise as [`lock`](Self::lock).
    ///
    /// Of the threads of a process, a reader waits for a writer that came before it, even while other readers are
    /// inside. A thread that holds the shared lock already gets it once more at once, whoever waits; it is let go with
    /// the last guard. A thread that always takes it again before it lets go keeps writers out for ever.
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
    /// As [`lock`](Self::lock), but [`Error::Deadlock`](crate::Error::Deadlock) only if the calling thread holds the
    /// exclusive lock, or if waiting would close a cycle.
    pub fn lock_shared(&self) -> Result<ReadGuard> {
        self.acquire(LockMode::Shared, &self.0.config.patience()).map(ReadGuard)
    }

    /// Takes the exclusive lock, waiting for `timeout` at the most.
    ///
    /// F_SETLKW knows no limit ([fcntl_locking(2)]). So if another process is in the way, the call sleeps in this
    /// process, and a thread of the crate's own sleeps in F_SETLKW for it: it stands in the kernel's queue like
    /// everybody else, and to wait takes no processor's time, unless the kernel sees a deadlock ([the crate's
    /// page](crate)). What that costs:
    ///
    /// * One thread a lock file that is waited for in this way, for as long as another process holds it: also after the
    ///   time limit, because F_SETLKW cannot be ended from outside. Whoever comes meanwhile is served by the same
    ///   thread; readers that come beside a writer may have a second. The lock file stays open for so long. When nobody
    ///   wants the lock any more it is let go at once, and somebody else who tries it at that moment finds it taken.
    /// * There are 64 such threads at the most. Beyond that, and where the system allows no more threads, the call asks
    ///   again and again (F_SETLK), every 2 ms in the end, and may lose against processes that come and go.
    /// * A program that has one thread has two for that time, which some calls care about (unshare(2) with
    ///   CLONE_NEWUSER, for example). A child made by fork(2) has no such thread, and does not need it.
    /// * The thread blocks the signals that the caller blocks at that moment, and so takes others ([pthreads(7)]: a
    ///   signal for the process goes to any thread that does not block it). A program that waits for signals by
    ///   sigwait(3) or signalfd(2) blocks them before it waits for a lock with a limit.
    ///
    /// Nothing of this is paid by a call that need not wait for another process.
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
    /// [pthreads(7)]: https://man7.org/linux/man-pages/man7/pthreads.7.html
    pub fn lock_timeout(&self, timeout: Duration) -> Result<WriteGuard> {
        self.acquire(LockMode::Exclusive, &self.0.config.patience_for(timeout)).map(WriteGuard)
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
        self.acquire(LockMode::Shared, &self.0.config.patience_for(timeout)).map(ReadGuard)
    }

    /// Takes the exclusive lock if it is free, and waits for no holder: for 20 ms at the most for what is about to be free.
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
    /// [`Error::WouldBlock`] if somebody holds the lock, this thread included, or another thread of this process is
    /// taking it or waits for it; otherwise a system call failed ([`Error::Io`]).
    ///
    /// [`Error::WouldBlock`]: crate::Error::WouldBlock
    /// [`Error::Io`]: crate::Error::Io
    /// [fcntl_locking(2)]: https://man7.org/linux/man-pages/man2/fcntl_locking.2.html
    pub fn try_lock(&self) -> Result<WriteGuard> {
        self.acquire(LockMode::Exclusive, &Patience::none()).map(WriteGuard)
    }

    /// Takes the shared lock if nobody holds the exclusive one, and waits for no holder, as
    /// [`try_lock`](Self::try_lock) does. Also if the calling thread holds the shared one already, as
    /// [`lock_shared`](Self::lock_shared) does.
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
        self.acquire(LockMode::Shared, &Patience::none()).map(ReadGuard)
    }

    fn acquire(&self, mode: LockMode, patience: &Patience<'_>) -> Result<Guard> {
        Ok(Guard::new(self.0.acquire(mode, patience)?, self.0.clone()))
    }
}

/// The exclusive locks of several files, in the order of `files`.
pub(crate) fn lock_many(config: &Config, files: &[AtomicFile]) -> Result<Vec<WriteGuard>> {
    Ok(acquire_many(config, files, LockMode::Exclusive)?.map(WriteGuard).collect())
}

/// The shared locks of several files, in the order of `files`.
pub(crate) fn lock_many_shared(config: &Config, files: &[AtomicFile]) -> Result<Vec<ReadGuard>> {
    Ok(acquire_many(config, files, LockMode::Shared)?.map(ReadGuard).collect())
}

fn acquire_many(config: &Config, files: &[AtomicFile], mode: LockMode) -> Result<impl Iterator<Item = Guard>> {
    let locks: Vec<&Lock> = files.iter().map(|file| &*file.0.lock).collect();
    let held = lock::acquire_all(&locks, mode, &config.patience())?;
    // When all are held, because while one was waited for the directory of another may have changed.
    files.iter().zip(&held).try_for_each(|(file, held)| file.place().freshen(held.home()))?;
    Ok(files.iter().zip(held).map(|(file, held)| Guard::new(held, file.0.clone())))
}
