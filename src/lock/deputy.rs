//! Deputies: threads of the crate that sleep in F_SETLKW for those who must be able to end their wait.
//!
//! F_SETLKW knows no limit ([fcntl_locking(2)]), and to ask again and again (F_SETLK) loses against everybody who
//! stands in the kernel's own queue. So a call that waits with a limit sleeps in this process, and a deputy stands in
//! the kernel's queue for it, and for all who come to the lock file meanwhile. What it is granted goes to the first of
//! them. If none of them is left it is let go at once.
//!
//! A deputy cannot be called back: it sleeps until the lock is free, though nobody may want it any more, and serves
//! whoever comes meanwhile. Only a reader does not wait for one that was sent for a writer: readers elsewhere keep that
//! one, but not the reader. Then the deputy is disowned, until the next writer waits for it again. If it comes back
//! before that, the process may have a lock in the kernel that is more than the table knows of (never less, because its
//! lock is exclusive), and it makes that what it should be. So there are two for a lock file at the most, one for a
//! writer and one for readers.
//!
//! A deputy comes into the kernel's queue later than a thread that calls F_SETLKW itself, and among many processes that costs
//! turns: of 8 with 90 % reads, those with a limit get 0.4 of the turns of the others, as they do if they call F_SETLKW
//! themselves 0.1 ms late; if they call it 0.01 ms late, 0.5. A deputy that is kept for the next wait has to be woken, and gets
//! no more.
//!
//! A deputy costs a thread and no descriptor of its own, keeps the lock file open, and is not there in a child made by fork.
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

/// How many a process has at the most. Beyond that a wait with a limit polls.
const MOST: usize = 64;

impl<K: Kernel> Table<K> {
    /// Sends a deputy, for a thread whose turn it is: until it comes back the others find [`Phase::Deputed`]. False: there
    /// can be none.
    pub(super) fn send_deputy(&self, request: &Request<'_, K::File>) -> bool {
        let (file, mode) = (request.file, request.mode);
        let mut state = file.state();
        // One that was disowned is still there.
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
        // It is a user of the lock file, which may be left by all others before it comes back.
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

    /// What a deputy does.
    pub(in super::super) fn wait_as_deputy(&self, errand: Errand<K::File>) {
        let Errand { file, mode, number } = errand;
        let open = file.state().file.clone();
        let granted = open.as_ref().map(|open| self.wait_in_kernel(&file, open, mode, None));
        let now = self.kernel.now();
        let mut state = file.state();
        state.writers.take_if(|writers| *writers == number);
        // Whoever is next asks by F_SETLK, and hears what is wrong if that fails, too.
        state.no_deputies |= matches!(granted, Some(Err(_)));
        let has_it = matches!(granted, Some(Ok(true)));
        if state.phase == Phase::Deputed(mode) && state.awaited == number {
            // It may have been granted the lock while it was disowned, and a reader of this process has let go of that before
            // it was waited for again. The call does not wait, and nobody else makes one meanwhile.
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
            // The one that was woken is mostly put on this processor, and would wait there until this thread has ended.
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

    /// Brings what the process has in the kernel into line with the table, after a disowned deputy was granted the
    /// exclusive lock. These calls do not wait, and another thread's must not come between them and the look at the
    /// table: they are made under the mutex.
    fn make_up<'a>(&self, mut state: Guard<'a, K>, open: &K::File) -> Guard<'a, K> {
        let bell = Arc::new(Condvar::new());
        state.disowned.push(bell.clone());
        // Such a call ends, because no other process has the lock.
        while matches!(state.phase, Phase::Busy | Phase::Deputed(_)) {
            state = bell.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.disowned.retain(|other| !Arc::ptr_eq(other, &bell));
        match state.phase {
            Phase::Held(LockMode::Shared) | Phase::Brought(LockMode::Shared) => {
                // If that fails, others wait for longer than they need to.
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
