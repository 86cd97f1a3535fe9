//! Runs a sequence on the mounted file system, while the disk records.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use atomic_file_adapter::fault::{Action, Call, inject};
use atomic_file_adapter::{AtomicFile, AtomicFileAdapter};
use crash_lab::disk::{Event, Image};
use crash_lab::lab::Lab;
use crash_lab::states::Recording;
use crash_lab::viewer::Viewer;

use crate::commits::{commit, commit_transaction};
use crate::generated::model::{Effect, Model, Version};
use crate::generated::operations::{DIRECTORIES, FILES, Layout, Operation, Presence, Verb, layout};
use crate::seed::seed;
use crate::workloads::{LeftOut, UNRELATED, changes_or_follows, contents};

/// The lock directory, on the same disk.
pub const LOCKS: &str = "locks";

/// The mark of a forced commit in the log. It is no operation.
const FORCED: usize = 99;

/// Where the journal is committed in the last operation. There are no forced commits in the operations before, because
/// those are another sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gaps {
    No,
    Every,
    /// Before the step with this number, from 0.
    One(usize),
}

impl fmt::Display for Gaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gaps::No => f.write_str("no commit"),
            Gaps::Every => f.write_str("a commit before each step"),
            Gaps::One(gap) => write!(f, "a commit before step {gap}"),
        }
    }
}

/// What is done while the sequence runs.
#[derive(Debug, Clone, Copy)]
pub struct Meddling {
    pub gaps: Gaps,
    pub left_out: Option<LeftOut>,
}

/// The recording of a run.
pub struct Recorded {
    /// The states in which the last operation has begun and, with [`Gaps::One`], the journal was committed.
    pub recording: Recording,
    /// The number of steps of the last operation.
    pub steps: usize,
}

/// A lab with the disks on which sequences begin.
pub struct Bench<'a> {
    pub lab: &'a Lab,
    pub viewer: Viewer,
    prepared: HashMap<Layout, Image>,
}

impl<'a> Bench<'a> {
    pub fn new(lab: &'a Lab) -> Self {
        Bench { lab, viewer: lab.viewer().unwrap(), prepared: HashMap::new() }
    }

    pub fn record(&mut self, operations: &[Operation], meddling: Meddling) -> Recorded {
        let layout = layout(operations);
        let prepared = self.prepared.entry(layout).or_insert_with(|| prepare(self.lab, layout)).clone();
        self.lab.show(prepared);
        let mounted = self.lab.mount().unwrap();
        let start = self.lab.disk.record();
        let run = Run::new(mounted.root(), self.lab, meddling);
        run.make(operations);
        let log = self.lab.disk.log();
        let steps = run.steps.load(Ordering::Relaxed);
        drop(run);
        drop(mounted);
        let begin =
            |operation| log.iter().position(|event| matches!(event, Event::Begin(number) if *number == operation));
        // `None` if there are fewer steps.
        let committed = if matches!(meddling.gaps, Gaps::One(_)) { begin(FORCED) } else { None };
        let since = committed.or_else(|| begin(operations.len())).unwrap_or_default();
        Recorded { recording: Recording::since(start, log, since, seed()), steps }
    }
}

/// A disk with these directories and files, symbolic links to the files, and the lock files.
fn prepare(lab: &Lab, layout: Layout) -> Image {
    lab.format();
    let mounted = lab.mount().unwrap();
    let root = mounted.root();
    fs::write(root.join(UNRELATED), "start").unwrap();
    for (file, presence) in layout.into_iter().enumerate() {
        if presence != Presence::NoDirectory {
            fs::create_dir(root.join(DIRECTORIES[file])).unwrap();
        }
        symlink(path_in(DIRECTORIES[file], file), root.join(link(file))).unwrap();
    }
    for version in Model::new(layout).versions(0) {
        fs::write(root.join(path_in(DIRECTORIES[version.file], version.file)), bytes(version)).unwrap();
    }
    for path in paths(root) {
        adapter(root).read_with_lock(path).unwrap();
    }
    mounted.sync().unwrap();
    drop(mounted);
    lab.disk.image()
}

pub fn adapter(root: &Path) -> AtomicFileAdapter {
    AtomicFileAdapter::builder().lock_dir(root.join(LOCKS)).build().unwrap()
}

/// The path of this file in the directory of this name.
pub fn path_in(dir: &str, file: usize) -> PathBuf {
    Path::new(dir).join(FILES[file])
}

/// The paths of both files.
pub fn paths(root: &Path) -> [PathBuf; 2] {
    [0, 1].map(|file| root.join(path_in(DIRECTORIES[file], file)))
}

pub fn link(file: usize) -> String {
    format!("link-to-{}", FILES[file])
}

pub fn bytes(version: Version) -> Vec<u8> {
    contents(FILES[version.file], version.operation, version.size)
}

struct Run<'a> {
    root: &'a Path,
    lab: &'a Lab,
    adapter: AtomicFileAdapter,
    /// Handles from before the sequence.
    handles: [AtomicFile; 2],
    meddling: Meddling,
    /// The steps of the last operation so far.
    steps: Arc<AtomicUsize>,
}

impl<'a> Run<'a> {
    fn new(root: &'a Path, lab: &'a Lab, meddling: Meddling) -> Self {
        let adapter = adapter(root);
        let handles = paths(root).map(|path| adapter.file(path).unwrap());
        Run { root, lab, adapter, handles, meddling, steps: Arc::default() }
    }

    fn make(&self, operations: &[Operation]) {
        let mut model = Model::new(layout(operations));
        for (n, operation) in operations.iter().enumerate() {
            let moved_to = self.root.join(model.moved_to());
            let before = paths(self.root).map(|path| fs::read(path).ok());
            model.make(*operation);
            self.lab.disk.mark(Event::Begin(n + 1));
            let is_last = n + 1 == operations.len();
            match operation.verb {
                Verb::RenameDir | Verb::RemoveDir => self.by_another_program(*operation, &moved_to, is_last),
                _ => inject(self.between_steps(is_last), || self.by_the_crate(*operation, &model, &before)).0,
            }
            self.lab.disk.mark(Event::Acknowledged(n + 1));
            let found = paths(self.root).map(|path| fs::read(path).ok());
            let right = [0, 1].map(|file| model.now().at_its_path(file).map(bytes));
            assert!(found == right, "the model does not know what {operation} does");
        }
    }

    /// Runs an operation of another program. Nothing is synced.
    fn by_another_program(&self, operation: Operation, moved_to: &Path, is_last: bool) {
        let (dir, mut step) = (self.root.join(DIRECTORIES[operation.file]), self.step(is_last));
        step();
        if operation.verb == Verb::RenameDir {
            fs::rename(dir, moved_to).unwrap();
        } else {
            if let Ok(()) = fs::remove_file(dir.join(FILES[operation.file])) {
                step();
            }
            fs::remove_dir(dir).unwrap();
        }
        step();
    }

    /// Runs an operation of the crate. The model says what it does.
    fn by_the_crate(&self, operation: Operation, model: &Model, before: &[Option<Vec<u8>>; 2]) {
        let Operation { verb, file } = operation;
        let adapter = &self.adapter;
        let paths = paths(self.root);
        let path = &paths[file];
        let new = |file| {
            let mut effects = model.changes()[model.changes().len() - 1].effects.iter();
            effects.find_map(|effect| match effect {
                Effect::Set(_, version) if version.file == file => Some(bytes(*version)),
                _ => None,
            })
        };
        match verb {
            Verb::Create | Verb::Larger | Verb::Smaller | Verb::NewDirectory => {
                adapter.write_atomic(path, new(file).unwrap()).unwrap();
            }
            Verb::Link => adapter.write_atomic(self.root.join(link(file)), new(file).unwrap()).unwrap(),
            Verb::Update => {
                let replace = |old: Option<&[u8]>| {
                    assert_eq!(old, before[file].as_deref());
                    new(file).unwrap()
                };
                adapter.update(path, replace).unwrap();
            }
            Verb::Delete => assert_eq!(adapter.delete_with_lock(path).unwrap(), before[file].is_some()),
            Verb::Handle => match new(file) {
                Some(new) => self.handles[file].write(new).unwrap(),
                None => drop(self.handles[file].write("nowhere").unwrap_err()),
            },
            Verb::Batch => {
                let mut batch = adapter.batch();
                for (file, path) in paths.iter().enumerate() {
                    batch.write(path, new(file).unwrap());
                }
                batch.commit().unwrap();
            }
            Verb::BatchDelete => {
                adapter.batch().write(path, new(file).unwrap()).delete(&paths[1 - file]).commit().unwrap();
            }
            Verb::Together => {
                let replace = |old: &[Option<Vec<u8>>]| {
                    assert_eq!(old, before);
                    vec![new(0), new(1)]
                };
                adapter.update_many(&paths, replace).unwrap();
            }
            Verb::TogetherDelete => {
                adapter.batch().write(path, new(file).unwrap()).delete(&paths[1 - file]).commit_all().unwrap();
            }
            Verb::RenameDir | Verb::RemoveDir => unreachable!("another program does that"),
        }
    }

    /// What is done before a step of the operation, if it is the last one.
    fn step(&self, is_last: bool) -> impl FnMut() + use<> {
        let (steps, gaps) = (self.steps.clone(), self.meddling.gaps);
        // On most file systems the sync of a file is a commit. On all of them a transaction is.
        let force = if self.lab.file_system.commits_apart() { commit_transaction } else { commit };
        let (unrelated, disk) = (self.root.join(UNRELATED), self.lab.disk.marker());
        move || {
            if !is_last {
                return;
            }
            let step = steps.fetch_add(1, Ordering::Relaxed);
            if gaps == Gaps::Every || gaps == Gaps::One(step) {
                disk.mark(Event::Begin(FORCED));
                force(&unrelated);
            }
        }
    }

    fn between_steps(&self, is_last: bool) -> impl FnMut(&Call<'_>) -> Action + use<> {
        let (mut step, left_out) = (self.step(is_last), self.meddling.left_out);
        move |call: &Call<'_>| {
            if changes_or_follows(call) {
                step();
            }
            if left_out.is_some_and(|sync| sync.is(call)) { Action::Skip } else { Action::Proceed }
        }
    }
}
