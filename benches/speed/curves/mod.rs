//! The curves: the cost of a lock as files, held locks and threads increase, and the end of a wait.

mod growth;
mod picture;
mod processes;
pub mod report;
mod threads;

use std::path::Path;
use std::time::Duration;

use rustix::fs::FlockOperation;

pub use self::processes::help;
use crate::report::median;

pub struct Curve {
    pub name: &'static str,
    pub unit: Unit,
    pub points: Vec<Point>,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Unit {
    Seconds,
    /// A share of what the curve's name says.
    Share,
    /// Per cent of a processor.
    PerCent,
    Number,
}

pub struct Point {
    pub at: String,
    /// The number of files, locks, threads or processes.
    pub n: usize,
    /// One value for each round.
    pub ours: Vec<f64>,
    /// The same with bare calls or with the standard library. Empty: there is nothing to compare with.
    pub bare: Vec<f64>,
}

impl Point {
    pub fn ours(&self) -> f64 {
        median(self.ours.iter().copied())
    }

    pub fn bare(&self) -> Option<f64> {
        (!self.bare.is_empty()).then(|| median(self.bare.iter().copied()))
    }

    /// The median over the rounds of our time as a multiple of the bare calls' time.
    pub fn ratio(&self) -> Option<f64> {
        (!self.bare.is_empty()).then(|| median(self.ours.iter().zip(&self.bare).map(|(ours, bare)| ours / bare)))
    }
}

pub const LOCK_MANY: &str = "`lock_many`, a file";
pub const HELD_HERE: &str = "one more lock, while this thread holds";
pub const HELD_ELSEWHERE: &str = "one more lock, while another thread holds";
pub const WAITING: &str = "a lock, while others wait elsewhere";
const LOCK_IN_TWO: &str = "lock in 2 threads, 1 thread = 1";
const READ_IN_TWO: &str = "read in 2 threads, 1 thread = 1";
const TO_THREAD: &str = "hand-over to a thread";

const TO_LOCK: &str = "hand-over to a process in `lock`";
const TO_TIMEOUT: &str = "hand-over to a process in `lock_timeout`";
const TURNS: &str = "turns of a process in `lock_timeout`, in `lock` = 1";
const TURNS_A_SECOND: &str = "turns a second, all together";
const CPU: &str = "a processor's time, in `lock_timeout`";

/// The name on the command line, and the function that measures it.
const CURVES: &[(&str, Measure)] = &[
    ("lock_many", growth::lock_many),
    ("locks held", growth::locks_held),
    ("threads waiting", growth::threads_waiting),
    ("two threads", threads::two_threads),
    ("hand-over to a thread", threads::hand_over),
    ("hand-over to a process", processes::hand_over),
    ("turns", processes::turns),
    ("waiting", processes::cpu),
];

type Measure = fn(&Bench) -> Vec<Curve>;

/// The target for every point of a curve. Times that a slower machine cannot keep are given as multiples of the bare
/// calls' times: 12 us beside 2.1, 1.5 beside 0.38.
pub const TARGETS: &[(&str, Target)] = &[
    (LOCK_MANY, Target::TimesBare(12.0 / 2.1)),
    (HELD_HERE, Target::TimesBare(1.5 / 0.38)),
    (HELD_ELSEWHERE, Target::TimesBare(1.5 / 0.38)),
    (WAITING, Target::Flat),
    (LOCK_IN_TWO, Target::AtMost(0.66)),
    (READ_IN_TWO, Target::AtMost(0.70)),
    (TO_THREAD, Target::AtMost(120e-6)),
    (TO_LOCK, Target::FirstAtMost(120e-6)),
    (TO_TIMEOUT, Target::FirstAtMost(120e-6)),
    (TURNS, Target::AtLeast(0.5)),
    (CPU, Target::AtMost(0.01)),
];

pub enum Target {
    AtMost(f64),
    /// Only the first point.
    FirstAtMost(f64),
    AtLeast(f64),
    TimesBare(f64),
    /// Relative to the bare calls, the last point is within a tenth of the first.
    Flat,
}

/// Measures the curves with `filter` in their names, which begin with "curves: ".
pub fn measure(dir: &Path, filter: &str, only_try: bool) -> Vec<Curve> {
    let bench = Bench { dir, only_try };
    let chosen = CURVES.iter().filter(|(name, _)| format!("curves: {name}").contains(filter));
    chosen.flat_map(|(_, measure)| measure(&bench)).collect()
}

/// How long a lock is held before it is handed over.
const HOLD: Duration = Duration::from_millis(20);
const HAND_OVERS: usize = 51;

/// The directory, and how much of it is measured.
pub struct Bench<'a> {
    dir: &'a Path,
    only_try: bool,
}

impl Bench<'_> {
    /// The full number, or a few if this is only a trial.
    fn most(&self, n: usize) -> usize {
        if self.only_try { n.min(10) } else { n }
    }

    fn rounds(&self, n: usize) -> usize {
        if self.only_try { 1 } else { n }
    }

    /// About that long, plus a little that differs in every round. Otherwise a polling wait would always be found at
    /// the same place between two polls.
    fn hold(&self, round: usize) -> Duration {
        self.lasting(HOLD) + Duration::from_micros(370 * round as u64 % 4_000)
    }

    fn lasting(&self, duration: Duration) -> Duration {
        if self.only_try { duration / 20 } else { duration }
    }
}

/// F_SETLK and F_UNLCK on an open descriptor: the least that a lock costs.
fn bare_lock(file: &std::fs::File) {
    rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive).unwrap();
    rustix::fs::fcntl_lock(file, FlockOperation::Unlock).unwrap();
}
