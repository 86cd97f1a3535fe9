//! Deputies: threads of this crate that wait in F_SETLKW for callers with a deadline.
//!
//! F_SETLKW knows no time limit ([fcntl_locking(2)]). Polling with F_SETLK loses against everybody who waits in the
//! kernel's queue. So a call with a deadline sleeps in this process, and a deputy waits in the kernel's queue for it
//! and for all later waiters of the lock file. The first waiter gets the lock that the deputy is granted. If no waiter
//! is left, the lock is released at once.
//!
//! A deputy cannot be called back. It waits until the lock is free, even if nobody wants it any more, and serves any
//! caller that comes meanwhile. Only a reader does not wait for a writer's deputy: readers of other processes keep the
//! deputy waiting, but not the reader. Then the deputy is disowned, until the next writer waits for it again. If it
//! comes back before that, the process may hold more in the kernel than the table knows (never less, because the
//! deputy's lock is exclusive). Then the deputy corrects the kernel's lock. So a lock file has at most two deputies,
//! one for a writer and one for readers.
//!
//! A deputy enters the kernel's queue later than a thread that calls F_SETLKW itself. Among many processes that costs
//! turns (`cargo bench -- curves` counts them). A thread that calls F_SETLKW itself, and as late, gets as few. Keeping a
//! deputy for the next wait gains nothing, because it has to be woken.
//!
//! A deputy costs a thread, but no descriptor. It keeps the lock file open. A child made by fork does not have it.
//!
//! [fcntl_locking(2)]: https://man7.org/linux/man-pages/man2/fcntl_locking.2.html

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

use super::super::sync::Condvar;
use super::Table;
use super::kernel::{Guard, Kernel};
use super::lock_file::{LockFile, Phase};
use super::request::{Errand, Request};
use crate::sys::LockMode;

/// The most deputies of a process. If there are so many, a wait with a deadline polls.
const MOST: usize = 64;

impl<K: Kernel> Table<K> {
    /// Sends a deputy, for a thread whose turn it is. Until it comes back the phase is [`Phase::Deputed`]. False: no
    /// deputy could be sent.
    pub(super) fn send_deputy(&self, request: &Request<'_, K::File>) -> bool {
        let (file, mode) = (request.file, request.mode);
        let mut state = file.state();
        // A deputy that was disowned is still waiting.
        if let Some(number) = state.writers.filter(|_| mode == LockMode::Exclusive) {
            state.phase = Phase::Deputed(mode);
            state.awaited = number;
            state.again = true;
            return true;
        }
        drop(state);
        if self.deputies.fetch_update(Relaxed, Relaxed, |now| (now < MOST).then_some(now + 1)).is_err() {
            return false;
        }
        // The deputy is a user of the lock file, because all others may leave it before the deputy comes back.
        self.files().enter(file.key());
        let mut state = file.state();
        state.errands += 1;
        let number = state.errands;
        state.phase = Phase::Deputed(mode);
        state.awaited = number;
        if mode == LockMode::Exclusive {
            state.writers = Some(number);
            state.again = false;
        }
        drop(state);
        let sent = (request.start_deputy)(Errand { file: file.clone(), mode, number });
        if !sent {
            let mut state = file.state();
            state.phase = Phase::Busy;
            state.writers.take_if(|writers| *writers == number);
            drop(state);
            self.dismiss(file);
        }
        sent
    }

    /// The work of a deputy.
    pub(in super::super) fn wait_as_deputy(&self, errand: Errand<K::File>) {
        let Errand { file, mode, number } = errand;
        let open = file.state().file.clone();
        let granted = open.as_ref().map(|open| self.wait_in_kernel(&file, open, mode, None));
        let now = self.kernel.now();
        let mut state = file.state();
        state.writers.take_if(|writers| *writers == number);
        // After an error the next waiter calls F_SETLK, and reports the error if that fails, too.
        state.no_deputies |= matches!(granted, Some(Err(_)));
        let has_it = matches!(granted, Some(Ok(true)));
        if state.phase == Phase::Deputed(mode) && state.awaited == number {
            // The deputy may have been granted the lock while it was disowned, and a reader of this process may have
            // released it since. So it asks again. This call does not block, and no other thread makes one meanwhile.
            let is_stale = mode == LockMode::Exclusive && std::mem::take(&mut state.again);
            let still = |open: &K::File| matches!(self.kernel.try_lock(open, mode), Ok(true));
            let has_it = has_it && (!is_stale || open.as_deref().is_some_and(still));
            state.give_back(open);
            state.phase = Phase::Free;
            state.stuck = None;
            if has_it {
                state.granted(Phase::Brought(mode), now, false);
            }
            state.wake();
            drop(self.let_go_if_unwanted(state, &file));
            // The kernel usually puts the woken thread on this processor, where it would wait until this thread ends.
            self.kernel.give_way(now);
        } else {
            if let Some(open) = open.as_ref().filter(|_| has_it) {
                state = self.make_up(state, open);
            }
            state.give_back(open);
            drop(state);
        }
        self.dismiss(&file);
    }

    /// Corrects what the process holds in the kernel, after a disowned deputy was granted the exclusive lock. The calls
    /// do not block. They are made under the mutex, because no other thread's call may come between the look at the
    /// table and these calls.
    fn make_up<'a>(&self, mut state: Guard<'a, K>, open: &K::File) -> Guard<'a, K> {
        let bell = Arc::new(Condvar::new());
        state.disowned.push(bell.clone());
        // This ends, because no other process has the lock.
        while matches!(state.phase, Phase::Busy | Phase::Deputed(_)) {
            state = bell.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.disowned.retain(|other| !Arc::ptr_eq(other, &bell));
        match state.phase {
            Phase::Held(LockMode::Shared) | Phase::Brought(LockMode::Shared) => {
                // If this fails, the lock stays exclusive, and other processes wait longer than necessary.
                let _ = self.kernel.try_lock(open, LockMode::Shared);
            }
            Phase::Free if self.kernel.unlock(open).is_err() => self.kernel.close_copy(open),
            _ => {}
        }
        state
    }

    fn dismiss(&self, file: &Arc<LockFile<K::File>>) {
        self.deputies.fetch_sub(1, Relaxed);
        self.leave(file);
    }
}
