//! Lock files that are opened, looked at, and left by their last user.

use std::sync::Arc;

use crate::kernel::File;
use crate::sys::LockMode::Exclusive;
use crate::table::Wait;
use crate::world::{A, B, User, World, explore, nothing_held, read_a, write_a};

#[test]
fn handles_come_and_go_while_others_lock() {
    // The last user closes the file, which must not drop a lock of others.
    fn comes_and_goes(world: &World, _: u64) {
        for _ in 0..2 {
            let user = world.enter(A);
            world.table.leave(&user);
        }
    }
    explore(3, nothing_held, &[comes_and_goes, write_a]);
    explore(2, nothing_held, &[comes_and_goes, write_a, read_a]);
}

#[test]
fn a_lock_file_is_opened_twice() {
    // At the look the name led to another file. The second descriptor must stay open as long as the locks are held.
    fn opened_again(world: &World, thread: u64) {
        let open = || Ok((A, File { key: A, kernel: world.kernel.clone() }));
        let entered: Result<User, ()> = world.table.enter(|| Ok(Some(B)), open);
        let user = entered.unwrap();
        assert_eq!(user.key(), A);
        read_a(world, thread);
        world.table.leave(&user);
    }
    explore(3, nothing_held, &[opened_again, write_a]);
    explore(2, nothing_held, &[opened_again, read_a, write_a]);
}

#[test]
fn a_descriptor_for_writing_replaces_one_for_reading() {
    fn reopens(world: &World, thread: u64) {
        let user = world.enter(A);
        let open = || Ok(Some((A, File { key: A, kernel: world.kernel.clone() })));
        let reopened: Result<bool, ()> = world.table.reopen(&user, open);
        assert_eq!(reopened, Ok(true));
        read_a(world, thread);
        // The name leads to another file by now.
        let open = || Ok(Some((B, File { key: B, kernel: world.kernel.clone() })));
        let reopened: Result<bool, ()> = world.table.reopen(&user, open);
        assert_eq!(reopened, Ok(false));
        world.table.leave(&user);
    }
    fn write_b(world: &World, thread: u64) {
        assert_eq!(world.visit(thread, B, Exclusive, Wait::Forever), Ok(()));
    }
    explore(2, nothing_held, &[reopens, write_a]);
    explore(2, nothing_held, &[reopens, write_b]);
}

#[test]
fn to_ask_about_a_lock_file_does_not_close_it() {
    fn asks(world: &World, thread: u64) {
        let user = world.enter(A);
        let closed = || world.kernel.lock().unwrap().closed;
        let before = closed();
        assert_eq!(world.table.with_file(&user, |file| file.key), Some(A));
        assert_eq!(world.visit(thread, A, Exclusive, Wait::Never), Ok(()));
        assert_eq!(world.table.with_file(&user, |file| file.key), Some(A));
        assert_eq!(closed(), before);
        world.table.leave(&user);
        assert_eq!(world.table.with_file(&user, |file| file.key), None, "its last user has left");
        assert_eq!(closed(), before + 1);
    }
    explore(3, nothing_held, &[asks]);
}

#[test]
fn a_child_closes_only_what_is_its_own() {
    fn inherits(world: &World, _: u64) {
        for (foreign, closed) in [(false, 1), (true, 0)] {
            let user = world.enter(A);
            let before = world.kernel.lock().unwrap().closed;
            world.kernel.lock().unwrap().foreign = foreign;
            world.table.close_all_if_idle();
            // As a handle that was inherited by fork.
            assert_eq!(Arc::strong_count(&user), 1);
            drop(user);
            assert_eq!(world.kernel.lock().unwrap().closed - before, closed);
        }
        world.kernel.lock().unwrap().foreign = false;
    }
    explore(0, nothing_held, &[inherits]);
}
