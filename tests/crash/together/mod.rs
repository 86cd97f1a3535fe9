//! All or nothing: files that are changed as one, after a power cut, and after another power cut during the recovery.
//! The files and the lock directory are on the recorded disk. Each state is read through the crate, as the next program
//! would read it.
//!
//! By default 2 states of each recording are judged, and 5 with `THOROUGH=1`. `CRASH_STATES` sets another number, but `full` means
//! [`MOST`] of each: with a commit between any two steps of 20 files there are tens of thousands.

pub mod changes;
mod flushes;
pub mod look;
mod omissions;
pub mod report;
pub mod verdict;

use std::env;
use std::time::Instant;

use atomic_file_adapter::Durability;
use crash_lab::file_system::{FILE_SYSTEMS, FileSystem};
use crash_lab::lab::Lab;
use crash_lab::states::{Recording, State};
use libtest_mimic::Trial;

use crate::cases::case;
use crate::commits::Commits;
use crate::common::{test, thorough_or};
use crate::seed::seed;
use crate::together::changes::{APART, APART_KILLED, Meddling, Reached, TWO, Versions, WORKLOADS, Workload};
use crate::together::look::{Seen, look};
use crate::together::omissions::Omission;
use crate::together::report::{Control, Counts, Judged};
use crate::together::verdict::{Fault, Promise};

/// How many states of each recording are judged in the thorough and in the short form.
const STATES: [usize; 2] = [5, 2];
/// The same, if all are asked for.
const MOST: usize = 100;

/// The least number of states of each recording of a control that are judged.
const LEAST_STATES_OF_A_CONTROL: usize = 16;

/// How many states of a crash during a recovery are judged, for each recovery that had something to finish, in both forms.
const AGAIN: [usize; 2] = [3, 1];
/// How many recoveries of each recording are judged in this way by default.
const DEFAULT_RECOVERIES: usize = 1;
/// The same, if all are asked for.
const MOST_RECOVERIES: usize = 10;

/// How many bad states are described in full.
const DESCRIBED: usize = 5;

pub fn all() -> Vec<Trial> {
    let mut trials = Vec::new();
    for file_system in FILE_SYSTEMS {
        for workload in &WORKLOADS {
            let name = format!("{}: all or nothing, {}", file_system.name, workload.name);
            trials.push(case(file_system, &name, move |lab| it_is_all_or_nothing(lab, workload)));
        }
        let name = format!("{}: all or nothing, flushes", file_system.name);
        trials.push(case(file_system, &name, flushes::are_few));
        for left_out in Omission::ALL {
            // A fault that cannot be seen there need not be looked for each time.
            if excuse(file_system, left_out).is_some() && env::var("CRASH_STATES").is_err() {
                continue;
            }
            let name = format!("control: {}, all or nothing, {left_out} left out", file_system.name);
            trials.push(case(file_system, &name, move |lab| the_lab_notices(lab, left_out)));
        }
    }
    trials.push(test("control: the judge tells all or nothing from half", verdict::tells_all_from_half));
    trials
}

fn it_is_all_or_nothing(lab: &Lab, workload: &Workload) {
    let mut bad = Vec::new();
    for durability in [Durability::Full, Durability::Ordered] {
        let mut counts = Counts::default();
        let mut all = Commits::to_try(lab.file_system, durability, workload.name);
        // With `Ordered` there are much fewer possible faults.
        if durability == Durability::Ordered && env::var("CRASH_STATES").is_err() {
            all.retain(|commits| *commits == Commits::Everywhere);
        }
        for commits in all {
            let examined = Experiment { lab, workload, durability, commits, left_out: None }.examine(states());
            counts.add(&examined.counts);
            bad.extend(examined.bad);
        }
        report::add(Judged { file_system: lab.file_system.name, workload: workload.name, durability, counts });
    }
    let described: Vec<String> =
        bad.iter().take(DESCRIBED).map(|(fault, state)| format!("{fault:?}\n    {state}\n")).collect();
    let (count, seed) = (bad.len(), seed());
    assert!(bad.is_empty(), "{count} bad states (CRASH_SEED={seed}), of which the first:\n{}", described.concat());
}

/// A test that finds nothing proves nothing if it could not find a fault. So this leaves out a sync, which must be
/// noticed.
fn the_lab_notices(lab: &Lab, left_out: Omission) {
    let workload = match left_out {
        // With more files everything is synced at once, and the sync of a mark cannot be left out.
        Omission::Marks | Omission::BeforeTheIntent => &TWO,
        Omission::TheIntent | Omission::Directories => &APART,
        Omission::InRecovery => &APART_KILLED,
    };
    let mut all = Counts::default();
    for commits in [Commits::No, Commits::Everywhere] {
        let experiment = Experiment { lab, workload, durability: Durability::Full, commits, left_out: Some(left_out) };
        let (states, _) = states();
        let counts = experiment.examine((states.max(LEAST_STATES_OF_A_CONTROL), 0)).counts;
        all.add(&counts);
        report::add_control(Control { file_system: lab.file_system.name, left_out, commits, counts });
    }
    let excuse = excuse(lab.file_system, left_out);
    assert!(all.bad > 0 || excuse.is_some(), "{left_out} left out, and nothing found");
}

/// Why a missing sync may go unnoticed here. All others must be noticed.
pub fn excuse(file_system: FileSystem, left_out: Omission) -> Option<&'static str> {
    let is_log = file_system.name != "btrfs";
    match left_out {
        Omission::Marks | Omission::BeforeTheIntent if file_system.name == "ext4 data=journal" => {
            Some("the data go through the journal, before the rename")
        }
        Omission::TheIntent | Omission::Directories | Omission::InRecovery if is_log => {
            Some("the journal keeps the order of all names, in whatever directory")
        }
        _ => None,
    }
}

/// The value of `CRASH_STATES`: `full`, or the number of states of each recording. Also the number of recoveries.
fn states() -> (usize, usize) {
    match env::var("CRASH_STATES").as_deref() {
        Ok("full") => (MOST, MOST_RECOVERIES),
        Ok(number) => (number.parse().expect("CRASH_STATES is `full` or a number"), DEFAULT_RECOVERIES),
        Err(_) => (thorough_or(STATES[0], STATES[1]), DEFAULT_RECOVERIES),
    }
}

#[derive(Clone, Copy)]
struct Experiment<'a> {
    lab: &'a Lab,
    workload: &'a Workload,
    durability: Durability,
    commits: Commits,
    left_out: Option<Omission>,
}

#[derive(Default)]
struct Examined {
    counts: Counts,
    /// The bad states, and how to reproduce them.
    bad: Vec<(Fault, String)>,
}

impl Experiment<'_> {
    fn record(&self) -> Recording {
        let Experiment { lab, workload, durability, commits, left_out } = *self;
        lab.format();
        let mounted = lab.mount().unwrap();
        workload.prepare(mounted.root());
        mounted.sync().unwrap();
        let start = lab.disk.record();
        workload.operate(mounted.root(), &lab.disk, durability, Meddling { commits, left_out });
        let log = lab.disk.log();
        drop(mounted);
        Recording::new(start, log, seed())
    }

    fn examine(&self, (states, recoveries): (usize, usize)) -> Examined {
        let recording = self.record();
        let start = Instant::now();
        let mut examined = Examined::default();
        examined.counts.recordings = 1;
        examined.counts.possible = recording.states.len();
        let mut recovered = 0;
        for state in recording.sample(states) {
            let reached = Reached::of_points(&recording, &state.points);
            let mut seen = look(self.lab, recording.image(state), self.workload, self.commits);
            let how = || self.describe(&recording, state);
            let good = examined.judge(&self.promise(&reached, None), &seen, how);
            examined.counts.states += 1;
            examined.counts.unfinished += usize::from(!seen.unfinished.is_none());
            if good && !seen.unfinished.is_none() && recovered < recoveries {
                recovered += 1;
                self.crash_again(&mut examined, &reached, &mut seen, &how());
            }
        }
        examined.counts.time = start.elapsed();
        examined
    }

    /// Judges crashes during the recovery from the first one.
    fn crash_again(&self, examined: &mut Examined, reached: &[Reached], seen: &mut Seen, first: &str) {
        let (Some(recording), Some(Ok(read))) = (seen.recording(), &seen.read) else { return };
        for state in recording.sample(thorough_or(AGAIN[0], AGAIN[1])) {
            let again = look(self.lab, recording.image(state), self.workload, Commits::No);
            let how = || format!("{first}\n    and then, while that was recovered from: {}", recording.describe(state));
            examined.judge(&self.promise(reached, Some(read)), &again, how);
            examined.counts.again += 1;
        }
    }

    fn promise<'a>(&'a self, reached: &'a [Reached], known: Option<&'a Versions>) -> Promise<'a> {
        Promise { workload: self.workload, durability: self.durability, reached, known }
    }

    fn describe(&self, recording: &Recording, state: &State) -> String {
        let Experiment { lab, workload, durability, commits, left_out } = self;
        let left_out = left_out.map_or(String::new(), |left_out| format!(", {left_out} left out"));
        let (file_system, workload) = (lab.file_system.name, workload.name);
        format!(
            "{file_system}, {workload}, {durability:?}, commits {commits:?}{left_out}: {}",
            recording.describe(state)
        )
    }
}

impl Examined {
    /// Judges a state. True: it is good.
    fn judge(&mut self, promise: &Promise<'_>, seen: &Seen, how: impl Fn() -> String) -> bool {
        let faults = promise.faults(seen);
        let good = faults.is_empty();
        self.counts.count(&faults);
        self.bad.extend(faults.into_iter().map(|fault| (fault, how())));
        good
    }
}
