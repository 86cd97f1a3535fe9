//! Arbitrary sequences of all operations on a few files, through several adapters and handles, in one thread. After
//! every step, the state on disk and the kernel's list of locks agree with a plain model in memory.

#![no_main]

use atomic_file_adapter_fuzz::operations::{Op, World};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|ops: Vec<Op>| {
    let mut world = World::new();
    ops.iter().take(40).for_each(|op| world.step(op, None));
    world.end();
});
