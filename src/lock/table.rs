//! The threads of this process taking turns at lock files: a state machine, apart from the system calls.
//!
//! The kernel's record locks belong to processes ([fcntl_locking(2)], "Advisory record locking"): it grants every
//! thread of a process whatever one of them holds, and drops all of the process's locks on a file when any
//! descriptor of that file is closed. So there is one table a process. It holds one descriptor a lock file, keyed by
//! the file's device and inode, so that two spellings of one lock directory meet here; it admits threads in the
//! order of their arrival, except that readers do not wait for readers, and lets one at a time ask the kernel.
//!
//! One mutex guards everything. No system call is made under it but those that look at, make, open and close lock files,
//! which must not cross each other: closing the last descriptor of a lock file after another thread has opened and locked
//! the same file would drop that lock.
//!
//! [fcntl_locking(2)]: https://man7.org/linux/man-pages/man2/fcntl_locking.2.html

// By their paths, because tests and fuzz targets put this file into crates of their own.
#[path = "kernel.rs"]
mod kernel;
#[path = "state.rs"]
mod state;

use std::mem;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

pub(super) use self::kernel::Kernel;
use self::kernel::deadlock_persists;
pub(super) use self::state::State;
use self::state::{Entry, Phase, Waiter};
use super::sync::{Condvar, Mutex, MutexGuard};
use crate::sys::LockMode;

/// Device and inode of a lock file.
pub(super) type Key = (u64, u64);

/// A thread, by a number of its own.
pub(super) type Thread = u64;

/// How long to wait for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    Never,
    Until(Instant),
    Forever,
}

impl Wait {
    fn is_over(self, now: Instant) -> bool {
        match self {
            Wait::Never => true,
            Wait::Until(deadline) => deadline <= now,
            Wait::Forever => false,
        }
    }
}

/// Who wants which lock, how, and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    /// The lock file. The caller is in the table as a user of it.
    pub(super) key: Key,
    pub(super) mode: LockMode,
    pub(super) wait: Wait,
    /// How many locks the thread has taken in this call already, in the order common to all such calls. If it holds no
    /// others, no such call can be in a cycle with it.
    pub(super) in_order: usize,
    pub(super) thread: Thread,
    /// What is locked, for the error of somebody who meets a deadlock.
    pub(super) label: &'a Arc<Path>,
}

/// Why a lock was not granted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal<E> {
    WouldBlock,
    /// True: a thread of this process is in the way.
    TimedOut(bool),
    /// The labels of the locks that the thread holds.
    Deadlock(Vec<Arc<Path>>),
    /// The lock file is not in the table any more: enter it again.
    Gone,
    Kernel(E),
}

#[derive(Debug)]
pub(super) struct Table<K: Kernel> {
    kernel: K,
    state: Mutex<State<K::File>>,
}

impl<K: Kernel> Table<K> {
    /// The mutex is made by the caller, so that it can be made before `main` as well as by a model checker.
    pub(super) const fn new(kernel: K, state: Mutex<State<K::File>>) -> Self {
        Table { kernel, state }
    }

    fn state(&self) -> MutexGuard<'_, State<K::File>> {
        // No code of a caller runs under the mutex, so a panic cannot have left it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a user of a lock file into the table; [`leave`](Self::leave) takes it out again. `identify` looks
    /// which file it is without opening it, which is what keeps the table from opening a file twice; it is asked
    /// only if there is a file that could be the same.
    pub(super) fn enter<E>(
        &self,
        identify: impl FnOnce() -> Result<Option<Key>, E>,
        open: impl FnOnce() -> Result<(Key, K::File), E>,
    ) -> Result<Key, E> {
        let mut state = self.state();
        if !state.entries.is_empty() {
            if let Some(key) = identify()? {
                if let Some(entry) = state.entries.get_mut(&key).filter(|entry| entry.file.is_some()) {
                    entry.users += 1;
                    return Ok(key);
                }
            }
        }
        let (key, file) = open()?;
        let turn = state.take_left(key);
        let entry = state.entries.entry(key).or_insert_with(|| {
            self.kernel.opened(key);
            Entry::new(turn)
        });
        match entry.file {
            None => entry.file = Some(Arc::new(file)),
            // The name led to another file a moment ago.
            Some(_) => entry.spare.push(Arc::new(file)),
        }
        entry.users += 1;
        Ok(key)
    }

    /// Puts another descriptor in the place of one that does not allow enough. The old one stays open. False: the name leads to
    /// another file by now, or to none.
    pub(super) fn reopen<E>(
        &self,
        key: Key,
        open: impl FnOnce() -> Result<Option<(Key, K::File)>, E>,
    ) -> Result<bool, E> {
        let mut state = self.state();
        let Some((opened, file)) = open()? else { return Ok(false) };
        if let Some(entry) = state.entries.get_mut(&opened) {
            let kept = if opened == key { entry.file.replace(Arc::new(file)) } else { Some(Arc::new(file)) };
            entry.spare.extend(kept);
        }
        Ok(opened == key)
    }

    fn close_if_unused(&self, state: &mut State<K::File>, key: Key) {
        if state.close_if_unused(key) {
            self.kernel.closed(key);
        }
    }

    /// What the table is built on.
    pub(super) fn kernel(&self) -> &K {
        &self.kernel
    }

    /// Takes a user out of the table.
    pub(super) fn leave(&self, key: Key) {
        let mut state = self.state();
        if let Some(entry) = state.entries.get_mut(&key) {
            entry.users -= 1;
        }
        self.close_if_unused(&mut state, key);
    }

    /// Takes a lock.
    pub(super) fn acquire(&self, request: &Request<'_>) -> Result<(), Refusal<K::Error>> {
        let Request { key, mode, wait, thread, label, .. } = *request;
        let mut state = self.state();
        let ticket = state.ticket();
        let Some(entry) = state.entries.get_mut(&key) else { return Err(Refusal::Gone) };
        entry.queue.push(Waiter { mode, wait, thread, ticket, asleep: None });
        let mut drain = None;
        let mut looks = 0;
        let result = loop {
            // With somebody in its queue it stays.
            let Some(entry) = state.entries.get_mut(&key) else { break Err(Refusal::Gone) };
            let held = matches!(entry.phase, Phase::Held(_));
            let now = self.kernel.now();
            // All that were inside have left.
            drain = drain.filter(|_| entry.phase == Phase::Held(LockMode::Shared));
            match Some(entry.phase).filter(|_| entry.is_next(mode, ticket, now)) {
                Some(Phase::Free) => {
                    let result;
                    (state, result) = self.ask_kernel(state, request, now);
                    break result;
                }
                Some(Phase::Held(LockMode::Shared)) if mode == LockMode::Shared && !entry.is_held_by(thread) => {
                    if !entry.turn_is_over(now) || wait.is_over(now) {
                        break Ok(());
                    }
                    if *drain.get_or_insert(now + entry.turn_drain()) <= now {
                        entry.lengthen_turn(now);
                        break Ok(());
                    }
                }
                // To sleep and to be woken takes longer than most of what others do here. Who only tries waits for no holder.
                _ if looks < K::LOOKS && drain.is_none() && !(held && wait == Wait::Never) => {
                    looks += 1;
                    drop(state);
                    self.kernel.relax();
                    state = self.state();
                    continue;
                }
                _ => {}
            }
            let refusal;
            (state, refusal) = self.wait_for_change(state, request, ticket, drain);
            if let Some(refusal) = refusal {
                break Err(refusal);
            }
        };
        if let Some(entry) = state.entries.get_mut(&key) {
            entry.queue.retain(|waiter| waiter.ticket != ticket);
            entry.wake();
        }
        match result {
            Ok(()) => state.hold(key, thread, label),
            // Its last user may have left meanwhile.
            Err(_) => self.close_if_unused(&mut state, key),
        }
        result
    }

    /// One more hold of a lock that `thread` has: it is let go with the last one.
    pub(super) fn hold_again(&self, key: Key, thread: Thread, label: &Arc<Path>) {
        self.state().hold(key, thread, label);
    }

    /// Lets go of what [`acquire`](Self::acquire) granted to `thread`.
    pub(super) fn release(&self, key: Key, thread: Thread) {
        let mut state = self.state();
        if !state.let_go(key, thread) {
            return;
        }
        if state.entries.get(&key).is_some_and(|entry| !entry.is_held()) {
            let file = state.entries.get_mut(&key).and_then(|entry| {
                entry.phase = Phase::Busy;
                entry.file.clone()
            });
            drop(state);
            let unlocked = file.as_ref().map(|file| self.kernel.unlock(file));
            let now = self.kernel.now();
            state = self.state();
            drop(file);
            if let Some(entry) = state.entries.get_mut(&key) {
                entry.phase = Phase::Free;
                if let Some(turn) = &mut entry.turn {
                    turn.released = Some(now);
                }
                if let Some(Err(_)) = unlocked {
                    // A close cannot fail to let go.
                    entry.file = None;
                    entry.spare.clear();
                }
            }
        }
        if let Some(entry) = state.entries.get(&key) {
            entry.wake();
        }
        self.close_if_unused(&mut state, key);
    }

    /// How this process holds the lock.
    pub(super) fn held(&self, key: Key) -> Option<LockMode> {
        match self.state().entries.get(&key)?.phase {
            Phase::Held(mode) => Some(mode),
            Phase::Free | Phase::Busy => None,
        }
    }

    /// Closes every lock file, if nobody is using the table: for a child that has inherited it by fork.
    ///
    /// The kernel copies the descriptors before the memory (`copy_process` in kernel/fork.c), so what another thread of the parent
    /// opened in between is in this table only. Its number may be that of a file of the child's own by now, which is not ours to
    /// close.
    pub(super) fn close_all_if_idle(&self) {
        let Ok(mut state) = self.state.try_lock() else { return };
        for (key, entry) in mem::take(&mut state.entries) {
            for file in entry.file.into_iter().chain(entry.spare) {
                if !self.kernel.is(&file, key) {
                    mem::forget(file);
                }
            }
        }
    }

    /// Calls `ask` with the open lock file.
    pub(super) fn with_file<T>(&self, key: Key, ask: impl FnOnce(&K::File) -> T) -> Option<T> {
        let mut state = self.state();
        let entry = state.entries.get_mut(&key)?;
        let file = entry.file.clone()?;
        entry.users += 1;
        drop(state);
        let answer = ask(&file);
        // In this order: nobody else may open the file between the leaving and the closing.
        let state = self.state();
        drop(file);
        drop(state);
        self.leave(key);
        Some(answer)
    }

    /// Waits until something about the lock has changed, or until `drain`.
    #[expect(clippy::type_complexity, reason = "the mutex guard goes in and comes out again")]
    fn wait_for_change<'a>(
        &'a self,
        mut state: MutexGuard<'a, State<K::File>>,
        request: &Request<'_>,
        ticket: u64,
        drain: Option<Instant>,
    ) -> (MutexGuard<'a, State<K::File>>, Option<Refusal<K::Error>>) {
        let Request { key, mode, wait, in_order, thread, .. } = *request;
        let now = self.kernel.now();
        if wait == Wait::Never {
            return (state, Some(Refusal::WouldBlock));
        }
        let queue = state.entries.get_mut(&key).map(|entry| &mut entry.queue);
        let Some(me) = queue.and_then(|queue| queue.iter_mut().find(|waiter| waiter.ticket == ticket)) else {
            return (state, Some(Refusal::Gone));
        };
        let begins = me.asleep.is_none();
        let (changed, since) = me.asleep.get_or_insert_with(|| (Arc::new(Condvar::new()), now)).clone();
        // Only when somebody begins to wait can a cycle close.
        if begins && state.would_wait_for_itself(key, thread, mode, ticket) {
            let held = state.held_by(thread);
            return (state, Some(Refusal::Deadlock(held)));
        }
        if drain.is_none() && wait.is_over(now) {
            let by_thread = state.entries.get(&key).is_some_and(Entry::is_held);
            return (state, Some(Refusal::TimedOut(by_thread)));
        }
        let deadline = if let Wait::Until(deadline) = wait { Some(deadline) } else { None };
        let state = match deadline.into_iter().chain(drain).min() {
            None => changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(end) => {
                let left = end.saturating_duration_since(now);
                changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        // What the thread that asks was told may be about this thread, unless this one ends its wait by itself.
        let stuck = state.entries.get(&key).and_then(|entry| entry.stuck).filter(|_| wait == Wait::Forever);
        let refusal = stuck.and_then(|stuck| {
            let (now, holds) = (self.kernel.now(), state.holds(thread));
            let stuck_for = now.saturating_duration_since(since.max(stuck.since));
            let persists = stuck_for >= deadlock_persists(in_order, holds);
            (holds > 0 && persists && stuck.is_so(now)).then(|| Refusal::Deadlock(state.held_by(thread)))
        });
        (state, refusal)
    }
}
