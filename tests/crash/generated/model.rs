//! The oracle: directories with files, the effect of an operation on them, and what a power cut may leave. It knows
//! only what the crate's documentation promises.
//!
//! * An operation of the crate that has returned is there. So is everything that it depends on: if it made a directory
//!   anew, the old directory of this name was moved or removed.
//! * An operation that has begun: each of its files is old or new, complete. If it was made as one, all of them are old
//!   or all of them are new.
//! * A delete that found nothing: there is nothing, even if another program has removed or moved the file.
//! * What another program did without a sync is there or not. A directory is at its old name or at its new one, and a
//!   removed file is gone or back. No file is lost, and none is in two places.
//! * A file whose directory another program has moved is the same file. If it was acknowledged, it is at one of the two
//!   places.

use std::collections::{BTreeMap, BTreeSet};

use crate::generated::operations::{DIRECTORIES, Layout, Operation, Presence, Verb};

/// A directory, whatever its name.
pub type Dir = usize;

/// A version of a file, by the operation that makes it, from 1. 0: it existed before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub file: usize,
    pub operation: usize,
    pub size: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    MakeDir(String, Dir),
    RenameDir(String, String),
    /// Removes an empty directory.
    RemoveDir(String),
    Set(Dir, Version),
    Remove(Dir, usize),
    /// Nothing changes, but the call reported that there is no such file.
    Absent(usize),
}

/// The directories and files, by any path.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tree {
    names: BTreeMap<String, Dir>,
    files: BTreeMap<(Dir, usize), Version>,
}

impl Tree {
    fn new(layout: Layout) -> Self {
        let mut tree = Tree::default();
        for (file, presence) in layout.iter().enumerate() {
            if *presence != Presence::NoDirectory {
                tree.names.insert(DIRECTORIES[file].to_owned(), file);
            }
            if *presence == Presence::File {
                tree.files.insert((file, file), Version { file, operation: 0, size: FIRST_SIZE });
            }
        }
        tree
    }

    /// The tree with this effect. `None`: the effect is impossible.
    fn after(&self, effect: &Effect) -> Option<Self> {
        let mut tree = self.clone();
        match effect {
            Effect::MakeDir(name, dir) => tree.names.insert(name.clone(), *dir).is_none().then_some(())?,
            Effect::RenameDir(old, new) => {
                let dir = tree.names.remove(old)?;
                tree.names.insert(new.clone(), dir).is_none().then_some(())?;
            }
            Effect::RemoveDir(name) => {
                let dir = tree.names.remove(name)?;
                tree.files.keys().all(|(of, _)| *of != dir).then_some(())?;
            }
            Effect::Set(dir, version) => {
                tree.names.values().any(|there| there == dir).then_some(())?;
                tree.files.insert((*dir, version.file), *version);
            }
            Effect::Absent(file) => self.at_its_path(*file).is_none().then_some(())?,
            Effect::Remove(dir, file) => drop(tree.files.remove(&(*dir, *file))?),
        }
        Some(tree)
    }

    /// The file at its own path.
    pub fn at_its_path(&self, file: usize) -> Option<Version> {
        let dir = self.names.get(DIRECTORIES[file])?;
        self.files.get(&(*dir, file)).copied()
    }

    /// All files: the name of the directory, and the version.
    pub fn versions(&self) -> BTreeSet<(String, Version)> {
        let in_dir = |(name, dir): (&String, &Dir)| {
            let files: Vec<_> = self.files.iter().filter(|((of, _), _)| of == dir).collect();
            files.into_iter().map(|(_, version)| (name.clone(), *version)).collect::<Vec<_>>()
        };
        self.names.iter().flat_map(in_dir).collect()
    }
}

/// Who makes a change. This decides what a power cut may leave of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// The crate, each file on its own.
    Each,
    /// The crate, all files as one.
    Together,
    /// Another program without syncs.
    Another,
}

/// The effects of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub maker: Maker,
    pub effects: Vec<Effect>,
}

impl Change {
    /// The trees that a crash may leave of it, on top of `tree`.
    fn outcomes(&self, tree: &Tree, is_acknowledged: bool) -> Vec<Tree> {
        let all = (1 << self.effects.len()) - 1;
        let apply = |mask: usize| {
            let mut chosen = self.effects.iter().enumerate().filter(|(n, _)| mask >> n & 1 == 1);
            chosen.try_fold(tree.clone(), |tree, (_, effect)| tree.after(effect))
        };
        let may_be = |mask: &usize| match self.maker {
            Maker::Another => true,
            Maker::Each | Maker::Together if is_acknowledged => *mask == all,
            Maker::Each => true,
            Maker::Together => {
                let of_files = |(_, effect): &(usize, &Effect)| matches!(effect, Effect::Set(..) | Effect::Remove(..));
                let chosen = self.effects.iter().enumerate().filter(of_files).map(|(n, _)| mask >> n & 1);
                chosen.collect::<BTreeSet<_>>().len() < 2
            }
        };
        (0..=all).filter(may_be).filter_map(apply).collect()
    }
}

const FIRST_SIZE: usize = 6000;

/// The changes of a sequence of operations without a power cut.
pub struct Model {
    start: Tree,
    now: Tree,
    changes: Vec<Change>,
    next_dir: Dir,
}

impl Model {
    pub fn new(layout: Layout) -> Self {
        let start = Tree::new(layout);
        Model { now: start.clone(), start, changes: Vec::new(), next_dir: DIRECTORIES.len() }
    }

    /// Makes all operations of a sequence.
    pub fn of(operations: &[Operation]) -> Self {
        let mut model = Model::new(crate::generated::operations::layout(operations));
        operations.iter().for_each(|operation| model.make(*operation));
        model
    }

    pub fn now(&self) -> &Tree {
        &self.now
    }

    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    pub fn presence(&self, file: usize) -> Presence {
        if !self.now.names.contains_key(DIRECTORIES[file]) {
            Presence::NoDirectory
        } else if self.now.at_its_path(file).is_none() {
            Presence::NoFile
        } else {
            Presence::File
        }
    }

    /// Whether the directory of the beginning has another name now, or none.
    pub fn was_moved(&self, file: usize) -> bool {
        self.start.names.contains_key(DIRECTORIES[file]) && self.now.names.get(DIRECTORIES[file]) != Some(&file)
    }

    /// The name to which another program moves the directory.
    pub fn moved_to(&self) -> String {
        format!("moved{}", self.changes.len() + 1)
    }

    /// Makes the next operation.
    pub fn make(&mut self, operation: Operation) {
        let mut effects = Vec::new();
        let Operation { verb, file } = operation;
        let name = DIRECTORIES[file].to_owned();
        let old = self.now.at_its_path(file);
        let size = match (verb, old) {
            (Verb::Larger | Verb::Link, Some(old)) => old.size * 3 + 1000,
            (Verb::Smaller, Some(old)) => old.size / 4,
            _ => FIRST_SIZE,
        };
        match verb {
            Verb::Create | Verb::Larger | Verb::Smaller | Verb::Update | Verb::NewDirectory | Verb::Link => {
                self.write(file, size, &mut effects);
            }
            Verb::Delete => self.delete(file, &mut effects),
            Verb::Handle => {
                // The handle belongs to the directory, which may still have its old name, another name, or none.
                if self.now.names.values().any(|dir| *dir == file) {
                    effects.push(Effect::Set(file, self.version(file, size)));
                }
            }
            Verb::Batch | Verb::Together => {
                (0..DIRECTORIES.len()).for_each(|file| self.write(file, size, &mut effects))
            }
            Verb::BatchDelete | Verb::TogetherDelete => {
                self.write(file, size, &mut effects);
                self.delete(1 - file, &mut effects);
            }
            Verb::RenameDir => effects.push(Effect::RenameDir(name, self.moved_to())),
            Verb::RemoveDir => {
                let dir = self.now.names[&name];
                let files = self.now.files.keys().filter(|(of, _)| *of == dir);
                effects.extend(files.map(|(dir, file)| Effect::Remove(*dir, *file)));
                effects.push(Effect::RemoveDir(name));
            }
        }
        let maker = match verb {
            Verb::Together | Verb::TogetherDelete => Maker::Together,
            Verb::RenameDir | Verb::RemoveDir => Maker::Another,
            _ => Maker::Each,
        };
        for effect in &effects {
            self.now = self.now.after(effect).expect("an operation that can be made");
        }
        self.changes.push(Change { maker, effects });
    }

    fn version(&self, file: usize, size: usize) -> Version {
        Version { file, operation: self.changes.len() + 1, size }
    }

    fn write(&mut self, file: usize, size: usize, effects: &mut Vec<Effect>) {
        let name = DIRECTORIES[file];
        let dir = self.now.names.get(name).copied().unwrap_or_else(|| {
            self.next_dir += 1;
            effects.push(Effect::MakeDir(name.to_owned(), self.next_dir - 1));
            self.next_dir - 1
        });
        effects.push(Effect::Set(dir, self.version(file, size)));
    }

    fn delete(&self, file: usize, effects: &mut Vec<Effect>) {
        effects.push(match self.now.at_its_path(file) {
            Some(_) => Effect::Remove(self.now.names[DIRECTORIES[file]], file),
            None => Effect::Absent(file),
        });
    }

    /// All versions of the first operations, and those from before.
    pub fn versions(&self, begun: usize) -> Vec<Version> {
        let effects = self.changes[..begun].iter().flat_map(|change| &change.effects);
        let made = effects.filter_map(|effect| match effect {
            Effect::Set(_, version) => Some(*version),
            _ => None,
        });
        self.start.files.values().copied().chain(made).collect()
    }

    /// The permitted trees if the first `acknowledged` operations have returned and the first `begun` have begun.
    pub fn permitted(&self, acknowledged: usize, begun: usize) -> BTreeSet<Tree> {
        self.permitted_of(&self.changes[..begun], acknowledged)
    }

    /// The same, if the crate promised to change each file only on its own.
    pub fn permitted_each(&self, acknowledged: usize, begun: usize) -> BTreeSet<Tree> {
        let each = |change: &Change| match change.maker {
            Maker::Together => Change { maker: Maker::Each, ..change.clone() },
            _ => change.clone(),
        };
        self.permitted_of(&self.changes[..begun].iter().map(each).collect::<Vec<_>>(), acknowledged)
    }

    /// The same, if no returned operation was durable.
    pub fn permitted_lost(&self, begun: usize) -> BTreeSet<Tree> {
        self.permitted(0, begun)
    }

    fn permitted_of(&self, changes: &[Change], acknowledged: usize) -> BTreeSet<Tree> {
        let start = BTreeSet::from([self.start.clone()]);
        let next = |trees: BTreeSet<Tree>, (n, change): (usize, &Change)| {
            trees.iter().flat_map(|tree| change.outcomes(tree, n < acknowledged)).collect()
        };
        changes.iter().enumerate().fold(start, next)
    }
}

/// Tests the model, without a disk.
pub fn knows_what_is_promised() {
    let model = |operations: &str| Model::of(&Operation::sequence(operations).unwrap());
    // The permitted trees, as directory, file and operation.
    let permitted = |operations: &str, acknowledged, begun| -> BTreeSet<String> {
        let trees = model(operations).permitted(acknowledged, begun);
        let show = |tree: Tree| {
            let files =
                tree.versions().into_iter().filter(|(_, version)| version.file == 0 || operations.contains('*'));
            let files: Vec<String> = files.map(|(dir, version)| format!("{dir}={}", version.operation)).collect();
            files.join(" ")
        };
        trees.into_iter().map(show).collect()
    };
    let set = |trees: &[&str]| trees.iter().map(|tree| (*tree).to_owned()).collect::<BTreeSet<_>>();

    // One file: the old version, either of them, the new one.
    assert_eq!(permitted("larger:a", 0, 0), set(&["a=0"]));
    assert_eq!(permitted("larger:a", 0, 1), set(&["a=0", "a=1"]));
    assert_eq!(permitted("larger:a", 1, 1), set(&["a=1"]));
    assert_eq!(permitted("larger:a delete:a", 1, 2), set(&["a=1", ""]));
    assert_eq!(permitted("larger:a delete:a", 2, 2), set(&[""]));
    assert_eq!(permitted("larger:a remove-dir:a delete:a", 2, 3), set(&["a=1", ""]));
    assert_eq!(permitted("larger:a remove-dir:a delete:a", 3, 3), set(&[""]));
    assert_eq!(permitted("larger:a rename-dir:a delete:a", 3, 3), set(&["moved2=1"]));
    assert_eq!(permitted("new-directory:a", 0, 1), set(&["", "a=1"]));
    assert_eq!(permitted("new-directory:a", 1, 1), set(&["a=1"]));

    // A rename without a sync may be undone, but not an acknowledged change. A new directory of the same name requires
    // the rename.
    assert_eq!(permitted("larger:a rename-dir:a", 2, 2), set(&["a=1", "moved2=1"]));
    assert_eq!(permitted("larger:a rename-dir:a smaller:b", 3, 3), set(&["a=1", "moved2=1"]));
    let renamed = "larger:a rename-dir:a new-directory:a";
    assert_eq!(permitted(renamed, 2, 3), set(&["a=1", "moved2=1", "a=3 moved2=1"]));
    assert_eq!(permitted(renamed, 3, 3), set(&["a=3 moved2=1"]));
    // A handle moves with its directory.
    assert_eq!(permitted("larger:a rename-dir:a handle:a", 3, 3), set(&["a=3", "moved2=3"]));
    assert_eq!(permitted("larger:a remove-dir:a handle:a", 3, 3), set(&["a=1", ""]));

    // A removal without a sync.
    assert_eq!(permitted("larger:a remove-dir:a", 1, 2), set(&["a=1", ""]));
    assert_eq!(permitted("larger:a remove-dir:a new-directory:a", 2, 3), set(&["a=1", "", "a=3"]));
    assert_eq!(permitted("larger:a remove-dir:a new-directory:a", 3, 3), set(&["a=3"]));

    // Two files, each on its own or as one.
    let both = |operations: &str, acknowledged, begun| model(operations).permitted(acknowledged, begun).len();
    assert_eq!([both("batch", 0, 1), both("together", 0, 1)], [4, 2]);
    assert_eq!([both("batch", 1, 1), both("together", 1, 1)], [1, 1]);
    assert_eq!([both("batch-delete:a", 0, 1), both("together-delete:a", 0, 1)], [4, 2]);
    assert_eq!(model("together").permitted_each(0, 1).len(), 4);
    // One of the two is in a directory that was moved. Both are old, at the old or the new place, or both are new.
    let moved = "larger:a rename-dir:a together";
    assert_eq!([both(moved, 2, 2), both(moved, 2, 3), both(moved, 3, 3)], [2, 4, 1]);
}
