//! The verbs that take a lock and return a guard, and the locks of several files, which all callers take in the same
//! order.

use std::time::Duration;

use crate::error::Result;
use crate::file::AtomicFile;
use crate::file::guard::{Guard, ReadGuard, WriteGuard};
use crate::lock::{self, Lock, Patience};
use crate::settings::Config;
use crate::sys::LockMode;

impl AtomicFile {
    /// Takes the exclusive lock. Waits for as long as the adapter's `lock_timeout` says; by default without a limit, in
    /// `fcntl(F_SETLKW)` ([fcntl_locking(2)]).
    ///
    /// The threads of a process get the lock in the order in which they came. Between processes the kernel decides. A
    /// process that has had the lock for 10 ms waits for 0.07 ms before one of its threads takes it again, so that
    /// other processes have a chance.
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
    /// [`Error::Timeout`]; [`Error::LockFileDenied`]; [`Error::Deadlock`] if the calling thread already holds this
    /// lock, or if waiting would close a cycle; otherwise a system call failed ([`Error::Io`]).
    ///
    /// [`Error::Timeout`]: crate::Error::Timeout
    /// [`Error::Deadlock`]: crate::Error::Deadlock
    /// [`Error::LockFileDenied`]: crate::Error::LockFileDenied
    /// [`Error::Io`]: crate::Error::Io
    /// [fcntl_locking(2)]: https://man7.org/linux/man-pages/man2/fcntl_locking.2.html
    pub fn lock(&self) -> Result<WriteGuard> {
        self.acquire(LockMode::Exclusive, &self.0.config.patience()).map(WriteGuard)
    }

    /// Takes the shared lock: others may hold it at the same time, and nobody may hold the exclusive one. Otherwise as
    /// [`lock`](Self::lock).
    ///
    /// Within a process, a reader waits for a writer that came before it, even while other readers hold the lock. A
    /// thread that already holds the shared lock gets it once more at once, whoever waits. The lock is released with
    /// the thread's last guard. A thread that always takes the lock again before it releases it keeps writers out for
    /// ever.
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

    /// Takes the exclusive lock. Waits for `timeout` at most.
    ///
    /// F_SETLKW has no time limit ([fcntl_locking(2)]). So if another process holds the lock, the calling thread sleeps
    /// in this process, and a thread of this crate sleeps in F_SETLKW for it. That thread stands in the kernel's queue
    /// like any other waiter. Waiting takes no processor time, unless the kernel reports a deadlock
    /// ([limits](crate::docs::limits#threads-deadlocks-limits-on-waiting)). What this costs:
    ///
    /// * One thread for each lock file that is waited for in this way, for as long as another process holds the lock.
    ///   This includes the time after the limit, because F_SETLKW cannot be ended from outside. Callers that come
    ///   meanwhile are served by the same thread; readers that come beside a writer may have a second one. The lock
    ///   file stays open for that time. If nobody wants the lock any more when the thread gets it, the thread releases
    ///   it at once. Another process that only tries at that moment finds it taken.
    /// * There are at most 64 such threads. Beyond that, and where the system allows no more threads, the call asks
    ///   again and again (F_SETLK), in the end every 2 ms, and may lose against processes that come and go.
    /// * A program with one thread has two for that time. Some system calls care about this, for example unshare(2)
    ///   with CLONE_NEWUSER. A child made by fork(2) has no such thread, and does not need it.
    /// * The thread blocks the signals that the caller blocks at that moment, and therefore takes others
    ///   ([pthreads(7)]: a signal for the process goes to any thread that does not block it). A program that waits for
    ///   signals by sigwait(3) or signalfd(2) must block them before it waits for a lock with a limit.
    ///
    /// A call that need not wait for another process pays for none of this.
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

    /// Takes the shared lock. Waits for `timeout` at most. See [`lock_timeout`](Self::lock_timeout).
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

    /// Takes the exclusive lock if it is free. Waits for no holder, but for 20 ms at most for a lock that is about to
    /// be released.
    ///
    /// A cron job that must not run twice at the same time, however long it takes. If it is killed, its lock is free,
    /// and nobody has to clean anything up. The programs that it starts do not inherit the lock ([fcntl_locking(2)]): a
    /// child that survives a killed job keeps nobody out.
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
    /// [`Error::WouldBlock`] if a thread or process holds the lock (this thread included), or if another thread of this
    /// process is taking it or waits for it; otherwise a system call failed ([`Error::Io`]).
    ///
    /// [`Error::WouldBlock`]: crate::Error::WouldBlock
    /// [`Error::Io`]: crate::Error::Io
    /// [fcntl_locking(2)]: https://man7.org/linux/man-pages/man2/fcntl_locking.2.html
    pub fn try_lock(&self) -> Result<WriteGuard> {
        self.acquire(LockMode::Exclusive, &Patience::none()).map(WriteGuard)
    }

    /// Takes the shared lock if nobody holds the exclusive one. Waits for no holder, as [`try_lock`](Self::try_lock).
    /// It also succeeds if the calling thread already holds the shared lock, as [`lock_shared`](Self::lock_shared)
    /// does.
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
    // A path may occur twice. A temporary file that one of its guards is writing must not be swept for the other.
    for lock in &locks {
        lock.take_first_write();
    }
    // After all locks are taken: while the call waited for one, the directory of another may have changed.
    files.iter().zip(&held).try_for_each(|(file, held)| file.place().freshen(held.home()))?;
    Ok(files.iter().zip(held).map(|(file, held)| Guard::new(held, file.0.clone())))
}
