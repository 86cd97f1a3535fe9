//! Deadlocks that the kernel sees, and those that the table sees.

use std::time::Duration;

use crate::kernel::StubState;
use crate::sys::LockMode::{Exclusive, Shared};
use crate::table::{Key, Refusal, Wait};
use crate::world::{A, B, World, explore, held_elsewhere, nothing_held, write_a};

const SECOND: Duration = Duration::from_secs(1);
/// What polling may take longer.
const SOON: Duration = Duration::from_millis(50);

fn deadlock_for_3_seconds() -> StubState {
    StubState { sees_deadlocks: true, theirs_end: Some(3 * SECOND), ..held_elsewhere() }
}

#[test]
fn a_deadlock_of_a_thread_that_holds_something_is_believed_when_it_lasts() {
    const C: Key = (7, 2);
    fn asks(world: &World, thread: u64) {
        let told_after = |in_order| {
            let before = world.clock();
            world.enter(A);
            let result = world.acquire_in_order(in_order, thread, A, Exclusive, Wait::Forever);
            assert!(matches!(result, Err(Refusal::Deadlock(_))), "{result:?}");
            world.table.leave(A);
            world.clock() - before
        };
        let assert_told = |in_order, least: Duration| {
            let after = told_after(in_order);
            assert!(least <= after && after < least + SOON, "{after:?} instead of {least:?}");
        };
        assert_eq!(world.lock(thread, B, Exclusive, Wait::Forever), Ok(()));
        assert_told(0, SECOND);
        // Whoever takes all in the common order is mostly in no cycle.
        assert_told(1, 30 * SECOND);
        assert_eq!(world.lock(thread, C, Exclusive, Wait::Forever), Ok(()));
        assert_told(1, SECOND);
        world.unlock(thread, B);
        world.unlock(thread, C);
        world.kernel.lock().unwrap().theirs.clear();
    }
    let for_ever = || StubState { sees_deadlocks: true, least_sleep: SOON / 5, ..held_elsewhere() };
    explore(0, for_ever, &[asks]);
}

#[test]
fn a_deadlock_with_another_process_each_time_is_none() {
    fn asks(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, B, Exclusive, Wait::Forever), Ok(()));
        assert_eq!(world.visit(thread, A, Exclusive, Wait::Forever), Ok(()));
        assert!((3 * SECOND..3 * SECOND + SOON).contains(&world.clock()), "{:?}", world.clock());
        world.unlock(thread, B);
    }
    explore(0, || StubState { holders_change: true, ..deadlock_for_3_seconds() }, &[asks]);
}

#[test]
fn a_deadlock_of_a_thread_that_holds_nothing_is_told_to_those_behind_it() {
    fn behind(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, B, Exclusive, Wait::Forever), Ok(()));
        let before = world.clock();
        let result = world.visit(thread, A, Exclusive, Wait::Forever);
        assert!(matches!(&result, Err(Refusal::Deadlock(held)) if held.len() == 1), "{result:?}");
        assert!(world.clock() - before < SECOND + 3 * SOON, "{:?}", world.clock() - before);
        world.unlock(thread, B);
    }
    explore(0, deadlock_for_3_seconds, &[write_a, behind]);
}

#[test]
fn two_deadlocks_far_apart_are_not_one_that_lasts() {
    fn asks(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, B, Exclusive, Wait::Forever), Ok(()));
        assert_eq!(world.visit(thread, A, Exclusive, Wait::Forever), Ok(()));
        world.unlock(thread, B);
    }
    let with_a_sleep_between = || StubState {
        sleep_in_lock: Some((2, 3 * SECOND)),
        theirs_end: Some(3 * SECOND + SECOND / 2),
        ..deadlock_for_3_seconds()
    };
    explore(0, with_a_sleep_between, &[asks]);
}

#[test]
fn who_has_a_deadline_waits_for_it_behind_a_thread_that_is_told_of_a_deadlock() {
    fn behind(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, B, Exclusive, Wait::Forever), Ok(()));
        let deadline = world.start + 10 * SECOND;
        assert_eq!(world.visit(thread, A, Exclusive, Wait::Until(deadline)), Ok(()));
        world.unlock(thread, B);
    }
    explore(0, deadlock_for_3_seconds, &[write_a, behind]);
}

#[test]
fn who_only_tries_is_in_no_cycle() {
    fn tries(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, B, Exclusive, Wait::Forever), Ok(()));
        // It looks again before it gives up.
        let _either = world.visit(thread, A, Exclusive, Wait::Never);
        world.unlock(thread, B);
    }
    fn waits(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, A, Exclusive, Wait::Forever), Ok(()));
        assert_eq!(world.visit(thread, B, Exclusive, Wait::Forever), Ok(()));
        world.unlock(thread, A);
    }
    explore(4, nothing_held, &[tries, waits]);
}

#[test]
fn a_reader_behind_a_writer_waits_for_readers() {
    // None of them is told of the cycle if the writer does not get in between.
    fn told(result: &Result<(), Refusal<&'static str>>) {
        assert!(matches!(result, Ok(()) | Err(Refusal::Deadlock(_))), "{result:?}");
    }
    fn reads_a_then_writes_b(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, A, Shared, Wait::Forever), Ok(()));
        told(&world.visit(thread, B, Exclusive, Wait::Forever));
        world.unlock(thread, A);
    }
    fn writes_b_then_reads_a(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, B, Exclusive, Wait::Forever), Ok(()));
        told(&world.visit(thread, A, Shared, Wait::Forever));
        world.unlock(thread, B);
    }
    explore(2, nothing_held, &[reads_a_then_writes_b, writes_b_then_reads_a, write_a]);
}
