//! Taking and releasing the lock of a path: the lock file, this process's table, and the kernel's record lock.

mod dir;
pub(crate) mod draft;
pub(crate) mod intents;
mod mark;
mod patience;
mod process;
mod recent;
mod table;
pub(crate) mod upkeep;
pub(crate) mod work;

/// The types that the table is built on. `tests/table_model` replaces them with those of the model checker loom.
mod sync {
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
}

use std::any::Any;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use self::dir::{Home, LockDir, c_path};
pub use self::patience::Waiting;
pub(crate) use self::patience::{OnWait, Patience};
pub(crate) use self::process::is_open_lock_file;
use self::process::{Caller, Process, User};
pub(crate) use self::recent::Recent;
use self::table::{Key, Refusal, Request, Told, Wait};
use crate::error::{Error, Result, Step};
use crate::protocol::lock_contents::is_marked;
use crate::protocol::lock_name::{SUFFIX, hash_in, lock_name};
use crate::sys::{self, Errno, LockMode};

/// How often a lock is taken without a pause if its lock file was replaced meanwhile, and how often in all.
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
    /// The number of the process that uses `entered`. 0: none yet. A child made by fork must not touch `entered`,
    /// because another thread of the parent may have locked it at the time of the fork.
    user: AtomicU32,
    entered: Mutex<Option<Arc<User>>>,
    /// Nobody has written under this lock yet.
    is_new: AtomicBool,
}

impl Lock {
    /// The lock of a canonical path.
    pub(crate) fn of(dir: &Arc<LockDir>, canonical: &Arc<Path>) -> Result<Self> {
        let name = lock_name(dir.named_after(canonical, canonical)?);
        Self::new(dir, dir.path().join(name), canonical.clone())
    }

    /// The lock of a path of which only the [`path_hash`] is known. Error messages name `guarded`.
    pub(crate) fn of_hash(dir: &Arc<LockDir>, hash: &[u8], guarded: Arc<Path>) -> Result<Self> {
        let name = [hash, SUFFIX.as_bytes()].concat();
        Self::new(dir, dir.path().join(OsStr::from_bytes(&name)), guarded)
    }

    fn new(dir: &Arc<LockDir>, path: PathBuf, guarded: Arc<Path>) -> Result<Self> {
        let file = c_path(&path)?;
        Ok(Lock {
            dir: dir.clone(),
            path,
            file,
            guarded,
            user: AtomicU32::new(0),
            entered: Mutex::new(None),
            is_new: AtomicBool::new(true),
        })
    }

    /// The path of the lock file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path that it guards.
    pub(crate) fn guarded(&self) -> &Arc<Path> {
        &self.guarded
    }

    /// Whether this is the first write with this `Lock`. A handle has its own, and calls by one path share one.
    pub(crate) fn take_first_write(&self) -> bool {
        self.is_new.load(Relaxed) && self.is_new.swap(false, Relaxed)
    }

    /// The [`path_hash`] in the lock file's name.
    ///
    /// [`path_hash`]: crate::protocol::lock_name::path_hash
    pub(crate) fn hash(&self) -> &[u8] {
        hash_in(self.path.file_name().unwrap_or_default().as_bytes())
    }

    /// Takes the lock for the calling thread.
    pub(crate) fn acquire(&self, mode: LockMode, patience: &Patience<'_>) -> Result<Held> {
        self.take(mode, patience).map_err(|error| self.explained(error))
    }

    /// Takes the lock. If an earlier change of the file is not finished, finishes it first.
    fn take(&self, mode: LockMode, patience: &Patience<'_>) -> Result<Held> {
        let taken = &BTreeSet::new();
        let held = self.take_as_it_is(taken, mode, patience)?;
        // The check of the lock file's name has read the size, too.
        if !is_marked(held.size) {
            return Ok(held);
        }
        let take = || Ok(vec![self.take_as_it_is(taken, mode, patience)?]);
        let mut held = finish_first(&[self], vec![held], take, mode, patience)?;
        held.pop().ok_or_else(|| self.never_the_same())
    }

    /// Takes the lock and ignores its mark. `taken` are the locks that the call has taken already. This lock may be one
    /// of them, because two paths can have the same lock file.
    fn take_as_it_is(&self, taken: &BTreeSet<Key>, mode: LockMode, patience: &Patience<'_>) -> Result<Held> {
        let process = Process::current();
        let caller = Caller::of(process);
        let mut reopened = false;
        let mut attempts = 0;
        loop {
            self.pause_or_give_up(attempts, patience)?;
            attempts += 1;
            let user = self.enter(process)?;
            match self.ask(&user, &caller, taken, mode, patience) {
                Ok(()) => {}
                Err(Refusal::Gone) => {
                    self.forget(&user);
                    continue;
                }
                // The lock file was removed on the server.
                Err(Refusal::Kernel(Errno::STALE)) => {
                    self.forget(&user);
                    continue;
                }
                // The lock file was opened for reading only, because nothing more was allowed then.
                Err(Refusal::Kernel(Errno::BADF)) if !reopened => {
                    reopened = process.table.reopen(&user.file, || self.dir.open_for_writing(&self.file))?;
                    if !reopened {
                        self.forget(&user);
                    }
                    continue;
                }
                Err(refusal) => return Err(self.refused(refusal, &user, &caller, mode, patience)),
            }
            let mut held = Held::new(user, caller, self.guarded.clone());
            // The file may have been pruned while this thread waited. The next caller would lock another file.
            let found =
                if held.user.home.nfs { self.dir.identify_anew(&self.file) } else { self.dir.identify(&self.file) };
            if let Some(found) = found?.filter(|found| found.identity() == held.user.file.key()) {
                held.size = found.size;
                return Ok(held);
            }
            self.forget(&held.user);
        }
    }

    fn ask(
        &self,
        user: &Arc<User>,
        caller: &Caller,
        taken: &BTreeSet<Key>,
        mode: LockMode,
        patience: &Patience<'_>,
    ) -> std::result::Result<(), Refusal<Errno>> {
        let table = &user.process.table;
        let panicked: Cell<Option<Box<dyn Any + Send>>> = Cell::new(None);
        let tell = |by_thread| {
            let tell = || patience.tell(&self.guarded, |since| self.waiting(user, mode, by_thread, since));
            let panic = catch_unwind(AssertUnwindSafe(tell)).err();
            let go_on = panic.is_none();
            panicked.set(panic);
            match go_on {
                _ if !user.process.is_current() => Told::InAChild,
                true => Told::GoOn(caller.holds()),
                false => Told::GiveUp,
            }
        };
        let request = Request {
            file: &user.file,
            mode,
            wait: patience.wait(),
            thread: caller.thread,
            holds: caller.holds(),
            label: &self.guarded,
            on_wait: patience.tell_at(&self.guarded).map(|at| table::OnWait { at, tell: &tell }),
            start_deputy: &|errand| user.process.start_deputy(errand),
        };
        if taken.contains(&user.file.key()) {
            table.hold_again(&request);
            return Ok(());
        }
        let answer = table.acquire(&request);
        // The panic goes on only now, because this call has left the queue.
        if let Some(panic) = panicked.take() {
            resume_unwind(panic);
        }
        answer
    }

    fn waiting(&self, user: &User, mode: LockMode, by_thread: bool, since: Instant) -> Waiting {
        let holder = user.holder(mode, by_thread);
        Waiting { path: self.guarded.to_path_buf(), lock: self.path.clone(), holder, since }
    }

    /// If the caller may not open the lock file, says in the error who owns it.
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

    /// Called before each attempt to take the lock. A lock file may be removed before it is locked. That can happen a
    /// few times in a row, and is no reason to give up, whatever the deadline. If it goes on, somebody removes lock
    /// files in a loop, or the file system (FUSE, for example) reports a new inode number at each look, so that the
    /// check after the lock always fails.
    fn pause_or_give_up(&self, attempts: usize, patience: &Patience<'_>) -> Result<()> {
        if attempts < AT_ONCE {
            return Ok(());
        }
        let pause = match patience.wait() {
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

    fn timeout(&self, patience: &Patience<'_>, holder: Option<u32>, by_thread: bool) -> Error {
        let (path, lock) = (self.guarded.to_path_buf(), self.path.clone());
        Error::Timeout { path, lock, waited: patience.timeout, holder, by_thread }
    }

    /// Enters the lock file into the table of `process`.
    fn enter(&self, process: &'static Process) -> Result<Arc<User>> {
        let enter = || {
            User::enter(process, || self.dir.key_of(&self.file), || self.dir.open(&self.file, &self.guarded))
                .map(Arc::new)
        };
        let Some(mut mine) = self.mine(process) else { return enter() };
        if let Some(user) = &*mine {
            return Ok(user.clone());
        }
        Ok(mine.insert(enter()?).clone())
    }

    /// What this lock has entered into the table. `None`: another process uses `entered`.
    fn mine(&self, process: &'static Process) -> Option<MutexGuard<'_, Option<Arc<User>>>> {
        // The first process to come here gets it. Before a fork, no thread of a later process can have locked the
        // mutex.
        match self.user.compare_exchange(0, process.number(), Relaxed, Relaxed) {
            Err(user) if user != process.number() => None,
            _ => Some(self.entered.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// Leaves a lock file that was replaced.
    fn forget(&self, user: &Arc<User>) {
        let forgotten = self.mine(user.process).and_then(|mut mine| {
            // Another thread may have entered the new file already.
            mine.take_if(|entered| Arc::ptr_eq(entered, user))
        });
        // Dropped without the mutex, because the last user closes the file.
        drop(forgotten);
    }

    fn refused(
        &self,
        refusal: Refusal<Errno>,
        user: &User,
        caller: &Caller,
        mode: LockMode,
        patience: &Patience<'_>,
    ) -> Error {
        let path = self.guarded.to_path_buf();
        match refusal {
            // `Gone` was handled before, and after `GaveUp` the panic goes on.
            Refusal::WouldBlock | Refusal::Gone | Refusal::GaveUp => {
                Error::WouldBlock { path, lock: self.path.clone() }
            }
            Refusal::TimedOut(by_thread) => self.timeout(patience, user.holder(mode, by_thread), by_thread),
            Refusal::Deadlock => {
                let held = user.process.table.held_by(caller.thread);
                Error::Deadlock { path, held: held.iter().map(|held| held.to_path_buf()).collect() }
            }
            Refusal::Forked => Error::Forked { path },
            Refusal::Kernel(error) => Error::io(&self.guarded, Step::Lock, error),
        }
    }
}

/// Takes all of these locks or none. It takes them in the order of the lock files' paths, so that calls that do the
/// same cannot wait for each other in a cycle. The result is in the order of `locks`.
pub(crate) fn acquire_all(locks: &[&Lock], mode: LockMode, patience: &Patience<'_>) -> Result<Vec<Held>> {
    let held = take_all(locks, mode, patience)?;
    if !held.iter().any(|held| is_marked(held.size)) {
        return Ok(held);
    }
    finish_first(locks, held, || take_all(locks, mode, patience), mode, patience)
}

/// The same, but ignores the marks.
fn take_all(locks: &[&Lock], mode: LockMode, patience: &Patience<'_>) -> Result<Vec<Held>> {
    let mut order: Vec<usize> = (0..locks.len()).collect();
    order.sort_by_key(|n| &locks[*n].path);
    let (mut held, mut taken) = (Vec::with_capacity(locks.len()), BTreeSet::new());
    for n in order {
        let one = locks[n].take_as_it_is(&taken, mode, patience).map_err(|error| locks[n].explained(error))?;
        taken.insert(one.user.file.key());
        held.push((n, one));
    }
    held.sort_by_key(|(n, _)| *n);
    Ok(held.into_iter().map(|(_, held)| held).collect())
}

/// Finishes the changes that the marks name, and takes the locks again, until no mark is left.
fn finish_first(
    locks: &[&Lock],
    mut held: Vec<Held>,
    take: impl Fn() -> Result<Vec<Held>>,
    mode: LockMode,
    patience: &Patience<'_>,
) -> Result<Vec<Held>> {
    for attempt in 0..ATTEMPTS {
        if let Some(held) = intents::heed_marks(locks, held, mode, patience)? {
            return Ok(held);
        }
        if let (Wait::Until(deadline), Some(lock)) = (patience.wait(), locks.first()) {
            if deadline <= Instant::now() {
                return Err(lock.timeout(patience, None, false));
            }
        }
        // Usually the change is finished now, and these are the last locks.
        if attempt >= AT_ONCE {
            std::thread::sleep(PAUSE);
        }
        held = take()?;
    }
    let guarded = locks.first().map_or(Path::new(""), |lock| &lock.guarded);
    let why = "others hold locks of the same change again and again, so that it cannot be finished (recover)";
    Err(Error::io(guarded, Step::FinishChange, io::Error::other(why)))
}

/// A lock that is held. Dropping it releases it.
#[derive(Debug)]
pub(crate) struct Held {
    user: Arc<User>,
    caller: Caller,
    guarded: Arc<Path>,
    released: bool,
    /// The size of the lock file when the lock was taken.
    size: u64,
}

impl Held {
    fn new(user: Arc<User>, caller: Caller, guarded: Arc<Path>) -> Self {
        caller.holds_one_more();
        Held { user, caller, guarded, released: false, size: 0 }
    }

    /// Releases the lock without a check for a fork. Only for the thread that took the lock, and only if no code of the
    /// caller has run since, because that code could have forked.
    pub(crate) fn release(mut self) {
        self.let_go();
    }

    fn let_go(&mut self) {
        self.released = true;
        self.user.process.table.release(&self.user.file, self.caller.thread, &self.guarded);
        self.caller.holds_one_less();
    }

    /// An error in a child made by fork: it has a copy of this value, but not the lock.
    pub(crate) fn check(&self) -> Result<()> {
        if self.user.process.is_current() { Ok(()) } else { Err(Error::Forked { path: self.guarded.to_path_buf() }) }
    }
}

impl Held {
    /// The path that it guards.
    pub(crate) fn guarded(&self) -> &Path {
        &self.guarded
    }

    /// The file system that the lock is in.
    pub(crate) fn home(&self) -> Home {
        self.user.home
    }

    /// An error if the lock was lost while it was held, which can happen only on NFS. `replaced`: whether the file was
    /// changed already.
    pub(crate) fn check_kept(&self, replaced: bool) -> Result<()> {
        self.user.lost().map_or(Ok(()), |error| {
            Err(Error::LockLost { path: self.guarded.to_path_buf(), replaced, source: error.into() })
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.released && self.user.process.is_current() {
            self.let_go();
        }
    }
}
