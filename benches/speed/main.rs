//! `cargo bench`: this crate and its peers side by side.
//!
//! 1. criterion measures each way by itself and compares it with the last run.
//! 2. The ways of a contest are measured in turns, a few milliseconds each, round after round, so that a noisy machine
//!    affects all of them. The ratios are medians over the rounds. They are printed as a table and drawn as a chart.
//!    With `BENCH_SAVE=1` the table goes into `src/docs/speed.md` and the chart into this directory.
//! 3. The curves show the cost of locks as files, held locks, threads and processes increase. They are measured in
//!    turns, too, and have their own table and picture.
//!
//! `cargo bench -- write` does this for everything with that word in its name, and saves nothing. The names of the
//! curves begin with `curves: `, so `cargo bench -- curves` runs all of them, and these are saved then.
//!
//! `BENCH_DIR` is the directory of the files. By default it is in memory, so that the processor's work is measured and
//! not the disk.

mod contests;
mod curves;
mod helpers;
mod peers;
mod report;
mod turns;

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::Criterion;

use crate::contests::{CONTESTS, Contest, TARGETS};
use crate::report::Measured;
use crate::turns::in_turns;

/// The time for one contest.
const BUDGET: Duration = Duration::from_secs(10);

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["help", contest, way, dir] => return helpers::serve(contests::process(contest, way, Path::new(dir))),
        ["curve", role, way, dir] => return curves::help(role, way, Path::new(dir)),
        // For tools that count system calls.
        ["repeat", contest, way, times] => return repeat(contest, way, times.parse().expect("a number")),
        _ => {}
    }
    let dir = directory();
    criterion(dir.path());
    // The rule of criterion: `cargo test --bench speed` tries everything once.
    let only_try = args.iter().any(|arg| arg == "--test") || !args.iter().any(|arg| arg == "--bench");
    let filter = args.iter().find(|arg| !arg.starts_with('-')).map_or("", String::as_str);
    let contests = CONTESTS.iter().filter(|contest| contest.name.contains(filter));
    let measured: Vec<_> = contests.map(|contest| measure(contest, dir.path(), only_try)).collect();
    if !measured.is_empty() {
        report::print(&measured, TARGETS, dir.path());
    }
    let curves = curves::measure(dir.path(), filter, only_try);
    if !curves.is_empty() {
        curves::report::print(&curves, dir.path());
    }
    if only_try {
        println!("\nEach was tried once: these numbers mean nothing.");
        return;
    }
    if filter.is_empty() {
        report::save(&measured, dir.path());
    }
    if filter.is_empty() || filter == "curves" {
        curves::report::save(&curves, dir.path());
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
    // Hundreds of runs of a second each would tell no more.
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
    let (mut names, mut runs) = (Vec::new(), Vec::new());
    for way in contest.ways {
        let Some(run) = (way.prepare)(dir) else {
            println!("{}: {} is left out, this machine lacks what it needs", contest.name, way.name);
            continue;
        };
        names.push(way.name);
        runs.push(run);
    }
    let seconds = in_turns(&mut runs, contest.batch, BUDGET, only_try);
    Measured { contest: contest.name, ways: names.into_iter().zip(seconds).collect() }
}
