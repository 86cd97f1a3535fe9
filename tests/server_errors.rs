//! Errors of a network file system's server, by fault injection: a file or a lock that no longer exists.
//! `tests/network` has a real server.
#![cfg(feature = "fault-injection")]

mod common;

use std::path::{Path, PathBuf};

use atomic_file_adapter::fault::{Action, Call, Syscall, inject};
use atomic_file_adapter::{AtomicFile, AtomicFileAdapter, Error, Result};
use nix::errno::Errno;
use tempfile::TempDir;

const ESTALE: i32 = Errno::ESTALE as i32;
const EPERM: i32 = Errno::EPERM as i32;
const EIO: i32 = Errno::EIO as i32;
const EINVAL: i32 = Errno::EINVAL as i32;

/// What a verb does to a file with the contents "old", by a handle or by its path, and the contents afterwards.
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

/// A file with the contents "old", and a handle. `warm`: the handle has read the file.
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

/// ESTALE: the file was removed after it was looked up.
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
                // The sync of a directory is not repeated, because it may report an error only once.
                assert!(matches!(done, Ok(()) | Err(Error::NotDurable { .. })), "{name}, call {failing}: {done:?}");
                assert_eq!(std::fs::read_to_string(&path).ok().as_deref(), expected, "{name}, call {failing}");
                failing += 1;
            }
            assert!(failing > 3, "{name}");
        }
    }
}

#[test]
fn an_error_that_stays_is_reported() {
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

/// A file in memory, which has no device. Its lock file is assumed to be on NFS, because fault injection hides the file
/// system.
fn taken_for_nfs() -> (TempDir, AtomicFileAdapter, AtomicFile) {
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let adapter = AtomicFileAdapter::with_lock_dir(scratch.path().join("locks")).unwrap();
    let file = adapter.file(scratch.path().join("file")).unwrap();
    let refuse = |call: &Call<'_>| if call.syscall == Syscall::Fstatfs { Action::Fail(EPERM) } else { Action::Proceed };
    inject(refuse, || file.write("old")).0.unwrap();
    (scratch, adapter, file)
}

/// From the check of this number on, the lock is lost.
fn lost_from(number: usize) -> impl FnMut(&Call<'_>) -> Action {
    let mut looks = 0;
    move |call| {
        looks += usize::from(call.syscall == Syscall::Pread);
        if call.syscall == Syscall::Pread && looks > number { Action::Fail(EIO) } else { Action::Proceed }
    }
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux")]
fn a_lock_that_was_lost_before_a_change_keeps_it_from_happening() {
    let (_scratch, adapter, file) = taken_for_nfs();
    type Change = fn(&AtomicFileAdapter, &AtomicFile) -> Result<()>;
    let changes: [Change; 4] = [
        |_, file| file.write("new"),
        |_, file| file.update(|_| b"new".to_vec()),
        |_, file| file.delete().map(drop),
        |all, file| all.batch().write(file.path(), "new").commit(),
    ];
    for (late, then) in [(false, Some("old")), (true, Some("new"))] {
        for (n, change) in changes.iter().enumerate() {
            file.write("old").unwrap();
            let done = inject(lost_from(usize::from(late)), || change(&adapter, &file)).0;
            let lost = match done.unwrap_err() {
                Error::Batch { replaced, source, .. } => {
                    assert_eq!(replaced.len(), usize::from(late));
                    *source
                }
                error => error,
            };
            assert!(matches!(lost, Error::LockLost { replaced, .. } if replaced == late), "{n}: {lost:?}");
            assert_eq!(
                std::error::Error::source(&lost).unwrap().to_string(),
                std::io::Error::from_raw_os_error(EIO).to_string()
            );
            let then = if n == 2 && late { None } else { then };
            assert_eq!(std::fs::read_to_string(file.path()).ok().as_deref(), then, "{n}");
            let left = common::names(file.path().parent().unwrap());
            assert!(left.iter().all(|name| ["file", "locks"].contains(&name.as_str())), "{left:?}");
        }
    }
}

/// The error of a disk, which cannot be read in this way (EINVAL), does not mean that the lock was lost.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux")]
fn other_errors_of_the_look_at_a_lock_are_not_a_loss() {
    let (_scratch, _, file) = taken_for_nfs();
    let refuse = |call: &Call<'_>| if call.syscall == Syscall::Pread { Action::Fail(EINVAL) } else { Action::Proceed };
    inject(refuse, || file.write("new")).0.unwrap();
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux")]
fn nothing_is_cleared_away_without_the_lock() {
    let (scratch, adapter, file) = taken_for_nfs();
    let left = scratch.path().join(common::temporary_name("file", "abcdefg"));
    std::fs::write(&left, "").unwrap();
    type Upkeep = fn(&AtomicFileAdapter, &Path) -> Result<Vec<PathBuf>>;
    let verbs: [Upkeep; 2] = [|all, _| all.prune(), |all, dir| all.sweep(dir)];
    for verb in verbs {
        match inject(lost_from(0), || verb(&adapter, scratch.path())).0.unwrap_err() {
            Error::Partial { done: removed, failed, .. } => {
                assert!(removed.is_empty(), "{removed:?}");
                assert!(matches!(failed[..], [Error::LockLost { replaced: false, .. }]), "{failed:?}");
            }
            error => panic!("{error}"),
        }
    }
    assert!(left.exists() && file.lock_path().exists());
    assert_eq!(adapter.sweep(scratch.path()).unwrap().len(), 1);
    assert_eq!(adapter.prune().unwrap().len(), 1);
}

/// A version that may have been written without the lock is worse than one that may not be durable.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux")]
fn a_lost_lock_is_reported_even_if_the_sync_fails_too() {
    type Change = fn(&AtomicFile) -> Result<()>;
    for change in [(|file| file.write("new")) as Change, |file| file.delete().map(drop)] {
        let (_scratch, _, file) = taken_for_nfs();
        let (mut lost, mut looks) = (lost_from(1), 0);
        let decide = move |call: &Call<'_>| {
            looks += usize::from(call.syscall == Syscall::Pread);
            // After the first check comes the change, and then the sync of its directory.
            if call.syscall == Syscall::Fsync && looks == 1 { Action::Fail(EIO) } else { lost(call) }
        };
        let error = inject(decide, || change(&file)).0.unwrap_err();
        assert!(matches!(error, Error::LockLost { replaced: true, .. }), "{error:?}");
    }
}
