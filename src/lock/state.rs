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
    /// How many locks each thread holds that holds one.
    holding: BTreeMap<Thread, usize>,
    /// The number of the next one who comes, to any lock file.
    next_ticket: u64,
    /// The turns of lock files that were closed a moment ago. Handles that are used once come and go, turns must not, or a
    /// process that makes a new handle for each call would shut others out. There are as many as can be closed within
    /// [`PAUSE`], since they mean nothing after that.
    left: Vec<(Key, Turn)>,
}

/// A lock file that somebody in this process uses, and all that is about it alone.
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
    /// Who holds it.
    holds: Vec<Hold>,
    /// Who waits for it, in the order of arrival. Readers may go in past readers.
    pub(super) queue: Vec<Waiter>,
    /// The kernel tells the thread that asks it of a deadlock.
    pub(super) stuck: Option<Stuck>,
    pub(super) turn: Option<Turn>,
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
struct Hold {
    thread: Thread,
    /// When it came.
    ticket: u64,
    label: Arc<Path>,
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) mode: LockMode,
    pub(super) wait: Wait,
    pub(super) thread: Thread,
    pub(super) ticket: u64,
    /// Of its own, so that only the first in the queue is woken; and since when it waits. None until it has to.
    pub(super) asleep: Option<(Arc<Condvar>, Instant)>,
}

/// When this process's turn at a lock began and when it last let go of it.
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

impl<F> Entry<F> {
    pub(super) fn new(turn: Option<Turn>) -> Self {
        Entry {
            file: None,
            spare: Vec::new(),
            phase: Phase::Free,
            users: 0,
            holds: Vec::new(),
            queue: Vec::new(),
            stuck: None,
            turn,
        }
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

    fn before(&self, ticket: u64) -> impl Iterator<Item = &Waiter> {
        self.queue.iter().filter(move |waiter| waiter.ticket < ticket)
    }

    pub(super) fn turn_is_over(&self, now: Instant) -> bool {
        self.turn.is_some_and(|turn| {
            turn.goes_on(now) && now.saturating_duration_since(turn.began) > turn.drain * TURN_PER_DRAIN
        })
    }

    pub(super) fn turn_drain(&self) -> Duration {
        self.turn.map_or(DRAIN, |turn| turn.drain)
    }

    pub(super) fn lengthen_turn(&mut self, now: Instant) {
        if let Some(turn) = &mut self.turn {
            *turn = Turn { began: now, drain: (turn.drain * 2).min(LONGEST_DRAIN), ..*turn };
        }
    }

    pub(super) fn is_held(&self) -> bool {
        !self.holds.is_empty()
    }

    pub(super) fn is_held_by(&self, thread: Thread) -> bool {
        self.holds.iter().any(|hold| hold.thread == thread)
    }

    /// Wakes the first in the queue: what the first cannot do now, nobody behind it can. When it has gone in or given up, it
    /// wakes the next.
    pub(super) fn wake(&self) {
        if let Some((changed, _)) = self.queue.first().and_then(|waiter| waiter.asleep.as_ref()) {
            changed.notify_one();
        }
    }

    pub(super) fn wake_all(&self) {
        for (changed, _) in self.queue.iter().filter_map(|waiter| waiter.asleep.as_ref()) {
            changed.notify_one();
        }
    }
}

impl<F> State<F> {
    pub(in super::super) const fn new() -> Self {
        State { entries: BTreeMap::new(), holding: BTreeMap::new(), next_ticket: 0, left: Vec::new() }
    }

    pub(super) fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    /// The turn of a lock file that is opened again.
    pub(super) fn take_left(&mut self, key: Key) -> Option<Turn> {
        let found = self.left.iter().position(|(left, _)| *left == key)?;
        Some(self.left.swap_remove(found).1)
    }

    /// Puts down that `thread` holds a lock once more.
    pub(super) fn hold(&mut self, key: Key, thread: Thread, label: &Arc<Path>) {
        let ticket = self.ticket();
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.holds.push(Hold { thread, ticket, label: label.clone() });
            *self.holding.entry(thread).or_default() += 1;
        }
    }

    /// The opposite of [`hold`](Self::hold). False: it holds nothing.
    pub(super) fn let_go(&mut self, key: Key, thread: Thread) -> bool {
        let Some(entry) = self.entries.get_mut(&key) else { return false };
        let Some(held) = entry.holds.iter().position(|hold| hold.thread == thread) else { return false };
        entry.holds.swap_remove(held);
        if let Some(count) = self.holding.get_mut(&thread) {
            *count -= 1;
            if *count == 0 {
                self.holding.remove(&thread);
            }
        }
        true
    }

    /// How many locks a thread holds.
    pub(super) fn holds(&self, thread: Thread) -> usize {
        self.holding.get(&thread).copied().unwrap_or(0)
    }

    /// Their labels, in the order in which it took them. Looks through everything: for errors.
    pub(super) fn held_by(&self, thread: Thread) -> Vec<Arc<Path>> {
        let holds = self.entries.values().flat_map(|entry| &entry.holds);
        let mut held: Vec<_> = holds.filter(|hold| hold.thread == thread).collect();
        held.sort_by_key(|hold| hold.ticket);
        held.into_iter().map(|hold| hold.label.clone()).collect()
    }

    /// Whether a chain of threads, each waiting for the next, leads from a waiter back to itself. A writer waits for those
    /// who hold the lock and for those before it in the queue, a reader for the writers among them.
    pub(super) fn would_wait_for_itself(&self, key: Key, thread: Thread, mode: LockMode, last: u64) -> bool {
        // Nobody can wait for a thread that holds nothing and came last.
        if self.holds(thread) == 0 {
            return false;
        }
        // A reader, too: it would not let others in.
        if self.entries.get(&key).is_some_and(|entry| entry.is_held_by(thread)) {
            return true;
        }
        let mut seen = BTreeSet::new();
        let mut todo = vec![(key, mode, last)];
        while let Some((key, mode, ticket)) = todo.pop() {
            let Some(entry) = self.entries.get(&key) else { continue };
            let excludes = |other: LockMode| mode == LockMode::Exclusive || other == LockMode::Exclusive;
            let in_the_way = matches!(entry.phase, Phase::Held(other) if excludes(other));
            let holders = entry.holds.iter().filter(|_| in_the_way).map(|hold| hold.thread);
            let before = entry.before(ticket).filter(|waiter| excludes(waiter.mode)).map(|waiter| waiter.thread);
            for other in holders.chain(before) {
                if other == thread {
                    return true;
                }
                if seen.insert(other) {
                    todo.extend(self.waits_of(other, last));
                }
            }
        }
        false
    }

    /// What a thread waits for. Whoever comes last closes a cycle, and is told; who only tries closes none.
    fn waits_of(&self, thread: Thread, last: u64) -> impl Iterator<Item = (Key, LockMode, u64)> {
        self.entries.iter().flat_map(move |(key, entry)| {
            let waits =
                entry.queue.iter().filter(move |it| it.thread == thread && it.ticket < last && it.wait != Wait::Never);
            waits.map(|waiter| (*key, waiter.mode, waiter.ticket))
        })
    }

    /// True: it has been closed.
    pub(super) fn close_if_unused(&mut self, key: Key) -> bool {
        let unused = |entry: &Entry<F>| entry.users == 0 && entry.phase == Phase::Free && entry.queue.is_empty();
        if !self.entries.get(&key).is_some_and(unused) {
            return false;
        }
        let turn = self.entries.remove(&key).and_then(|entry| entry.turn);
        if let Some((turn, now)) = turn.and_then(|turn| Some((turn, turn.released?))) {
            self.left.retain(|(_, other)| other.goes_on(now));
            self.left.push((key, turn));
        }
        true
    }
}
