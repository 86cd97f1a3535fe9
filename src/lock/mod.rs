//! Taking and releasing the lock of a path: the lock file, this process's table, and the kernel's record lock.

mod dir;
mod name;
mod process;
mod table;

use std::ffi::CString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use self::dir::LockDir;
use self::dir::c_path;
use self::name::lock_name;
pub(crate) use self::name::path_hash;
use self::process::Process;
pub(crate) use self::table::Wait;
use self::table::{Key, Refusal, Thread};
use crate::error::{Error, Result, Step};
use crate::sys::{self, Errno, Holder, LockMode};

/// The lock of one path.
#[derive(Debug)]
pub(crate) struct Lock {
    dir: Arc<LockDir>,
    /// The path of the lock file.
    path: PathBuf,
    file: CString,
    /// The path that it guards.
    guarded: Arc<Path>,
    /// The process that made this; a child of it must not touch `entered`, which another thread may have been
    /// using at the time of the fork.
    process: &'static Process,
    entered: Mutex<Option<Entered>>,
}

impl Lock {
    /// The lock of a canonical path.
    pub(crate) fn of(dir: &Arc<LockDir>, canonical: &Arc<Path>) -> Result<Self> {
        Self::new(dir, dir.path().join(lock_name(canonical)), canonical.clone())
    }

    fn new(dir: &Arc<LockDir>, path: PathBuf, guarded: Arc<Path>) -> Result<Self> {
        let file = c_path(&path)?;
        let process = Process::current();
        Ok(Lock { dir: dir.clone(), path, file, guarded, process, entered: Mutex::new(None) })
    }

    /// The path of the lock file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the lock for the calling thread, waiting for `timeout` at the most if there is one.
    pub(crate) fn acquire(&self, mode: LockMode, timeout: Option<Duration>) -> Result<Held> {
        // A deadline beyond the clock's end is none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let wait = deadline.map_or(Wait::Forever, Wait::Until);
        self.take(mode, wait, timeout.unwrap_or_default())
    }

    /// Takes the lock if it is free.
    pub(crate) fn try_acquire(&self, mode: LockMode) -> Result<Held> {
        self.take(mode, Wait::Never, Duration::ZERO)
    }

    fn take(&self, mode: LockMode, wait: Wait, timeout: Duration) -> Result<Held> {
        let process = Process::current();
        let thread = this_thread();
        loop {
            let (key, _entered) = self.enter(process)?;
            match process.table.acquire(key, mode, wait, thread, &self.guarded) {
                Ok(()) => {}
                Err(Refusal::Gone) => {
                    self.forget(process);
                    continue;
                }
                Err(refusal) => return Err(self.refused(refusal, process, key, mode, timeout)),
            }
            let held = Held { process, key, thread, guarded: self.guarded.clone() };
            // The file may have been pruned while we waited, and the next caller would lock another one.
            if self.dir.identify(&self.file)? == Some(key) {
                return Ok(held);
            }
            drop(held);
            self.forget(process);
        }
    }

    /// The lock file in the table of `process`. What comes with the key keeps it there, if this does not.
    fn enter(&self, process: &'static Process) -> Result<(Key, Option<Entered>)> {
        let enter = || {
            let key = process.table.enter(|| self.dir.identify(&self.file), || self.dir.open(&self.file))?;
            Ok(Entered { process, key })
        };
        if !std::ptr::eq(process, self.process) {
            let entered = enter()?;
            return Ok((entered.key, Some(entered)));
        }
        let mut mine = self.entered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entered) = &*mine {
            return Ok((entered.key, None));
        }
        Ok((mine.insert(enter()?).key, None))
    }

    fn forget(&self, process: &'static Process) {
        if std::ptr::eq(process, self.process) {
            *self.entered.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    fn refused(
        &self,
        refusal: Refusal<Errno>,
        process: &'static Process,
        key: Key,
        mode: LockMode,
        timeout: Duration,
    ) -> Error {
        let (path, lock) = (self.guarded.to_path_buf(), self.path.clone());
        match refusal {
            Refusal::WouldBlock | Refusal::Gone => Error::WouldBlock { path, lock },
            Refusal::TimedOut(by_thread) => {
                let elsewhere = || process.table.with_file(key, |file| sys::holder(file.as_fd(), mode));
                let holder = if by_thread { Some(sys::pid()) } else { elsewhere().and_then(|found| found.ok()??.pid) };
                Error::Timeout { path, lock, waited: timeout, holder }
            }
            Refusal::Deadlock(held) => {
                Error::Deadlock { path, held: held.iter().map(|held| held.to_path_buf()).collect() }
            }
            // The descriptor is read-only: see `LockDir::open`.
            Refusal::Kernel(Errno::BADF) => Error::io(&self.path, Step::OpenLock, Errno::ACCESS),
            Refusal::Kernel(error) => Error::io(&self.guarded, Step::Lock, error),
        }
    }
}

/// A lock that is held. Dropping it releases it.
#[derive(Debug)]
pub(crate) struct Held {
    process: &'static Process,
    key: Key,
    thread: Thread,
    guarded: Arc<Path>,
}

impl Held {
    /// An error in a child made by fork, which has a copy of this and no lock.
    pub(crate) fn check(&self) -> Result<()> {
        if self.process.is_current() { Ok(()) } else { Err(Error::Forked { path: self.guarded.to_path_buf() }) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.process.is_current() {
            self.process.table.release(self.key, self.thread);
        }
    }
}

/// A user of a lock file in the table, until it is dropped.
#[derive(Debug)]
struct Entered {
    process: &'static Process,
    key: Key,
}

impl Drop for Entered {
    fn drop(&mut self) {
        if self.process.is_current() {
            self.process.table.leave(self.key);
        }
    }
}

/// A number of its own for every thread of this process.
fn this_thread() -> Thread {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    thread_local!(static THIS: u64 = NEXT.fetch_add(1, Relaxed));
    THIS.with(|this| *this)
}

/// All lock files, and of those that are held, how and by whom.
pub(crate) fn list(dir: &Arc<LockDir>) -> Result<Vec<(PathBuf, Option<Holder>)>> {
    let process = Process::current();
    let mut found = Vec::new();
    for path in dir.list()? {
        let file = c_path(&path)?;
        let failed = |error| Error::io(&path, Step::OpenLock, error);
        // Through the table, because closing a descriptor of our own would drop the locks that this process holds.
        let gone = || Error::io(&path, Step::OpenLock, Errno::NOENT);
        let entered = process.table.enter(|| dir.identify(&file), || dir.open_existing(&file)?.ok_or_else(gone));
        let entered = match entered {
            Ok(key) => Entered { process, key },
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let holder = match process.table.held(entered.key) {
            Some(mode) => Some(Holder { mode, pid: Some(sys::pid()) }),
            None => process
                .table
                .with_file(entered.key, |file| sys::holder(file.as_fd(), LockMode::Exclusive))
                .transpose()
                .map_err(failed)?
                .flatten(),
        };
        found.push((path, holder));
    }
    Ok(found)
}
