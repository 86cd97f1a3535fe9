//! Deadlines.

use std::time::Duration;

use crate::sys::LockMode::{Exclusive, Shared};
use crate::table::{Refusal, Wait};
use crate::world::{A, World, explore, nothing_held, read_a, try_a, write_a};

#[test]
fn a_deadline_passes() {
    const DEADLINE: Duration = Duration::from_secs(5);
    fn with_a_deadline(world: &World, thread: u64) {
        let result = world.visit(thread, A, Exclusive, Wait::Until(world.start + DEADLINE));
        assert!(matches!(result, Ok(()) | Err(Refusal::TimedOut(_))), "{result:?}");
    }
    /// loom's condition variables do not time out by themselves.
    fn time_passes(world: &World, thread: u64) {
        world.kernel.lock().unwrap().clock += 2 * DEADLINE;
        try_a(world, thread);
    }
    explore(2, nothing_held, &[with_a_deadline, write_a, time_passes]);
    explore(2, nothing_held, &[with_a_deadline, read_a, time_passes]);
}

#[test]
fn a_deadline_passes_while_the_holder_stays() {
    fn held_until_the_flag(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, A, Exclusive, Wait::Forever), Ok(()));
        let impatient = world.lock(thread + 10, A, Shared, Wait::Until(world.start));
        assert_eq!(impatient, Err(Refusal::TimedOut(true)));
        world.await_flag();
        world.inside(A, Exclusive);
        world.unlock(thread, A);
    }
    /// Its deadline passes at any moment. The holder waits until it was refused, so the clock has to end the wait.
    fn refused(world: &World, thread: u64) {
        let deadline = world.start + Duration::from_secs(5);
        let result = world.visit(thread, A, Exclusive, Wait::Until(deadline));
        assert!(matches!(result, Ok(()) | Err(Refusal::TimedOut(_))), "{result:?}");
        world.raise_flag();
    }
    fn time_passes(world: &World, thread: u64) {
        world.kernel.lock().unwrap().clock += Duration::from_secs(10);
        try_a(world, thread);
    }
    explore(2, nothing_held, &[held_until_the_flag, refused, time_passes]);
}
