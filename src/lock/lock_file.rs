//! The state of one lock file that this process uses: who holds its lock, who waits for it, and since when. One mutex
//! guards it. Under that mutex, only rare system calls that do not block are made: the last user's close of the file,
//! F_GETLK, and the calls of a disowned deputy (`deputy.rs`).

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::super::sync::{Condvar, Mutex, MutexGuard};
use super::turn::Turn;
use crate::sys::LockMode;

/// If the kernel does not repeat EDEADLK within this time, the next EDEADLK is about another deadlock. The thread has
/// slept in F_SETLKW meanwhile, or has not run.
const DEADLOCK_FORGOTTEN: Duration = Duration::from_millis(500);

/// Device and inode of a lock file.
pub(in super::super) type Key = (u64, u64);

/// The number of a thread.
pub(in super::super) type Thread = u64;

/// How long to wait for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    Never,
    Until(Instant),
    Forever,
}

impl Wait {
    pub(super) fn is_over(self, now: Instant) -> bool {
        match self {
            Wait::Never => true,
            Wait::Until(deadline) => deadline <= now,
            Wait::Forever => false,
        }
    }
}

#[derive(Debug)]
pub(in super::super) struct LockFile<F> {
    key: Key,
    state: Mutex<State<F>>,
}

#[derive(Debug)]
pub(super) struct State<F> {
    /// `None` after an unlock failed: then the file was closed to release the lock.
    pub(super) file: Option<Arc<F>>,
    /// Other descriptors of the same file: opened by mistake, or given back after `file` was closed. To close one drops
    /// the process's locks on the file, so they stay open until nobody uses the file.
    pub(super) spare: Vec<Arc<F>>,
    pub(super) phase: Phase,
    holds: Vec<Hold>,
    /// The waiters in the order of arrival. Readers may pass readers.
    pub(super) queue: Vec<Waiter>,
    last_ticket: u64,
    /// What the thread that waits in the kernel was told about a deadlock.
    pub(super) stuck: Option<Stuck>,
    pub(super) turn: Option<Turn>,
    /// F_SETLKW has failed for a deputy, so waiters with a deadline poll instead.
    pub(super) no_deputies: bool,
    /// How many deputies were sent. It is also the number of the last one.
    pub(super) errands: u64,
    /// The number of the deputy that is waited for, in [`Phase::Deputed`].
    pub(super) awaited: u64,
    /// The number of a writer's deputy that has not come back. Readers do not wait for it.
    pub(super) writers: Option<u64>,
    /// The writer's deputy was disowned and is waited for again. A lock that it was granted in between may have been
    /// released since.
    pub(super) again: bool,
    /// Wakes disowned deputies that have come back and wait until no thread is in a system call.
    pub(super) disowned: Vec<Arc<Condvar>>,
}

/// What the process holds of a lock in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Free,
    /// One thread is in a system call that will change the phase.
    Busy,
    /// A deputy waits in F_SETLKW for this mode.
    Deputed(LockMode),
    /// A deputy was granted the lock, for the first waiter. No thread holds it.
    Brought(LockMode),
    /// Threads hold the lock.
    Held(LockMode),
}

/// A deadlock: nothing has changed from `since` until it was last `confirmed`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stuck {
    pub(super) since: Instant,
    pub(super) confirmed: Instant,
}

#[derive(Debug)]
struct Hold {
    thread: Thread,
    /// How many locks the thread held before this one.
    before: usize,
    label: Arc<Path>,
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) mode: LockMode,
    pub(super) wait: Wait,
    pub(super) ticket: u64,
    /// A condition variable of its own, so that only the first waiter is woken, and the time since when it waits.
    /// `None` until it has to wait.
    pub(super) asleep: Option<(Arc<Condvar>, Instant)>,
}

impl Stuck {
    /// Whether the deadlock was confirmed lately.
    pub(super) fn is_so(self, now: Instant) -> bool {
        now.saturating_duration_since(self.confirmed) < DEADLOCK_FORGOTTEN
    }
}

impl<F> LockFile<F> {
    pub(super) fn new(key: Key, turn: Option<Turn>) -> Self {
        let state = State {
            file: None,
            spare: Vec::new(),
            phase: Phase::Free,
            holds: Vec::new(),
            queue: Vec::new(),
            last_ticket: 0,
            stuck: None,
            turn,
            no_deputies: false,
            errands: 0,
            awaited: 0,
            writers: None,
            again: false,
            disowned: Vec::new(),
        };
        LockFile { key, state: Mutex::new(state) }
    }

    pub(in super::super) fn key(&self) -> Key {
        self.key
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State<F>> {
        // No code of a caller runs under the mutex, so a panic cannot have left the state inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a child made by fork, where the mutex may stay locked for ever by a thread that exists only in the parent.
    pub(super) fn state_if_idle(&self) -> Option<MutexGuard<'_, State<F>>> {
        self.state.try_lock().ok()
    }
}

impl<F> State<F> {
    /// Puts a waiter at the end of the queue.
    pub(super) fn queue_up(&mut self, mode: LockMode, wait: Wait) -> u64 {
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        self.queue.push(Waiter { mode, wait, ticket, asleep: None });
        ticket
    }

    /// Puts a waiter that left the queue back in its place.
    pub(super) fn come_back(&mut self, mode: LockMode, wait: Wait, ticket: u64) {
        let place = self.queue.partition_point(|waiter| waiter.ticket < ticket);
        self.queue.insert(place, Waiter { mode, wait, ticket, asleep: None });
    }

    pub(super) fn leave_queue(&mut self, ticket: u64) {
        self.queue.retain(|waiter| waiter.ticket != ticket);
        self.wake();
    }

    /// Whether it is this waiter's turn: no waiter is before it, or only readers are before it and it is a reader. At
    /// the end of the process's turn a reader waits for the readers before it, because only the first waiter gives way
    /// to other processes.
    pub(super) fn is_next(&self, mode: LockMode, ticket: u64, now: Instant) -> bool {
        let before = || self.before(ticket);
        before().next().is_none()
            || (mode == LockMode::Shared
                && before().all(|waiter| waiter.mode == LockMode::Shared)
                && !self.turn_is_over(now))
    }

    pub(super) fn before(&self, ticket: u64) -> impl Iterator<Item = &Waiter> {
        self.queue.iter().filter(move |waiter| waiter.ticket < ticket)
    }

    /// The condition variable of a waiter, and the time since when it waits.
    pub(super) fn asleep(&mut self, ticket: u64, now: Instant) -> Option<(Arc<Condvar>, Instant)> {
        let waiter = self.queue.iter_mut().find(|waiter| waiter.ticket == ticket)?;
        Some(waiter.asleep.get_or_insert_with(|| (Arc::new(Condvar::new()), now)).clone())
    }

    /// The holders that a waiter waits for, directly or because of waiters before it in the queue. A writer waits for
    /// all that are before it, a reader for the writers. Empty if it is no longer in the queue.
    pub(super) fn in_the_way(&self, ticket: u64, mode: LockMode) -> Vec<Thread> {
        let writer = |waiter: &Waiter| waiter.mode == LockMode::Exclusive && waiter.wait != Wait::Never;
        let waits = self.queue.iter().any(|waiter| waiter.ticket == ticket);
        let excludes = |held| [held, mode].contains(&LockMode::Exclusive) || self.before(ticket).any(writer);
        let blocked = waits && matches!(self.phase, Phase::Held(held) if excludes(held));
        self.holds.iter().filter(|_| blocked).map(|hold| hold.thread).collect()
    }

    pub(super) fn turn_is_over(&self, now: Instant) -> bool {
        self.turn.is_some_and(|turn| turn.is_over(now))
    }

    /// The kernel has granted the lock to a thread or to a deputy.
    pub(super) fn granted(&mut self, phase: Phase, now: Instant, paused: bool) {
        self.phase = phase;
        self.stuck = None;
        self.turn = Some(Turn::next(self.turn, now, paused));
    }

    /// Records one more hold of `thread`.
    pub(super) fn hold(&mut self, thread: Thread, before: usize, label: &Arc<Path>) {
        self.holds.push(Hold { thread, before, label: label.clone() });
    }

    /// Removes a hold. False: the thread has none.
    pub(super) fn let_go(&mut self, thread: Thread, label: &Arc<Path>) -> bool {
        let held = self.holds.iter().rposition(|hold| hold.thread == thread && Arc::ptr_eq(&hold.label, label));
        held.map(|held| self.holds.swap_remove(held)).is_some()
    }

    pub(super) fn is_held(&self) -> bool {
        !self.holds.is_empty()
    }

    pub(super) fn is_held_by(&self, thread: Thread) -> bool {
        self.holds.iter().any(|hold| hold.thread == thread)
    }

    /// The holds of `thread`, each with the number of locks that it held before.
    pub(super) fn held_by(&self, thread: Thread) -> impl Iterator<Item = (usize, Arc<Path>)> {
        self.holds.iter().filter(move |hold| hold.thread == thread).map(|hold| (hold.before, hold.label.clone()))
    }

    /// Takes back a descriptor that a thread has used.
    pub(super) fn give_back(&mut self, open: Option<Arc<F>>) {
        let other = |open: &Arc<F>| self.file.as_ref().is_none_or(|file| !Arc::ptr_eq(file, open));
        // It may be the last reference to that descriptor. Closing it now would drop the locks that others hold.
        let kept = open.filter(other);
        self.spare.extend(kept);
    }

    /// Closes every descriptor that no thread uses. Ignores errors.
    pub(super) fn close(&mut self) {
        self.file = None;
        self.spare.clear();
    }

    /// Wakes the first waiter. If it cannot go on, no waiter behind it can. When it holds the lock or gives up, it
    /// wakes the next.
    pub(super) fn wake(&self) {
        if let Some((bell, _)) = self.queue.first().and_then(|waiter| waiter.asleep.as_ref()) {
            bell.notify_one();
        }
        self.disowned.iter().for_each(|bell| bell.notify_one());
    }

    pub(super) fn wake_all(&self) {
        for (bell, _) in self.queue.iter().filter_map(|waiter| waiter.asleep.as_ref()) {
            bell.notify_one();
        }
    }
}
