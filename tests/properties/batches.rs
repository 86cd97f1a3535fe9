//! A batch does what its changes do one by one. A batch that fails reports what it has done. If it is all or nothing,
//! it has done nothing, or its change can be finished.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use atomic_file_adapter::{AtomicFileAdapter, Durability, Error};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestCaseResult;

use crate::common::Scratch;
use crate::names::{Contents, Pick, contents, pick};
use crate::{Entry, check, this_file, tree};

#[derive(Debug, Clone)]
struct Case {
    changes: Vec<Change>,
    /// The disk fails before the rename or removal of this number.
    fails: Option<usize>,
    new_file_mode: Option<u32>,
    files: Vec<Target>,
}

/// A file that may exist before.
#[derive(Debug, Clone)]
struct Target {
    dir: &'static str,
    old: Option<(Contents, u32)>,
}

#[derive(Debug, Clone)]
struct Change {
    path: At,
    /// `None`: the file is deleted.
    contents: Option<Contents>,
}

#[derive(Debug, Clone)]
enum At {
    File {
        which: Pick,
        spelling: Pick,
    },
    /// Something that can be neither written nor deleted.
    Obstacle(Pick),
}

fn case() -> impl Strategy<Value = Case> {
    let mode = || select(&[0o600, 0o644, 0o640, 0o755, 0o444, 0o666][..]);
    let target = (select(&["", "", "sub", "missing", "missing/deep"][..]), option::of((contents(), mode())))
        .prop_map(|(dir, old)| Target { dir, old: old.filter(|_| !dir.starts_with("missing")) });
    let change = |obstacles: u32| {
        let file = (pick(), pick()).prop_map(|(which, spelling)| At::File { which, spelling });
        let path = prop_oneof![100 => file, obstacles => pick().prop_map(At::Obstacle)];
        (path, option::weighted(0.7, contents())).prop_map(|(path, contents)| Change { path, contents })
    };
    let changes = prop_oneof![
        14 => vec(change(1), 0..12),
        4 => vec(change(20), 0..12),
        // More changes than are made at a time.
        1 => vec(change(1), 120..270),
    ];
    let files = vec(target, 1..8);
    let fails = option::weighted(0.4, 0..6usize);
    (files, changes, fails, option::of(mode())).prop_map(|(files, changes, fails, new_file_mode)| Case {
        changes,
        fails,
        new_file_mode,
        files,
    })
}

impl Case {
    fn scratch(&self) -> Scratch {
        let mut scratch = Scratch::new();
        let mut builder =
            AtomicFileAdapter::builder().lock_dir(scratch.adapter.lock_dir()).durability(Durability::None);
        if let Some(mode) = self.new_file_mode {
            builder = builder.new_file_mode(mode);
        }
        scratch.adapter = builder.build().unwrap();
        for dir in ["sub", "links", "a directory"] {
            fs::create_dir(scratch.path(dir)).unwrap();
        }
        fs::write(scratch.path("a file"), "").unwrap();
        symlink("a loop", scratch.path("a loop")).unwrap();
        for (n, file) in self.files.iter().enumerate() {
            symlink(Path::new("..").join(self.name(n)), scratch.path("links").join(n.to_string())).unwrap();
            if let Some((contents, mode)) = &file.old {
                fs::write(scratch.files.join(self.name(n)), contents.bytes()).unwrap();
                fs::set_permissions(scratch.files.join(self.name(n)), Permissions::from_mode(*mode)).unwrap();
            }
        }
        scratch
    }

    fn name(&self, n: usize) -> PathBuf {
        Path::new(self.files[n].dir).join(n.to_string())
    }

    /// The number of the file. `None`: an obstacle.
    fn file(&self, change: &Change) -> Option<usize> {
        let At::File { which, .. } = change.path else { return None };
        let numbers: Vec<usize> = (0..self.files.len()).collect();
        Some(*which.get(&numbers))
    }

    fn path(&self, change: &Change, scratch: &Scratch) -> PathBuf {
        match (&change.path, self.file(change)) {
            (At::File { spelling, .. }, Some(n)) => {
                let name = self.name(n);
                let link = Path::new("links").join(n.to_string());
                let up = Path::new("sub/..").join(&name);
                let odd = Path::new(".//links/../sub/../links").join(n.to_string());
                scratch.files.join(spelling.get(&[name.clone(), link, up, odd]))
            }
            (At::Obstacle(which), _) => {
                let long = "x".repeat(256);
                scratch.files.join(which.get(&["a directory", "a file/below", "a loop", &long, "a directory/"]))
            }
            (At::File { .. }, None) => unreachable!(),
        }
    }
}

pub fn a_batch_is_its_single_calls() {
    check(this_file!(), 100, &case(), |case| {
        let [together, single] = [case.scratch(), case.scratch()];
        let before = tree(&together.files);
        let mut errors = Vec::new();
        for change in &case.changes {
            let path = case.path(change, &single);
            errors.extend(match &change.contents {
                Some(contents) => single.adapter.write_atomic(path, contents.bytes()).err(),
                None => single.adapter.delete_with_lock(path).err(),
            });
        }
        let mut batch = together.adapter.batch();
        for change in &case.changes {
            let path = case.path(change, &together);
            match &change.contents {
                Some(contents) => batch.write(path, contents.bytes()),
                None => batch.delete(path),
            };
        }
        prop_assert_eq!(&tree(&together.files), &before, "nothing happens before the commit");
        let (result, has_failed) = failing_at(case.fails, || batch.commit());
        let after = tree(&together.files);
        match result {
            Ok(()) => {
                prop_assert!(errors.is_empty() && !has_failed, "instead of {:?}", errors);
                is_like(&after, &tree(&single.files))?;
            }
            Err(Error::Batch { replaced, source, .. }) => {
                let alike = |single: &Error| {
                    (std::mem::discriminant(single), single.kind()) == (std::mem::discriminant(&*source), source.kind())
                };
                let injected = has_failed
                    && matches!(&*source, Error::Io { source, .. } if source.raw_os_error() == Some(libc::EIO));
                prop_assert!(injected || errors.iter().any(alike), "{:?} instead of {:?}", source, errors);
                did_what_it_says(&case, &together.files, &replaced, &before, &after)?;
            }
            Err(error) => return Err(error.into()),
        }
        for n in 0..case.files.len() {
            let file = together.adapter.file(together.files.join(case.name(n)))?;
            prop_assert!(file.try_lock().is_ok());
        }
        batch.commit()?;
        prop_assert_eq!(tree(&together.files), after, "a batch was not empty after its commit");
        Ok(())
    });
}

pub fn all_or_nothing_is_the_single_calls_or_none() {
    check(this_file!(), 100, &case(), |case| {
        let [together, single] = [case.scratch(), case.scratch()];
        let before = tree(&together.files);
        let mut errors = Vec::new();
        let mut batch = together.adapter.batch();
        for change in &case.changes {
            let path = case.path(change, &single);
            errors.extend(match &change.contents {
                Some(contents) => single.adapter.write_atomic(path, contents.bytes()).err(),
                None => single.adapter.delete_with_lock(path).err(),
            });
            let path = case.path(change, &together);
            match &change.contents {
                Some(contents) => batch.write(path, contents.bytes()),
                None => batch.delete(path),
            };
        }
        let (result, has_failed) = failing_at(case.fails, || batch.commit_all());
        let come_to = |scratch: &Scratch| without_missing_directories(tree(&scratch.files));
        match result {
            Ok(()) => {
                prop_assert!(errors.is_empty() && !has_failed, "instead of {:?}", errors);
                is_like(&come_to(&together), &come_to(&single))?;
            }
            Err(Error::Unfinished { intent, .. }) => {
                prop_assert!(errors.is_empty() && has_failed, "instead of {:?}", errors);
                prop_assert_eq!(together.adapter.recover()?, [intent]);
                is_like(&come_to(&together), &come_to(&single))?;
            }
            Err(error) => {
                let alike = |single: &Error| {
                    (std::mem::discriminant(single), single.kind()) == (std::mem::discriminant(&error), error.kind())
                };
                let injected = has_failed
                    && matches!(&error, Error::Io { source, .. } if source.raw_os_error() == Some(libc::EIO));
                prop_assert!(injected || errors.iter().any(alike), "{:?} instead of {:?}", error, errors);
                did_what_it_says(&case, &together.files, &[], &before, &tree(&together.files))?;
            }
        }
        for n in 0..case.files.len() {
            let file = together.adapter.file(together.files.join(case.name(n)))?;
            prop_assert!(file.try_lock().is_ok());
        }
        prop_assert_eq!(together.adapter.recover()?, Vec::<PathBuf>::new());
        Ok(())
    });
}

/// The tree without `missing`: only the single calls make a directory in which a file was written and then deleted.
fn without_missing_directories(mut tree: BTreeMap<PathBuf, Entry>) -> BTreeMap<PathBuf, Entry> {
    tree.retain(|path, entry| !path.starts_with("missing") || *entry != Entry::Directory);
    tree
}

/// Compares the results of a batch and of the single calls.
fn is_like(together: &BTreeMap<PathBuf, Entry>, single: &BTreeMap<PathBuf, Entry>) -> TestCaseResult {
    prop_assert_eq!(together.keys().collect::<Vec<_>>(), single.keys().collect::<Vec<_>>());
    for (path, entry) in together {
        match (entry, &single[path]) {
            (
                Entry::File { contents, mode, .. },
                Entry::File { contents: expected_contents, mode: expected_mode, .. },
            ) => {
                prop_assert!(contents == expected_contents, "{:?}", path);
                prop_assert_eq!(mode, expected_mode, "{:?}", path);
            }
            (entry, expected) => prop_assert_eq!(entry, expected),
        }
    }
    Ok(())
}

/// After an error: the files that are reported as replaced are replaced, and all others are unchanged.
fn did_what_it_says(
    case: &Case,
    top: &Path,
    replaced: &[PathBuf],
    before: &BTreeMap<PathBuf, Entry>,
    after: &BTreeMap<PathBuf, Entry>,
) -> TestCaseResult {
    let replaced: BTreeSet<&Path> = replaced.iter().map(|path| path.strip_prefix(top).unwrap()).collect();
    let names: BTreeSet<PathBuf> = (0..case.files.len()).map(|n| case.name(n)).collect();
    prop_assert!(replaced.iter().all(|path| names.contains(*path)), "{:?}", replaced);
    for (n, name) in (0..case.files.len()).map(|n| (n, case.name(n))) {
        if !replaced.contains(&*name) {
            prop_assert!(after.get(&name) == before.get(&name), "{:?} is not among {:?}", name, replaced);
            continue;
        }
        let now = match after.get(&name) {
            Some(Entry::File { contents, .. }) => Some(contents.clone()),
            _ => None,
        };
        let mut changes = case.changes.iter().rev().filter(|change| case.file(change) == Some(n));
        // With so few changes, all are made at a time. So no earlier change of the same file can have been made.
        let all_at_once = case.changes.len() <= 32;
        let made = |change: &Change| change.contents.as_ref().map(Contents::bytes) == now;
        let was_made = if all_at_once { changes.next().is_some_and(made) } else { changes.any(made) };
        prop_assert!(was_made, "{:?} was not replaced by its new version", name);
    }
    let others = |tree: &BTreeMap<PathBuf, Entry>| -> BTreeMap<PathBuf, Entry> {
        let mut others = tree.clone();
        // Missing directories may have been made.
        others.retain(|path, _| !names.contains(path) && !path.starts_with("missing"));
        others
    };
    prop_assert_eq!(others(after), others(before));
    let left = after.keys().filter(|path| path.starts_with("missing") && !names.contains(*path));
    prop_assert!(left.clone().all(|path| after[path] == Entry::Directory), "{:?}", left.collect::<Vec<_>>());
    Ok(())
}

/// Runs `body`. The rename or removal of the file of this number fails. Also returns whether that happened.
#[cfg(feature = "fault-injection")]
fn failing_at<T>(number: Option<usize>, body: impl FnOnce() -> T) -> (T, bool) {
    use std::cell::Cell;
    use std::rc::Rc;

    use atomic_file_adapter::fault::{Action, Syscall, inject};

    let (mut seen, failed) = (0, Rc::new(Cell::new(false)));
    let fails = failed.clone();
    let (value, _) = inject(
        move |call| {
            let target = match call.syscall {
                Syscall::Renameat => call.new_path,
                Syscall::Unlinkat => call.path,
                _ => None,
            };
            // The names of the files are numbers. Temporary files and others have other names.
            if target.and_then(Path::to_str).and_then(|name| name.parse::<usize>().ok()).is_none() {
                return Action::Proceed;
            }
            let now = number == Some(seen);
            seen += 1;
            fails.set(fails.get() || now);
            if now { Action::Fail(libc::EIO) } else { Action::Proceed }
        },
        body,
    );
    (value, failed.get())
}

#[cfg(not(feature = "fault-injection"))]
fn failing_at<T>(_: Option<usize>, body: impl FnOnce() -> T) -> (T, bool) {
    (body(), false)
}
