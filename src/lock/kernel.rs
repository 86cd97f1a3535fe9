//! Asks the kernel for a lock, for one waiter at a time.

use std::time::{Duration, Instant};

use super::super::sync::MutexGuard;
use super::Table;
use super::lock_file::{Key, LockFile, Phase, State, Stuck, Wait};
use super::request::{Refusal, Request, Visit};
use crate::sys::LockMode;

/// Polling starts with this interval and doubles it up to [`POLL_LAST`].
const POLL_FIRST: Duration = Duration::from_micros(50);
const POLL_LAST: Duration = Duration::from_millis(2);

/// How long the kernel must repeat EDEADLK, with the same process as holder, before the table reports a deadlock. See
/// [`Table::wait_in_kernel`].
pub(super) const DEADLOCK_PERSISTS: Duration = Duration::from_secs(30);
const DEADLOCK_RETRY: Duration = Duration::from_millis(20);
/// How often the other waiters are told of a reported deadlock.
const DEADLOCK_TOLD: Duration = Duration::from_millis(100);

pub(super) type Guard<'a, K> = MutexGuard<'a, State<<K as Kernel>::File>>;
/// A function takes the mutex guard, and returns it together with its answer.
pub(super) type Answered<'a, K, T> = (Guard<'a, K>, T);
pub(super) type Refused<K> = Refusal<<K as Kernel>::Error>;

/// The system calls that the table needs.
pub(in super::super) trait Kernel {
    /// An open lock file.
    type File;
    /// Why the kernel refused a lock.
    type Error;
    /// Waits in the kernel. `Ok(false)`: the kernel reports a deadlock (EDEADLK).
    fn lock(&self, file: &Self::File, mode: LockMode) -> Result<bool, Self::Error>;
    /// `Ok(false)`: another process holds the lock.
    fn try_lock(&self, file: &Self::File, mode: LockMode) -> Result<bool, Self::Error>;
    fn unlock(&self, file: &Self::File) -> Result<(), Self::Error>;
    /// The last resort to release the locks: closes a copy of the descriptor.
    fn close_copy(&self, file: &Self::File);
    /// Whether no other process holds the lock in a mode that excludes this one.
    fn is_free(&self, file: &Self::File, mode: LockMode) -> bool;
    /// A process that holds the lock.
    fn holder(&self, file: &Self::File, mode: LockMode) -> Option<u32>;
    fn now(&self) -> Instant;
    fn sleep(&self, time: Duration);
    /// Lets other threads run, at least once and until this time.
    fn give_way(&self, until: Instant);
    /// How often a thread looks at the state again before it sleeps.
    const LOOKS: u32;
    /// Waits for about half a microsecond.
    fn relax(&self);
    /// Whether an open file is the lock file of this key.
    fn is(&self, file: &Self::File, key: Key) -> bool;
    /// The table has opened this lock file.
    fn opened(&self, _: Key) {}
    /// The table has closed this lock file.
    fn closed(&self, _: Key) {}
}

impl<K: Kernel> Table<K> {
    /// Takes the kernel's lock, for a thread whose turn it is. The phase is [`Phase::Busy`] meanwhile. `None`: a deputy
    /// waits for the lock, or the caller has to check whether its wait is over.
    pub(super) fn ask_kernel<'a>(
        &'a self,
        mut state: Guard<'a, K>,
        request: &Request<'a, K::File>,
        visit: &Visit<'_>,
        now: Instant,
    ) -> Answered<'a, K, Option<Result<(), Refused<K>>>> {
        let Request { file, mode, wait, .. } = *request;
        let Visit { on_wait, holds, .. } = *visit;
        let Some(open) = state.file.clone() else { return (state, Some(Err(Refusal::Gone))) };
        let pause = state.turn.and_then(|turn| turn.pause(now)).filter(|_| wait != Wait::Never);
        let polls_only = state.no_deputies;
        state.phase = Phase::Busy;
        drop(state);
        if let Some(until) = pause {
            self.kernel.give_way(until);
        }
        // F_SETLKW knows no time limit, so a thread that has to end its wait cannot sleep in it.
        let own_end = match wait {
            Wait::Until(deadline) => Some(on_wait.map_or(deadline, |on_wait| on_wait.at.min(deadline))),
            Wait::Forever => on_wait.map(|on_wait| on_wait.at),
            Wait::Never => None,
        };
        let granted = match own_end {
            None if wait == Wait::Forever => self.wait_in_kernel(file, &open, mode, Some(holds)),
            _ => self.kernel.try_lock(&open, mode).map_err(Refusal::Kernel),
        };
        let granted = match (granted, own_end) {
            (Ok(false), Some(end)) if self.kernel.now() < end => {
                if !polls_only && self.send_deputy(request) {
                    let mut state = file.state();
                    state.give_back(Some(open));
                    return (state, None);
                }
                self.poll(&open, mode, end).map_err(Refusal::Kernel)
            }
            (granted, _) => granted,
        };
        let now = self.kernel.now();
        let mut state = file.state();
        state.give_back(Some(open));
        state.phase = Phase::Free;
        let result = match granted {
            Ok(true) => {
                state.granted(Phase::Held(mode), now, pause.is_some());
                Some(Ok(()))
            }
            Ok(false) if wait == Wait::Never => Some(Err(Refusal::WouldBlock)),
            Ok(false) if wait.is_over(now) => Some(Err(Refusal::TimedOut(false))),
            Ok(false) => None,
            Err(refusal) => Some(Err(refusal)),
        };
        state.stuck = None;
        (state, result)
    }

    /// Whether the kernel says that no other process holds the lock.
    pub(super) fn is_free(&self, state: &State<K::File>, request: &Request<'_, K::File>) -> bool {
        state.file.as_ref().is_some_and(|open| self.kernel.is_free(open, request.mode))
    }

    /// Tries F_SETLK again and again until `deadline`, with growing pauses.
    fn poll(&self, open: &K::File, mode: LockMode, deadline: Instant) -> Result<bool, K::Error> {
        let mut interval = POLL_FIRST;
        loop {
            if self.kernel.try_lock(open, mode)? {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(self.kernel.now());
            if left.is_zero() {
                return Ok(false);
            }
            self.kernel.sleep(interval.min(left));
            interval = (interval * 2).min(POLL_LAST);
        }
    }

    /// Waits in F_SETLKW, and judges its EDEADLK. `holds` is how many locks the thread holds. `None`: it is a deputy.
    ///
    /// The kernel looks for cycles of processes, not of threads (`posix_locks_deadlock` in fs/locks.c):
    ///
    /// 1. this process, thread 1: holds A
    /// 2. another process: holds B, waits for A
    /// 3. this process, thread 2: waits for B, and gets EDEADLK.
    ///
    /// No thread waits for itself here, and thread 1 will release A. So a thread that holds nothing goes on by polling.
    /// A thread that holds a lock may be part of a real cycle. Or it is in the place of process 2 in a false cycle, if
    /// step 2 comes last. In a real cycle nothing changes any more. So the kernel has to repeat EDEADLK for a long
    /// time, with the same process as holder. A false report breaks a promise, a late one does not.
    ///
    /// The kernel does not know the other waiters in the queue. One of them may hold the lock that closes the cycle, so
    /// they are told, too, and since when it has lasted.
    ///
    /// `Ok(false)`: nobody waits for this deputy any more.
    pub(super) fn wait_in_kernel(
        &self,
        file: &LockFile<K::File>,
        open: &K::File,
        mode: LockMode,
        holds: Option<usize>,
    ) -> Result<bool, Refused<K>> {
        let mut unchanged: Option<(Option<u32>, Stuck)> = None;
        let mut told: Option<Instant> = None;
        loop {
            if self.kernel.lock(open, mode).map_err(Refusal::Kernel)? {
                return Ok(true);
            }
            if holds.is_none() && file.state().queue.is_empty() {
                return Ok(false);
            }
            let (now, holder) = (self.kernel.now(), self.kernel.holder(open, mode));
            let since = match unchanged {
                Some((before, stuck)) if before == holder && stuck.is_so(now) => stuck.since,
                _ => now,
            };
            let stuck = Stuck { since, confirmed: now };
            unchanged = Some((holder, stuck));
            if now.saturating_duration_since(since) >= DEADLOCK_PERSISTS {
                if holds.is_some_and(|holds| holds > 0) {
                    return Err(Refusal::Deadlock);
                }
                if told.is_none_or(|told| now.saturating_duration_since(told) >= DEADLOCK_TOLD) {
                    told = Some(now);
                    let mut state = file.state();
                    state.stuck = Some(stuck);
                    state.wake_all();
                }
            }
            if self.poll(open, mode, now + DEADLOCK_RETRY).map_err(Refusal::Kernel)? {
                return Ok(true);
            }
        }
    }
}
