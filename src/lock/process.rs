//! One table a process, across `fork(2)`.
//!
//! A child made by fork has a copy of its parent's table and none of its locks ([fork(2)]), and a mutex that another
//! thread of the parent was holding stays locked in it for ever. So a process that finds the table of its parent
//! leaves it alone and starts one of its own, which is chained to it.
//!
//! [fork(2)]: https://man7.org/linux/man-pages/man2/fork.2.html

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::table::{Kernel, Key, State, Table};
use crate::sys::{self, Errno, Fd, LockMode};

/// A process and its table.
pub(super) struct Process {
    /// 0: not known yet.
    pid: AtomicU32,
    pub(super) table: Table<Posix>,
    child: OnceLock<Box<Process>>,
}

/// Not the table, which is what all files have in common.
impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// Ready before anybody can fork.
static FIRST: Process = Process::new(0);

impl Process {
    const fn new(pid: u32) -> Self {
        let posix = Posix { open: RwLock::new(BTreeSet::new()) };
        let table = Table::new(posix, Mutex::new(State::new()));
        Process { pid: AtomicU32::new(pid), table, child: OnceLock::new() }
    }

    /// The process that calls.
    pub(super) fn current() -> &'static Process {
        let pid = sys::pid();
        let process = Self::latest();
        match process.pid.compare_exchange(0, pid, Relaxed, Relaxed) {
            Ok(_) => process,
            Err(owner) if owner == pid => process,
            Err(_) => process.child.get_or_init(|| {
                // This process has no locks yet that closing a descriptor could drop.
                process.table.close_all_if_idle();
                Box::new(Process::new(pid))
            }),
        }
    }

    /// The process that calls, or, if that is a child made by fork that has not called before, the one it was forked from. No
    /// system call.
    fn latest() -> &'static Process {
        let mut process = &FIRST;
        while let Some(child) = process.child.get() {
            process = child;
        }
        process
    }

    /// Its number.
    pub(super) fn number(&self) -> u32 {
        self.pid.load(Relaxed)
    }

    /// Whether this is the process that calls, and not the one it was forked from.
    pub(super) fn is_current(&self) -> bool {
        self.number() == sys::pid()
    }
}

/// Whether this process has the lock file of this identity open, so that to close another descriptor of it would drop the lock.
///
/// No system call where the answer is no. A child made by fork that has not called before asks what it inherited; where that says yes,
/// or was being changed by a thread that exists in the parent only, it asks what is its own.
pub(crate) fn is_open_lock_file(file: Key) -> bool {
    match Process::latest().table.kernel().knows(file) {
        Some(false) => false,
        _ => Process::current().table.kernel().open.read().unwrap_or_else(PoisonError::into_inner).contains(&file),
    }
}

/// The kernel's record locks.
#[derive(Debug)]
pub(super) struct Posix {
    /// The lock files in the table. Apart from its state, so that whoever looks at a file of another kind waits for no system
    /// call that others make under the table's mutex.
    open: RwLock<BTreeSet<Key>>,
}

impl Posix {
    /// Whether this lock file is in the table. `None`: that is being changed.
    fn knows(&self, file: Key) -> Option<bool> {
        /// A change takes less, unless the thread that makes it has to wait for a processor.
        const LOOKS: usize = 1000;
        (0..LOOKS).find_map(|_| match self.open.try_read() {
            Ok(open) => Some(open.contains(&file)),
            Err(_) => {
                std::thread::yield_now();
                None
            }
        })
    }
}

impl Kernel for Posix {
    type File = Fd;
    type Error = Errno;

    fn lock(&self, file: &Fd, mode: LockMode) -> Result<bool, Errno> {
        match sys::lock(file, mode) {
            Ok(()) => Ok(true),
            Err(Errno::DEADLK) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn try_lock(&self, file: &Fd, mode: LockMode) -> Result<bool, Errno> {
        sys::try_lock(file, mode)
    }

    fn unlock(&self, file: &Fd) -> Result<(), Errno> {
        sys::unlock(file)
    }

    fn holder(&self, file: &Fd, mode: LockMode) -> Option<u32> {
        sys::holder(file.as_fd(), mode).ok()??.pid
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }

    const LOOKS: u32 = 20;

    fn relax(&self) {
        (0..20).for_each(|_| std::hint::spin_loop());
    }

    fn is(&self, file: &Fd, key: Key) -> bool {
        sys::stat_open(file).is_ok_and(|meta| meta.identity() == key)
    }

    fn opened(&self, key: Key) {
        self.open.write().unwrap_or_else(PoisonError::into_inner).insert(key);
    }

    fn closed(&self, key: Key) {
        self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }
}
