//! A device that fails, and one that lies.
//!
//! Programs change files while one write or one flush of the device fails, or while all fail from one on. A program
//! that gets an error tries again once, and goes on. What the calls have reported must be true: for readers at that
//! moment, after a remount of the disk as it is, and after a power cut. Failed writes may have happened or not. The
//! file systems are mounted with their defaults: `errors=continue` is what mke2fs writes into ext4's superblock, and
//! xfs and btrfs have no such option.
//!
//! By default a few requests of each program fail. `CRASH_FAILURES` sets how many, or `full` for all, or one by its
//! description in a bad state: `Write 31 Once Everywhere`.

mod experiment;
pub mod programs;
pub mod report;
mod verdict;

use std::env;
use std::fs;
use std::mem;
use std::path::Path;

use atomic_file_adapter::fault::{Action, Call, Syscall, inject};
use atomic_file_adapter::{AtomicFileAdapter, Error};
use crash_lab::device::{Device, Failure, Lasting, Request};
use crash_lab::disk::{Event, Image};
use crash_lab::file_system::FILE_SYSTEMS;
use crash_lab::lab::Lab;
use crash_lab::random::Random;
use crash_lab::states::{Cache, Recording};
use libtest_mimic::Trial;

use crate::cases::case;
use crate::commits::Commits;
use crate::common::{end_after, test, thorough_or};
use crate::failing::experiment::{Examined, Experiment, LIMIT, Recorded};
use crate::failing::programs::{CREATE, PROGRAMS, Program, REPLACE, Said, Writer};
use crate::failing::report::{Counts, Judged};
use crate::failing::verdict::look;
use crate::seed::seed;

/// How many requests of each program fail in the thorough and in the short form, one in each run.
const FAILURES: [usize; 2] = [2, 1];
/// How many states after a power cut are judged in each run, and how many if all requests fail.
const STATES: usize = 3;
const STATES_OF_ALL: usize = 10;

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
    trials.push(case(FILE_SYSTEMS[0], "the intent is on a dead file system", a_lost_decision_changes_nothing));
    trials.push(test("control: a failed write may have happened", failed_writes_may_have_happened));
    trials
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

/// The value of `CRASH_FAILURES`: `full`, or a number.
fn limit() -> Option<usize> {
    match env::var("CRASH_FAILURES").as_deref() {
        Ok("full") => None,
        // The description of one failure.
        Ok(one) if one.contains(' ') => Some(1),
        Ok(number) => Some(number.parse().expect("CRASH_FAILURES is `full`, a number, or a request")),
        Err(_) => Some(thorough_or(FAILURES[0], FAILURES[1])),
    }
}

/// The failures of a program: every request may fail alone, or together with all later ones.
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
        // Always with the first flush: a delete was not durable once in this case, although it reported success.
        let always = failures.iter().position(|(failure, _)| failure.request == Request::Flush).unwrap_or(0);
        failures.swap(0, always);
        random.shuffle(&mut failures[1..]);
        if limit == 1 {
            // Each program gets another kind of failure. The delete gets the first flush.
            let number = PROGRAMS.iter().position(|known| known.name == program.name).unwrap_or(0);
            let kind = |failure: &Failure| {
                let from_then_on = usize::from(failure.lasting == Lasting::FromThenOn);
                2 * usize::from(failure.request == Request::Flush) + from_then_on
            };
            let wanted = failures.iter().position(|(failure, _)| kind(failure) == number % 4).unwrap_or(0);
            failures.swap(0, wanted);
        }
        failures.truncate(limit);
    }
    failures
}

/// A control: a writer repeats a failed sync until it succeeds, and believes it.
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
    let caught = all.counts.lost > 0;
    report::add_control(lab.file_system.name, all.counts);
    assert!(caught, "syncs were repeated, and nothing was lost");
}

/// A control: a device drops flushes. Nothing is promised then, and the lab must find faults.
fn a_lie_is_noticed(lab: &Lab) {
    let (mut all, mut viewer) = (Counts::default(), lab.viewer().unwrap());
    for program in PROGRAMS.iter().step_by(if limit().is_none() { 1 } else { 3 }) {
        let what = format!("{}, {}, a device that lies", lab.file_system.name, program.name);
        let _done = end_after(LIMIT, format!("it hangs: {what}"));
        let (writer, commits, device) = (Writer::Adapter, Commits::No, Device::Lies);
        let Recorded { start, log, history, .. } = Experiment { lab, program, writer, commits, device }.record();
        let recording = Recording::new(start, log, seed());
        let mut examined = Examined::default();
        examined.counts.runs = 1;
        for state in recording.sample(if limit().is_none() { 10 * STATES_OF_ALL } else { STATES }) {
            let seen = look(&mut viewer, &recording.image(state), program, writer, false);
            // The most was promised at the last of them.
            let point = &recording.points[state.points[state.points.len() - 1]];
            examined.counts.states += 1;
            let mut faults = seen.faults(program, &history, &recording.log[..point.at]);
            faults.sort();
            faults.dedup_by_key(|fault| mem::discriminant(fault));
            examined.judge(faults, String::new);
        }
        all.add(&examined.counts);
    }
    let noticed = all.lost + all.torn + all.half + all.unusable;
    report::add_lie(lab.file_system.name, all);
    assert!(noticed > 0, "flushes were dropped, and nothing was lost");
}

/// Another program was told that the rename of the intent is lost. The files are on another file system, which lives on.
fn a_lost_decision_changes_nothing(lab: &Lab) {
    lab.format();
    let mounted = lab.mount().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let adapter = AtomicFileAdapter::with_lock_dir(elsewhere.path()).unwrap();
    let files = ["a", "b"].map(|name| mounted.root().join(name));
    files.iter().for_each(|file| fs::write(file, "old").unwrap());
    let update = || adapter.update_many(&files, |_| vec![Some(b"new".to_vec()); 2]);
    let mut is_decided = false;
    let dead = move |call: &Call<'_>| {
        let is_intent = |path: &Path| path.extension().is_some_and(|it| it == "intent");
        is_decided |= call.syscall == Syscall::Renameat && call.new_path.is_some_and(is_intent);
        let is_attempt = is_decided && call.syscall == Syscall::Openat && call.path == Some(".".as_ref());
        if is_attempt { Action::Fail(libc::EIO) } else { Action::Proceed }
    };
    let said = inject(dead, update).0;
    assert!(matches!(said, Err(Error::Unfinished { .. })), "{said:?}");
    let all = |contents: &str| files.iter().all(|file| fs::read(file).unwrap() == contents.as_bytes());
    assert!(all("old"));
    adapter.recover().unwrap();
    assert!(all("new"));
}

/// Tests the states of a failing device, without a disk.
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
