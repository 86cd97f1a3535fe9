//! Asking the kernel for a lock, for one thread of the queue at a time.

use std::time::{Duration, Instant};

use super::super::sync::MutexGuard;
use super::state::{DRAIN, PAUSE, Phase, State, Stuck, Turn};
use super::{Key, Refusal, Request, Table, Wait};
use crate::sys::LockMode;

/// Polling starts with this interval and doubles it up to [`POLL_LAST`].
const POLL_FIRST: Duration = Duration::from_micros(50);
const POLL_LAST: Duration = Duration::from_millis(2);

/// For how long the kernel must insist on EDEADLK, with the same process in the way, before it is believed. See
/// [`Table::wait_in_kernel`].
const DEADLOCK_PERSISTS: Duration = Duration::from_secs(1);
/// The same for a thread that takes its locks in the common order. Others who do so cannot be in a cycle with it, but
/// their processes very well; only somebody out of order can.
const DEADLOCK_PERSISTS_IN_ORDER: Duration = Duration::from_secs(30);
const DEADLOCK_RETRY: Duration = Duration::from_millis(20);
/// How often the others in the queue are told of it, once it has been believed.
const DEADLOCK_TOLD: Duration = Duration::from_millis(100);

/// For how long the kernel must insist if a thread holds `held` locks, `in_order` of them in the common order.
pub(super) fn deadlock_persists(in_order: usize, held: usize) -> Duration {
    if in_order > 0 && held <= in_order { DEADLOCK_PERSISTS_IN_ORDER } else { DEADLOCK_PERSISTS }
}

/// The system calls that the table needs.
pub(in super::super) trait Kernel {
    /// An open lock file.
    type File;
    /// Why a lock could not be had.
    type Error;
    /// Waits in the kernel. `Ok(false)`: it sees a deadlock (EDEADLK).
    fn lock(&self, file: &Self::File, mode: LockMode) -> Result<bool, Self::Error>;
    /// `Ok(false)`: another process is in the way.
    fn try_lock(&self, file: &Self::File, mode: LockMode) -> Result<bool, Self::Error>;
    fn unlock(&self, file: &Self::File) -> Result<(), Self::Error>;
    /// A process that is in the way.
    fn holder(&self, file: &Self::File, mode: LockMode) -> Option<u32>;
    fn now(&self) -> Instant;
    fn sleep(&self, time: Duration);
    /// How often a thread looks again before it goes to sleep.
    const LOOKS: u32;
    /// Lets half a microsecond or so pass.
    fn relax(&self);
    /// Whether an open file is the lock file of this key.
    fn is(&self, file: &Self::File, key: Key) -> bool;
    /// The table has this lock file open from now on.
    fn opened(&self, _: Key) {}
    /// It has closed it.
    fn closed(&self, _: Key) {}
}

impl<K: Kernel> Table<K> {
    /// Takes the kernel's lock, for a thread whose turn it is. The others find it [`Phase::Busy`] meanwhile.
    #[expect(clippy::type_complexity, reason = "the mutex guard goes in and comes out again")]
    pub(super) fn ask_kernel<'a>(
        &'a self,
        mut state: MutexGuard<'a, State<K::File>>,
        request: &Request<'_>,
        now: Instant,
    ) -> (MutexGuard<'a, State<K::File>>, Result<(), Refusal<K::Error>>) {
        let Request { key, mode, wait, .. } = *request;
        let Some((entry, file)) =
            state.entries.get_mut(&key).and_then(|entry| entry.file.clone().map(|file| (entry, file)))
        else {
            return (state, Err(Refusal::Gone));
        };
        entry.phase = Phase::Busy;
        let give_way = entry.turn_is_over(now);
        drop(state);
        if give_way && wait != Wait::Never {
            self.kernel.sleep(PAUSE);
        }
        let result = match wait {
            Wait::Never => match self.kernel.try_lock(&file, mode) {
                Ok(true) => Ok(()),
                Ok(false) => Err(Refusal::WouldBlock),
                Err(error) => Err(Refusal::Kernel(error)),
            },
            Wait::Until(deadline) => match self.poll(&file, mode, deadline) {
                Ok(true) => Ok(()),
                Ok(false) => Err(Refusal::TimedOut(false)),
                Err(error) => Err(Refusal::Kernel(error)),
            },
            Wait::Forever => self.wait_in_kernel(&file, request),
        };
        let now = self.kernel.now();
        let mut state = self.state();
        drop(file);
        if let Some(entry) = state.entries.get_mut(&key) {
            entry.phase = if result.is_ok() { Phase::Held(mode) } else { Phase::Free };
            entry.stuck = None;
            if result.is_ok() {
                let goes_on = entry.turn.filter(|turn| !give_way && turn.goes_on(now));
                let (began, drain) = goes_on.map_or((now, DRAIN), |turn| (turn.began, turn.drain));
                entry.turn = Some(Turn { began, drain, released: None });
            }
        }
        (state, result)
    }

    /// F_SETLK again and again, with growing pauses, until `deadline`.
    fn poll(&self, file: &K::File, mode: LockMode, deadline: Instant) -> Result<bool, K::Error> {
        let mut interval = POLL_FIRST;
        loop {
            if self.kernel.try_lock(file, mode)? {
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

    /// F_SETLKW, and what to make of its EDEADLK.
    ///
    /// The kernel looks for cycles of processes, not of threads (`posix_locks_deadlock` in fs/locks.c):
    ///
    /// 1. this process, thread 1: holds A
    /// 2. another process: holds B, waits for A
    /// 3. this process, thread 2: waits for B, and is told EDEADLK.
    ///
    /// No thread waits for itself, and thread 1 will let go of A. So a thread that holds nothing goes on, by
    /// polling. A thread that does hold something may be part of a real cycle, or be in the place of process 2 with
    /// a false one (if step 2 comes last). In a real one nothing moves any more, so the kernel has to say it again
    /// for a while, with the same process in the way.
    ///
    /// The kernel does not see who else waits in the queue. One of them may hold what the cycle is
    /// about, so they are told, too, since when it has lasted.
    fn wait_in_kernel(&self, file: &K::File, request: &Request<'_>) -> Result<(), Refusal<K::Error>> {
        let Request { key, mode, in_order, thread, .. } = *request;
        let mut unchanged: Option<(Option<u32>, Stuck)> = None;
        let mut told: Option<Instant> = None;
        loop {
            if self.kernel.lock(file, mode).map_err(Refusal::Kernel)? {
                return Ok(());
            }
            let holds = self.state().holds(thread);
            let persists = deadlock_persists(in_order, holds);
            let (now, holder) = (self.kernel.now(), self.kernel.holder(file, mode));
            let since = match unchanged {
                Some((before, stuck)) if before == holder && stuck.is_so(now) => stuck.since,
                _ => now,
            };
            let stuck = Stuck { since, confirmed: now };
            unchanged = Some((holder, stuck));
            if holds > 0 && now.saturating_duration_since(since) >= persists {
                return Err(Refusal::Deadlock(self.state().held_by(thread)));
            }
            let tell = told.is_none_or(|told| now.saturating_duration_since(told) >= DEADLOCK_TOLD);
            if tell && now.saturating_duration_since(since) >= DEADLOCK_PERSISTS {
                told = Some(now);
                let mut state = self.state();
                if let Some(entry) = state.entries.get_mut(&key) {
                    entry.stuck = Some(stuck);
                    entry.wake_all();
                }
            }
            if self.poll(file, mode, now + DEADLOCK_RETRY).map_err(Refusal::Kernel)? {
                return Ok(());
            }
        }
    }
}
