//! The workload on the recording disk.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use crash_lab::device::Device;
use crash_lab::disk::Event;
use crash_lab::lab::Lab;
use crash_lab::mounted::Mounted;
use crash_lab::random::Random;
use crash_lab::states::{Cache, Recording};
use crash_lab::verdict::{Version, describe};

use crate::args::Args;
use crate::commands::{DIR, FILE, Filled};
use crate::workload::{Commits, Workload, value};

/// A file beside the user's. A sync of it makes the file system commit its changes.
const UNRELATED: &str = ".crash-lab";

/// A recording, and the versions that it wrote.
pub struct Recorded {
    pub recording: Recording,
    pub versions: Versions,
    /// How many requests the disk answered with EIO.
    pub failed: usize,
    /// The system calls of each write that changed the file system.
    pub calls: Vec<usize>,
}

/// In their order: the first version, and the written ones.
pub struct Versions(pub Vec<Option<Vec<u8>>>);

impl Versions {
    pub fn list(&self) -> Vec<Version<'_>> {
        self.0
            .iter()
            .enumerate()
            .map(|(number, contents)| Version { contents: contents.as_deref(), operation: number.checked_sub(1) })
            .collect()
    }
}

/// `calls` are the numbers of calls that another recording of the same workload counted.
pub fn record(
    lab: &Lab,
    args: &Args,
    workload: Workload,
    commits: Commits,
    calls: &[usize],
) -> Result<Recorded, String> {
    lab.disk.become_device(Device::Sound);
    lab.format();
    let mounted = lab.mount().map_err(|error| format!("a new file system cannot be mounted: {error}"))?;
    let result = operate(lab, args, &mounted, workload, commits, calls);
    let unmounted = mounted.unmount();
    let recorded = result?;
    unmounted.map_err(|error| {
        format!("the file system cannot be unmounted after COMMAND, which may have left a process behind: {error}")
    })?;
    Ok(recorded)
}

fn operate(
    lab: &Lab,
    args: &Args,
    mounted: &Mounted,
    workload: Workload,
    commits: Commits,
    calls: &[usize],
) -> Result<Recorded, String> {
    let dir = mounted.root().join(DIR);
    let first = workload.first().map(|size| value(0, size));
    prepare(args, &dir, first.as_deref())?;
    mounted.sync().map_err(|error| format!("the file system cannot be synced: {error}"))?;
    let mut versions = Versions(vec![first]);
    let mut counted = Vec::new();
    let mut random = Random::new(args.seed, &format!("commit in {workload}"));
    let start = lab.disk.record();
    lab.disk.become_device(args.device);
    for (operation, size) in workload.sizes().iter().enumerate() {
        let new = value(operation + 1, *size);
        let command = Filled::new(&args.command, &dir, args.timeout, &new);
        let command = command.map_err(|error| format!("no temporary files: {error}"))?;
        // The last gap comes after the last call.
        let once = random.below(calls.get(operation).copied().unwrap_or_default() + 1);
        let (mut number, mut failed) = (0, None);
        let mut step = || {
            let now = commits.is_before(number, once);
            number += 1;
            if now && let Err(error) = commits.commit(&dir.join(UNRELATED)) {
                failed = Some(error);
            }
        };
        lab.disk.mark(Event::Begin(operation));
        let ended = command.run_in_steps(&dir, &mut step);
        step();
        // A writer may fail on a failing disk.
        let may_fail = lab.disk.failed() > 0;
        match (ended, failed) {
            (Ok(_), None) => lab.disk.mark(Event::Acknowledged(operation)),
            (Ok(_), Some(_)) if may_fail => lab.disk.mark(Event::Acknowledged(operation)),
            (Ok(_), Some(error)) => return Err(format!("{}: {error}", dir.join(UNRELATED).display())),
            (Err(_), _) if may_fail => lab.disk.mark(Event::Failed(operation)),
            (Err(error), _) => return Err(error),
        }
        counted.push(number - 1);
        versions.0.push(Some(new));
    }
    let log = lab.disk.log();
    let failed = lab.disk.failed();
    lab.disk.become_device(Device::Sound);
    if failed > 0 {
        let recording = Recording::with_cache(start, log, args.seed, Cache::Lost);
        return Ok(Recorded { recording, versions, failed, calls: counted });
    }
    let now = read(args, &dir).map_err(|error| format!("without any power cut, {error}"))?;
    if versions.0.last() != Some(&now) {
        let last = workload.sizes().len();
        let now = describe(now.as_deref());
        return Err(format!("COMMAND ended with status 0, but not even then is it version {last}; it is {now}"));
    }
    Ok(Recorded { recording: Recording::new(start, log, args.seed), versions, failed, calls: counted })
}

/// Makes the first state, before the recording.
fn prepare(args: &Args, dir: &Path, first: Option<&[u8]>) -> Result<(), String> {
    let failed = |error: io::Error| format!("{}: {error}", dir.display());
    fs::create_dir(dir).and_then(|()| fs::write(dir.join(UNRELATED), b"start")).map_err(failed)?;
    match (&args.prepare, first) {
        (Some(prepare), first) => {
            let first = first.unwrap_or_default();
            Filled::new(prepare, dir, args.timeout, first).map_err(failed)?.run()?;
        }
        (None, Some(first)) => fs::write(dir.join(FILE), first).map_err(failed)?,
        (None, None) => {}
    }
    let now = read(args, dir).map_err(|error| format!("before the first write, {error}"))?;
    if now.as_deref() != first {
        return Err(format!("after --prepare, it is not the first version but {}", describe(now.as_deref())));
    }
    Ok(())
}

/// The current value.
pub fn read(args: &Args, dir: &Path) -> Result<Option<Vec<u8>>, String> {
    match &args.read {
        Some(read) => {
            let read =
                Filled::new(read, dir, args.timeout, b"").map_err(|error| format!("no temporary files: {error}"))?;
            read.run().map(Some)
        }
        None => match fs::read(dir.join(FILE)) {
            Ok(contents) => Ok(Some(contents)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{FILE}: {error}")),
        },
    }
}
