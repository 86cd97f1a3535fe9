//! Turns. Time passes only if a test or the table makes it pass.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use crate::sys::LockMode::{Exclusive, Shared};
use crate::table::{Key, Refusal, Wait};
use crate::world::{A, B, World, explore, nothing_held};

const TURN: Duration = Duration::from_millis(10);
const PAUSE: Duration = Duration::from_micros(70);
const MOMENT: Duration = Duration::from_micros(1);

#[test]
fn a_process_pauses_at_the_end_of_its_turn() {
    fn in_turns(world: &World, thread: u64) {
        // Returns the length of the pause before it.
        let hold = |wait, time| {
            let before = world.clock();
            assert_eq!(world.lock(thread, A, Exclusive, wait), Ok(()));
            let pause = world.clock() - before;
            world.pass(time);
            world.unlock(thread, A);
            pause
        };
        let hold_for = |time| hold(Wait::Forever, time);
        assert_eq!(hold_for(TURN), Duration::ZERO);
        assert_eq!(hold_for(MOMENT), Duration::ZERO, "the turn is not over yet");
        assert_eq!(hold_for(MOMENT), PAUSE);
        assert_eq!(hold_for(TURN), Duration::ZERO, "another turn begins after the pause");
        // Other processes have had their chance meanwhile, so the next turn begins anew.
        world.pass(PAUSE);
        assert_eq!(hold_for(MOMENT), Duration::ZERO);
        assert_eq!(hold_for(TURN + MOMENT), Duration::ZERO);
        world.pass(PAUSE - MOMENT);
        assert_eq!(hold_for(TURN + MOMENT), MOMENT, "the pause begins with the release");
        assert_eq!(hold(Wait::Never, MOMENT), Duration::ZERO, "a call that does not wait does not pause");
        assert_eq!(hold_for(TURN), PAUSE, "nor has anybody had a chance");
        let before = world.clock();
        assert_eq!(world.visit(thread, B, Exclusive, Wait::Forever), Ok(()));
        assert_eq!(world.clock(), before, "of another lock the turn is not over");
    }
    explore(1, nothing_held, &[in_turns]);
}

#[test]
fn a_turn_at_one_lock_file_is_no_turn_at_another() {
    // Keys that a table of 64 turns would mix up. (An earlier table had one.)
    const LIKE_A: Key = (A.0, A.1 + 64);
    const ON_ANOTHER_DEVICE: Key = (A.0 + 1, A.1);
    fn holds_for_long(world: &World, thread: u64) {
        for key in [LIKE_A, ON_ANOTHER_DEVICE] {
            assert_eq!(world.lock(thread, A, Exclusive, Wait::Forever), Ok(()));
            world.pass(TURN + MOMENT);
            let before = world.clock();
            for _ in 0..2 {
                assert_eq!(world.lock(thread, key, Exclusive, Wait::Forever), Ok(()));
                world.unlock(thread, key);
            }
            assert_eq!(world.clock(), before, "it slept before a lock that nobody had");
            world.unlock(thread, A);
            world.pass(PAUSE);
        }
    }
    explore(0, nothing_held, &[holds_for_long]);
}

#[test]
fn readers_give_way_at_the_end_of_a_turn_for_longer_each_time() {
    const MS: Duration = Duration::from_millis(1);
    const DRAINS: [Duration; 3] = [Duration::from_millis(2), Duration::from_millis(4), Duration::from_millis(8)];
    const TURN_PER_DRAIN: u32 = 5;
    static REFUSED: AtomicBool = AtomicBool::new(false);
    fn stays_inside(world: &World, thread: u64) {
        // Other threads than this one, for the table.
        let (joins, tries) = (thread + 10, thread + 20);
        assert_eq!(world.lock(thread, A, Shared, Wait::Forever), Ok(()));
        for drain in DRAINS {
            world.pass(drain * TURN_PER_DRAIN);
            // A wait here would last for ever.
            assert_eq!(world.visit(joins, A, Shared, Wait::Forever), Ok(()), "the turn is not over yet");
            world.pass(MOMENT);
            assert_eq!(world.visit(tries, A, Shared, Wait::Never), Ok(()), "nobody is in the way");
            world.raise_flag();
            while world.is_flag_raised() {
                world.pass(MS);
                // loom's condition variables do not time out by themselves. A call that gives up wakes the next waiter.
                let joined = world.visit(tries, A, Shared, Wait::Never);
                REFUSED.fetch_or(joined == Err(Refusal::WouldBlock), SeqCst);
                loom::thread::yield_now();
            }
        }
        world.unlock(thread, A);
    }
    fn gives_way(world: &World, thread: u64) {
        for drain in DRAINS {
            world.await_flag();
            let before = world.clock();
            assert_eq!(world.visit(thread, A, Shared, Wait::Forever), Ok(()));
            assert!(world.clock() - before >= drain, "{:?} of {drain:?}", world.clock() - before);
            world.lower_flag();
        }
    }
    explore(0, nothing_held, &[stays_inside, gives_way]);
    assert!(REFUSED.load(SeqCst), "no reader joined while another one gave way");
}
