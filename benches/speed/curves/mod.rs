//! The curves: what a lock costs as files, locks held and threads become more, and how a wait ends.

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
    /// Of what the curve's name says.
    Share,
    /// Of a processor.
    PerCent,
    Number,
}

pub struct Point {
    pub at: String,
    /// How many there are of what grows.
    pub n: usize,
    /// Round by round.
    pub ours: Vec<f64>,
    /// The same by bare calls or by the standard library; empty: there is nothing to compare with.
    pub bare: Vec<f64>,
}

impl Point {
    pub fn ours(&self) -> f64 {
        median(self.ours.iter().copied())
    }

    pub fn bare(&self) -> Option<f64> {
        (!self.bare.is_empty()).then(|| median(self.bare.iter().copied()))
    }

    /// The median over the rounds of how much of the bare calls' time ours took.
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

/// How each is called on the command line, and what measures it.
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

/// What issue 16 asks for, of every point of a curve. Where it names a time that a slower machine cannot keep, it is how many
/// times the bare calls' that is: 12 us beside 2.1, 1.5 beside 0.38.
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
    /// The first point only.
    FirstAtMost(f64),
    AtLeast(f64),
    TimesBare(f64),
    /// Beside the bare calls, the last point is what the first is, but for a tenth.
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

/// Where, and how much of it.
pub struct Bench<'a> {
    dir: &'a Path,
    only_try: bool,
}

impl Bench<'_> {
    /// As many as are measured, or a few if all is only to be tried.
    fn most(&self, n: usize) -> usize {
        if self.only_try { n.min(10) } else { n }
    }

    fn rounds(&self, n: usize) -> usize {
        if self.only_try { 1 } else { n }
    }

    /// As long as that, and a little more that is not the same every round: a wait that polls must not always be found at the same
    /// place between two polls.
    fn hold(&self, round: usize) -> Duration {
        self.lasting(HOLD) + Duration::from_micros(370 * round as u64 % 4_000)
    }

    fn lasting(&self, duration: Duration) -> Duration {
        if self.only_try { duration / 20 } else { duration }
    }
}

/// F_SETLK and F_UNLCK on a descriptor that is open: what a lock costs at the least.
fn bare_lock(file: &std::fs::File) {
    rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive).unwrap();
    rustix::fs::fcntl_lock(file, FlockOperation::Unlock).unwrap();
}
