//! Waits with a deadline while another process holds the lock: a deputy waits in the kernel for them.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::kernel::StubState;
use crate::sys::LockMode::{self, Exclusive, Shared};
use crate::table::{OnWait, Refusal, Told, Wait};
use crate::world::{A, World, explore, held_elsewhere, other_process_releases, read_a, try_a, write_a};

const DEADLINE: Duration = Duration::from_secs(5);

fn within_the_deadline(world: &World, thread: u64, mode: LockMode) {
    let result = world.visit(thread, A, mode, Wait::Until(world.start + DEADLINE));
    assert!(matches!(result, Ok(()) | Err(Refusal::TimedOut(_))), "{result:?}");
}

fn write_in_time(world: &World, thread: u64) {
    within_the_deadline(world, thread, Exclusive);
}

fn read_in_time(world: &World, thread: u64) {
    within_the_deadline(world, thread, Shared);
}

/// loom's condition variables do not time out by themselves, so another thread takes and releases a lock, which wakes
/// the first waiter.
fn time_passes(world: &World, thread: u64) {
    world.pass(2 * DEADLINE);
    try_a(world, thread);
    world.kernel.lock().unwrap().theirs.clear();
    world.changed.notify_all();
}

#[test]
fn what_the_deputy_is_granted_goes_to_the_first_in_the_queue() {
    explore(3, held_elsewhere, &[write_in_time, other_process_releases]);
    explore(1, held_elsewhere, &[write_in_time, write_a, other_process_releases]);
    explore(1, held_elsewhere, &[write_in_time, read_a, other_process_releases]);
}

#[test]
fn a_lock_that_nobody_wants_is_released() {
    // The model ends with a free lock, so the deputy has released it.
    explore(3, held_elsewhere, &[write_in_time, time_passes]);
    explore(2, held_elsewhere, &[read_in_time, time_passes]);
}

#[test]
fn a_deputy_serves_those_who_come_after_the_one_that_sent_it() {
    explore(1, held_elsewhere, &[read_in_time, write_a, time_passes]);
    let disowned = || StubState { disowned: true, ..held_elsewhere() };
    explore(1, disowned, &[write_in_time, read_a, time_passes]);
}

#[test]
fn without_a_deputy_there_is_polling() {
    let alone = || StubState { no_deputies: true, theirs_end: Some(DEADLINE / 2), ..held_elsewhere() };
    explore(1, alone, &[write_in_time]);
    explore(1, alone, &[write_in_time, read_in_time]);
}

#[test]
fn a_deputy_that_the_kernel_refuses_leaves_its_place_to_polling() {
    // The first call of F_SETLKW fails, but F_SETLK works.
    let refused = || StubState { failing_locks: 1, theirs_end: Some(DEADLINE / 2), ..held_elsewhere() };
    explore(1, refused, &[write_in_time]);
}

#[test]
fn a_deputy_goes_on_when_the_kernel_sees_a_deadlock() {
    // A deputy holds no lock. It gives up only when nobody waits any more.
    let deadlock = || StubState { sees_deadlocks: true, theirs_end: Some(DEADLINE / 2), ..held_elsewhere() };
    explore(1, deadlock, &[write_in_time]);
    explore(1, deadlock, &[write_in_time, read_a]);
}

#[test]
fn a_try_gets_a_lock_that_a_deputy_is_about_to_get() {
    // All waiters have given up, and the other process has released the lock. The lock is free, whoever waits in the
    // kernel.
    fn gives_up(world: &World, thread: u64) {
        let result = world.visit(thread, A, Exclusive, Wait::Until(world.start + DEADLINE));
        assert_eq!(result, Err(Refusal::TimedOut(false)));
        world.raise_flag();
    }
    fn tries(world: &World, thread: u64) {
        world.pass(2 * DEADLINE);
        assert_eq!(world.visit(thread, A, Exclusive, Wait::Never), Err(Refusal::WouldBlock), "it is held elsewhere");
        world.await_flag();
        other_process_releases(world, thread);
        assert_eq!(world.visit(thread, A, Exclusive, Wait::Never), Ok(()), "nobody holds it");
    }
    explore(3, held_elsewhere, &[gives_up, tries]);
}

#[test]
fn a_call_past_its_deadline_sends_no_deputy() {
    fn tries_once(world: &World, thread: u64) {
        let result = world.visit(thread, A, Exclusive, Wait::Until(world.start));
        assert_eq!(result, Err(Refusal::TimedOut(false)));
        assert_eq!(world.deputies(), 0);
        world.kernel.lock().unwrap().theirs.clear();
    }
    explore(0, held_elsewhere, &[tries_once]);
}

#[test]
fn a_long_wait_is_reported_once_and_goes_on() {
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    fn waits(world: &World, thread: u64) {
        let calls = AtomicUsize::new(0);
        let tell = |by_thread: bool| {
            assert!(!by_thread);
            calls.fetch_add(1, SeqCst);
            Told::GoOn(0)
        };
        let on_wait = Some(OnWait { at: world.start + DEADLINE, tell: &tell });
        let user = world.enter(A);
        assert_eq!(world.acquire_and_tell(thread, &user, Exclusive, Wait::Forever, on_wait), Ok(()));
        world.inside(A, Exclusive);
        world.release(thread, &user);
        world.table.leave(&user);
        assert!(calls.load(SeqCst) <= 1);
        TOLD.fetch_add(calls.load(SeqCst), SeqCst);
    }
    explore(2, held_elsewhere, &[waits, time_passes]);
    assert!(TOLD.load(SeqCst) > 0, "no order of the steps reported it");
}

#[test]
fn a_callback_can_give_up() {
    fn gives_up(world: &World, thread: u64) {
        let tell = |_: bool| Told::GiveUp;
        let on_wait = Some(OnWait { at: world.start, tell: &tell });
        let user = world.enter(A);
        let result = world.acquire_and_tell(thread, &user, Exclusive, Wait::Forever, on_wait);
        assert!(matches!(result, Ok(()) | Err(Refusal::GaveUp)), "{result:?}");
        if result.is_ok() {
            world.release(thread, &user);
        }
        world.table.leave(&user);
    }
    explore(2, held_elsewhere, &[gives_up, other_process_releases]);
    explore(1, held_elsewhere, &[gives_up, write_a, other_process_releases]);
}

fn readers_elsewhere() -> StubState {
    StubState { theirs: [(A, Shared)].into(), disowned: true, ..StubState::default() }
}

/// A writer that gives up when its time is over, and leaves its deputy in the kernel.
fn writer_gives_up(world: &World, thread: u64) {
    let result = world.visit(thread, A, Exclusive, Wait::Until(world.start + DEADLINE));
    assert!(matches!(result, Ok(()) | Err(Refusal::TimedOut(false))), "{result:?}");
    world.raise_flag();
}

#[test]
fn a_reader_need_not_wait_for_the_deputy_of_a_writer() {
    // Readers of another process keep out the writer and the deputy that it has left.
    fn reads(world: &World, thread: u64) {
        world.pass(2 * DEADLINE);
        // This wakes the writer.
        let _either = world.visit(thread, A, Exclusive, Wait::Never);
        world.await_flag();
        for wait in [Wait::Forever, Wait::Never, Wait::Until(world.start + 4 * DEADLINE)] {
            assert_eq!(world.visit(thread, A, Shared, wait), Ok(()));
        }
        other_process_releases(world, thread);
    }
    explore(3, readers_elsewhere, &[writer_gives_up, reads]);
}

#[test]
fn a_disowned_deputy_takes_nothing_away_and_leaves_nothing_behind() {
    // The deputy comes back at any moment: while a reader takes, holds or releases the lock, and while a writer does.
    fn reads_while_it_comes_back(world: &World, thread: u64) {
        world.pass(2 * DEADLINE);
        let _either = world.visit(thread, A, Exclusive, Wait::Never);
        world.await_flag();
        assert_eq!(world.lock(thread, A, Shared, Wait::Forever), Ok(()));
        other_process_releases(world, thread);
        world.inside(A, Shared);
        world.unlock(thread, A);
        write_a(world, thread);
        read_a(world, thread);
    }
    explore(2, readers_elsewhere, &[writer_gives_up, reads_while_it_comes_back]);
}

#[test]
fn an_unlock_that_fails_beside_a_disowned_deputy_costs_no_lock() {
    // The lock file is closed then, but the deputy uses the descriptor. When it gives the descriptor back, others hold
    // the lock.
    fn reads_in_vain(world: &World, thread: u64) {
        world.pass(2 * DEADLINE);
        let _either = world.visit(thread, A, Exclusive, Wait::Never);
        world.await_flag();
        world.kernel.lock().unwrap().failing_unlocks = 1;
        assert_eq!(world.visit(thread, A, Shared, Wait::Forever), Ok(()));
        other_process_releases(world, thread);
        write_a(world, thread);
        read_a(world, thread);
    }
    explore(2, readers_elsewhere, &[writer_gives_up, reads_in_vain]);
}

const TICK: Duration = Duration::from_micros(1);

fn readers_elsewhere_while_time_passes() -> StubState {
    StubState { tick: TICK, ..readers_elsewhere() }
}

/// A writer whose deputy stays in the kernel. Its deadline is between the look at the clock before the deputy is sent
/// and the next look.
fn give_up_at_once(world: &World, thread: u64) {
    let deadline = world.start + world.clock() + 3 * TICK;
    assert_eq!(world.visit(thread, A, Exclusive, Wait::Until(deadline)), Err(Refusal::TimedOut(false)));
    assert_eq!(world.deputies(), 1);
}

#[test]
fn a_writer_waits_again_for_the_deputy_that_was_disowned() {
    fn comes_and_goes(world: &World, thread: u64) {
        for _ in 0..3 {
            give_up_at_once(world, thread);
            assert_eq!(world.visit(thread, A, Shared, Wait::Never), Ok(()));
        }
        other_process_releases(world, thread);
    }
    explore(2, readers_elsewhere_while_time_passes, &[comes_and_goes]);
}

#[test]
fn a_deputy_that_is_waited_for_again_does_not_bring_a_released_lock() {
    // The deputy is granted the lock beside a reader and comes late. The reader releases everything, and another
    // process takes the lock.
    fn waits_again(world: &World, thread: u64) {
        give_up_at_once(world, thread);
        assert_eq!(world.lock(thread, A, Shared, Wait::Forever), Ok(()));
        other_process_releases(world, thread);
        // The deputy may run now, which does not count as a preemption.
        loom::thread::yield_now();
        world.unlock(thread, A);
        world.other_process_goes_in(A);
        world.raise_flag();
        assert_eq!(world.visit(thread, A, Exclusive, Wait::Until(world.start + DEADLINE)), Ok(()));
    }
    fn leaves(world: &World, thread: u64) {
        world.await_flag();
        other_process_releases(world, thread);
    }
    explore(2, readers_elsewhere_while_time_passes, &[waits_again, leaves]);
}

#[test]
fn during_the_callback_others_have_the_lock() {
    fn tells(world: &World, thread: u64) {
        let tell = |_: bool| {
            other_process_releases(world, thread);
            // Once as another thread, and once as this one.
            assert_eq!(world.visit(thread + 10, A, Exclusive, Wait::Never), Ok(()));
            assert_eq!(world.visit(thread, A, Exclusive, Wait::Never), Ok(()));
            Told::GoOn(0)
        };
        let on_wait = Some(OnWait { at: world.start, tell: &tell });
        let user = world.enter(A);
        assert_eq!(world.acquire_and_tell(thread, &user, Exclusive, Wait::Forever, on_wait), Ok(()));
        world.inside(A, Exclusive);
        world.release(thread, &user);
        world.table.leave(&user);
    }
    explore(2, held_elsewhere, &[tells]);
}
