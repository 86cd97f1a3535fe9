//! `CRASH_SEED`: other random subsets, samples and commits.

use std::env;

/// `CRASH_SEED`, or 1.
pub fn seed() -> u64 {
    env::var("CRASH_SEED").map_or(1, |seed| seed.parse().expect("CRASH_SEED is a number"))
}
