//! The verdict on each state of each recording.

use std::collections::VecDeque;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crash_lab::file_system::FileSystem;
use crash_lab::lab::{Lab, isolated};
use crash_lab::states::State;
use crash_lab::verdict::{Fault, Times};
use crash_lab::viewer::Viewer;
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::{Args, Chosen, States};
use crate::commands::DIR;
use crate::judged::{Bad, Found, Judged};
use crate::keep::Keeping;
use crate::record::{Recorded, read, record};
use crate::report::Report;
use crate::workload::{Commits, Workload};

/// A file system with a workload, on its own disk.
#[derive(Clone)]
struct Task {
    name: String,
    file_system: FileSystem,
    workload: Workload,
    commits: Vec<Commits>,
}

pub fn all(args: &Arc<Args>, chosen: Chosen) -> Result<Report, String> {
    let workloads = args.workloads()?;
    let mut tasks: VecDeque<(usize, Task)> = VecDeque::new();
    for (name, file_system) in &chosen.judged {
        let commits = args.commits(*file_system)?;
        for workload in &workloads {
            let (name, file_system, commits) = (name.clone(), *file_system, commits.clone());
            tasks.push_back((tasks.len(), Task { name, file_system, workload: *workload, commits }));
        }
    }
    let progress = Progress::new(tasks.iter().map(|(_, task)| task.commits.len()).sum());
    let (tasks, judged) = (Mutex::new(tasks), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..args.jobs() {
            scope.spawn(|| {
                loop {
                    // Not in a `while let`, which would keep the mutex locked during the body.
                    let next = lock(&tasks).pop_front();
                    let Some((number, task)) = next else { return };
                    let result = judge_alone(args.clone(), task, progress.clone());
                    if result.is_err() {
                        lock(&tasks).clear();
                    }
                    lock(&judged).push((number, result));
                }
            });
        }
    });
    progress.bar.finish_and_clear();
    let mut judged = judged.into_inner().unwrap_or_else(PoisonError::into_inner);
    judged.sort_by_key(|(number, _)| *number);
    let judged: Result<Vec<Vec<Judged>>, String> = judged.into_iter().map(|(_, result)| result).collect();
    Ok(Report { chosen, judged: judged?.into_iter().flatten().collect() })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs in a thread with its own mounts.
fn judge_alone(args: Arc<Args>, task: Task, progress: Progress) -> Result<Vec<Judged>, String> {
    let name = format!("{}, {}", task.name, task.workload);
    let body = move || judge(&args, &task, &progress);
    panic::catch_unwind(AssertUnwindSafe(|| isolated(body)))
        .unwrap_or_else(|_| Err("no mounts and descriptors of its own, or a defect of this program".to_owned()))
        .map_err(|error| format!("{name}: {error}"))
}

fn judge(args: &Args, task: &Task, progress: &Progress) -> Result<Vec<Judged>, String> {
    let Task { name, file_system, workload, commits } = task;
    let lab = Lab::open(*file_system)?;
    let mut viewer = lab.viewer().map_err(|error| format!("nothing to look at a disk with: {error}"))?;
    let mut all: Vec<Judged> = Vec::new();
    let mut calls = None;
    for commits in commits.iter().copied() {
        let title = format!("{name}, {workload}, commits {commits}");
        progress.bar.set_message(format!("{title}: recording"));
        // One commit needs the number of gaps between calls, so the calls are counted first.
        if commits.is_single() && calls.is_none() {
            calls = Some(record(&lab, args, *workload, Commits::None, &[])?.calls);
        }
        let recorded = record(&lab, args, *workload, commits, calls.as_deref().unwrap_or_default())?;
        if commits == Commits::None {
            calls = Some(recorded.calls.clone());
        }
        let mut judged = Judged {
            file_system: name.clone(),
            workload: *workload,
            commits,
            possible: recorded.recording.states.len(),
            states: 0,
            torn: 0,
            lost: 0,
            broken: 0,
            bad_states: 0,
            failed: recorded.failed,
            flushes: recorded.recording.flushes(),
            bad: Vec::new(),
        };
        let limit = match args.states {
            States::Full => judged.possible,
            States::Some(number) => number,
        };
        let sample = recorded.recording.sample(limit);
        for state in &sample {
            progress.show(&title, judged.states, sample.len());
            let bad = judged.bad_states;
            judge_state(args, &mut viewer, &recorded, state, &all, &mut judged)?;
            progress.bad.fetch_add(judged.bad_states - bad, Ordering::Relaxed);
        }
        progress.bar.inc(1);
        all.push(judged);
    }
    Ok(all)
}

fn judge_state(
    args: &Args,
    viewer: &mut Viewer,
    recorded: &Recorded,
    state: &State,
    before: &[Judged],
    judged: &mut Judged,
) -> Result<(), String> {
    let recording = &recorded.recording;
    let image = recording.image(state);
    viewer.show(&image).map_err(|error| format!("a state cannot be shown: {error}"))?;
    let found = look(args, viewer)?;
    let mut faults: Vec<Fault> = found.broken.iter().cloned().map(Fault::Other).collect();
    if let Some(value) = &found.value {
        let name = if args.read.is_some() { "the value" } else { "the file" };
        for point in &state.points {
            let times = Times::new(&recording.log[..recording.points[*point].at]);
            faults.extend(times.judge(name, &recorded.versions.list(), value.as_deref()).1);
        }
    }
    faults.sort();
    faults.dedup();
    judged.states += 1;
    judged.torn += usize::from(faults.iter().any(|fault| matches!(fault, Fault::Torn(_))));
    judged.lost += usize::from(faults.iter().any(|fault| matches!(fault, Fault::Lost(_))));
    judged.broken += usize::from(faults.iter().any(|fault| matches!(fault, Fault::Other(_))));
    judged.bad_states += usize::from(!faults.is_empty());
    for fault in faults {
        let mut bad = Bad { fault, state: recording.describe(state).to_string(), kept: None };
        let known = before.iter().flat_map(|judged| &judged.bad).chain(&judged.bad);
        let kind = |bad: &Bad| std::mem::discriminant(&bad.fault);
        let is_first = known.into_iter().all(|known| kind(known) != kind(&bad));
        if let Some(dir) = args.keep.as_deref().filter(|_| is_first) {
            let keeping = Keeping {
                args,
                file_system: viewer.file_system(),
                recorded,
                image: &image,
                found: &found,
                judged,
                bad: &bad,
            };
            bad.kept = Some(keeping.keep(dir)?);
        }
        judged.bad.push(bad);
    }
    Ok(())
}

/// Mounts the state, which replays the journal, reads, unmounts it, and lets the file system's own program check it.
fn look(args: &Args, viewer: &Viewer) -> Result<Found, String> {
    let mounted = match viewer.mount() {
        Ok(mounted) => mounted,
        Err(error) => return Ok(Found { value: None, broken: Some(format!("it cannot be mounted: {error}")) }),
    };
    let read = read(args, &mounted.root().join(DIR));
    mounted.unmount().map_err(|error| {
        format!("a state cannot be unmounted after --read, which may have left a process behind: {error}")
    })?;
    let check = viewer.check().map_err(|error| format!("fsck complains: {error}"));
    let (value, unread) = match read {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(format!("it cannot be read: {error}"))),
    };
    Ok(Found { value, broken: unread.or(check.err()) })
}

/// The progress on standard error, if that is a terminal.
#[derive(Clone)]
struct Progress {
    bar: ProgressBar,
    bad: Arc<AtomicUsize>,
}

impl Progress {
    fn new(recordings: usize) -> Self {
        let bar = ProgressBar::new(recordings as u64);
        let style = ProgressStyle::with_template("{elapsed} [{bar:20}] {pos} of {len} recordings; {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Progress { bar, bad: Arc::default() }
    }

    fn show(&self, title: &str, done: usize, of: usize) {
        let bad = self.bad.load(Ordering::Relaxed);
        self.bar.set_message(format!("{title}: {done} of {of} states; {bad} bad in all"));
    }
}
