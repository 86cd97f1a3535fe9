//! Taking and releasing a lock: the way of a thread through the queue of a lock file.

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::Table;
use super::kernel::{Answered, DEADLOCK_PERSISTS, Guard, Kernel, Refused};
use super::lock_file::{LockFile, Phase, State, Thread, Wait};
use super::request::{OnWait, Refusal, Request, Told, Visit};
use crate::sys::LockMode;

/// How long a call whose time is over still waits for a lock that is about to be free.
const SOON_FREE: Duration = Duration::from_millis(20);

impl<K: Kernel> Table<K> {
    /// Takes a lock.
    pub(in super::super) fn acquire(&self, request: &Request<'_, K::File>) -> Result<(), Refused<K>> {
        let Request { file, mode, wait, thread, holds, label, on_wait, .. } = *request;
        let mut state = file.state();
        // One more shared hold excludes no other thread. Behind a writer in the queue, this thread would wait for
        // itself.
        let shared = (mode, state.phase) == (LockMode::Shared, Phase::Held(LockMode::Shared));
        if holds > 0 && shared && state.is_held_by(thread) {
            state.hold(thread, holds, label);
            return Ok(());
        }
        let ticket = state.queue_up(mode, wait);
        let mut visit = Visit { ticket, holds, on_wait, looks: 0, drain: None, is_listed: false, late: None };
        let Some((mut state, result)) = self.pass_queue(state, request, &mut visit) else {
            return Err(Refusal::Forked);
        };
        state.leave_queue(ticket);
        match result {
            Ok(()) => state.hold(thread, visit.holds, label),
            // A deputy may have been granted the lock too late.
            Err(_) => state = self.let_go_if_unwanted(state, file),
        }
        drop(state);
        if visit.is_listed {
            self.end_to_wait(thread);
        }
        result
    }

    /// Adds a hold of a lock that `thread` has already. The lock is released with the last hold.
    pub(in super::super) fn hold_again(&self, request: &Request<'_, K::File>) {
        request.file.state().hold(request.thread, request.holds, request.label);
    }

    /// Releases what [`acquire`](Self::acquire) granted to `thread`.
    pub(in super::super) fn release(&self, file: &LockFile<K::File>, thread: Thread, label: &Arc<Path>) {
        let mut state = file.state();
        if state.let_go(thread, label) && !state.is_held() {
            state = self.let_go(state, file);
        }
        state.wake();
    }

    /// `None`: this is a child made by fork, which must not touch the mutexes.
    fn pass_queue<'a>(
        &'a self,
        mut state: Guard<'a, K>,
        request: &Request<'a, K::File>,
        visit: &mut Visit<'_>,
    ) -> Option<Answered<'a, K, Result<(), Refused<K>>>> {
        let Request { file, mode, wait, .. } = *request;
        loop {
            let now = self.kernel.now();
            let held = state.is_held();
            // All holders have left.
            visit.drain = visit.drain.filter(|_| state.phase == Phase::Held(LockMode::Shared));
            if state.is_next(mode, visit.ticket, now) {
                let answer;
                (state, answer) = self.go_in(state, request, visit, now);
                if let Some(result) = answer {
                    return Some((state, result));
                }
            }
            // To sleep and be woken takes longer than most holders keep a lock, so the thread looks again a few times
            // first. A deputy waits longer than that, and a call that only tries does not wait for a holder.
            let is_long =
                matches!(state.phase, Phase::Deputed(_)) || visit.drain.is_some() || (held && wait == Wait::Never);
            if visit.looks < K::LOOKS && !is_long {
                visit.looks += 1;
                drop(state);
                self.kernel.relax();
                state = file.state();
                continue;
            }
            let refusal;
            (state, refusal) = self.wait_for_change(state, request, visit)?;
            if let Some(refusal) = refusal {
                return Some((state, Err(refusal)));
            }
        }
    }

    /// For the next waiter. `None`: the lock is not free.
    fn go_in<'a>(
        &'a self,
        mut state: Guard<'a, K>,
        request: &Request<'a, K::File>,
        visit: &mut Visit<'_>,
        now: Instant,
    ) -> Answered<'a, K, Option<Result<(), Refused<K>>>> {
        let Request { file, mode, wait, .. } = *request;
        match state.phase {
            Phase::Free => self.ask_kernel(state, request, visit, now),
            Phase::Brought(brought) if brought == mode => {
                state.phase = Phase::Held(mode);
                (state, Some(Ok(())))
            }
            // The deputy was sent for a waiter that has given up.
            Phase::Brought(_) => {
                state = self.let_go(state, file);
                self.ask_kernel(state, request, visit, now)
            }
            // The deputy was sent for a writer that has given up. A reader need not wait for the readers of other
            // processes.
            Phase::Deputed(LockMode::Exclusive) if mode == LockMode::Shared => {
                state.phase = Phase::Free;
                self.ask_kernel(state, request, visit, now)
            }
            Phase::Held(LockMode::Shared) if mode == LockMode::Shared => {
                if !state.turn_is_over(now) || wait.is_over(now) {
                    return (state, Some(Ok(())));
                }
                let drain = state.turn.map_or(now, |turn| now + turn.drain());
                if *visit.drain.get_or_insert(drain) > now {
                    return (state, None);
                }
                state.turn = state.turn.map(|turn| turn.lengthened(now));
                (state, Some(Ok(())))
            }
            Phase::Busy | Phase::Deputed(_) | Phase::Held(_) => (state, None),
        }
    }

    /// Waits until something about the lock may have changed.
    fn wait_for_change<'a>(
        &'a self,
        mut state: Guard<'a, K>,
        request: &Request<'a, K::File>,
        visit: &mut Visit<'_>,
    ) -> Option<Answered<'a, K, Option<Refused<K>>>> {
        let Request { file, mode, wait, thread, .. } = *request;
        let now = self.kernel.now();
        if wait != Wait::Never {
            // A reader, too: it would keep others out.
            if state.is_held_by(thread) {
                return Some((state, Some(Refusal::Deadlock)));
            }
            // A thread that holds nothing cannot be part of a cycle.
            if visit.holds > 0 && !visit.is_listed {
                drop(state);
                visit.is_listed = self.begin_to_wait(request, visit.ticket);
                return Some((file.state(), (!visit.is_listed).then_some(Refusal::Deadlock)));
            }
        }
        if visit.drain.is_none() && wait.is_over(now) {
            if visit.late.is_some_and(|late| late <= now) || !self.is_about_to_be_free(&state, request, visit) {
                let by_thread = state.is_held();
                let refusal = if wait == Wait::Never { Refusal::WouldBlock } else { Refusal::TimedOut(by_thread) };
                return Some((state, Some(refusal)));
            }
            visit.late.get_or_insert(now + SOON_FREE);
        } else if let Some(OnWait { tell, .. }) = visit.on_wait.take_if(|on_wait| on_wait.at <= now) {
            let by_thread = state.is_held();
            // The callback may take long, and may take locks itself. So this thread leaves the queue first, and nobody
            // waits for it.
            state.leave_queue(visit.ticket);
            drop(self.let_go_if_unwanted(state, file));
            if std::mem::take(&mut visit.is_listed) {
                self.end_to_wait(thread);
            }
            let told = tell(by_thread);
            if told == Told::InAChild {
                return None;
            }
            let mut state = file.state();
            let Told::GoOn(holds) = told else { return Some((state, Some(Refusal::GaveUp))) };
            visit.holds = holds;
            state.come_back(mode, wait, visit.ticket);
            return Some((state, None));
        }
        let Some((bell, since)) = state.asleep(visit.ticket, now) else { return Some((state, Some(Refusal::Gone))) };
        let deadline = if let Wait::Until(deadline) = wait { Some(deadline).filter(|end| *end > now) } else { None };
        let ends = [deadline, visit.drain, visit.late, visit.on_wait.map(|on_wait| on_wait.at)];
        state = match ends.into_iter().flatten().min() {
            None => bell.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(end) => {
                let left = end.saturating_duration_since(now);
                bell.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        // The EDEADLK of the thread that waits in the kernel may be about this thread, unless this thread ends its wait
        // by itself.
        let stuck = state.stuck.filter(|_| wait == Wait::Forever && visit.holds > 0);
        let is_stuck = stuck.is_some_and(|stuck| {
            let now = self.kernel.now();
            stuck.is_so(now) && now.saturating_duration_since(since.max(stuck.since)) >= DEADLOCK_PERSISTS
        });
        Some((state, is_stuck.then_some(Refusal::Deadlock)))
    }

    /// Whether nobody holds the lock or comes before this call: a deputy is about to bring it, or a thread is about to
    /// release it.
    fn is_about_to_be_free(&self, state: &State<K::File>, request: &Request<'_, K::File>, visit: &Visit<'_>) -> bool {
        let is_next = state.before(visit.ticket).next().is_none();
        is_next && !matches!(state.phase, Phase::Held(_)) && self.is_free(state, request)
    }

    /// Releases the kernel's lock. No thread holds it any more.
    pub(super) fn let_go<'a>(&'a self, mut state: Guard<'a, K>, file: &'a LockFile<K::File>) -> Guard<'a, K> {
        let open = state.file.clone();
        state.phase = Phase::Busy;
        drop(state);
        let unlocked = open.as_ref().map(|open| self.kernel.unlock(open));
        let now = self.kernel.now();
        state = file.state();
        // Given back before the file is closed, so that no other reference is left.
        state.give_back(open);
        state.phase = Phase::Free;
        state.turn = state.turn.map(|turn| turn.released(now));
        if let Some(Err(_)) = unlocked {
            self.close(&mut state);
        }
        state
    }

    /// Releases the lock by closing the lock file, after an unlock failed. No thread holds it.
    pub(super) fn close(&self, state: &mut State<K::File>) {
        let open = state.file.clone();
        state.close();
        // A deputy that uses the descriptor keeps it open.
        if let Some(open) = open {
            if Arc::strong_count(&open) > 1 {
                self.kernel.close_copy(&open);
            }
        }
    }

    /// Releases what a deputy was granted, if no waiter is left.
    pub(super) fn let_go_if_unwanted<'a>(
        &'a self,
        mut state: Guard<'a, K>,
        file: &'a LockFile<K::File>,
    ) -> Guard<'a, K> {
        if matches!(state.phase, Phase::Brought(_)) && state.queue.is_empty() {
            state = self.let_go(state, file);
            state.wake();
        }
        state
    }
}
