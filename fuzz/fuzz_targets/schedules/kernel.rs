//! A substitute for the kernel. It knows only processes, drops a process's locks on a file at any close, and looks for
//! cycles of processes. It finds all cycles after every change. `posix_locks_deadlock` in fs/locks.c follows one wait
//! of each process, and looks only when a process begins to wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock;
use crate::sync::{Condvar, Mutex};
use crate::sys::LockMode::{self, Shared};
use crate::table::{Kernel, Key};

pub(crate) type Pid = u32;

#[derive(Debug)]
pub(crate) struct Locks {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    held: BTreeMap<(Pid, Key), LockMode>,
    waiting: Vec<(Pid, Key, LockMode)>,
    /// A disowned deputy may be granted a lock, whether its process holds the lock or not.
    deputies: bool,
    open_files: usize,
    failing_lock: Option<u8>,
    failing_unlock: Option<u8>,
    /// The locks that a failed unlock has left. The next close has to drop them.
    stuck: Vec<(Pid, Key)>,
}

impl Locks {
    pub(crate) fn new(failing_lock: Option<u8>, failing_unlock: Option<u8>, deputies: bool) -> Arc<Self> {
        let state = State { failing_lock, failing_unlock, deputies, ..State::default() };
        Arc::new(Locks { state: Mutex::new(state), changed: Condvar::new() })
    }

    pub(crate) fn held_by(&self, pid: Pid, key: Key) -> Option<LockMode> {
        self.state.lock().unwrap().held.get(&(pid, key)).copied()
    }

    pub(crate) fn assert_unused(&self) {
        let state = self.state.lock().unwrap();
        assert!(state.held.is_empty(), "locks are left: {:?}", state.held);
        assert_eq!(state.open_files, 0, "lock files are left open");
    }
}

impl State {
    /// The processes that keep this one out of the lock.
    fn in_the_way(&self, pid: Pid, key: Key, mode: LockMode) -> impl Iterator<Item = Pid> {
        self.held
            .iter()
            .filter(move |((other, held_key), held)| {
                *other != pid && *held_key == key && (**held, mode) != (Shared, Shared)
            })
            .map(|((other, _), _)| *other)
    }

    fn grant(&mut self, pid: Pid, key: Key, mode: LockMode) -> bool {
        let free = self.in_the_way(pid, key, mode).next().is_none();
        if free {
            // The kernel would grant this, and change the mode of a lock that another thread relies on.
            let before = self.held.insert((pid, key), mode);
            assert!(before.is_none() || self.deputies, "a process has asked for a lock that it has");
        }
        free
    }

    fn would_wait_for_itself(&self, pid: Pid, key: Key, mode: LockMode) -> bool {
        let mut todo: Vec<Pid> = self.in_the_way(pid, key, mode).collect();
        let mut seen = todo.clone();
        while let Some(other) = todo.pop() {
            for (_, key, mode) in self.waiting.iter().filter(|(waiter, ..)| *waiter == other) {
                for next in self.in_the_way(other, *key, *mode) {
                    if next == pid {
                        return true;
                    }
                    if !seen.contains(&next) {
                        seen.push(next);
                        todo.push(next);
                    }
                }
            }
        }
        false
    }
}

/// The kernel for one process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) locks: Arc<Locks>,
}

impl Process {
    pub(crate) fn open(&self, key: Key) -> File {
        self.locks.state.lock().unwrap().open_files += 1;
        File { key, pid: self.pid, locks: self.locks.clone() }
    }
}

/// An open lock file.
#[derive(Debug)]
pub(crate) struct File {
    key: Key,
    pid: Pid,
    locks: Arc<Locks>,
}

impl Drop for File {
    fn drop(&mut self) {
        let mut state = self.locks.state.lock().unwrap();
        state.open_files -= 1;
        let mine = (self.pid, self.key);
        let meant = state.stuck.contains(&mine);
        state.stuck.retain(|stuck| *stuck != mine);
        let dropped = state.held.remove(&mine);
        assert!(meant || dropped.is_none(), "closing a descriptor dropped the {dropped:?} lock of {:?}", self.key);
        drop(state);
        self.locks.changed.notify_all();
    }
}

impl Kernel for Process {
    type File = File;
    type Error = &'static str;

    fn lock(&self, file: &File, mode: LockMode) -> Result<bool, &'static str> {
        let mut state = self.locks.state.lock().unwrap();
        fail(&mut state.failing_lock, "ENOLCK")?;
        loop {
            if state.grant(self.pid, file.key, mode) {
                return Ok(true);
            }
            if state.would_wait_for_itself(self.pid, file.key, mode) {
                return Ok(false);
            }
            let me = (self.pid, file.key, mode);
            state.waiting.push(me);
            state = self.locks.changed.wait(state).unwrap();
            let mine = state.waiting.iter().position(|waiting| *waiting == me);
            state.waiting.swap_remove(mine.expect("my entry"));
        }
    }

    fn try_lock(&self, file: &File, mode: LockMode) -> Result<bool, &'static str> {
        let mut state = self.locks.state.lock().unwrap();
        fail(&mut state.failing_lock, "ENOLCK")?;
        Ok(state.grant(self.pid, file.key, mode))
    }

    fn unlock(&self, file: &File) -> Result<(), &'static str> {
        let mut state = self.locks.state.lock().unwrap();
        let mine = (self.pid, file.key);
        if let Err(error) = fail(&mut state.failing_unlock, "EIO") {
            state.stuck.push(mine);
            return Err(error);
        }
        let unlocked = state.held.remove(&mine);
        assert!(unlocked.is_some() || state.deputies, "unlocked what was not locked");
        drop(state);
        self.locks.changed.notify_all();
        Ok(())
    }

    fn is(&self, file: &File, key: Key) -> bool {
        file.key == key
    }

    fn close_copy(&self, _: &File) {
        panic!("an unlock has failed");
    }

    fn is_free(&self, file: &File, mode: LockMode) -> bool {
        self.holder(file, mode).is_none()
    }

    fn holder(&self, file: &File, mode: LockMode) -> Option<u32> {
        self.locks.state.lock().unwrap().in_the_way(self.pid, file.key, mode).next()
    }

    fn now(&self) -> Instant {
        clock::now()
    }

    fn sleep(&self, time: Duration) {
        clock::sleep(time);
    }

    fn give_way(&self, until: Instant) {
        clock::sleep(until.saturating_duration_since(clock::now()));
    }

    const LOOKS: u32 = 1;

    fn relax(&self) {
        shuttle::thread::yield_now();
    }
}

/// Counts down to the one call that fails.
fn fail(left: &mut Option<u8>, error: &'static str) -> Result<(), &'static str> {
    match left.take() {
        Some(0) => Err(error),
        left_before => {
            *left = left_before.map(|left| left - 1);
            Ok(())
        }
    }
}
