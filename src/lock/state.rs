//! What the table knows: who holds what, who waits for what, since when, and whether somebody waits for itself.
//!
//! Everything here is under the table's one mutex, and makes no system call.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::sync::Condvar;
use super::{Key, Thread, Wait};
use crate::sys::LockMode;

// A process whose threads hand a lock round, or whose readers overlap, keeps it for a turn of 10 ms; then those readers
// that are inside leave before others are let in, and the kernel's lock is let go for a moment.

/// For how long, at first, a reader waits for those inside to leave at the end of a turn. They may be slow, or even wait
/// for this very reader; so it joins them after all, and at the end of the next turn, [`TURN_PER_DRAIN`] times as long
/// as the wait, the wait is twice as long, up to [`LONGEST_DRAIN`].
pub(super) const DRAIN: Duration = Duration::from_millis(2);
const LONGEST_DRAIN: Duration = Duration::from_secs(1);
const TURN_PER_DRAIN: u32 = 5;

/// For how long after its turn a process does not ask for the lock again, so that one that sleeps in F_SETLKW can be
/// scheduled and take it. The kernel wakes waiters but does not hand them the lock.
pub(super) const PAUSE: Duration = Duration::from_micros(200);

/// After so long without the kernel's word the next one is about another deadlock: the thread has slept in F_SETLKW meanwhile,
/// or has not run.
const DEADLOCK_FORGOTTEN: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(in super::super) struct State<F> {
    pub(super) entries: BTreeMap<Key, Entry<F>>,
    /// Who holds what.
    pub(super) holds: Vec<Hold>,
    /// Who waits for what, in the order of arrival. Readers may go in past readers.
    pub(super) queue: Vec<Waiter>,
    pub(super) next_ticket: u64,
    /// When this process's turn at a lock began and when it last let go of it. Entries come and go with every call
    /// that is made by path, turns must not; so they are kept apart, in a fixed number of places. Two keys that
    /// share a place cost each other a pause now and then.
    pub(super) turns: [Option<Turn>; 64],
}

/// A lock file that somebody in this process uses.
#[derive(Debug)]
pub(super) struct Entry<F> {
    /// `None` after an unlock has failed: closing the file was the way to let go.
    pub(super) file: Option<Arc<F>>,
    /// Descriptors of the same file that were opened by mistake. Closing one drops the process's locks on the file,
    /// so they wait until nobody uses it.
    pub(super) spare: Vec<Arc<F>>,
    pub(super) phase: Phase,
    /// Handles that will come back.
    pub(super) users: usize,
    /// The kernel tells the thread that asks it of a deadlock.
    pub(super) stuck: Option<Stuck>,
}

/// Nothing has moved `since` then, as of when it was `confirmed`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stuck {
    pub(super) since: Instant,
    pub(super) confirmed: Instant,
}

/// What the process has of a lock, in the kernel's eyes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Free,
    /// One thread is in a system call that will change it.
    Busy,
    Held(LockMode),
}

#[derive(Debug)]
pub(super) struct Hold {
    pub(super) key: Key,
    pub(super) thread: Thread,
    pub(super) label: Arc<Path>,
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) key: Key,
    pub(super) mode: LockMode,
    pub(super) wait: Wait,
    pub(super) thread: Thread,
    pub(super) ticket: u64,
    /// Of its own, so that only the first in the queue is woken; and since when it waits. None until it has to.
    pub(super) asleep: Option<(Arc<Condvar>, Instant)>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    pub(super) began: Instant,
    pub(super) drain: Duration,
    pub(super) released: Option<Instant>,
}

impl Stuck {
    /// Whether it is still so, as far as anybody knows.
    pub(super) fn is_so(self, now: Instant) -> bool {
        now.saturating_duration_since(self.confirmed) < DEADLOCK_FORGOTTEN
    }
}

impl Turn {
    /// Whether taking the lock now would go on with this turn: others have had no chance since.
    pub(super) fn goes_on(&self, now: Instant) -> bool {
        self.released.is_none_or(|released| now.saturating_duration_since(released) < PAUSE)
    }
}

impl<F> State<F> {
    pub(in super::super) const fn new() -> Self {
        State { entries: BTreeMap::new(), holds: Vec::new(), queue: Vec::new(), next_ticket: 0, turns: [None; 64] }
    }

    /// Whether it is this waiter's turn: nobody is before it, or readers only that need not be waited for to wake up. At the
    /// end of the process's turn they are, because only the first gives way to other processes.
    pub(super) fn is_next(&self, key: Key, mode: LockMode, ticket: u64, now: Instant) -> bool {
        let before = || self.before(key, ticket);
        before().next().is_none()
            || (mode == LockMode::Shared
                && before().all(|waiter| waiter.mode == LockMode::Shared)
                && !self.turn_is_over(key, now))
    }

    fn before(&self, key: Key, ticket: u64) -> impl Iterator<Item = &Waiter> {
        self.queue.iter().filter(move |waiter| waiter.key == key && waiter.ticket < ticket)
    }

    pub(super) fn turn_is_over(&self, key: Key, now: Instant) -> bool {
        self.turns[place(key)].is_some_and(|turn| {
            turn.goes_on(now) && now.saturating_duration_since(turn.began) > turn.drain * TURN_PER_DRAIN
        })
    }

    pub(super) fn turn_drain(&self, key: Key) -> Duration {
        self.turns[place(key)].map_or(DRAIN, |turn| turn.drain)
    }

    pub(super) fn lengthen_turn(&mut self, key: Key, now: Instant) {
        if let Some(turn) = &mut self.turns[place(key)] {
            *turn = Turn { began: now, drain: (turn.drain * 2).min(LONGEST_DRAIN), ..*turn };
        }
    }

    pub(super) fn holds(&self, key: Key, thread: Thread) -> bool {
        self.holds.iter().any(|hold| hold.key == key && hold.thread == thread)
    }

    pub(super) fn held_by(&self, thread: Thread) -> Vec<Arc<Path>> {
        self.holds.iter().filter(|hold| hold.thread == thread).map(|hold| hold.label.clone()).collect()
    }

    /// Whether a chain of threads, each waiting for the next, leads from a waiter back to itself. A writer waits for those
    /// who hold the lock and for those before it in the queue, a reader for the writers among them.
    pub(super) fn would_wait_for_itself(&self, key: Key, thread: Thread, mode: LockMode, last: u64) -> bool {
        // Nobody can wait for a thread that holds nothing and came last.
        if !self.holds.iter().any(|hold| hold.thread == thread) {
            return false;
        }
        // A reader, too: it would not let others in.
        if self.holds(key, thread) {
            return true;
        }
        let mut seen = BTreeSet::new();
        let mut todo = vec![(key, mode, last)];
        while let Some((key, mode, ticket)) = todo.pop() {
            let excludes = |other: LockMode| mode == LockMode::Exclusive || other == LockMode::Exclusive;
            let phase = self.entries.get(&key).map(|entry| entry.phase);
            let in_the_way = matches!(phase, Some(Phase::Held(other)) if excludes(other));
            let holders = self.holds.iter().filter(|hold| in_the_way && hold.key == key).map(|hold| hold.thread);
            let before = self.before(key, ticket).filter(|waiter| excludes(waiter.mode)).map(|waiter| waiter.thread);
            for other in holders.chain(before) {
                if other == thread {
                    return true;
                }
                if seen.insert(other) {
                    // Whoever comes last closes a cycle, and is told; who only tries closes none.
                    let waits =
                        self.queue.iter().filter(|it| it.thread == other && it.ticket < last && it.wait != Wait::Never);
                    todo.extend(waits.map(|waiter| (waiter.key, waiter.mode, waiter.ticket)));
                }
            }
        }
        false
    }

    /// Wakes the first in the queue: what the first cannot do now, nobody behind it can. When it has gone in or given up, it
    /// wakes the next.
    pub(super) fn wake(&self, key: Key) {
        if let Some((changed, _)) = self.queue.iter().find(|waiter| waiter.key == key).and_then(|w| w.asleep.as_ref()) {
            changed.notify_one();
        }
    }

    pub(super) fn wake_all(&self, key: Key) {
        for (changed, _) in self.queue.iter().filter(|waiter| waiter.key == key).filter_map(|w| w.asleep.as_ref()) {
            changed.notify_one();
        }
    }

    /// True: it has been closed.
    pub(super) fn close_if_unused(&mut self, key: Key) -> bool {
        let waited_for = self.queue.iter().any(|waiter| waiter.key == key);
        let unused = |entry: &Entry<F>| entry.users == 0 && entry.phase == Phase::Free && !waited_for;
        self.entries.get(&key).is_some_and(unused) && self.entries.remove(&key).is_some()
    }
}

/// Where the turns of a lock file are kept.
pub(super) fn place(key: Key) -> usize {
    // Inode numbers of files made one after the other differ in their lowest bits.
    (key.1 % 64) as usize
}
