//! Lock files that are opened, asked about, and left by their last user.

use crate::kernel::File;
use crate::sys::LockMode::Exclusive;
use crate::table::{Key, Refusal, Wait};
use crate::world::{A, B, World, explore, held_elsewhere, nothing_held, read_a, write_a};

#[test]
fn the_user_leaves_before_the_lock_is_released() {
    // As a handle that was inherited by a fork does.
    fn leave_first(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, A, Exclusive, Wait::Forever), Ok(()));
        world.table.leave(A);
        world.inside(A, Exclusive);
        world.table.release(A, thread);
    }
    explore(3, nothing_held, &[leave_first, leave_first]);
    explore(2, nothing_held, &[leave_first, read_a, write_a]);
}

#[test]
fn a_lock_file_is_opened_twice() {
    // Its name led to another file when it was looked at; the second descriptor must outlive the locks.
    fn opened_again(world: &World, thread: u64) {
        let open = || Ok((A, File { key: A, kernel: world.kernel.clone() }));
        let entered: Result<Key, ()> = world.table.enter(|| Ok(Some(B)), open);
        assert_eq!(entered, Ok(A));
        read_a(world, thread);
        world.table.leave(A);
    }
    explore(3, nothing_held, &[opened_again, write_a]);
    explore(2, nothing_held, &[opened_again, read_a, write_a]);
}

#[test]
fn to_ask_about_a_lock_file_does_not_close_it() {
    fn asks(world: &World, thread: u64) {
        world.enter(A);
        assert_eq!(world.table.with_file(A, |file| file.key), Some(A));
        // `Gone` otherwise.
        assert_eq!(world.acquire(thread, A, Exclusive, Wait::Never), Ok(()));
        assert_eq!(world.table.with_file(A, |file| file.key), Some(A));
        world.inside(A, Exclusive);
        world.unlock(thread, A);
        assert_eq!(world.table.with_file(A, |file| file.key), None, "its last user has left");
    }
    explore(3, nothing_held, &[asks]);
}

#[test]
fn a_child_closes_only_what_is_its_own() {
    fn inherits(world: &World, _: u64) {
        for (foreign, closed) in [(false, 1), (true, 0)] {
            world.enter(A);
            let before = world.kernel.lock().unwrap().closed;
            world.kernel.lock().unwrap().foreign = foreign;
            world.table.close_all_if_idle();
            assert_eq!(world.kernel.lock().unwrap().closed - before, closed);
            assert_eq!(world.table.with_file(A, |file| file.key), None);
        }
        world.kernel.lock().unwrap().foreign = false;
    }
    explore(0, nothing_held, &[inherits]);
}

#[test]
fn the_last_user_leaves_while_another_thread_waits() {
    // Two threads share a handle, and one of them has found that the lock file was pruned.
    fn leaves(world: &World, thread: u64) {
        world.enter(A);
        world.raise_flag();
        let result = world.acquire(thread, A, Exclusive, Wait::Forever);
        world.table.leave(A);
        if result.is_ok() {
            world.inside(A, Exclusive);
            world.table.release(A, thread);
        }
    }
    fn waits(world: &World, thread: u64) {
        world.await_flag();
        match world.acquire(thread, A, Exclusive, Wait::Forever) {
            Ok(()) => {
                world.inside(A, Exclusive);
                world.table.release(A, thread);
            }
            Err(refusal) => assert_eq!(refusal, Refusal::Gone),
        }
    }
    explore(3, nothing_held, &[leaves, waits]);
    explore(2, nothing_held, &[leaves, waits, waits]);
}

#[test]
fn the_last_user_leaves_while_another_thread_is_refused() {
    fn leaves(world: &World, _: u64) {
        world.enter(A);
        world.table.leave(A);
        world.raise_flag();
    }
    fn tries(world: &World, thread: u64) {
        let result = world.acquire(thread, A, Exclusive, Wait::Never);
        assert!(matches!(result, Err(Refusal::WouldBlock | Refusal::Gone)), "{result:?}");
        world.await_flag();
        assert_eq!(world.table.with_file(A, |file| file.key), None, "it stays open");
        world.kernel.lock().unwrap().theirs.clear();
    }
    explore(3, held_elsewhere, &[leaves, tries]);
}
