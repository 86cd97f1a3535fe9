//! Mounts a crash state, looks at it, and compares it with the states that the model permits.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crash_lab::disk::{Event, Image};
use crash_lab::viewer::Viewer;

use crate::common::temporary_name;
use crate::generated::model::{Model, Tree, Version};
use crate::generated::operations::{FILES, Operation};
use crate::generated::run::{LOCKS, adapter, bytes, link, path_in, paths};
use crate::judge::is_temporary;
use crate::together::verdict::Fault;
use crate::workloads::UNRELATED;

/// The offset of the mark in a lock file (`src/docs/protocol.md`).
const MARK: u64 = 2048;

/// One in so many states is checked with the file system's own program. In the other workloads each state is checked.
const CHECKED: u64 = 16;

/// The contents of the disk.
#[derive(Default)]
pub struct Seen {
    /// The files in directories, by their paths, without the lock directory.
    files: Vec<(PathBuf, Vec<u8>)>,
    /// The files of the lock directory, with their lengths.
    locks: Vec<(String, u64)>,
    /// The other entries of the root directory.
    others: Vec<String>,
    /// The error of the crate's read, and versions that differ from those on the disk.
    stuck: Option<String>,
    broken: Option<String>,
}

/// The progress of the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reached {
    pub acknowledged: usize,
    pub begun: usize,
}

impl Reached {
    /// The progress after this part of the log, in a sequence of so many operations.
    pub fn after(log: &[Event], operations: usize) -> Self {
        let count = |is: fn(&Event) -> Option<usize>| log.iter().filter_map(is).filter(|n| *n <= operations).count();
        let begun = |event: &Event| if let Event::Begin(n) = event { Some(*n) } else { None };
        let acknowledged = |event: &Event| if let Event::Acknowledged(n) = event { Some(*n) } else { None };
        Reached { acknowledged: count(acknowledged), begun: count(begun) }
    }
}

/// If some files are changed as one, lets the crate read the files first. Then looks at everything.
pub fn look(viewer: &mut Viewer, image: &Image, operations: &[Operation]) -> Seen {
    let mut seen = Seen::default();
    let looked = viewer.look(image, image.hash() % CHECKED == 0, |root| {
        if operations.iter().any(|operation| operation.is_together()) {
            seen.stuck = read_by_the_crate(root).err();
        }
        seen.walk(root)
    });
    seen.broken = looked.err();
    seen
}

/// Reads the files as the next program does, which finishes a decided change.
fn read_by_the_crate(root: &Path) -> Result<(), String> {
    let paths = paths(root);
    let guards = adapter(root).lock_many_shared(&paths).map_err(|error| error.to_string())?;
    for (path, guard) in paths.iter().zip(&guards) {
        let read = guard.read().map_err(|error| error.to_string())?;
        if read != fs::read(path).ok() {
            return Err(format!("the crate reads something else than there is in {}", path.display()));
        }
    }
    Ok(())
}

impl Seen {
    fn walk(&mut self, root: &Path) -> io::Result<()> {
        for entry in fs::read_dir(root)? {
            let entry = entry?;
            let name = entry.file_name().into_string().expect("a name that the test has given");
            if !entry.file_type()?.is_dir() {
                self.others.push(name);
                continue;
            }
            for inner in fs::read_dir(entry.path())? {
                let inner = inner?;
                let inner_name = inner.file_name().into_string().expect("a name that the test or the crate has given");
                if name == LOCKS {
                    self.locks.push((inner_name, inner.metadata()?.len()));
                } else {
                    self.files.push((Path::new(&name).join(inner_name), fs::read(inner.path())?));
                }
            }
        }
        Ok(())
    }

    /// The faults of the state, if the power went at one of these moments.
    pub fn faults(&self, model: &Model, operations: &[Operation], reached: &BTreeSet<Reached>) -> BTreeSet<Fault> {
        if let Some(broken) = &self.broken {
            return BTreeSet::from([Fault::Other(broken.clone())]);
        }
        let mut faults: BTreeSet<Fault> = self.stuck.iter().cloned().map(Fault::Stuck).collect();
        let is_pending = |(name, length): &&(String, u64)| {
            let is_marked = name.ends_with(".lock") && *length > MARK;
            name.ends_with(".intent") || is_marked
        };
        faults.extend(self.locks.iter().filter(is_pending).map(|(name, _)| Fault::Stuck(format!("{name} is left"))));
        let expected = [UNRELATED.to_owned(), link(0), link(1)];
        let others = self.others.iter().filter(|name| !expected.contains(name));
        faults.extend(others.map(|name| Fault::Other(format!("{name} is there"))));
        for reached in reached {
            faults.extend(self.faults_at(model, operations, *reached));
        }
        faults
    }

    fn faults_at(&self, model: &Model, operations: &[Operation], reached: Reached) -> Vec<Fault> {
        let Reached { acknowledged, begun } = reached;
        let in_progress = operations[acknowledged..begun].last();
        let mut faults = self.leftovers(in_progress);
        let versions = model.versions(begun);
        let mut found: BTreeSet<(String, Version)> = BTreeSet::new();
        for (path, contents) in &self.files {
            let Some(file) = FILES.iter().position(|name| path.ends_with(name)) else { continue };
            let dir = path.parent().unwrap_or(path).display().to_string();
            match versions.iter().find(|version| version.file == file && bytes(**version) == *contents) {
                Some(version) => drop(found.insert((dir, *version))),
                None => faults.push(Fault::Torn(format!("{} is {}", path.display(), describe(contents)))),
            }
        }
        let is_torn = faults.iter().any(|fault| matches!(fault, Fault::Torn(_)));
        let is_in = |trees: BTreeSet<Tree>| trees.iter().any(|tree| tree.versions() == found);
        if is_torn || is_in(model.permitted(acknowledged, begun)) {
            return faults;
        }
        let show = |(dir, version): &(String, Version)| {
            format!("{} of operation {}", path_in(dir, version.file).display(), version.operation)
        };
        let what: Vec<String> = found.iter().map(show).collect();
        let what = format!("{what:?} after {acknowledged} operations were acknowledged and {begun} begun");
        faults.push(if is_in(model.permitted_each(acknowledged, begun)) {
            Fault::Half(what)
        } else if is_in(model.permitted_lost(begun)) {
            Fault::Lost(what)
        } else {
            Fault::Other(what)
        });
        faults
    }

    /// Leftovers. Only an operation that is in progress may leave them: one temporary file of each of its files, and a
    /// temporary intent.
    fn leftovers(&self, in_progress: Option<&Operation>) -> Vec<Fault> {
        let mut may_be: Vec<usize> = in_progress.map(|operation| operation.files()).unwrap_or_default();
        let mut faults = Vec::new();
        for (path, _) in self.files.iter().filter(|(path, _)| !FILES.iter().any(|name| path.ends_with(name))) {
            match may_be.iter().position(|file| is_temporary(path, &path.with_file_name(FILES[*file]))) {
                Some(n) => drop(may_be.remove(n)),
                None => faults.push(Fault::Other(format!("{} is there", path.display()))),
            }
        }
        let is_draft = |name: &str| {
            in_progress.is_some_and(|operation| operation.is_together())
                && name.starts_with('.')
                && name.ends_with(".tmp")
        };
        let is_right = |name: &str| name.ends_with(".lock") || name.ends_with(".intent") || name == ".gitignore";
        let wrong = self.locks.iter().filter(|(name, _)| !is_right(name) && !is_draft(name));
        faults.extend(wrong.map(|(name, _)| Fault::Other(format!("{LOCKS}/{name} is there"))));
        faults
    }
}

fn describe(contents: &[u8]) -> String {
    let title: String = String::from_utf8_lossy(contents).chars().take_while(|it| !it.is_control()).take(60).collect();
    let zeros = contents.iter().filter(|byte| **byte == 0).count();
    format!("{} bytes, {zeros} of them zero, that begin with {title:?}", contents.len())
}

/// Tests the judge, without a disk.
pub fn tells_good_from_bad() {
    let judge = |words: &str, (acknowledged, begun): (usize, usize), found: &[(&str, usize)]| {
        let operations = Operation::sequence(words).unwrap();
        let model = Model::of(&operations);
        let version = |path: &Path, operation: usize| {
            let versions = model.versions(operations.len());
            let is_it = |version: &&Version| path.ends_with(FILES[version.file]) && version.operation == operation;
            versions.iter().find(is_it).map_or(vec![0; 100], |version| bytes(*version))
        };
        let file = |(path, operation): &(&str, usize)| (PathBuf::from(path), version(Path::new(path), *operation));
        let seen = Seen { files: found.iter().map(file).collect(), ..Seen::default() };
        seen.faults(&model, &operations, &BTreeSet::from([Reached { acknowledged, begun }]))
            .into_iter()
            .collect::<Vec<_>>()
    };
    let b = ("b/two", 0);
    assert_eq!(judge("larger:a", (0, 1), &[("a/one", 0), b]), []);
    assert_eq!(judge("larger:a", (1, 1), &[("a/one", 1), b]), []);
    assert!(matches!(judge("larger:a", (1, 1), &[("a/one", 0), b])[..], [Fault::Lost(_)]));
    assert!(matches!(judge("larger:a", (1, 1), &[b])[..], [Fault::Other(_)]));
    assert!(matches!(judge("larger:a", (1, 1), &[("a/one", 1)])[..], [Fault::Other(_)]));
    assert!(matches!(judge("larger:a", (0, 1), &[("a/one", 7), b])[..], [Fault::Torn(_)]));
    // A version that is not written yet.
    assert!(matches!(judge("larger:a", (0, 0), &[("a/one", 1), b])[..], [Fault::Torn(_)]));

    let (renamed, moved) = ("larger:a rename-dir:a new-directory:a", ("moved2/one", 1));
    assert_eq!(judge(renamed, (2, 3), &[moved, b]), []);
    assert_eq!(judge(renamed, (3, 3), &[("a/one", 3), moved, b]), []);
    assert!(matches!(judge(renamed, (2, 3), &[b])[..], [Fault::Other(_)]));
    assert!(matches!(judge(renamed, (2, 3), &[("a/one", 1), moved, b])[..], [Fault::Other(_)]));
    assert!(matches!(judge(renamed, (3, 3), &[moved, b])[..], [Fault::Lost(_)]));

    assert_eq!(judge("batch", (0, 1), &[("a/one", 1)]), []);
    assert!(matches!(judge("together", (0, 1), &[("a/one", 1)])[..], [Fault::Half(_)]));
    assert!(matches!(judge("together", (1, 1), &[("a/one", 0)])[..], [Fault::Lost(_)]));

    // The leftovers of an operation that was in progress, and of one that was not.
    let temporary = format!("a/{}", temporary_name(FILES[0], "abcdefg"));
    let other = format!("a/{}", temporary_name(FILES[0], "bcdefgh"));
    assert_eq!(judge("larger:a", (0, 1), &[("a/one", 0), b, (&temporary, 1)]), []);
    assert!(matches!(judge("larger:a", (1, 1), &[("a/one", 1), b, (&temporary, 1)])[..], [Fault::Other(_)]));
    assert!(matches!(
        judge("larger:a", (0, 1), &[("a/one", 0), b, (&temporary, 1), (&other, 1)])[..],
        [Fault::Other(_)]
    ));
    assert!(matches!(judge("larger:a", (0, 1), &[("a/one", 0), b, ("a/x", 1)])[..], [Fault::Other(_)]));
    let (operations, reached) =
        (Operation::sequence("together").unwrap(), BTreeSet::from([Reached { acknowledged: 0, begun: 1 }]));
    let left = |name: &str, length| {
        let files = vec![("a/one".into(), bytes(Model::of(&operations).versions(0)[0]))];
        let seen = Seen { files, locks: vec![(name.to_owned(), length)], ..Seen::default() };
        seen.faults(&Model::of(&operations), &operations, &reached).into_iter().collect::<Vec<_>>()
    };
    assert_eq!(left("e292ab48a6b06805.lock", MARK), []);
    assert_eq!(left(".e292ab48a6b06805.aaaaaaa.intent.aaaaaaa.tmp", 100), []);
    assert!(matches!(left("e292ab48a6b06805.lock", MARK + 1)[..], [Fault::Stuck(_)]));
    assert!(matches!(left("e292ab48a6b06805.aaaaaaa.intent", 100)[..], [Fault::Stuck(_)]));
    assert!(matches!(left("e292ab48a6b06805", 100)[..], [Fault::Other(_)]));
}
