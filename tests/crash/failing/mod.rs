//! A device that fails, and one that lies.
//!
//! Programs change files while one write or one flush of the device fails, or all from there on. They are told, try again
//! once, and go on. What they have been told has to be true: for those who read at that moment, after a remount of the
//! disk as it is, and after a power cut. Failed writes may have happened or not. The file systems are mounted with their
//! defaults: `errors=continue` is what mke2fs writes into ext4's superblock, and xfs and btrfs have no such option.
//!
//! By default a few of the requests of each program fail, and `CRASH_FAILURES` is how many, or `full`: all; or the one that
//! the description of a bad state names: `Write 31 Once Everywhere`.

pub mod programs;
pub mod report;
mod verdict;

use std::env;
use std::fs::File;
use std::time::Duration;

use crash_lab::device::{Device, Failure, Lasting, Request};
use crash_lab::disk::{Event, Image};
use crash_lab::file_system::{FILE_SYSTEMS, FileSystem};
use crash_lab::lab::Lab;
use crash_lab::random::Random;
use crash_lab::states::{Cache, Recording};
use libtest_mimic::Trial;
use nix::sys::statvfs::{FsFlags, statvfs};

use crate::cases::case;
use crate::commits::Commits;
use crate::common::{end_after, test};
use crate::failing::programs::{CREATE, History, PROGRAMS, Program, REPLACE, Run, Said, Writer};
use crate::failing::report::{Afterwards, Counts, Judged};
use crate::failing::verdict::{Fault, look, temporary_files};
use crate::seed::seed;

/// How many requests of each program fail by default, in turn.
const DEFAULT_FAILURES: usize = 5;
/// How many states of a power cut are judged of each, and if all fail.
const STATES: usize = 3;
const STATES_OF_ALL: usize = 10;

/// How many bad states are described in full.
const DESCRIBED: usize = 8;

/// A device that fails may leave a file system waiting for ever.
const LIMIT: Duration = Duration::from_secs(120);

pub fn all() -> Vec<Trial> {
    let mut trials = Vec::new();
    for file_system in FILE_SYSTEMS {
        for program in &PROGRAMS {
            let name = format!("{}: the device fails, {}", file_system.name, program.name);
            trials.push(case(file_system, &name, move |lab| what_is_said_is_true(lab, program)));
        }
        let name = format!("control: {}, the device fails, syncs are repeated", file_system.name);
        trials.push(case(file_system, &name, a_repeated_sync_is_noticed));
        let name = format!("{}: the device lies", file_system.name);
        trials.push(case(file_system, &name, a_lie_is_noticed));
    }
    trials.push(test("control: a failed write may have happened", failed_writes_may_have_happened));
    trials
}

/// One run of a program.
struct Experiment<'a> {
    lab: &'a Lab,
    program: &'a Program,
    writer: Writer,
    commits: Commits,
    device: Device,
}

/// What was recorded of it.
struct Recorded {
    start: Image,
    log: Vec<Event>,
    history: History,
    failed: usize,
    contradictions: Vec<String>,
    unreadable: usize,
    afterwards: Afterwards,
}

impl Experiment<'_> {
    fn record(&self) -> Recorded {
        let Experiment { lab, program, writer, commits, device } = *self;
        lab.disk.become_device(Device::Sound);
        lab.format();
        let mounted = lab.mount().unwrap();
        let root = mounted.root();
        let history = program.prepare(root);
        mounted.sync().unwrap();
        let start = lab.disk.record();
        lab.disk.become_device(device);
        let now = history.first.clone();
        let (contradictions, unreadable) = (Vec::new(), 0);
        let mut run = Run { program, writer, commits, root, disk: &lab.disk, history, now, contradictions, unreadable };
        run.operate();
        let Run { history, mut contradictions, unreadable, .. } = run;
        let afterwards = afterwards(root);
        if writer == Writer::Adapter && afterwards == Afterwards::Writable {
            let left = temporary_files(root, program).unwrap_or_default();
            contradictions.extend(left.iter().map(|path| format!("{} is left", path.display())));
        }
        drop(mounted);
        let failed = lab.disk.failed();
        lab.disk.become_device(Device::Sound);
        let log = lab.disk.log();
        Recorded { start, log, history, failed, contradictions, unreadable, afterwards }
    }

    fn examine(&self, states: usize) -> Examined {
        let what = self.to_string();
        let _done = end_after(LIMIT, format!("it hangs: {what}"));
        let Recorded { start, log, history, failed, contradictions, unreadable, afterwards } = self.record();
        let mut examined = Examined::default();
        let counts = &mut examined.counts;
        counts.runs = 1;
        counts.reached = usize::from(failed > 0);
        counts.unreadable = usize::from(unreadable > 0);
        counts.count_afterwards(afterwards);
        let mut has_failed = false;
        for attempt in &history.attempts {
            counts.calls += 1;
            counts.retried_done += usize::from(has_failed && attempt.said == Said::Done);
            match attempt.said {
                Said::Done => {}
                Said::Nothing => counts.nothing += 1,
                Said::NotDurable => counts.not_durable += 1,
                Said::Unknown => counts.unknown += 1,
            }
            has_failed |= attempt.said != Said::Done;
        }
        counts.hidden = usize::from(failed > 0 && !has_failed);
        counts.contradictions = usize::from(!contradictions.is_empty());
        examined.bad.extend(contradictions.into_iter().map(|it| format!("now: {it}\n    {what}")));

        let recording = Recording::with_cache(start, log, seed(), Cache::Kept);
        for failed_writes in [false, true] {
            let image = recording.at_the_end(failed_writes);
            let seen = look(self.lab, image, self.program, self.writer, !failed_writes);
            let faults = seen.faults(self.program, &history, &recording.log);
            examined.counts.remounted += 1;
            examined.counts.damaged += usize::from(seen.damaged);
            let operations = recording.operations();
            examined
                .judge(faults, || format!("{what}, remounted, failed writes happened: {failed_writes}:{operations}"));
        }
        for state in recording.sample(states) {
            let seen = look(self.lab, recording.image(state), self.program, self.writer, false);
            let faults = state
                .points
                .iter()
                .flat_map(|point| seen.faults(self.program, &history, &recording.log[..recording.points[*point].at]));
            let mut faults: Vec<Fault> = faults.collect();
            faults.sort();
            faults.dedup();
            examined.counts.states += 1;
            examined.judge(faults, || format!("{what}, {}", recording.describe(state)));
        }
        examined
    }
}

impl std::fmt::Display for Experiment<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Experiment { lab, program, writer, commits, device } = self;
        let (file_system, program) = (lab.file_system.name, program.name);
        write!(f, "{file_system}, {program}, {writer:?}, ")?;
        match device {
            Device::Fails(Failure { request, after, lasting }) => {
                write!(f, "{request:?} {after} {lasting:?} {commits:?}")
            }
            device => write!(f, "{device:?} {commits:?}"),
        }
    }
}

#[derive(Default)]
struct Examined {
    counts: Counts,
    /// Bad states, and how to get there.
    bad: Vec<String>,
}

impl Examined {
    fn judge(&mut self, faults: Vec<Fault>, how: impl Fn() -> String) {
        for fault in &faults {
            self.counts.count(fault);
        }
        // That is the file system's fault. It is counted.
        let ours = faults.into_iter().filter(|fault| !matches!(fault, Fault::AnotherWasTold(_)));
        self.bad.extend(ours.map(|fault| format!("{fault:?}\n    {}", how())));
    }

    fn add(&mut self, other: Examined) {
        self.counts.add(&other.counts);
        self.bad.extend(other.bad);
    }

    fn assert_none(&self) {
        let (count, seed) = (self.bad.len(), seed());
        let described: Vec<String> = self.bad.iter().take(DESCRIBED).map(|bad| format!("{bad}\n")).collect();
        assert!(count == 0, "{count} bad states (CRASH_SEED={seed}), of which the first:\n{}", described.concat());
    }
}

/// What has become of the file system.
fn afterwards(root: &std::path::Path) -> Afterwards {
    match File::create(root.join("afterwards")) {
        Ok(_) => Afterwards::Writable,
        Err(_) if statvfs(root).is_ok_and(|it| it.flags().contains(FsFlags::ST_RDONLY)) => Afterwards::ReadOnly,
        Err(_) => Afterwards::ShutDown,
    }
}

fn what_is_said_is_true(lab: &Lab, program: &Program) {
    let mut all = Examined::default();
    for (failure, commits) in failures(lab, program, Writer::Adapter, limit()) {
        let device = Device::Fails(failure);
        let experiment = Experiment { lab, program, writer: Writer::Adapter, commits, device };
        let examined = experiment.examine(if limit().is_none() { STATES_OF_ALL } else { STATES });
        let counts = examined.counts.clone();
        report::add(Judged { file_system: lab.file_system.name, failure, counts });
        all.add(examined);
    }
    all.assert_none();
}

/// `CRASH_FAILURES`: `full`, or how many.
fn limit() -> Option<usize> {
    match env::var("CRASH_FAILURES").as_deref() {
        Ok("full") => None,
        Ok(number) => Some(number.parse().unwrap_or(1)),
        Err(_) => Some(DEFAULT_FAILURES),
    }
}

/// Every request that a program makes may fail, once or with all that follow.
fn failures(lab: &Lab, program: &Program, writer: Writer, limit: Option<usize>) -> Vec<(Failure, Commits)> {
    let mut failures = Vec::new();
    for commits in [Commits::No, Commits::Everywhere] {
        let recorded = Experiment { lab, program, writer, commits, device: Device::Sound }.record();
        assert!(recorded.history.attempts.iter().all(|attempt| attempt.said == Said::Done));
        let count = |is: fn(&Event) -> bool| recorded.log.iter().filter(|event| is(event)).count();
        let writes = count(|event| matches!(event, Event::Write { .. }));
        let flushes = count(|event| matches!(event, Event::Flush));
        for (request, requests) in [(Request::Write, writes), (Request::Flush, flushes)] {
            for lasting in [Lasting::Once, Lasting::FromThenOn] {
                failures.extend((0..requests).map(|after| (Failure { request, after, lasting }, commits)));
            }
        }
    }
    if let Ok(one) = env::var("CRASH_FAILURES") {
        let is_it = |failure: &Failure, commits| {
            one == format!("{:?} {} {:?} {commits:?}", failure.request, failure.after, failure.lasting)
        };
        if let Some(it) = failures.iter().find(|(failure, commits)| is_it(failure, *commits)) {
            return vec![*it];
        }
    }
    if let Some(limit) = limit {
        let mut random = Random::new(seed(), &format!("failures of {} on {}", program.name, lab.file_system.name));
        random.shuffle(&mut failures);
        failures.truncate(limit);
    }
    failures
}

/// A writer that repeats a failed sync until it succeeds, and believes it.
fn a_repeated_sync_is_noticed(lab: &Lab) {
    let mut all = Examined::default();
    'all: for program in [&CREATE, &REPLACE] {
        let mut failures = failures(lab, program, Writer::RepeatsSyncs, None);
        Random::new(seed(), "repeated syncs").shuffle(&mut failures);
        failures.retain(|(failure, commits)| failure.lasting == Lasting::Once && *commits == Commits::No);
        for (failure, commits) in failures {
            let device = Device::Fails(failure);
            all.add(Experiment { lab, program, writer: Writer::RepeatsSyncs, commits, device }.examine(0));
            if all.counts.lost > 0 && limit().is_some() {
                break 'all;
            }
        }
    }
    let excuse = excuse(lab.file_system);
    let caught = all.counts.lost > 0;
    report::add_control(lab.file_system.name, all.counts, excuse);
    assert!(caught || excuse.is_some(), "syncs were repeated, and nothing was lost");
}

/// Why nothing is lost although failed syncs are repeated.
fn excuse(_: FileSystem) -> Option<&'static str> {
    None
}

/// A device that drops flushes: nothing is promised, and the lab must see that.
fn a_lie_is_noticed(lab: &Lab) {
    let mut all = Counts::default();
    for program in &PROGRAMS {
        let what = format!("{}, {}, a device that lies", lab.file_system.name, program.name);
        let _done = end_after(LIMIT, format!("it hangs: {what}"));
        let (writer, commits, device) = (Writer::Adapter, Commits::No, Device::Lies);
        let Recorded { start, log, history, .. } = Experiment { lab, program, writer, commits, device }.record();
        let recording = Recording::new(start, log, seed());
        let mut examined = Examined::default();
        examined.counts.runs = 1;
        for state in recording.sample(if limit().is_none() { 10 * STATES_OF_ALL } else { STATES }) {
            let seen = look(lab, recording.image(state), program, writer, false);
            // The most was promised at the last of them.
            let point = &recording.points[state.points[state.points.len() - 1]];
            examined.counts.states += 1;
            let mut faults = seen.faults(program, &history, &recording.log[..point.at]);
            faults.sort();
            faults.dedup_by_key(|fault| std::mem::discriminant(fault));
            examined.judge(faults, String::new);
        }
        all.add(&examined.counts);
    }
    let lost = all.lost;
    report::add_lie(lab.file_system.name, all);
    assert!(lost > 0, "flushes were dropped, and nothing was lost");
}

/// The states of a failing device, without a disk.
fn failed_writes_may_have_happened() {
    let page = |byte: u8| vec![byte; 4096];
    let image_of = |writes: &[(u64, u8)]| {
        let mut image = Image::default();
        writes.iter().for_each(|(offset, byte)| image.write(*offset, &page(*byte)));
        image.hash()
    };
    let log = || {
        vec![
            Event::Write { offset: 0, data: page(1) },
            Event::FailedFlush,
            Event::FailedWrite { offset: 4096, data: [page(2), page(2)].concat() },
            Event::Flush,
            Event::Write { offset: 4096, data: page(3) },
            Event::Flush,
            Event::Acknowledged(0),
        ]
    };
    let at_the_end = |cache: Cache| {
        let recording = Recording::with_cache(Image::default(), log(), 1, cache);
        let last = recording.points.len() - 1;
        let states = recording.states.iter().filter(|state| state.points.contains(&last));
        let mut hashes: Vec<u64> = states.map(|state| recording.image(state).hash()).collect();
        hashes.sort_unstable();
        hashes
    };
    let sorted = |mut hashes: Vec<u64>| {
        hashes.sort_unstable();
        hashes
    };
    let (without, with) = (image_of(&[(0, 1), (4096, 3)]), image_of(&[(0, 1), (4096, 3), (8192, 2)]));
    assert_eq!(at_the_end(Cache::Kept), sorted(vec![without, with]));
    let lost = [image_of(&[(4096, 3)]), image_of(&[(4096, 3), (8192, 2)])];
    assert_eq!(at_the_end(Cache::Lost), sorted(vec![without, with, lost[0], lost[1]]));

    let recording = Recording::new(Image::default(), log(), 1);
    assert_eq!(recording.at_the_end(false).hash(), without);
    assert_eq!(recording.at_the_end(true).hash(), with);
    let first = &recording.states.iter().filter(|state| state.points.contains(&0)).count();
    assert_eq!(*first, 2, "a failed flush makes nothing durable");
}
