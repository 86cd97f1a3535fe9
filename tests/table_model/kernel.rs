//! A substitute for the kernel, which knows only processes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex};
use crate::sys::LockMode::{self, Shared};
use crate::table::{Kernel, Key};

/// The kernel for this process, and another process that can hold locks.
#[derive(Debug)]
pub(crate) struct Stub {
    pub(crate) state: Arc<Mutex<StubState>>,
    pub(crate) changed: Arc<Condvar>,
    pub(crate) start: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct StubState {
    /// The locks of this process.
    pub(crate) mine: BTreeMap<Key, LockMode>,
    /// The locks of the other process.
    pub(crate) theirs: BTreeMap<Key, LockMode>,
    /// How many of the next calls fail.
    pub(crate) failing_locks: usize,
    pub(crate) failing_unlocks: usize,
    /// The time that has passed.
    pub(crate) clock: Duration,
    /// How much time passes at each look at the clock.
    pub(crate) tick: Duration,
    /// The least time of a sleep. loom counts only up to 65535 in one run.
    pub(crate) least_sleep: Duration,
    /// When the other process releases its locks by itself.
    pub(crate) theirs_end: Option<Duration>,
    /// Whether it reports a wait for the other process as a deadlock.
    pub(crate) sees_deadlocks: bool,
    /// After so many such reports, the next call takes so long.
    pub(crate) sleep_in_lock: Option<(u32, Duration)>,
    /// Whether the holder is another process every time.
    pub(crate) holders_change: bool,
    pub(crate) holder: u32,
    /// Whether the descriptors are those of other files, as in a child made by fork.
    pub(crate) foreign: bool,
    pub(crate) closed: usize,
    /// Whether a deputy may have been disowned. Then the process can hold more of a lock than its threads know.
    pub(crate) disowned: bool,
    /// Whether the process can start no more threads.
    pub(crate) no_deputies: bool,
}

/// An open lock file.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) key: Key,
    pub(crate) kernel: Arc<Mutex<StubState>>,
}

impl Drop for File {
    fn drop(&mut self) {
        let mut kernel = self.kernel.lock().unwrap();
        kernel.closed += 1;
        // After a failed unlock, the lock has to be dropped by this close.
        let meant = std::mem::take(&mut kernel.failing_unlocks) > 0;
        let dropped = kernel.mine.remove(&self.key);
        assert!(meant || dropped.is_none(), "closing a descriptor dropped the {dropped:?} lock of {:?}", self.key);
    }
}

impl Stub {
    pub(crate) fn new(state: StubState) -> Self {
        let (state, changed) = (Arc::new(Mutex::new(state)), Arc::new(Condvar::new()));
        Stub { state, changed, start: Instant::now() }
    }
}

impl StubState {
    /// Whether the other process does not exclude this mode.
    pub(crate) fn is_free(&self, key: Key, mode: LockMode) -> bool {
        self.theirs.get(&key).is_none_or(|theirs| (*theirs, mode) == (Shared, Shared))
    }

    fn grant(&mut self, key: Key, mode: LockMode) -> bool {
        if self.theirs_end.is_some_and(|end| end <= self.clock) {
            self.theirs.clear();
        }
        let free = self.is_free(key, mode);
        if free {
            // The kernel would grant this, and change the mode of a lock that another thread relies on.
            let before = self.mine.insert(key, mode);
            assert!(before.is_none() || self.disowned, "two threads have asked the kernel for one lock");
        }
        free
    }
}

impl Kernel for Stub {
    type File = File;
    type Error = &'static str;

    fn lock(&self, file: &File, mode: LockMode) -> Result<bool, &'static str> {
        let mut state = self.state.lock().unwrap();
        if state.failing_locks > 0 {
            state.failing_locks -= 1;
            return Err("ENOLCK");
        }
        while !state.grant(file.key, mode) {
            if state.sees_deadlocks {
                match &mut state.sleep_in_lock {
                    Some((0, time)) => {
                        let time = std::mem::take(time);
                        state.clock += time;
                    }
                    Some((answers, _)) => *answers -= 1,
                    None => {}
                }
                return Ok(false);
            }
            state = self.changed.wait(state).unwrap();
        }
        Ok(true)
    }

    fn try_lock(&self, file: &File, mode: LockMode) -> Result<bool, &'static str> {
        Ok(self.state.lock().unwrap().grant(file.key, mode))
    }

    fn unlock(&self, file: &File) -> Result<(), &'static str> {
        let mut state = self.state.lock().unwrap();
        if state.failing_unlocks > 0 {
            return Err("EIO");
        }
        let unlocked = state.mine.remove(&file.key);
        assert!(unlocked.is_some() || state.disowned, "unlocked what was not locked");
        Ok(())
    }

    fn close_copy(&self, file: &File) {
        let mut state = self.state.lock().unwrap();
        assert!(std::mem::take(&mut state.failing_unlocks) > 0, "closed while unlocks work");
        state.mine.remove(&file.key);
    }

    fn is(&self, file: &File, key: Key) -> bool {
        file.key == key && !self.state.lock().unwrap().foreign
    }

    fn is_free(&self, file: &File, mode: LockMode) -> bool {
        self.state.lock().unwrap().is_free(file.key, mode)
    }

    fn holder(&self, _: &File, _: LockMode) -> Option<u32> {
        let mut state = self.state.lock().unwrap();
        state.holder += u32::from(state.holders_change);
        Some(state.holder)
    }

    fn now(&self) -> Instant {
        let mut state = self.state.lock().unwrap();
        let tick = state.tick;
        state.clock += tick;
        self.start + state.clock
    }

    fn sleep(&self, time: Duration) {
        let mut state = self.state.lock().unwrap();
        let least = state.least_sleep;
        state.clock += time.max(least);
        drop(state);
        loom::thread::yield_now();
    }

    fn give_way(&self, until: Instant) {
        let mut state = self.state.lock().unwrap();
        state.clock = state.clock.max(until - self.start);
        drop(state);
        loom::thread::yield_now();
    }

    const LOOKS: u32 = 1;

    fn relax(&self) {
        loom::thread::yield_now();
    }
}
