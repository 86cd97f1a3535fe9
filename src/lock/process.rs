//! One table for each process, across `fork(2)`.
//!
//! A child made by fork has a copy of its parent's table, but none of its locks ([fork(2)]). A mutex that another
//! thread of the parent had locked stays locked in the child for ever. So a process that finds its parent's table does
//! not use it. It makes a table of its own and links it to the parent's.
//!
//! [fork(2)]: https://man7.org/linux/man-pages/man2/fork.2.html

use std::cell::Cell;
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use super::dir::{Home, OpenLock};
use super::table::{Errand, Files, Kernel, Key, LockFile, Table, Thread, Waits};
use crate::error::Result;
use crate::sys::{self, Errno, LockMode};

/// A process and its table.
pub(super) struct Process {
    /// 0: not known yet.
    pid: AtomicU32,
    pub(super) table: Table<Posix>,
    /// The pid of the last child in which a thread has begun to make its own table. 0: none.
    heir: AtomicU32,
    child: OnceLock<Box<Process>>,
}

/// Without the table, because all files share it.
impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// Static, so that it exists before any fork.
static FIRST: Process = Process::new(0);

impl Process {
    const fn new(pid: u32) -> Self {
        let posix = Posix { open: RwLock::new(BTreeSet::new()) };
        let table = Table::new(posix, Mutex::new(Files::new()), Mutex::new(Waits::new()));
        Process { pid: AtomicU32::new(pid), table, heir: AtomicU32::new(0), child: OnceLock::new() }
    }

    /// The calling process.
    pub(super) fn current() -> &'static Process {
        let pid = sys::pid();
        let process = Self::latest();
        match process.pid.compare_exchange(0, pid, Relaxed, Relaxed) {
            Ok(_) => process,
            Err(owner) if owner == pid => process,
            Err(_) => process.child_of(pid),
        }
    }

    /// The first call in a child made by fork.
    ///
    /// One of its threads makes the table, and the others wait for it. They do not wait in the `OnceLock`: if the child
    /// forked meanwhile, the grandchild's copy would wait for a thread that it does not have. (This hazard remains for
    /// a fork while `set` stores the finished table, which takes no system call.)
    fn child_of(&'static self, pid: u32) -> &'static Process {
        let heir = self.heir.swap(pid, Relaxed);
        if heir != pid {
            // This process holds no locks yet, so closing a descriptor drops none.
            self.table.close_all_if_idle();
            // The child may exist already: this process is a grandchild, and its parent has made it.
            let _ = self.child.set(Box::new(Process::new(pid)));
        }
        // The thread that makes the table waits for nobody, so this ends.
        loop {
            match self.child.get() {
                Some(_) => return Process::current(),
                None => thread::yield_now(),
            }
        }
    }

    /// The calling process. In a child made by fork that has not called `current` yet: the process that it was forked
    /// from. Makes no system call.
    fn latest() -> &'static Process {
        let mut process = &FIRST;
        while let Some(child) = process.child.get() {
            process = child;
        }
        process
    }

    /// The process's pid.
    pub(super) fn number(&self) -> u32 {
        self.pid.load(Relaxed)
    }

    /// Whether this is the calling process, and not the one that it was forked from.
    pub(super) fn is_current(&self) -> bool {
        self.number() == sys::pid()
    }

    /// False: the system allows this process no more threads.
    pub(super) fn start_deputy(&'static self, errand: Errand<OpenLock>) -> bool {
        let deputy = thread::Builder::new().name("atomic-file-adapter".into());
        deputy.spawn(move || self.table.wait_as_deputy(errand)).is_ok()
    }
}

/// A user of a lock file in the table of its process: a handle or a guard. Dropping it leaves the table.
#[derive(Debug)]
pub(super) struct User {
    pub(super) process: &'static Process,
    pub(super) file: Arc<LockFile<OpenLock>>,
    pub(super) home: Home,
}

impl User {
    pub(super) fn enter(
        process: &'static Process,
        identify: impl FnOnce() -> Result<Option<Key>>,
        open: impl FnOnce() -> Result<(Key, OpenLock)>,
    ) -> Result<Self> {
        let file = process.table.enter(identify, open)?;
        // The file was closed meanwhile, because an unlock failed. The request for the lock reports that, and the
        // caller enters again.
        let home =
            process.table.with_file(&file, |file| file.home).unwrap_or(Home { device: file.key().0, nfs: false });
        Ok(User { process, file, home })
    }

    /// The error if the server has taken the lock away, because it has not heard from this machine for longer than its
    /// lease. A read with a lost lock fails with EIO (`nfs4_set_rw_stateid` in fs/nfs/nfs4proc.c; NFS_LOCK_LOST), and a
    /// direct read asks the server. ESTALE: the lock file itself is gone, and the next caller locks another one.
    pub(super) fn lost(&self) -> Option<Errno> {
        if !self.home.nfs {
            return None;
        }
        match self.process.table.with_file(&self.file, |file| sys::probe(file.as_fd())) {
            Some(Err(error @ (Errno::IO | Errno::STALE))) => Some(error),
            _ => None,
        }
    }

    /// A process that holds the lock. It is this process if one of its threads holds it.
    pub(super) fn holder(&self, mode: LockMode, by_thread: bool) -> Option<u32> {
        if by_thread {
            return Some(self.process.number());
        }
        let asked = self.process.table.with_file(&self.file, |file| sys::holder(file.as_fd(), mode));
        asked.and_then(|found| found.ok()??.pid)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if self.process.is_current() {
            self.process.table.leave(&self.file);
        }
    }
}

thread_local! {
    /// How many locks this thread holds, and in which process. A child made by fork has a copy, but holds none.
    static HOLDS: Cell<(u32, usize)> = const { Cell::new((0, 0)) };
}

/// The calling thread. Its locks belong to it, because guards are not `Send`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub(super) thread: Thread,
    process: u32,
}

impl Caller {
    pub(super) fn of(process: &Process) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        thread_local!(static THIS: u64 = NEXT.fetch_add(1, Relaxed));
        Caller { thread: THIS.with(|this| *this), process: process.number() }
    }

    /// How many locks it holds.
    pub(super) fn holds(self) -> usize {
        let (process, holds) = HOLDS.get();
        if process == self.process { holds } else { 0 }
    }

    pub(super) fn holds_one_more(self) {
        HOLDS.set((self.process, self.holds() + 1));
    }

    pub(super) fn holds_one_less(self) {
        HOLDS.set((self.process, self.holds().saturating_sub(1)));
    }
}

/// Whether this process has the lock file with this identity open. If so, closing another descriptor of it would drop
/// the lock.
///
/// If the answer is no, there is no system call. A child made by fork that has not called before looks into the
/// inherited list. If the answer there is yes, or a thread of the parent was changing the list, the child looks into
/// its own.
pub(crate) fn is_open_lock_file(file: Key) -> bool {
    match Process::latest().table.kernel().knows(file) {
        Some(false) => false,
        _ => Process::current().table.kernel().open.read().unwrap_or_else(PoisonError::into_inner).contains(&file),
    }
}

/// The kernel's record locks.
#[derive(Debug)]
pub(super) struct Posix {
    /// The lock files that the table has open. It has a lock of its own, so that a look at another file does not wait
    /// for threads that use the table.
    open: RwLock<BTreeSet<Key>>,
}

impl Posix {
    /// Whether the table has this lock file open. `None`: the list is being changed.
    fn knows(&self, file: Key) -> Option<bool> {
        /// Enough for one change, unless the thread that makes it waits for a processor.
        const LOOKS: usize = 1000;
        (0..LOOKS).find_map(|_| match self.open.try_read() {
            Ok(open) => Some(open.contains(&file)),
            Err(_) => {
                thread::yield_now();
                None
            }
        })
    }
}

impl Kernel for Posix {
    type File = OpenLock;
    type Error = Errno;

    fn lock(&self, file: &OpenLock, mode: LockMode) -> sys::Result<bool> {
        match sys::lock(file, mode) {
            Ok(()) => Ok(true),
            Err(Errno::DEADLK) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn try_lock(&self, file: &OpenLock, mode: LockMode) -> sys::Result<bool> {
        sys::try_lock(file, mode)
    }

    fn unlock(&self, file: &OpenLock) -> sys::Result<()> {
        sys::unlock(file)
    }

    fn close_copy(&self, file: &OpenLock) {
        sys::close_copy(file);
    }

    fn is_free(&self, file: &OpenLock, mode: LockMode) -> bool {
        sys::holder(file.as_fd(), mode) == Ok(None)
    }

    fn holder(&self, file: &OpenLock, mode: LockMode) -> Option<u32> {
        sys::holder(file.as_fd(), mode).ok()??.pid
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&self, time: Duration) {
        thread::sleep(time);
    }

    fn give_way(&self, until: Instant) {
        // A sleep may take 50 us longer than asked for (the default timer slack, PR_SET_TIMERSLACK(2const)), and the
        // thread has to be back in time.
        loop {
            thread::yield_now();
            if Instant::now() >= until {
                return;
            }
        }
    }

    const LOOKS: u32 = 20;

    fn relax(&self) {
        (0..20).for_each(|_| std::hint::spin_loop());
    }

    fn is(&self, file: &OpenLock, key: Key) -> bool {
        sys::stat_open(file).is_ok_and(|meta| meta.identity() == key)
    }

    fn opened(&self, key: Key) {
        self.open.write().unwrap_or_else(PoisonError::into_inner).insert(key);
    }

    fn closed(&self, key: Key) {
        self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }
}
