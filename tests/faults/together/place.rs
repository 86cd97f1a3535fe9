//! The files, and their contents.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use atomic_file_adapter::{AtomicFileAdapter, Durability, Result};
use tempfile::TempDir;

use crate::common::names;
use crate::together::{End, in_a_child};

/// The contents of the files, by name. `None`: there is no such file.
pub(super) type Tree = BTreeMap<&'static str, Option<String>>;

const FILES: [(&str, Option<&str>, Option<&str>); 4] = [
    ("replaced", Some("the old version"), Some("the new version, which is longer")),
    ("missing/made", None, Some("made")),
    ("deleted", Some("to be deleted"), None),
    ("beside", Some("of no concern"), Some("of no concern")),
];

/// The files that are changed.
pub(super) const CHANGED: [&str; 3] = ["replaced", "missing/made", "deleted"];

pub(super) fn old() -> Tree {
    FILES.iter().map(|(name, old, _)| (*name, old.map(str::to_owned))).collect()
}

pub(super) fn new() -> Tree {
    FILES.iter().map(|(name, _, new)| (*name, new.map(str::to_owned))).collect()
}

/// The directory of a test's places.
pub(super) struct Ground {
    dir: TempDir,
    durability: Durability,
    places: usize,
}

impl Ground {
    pub(super) fn new(durability: Durability) -> Self {
        // Durable changes must not be in memory. Everything else is faster there.
        let memory = Path::new("/dev/shm");
        let in_memory = durability != Durability::Full && memory.is_dir();
        let dir = if in_memory { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        Ground { dir, durability, places: 0 }
    }

    /// How many places were made.
    pub(super) fn places(&self) -> usize {
        self.places
    }

    /// A new place after the last one was removed, with the old files, and with lock files that were used before. It
    /// has the same path, because the order of the locks, and so the order of the calls, depends on the paths.
    pub(super) fn place(&mut self) -> Place {
        self.places += 1;
        let dir = self.dir.path().canonicalize().unwrap().join("place");
        fs::create_dir(&dir).unwrap();
        fs::create_dir(dir.join("files")).unwrap();
        let (files, locks) = (dir.join("files"), dir.join("locks"));
        let place = Place { files, locks, durability: self.durability, keeps_intent: Cell::new(false) };
        for (name, old, _) in FILES {
            if let Some(old) = old {
                fs::write(place.path(name), old).unwrap();
            }
        }
        // In another process, because this one must use them for the first time, too.
        let adapter = place.adapter();
        assert_eq!(in_a_child("prepare", || drop(adapter.lock_many(place.all()).unwrap())), End::Done);
        place
    }
}

/// A directory with files and locks. It is removed on drop.
pub(super) struct Place {
    pub(super) files: PathBuf,
    pub(super) locks: PathBuf,
    durability: Durability,
    /// The process that finished the change could not remove the intent. The intent stays until its owner comes. No
    /// mark leads to it.
    pub(super) keeps_intent: Cell<bool>,
}

impl Place {
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.files.join(name)
    }

    pub(super) fn all(&self) -> Vec<PathBuf> {
        FILES.iter().map(|(name, ..)| self.path(name)).collect()
    }

    pub(super) fn changed(&self) -> Vec<PathBuf> {
        CHANGED.iter().map(|name| self.path(name)).collect()
    }

    pub(super) fn adapter(&self) -> AtomicFileAdapter {
        AtomicFileAdapter::builder().lock_dir(&self.locks).durability(self.durability).build().unwrap()
    }

    /// The contents that the crate returns, under the locks of all files.
    pub(super) fn look(&self, adapter: &AtomicFileAdapter) -> Result<Tree> {
        let guards = adapter.lock_many_shared(self.all())?;
        let mut tree = Tree::new();
        for ((name, ..), guard) in FILES.iter().zip(&guards) {
            tree.insert(name, guard.read()?.map(|contents| String::from_utf8(contents).unwrap()));
        }
        Ok(tree)
    }

    /// The contents on the disk.
    pub(super) fn raw(&self) -> Tree {
        FILES.iter().map(|(name, ..)| (*name, fs::read_to_string(self.path(name)).ok())).collect()
    }

    /// The temporary files, intents and marks. After a change none may be left.
    pub(super) fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for dir in [self.files.clone(), self.files.join("missing"), self.locks.clone()] {
            if !dir.exists() {
                continue;
            }
            for name in names(&dir) {
                // Not opened, because this process may hold the lock.
                let len = fs::metadata(dir.join(&name)).unwrap().len();
                let marked = name.ends_with(".lock") && len > 2048;
                let open = name.ends_with(".intent") && !self.keeps_intent.get();
                if marked || open || name.contains(".tmp") {
                    left.push(name);
                }
            }
        }
        left
    }

    pub(super) fn left_but_temporaries(&self) -> Vec<String> {
        let mut left = self.left();
        left.retain(|name| !name.contains(".tmp"));
        left
    }

    /// What must hold at the end in any case: another process and this one see `expected`, only temporary files are
    /// left and can be swept, no lock is held, and everything works.
    pub(super) fn check(&self, expected: &Tree, what: &str) {
        let seen = in_a_child(what, || {
            let adapter = self.adapter();
            let file = adapter.file(self.path("replaced")).unwrap();
            drop(file.try_lock().unwrap_or_else(|error| panic!("{what}: {error}")));
            let tree = self.look(&adapter).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(tree, *expected, "{what}");
        });
        assert_eq!(seen, End::Done, "{what}");
        assert_eq!(self.raw(), *expected, "{what}");
        assert_eq!(self.left_but_temporaries(), [""; 0], "{what}");
        let adapter = self.adapter();
        assert_eq!(self.look(&adapter).unwrap_or_else(|error| panic!("{what}: {error}")), *expected, "{what}");
        for dir in [self.files.clone(), self.files.join("missing")] {
            if dir.exists() {
                adapter.sweep(dir).unwrap_or_else(|error| panic!("{what}: {error}"));
            }
        }
        assert_eq!(self.left(), [""; 0], "{what}: after the sweep");
        adapter.recover().unwrap_or_else(|error| panic!("{what}: {error}"));
        self.keeps_intent.set(false);
        let is_intent = |name: &String| name.ends_with(".intent");
        assert!(!names(&self.locks).iter().any(is_intent), "{what}: an intent is left");
        adapter
            .update_many(self.changed(), |old| old.iter().map(|_| Some(b"after".to_vec())).collect())
            .unwrap_or_else(|error| panic!("{what}: afterwards {error}"));
        for path in self.changed() {
            assert_eq!(fs::read(path).unwrap(), b"after", "{what}");
        }
        assert_eq!(self.left(), [""; 0], "{what}: afterwards");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Thousands of places are made. An error is ignored, because the directory above is removed later.
        let _ = self.files.parent().map(fs::remove_dir_all);
    }
}
