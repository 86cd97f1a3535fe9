//! Deadlocks that the kernel finds, and those that the table finds.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::kernel::StubState;
use crate::sys::LockMode::{Exclusive, Shared};
use crate::table::{Key, Refusal, Wait};
use crate::world::{A, B, C, World, explore, held_elsewhere, nothing_held, write_a};

/// How long the kernel must repeat EDEADLK.
const PERSISTS: Duration = Duration::from_secs(30);
const LONG: Duration = PERSISTS.saturating_mul(3);
/// How much longer polling may take. The steps are large, because loom counts only up to 65535 in one run.
const SOON: Duration = Duration::from_millis(500);

fn for_ever() -> StubState {
    StubState { sees_deadlocks: true, least_sleep: SOON / 5, ..held_elsewhere() }
}

fn deadlock_for_long() -> StubState {
    StubState { theirs_end: Some(LONG), ..for_ever() }
}

#[test]
fn a_deadlock_of_a_thread_that_holds_something_is_believed_when_it_lasts() {
    fn asks(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, B, Exclusive, Wait::Forever), Ok(()));
        let before = world.clock();
        assert_eq!(world.visit(thread, A, Exclusive, Wait::Forever), Err(Refusal::Deadlock));
        let after = world.clock() - before;
        assert!((PERSISTS..PERSISTS + SOON).contains(&after), "{after:?}");
        world.unlock(thread, B);
        world.kernel.lock().unwrap().theirs.clear();
    }
    explore(0, for_ever, &[asks]);
}

#[test]
fn a_deadlock_is_not_reported_to_a_thread_that_holds_nothing() {
    fn asks(world: &World, thread: u64) {
        assert_eq!(world.visit(thread, A, Exclusive, Wait::Forever), Ok(()));
        assert!(world.clock() >= LONG, "{:?}", world.clock());
    }
    explore(0, deadlock_for_long, &[asks]);
}

#[test]
fn a_deadlock_with_another_process_each_time_is_none() {
    fn asks(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, B, Exclusive, Wait::Forever), Ok(()));
        assert_eq!(world.visit(thread, A, Exclusive, Wait::Forever), Ok(()));
        assert!((LONG..LONG + SOON).contains(&world.clock()), "{:?}", world.clock());
        world.unlock(thread, B);
    }
    explore(0, || StubState { holders_change: true, ..deadlock_for_long() }, &[asks]);
}

#[test]
fn a_deadlock_of_a_thread_that_holds_nothing_is_reported_to_those_behind_it() {
    fn behind(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, B, Exclusive, Wait::Forever), Ok(()));
        let before = world.clock();
        let result = world.visit(thread, A, Exclusive, Wait::Forever);
        assert_eq!(result, Err(Refusal::Deadlock));
        assert!(world.clock() - before < PERSISTS + 3 * SOON, "{:?}", world.clock() - before);
        world.unlock(thread, B);
    }
    explore(0, deadlock_for_long, &[write_a, behind]);
}

#[test]
fn two_deadlocks_far_apart_are_not_one_that_lasts() {
    fn asks(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, B, Exclusive, Wait::Forever), Ok(()));
        assert_eq!(world.visit(thread, A, Exclusive, Wait::Forever), Ok(()));
        world.unlock(thread, B);
    }
    let with_a_sleep_between = || StubState {
        sleep_in_lock: Some((2, PERSISTS)),
        theirs_end: Some(PERSISTS + PERSISTS / 2),
        ..deadlock_for_long()
    };
    explore(0, with_a_sleep_between, &[asks]);
}

#[test]
fn a_waiter_with_a_deadline_waits_behind_a_thread_that_gets_a_deadlock_error() {
    fn behind(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, B, Exclusive, Wait::Forever), Ok(()));
        let deadline = world.start + 2 * LONG;
        assert_eq!(world.visit(thread, A, Exclusive, Wait::Until(deadline)), Ok(()));
        world.unlock(thread, B);
    }
    explore(0, deadlock_for_long, &[write_a, behind]);
}

#[test]
fn a_try_is_never_part_of_a_cycle() {
    fn tries(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, B, Exclusive, Wait::Forever), Ok(()));
        // The thread looks again before it gives up.
        let _either = world.visit(thread, A, Exclusive, Wait::Never);
        world.unlock(thread, B);
    }
    fn waits(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, A, Exclusive, Wait::Forever), Ok(()));
        assert_eq!(world.visit(thread, B, Exclusive, Wait::Forever), Ok(()));
        world.unlock(thread, A);
    }
    explore(3, nothing_held, &[tries, waits]);
}

#[test]
fn a_reader_behind_a_writer_waits_for_readers() {
    // If the writer does not come in between, none of them gets an error.
    fn told(result: &Result<(), Refusal<&'static str>>) {
        assert!(matches!(result, Ok(()) | Err(Refusal::Deadlock)), "{result:?}");
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

/// Takes `first` and asks for `second`. The thread that closes a cycle gets an error, and the others go on.
fn take(world: &World, thread: u64, (first, second): (Key, Key), told: &AtomicUsize) {
    assert_eq!(world.lock(thread, first, Exclusive, Wait::Forever), Ok(()));
    match world.visit(thread, second, Exclusive, Wait::Forever) {
        Ok(()) => {}
        Err(refusal) => {
            assert_eq!(refusal, Refusal::Deadlock);
            told.fetch_add(1, SeqCst);
        }
    }
    world.unlock(thread, first);
}

#[test]
fn of_three_threads_in_a_ring_at_most_one_gets_an_error() {
    // The search looks at each lock file under its own mutex, one after the other, while the other threads run.
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    fn ring(world: &World, thread: u64) {
        let before = TOLD.load(SeqCst);
        take(world, thread, [(A, B), (B, C), (C, A)][thread as usize], &TOLD);
        assert!(TOLD.load(SeqCst) <= before + 1);
    }
    explore(2, nothing_held, &[ring, ring, ring]);
    assert!(TOLD.load(SeqCst) > 0, "no order of the threads closes the ring");
}

#[test]
fn a_chain_without_an_end_is_no_cycle() {
    // Each thread waits for the next, and the last one for nobody.
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    fn chain(world: &World, thread: u64) {
        take(world, thread, [(A, B), (B, C), (A, C)][thread as usize], &TOLD);
    }
    explore(1, nothing_held, &[chain, chain, chain]);
    assert_eq!(TOLD.load(SeqCst), 0, "a thread got a deadlock error without a cycle");
}
