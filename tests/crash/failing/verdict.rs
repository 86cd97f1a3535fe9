//! The verdict on a state: compares the files with what the calls have reported.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use atomic_file_adapter::AtomicFileAdapter;
use crash_lab::disk::{Event, Image};
use crash_lab::viewer::Viewer;

use crate::failing::programs::{History, Program, Said, Versions, Writer};
use crate::together::look::Pending;

/// The fault of a state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A call has reported success, and the change is lost.
    Lost(String),
    /// The same, but another program got the error: its sync failed between the rename and the sync of the directory,
    /// which then reported success. ext4 and xfs do not check whether they were shut down if nothing in a directory has
    /// changed since (`__jbd2_journal_force_commit` in fs/jbd2/journal.c, `xfs_dir_fsync` in fs/xfs/xfs_file.c; Linux
    /// 6.18). Nor does ext4 at the sync of a file whose mode has changed (`jbd2_complete_transaction`, for a transaction
    /// that is over).
    AnotherWasTold(String),
    /// A file is not a version that was begun.
    Torn(String),
    /// Files that are changed as one have versions of different changes.
    Half(String),
    /// A call has reported that nothing happened, but the change was made.
    Happened(String),
    /// The crate cannot read the file, or a change stays unfinished.
    Stuck(String),
    /// The file system cannot be mounted or read.
    Unusable(String),
}

/// The contents of the disk.
pub struct Seen {
    /// The version of each group, or why it cannot be read.
    versions: Vec<Result<Versions, String>>,
    unusable: Option<String>,
    stuck: Vec<String>,
    /// The file system's own check finds an error.
    pub damaged: bool,
}

/// Reads all groups, and has the crate finish and sweep.
pub fn look(viewer: &mut Viewer, image: &Image, program: &Program, writer: Writer, check: bool) -> Seen {
    let mut seen = Seen { versions: Vec::new(), unusable: None, stuck: Vec::new(), damaged: false };
    let looked = viewer.look(image, false, |root| {
        let read = program.groups.iter().map(|files| program.read(root, files).map_err(|error| error.to_string()));
        seen.versions = read.collect();
        if writer == Writer::Adapter {
            seen.stuck = clear_up(root, program).unwrap_or_else(|error| vec![error.to_string()]);
        }
        Ok(())
    });
    seen.unusable = looked.err();
    seen.damaged = check && viewer.check().is_err();
    seen
}

/// Finishes and sweeps with the crate. Returns what it could not do.
fn clear_up(root: &Path, program: &Program) -> io::Result<Vec<String>> {
    let adapter = program.adapter(root);
    let mut stuck = Vec::new();
    let is_together = program.groups.iter().any(|files| files.len() > 1);
    if is_together && !Pending::look(root)?.is_none() {
        stuck.push("readers leave something to be finished".to_owned());
    }
    stuck.extend(adapter.recover().err().map(|error| error.to_string()));
    for dir in dirs(root, program) {
        stuck.extend(adapter.sweep(&dir).err().map(|error| error.to_string()));
    }
    stuck.extend(temporary_files(root, program)?.iter().map(|path| format!("{} is there", path.display())));
    drop::<AtomicFileAdapter>(adapter);
    Ok(stuck)
}

/// The directories of a program's files, if they exist.
fn dirs(root: &Path, program: &Program) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = program
        .groups
        .iter()
        .flat_map(|files| files.iter().map(|path| root.join(path).parent().unwrap().to_owned()))
        .filter(|dir| dir.is_dir())
        .collect();
    dirs.sort();
    dirs.dedup();
    dirs
}

/// The temporary files beside a program's files.
pub fn temporary_files(root: &Path, program: &Program) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for dir in dirs(root, program) {
        for entry in std::fs::read_dir(&dir)? {
            let name = entry?.file_name();
            if name.to_string_lossy().starts_with('.') && name.to_string_lossy().ends_with(".tmp") {
                found.push(dir.join(name));
            }
        }
    }
    Ok(found)
}

/// The attempts that had begun or ended at a moment.
#[derive(Default)]
struct Moment(BTreeMap<usize, bool>);

impl Moment {
    fn at(log: &[Event]) -> Self {
        let mut moment = Moment::default();
        for event in log {
            match event {
                Event::Begin(attempt) => moment.0.insert(*attempt, false),
                Event::Acknowledged(attempt) | Event::Failed(attempt) => moment.0.insert(*attempt, true),
                _ => None,
            };
        }
        moment
    }

    fn has_begun(&self, attempt: usize) -> bool {
        self.0.contains_key(&attempt)
    }

    fn has_ended(&self, attempt: usize) -> bool {
        self.0.get(&attempt) == Some(&true)
    }
}

impl Seen {
    /// The faults if this part of the log came before.
    pub fn faults(&self, program: &Program, history: &History, log: &[Event]) -> Vec<Fault> {
        if let Some(unusable) = &self.unusable {
            return vec![Fault::Unusable(unusable.clone())];
        }
        let moment = Moment::at(log);
        let groups = self.versions.iter().enumerate();
        let mut faults: Vec<Fault> = groups
            .filter_map(|(group, seen)| match seen {
                Ok(seen) => group_fault(program, history, &moment, group, seen),
                Err(error) if program.groups[group].len() > 1 => Some(Fault::Stuck(error.clone())),
                Err(error) => Some(Fault::Unusable(error.clone())),
            })
            .collect();
        faults.extend(self.stuck.iter().cloned().map(Fault::Stuck));
        faults
    }
}

fn group_fault(program: &Program, history: &History, moment: &Moment, group: usize, seen: &Versions) -> Option<Fault> {
    let files = program.groups[group];
    let said = |attempt: usize| history.attempts[attempt].said;
    let begun: Vec<(&Versions, Option<usize>)> =
        history.of(group).filter(|(_, attempt)| attempt.is_none_or(|attempt| moment.has_begun(attempt))).collect();
    let is_done = |attempt: Option<usize>| attempt.is_some_and(|it| moment.has_ended(it) && said(it) == Said::Done);
    let is_nothing =
        |attempt: Option<usize>| attempt.is_some_and(|it| moment.has_ended(it) && said(it) == Said::Nothing);
    let last_done = begun.iter().rposition(|(_, attempt)| is_done(*attempt)).unwrap_or(0);
    if begun[last_done..].iter().any(|(version, attempt)| *version == seen && !is_nothing(*attempt)) {
        return None;
    }
    let found = |n: usize| describe(seen[n].as_ref());
    let all = || (0..files.len()).map(|n| format!("{} is {}", files[n], found(n))).collect::<Vec<_>>().join(", ");
    let named = |position: usize| begun[position].1.map_or("the first".to_owned(), |attempt| format!("{attempt}"));
    // Missing files look the same in all versions.
    let is_it = |(version, _): &(&Versions, Option<usize>)| *version == seen;
    let found_at = begun[..last_done].iter().rposition(is_it).or_else(|| begun.iter().rposition(is_it));
    Some(match found_at {
        Some(position) if position < last_done => {
            let lost = format!("{files:?} is version {}, though {} was done", named(position), named(last_done));
            if begun[last_done].1.is_some_and(|done| history.attempts[done].another_was_told) {
                Fault::AnotherWasTold(lost)
            } else {
                Fault::Lost(lost)
            }
        }
        Some(position) => {
            let error = begun[position].1.and_then(|attempt| history.attempts[attempt].error.clone());
            Fault::Happened(format!("{files:?} is version {}, of which was said: {error:?}", named(position)))
        }
        None if (0..files.len()).all(|n| begun.iter().any(|(version, _)| version[n] == seen[n])) => Fault::Half(all()),
        None if last_done > 0 => Fault::Lost(format!("{}, though {} was done", all(), named(last_done))),
        None => Fault::Torn(all()),
    })
}

fn describe(found: Option<&Vec<u8>>) -> String {
    let Some(contents) = found else { return "missing".to_owned() };
    let title = String::from_utf8_lossy(contents).lines().next().unwrap_or_default().to_owned();
    let title: String = title.chars().filter(|c| !c.is_control()).take(50).collect();
    let zeros = contents.iter().filter(|byte| **byte == 0).count();
    format!("{} bytes, {zeros} of them zero, that begin with {title:?}", contents.len())
}
