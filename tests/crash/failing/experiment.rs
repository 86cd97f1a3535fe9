//! One run of a program on a device, and the verdict on its files.

use std::env;
use std::fmt;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use crash_lab::device::{Device, Failure, Request};
use crash_lab::disk::{Event, Image};
use crash_lab::lab::Lab;
use crash_lab::states::{Cache, Recording, State};
use crash_lab::viewer::Viewer;
use nix::sys::statvfs::{FsFlags, statvfs};

use crate::commits::Commits;
use crate::common::end_after;
use crate::failing::programs::{History, Program, Run, Said, Writer};
use crate::failing::report::{Afterwards, Counts};
use crate::failing::verdict::{Fault, look, temporary_files};
use crate::seed::seed;

/// How many bad states are described in full.
const DESCRIBED: usize = 8;

/// A file system on a failing device may wait for ever.
pub const LIMIT: Duration = Duration::from_secs(300);

/// One run of a program.
pub struct Experiment<'a> {
    pub lab: &'a Lab,
    pub program: &'a Program,
    pub writer: Writer,
    pub commits: Commits,
    pub device: Device,
}

/// The recording of the run.
pub struct Recorded {
    pub start: Image,
    pub log: Vec<Event>,
    pub history: History,
    failed: usize,
    contradictions: Vec<String>,
    unreadable: usize,
    afterwards: Afterwards,
}

impl Experiment<'_> {
    pub fn record(&self) -> Recorded {
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
        // Writes that failed may still be waiting. They go to a disk that is not looked at.
        lab.format();
        Recorded { start, log, history, failed, contradictions, unreadable, afterwards }
    }

    /// Judges the disk at the end, and so many disks after a power cut.
    pub fn examine(&self, states: usize) -> Examined {
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

        let recording = Recording::new(start.clone(), log, seed());
        let mut viewer = self.lab.viewer().unwrap();
        // A lock directory elsewhere is in the state of the end, which does not fit the files of an earlier moment. And the
        // first look finishes the change, so that the intent is gone before the second one.
        let is_apart = self.program.locks_elsewhere && self.program.groups.iter().any(|files| files.len() > 1);
        let (remounts, states) = if is_apart { (&[false][..], 0) } else { (&[false, true][..], states) };
        for &failed_writes in remounts {
            let image = recording.at_the_end(failed_writes);
            let seen = look(&mut viewer, &image, self.program, self.writer, !failed_writes);
            let faults = seen.faults(self.program, &history, &recording.log);
            examined.counts.remounted += 1;
            examined.counts.damaged += usize::from(seen.damaged);
            let operations = recording.operations();
            examined
                .judge(faults, || format!("{what}, remounted, failed writes happened: {failed_writes}:{operations}"));
        }
        for state in recording.sample(states) {
            let faults = self.judge_power_cut(&mut viewer, &history, &recording, state);
            examined.counts.states += 1;
            examined.judge(faults, || format!("{what}, {}", recording.describe(state)));
        }
        let fails_to_flush = matches!(self.device, Device::Fails(Failure { request: Request::Flush, .. }));
        if fails_to_flush && env::var_os("CRASH_FAILURES").is_some() {
            // No file system promises anything if the cache is lost.
            let recording = Recording::with_cache(start, recording.log, seed(), Cache::Lost);
            for state in recording.sample(states) {
                let faults = self.judge_power_cut(&mut viewer, &history, &recording, state);
                examined.counts.without_cache += 1;
                examined.counts.lost_with_cache += usize::from(faults.iter().any(is_ours));
            }
        }
        examined
    }
}

impl Experiment<'_> {
    fn judge_power_cut(
        &self,
        viewer: &mut Viewer,
        history: &History,
        recording: &Recording,
        state: &State,
    ) -> Vec<Fault> {
        let seen = look(viewer, &recording.image(state), self.program, self.writer, false);
        let faults = state
            .points
            .iter()
            .flat_map(|point| seen.faults(self.program, history, &recording.log[..recording.points[*point].at]));
        let mut faults: Vec<Fault> = faults.collect();
        faults.sort();
        faults.dedup();
        faults
    }
}

impl fmt::Display for Experiment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
pub struct Examined {
    pub counts: Counts,
    /// The bad states, and how to reproduce them.
    bad: Vec<String>,
}

impl Examined {
    pub fn judge(&mut self, faults: Vec<Fault>, how: impl Fn() -> String) {
        for fault in &faults {
            self.counts.count(fault);
        }
        let ours = faults.into_iter().filter(is_ours);
        self.bad.extend(ours.map(|fault| format!("{fault:?}\n    {}", how())));
    }

    pub fn add(&mut self, other: Examined) {
        self.counts.add(&other.counts);
        self.bad.extend(other.bad);
    }

    pub fn assert_none(&self) {
        let (count, seed) = (self.bad.len(), seed());
        let described: Vec<String> = self.bad.iter().take(DESCRIBED).map(|bad| format!("{bad}\n")).collect();
        assert!(count == 0, "{count} bad states (CRASH_SEED={seed}), of which the first:\n{}", described.concat());
    }
}

/// Whether the fault is the crate's. Those of the file system are only counted.
fn is_ours(fault: &Fault) -> bool {
    !matches!(fault, Fault::AnotherWasTold(_))
}

/// The state of the file system after the failure.
fn afterwards(root: &Path) -> Afterwards {
    match File::create(root.join("afterwards")) {
        Ok(_) => Afterwards::Writable,
        Err(_) if statvfs(root).is_ok_and(|it| it.flags().contains(FsFlags::ST_RDONLY)) => Afterwards::ReadOnly,
        Err(_) => Afterwards::ShutDown,
    }
}
