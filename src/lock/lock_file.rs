//! One lock file that somebody in this process uses, and all that is about it alone: who holds its lock, who waits for
//! it, and since when. Its mutex guards that. No system call is made under it but those that wait for nobody and are
//! rare: the closing of the file by its last user, F_GETLK, and what brings the kernel into line after a deputy that
//! came too late.

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::super::sync::{Condvar, Mutex, MutexGuard};
use super::turn::Turn;
use crate::sys::LockMode;

/// After so long without the kernel's word the next one is about another deadlock: the thread has slept in F_SETLKW
/// meanwhile, or has not run.
const DEADLOCK_FORGOTTEN: Duration = Duration::from_millis(500);

/// Device and inode of a lock file.
pub(in super::super) type Key = (u64, u64);

/// A thread, by a number of its own.
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
    /// `None` after an unlock has failed: closing the file was the way to let go.
    pub(super) file: Option<Arc<F>>,
    /// Descriptors of the same file that were opened by mistake, or given back after `file` had been closed. Closing
    /// one drops the process's locks on the file, so they wait until nobody uses it.
    pub(super) spare: Vec<Arc<F>>,
    pub(super) phase: Phase,
    holds: Vec<Hold>,
    /// Who waits for it, in the order of arrival. Readers may go in past readers.
    pub(super) queue: Vec<Waiter>,
    last_ticket: u64,
    /// The kernel tells the thread that asks it of a deadlock.
    pub(super) stuck: Option<Stuck>,
    pub(super) turn: Option<Turn>,
    /// F_SETLKW has failed for a deputy: those who wait with a limit poll instead.
    pub(super) no_deputies: bool,
    /// How many deputies have been sent, which is the number of the last one.
    pub(super) errands: u64,
    /// The one that is waited for, in [`Phase::Deputed`].
    pub(super) awaited: u64,
    /// The one that a writer has sent, if it has not come back. It is not waited for while readers come and go.
    pub(super) writers: Option<u64>,
    /// It was disowned, and is waited for again: what it was granted meanwhile may have been let go since.
    pub(super) again: bool,
    /// What wakes deputies that have come back, were not waited for, and wait until nobody is in a system call.
    pub(super) disowned: Vec<Arc<Condvar>>,
}

/// What the process has of a lock, in the kernel's eyes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Free,
    /// One thread is in a system call that will change it.
    Busy,
    /// A deputy sleeps in F_SETLKW for this.
    Deputed(LockMode),
    /// A deputy has it, for the first in the queue. Nobody is inside.
    Brought(LockMode),
    /// Somebody is inside.
    Held(LockMode),
}

/// Nothing has moved `since` then, as of when it was `confirmed`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stuck {
    pub(super) since: Instant,
    pub(super) confirmed: Instant,
}

#[derive(Debug)]
struct Hold {
    thread: Thread,
    /// How many locks the thread held before.
    before: usize,
    label: Arc<Path>,
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) mode: LockMode,
    pub(super) wait: Wait,
    pub(super) ticket: u64,
    /// Of its own, so that only the first in the queue is woken; and since when it waits. None until it has to.
    pub(super) asleep: Option<(Arc<Condvar>, Instant)>,
}

impl Stuck {
    /// Whether it is still so, as far as anybody knows.
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
        // No code of a caller runs under the mutex, so a panic cannot have left it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a child made by fork, where a thread that exists in the parent only may have it for ever.
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

    /// Puts a waiter that has left back in its place.
    pub(super) fn come_back(&mut self, mode: LockMode, wait: Wait, ticket: u64) {
        let place = self.queue.partition_point(|waiter| waiter.ticket < ticket);
        self.queue.insert(place, Waiter { mode, wait, ticket, asleep: None });
    }

    pub(super) fn leave_queue(&mut self, ticket: u64) {
        self.queue.retain(|waiter| waiter.ticket != ticket);
        self.wake();
    }

    /// Whether it is this waiter's turn: nobody is before it, or readers only that need not be waited for to wake up. At the
    /// end of the process's turn they are, because only the first gives way to other processes.
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

    /// What wakes a waiter, and since when it waits.
    pub(super) fn asleep(&mut self, ticket: u64, now: Instant) -> Option<(Arc<Condvar>, Instant)> {
        let waiter = self.queue.iter_mut().find(|waiter| waiter.ticket == ticket)?;
        Some(waiter.asleep.get_or_insert_with(|| (Arc::new(Condvar::new()), now)).clone())
    }

    /// The holders that a waiter waits for, itself or by way of those before it in the queue: a writer waits for all that
    /// are before it, a reader for the writers. Nobody, if it is in the queue no more.
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

    /// The kernel has granted the lock, to somebody who goes in or to a deputy.
    pub(super) fn granted(&mut self, phase: Phase, now: Instant, paused: bool) {
        self.phase = phase;
        self.stuck = None;
        self.turn = Some(Turn::next(self.turn, now, paused));
    }

    /// Puts down that `thread` holds the lock once more.
    pub(super) fn hold(&mut self, thread: Thread, before: usize, label: &Arc<Path>) {
        self.holds.push(Hold { thread, before, label: label.clone() });
    }

    /// The opposite of [`hold`](Self::hold). False: it holds nothing.
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

    /// What `thread` holds here, each with the number of locks that it held before.
    pub(super) fn held_by(&self, thread: Thread) -> impl Iterator<Item = (usize, Arc<Path>)> {
        self.holds.iter().filter(move |hold| hold.thread == thread).map(|hold| (hold.before, hold.label.clone()))
    }

    /// Takes back the descriptor that somebody had in use.
    pub(super) fn give_back(&mut self, open: Option<Arc<F>>) {
        let other = |open: &Arc<F>| self.file.as_ref().is_none_or(|file| !Arc::ptr_eq(file, open));
        // It may be the last that keeps the file open, and to close it now would drop the lock that others have.
        let kept = open.filter(other);
        self.spare.extend(kept);
    }

    /// Closes every descriptor that nobody has in use, which cannot fail.
    pub(super) fn close(&mut self) {
        self.file = None;
        self.spare.clear();
    }

    /// Wakes the first in the queue: what the first cannot do now, nobody behind it can. When it has gone in or given up, it
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
