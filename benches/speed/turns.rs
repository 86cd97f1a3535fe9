//! Measures in turns, so that a noisy machine affects everything that is compared.

use std::time::{Duration, Instant};

/// A median of fewer rounds means little, however long they take.
const LEAST_ROUNDS: usize = 3;
const MOST_ROUNDS: usize = 301;

/// The seconds of one operation of each run, one value for each round. A run does something so many times, and returns
/// how long that took.
pub fn in_turns<R>(runs: &mut [R], batch: Duration, budget: Duration, only_try: bool) -> Vec<Vec<f64>>
where
    R: FnMut(u64) -> Duration,
{
    let times: Vec<u64> = runs.iter_mut().map(|run| if only_try { 1 } else { times_in(batch, run) }).collect();
    let mut seconds = vec![Vec::new(); runs.len()];
    let start = Instant::now();
    for round in 0..if only_try { 1 } else { MOST_ROUNDS } {
        for n in 0..runs.len() {
            // Another run begins in every round.
            let n = (n + round) % runs.len();
            seconds[n].push(runs[n](times[n]).as_secs_f64() / times[n] as f64);
        }
        if round + 1 >= LEAST_ROUNDS && start.elapsed() > budget {
            break;
        }
    }
    seconds
}

/// How often the run can be done in this time.
fn times_in(batch: Duration, run: &mut impl FnMut(u64) -> Duration) -> u64 {
    let mut times = 1;
    loop {
        let took = run(times);
        if took >= batch / 2 {
            return ((times as f64 * batch.as_secs_f64() / took.as_secs_f64()) as u64).max(1);
        }
        times *= 2;
    }
}

/// How long it takes to do something so many times.
pub fn time(times: u64, mut once: impl FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..times {
        once();
    }
    start.elapsed()
}
