//! A crash state as the next program finds it: it is mounted, read through the crate, which finishes a decided change,
//! swept, and checked.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use atomic_file_adapter::Durability;
use crash_lab::disk::{Event, Image};
use crash_lab::lab::Lab;
use crash_lab::states::Recording;

use crate::commits::Commits;
use crate::seed::seed;
use crate::together::changes::{LOCKS, Meddling, Reader, Versions, Workload, adapter};

/// The offset of the mark in a lock file (`src/docs/protocol.md`).
const MARK: u64 = 2048;

/// The results, in the order in which they were found.
#[derive(Default)]
pub struct Seen {
    /// The unfinished changes before anything was read.
    pub unfinished: Pending,
    /// The contents that the crate read.
    pub read: Option<Result<Versions, String>>,
    /// The unfinished changes after that, and after `recover`.
    pub left: Pending,
    pub unrecovered: Pending,
    /// The temporary files beside the workload's files, with their contents.
    pub temporary: Vec<(PathBuf, Vec<u8>)>,
    /// Errors of the sweep, and leftovers after it.
    pub unswept: Vec<String>,
    /// The errors of the file system.
    pub broken: Option<String>,
    /// The writes between the mount and the end of the reads.
    pub recorded: Option<(Image, Vec<Event>)>,
}

/// Changes that are decided and not finished.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Pending {
    pub intents: Vec<String>,
    /// The lock files with marks.
    pub marked: Vec<String>,
}

impl Pending {
    pub fn look(root: &Path) -> io::Result<Self> {
        let mut pending = Pending::default();
        let entries = match fs::read_dir(root.join(LOCKS)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(pending),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().into_string().unwrap();
            if name.ends_with(".intent") {
                pending.intents.push(name);
            } else if name.ends_with(".lock") && entry.metadata()?.len() > MARK {
                pending.marked.push(name);
            }
        }
        Ok(pending)
    }

    pub fn is_none(&self) -> bool {
        self.intents.is_empty() && self.marked.is_empty()
    }
}

/// Mounts the disk, which replays the journal, and does all of this.
pub fn look(lab: &Lab, image: Image, workload: &Workload, commits: Commits) -> Seen {
    let mut seen = Seen::default();
    // Half of the states in each way.
    let by = if image.hash() % 2 == 0 { Reader::Together } else { Reader::OneByOne };
    lab.show(image);
    // Before the mount, so that writes in flight after it do not count as durable.
    let start = lab.disk.record();
    lab.disk.mark(Event::Begin(0));
    let mounted = lab.mount();
    let found = match &mounted {
        Ok(mounted) => read(mounted.root(), workload, commits, by, &mut seen),
        Err(error) => Err(io::Error::other(format!("cannot be mounted: {error}"))),
    };
    if found.is_ok() {
        lab.disk.mark(Event::Acknowledged(0));
    }
    seen.recorded = Some((start, lab.disk.log()));
    let found = match &mounted {
        Ok(mounted) if found.is_ok() => what_is_left(mounted.root(), workload, &mut seen),
        _ => found,
    };
    drop(mounted);
    seen.broken = found.err().map(|error| error.to_string()).or_else(|| lab.check().err());
    seen
}

fn read(root: &Path, workload: &Workload, commits: Commits, by: Reader, seen: &mut Seen) -> io::Result<()> {
    seen.unfinished = Pending::look(root)?;
    let read = workload.read(root, Durability::Full, Meddling { commits, left_out: None }, by);
    seen.read = Some(read.map_err(|error| error.to_string()));
    Ok(())
}

fn what_is_left(root: &Path, workload: &Workload, seen: &mut Seen) -> io::Result<()> {
    seen.left = Pending::look(root)?;
    let mut temporary = Vec::new();
    others(root, workload, &mut temporary)?;
    for path in temporary {
        let contents = fs::read(root.join(&path))?;
        seen.temporary.push((path, contents));
    }
    let adapter = adapter(root, Durability::Full);
    if let Err(error) = adapter.recover() {
        seen.unswept.push(error.to_string());
    }
    seen.unrecovered = Pending::look(root)?;
    // The root is for the lock directory, if the workload has no other directories.
    let dirs = workload.dirs.iter().map(|dir| root.join(dir)).chain([root.to_owned()]);
    for dir in dirs.filter(|dir| dir.is_dir()) {
        if let Err(error) = adapter.sweep(dir) {
            seen.unswept.push(error.to_string());
        }
    }
    let mut unswept = Vec::new();
    others(root, workload, &mut unswept)?;
    unswept.extend(others_in_lock_dir(root)?);
    seen.unswept.extend(unswept.iter().map(|path| format!("{} is there", path.display())));
    Ok(())
}

/// The other entries of the workload's directories.
fn others(root: &Path, workload: &Workload, found: &mut Vec<PathBuf>) -> io::Result<()> {
    let files = workload.paths();
    for dir in workload.dirs.iter().filter(|dir| root.join(dir).is_dir()) {
        for entry in fs::read_dir(root.join(dir))? {
            let path = Path::new(dir).join(entry?.file_name());
            if !files.contains(&path) {
                found.push(path);
            }
        }
    }
    Ok(())
}

fn others_in_lock_dir(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut others = Vec::new();
    for entry in fs::read_dir(root.join(LOCKS))? {
        let path = Path::new(LOCKS).join(entry?.file_name());
        if path.extension().is_none_or(|it| it != "lock") && !path.ends_with(".gitignore") {
            others.push(path);
        }
    }
    Ok(others)
}

impl Seen {
    /// The states of a crash while this state was mounted and read.
    pub fn recording(&mut self) -> Option<Recording> {
        self.recorded.take().map(|(start, log)| Recording::new(start, log, seed()))
    }
}
