//! Generated workloads: all sequences of up to three operations on two files in two directories, as B3 and its ACE have
//! them (OSDI '18). For each one the journal is committed in every gap between two steps of its last operation.
//!
//! The operations before the last one are another sequence, so only the crash points after their end are judged. Of
//! sequences that differ only in the order of the two files, one is taken. Each sequence is recorded once without
//! forced commits, once with a commit before each step of the last operation, and once for each of these steps with a
//! commit before that step only. A model (`model.rs`), and not the crate, says which states are permitted.
//!
//! By default a sample is judged. `CRASH_GENERATED` is the number of sequences that are sampled for each file system.
//! Or it is `full`, for all sequences, gaps and states, which takes hours. Or it is a sequence in the words of a
//! report, such as `larger:a rename-dir:a together`, with all gaps and states. For the long run, `CRASH_SHARD=2/5`
//! takes every fifth sequence, beginning with the second. `CRASH_PROGRESS` names a file with the sequences that were
//! found good. Each new one is added, and those in the file are left out.

pub mod judge;
pub mod model;
pub mod operations;
pub mod report;
mod run;

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::time::{Duration, Instant};

use crash_lab::file_system::{FILE_SYSTEMS, FileSystem};
use crash_lab::lab::Lab;
use crash_lab::random::Random;
use libtest_mimic::Trial;

use crate::cases::case;
use crate::common::{test, thorough_or};
use crate::generated::judge::{Reached, look};
use crate::generated::model::Model;
use crate::generated::operations::{Operation, Sequence};
use crate::generated::report::{Control, Counts, Judged};
use crate::generated::run::{Bench, Gaps, Meddling};
use crate::seed::seed;
use crate::together::verdict::Fault;
use crate::workloads::LeftOut;

/// How many sequences of each file system are in the sample, thorough and short, and how many states of each are judged.
const SAMPLED: [usize; 2] = [80, 12];
const SAMPLED_STATES: usize = 8;

/// Sequences that were bad once are judged each time: a delete that found no directory was not durable, although it
/// reported success.
const ONCE_BAD: [&str; 2] = ["remove-dir:a delete:a", "rename-dir:a delete:a"];

/// The sampled gaps have smaller numbers. An operation has about so many steps, and a change of several files as one
/// has more.
const SAMPLED_GAPS: usize = 12;
const SAMPLED_GAPS_TOGETHER: usize = 30;

/// A control must find a fault within so many sequences.
const CONTROLLED: usize = 60;

/// How many bad states are described in full.
const DESCRIBED: usize = 10;

pub fn all() -> Vec<Trial> {
    let mut trials = Vec::new();
    for file_system in FILE_SYSTEMS {
        trials.push(case(file_system, &format!("{}: generated", file_system.name), they_keep_their_promise));
        for left_out in [LeftOut::FileSync, LeftOut::DirectorySync] {
            let name = format!("control: {}, generated, {left_out} left out", file_system.name);
            // The data go through the journal before the rename.
            if !(left_out == LeftOut::FileSync && file_system.name == "ext4 data=journal") {
                trials.push(case(file_system, &name, move |lab| the_sample_notices(lab, left_out)));
            }
        }
    }
    trials.push(test("control: the generated sequences are all there", operations::are_all_there));
    trials.push(test("control: the model of the generated sequences", model::knows_what_is_promised));
    trials.push(test("control: the judge of the generated sequences", judge::tells_good_from_bad));
    trials
}

fn they_keep_their_promise(lab: &Lab) {
    let mut work = Work::new(lab.file_system);
    let mut bench = Bench::new(lab);
    let (mut bad, mut counts) = (Vec::new(), Counts::default());
    if work.is_sample {
        for words in ONCE_BAD {
            let sequence = Operation::sequence(words).expect("one of the sequences");
            let examined = examine(&mut bench, &sequence, Meddling { gaps: Gaps::No, left_out: None }, SAMPLED_STATES);
            counts.sequences += 1;
            counts.add(&examined.counts);
            bad.extend(examined.bad);
        }
    }
    for sequence in work.sequences.clone() {
        let examined = if work.is_sample {
            let gaps = sampled_gaps(&sequence, lab.file_system);
            examine(&mut bench, &sequence, Meddling { gaps, left_out: None }, SAMPLED_STATES)
        } else {
            examine_all(&mut bench, &sequence)
        };
        counts.sequences += 1;
        counts.add(&examined.counts);
        if examined.bad.is_empty() {
            work.done(&sequence, &examined.counts);
        }
        for (fault, state) in examined.bad {
            if !work.is_sample {
                eprintln!("{fault:?}\n    {state}");
            }
            bad.push((fault, state));
        }
    }
    report::add(Judged { file_system: lab.file_system.name, counts });
    let described: Vec<String> =
        bad.iter().take(DESCRIBED).map(|(fault, state)| format!("{fault:?}\n    {state}\n")).collect();
    let (count, seed) = (bad.len(), seed());
    assert!(bad.is_empty(), "{count} bad states (CRASH_SEED={seed}), of which the first:\n{}", described.concat());
}

/// A test that finds nothing proves nothing if it could not find a fault. So this leaves out a sync, which must be
/// noticed.
fn the_sample_notices(lab: &Lab, left_out: LeftOut) {
    let mut counts = Counts::default();
    let mut bench = Bench::new(lab);
    for sequence in shuffled(lab.file_system).iter().take(CONTROLLED) {
        // A commit at the end would hide a missing sync.
        let gaps = if counts.sequences % 2 == 0 { Gaps::No } else { Gaps::One(2) };
        let examined = examine(&mut bench, sequence, Meddling { gaps, left_out: Some(left_out) }, SAMPLED_STATES);
        counts.sequences += 1;
        counts.add(&examined.counts);
        let wanted = if left_out == LeftOut::FileSync { counts.torn } else { counts.lost };
        if wanted > 0 {
            break;
        }
    }
    let wanted = if left_out == LeftOut::FileSync { counts.torn } else { counts.lost };
    report::add_control(Control { file_system: lab.file_system.name, left_out: left_out.to_string(), counts });
    assert!(wanted > 0, "{left_out} left out, and nothing found");
}

/// The sequences that are judged here.
struct Work {
    sequences: Vec<Vec<Operation>>,
    is_sample: bool,
    file_system: &'static str,
    progress: Option<File>,
}

impl Work {
    fn new(file_system: FileSystem) -> Self {
        let wanted = env::var("CRASH_GENERATED").ok();
        let name = file_system.name;
        let sample = |limit| Work {
            sequences: shuffled(file_system).into_iter().take(limit).collect(),
            is_sample: true,
            file_system: name,
            progress: None,
        };
        match wanted.as_deref() {
            None => sample(thorough_or(SAMPLED[0], SAMPLED[1])),
            Some("full") => {
                let (mine, of) = shard();
                let place = env::var_os("CRASH_PROGRESS");
                let done = place.as_ref().and_then(|place| fs::read_to_string(place).ok()).unwrap_or_default();
                let is_done = |sequence: &[Operation]| {
                    let start = format!("{name}: {}: ", Sequence(sequence));
                    done.lines().any(|line| line.starts_with(&start))
                };
                let all = operations::all().into_iter().enumerate().filter(|(n, _)| n % of == mine);
                let sequences = all.map(|(_, sequence)| sequence).filter(|sequence| !is_done(sequence)).collect();
                let progress = place.map(|place| File::options().create(true).append(true).open(place).unwrap());
                Work { sequences, is_sample: false, file_system: name, progress }
            }
            Some(wanted) => wanted.parse().map(sample).unwrap_or_else(|_| {
                let sequence = Operation::sequence(wanted);
                let sequence = sequence.expect("CRASH_GENERATED is `full`, a number or a sequence");
                Work { sequences: vec![sequence], is_sample: false, file_system: name, progress: None }
            }),
        }
    }

    fn done(&mut self, sequence: &[Operation], counts: &Counts) {
        if let Some(progress) = &mut self.progress {
            let Counts { recordings, states, .. } = counts;
            let name = self.file_system;
            let line = format!("{name}: {}: {recordings} recordings, {states} states\n", Sequence(sequence));
            progress.write_all(line.as_bytes()).unwrap();
        }
    }
}

/// The value of `CRASH_SHARD`: the part, from 0, and the number of parts.
fn shard() -> (usize, usize) {
    let Ok(shard) = env::var("CRASH_SHARD") else { return (0, 1) };
    let parts = shard.split_once('/').and_then(|(mine, of)| Some((mine.parse().ok()?, of.parse().ok()?)));
    let (mine, of): (usize, usize) =
        parts.filter(|(mine, of)| (1..=*of).contains(mine)).expect("CRASH_SHARD is like 2/5");
    (mine - 1, of)
}

fn shuffled(file_system: FileSystem) -> Vec<Vec<Operation>> {
    let mut all = operations::all();
    Random::new(seed(), &format!("sequences on {}", file_system.name)).shuffle(&mut all);
    all
}

fn sampled_gaps(sequence: &[Operation], file_system: FileSystem) -> Gaps {
    let mut random = Random::new(seed(), &format!("gap of {} on {}", Sequence(sequence), file_system.name));
    let is_together = sequence.last().is_some_and(|operation| operation.is_together());
    match random.below(4) {
        0 => Gaps::No,
        1 => Gaps::Every,
        _ => Gaps::One(random.below(if is_together { SAMPLED_GAPS_TOGETHER } else { SAMPLED_GAPS })),
    }
}

#[derive(Default)]
struct Examined {
    counts: Counts,
    steps: usize,
    /// The bad states, and how to reproduce them.
    bad: Vec<(Fault, String)>,
}

/// Examines all gaps and all states.
fn examine_all(bench: &mut Bench<'_>, sequence: &[Operation]) -> Examined {
    let all = |gaps| (Meddling { gaps, left_out: None }, usize::MAX);
    let (meddling, limit) = all(Gaps::No);
    let mut examined = examine(bench, sequence, meddling, limit);
    for gaps in (0..examined.steps).map(Gaps::One).chain([Gaps::Every]) {
        let (meddling, limit) = all(gaps);
        let one = examine(bench, sequence, meddling, limit);
        examined.counts.add(&one.counts);
        examined.bad.extend(one.bad);
    }
    examined
}

fn examine(bench: &mut Bench<'_>, sequence: &[Operation], meddling: Meddling, limit: usize) -> Examined {
    let start = Instant::now();
    let run::Recorded { recording, steps } = bench.record(sequence, meddling);
    let recorded = start.elapsed();
    let model = Model::of(sequence);
    let mut examined = Examined { steps, ..Examined::default() };
    let counts = &mut examined.counts;
    (counts.recordings, counts.possible, counts.recording) = (1, recording.states.len(), recorded);
    for state in recording.sample(limit) {
        let reached: BTreeSet<Reached> = state
            .points
            .iter()
            .map(|point| Reached::after(&recording.log[..recording.points[*point].at], sequence.len()))
            .collect();
        let seen = look(&mut bench.viewer, &recording.image(state), sequence);
        let faults = seen.faults(&model, sequence, &reached);
        counts.count(&faults);
        let Meddling { gaps, .. } = meddling;
        let how = || {
            let (name, seed, sequence) = (bench.lab.file_system.name, seed(), Sequence(sequence));
            format!(
                "{name}, {sequence}, {gaps} (CRASH_GENERATED='{sequence}' CRASH_SEED={seed}): {}",
                recording.describe(state)
            )
        };
        examined.bad.extend(faults.into_iter().map(|fault| (fault, how())));
    }
    counts.judging = start.elapsed().saturating_sub(recorded);
    examined
}

impl Counts {
    fn count(&mut self, faults: &BTreeSet<Fault>) {
        let has = |is: fn(&Fault) -> bool| usize::from(faults.iter().any(is));
        self.states += 1;
        self.torn += has(|fault| matches!(fault, Fault::Torn(_)));
        self.half += has(|fault| matches!(fault, Fault::Half(_)));
        self.lost += has(|fault| matches!(fault, Fault::Lost(_)));
        self.stuck += has(|fault| matches!(fault, Fault::Stuck(_)));
        self.other += has(|fault| matches!(fault, Fault::Other(_)));
    }
}

/// Milliseconds for each.
fn each(time: Duration, number: usize) -> u128 {
    time.as_millis() / number.max(1) as u128
}
