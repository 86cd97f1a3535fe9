//! The threads that may hold one lock, or two locks, at the same time.

use crate::kernel::StubState;
use crate::sys::LockMode::{Exclusive, Shared};
use crate::table::{Key, Refusal, Wait};
use crate::world::{
    A, B, World, explore, held_elsewhere, nothing_held, other_process_releases, read_a, try_a, write_a,
};

#[test]
fn two_writers() {
    explore(4, nothing_held, &[write_a, write_a]);
}

#[test]
fn a_reader_and_a_writer() {
    explore(4, nothing_held, &[read_a, write_a]);
}

#[test]
fn two_readers_and_a_writer() {
    explore(2, nothing_held, &[read_a, write_a, read_a]);
}

#[test]
fn three_writers() {
    explore(2, nothing_held, &[write_a, write_a, write_a]);
}

#[test]
fn somebody_tries_without_waiting() {
    explore(2, nothing_held, &[try_a, write_a, read_a]);
}

#[test]
fn another_process_holds_the_lock() {
    explore(2, held_elsewhere, &[write_a, read_a, other_process_releases]);
}

#[test]
fn the_kernel_refuses_one_of_two() {
    fn either(world: &World, thread: u64) {
        let result = world.visit(thread, A, Exclusive, Wait::Forever);
        assert!(matches!(result, Ok(()) | Err(Refusal::Kernel("ENOLCK"))), "{result:?}");
    }
    let one_fails = || StubState { failing_locks: 1, ..StubState::default() };
    explore(3, one_fails, &[either, either]);
    explore(2, one_fails, &[either, read_if_it_can, either]);
    fn read_if_it_can(world: &World, thread: u64) {
        let _either = world.visit(thread, A, Shared, Wait::Forever);
    }
}

#[test]
fn an_unlock_fails() {
    // After that the file is closed, which releases the lock as well, and opened again.
    explore(3, || StubState { failing_unlocks: 1, ..StubState::default() }, &[write_a, write_a]);
    explore(2, || StubState { failing_unlocks: 1, ..StubState::default() }, &[write_a, read_a, read_a]);
}

#[test]
fn two_locks_in_one_order() {
    fn both(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, A, Exclusive, Wait::Forever), Ok(()));
        assert_eq!(world.visit(thread, B, Shared, Wait::Forever), Ok(()));
        world.inside(A, Exclusive);
        world.unlock(thread, A);
    }
    explore(3, nothing_held, &[both, both]);
}

#[test]
fn two_locks_in_two_orders() {
    // The thread that closes the cycle gets an error, and the other one goes on.
    fn take(world: &World, thread: u64, first: Key, second: Key) {
        assert_eq!(world.lock(thread, first, Exclusive, Wait::Forever), Ok(()));
        match world.visit(thread, second, Exclusive, Wait::Forever) {
            Ok(()) => {}
            Err(Refusal::Deadlock) => assert_eq!(world.table.held_by(thread).len(), 1),
            Err(refusal) => panic!("{refusal:?}"),
        }
        world.inside(first, Exclusive);
        world.unlock(thread, first);
    }
    explore(3, nothing_held, &[|world, thread| take(world, thread, A, B), |world, thread| take(world, thread, B, A)]);
}

#[test]
fn a_waiter_for_one_lock_does_not_block_another() {
    fn holds_one_and_asks_for_another(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, A, Exclusive, Wait::Forever), Ok(()));
        assert_eq!(world.visit(thread, B, Exclusive, Wait::Forever), Ok(()));
        world.unlock(thread, A);
    }
    fn write_b(world: &World, thread: u64) {
        assert_eq!(world.visit(thread, B, Exclusive, Wait::Forever), Ok(()));
    }
    explore(1, nothing_held, &[holds_one_and_asks_for_another, write_a, write_b]);
}

#[test]
fn a_thread_asks_for_what_it_holds() {
    fn twice(world: &World, thread: u64) {
        for (first, second) in [(Shared, Exclusive), (Exclusive, Shared), (Exclusive, Exclusive)] {
            assert_eq!(world.lock(thread, A, first, Wait::Forever), Ok(()));
            assert_eq!(world.lock(thread, A, second, Wait::Forever), Err(Refusal::Deadlock));
            assert_eq!(world.table.held_by(thread).len(), 1);
            assert_eq!(world.lock(thread, A, second, Wait::Never), Err(Refusal::WouldBlock));
            world.inside(A, first);
            world.unlock(thread, A);
        }
    }
    explore(3, nothing_held, &[twice, write_a]);
}

#[test]
fn a_reader_reads_again_whoever_waits() {
    fn twice(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, A, Shared, Wait::Forever), Ok(()));
        for wait in [Wait::Forever, Wait::Never] {
            assert_eq!(world.lock(thread, A, Shared, wait), Ok(()));
            world.unlock(thread, A);
            world.inside(A, Shared);
        }
        world.unlock(thread, A);
    }
    explore(3, nothing_held, &[twice, write_a]);
    explore(2, nothing_held, &[twice, twice, write_a]);
}
