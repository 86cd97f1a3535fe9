//! The cases: the workloads, their file systems, and the required results.

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::mem;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

use atomic_file_adapter::Durability;
use crash_lab::disk::Image;
use crash_lab::file_system::{FILE_SYSTEMS, FileSystem};
use crash_lab::lab::{Lab, isolated};
use crash_lab::others::FAST_COMMIT;
use crash_lab::states::Recording;
use crash_lab::verdict::Fault;
use libtest_mimic::Trial;
use tempfile::TempDir;

use crate::commits::Commits;
use crate::common::{is_thorough, test, test_if, thorough_or};
use crate::failing;
use crate::fast_commit;
use crate::generated;
use crate::judge::{self, Promise, look};
use crate::others;
use crate::report::{self, Control, Counts, Judged};
use crate::seed::seed;
use crate::together;
use crate::workloads::{
    ATTRIBUTES, BATCH, CREATE, DELETE, History, LeftOut, Meddling, REPLACE, RESIZE, Run, SET_MODE, WORKLOADS, Workload,
    Writer,
};

/// How many states of each recording are judged in the thorough and in the short form, spread evenly over its crash points. A
/// control always has the first number.
const STATES: [usize; 2] = [12, 4];

/// How many bad states are described in full.
const DESCRIBED: usize = 5;

pub fn all() -> Vec<Trial> {
    if others::asked() {
        return others::all();
    }
    let mut trials = each_file_system(FILE_SYSTEMS, &WORKLOADS, the_adapter_keeps_its_promise);
    trials.push(test("control: the judge tells good from bad", judge::tells_good_from_bad));
    trials.push(case(FAST_COMMIT, "control: no state is seen in another", no_state_is_seen_in_another));
    for left_out in [LeftOut::FileSync, LeftOut::DirectorySync, LeftOut::ModeSync, LeftOut::Attributes] {
        for file_system in FILE_SYSTEMS {
            // Nothing can be found there, so the short form does not look for it.
            let is_excused = |commits: &Commits| excuse(file_system, left_out, *commits).is_some();
            if is_short() && Commits::all(file_system).iter().all(is_excused) {
                continue;
            }
            let name = format!("control: {}, {left_out} left out", file_system.name);
            trials.push(case(file_system, &name, move |lab| the_lab_notices(lab, left_out)));
        }
    }
    trials.extend(fast_commit::all());
    trials.extend(together::all());
    trials.extend(failing::all());
    trials.extend(generated::all());
    trials
}

fn each_file_system(
    file_systems: impl IntoIterator<Item = FileSystem>,
    workloads: &'static [Workload],
    body: impl Fn(&Lab, &Workload) + Clone + Send + 'static,
) -> Vec<Trial> {
    let mut trials = Vec::new();
    for file_system in file_systems {
        for workload in workloads {
            let (name, body) = (format!("{}: {}", file_system.name, workload.name), body.clone());
            trials.push(case(file_system, &name, move |lab| body(lab, workload)));
        }
    }
    trials
}

pub fn case(file_system: FileSystem, name: &str, body: impl FnOnce(&Lab) + Send + 'static) -> Trial {
    let isolated = move || isolated(move || body(&Lab::new(file_system)));
    test_if(file_system.missing().as_deref(), name, isolated)
}

fn the_adapter_keeps_its_promise(lab: &Lab, workload: &Workload) {
    let mut bad = Vec::new();
    for durability in [Durability::Full, Durability::Ordered] {
        for commits in Commits::to_try(lab.file_system, durability, workload.name) {
            let mut examined = examine_adapter(lab, workload, durability, Meddling { commits, left_out: None });
            if durability == Durability::Ordered {
                examined.forgive_what_is_old();
            }
            bad.extend(examined.bad);
            report::add(Judged {
                file_system: lab.file_system.name,
                workload: workload.name,
                writer: format!("{durability:?}"),
                counts: examined.counts,
                flushes: (commits == Commits::No).then_some(examined.flushes),
            });
        }
    }
    assert_none(&bad);
}

#[track_caller]
pub fn assert_none(bad: &[(Fault, String)]) {
    let described: Vec<String> =
        bad.iter().take(DESCRIBED).map(|(fault, state)| format!("{fault:?}\n    {state}\n")).collect();
    let (count, seed) = (bad.len(), seed());
    assert!(bad.is_empty(), "{count} bad states (CRASH_SEED={seed}), of which the first:\n{}", described.concat());
}

/// ext4 never drops the blocks of a fast commit from the device's cache, because ext4_fc_submit_bh marks them dirty and
/// nothing marks them clean (Linux 6.1 to 6.18). A mount of another state found them there, and recovered changes of
/// the first state.
fn no_state_is_seen_in_another(lab: &Lab) {
    let mounted = lab.mount().unwrap();
    let mut file = File::create(mounted.root().join("file")).unwrap();
    file.write_all(b"a new file").unwrap();
    // First a full commit, and then three fast ones.
    mounted.sync().unwrap();
    for _ in 0..3 {
        file.write_all(b"more").unwrap();
        file.sync_all().unwrap();
    }
    drop(file);
    drop(mounted);
    lab.show(Image::default());
    assert!(fs::read(lab.device()).unwrap().iter().all(|byte| *byte == 0), "an empty disk is not empty");
}

/// A test that finds nothing proves nothing if it could not find a fault. So this leaves out a sync, which must be
/// noticed.
fn the_lab_notices(lab: &Lab, left_out: LeftOut) {
    let is_caught = |counts: &Counts| match left_out {
        LeftOut::FileSync => counts.torn > 0,
        LeftOut::DirectorySync | LeftOut::ModeSync => counts.lost > 0,
        LeftOut::Attributes => counts.other > 0,
    };
    let mut missed = Vec::new();
    for &commits in Commits::all(lab.file_system) {
        let excuse = excuse(lab.file_system, left_out, commits);
        if excuse.is_some() && is_short() {
            continue;
        }
        let mut counts = Counts::default();
        let workloads = match left_out {
            LeftOut::FileSync | LeftOut::DirectorySync => &[CREATE, REPLACE, RESIZE, DELETE, BATCH, ATTRIBUTES][..],
            LeftOut::ModeSync => &[SET_MODE],
            LeftOut::Attributes => &[ATTRIBUTES],
        };
        for workload in workloads {
            let meddling = Meddling { commits, left_out: Some(left_out) };
            counts.add(&examine_adapter(lab, workload, Durability::Full, meddling).counts);
            if is_caught(&counts) && is_short() {
                break;
            }
        }
        let caught = is_caught(&counts);
        let verdict = match excuse {
            _ if caught => "caught".to_owned(),
            Some(excuse) => format!("not caught: {excuse}"),
            None => {
                missed.push(commits);
                "MISSED".to_owned()
            }
        };
        report::add_control(Control {
            file_system: lab.file_system.name,
            left_out: left_out.to_string(),
            commits: format!("{commits:?}"),
            counts,
            verdict,
        });
    }
    assert!(missed.is_empty(), "{left_out} left out, and nothing found with commits {missed:?}");
}

/// Why a missing sync may go unnoticed here. All others must be noticed.
fn excuse(file_system: FileSystem, left_out: LeftOut, commits: Commits) -> Option<&'static str> {
    match (left_out, commits) {
        (LeftOut::FileSync, _) if file_system.name == "ext4 data=journal" => {
            Some("the data go through the journal, before the rename")
        }
        // On btrfs the sync of another file commits neither a deletion nor a mode.
        (LeftOut::DirectorySync | LeftOut::ModeSync, Commits::Everywhere) if file_system.name != "btrfs" => {
            Some("the last forced commit makes it durable")
        }
        (LeftOut::DirectorySync | LeftOut::ModeSync, Commits::Transactions) => {
            Some("the last forced transaction makes it durable")
        }
        _ => None,
    }
}

/// The result for the states of a recording.
pub struct Examined {
    pub counts: Counts,
    pub flushes: Vec<usize>,
    /// The bad states, and how to reproduce them.
    pub bad: Vec<(Fault, String)>,
}

impl Examined {
    /// With `Ordered`, either version may be there.
    pub fn forgive_what_is_old(&mut self) {
        self.counts.old = mem::take(&mut self.counts.lost);
        self.bad.retain(|(fault, _)| !matches!(fault, Fault::Lost(_)));
    }
}

pub fn examine_adapter(lab: &Lab, workload: &Workload, durability: Durability, meddling: Meddling) -> Examined {
    // Not on the recorded disk, and in memory if possible.
    let shared_memory = PathBuf::from("/dev/shm");
    let lock_dir = TempDir::new_in(if shared_memory.is_dir() { shared_memory } else { env::temp_dir() }).unwrap();
    examine(lab, workload, &Writer::new(durability, lock_dir.path()), meddling)
}

fn examine(lab: &Lab, workload: &Workload, writer: &Writer, meddling: Meddling) -> Examined {
    let (recording, history) = record(lab, workload, writer, meddling);
    let start = Instant::now();
    let promise = Promise { history: &history, leftovers: workload.writers };
    let mut counts = Counts { recordings: 1, possible: recording.states.len(), ..Counts::default() };
    let mut bad = Vec::new();
    let mut viewer = lab.viewer().unwrap();
    for state in recording.sample(states_to_judge(&recording, meddling.left_out.is_some())) {
        let seen = look(&mut viewer, &recording, state);
        let mut faults: Vec<Fault> = Vec::new();
        for point in &state.points {
            faults.extend(seen.faults(&promise, &recording.log[..recording.points[*point].at]));
        }
        faults.sort();
        faults.dedup();
        counts.states += 1;
        counts.torn += usize::from(faults.iter().any(|fault| matches!(fault, Fault::Torn(_))));
        counts.lost += usize::from(faults.iter().any(|fault| matches!(fault, Fault::Lost(_))));
        counts.other += usize::from(faults.iter().any(|fault| matches!(fault, Fault::Other(_))));
        let (file_system, workload) = (lab.file_system.name, workload.name);
        bad.extend(faults.into_iter().map(|fault| {
            (fault, format!("{file_system}, {workload}, {writer}, {meddling}: {}", recording.describe(state)))
        }));
    }
    counts.time = start.elapsed();
    Examined { counts, flushes: recording.flushes(), bad }
}

fn record(lab: &Lab, workload: &Workload, writer: &Writer, meddling: Meddling) -> (Recording, History) {
    lab.format();
    let mounted = lab.mount().unwrap();
    let run = Run { mounted: &mounted, disk: &lab.disk, writer, meddling, history: Mutex::default() };
    run.prepare(workload);
    let history = run.history;
    let mounted = lab.lower(mounted).unwrap();
    let run = Run { mounted: &mounted, disk: &lab.disk, writer, meddling, history };
    let start = lab.disk.record();
    run.operate(workload);
    let log = lab.disk.log();
    let history = run.history.into_inner().unwrap();
    drop(mounted);
    (Recording::new(start, log, seed()), history)
}

/// Whether this is the short form, and `CRASH_STATES` is not set.
pub fn is_short() -> bool {
    !is_thorough() && env::var_os("CRASH_STATES").is_none()
}

/// The value of `CRASH_STATES`: `full`, or the number of states of each recording.
fn states_to_judge(recording: &Recording, is_control: bool) -> usize {
    match env::var("CRASH_STATES").as_deref() {
        Ok("full") => recording.states.len(),
        Ok(number) => number.parse().expect("CRASH_STATES is `full` or a number"),
        Err(_) if is_control => STATES[0],
        Err(_) => thorough_or(STATES[0], STATES[1]),
    }
}
