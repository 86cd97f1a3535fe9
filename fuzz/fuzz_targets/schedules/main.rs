//! Arbitrary schedules of threads that lock, try, wait with a deadline and release, through the table of `src/lock`.
//! One or two processes have one table each, on a substitute for the kernel that knows only processes.
//!
//! The reference is a readers-writer lock for threads: a writer is alone, a refusal has a reason, and every waiter gets
//! the lock when it becomes free. shuttle runs one thread at a time. The input decides which thread is next, and when
//! time passes. shuttle reports threads that wait for each other.

#![no_main]

use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::{Corpus, fuzz_target};
use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};

use crate::world::{Thread, World};

mod clock;
mod kernel;
mod world;

#[allow(dead_code, unused_imports, reason = "the library uses the rest")]
#[path = "../../../src/lock/table.rs"]
mod table;

/// The types that the table is built on.
mod sync {
    pub(super) use shuttle::sync::{Mutex, MutexGuard};

    pub(super) use crate::clock::Condvar;
}

mod sys {
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum LockMode {
        Shared,
        Exclusive,
    }
}

#[derive(Debug, Clone, Arbitrary)]
struct Input {
    two_processes: bool,
    threads: [Option<Vec<Op>>; 4],
    /// How many calls of the kernel succeed before one fails.
    failing_lock: Option<u8>,
    failing_unlock: Option<u8>,
}

/// An operation of a thread. At the end the thread releases everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
enum Op {
    Lock {
        b: bool,
        exclusive: bool,
        wait: Patience,
    },
    /// Takes both exclusive locks, in the common order.
    LockBoth,
    /// Releases the lock that was taken last.
    Unlock,
    /// Removes a lock file, if nobody holds its lock.
    Prune {
        b: bool,
    },
    /// Enters and leaves the table, as a call that only looks does. `stale`: the name led to another file at the look,
    /// and leads to this one at the open.
    Look {
        b: bool,
        stale: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
enum Patience {
    Never,
    Milliseconds(u8),
    Forever,
}

/// The first thread that `run` starts. `run` itself has the number 0.
const CLOCK: usize = 1;

/// The rest of the input, which decides which thread is next.
struct Choices {
    bytes: Vec<u8>,
    used: usize,
    turn: usize,
    begun: bool,
}

impl Scheduler for Choices {
    fn new_execution(&mut self) -> Option<Schedule> {
        let first = !std::mem::replace(&mut self.begun, true);
        first.then(|| Schedule::new(0))
    }

    fn next_task(&mut self, runnable: &[&Task], _: Option<TaskId>, _: bool) -> Option<TaskId> {
        if runnable.len() == 1 {
            return Some(runnable[0].id());
        }
        let choice = match self.bytes.get(self.used) {
            Some(byte) => {
                self.used += 1;
                usize::from(*byte)
            }
            // After the end of the input, each thread is next in turn, so that none keeps the others waiting. Time
            // passes when all of them wait for it. Otherwise a true deadlock of two processes, which is polled for half
            // a minute, would take for ever.
            None => {
                self.turn += 1;
                let others = runnable.len() - usize::from(runnable.iter().any(|task| task.id() == CLOCK.into()));
                let mut in_turn = runnable.iter().filter(|task| task.id() != CLOCK.into());
                return in_turn.nth(self.turn % others).map(|task| task.id());
            }
        };
        Some(runnable[choice % runnable.len()].id())
    }

    fn next_u64(&mut self) -> u64 {
        0
    }
}

fuzz_target!(|data: &[u8]| -> Corpus {
    let mut data = Unstructured::new(data);
    let Ok(input) = data.arbitrary::<Input>() else { return Corpus::Reject };
    if std::env::var_os("SHOW").is_some() {
        println!("{input:#?}");
    }
    let choices = Choices { bytes: data.take_rest().to_vec(), used: 0, turn: 0, begun: false };
    let mut config = shuttle::Config::new();
    config.failure_persistence = shuttle::FailurePersistence::None;
    config.max_steps = shuttle::MaxSteps::FailAfter(100_000);
    shuttle::Runner::new(choices, config).run(move || run(&input));
    Corpus::Keep
});

fn run(input: &Input) {
    let world = Arc::new(World::new(input));
    let clock = shuttle::thread::spawn(|| {
        assert_eq!(shuttle::current::me(), CLOCK.into());
        clock::run();
    });
    let threads: Vec<_> = input
        .threads
        .iter()
        .enumerate()
        .filter_map(|(number, ops)| {
            let (world, ops) = (world.clone(), ops.clone()?);
            Some(shuttle::thread::spawn(move || {
                let mut thread = Thread::new(&world, number);
                ops.iter().take(8).for_each(|op| thread.run(*op));
                thread.unlock_all();
            }))
        })
        .collect();
    for thread in threads {
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
    world.await_deputies();
    world.assert_free();
    clock::stop();
    let _ = clock.join();
}
