//! Taking and releasing the lock of a path: the lock file, this process's table, and the kernel's record lock.

mod dir;
mod process;
mod recent;
mod table;
pub(crate) mod upkeep;

/// What the table is built on. `tests/table_model` has the same names from the model checker loom.
mod sync {
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
}

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use self::dir::{LockDir, c_path};
use self::process::Process;
pub(crate) use self::process::is_open_lock_file;
pub(crate) use self::recent::Recent;
use self::table::{Key, Refusal, Request, Thread, Wait};
use crate::error::{Error, Result, Step};
use crate::protocol::lock_name::{SUFFIX, lock_name};
use crate::sys::{self, Errno, LockMode};

/// How often a lock is taken at once, if its file was another one by then; and how often after that, with pauses.
const AT_ONCE: usize = 10;
const ATTEMPTS: usize = 1000;
const PAUSE: Duration = Duration::from_millis(2);

/// The lock of one path.
#[derive(Debug)]
pub(crate) struct Lock {
    dir: Arc<LockDir>,
    /// The path of the lock file.
    path: PathBuf,
    file: CString,
    /// The path that it guards.
    guarded: Arc<Path>,
    /// The number of the process that uses `entered`; 0: none yet. A child made by fork must not touch it, because
    /// another thread may have been using it at the time of the fork.
    user: AtomicU32,
    entered: Mutex<Option<Entered>>,
}

impl Lock {
    /// The lock of a canonical path.
    pub(crate) fn of(dir: &Arc<LockDir>, canonical: &Arc<Path>) -> Result<Self> {
        Self::new(dir, dir.path().join(lock_name(canonical)), canonical.clone())
    }

    /// The lock of a path of which only the [`path_hash`] is known; `guarded` is what errors will say.
    pub(crate) fn of_hash(dir: &Arc<LockDir>, hash: &[u8], guarded: Arc<Path>) -> Result<Self> {
        let name = [hash, SUFFIX.as_bytes()].concat();
        Self::new(dir, dir.path().join(OsStr::from_bytes(&name)), guarded)
    }

    fn new(dir: &Arc<LockDir>, path: PathBuf, guarded: Arc<Path>) -> Result<Self> {
        let file = c_path(&path)?;
        Ok(Lock { dir: dir.clone(), path, file, guarded, user: AtomicU32::new(0), entered: Mutex::new(None) })
    }

    /// The path of the lock file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the lock for the calling thread.
    pub(crate) fn acquire(&self, mode: LockMode, patience: Patience) -> Result<Held> {
        self.acquire_after(&Taken::default(), mode, patience)
    }

    /// As [`acquire`](Self::acquire), for a call that has taken other locks already. One of them may be this one: two
    /// paths can have the same lock file.
    fn acquire_after(&self, others: &Taken, mode: LockMode, patience: Patience) -> Result<Held> {
        self.take(others, mode, patience).map_err(|error| self.explained(error))
    }

    fn take(&self, others: &Taken, mode: LockMode, patience: Patience) -> Result<Held> {
        let process = Process::current();
        let thread = this_thread();
        let mut reopened = false;
        let mut attempts = 0;
        loop {
            self.pause_or_give_up(attempts, patience)?;
            attempts += 1;
            let (key, _entered) = self.enter(process)?;
            let held = if others.keys.contains(&key) {
                process.table.hold_again(key, thread, &self.guarded);
                Ok(())
            } else {
                let (wait, in_order, label) = (patience.wait, others.count, &self.guarded);
                process.table.acquire(&Request { key, mode, wait, in_order, thread, label })
            };
            match held {
                Ok(()) => {}
                Err(Refusal::Gone) => {
                    self.forget(process, key);
                    continue;
                }
                // Opened for reading only, because more was not allowed then.
                Err(Refusal::Kernel(Errno::BADF)) if !reopened => {
                    reopened = process.table.reopen(key, || self.dir.open_for_writing(&self.file))?;
                    if !reopened {
                        self.forget(process, key);
                    }
                    continue;
                }
                Err(refusal) => return Err(self.refused(refusal, process, key, mode, patience)),
            }
            let held = Held { process, key, thread, guarded: self.guarded.clone(), released: false };
            // The file may have been pruned while we waited, and the next caller would lock another one.
            if self.dir.identify(&self.file)? == Some(key) {
                return Ok(held);
            }
            drop(held);
            self.forget(process, key);
        }
    }

    /// An error that says whose lock file it is, if that is what keeps the caller out.
    fn explained(&self, error: Error) -> Error {
        match error {
            Error::Io { step: Step::OpenLock, source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                let found = sys::stat(sys::cwd(), &self.file).ok();
                Error::LockFileDenied {
                    path: self.guarded.to_path_buf(),
                    lock: self.path.clone(),
                    owner: found.map(|meta| meta.uid),
                    mode: found.map(|meta| meta.mode),
                    source,
                }
            }
            error => error,
        }
    }

    /// Before each attempt to take the lock. That the lock file was removed before it was locked happens, and may happen a few
    /// times in a row, whatever the deadline. After that somebody removes lock files in a loop, or the file system (FUSE, for
    /// example) has another inode number for a file at each look, so that no lock is ever seen to be the right one.
    fn pause_or_give_up(&self, attempts: usize, patience: Patience) -> Result<()> {
        if attempts < AT_ONCE {
            return Ok(());
        }
        let pause = match patience.wait {
            Wait::Until(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(self.timeout(patience, None, false));
                }
                left.min(PAUSE)
            }
            _ if attempts == ATTEMPTS => return Err(self.never_the_same()),
            Wait::Forever => PAUSE,
            Wait::Never => return Ok(()),
        };
        std::thread::sleep(pause);
        Ok(())
    }

    fn never_the_same(&self) -> Error {
        let why = "it is another file at each look: somebody removes lock files all the time, or this file system changes their \
                   inode numbers, and is no place for them";
        Error::io(&self.path, Step::OpenLock, io::Error::other(why))
    }

    fn timeout(&self, patience: Patience, holder: Option<u32>, by_thread: bool) -> Error {
        let (path, lock) = (self.guarded.to_path_buf(), self.path.clone());
        Error::Timeout { path, lock, waited: patience.timeout, holder, by_thread }
    }

    /// The lock file in the table of `process`. What comes with the key keeps it there, if this does not.
    fn enter(&self, process: &'static Process) -> Result<(Key, Option<Entered>)> {
        let enter = || {
            let key = process.table.enter(|| self.dir.identify(&self.file), || self.dir.open(&self.file))?;
            Ok(Entered { process, key })
        };
        let Some(mut mine) = self.mine(process) else {
            let entered = enter()?;
            return Ok((entered.key, Some(entered)));
        };
        if let Some(entered) = &*mine {
            return Ok((entered.key, None));
        }
        Ok((mine.insert(enter()?).key, None))
    }

    /// What this lock has in the table, unless it is another process's.
    fn mine(&self, process: &'static Process) -> Option<MutexGuard<'_, Option<Entered>>> {
        // The first process that comes is the one: none of its threads can have had the mutex before a fork.
        match self.user.compare_exchange(0, process.number(), Relaxed, Relaxed) {
            Err(user) if user != process.number() => None,
            _ => Some(self.entered.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// Leaves a lock file that is not the right one any more.
    fn forget(&self, process: &'static Process, key: Key) {
        if let Some(mut mine) = self.mine(process) {
            // Another thread may have entered the right one by now.
            mine.take_if(|entered| entered.key == key);
        }
    }

    fn refused(
        &self,
        refusal: Refusal<Errno>,
        process: &'static Process,
        key: Key,
        mode: LockMode,
        patience: Patience,
    ) -> Error {
        let path = self.guarded.to_path_buf();
        match refusal {
            // `Gone` never comes here.
            Refusal::WouldBlock | Refusal::Gone => Error::WouldBlock { path, lock: self.path.clone() },
            Refusal::TimedOut(by_thread) => {
                let elsewhere = || process.table.with_file(key, |file| sys::holder(file.as_fd(), mode));
                let holder = if by_thread { Some(sys::pid()) } else { elsewhere().and_then(|found| found.ok()??.pid) };
                self.timeout(patience, holder, by_thread)
            }
            Refusal::Deadlock(held) => {
                Error::Deadlock { path, held: held.iter().map(|held| held.to_path_buf()).collect() }
            }
            Refusal::Kernel(error) => Error::io(&self.guarded, Step::Lock, error),
        }
    }
}

/// How long a call waits for its locks, all together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    wait: Wait,
    timeout: Duration,
}

impl Patience {
    /// Tries once.
    pub(crate) const NONE: Patience = Patience { wait: Wait::Never, timeout: Duration::ZERO };

    /// Waits for `timeout` from now on, or for ever if there is none.
    pub(crate) fn new(timeout: Option<Duration>) -> Self {
        // A deadline beyond the clock's end is none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        Patience { wait: deadline.map_or(Wait::Forever, Wait::Until), timeout: timeout.unwrap_or_default() }
    }
}

/// What a call has taken already. Two of its locks may have one key.
#[derive(Debug, Default)]
struct Taken {
    keys: BTreeSet<Key>,
    count: usize,
}

/// Takes all of these locks, or none of them, in the order of the lock files' paths: whoever does the same cannot be
/// in a cycle with this call. The answer is in the order of `locks`.
pub(crate) fn acquire_all(locks: &[&Lock], mode: LockMode, patience: Patience) -> Result<Vec<Held>> {
    let mut order: Vec<usize> = (0..locks.len()).collect();
    order.sort_by_key(|n| &locks[*n].path);
    let (mut held, mut taken) = (Vec::with_capacity(locks.len()), Taken::default());
    for n in order {
        let one = locks[n].acquire_after(&taken, mode, patience)?;
        taken.keys.insert(one.key);
        taken.count += 1;
        held.push((n, one));
    }
    held.sort_by_key(|(n, _)| *n);
    Ok(held.into_iter().map(|(_, held)| held).collect())
}

/// A lock that is held. Dropping it releases it.
#[derive(Debug)]
pub(crate) struct Held {
    process: &'static Process,
    key: Key,
    thread: Thread,
    guarded: Arc<Path>,
    released: bool,
}

impl Held {
    /// Lets go without a look at the process's number: only for the thread that took the lock, if no code of a caller has
    /// run since, which could have forked.
    pub(crate) fn release(mut self) {
        self.released = true;
        self.process.table.release(self.key, self.thread);
    }

    /// An error in a child made by fork, which has a copy of this and no lock.
    pub(crate) fn check(&self) -> Result<()> {
        if self.process.is_current() { Ok(()) } else { Err(Error::Forked { path: self.guarded.to_path_buf() }) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.released && self.process.is_current() {
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
    use std::sync::atomic::AtomicU64;
    static NEXT: AtomicU64 = AtomicU64::new(0);
    thread_local!(static THIS: u64 = NEXT.fetch_add(1, Relaxed));
    THIS.with(|this| *this)
}
