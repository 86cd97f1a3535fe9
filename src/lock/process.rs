//! One table a process, across `fork(2)`.
//!
//! A child made by fork has a copy of its parent's table and none of its locks ([fork(2)]), and a mutex that another
//! thread of the parent was holding stays locked in it for ever. So a process that finds the table of its parent
//! leaves it alone and starts one of its own, which is chained to it.
//!
//! [fork(2)]: https://man7.org/linux/man-pages/man2/fork.2.html

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::table::{Kernel, State, Table};
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
        let table = Table::new(Posix, Mutex::new(State::new()));
        Process { pid: AtomicU32::new(pid), table, child: OnceLock::new() }
    }

    /// The process that calls.
    pub(super) fn current() -> &'static Process {
        let pid = sys::pid();
        let mut process = &FIRST;
        while let Some(child) = process.child.get() {
            process = child;
        }
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

    /// Its number.
    pub(super) fn number(&self) -> u32 {
        self.pid.load(Relaxed)
    }

    /// Whether this is the process that calls, and not the one it was forked from.
    pub(super) fn is_current(&self) -> bool {
        self.number() == sys::pid()
    }
}

/// The kernel's record locks.
#[derive(Debug)]
pub(super) struct Posix;

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
}
