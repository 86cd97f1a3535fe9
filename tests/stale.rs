//! ESTALE, which a server says of what was removed after it was looked up: every call looks again, and not for ever.
#![cfg(feature = "fault-injection")]

use std::path::{Path, PathBuf};

use atomic_file_adapter::fault::{Action, Call, inject};
use atomic_file_adapter::{AtomicFile, AtomicFileAdapter, Error, Result};
use tempfile::TempDir;

const ESTALE: i32 = nix::errno::Errno::ESTALE as i32;

/// What a verb does to a file with the contents "old", by a handle or by its path, and what is there then.
type Verb = (&'static str, fn(&AtomicFileAdapter, &AtomicFile, &Path) -> Result<()>, Option<&'static str>);

const VERBS: [Verb; 11] = [
    ("read by handle", |_, file, _| file.read().map(|read| assert_eq!(read.unwrap(), b"old")), Some("old")),
    (
        "read by path",
        |all, _, path| all.read_with_lock(path).map(|read| assert_eq!(read.unwrap(), b"old")),
        Some("old"),
    ),
    (
        "read unlocked by handle",
        |_, file, _| file.read_unlocked().map(|read| assert_eq!(read.unwrap(), b"old")),
        Some("old"),
    ),
    (
        "read unlocked by path",
        |all, _, path| all.read_unlocked(path).map(|read| assert_eq!(read.unwrap(), b"old")),
        Some("old"),
    ),
    ("open", |_, file, _| file.open().map(|open| assert!(open.is_some())), Some("old")),
    ("write by handle", |_, file, _| file.write("new"), Some("new")),
    ("write by path", |all, _, path| all.write_atomic(path, "new"), Some("new")),
    ("update by handle", |_, file, _| file.update(|old| [old.unwrap(), b"er"].concat()), Some("older")),
    ("update by path", |all, _, path| all.update(path, |old| [old.unwrap(), b"er"].concat()), Some("older")),
    ("delete by handle", |_, file, _| file.delete().map(|was| assert!(was)), None),
    ("delete by path", |all, _, path| all.delete_with_lock(path).map(|was| assert!(was)), None),
];

/// A file with the contents "old" by which nothing was done yet, or, `warm`, by which it was read.
fn scratch(warm: bool) -> (TempDir, AtomicFileAdapter, AtomicFile, PathBuf) {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().canonicalize().unwrap().join("file");
    std::fs::write(&path, "old").unwrap();
    let adapter = AtomicFileAdapter::with_lock_dir(scratch.path().join("locks")).unwrap();
    let file = adapter.file(&path).unwrap();
    if warm {
        file.read().unwrap();
        adapter.read_with_lock(&path).unwrap();
    }
    (scratch, adapter, file, path)
}

#[test]
fn whichever_call_meets_it_the_verb_looks_again() {
    for warm in [false, true] {
        for (name, verb, expected) in VERBS {
            let mut failing = 0;
            loop {
                let (_scratch, adapter, file, path) = scratch(warm);
                let stale = move |call: &Call<'_>| {
                    if call.number == failing { Action::Fail(ESTALE) } else { Action::Proceed }
                };
                let (done, calls) = inject(stale, || verb(&adapter, &file, &path));
                if failing >= calls {
                    break;
                }
                // The sync of a directory is not repeated, because it may report an error once only.
                assert!(matches!(done, Ok(()) | Err(Error::NotDurable { .. })), "{name}, call {failing}: {done:?}");
                assert_eq!(std::fs::read_to_string(&path).ok().as_deref(), expected, "{name}, call {failing}");
                failing += 1;
            }
            assert!(failing > 3, "{name}");
        }
    }
}

#[test]
fn it_is_told_when_it_does_not_go_away() {
    for (name, verb, _) in VERBS {
        let (_scratch, adapter, file, path) = scratch(true);
        let stale = |call: &Call<'_>| {
            let of_the_file = call.path.is_some_and(|path| path.file_name() == Some("file".as_ref()));
            if of_the_file { Action::Fail(ESTALE) } else { Action::Proceed }
        };
        let (done, calls) = inject(stale, || verb(&adapter, &file, &path));
        let error = done.expect_err(name);
        assert!(matches!(&error, Error::Io { source, .. } if source.raw_os_error() == Some(ESTALE)), "{name}: {error}");
        assert!(calls < 1000, "{name}: {calls} calls");
        assert_eq!(std::fs::read(&path).unwrap(), b"old", "{name}");
        drop(file.try_lock().unwrap());
    }
}
