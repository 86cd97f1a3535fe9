//! The same as `operations`, with system calls that fail, are interrupted or cut short. After every step each file is
//! the version that the answer says, nothing is left that could have been removed, and every lock without a guard is
//! free.

#![no_main]

use atomic_file_adapter_fuzz::operations::{Faults, Op, World};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|steps: Vec<(Op, Option<Faults>)>| {
    let mut world = World::new();
    steps.iter().take(40).for_each(|(op, faults)| world.step(op, faults.as_ref()));
    world.end();
});
