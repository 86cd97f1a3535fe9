//! The cost of a lock as files, held locks or waiting threads increase.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use atomic_file_adapter::AtomicFile;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Bench, Curve, HELD_ELSEWHERE, HELD_HERE, LOCK_MANY, Point, Unit, WAITING, bare_lock};
use crate::contests::{adapter, handle};
use crate::turns::{in_turns, time};

const BATCH: Duration = Duration::from_millis(2);
/// The time for one point.
const BUDGET: Duration = Duration::from_millis(700);
const MOST_FILES: usize = 9_900;
const MOST_HELD: usize = 9_950;
const MOST_WAITING: usize = 1_000;
/// No event shows that a thread has gone to sleep in a lock.
const UNTIL_ASLEEP: Duration = Duration::from_millis(100);
/// The threads need no more, and there are many of them.
const STACK: usize = 256 << 10;

type Run<'a> = Box<dyn FnMut(u64) -> Duration + 'a>;

/// Bare: `openat`, F_SETLK, and `close`, which unlocks.
pub fn lock_many(bench: &Bench) -> Vec<Curve> {
    let most = bench.most(MOST_FILES.min(files_that_can_be_held()));
    let adapter = adapter(bench.dir);
    let paths: Vec<PathBuf> = (0..most).map(|n| bench.dir.join(format!("many-{n}"))).collect();
    let bare_dir = bench.dir.join("bare-locks");
    fs::create_dir_all(&bare_dir).unwrap();
    let bare_paths: Vec<PathBuf> = (0..most).map(|n| bare_dir.join(format!("{n}.lock"))).collect();
    // Making the lock files is not measured.
    for (path, bare) in paths.iter().zip(&bare_paths) {
        drop(adapter.file(path).unwrap().lock().unwrap());
        File::create(bare).unwrap();
    }
    let point = |n| {
        let mut runs: [Run; 2] = [
            Box::new(|times| time(times, || drop(adapter.lock_many(&paths[..n]).unwrap()))),
            Box::new(|times| time(times, || bare_lock_many(&bare_paths[..n]))),
        ];
        let a_file = |seconds: Vec<f64>| seconds.iter().map(|seconds| seconds / n as f64).collect();
        let [ours, bare] = measured(&mut runs, bench).map(a_file);
        Point { at: counted(n, "file"), n, ours, bare }
    };
    let points = counts(1, most).into_iter().map(point).collect();
    vec![Curve { name: LOCK_MANY, unit: Unit::Seconds, points }]
}

fn bare_lock_many(paths: &[PathBuf]) {
    let open_and_lock = |path| {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let file = rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o666)).unwrap();
        rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        file
    };
    drop(paths.iter().map(open_and_lock).collect::<Vec<_>>());
}

/// One more lock and unlock with a handle: in the thread that holds the others, and in one that holds nothing.
pub fn locks_held(bench: &Bench) -> Vec<Curve> {
    let most = bench.most(MOST_HELD.min(files_that_can_be_held()));
    let adapter = adapter(bench.dir);
    let files: Vec<AtomicFile> =
        (0..most).map(|n| adapter.file(bench.dir.join(format!("held-{n}"))).unwrap()).collect();
    let one_more = handle(bench.dir, "one-more");
    let bare_file = File::create(bench.dir.join("bare.lock")).unwrap();
    let mut held = Vec::new();
    let (mut here, mut elsewhere) = (Vec::new(), Vec::new());
    for n in counts(0, most) {
        held.extend(files[held.len()..n].iter().map(|file| file.lock().unwrap()));
        let in_another_thread = |run: &(dyn Fn() -> Duration + Sync)| {
            thread::scope(|scope| scope.spawn(run).join().unwrap()) // only `run` is timed
        };
        let lock = || drop(one_more.lock().unwrap());
        let bare = || bare_lock(&bare_file);
        // Bare calls in both, because the threads may run on processors with different loads.
        let mut runs: [Run; 4] = [
            Box::new(|times| time(times, lock)),
            Box::new(|times| time(times, bare)),
            Box::new(|times| in_another_thread(&|| time(times, lock))),
            Box::new(|times| in_another_thread(&|| time(times, bare))),
        ];
        let [ours_here, bare_here, ours_elsewhere, bare_elsewhere] = measured(&mut runs, bench);
        here.push(Point { at: counted(n, "lock"), n, ours: ours_here, bare: bare_here });
        elsewhere.push(Point { at: counted(n, "lock"), n, ours: ours_elsewhere, bare: bare_elsewhere });
    }
    vec![
        Curve { name: HELD_HERE, unit: Unit::Seconds, points: here },
        Curve { name: HELD_ELSEWHERE, unit: Unit::Seconds, points: elsewhere },
    ]
}

/// Lock and unlock with a handle, in a thread that holds nothing, while others wait for a lock that another thread
/// holds.
pub fn threads_waiting(bench: &Bench) -> Vec<Curve> {
    let wanted = handle(bench.dir, "wanted");
    let other = handle(bench.dir, "other");
    let bare_file = File::create(bench.dir.join("bare.lock")).unwrap();
    let point = |n| {
        thread::scope(|scope| {
            let (begin, begun) = mpsc::channel();
            let (release, released) = mpsc::channel::<()>();
            let holding = begin.clone();
            let wanted = &wanted;
            scope.spawn(move || {
                let _held = wanted.lock().unwrap();
                holding.send(()).unwrap();
                // An error when the other end is gone.
                let _ = released.recv();
            });
            begun.recv().unwrap();
            for _ in 0..n {
                let begin = begin.clone();
                let wait = move || {
                    begin.send(()).unwrap();
                    drop(wanted.lock().unwrap());
                };
                thread::Builder::new().stack_size(STACK).spawn_scoped(scope, wait).unwrap();
            }
            (0..n).for_each(|_| begun.recv().unwrap());
            thread::sleep(bench.lasting(UNTIL_ASLEEP));
            let mut runs: [Run; 2] = [
                Box::new(|times| time(times, || drop(other.lock().unwrap()))),
                Box::new(|times| time(times, || bare_lock(&bare_file))),
            ];
            let [ours, bare] = measured(&mut runs, bench);
            drop(release);
            Point { at: counted(n, "thread"), n, ours, bare }
        })
    };
    let points = counts(0, bench.most(MOST_WAITING)).into_iter().filter(|n| *n != 1).map(point).collect();
    vec![Curve { name: WAITING, unit: Unit::Seconds, points }]
}

fn measured<const N: usize>(runs: &mut [Run; N], bench: &Bench) -> [Vec<f64>; N] {
    in_turns(runs, BATCH, BUDGET, bench.only_try).try_into().expect("one for each")
}

/// `first`, 1, 10, 100 and so on, and `most`.
fn counts(first: usize, most: usize) -> Vec<usize> {
    let mut counts = vec![first];
    counts.extend((0..).map(|power| 10_usize.pow(power)).take_while(|n| *n < most).filter(|n| *n > first));
    counts.push(most);
    counts.dedup();
    counts
}

fn counted(n: usize, what: &str) -> String {
    format!("{} {what}{}", grouped(n), if n == 1 { "" } else { "s" })
}

/// The number with a comma before the last three digits.
pub fn grouped(n: usize) -> String {
    if n < 1_000 { n.to_string() } else { format!("{},{:03}", n / 1_000, n % 1_000) }
}

/// A handle keeps its directory open, and a lock its lock file. Some descriptors are left for everything else.
fn files_that_can_be_held() -> usize {
    let limit = getrlimit(Resource::Nofile);
    // If this is refused, the limit stays.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let now = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(now.saturating_sub(100) / 2).unwrap_or(usize::MAX).max(1)
}
