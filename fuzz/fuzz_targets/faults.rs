//! As `operations`, with system calls that fail, are interrupted and cut short: after every step each file is the version
//! that the answer says, nothing is left behind by a call that could remove it, and every lock that has no guard is free.

#![no_main]

use atomic_file_adapter_fuzz::operations::{Faults, Op, World};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|steps: Vec<(Op, Option<Faults>)>| {
    let mut world = World::new();
    steps.iter().take(40).for_each(|(op, faults)| world.step(op, faults.as_ref()));
    world.end();
});
