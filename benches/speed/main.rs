//! `cargo bench`: ours and its peers side by side.
//!
//! 1. criterion measures each way by itself and compares it with the last time.
//! 2. The ways of a contest are measured in turns, a few milliseconds each, round after round, so that a noisy machine is noisy
//!    for all of them. The ratios are medians over the rounds. They are printed as a table and drawn as a chart; with
//!    `BENCH_SAVE=1` both go into the README.
//!
//! `cargo bench -- write` does both for the contests with that in their names, and saves nothing.
//!
//! `BENCH_DIR` is where the files are; by default in memory, so that the processor's work is measured and not the disk.

mod contests;
mod helpers;
mod peers;
mod report;

use std::env;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::Criterion;

use crate::contests::{CONTESTS, Contest, Run, TARGETS};
use crate::report::Measured;

/// For one contest.
const BUDGET: Duration = Duration::from_secs(10);
const MOST_ROUNDS: usize = 301;

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["help", contest, way, dir] => return helpers::serve(contests::process(contest, way, Path::new(dir))),
        // For tools that count.
        ["repeat", contest, way, times] => return repeat(contest, way, times.parse().expect("a number")),
        _ => {}
    }
    let dir = directory();
    criterion(dir.path());
    // As criterion sees it: `cargo test --bench speed` tries everything once.
    let only_try = args.iter().any(|arg| arg == "--test") || !args.iter().any(|arg| arg == "--bench");
    let filter = args.iter().find(|arg| !arg.starts_with('-')).map_or("", String::as_str);
    let contests = CONTESTS.iter().filter(|contest| contest.name.contains(filter));
    let measured: Vec<_> = contests.map(|contest| measure(contest, dir.path(), only_try)).collect();
    report::print(&measured, TARGETS, dir.path());
    if only_try {
        println!("\nEach was tried once: these numbers mean nothing.");
    } else if filter.is_empty() {
        report::save(&measured, dir.path());
    }
}

fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let default = || if memory.is_dir() { memory.to_owned() } else { env::temp_dir() };
    let dir = env::var_os("BENCH_DIR").map_or_else(default, PathBuf::from);
    tempfile::tempdir_in(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
}

fn repeat(contest: &str, way: &str, times: u64) {
    let contest = CONTESTS.iter().find(|one| one.name == contest).expect("the name of a contest");
    let way = contest.ways.iter().find(|one| one.name == way).expect("the name of a way");
    let dir = directory();
    let mut run = (way.prepare)(dir.path()).expect("all that it needs");
    run(times);
}

fn criterion(dir: &Path) {
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    // Hundreds of runs of a second each tell no more.
    for contest in CONTESTS.iter().filter(|contest| contest.batch < Duration::from_millis(10)) {
        let mut group = criterion.benchmark_group(contest.name);
        for way in contest.ways {
            group.bench_function(way.name, |bencher| match (way.prepare)(dir) {
                Some(run) => bencher.iter_custom(run),
                None => bencher.iter(|| ()),
            });
        }
    }
    criterion.final_summary();
}

/// Measures the ways of a contest in turns.
fn measure(contest: &Contest, dir: &Path, only_try: bool) -> Measured {
    let mut ways: Vec<(&'static str, Run, u64)> = Vec::new();
    for way in contest.ways {
        let Some(mut run) = (way.prepare)(dir) else {
            println!("{}: {} is left out, this machine lacks what it needs", contest.name, way.name);
            continue;
        };
        let times = if only_try { 1 } else { times_in(contest.batch, &mut run) };
        ways.push((way.name, run, times));
    }
    let mut seconds = vec![Vec::new(); ways.len()];
    let start = Instant::now();
    for round in 0..if only_try { 1 } else { MOST_ROUNDS } {
        for n in 0..ways.len() {
            // Somebody else begins every time.
            let n = (n + round) % ways.len();
            let (_, run, times) = &mut ways[n];
            seconds[n].push(run(*times).as_secs_f64() / *times as f64);
        }
        if start.elapsed() > BUDGET {
            break;
        }
    }
    let ways = ways.iter().zip(seconds).map(|((name, ..), seconds)| (*name, seconds)).collect();
    Measured { contest: contest.name, ways }
}

/// How often it can be done in a time.
fn times_in(batch: Duration, run: &mut Run) -> u64 {
    let mut times = 1;
    loop {
        let took = run(times);
        if took >= batch / 2 {
            return ((times as f64 * batch.as_secs_f64() / took.as_secs_f64()) as u64).max(1);
        }
        times *= 2;
    }
}
