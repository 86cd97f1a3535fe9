//! `fault::inject` itself: the calls that it sees, its effects, and that it leaves nothing behind.
#![cfg(feature = "fault-injection")]

mod common;

use std::cell::RefCell;
use std::fs;
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
#[cfg(target_os = "linux")]
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use atomic_file_adapter::fault::{Action, Call, Syscall, inject};
use atomic_file_adapter::{AtomicFileAdapter, Error, Step};
use common::names;

fn scratch() -> (tempfile::TempDir, AtomicFileAdapter) {
    common::usual_umask();
    let dir = tempfile::tempdir().unwrap();
    let adapter = AtomicFileAdapter::with_lock_dir(dir.path().join("locks")).unwrap();
    (dir, adapter)
}

const EIO: i32 = 5;

fn fail(syscall: Syscall, errno: i32) -> impl FnMut(&Call<'_>) -> Action {
    move |call| if call.syscall == syscall { Action::Fail(errno) } else { Action::Proceed }
}

/// The calls of `body`, as text.
fn calls(body: impl FnOnce()) -> Vec<String> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let watched = seen.clone();
    let watch = move |call: &Call<'_>| {
        assert_eq!(call.number, watched.borrow().len());
        watched.borrow_mut().push(call.to_string());
        Action::Proceed
    };
    let ((), number) = inject(watch, body);
    assert_eq!(seen.borrow().len(), number);
    seen.take()
}

#[test]
fn the_calls_of_a_write_are_those_that_the_documentation_lists() {
    let (dir, adapter) = scratch();
    let file = adapter.file(dir.path().join("name")).unwrap();
    file.write("first").unwrap();
    let seen = calls(|| file.write("contents").unwrap());
    let without_numbers: Vec<String> = seen
        .iter()
        .filter(|call| *call != "getpid()")
        .map(|call| {
            let (name, arguments) = call.trim_end_matches(')').split_once('(').unwrap();
            let arguments: Vec<_> = arguments.split(", ").filter(|argument| argument.parse::<u32>().is_err()).collect();
            let arguments = arguments.iter().map(|argument| match argument.trim_matches('"') {
                path if path.ends_with(".lock") => "lock",
                path if path.ends_with(".tmp") => "temporary",
                path => path,
            });
            format!("{name} {}", arguments.collect::<Vec<_>>().join(" ")).trim().to_owned()
        })
        .collect();
    let expected = [
        "fcntlsetlkw",
        "fstatat lock",
        "fstatat name",
        #[cfg(target_os = "linux")]
        "llistxattr name",
        #[cfg(not(target_os = "linux"))]
        "openat name",
        #[cfg(not(target_os = "linux"))]
        "flistxattr",
        #[cfg(not(target_os = "linux"))]
        "close",
        "openat temporary",
        "flistxattr",
        "write",
        "fstat",
        "fsync",
        "renameat temporary name",
        "fsync",
        "close",
        "fcntlunlock",
    ];
    assert_eq!(without_numbers, expected);
    assert!(seen.iter().any(|call| call.starts_with("write(") && call.ends_with(", 8)")), "{seen:?}");
}

#[test]
fn a_call_that_fails_is_not_made() {
    let (dir, adapter) = scratch();
    let path = dir.path().join("file");
    adapter.write_atomic(&path, "old").unwrap();
    let (result, _) = inject(fail(Syscall::Renameat, EIO), || adapter.write_atomic(&path, "new"));
    assert!(matches!(result, Err(Error::Io { source, .. }) if source.raw_os_error() == Some(EIO)));
    assert_eq!(fs::read(&path).unwrap(), b"old");
    let (result, _) = inject(fail(Syscall::Renameat, 123456), || adapter.write_atomic(&path, "new"));
    assert!(matches!(result, Err(Error::Io { source, .. }) if source.raw_os_error() == Some(EIO)), "no errno");
}

#[test]
fn a_call_that_is_skipped_is_not_made_and_reports_success() {
    let (dir, adapter) = scratch();
    let path = dir.path().join("file");
    adapter.write_atomic(&path, "old").unwrap();
    let skip = |call: &Call<'_>| if call.syscall == Syscall::Renameat { Action::Skip } else { Action::Proceed };
    inject(skip, || adapter.write_atomic(&path, "new")).0.unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"old");
    // Calls with a result are made.
    inject(
        |call| if call.syscall == Syscall::Renameat { Action::Proceed } else { Action::Skip },
        || {
            adapter.exists(&path);
            assert_eq!(adapter.read_with_lock(&path).unwrap().as_deref(), Some(&b"old"[..]));
        },
    );
}

#[test]
fn short_calls_move_as_much_as_they_are_told() {
    let (dir, adapter) = scratch();
    let path = dir.path().join("file");
    let short = |call: &Call<'_>| if call.size > Some(3) { Action::Short(3) } else { Action::Proceed };
    inject(short, || adapter.write_atomic(&path, "0123456789")).0.unwrap();
    let (contents, _) = inject(short, || adapter.read_with_lock(&path));
    assert_eq!(contents.unwrap().as_deref(), Some(&b"0123456789"[..]));
    let writes = calls(|| {
        inject(|_| Action::Short(3), || adapter.write_atomic(&path, "0123456789")).0.unwrap();
    });
    assert_eq!(writes, [""; 0], "what an inner inject sees, the outer does not");
    // A write of 0 bytes must be an error, or the crate would try again for ever.
    let (result, _) = inject(|_| Action::Short(0), || adapter.write_atomic(&path, "new"));
    assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::WriteZero);
    // A read of 0 bytes would look like the end of the file.
    let (contents, _) = inject(|_| Action::Short(0), || adapter.read_with_lock(&path));
    assert_eq!(contents.unwrap().as_deref(), Some(&b"0123456789"[..]));
}

#[test]
fn it_ends_with_the_scope_and_holds_for_one_thread() {
    let (dir, adapter) = scratch();
    let path = dir.path().join("file");
    let (result, _) = inject(fail(Syscall::Write, EIO), || {
        std::thread::scope(|scope| {
            scope.spawn(|| adapter.write_atomic(&path, "other thread").unwrap()).join().unwrap()
        });
        let (inner, _) = inject(fail(Syscall::Renameat, EIO), || adapter.write_atomic(&path, "inner"));
        assert!(inner.unwrap_err().to_string().contains("rename"));
        adapter.write_atomic(&path, "outer")
    });
    assert!(result.unwrap_err().to_string().contains("write"));
    adapter.write_atomic(&path, "after").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"after");
}

#[test]
fn a_panic_leaves_nothing_behind() {
    let (dir, adapter) = scratch();
    let path = dir.path().join("file");
    adapter.write_atomic(&path, "old").unwrap();
    let mut at = 0;
    // In `decide`, at each call in turn, even while the library has locked its mutex.
    loop {
        let watch = move |call: &Call<'_>| if call.number == at { panic!("planned") } else { Action::Proceed };
        let ended = catch_unwind(AssertUnwindSafe(|| inject(watch, || adapter.write_atomic(&path, "new"))));
        adapter.write_atomic(&path, "after").unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "a temporary file is left");
        at += 1;
        if ended.is_ok() {
            break;
        }
    }
    assert!(at > 10);
    // In `body`.
    let panics = || inject(fail(Syscall::Write, EIO), || panic!("planned"));
    assert!(catch_unwind(panics).is_err());
    adapter.write_atomic(&path, "new").unwrap();
}

#[test]
fn what_decide_owns_is_dropped_at_the_end() {
    let owned = Rc::new(());
    let mine = owned.clone();
    inject(
        move |_| {
            let _ = &mine;
            Action::Proceed
        },
        || (),
    );
    assert_eq!(Rc::strong_count(&owned), 1);
}

// Cases that other tests cannot cause

fn opens_lock_file(call: &Call<'_>) -> bool {
    let is_lock = call.path.is_some_and(|path| path.extension().is_some_and(|extension| extension == "lock"));
    call.syscall == Syscall::Openat && is_lock
}

#[test]
fn a_lock_file_that_was_opened_for_reading_only_is_opened_anew() {
    let (dir, adapter) = scratch();
    let path = dir.path().join("file");
    adapter.write_atomic(&path, "old").unwrap();
    let refuse_once = || {
        let mut refused = false;
        move |call: &Call<'_>| {
            if opens_lock_file(call) && !refused {
                refused = true;
                return Action::Fail(13);
            }
            Action::Proceed
        }
    };
    // The adapter has the lock file open for writing.
    drop(adapter);
    let adapter = AtomicFileAdapter::with_lock_dir(dir.path().join("locks")).unwrap();
    let file = adapter.file(&path).unwrap();
    assert!(inject(refuse_once(), || file.read()).0.unwrap().is_some());
    let reader = adapter.file(&path).unwrap().lock_shared().unwrap();
    drop(reader);
    file.write("new").unwrap();
    adapter.write_atomic(&path, "by path").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"by path");
}

#[test]
fn a_lock_file_is_not_opened_anew_for_ever() {
    let (dir, adapter) = scratch();
    const EBADF: i32 = 9;
    let mut asked = 0;
    // A third attempt is too many, but it must not hang the test.
    let refuse = move |call: &Call<'_>| {
        asked += usize::from(call.syscall == Syscall::FcntlSetlkw);
        if call.syscall == Syscall::FcntlSetlkw && asked < 3 { Action::Fail(EBADF) } else { Action::Proceed }
    };
    let error = inject(refuse, || adapter.write_atomic(dir.path().join("file"), "new")).0.unwrap_err();
    let Error::Io { step: Step::Lock, source, .. } = &error else { panic!("{error:?}") };
    assert_eq!(source.raw_os_error(), Some(EBADF));
}

/// The lock is not held yet, so closing another descriptor of the lock file drops nothing.
fn is_removed(call: &Call<'_>) -> bool {
    let file: fs::File = call.fd.unwrap().try_clone_to_owned().unwrap().into();
    std::os::unix::fs::MetadataExt::nlink(&file.metadata().unwrap()) == 0
}

/// A lock file that was opened for reading only, and that is replaced while it is opened again for writing.
#[test]
fn a_lock_file_that_changes_while_it_is_opened_anew_is_found() {
    for made_again in [false, true] {
        let (dir, adapter) = scratch();
        let file = adapter.file(dir.path().join("file")).unwrap();
        drop(file.lock().unwrap());
        let (mut looks, lock) = (0, file.lock_path().to_owned());
        let change = move |call: &Call<'_>| match call.syscall {
            Syscall::FcntlSetlkw if looks == 0 || is_removed(call) => {
                looks = looks.max(1);
                Action::Fail(9)
            }
            Syscall::Openat if looks == 1 && call.path == Some(&lock) => {
                looks = 2;
                fs::remove_file(&lock).unwrap();
                if made_again {
                    fs::write(&lock, "").unwrap();
                }
                Action::Proceed
            }
            _ => Action::Proceed,
        };
        inject(change, || file.write("new")).0.unwrap();
    }
}

#[test]
fn a_new_lock_file_has_its_final_rights_from_the_start() {
    let (dir, adapter) = scratch();
    let adapter = AtomicFileAdapter::builder().lock_dir(adapter.lock_dir()).lock_file_mode(0o666).build().unwrap();
    let path = dir.path().join("file");
    let lock = adapter.lock_path(&path).unwrap();
    let made = Rc::new(RefCell::new(Vec::new()));
    let (watched, file) = (made.clone(), lock.clone());
    let look = move |_: &Call<'_>| {
        watched.borrow_mut().extend(mode_of(&file));
        Action::Proceed
    };
    inject(look, || adapter.write_atomic(&path, "new")).0.unwrap();
    let made = made.take();
    assert!(!made.is_empty() && made.iter().all(|mode| *mode == 0o666), "{made:?}");
}

#[test]
fn a_lock_file_that_was_never_finished_is_swept_and_is_nobody_elses() {
    let (dir, adapter) = scratch();
    let adapter = || AtomicFileAdapter::builder().lock_dir(adapter.lock_dir()).lock_file_mode(0o606).build().unwrap();
    let locks = dir.path().join("locks");
    let leave = |call: &Call<'_>| {
        let temporary = call.path.is_some_and(|path| path.extension().is_some_and(|it| it == "tmp"));
        if temporary && call.syscall == Syscall::Unlinkat { Action::Skip } else { Action::Proceed }
    };
    inject(leave, || adapter().write_atomic(dir.path().join("file"), "new")).0.unwrap();
    let left: Vec<_> = names(&locks).into_iter().filter(|name| name.ends_with(".tmp")).collect();
    assert_eq!(left.len(), 1);
    // No `.gitignore` is made in a directory with other files.
    fs::remove_file(locks.join(".gitignore")).unwrap();
    adapter().write_atomic(dir.path().join("another"), "new").unwrap();
    assert!(locks.join(".gitignore").exists());
    // This path is another name of the lock file.
    let file = adapter().file(dir.path().join("file")).unwrap();
    let guard = file.lock().unwrap();
    let swept = adapter().sweep(dir.path()).unwrap();
    assert!(swept.contains(&locks.join(&left[0])), "{swept:?}");
    assert!(!locks.join(&left[0]).exists() && file.lock_path().exists());
    guard.write("newer").unwrap();
}

#[test]
fn where_there_are_no_hard_links_a_lock_file_has_its_mode() {
    for errno in [libc::EPERM, libc::ENOTSUP, libc::ENOSYS, libc::EMLINK] {
        let (dir, adapter) = scratch();
        let adapter = AtomicFileAdapter::builder().lock_dir(adapter.lock_dir()).lock_file_mode(0o646).build().unwrap();
        let path = dir.path().join("file");
        let no_links =
            move |call: &Call<'_>| if call.syscall == Syscall::Linkat { Action::Fail(errno) } else { Action::Proceed };
        inject(no_links, || adapter.write_atomic(&path, "new")).0.unwrap();
        let lock = adapter.lock_path(&path).unwrap();
        assert_eq!(mode_of(&lock), Some(0o646));
        assert_eq!(names(adapter.lock_dir()), [lock.file_name().unwrap().to_str().unwrap()]);
    }
}

#[test]
fn where_there_are_no_modes_a_shared_lock_directory_is_used_all_the_same() {
    for errno in [libc::EPERM, libc::ENOTSUP, libc::ENOSYS] {
        let (dir, adapter) = scratch();
        fs::create_dir(adapter.lock_dir()).unwrap();
        fs::set_permissions(adapter.lock_dir(), fs::Permissions::from_mode(0o733)).unwrap();
        let refuse = move |call: &Call<'_>| match call.syscall {
            Syscall::Fchmod | Syscall::Fchown => Action::Fail(errno),
            _ => Action::Proceed,
        };
        inject(refuse, || drop(adapter.file(dir.path().join("file")).unwrap().lock().unwrap()));
        // With an exact mode it is an error, and no lock file with another mode is left.
        let exact = AtomicFileAdapter::builder().lock_dir(adapter.lock_dir()).lock_file_mode(0o613).build().unwrap();
        let file = exact.file(dir.path().join("another")).unwrap();
        let error = inject(refuse, || file.lock().map(drop)).0.unwrap_err();
        assert!(error.to_string().contains(file.lock_path().to_str().unwrap()), "{error}");
        assert!(!file.lock_path().exists());
    }
}

fn mode_of(path: &std::path::Path) -> Option<u32> {
    Some(path.metadata().ok()?.permissions().mode() & 0o7777)
}

#[test]
fn a_lock_file_that_is_pruned_while_it_is_looked_at_is_not_listed() {
    let (dir, adapter) = scratch();
    for name in ["one", "two"] {
        adapter.write_atomic(dir.path().join(name), "contents").unwrap();
    }
    // The handle has both of them open, and need not open them again.
    drop(adapter);
    let adapter = AtomicFileAdapter::with_lock_dir(dir.path().join("locks")).unwrap();
    let pruned = adapter.lock_path(dir.path().join("one")).unwrap();
    let prune = {
        let pruned = pruned.clone();
        move |call: &Call<'_>| {
            if opens_lock_file(call) && call.path == Some(&pruned) {
                fs::remove_file(&pruned).unwrap();
            }
            Action::Proceed
        }
    };
    let listed: Vec<_> = inject(prune, || adapter.locks()).0.unwrap().into_iter().map(|lock| lock.path).collect();
    assert_eq!(listed, [adapter.lock_path(dir.path().join("two")).unwrap()]);
    assert!(!pruned.exists());
    // A lock file that exists but cannot be looked at is not left out.
    let refuse = |call: &Call<'_>| if opens_lock_file(call) { Action::Fail(EIO) } else { Action::Proceed };
    let problems: Vec<_> =
        inject(refuse, || adapter.locks()).0.unwrap().into_iter().filter_map(|lock| lock.problem).collect();
    assert!(problems.len() == 1 && problems[0].starts_with("cannot open the lock file"), "{problems:?}");
}

#[test]
fn a_new_version_that_may_be_lost_says_so() {
    let (dir, adapter) = scratch();
    let path = dir.path().join("file");
    adapter.write_atomic(&path, "old").unwrap();
    let mut renamed = false;
    let fail_after_rename = move |call: &Call<'_>| {
        renamed |= call.syscall == Syscall::Renameat;
        let syncs = matches!(call.syscall, Syscall::Fsync | Syscall::FcntlFullfsync);
        if syncs && renamed { Action::Fail(EIO) } else { Action::Proceed }
    };
    let error = inject(fail_after_rename, || adapter.write_atomic(&path, "new")).0.unwrap_err();
    assert!(matches!(error, Error::NotDurable { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("was replaced") && text.contains("power cut"), "{text}");
    let source = std::error::Error::source(&error).unwrap().downcast_ref::<std::io::Error>().unwrap();
    assert_eq!(source.raw_os_error(), Some(EIO));
    assert_eq!(fs::read(&path).unwrap(), b"new");
}

/// The inode number of the open file or directory.
#[cfg(target_os = "linux")]
fn inode(call: &Call<'_>) -> Option<u64> {
    let open = format!("/proc/self/fd/{}", call.fd?.as_raw_fd());
    fs::metadata(open).ok().map(|meta| meta.ino())
}

/// The sync of a directory without changes succeeds on a dead file system, although an earlier removal is lost.
#[test]
#[cfg(target_os = "linux")]
fn on_a_dead_file_system_no_file_is_said_to_be_removed() {
    const EROFS: i32 = 30;
    const EACCES: i32 = 13;
    type Verb<'a> = &'a dyn Fn() -> Result<(), Error>;
    let (dir, adapter) = scratch();
    let (path, missing) = (dir.path().join("file"), dir.path().join("none/file"));
    let other = dir.path().join("other");
    let handle = adapter.file(&path).unwrap();
    let verbs: [(&str, Verb<'_>); 6] = [
        ("handle", &|| handle.delete().map(drop)),
        ("path", &|| adapter.delete_with_lock(&path).map(drop)),
        ("missing directory", &|| adapter.delete_with_lock(&missing).map(drop)),
        ("batch", &|| adapter.batch().delete(&path).commit()),
        ("commit_all", &|| adapter.batch().delete(&path).delete(&other).commit_all()),
        ("with a change", &|| adapter.batch().delete(&path).write(&other, "new").commit_all()),
    ];
    for (name, verb) in verbs {
        verb().unwrap();
        let _ = fs::remove_file(&other);
        // As on btrfs, which is read-only then, after the sync. On an xfs that was shut down, fstat reports EIO.
        let is_synced = Rc::new(RefCell::new(false));
        let dead = |errno: i32| {
            let is_synced = is_synced.clone();
            *is_synced.borrow_mut() = false;
            let decide = move |call: &Call<'_>| {
                *is_synced.borrow_mut() |= call.syscall == Syscall::Fsync;
                let is_look = *is_synced.borrow() && call.syscall == Syscall::Faccessat;
                if is_look { Action::Fail(errno) } else { Action::Proceed }
            };
            inject(decide, verb).0
        };
        let refused = dead(EROFS).unwrap_err();
        let source = if let Error::Batch { source, .. } = &refused { source } else { &refused };
        assert!(matches!(source, Error::Io { step: Step::SyncDirectory, .. }), "{name}: {refused:?}");
        assert!(!other.exists(), "{name}");
        // This process may not write to the directory, so it has not removed the file either.
        dead(EACCES).unwrap();
        let _ = fs::remove_file(&other);
    }
}

/// On ext4 a look does not show that the journal is dead, before a change was refused. So whoever fails makes one.
#[test]
#[cfg(target_os = "linux")]
fn after_the_sync_of_a_directory_has_failed_a_change_is_tried() {
    let (dir, adapter) = scratch();
    let path = dir.path().join("file");
    let verbs: [&dyn Fn() -> Result<(), Error>; 4] = [
        &|| adapter.write_atomic(&path, "new"),
        &|| adapter.delete_with_lock(&path).map(drop),
        &|| adapter.batch().delete(&path).commit(),
        &|| adapter.batch().delete(&path).delete(dir.path().join("other")).commit_all(),
    ];
    for verb in verbs {
        fs::write(&path, "old").unwrap();
        let directory = fs::metadata(dir.path()).unwrap().ino();
        let seen = Rc::new(RefCell::new(Vec::new()));
        let watched = seen.clone();
        let fail = move |call: &Call<'_>| {
            let is_there = inode(call) == Some(directory);
            if is_there {
                watched.borrow_mut().push((call.syscall, call.path == Some(".".as_ref())));
            }
            if is_there && call.syscall == Syscall::Fsync { Action::Fail(EIO) } else { Action::Proceed }
        };
        inject(fail, verb).0.unwrap_err();
        let seen = seen.take();
        let failed = seen.iter().position(|(call, _)| *call == Syscall::Fsync).unwrap();
        assert_eq!(seen.get(failed + 1), Some(&(Syscall::Openat, true)), "{seen:?}");
        adapter.recover().unwrap();
        assert_eq!(names(dir.path()).iter().filter(|name| !["file", "locks"].contains(&name.as_str())).count(), 0);
    }
}

/// The process that decided the change was told that its sync had failed. A later caller must not believe the next sync.
#[test]
#[cfg(target_os = "linux")]
fn on_a_dead_file_system_no_change_of_several_files_is_finished() {
    let (dir, adapter) = scratch();
    let files = ["one", "two"].map(|name| dir.path().join(name));
    for to_delete in [true, false] {
        files.iter().for_each(|file| fs::write(file, "old").unwrap());
        // The sync of the files' directory, which comes after the first rename or removal of a file.
        let mut is_made = false;
        let fail_last_sync = move |call: &Call<'_>| {
            let is_file = |path: Option<&std::path::Path>| path.is_some_and(|path| path.ends_with("one"));
            is_made |= is_file(call.path) && call.syscall == Syscall::Unlinkat || is_file(call.new_path);
            if is_made && call.syscall == Syscall::Fsync { Action::Fail(EIO) } else { Action::Proceed }
        };
        let change = |_: &[Option<Vec<u8>>]| files.iter().map(|_| (!to_delete).then(|| b"new".to_vec())).collect();
        let told = inject(fail_last_sync, || adapter.update_many(&files, change)).0.unwrap_err();
        assert!(matches!(told, Error::Unfinished { .. }), "{told:?}");
        let read = || adapter.read_with_lock(&files[0]);
        // That of the files, and that of the locks.
        for is_dead in [dir.path(), adapter.lock_dir()] {
            let dead_inode = fs::metadata(is_dead).unwrap().ino();
            let is_attempt = move |call: &Call<'_>| {
                let is_named = call.syscall == Syscall::Openat && call.path == Some(".".as_ref());
                is_named && inode(call) == Some(dead_inode)
            };
            let dead = move |call: &Call<'_>| if is_attempt(call) { Action::Fail(EIO) } else { Action::Proceed };
            let refused = inject(dead, read).0;
            assert!(matches!(refused, Err(Error::Unfinished { .. })), "{refused:?}");
        }
        assert_eq!(read().unwrap().is_none(), to_delete);
        assert_eq!(adapter.intents().unwrap().len(), 0);

        // Somebody gives it up, although the file system is dead, or was mounted read-only.
        files.iter().for_each(|file| fs::write(file, "old").unwrap());
        inject(fail_last_sync, || adapter.update_many(&files, change)).0.unwrap_err();
        let intent = &adapter.intents().unwrap()[0].path;
        let directory = fs::metadata(dir.path()).unwrap().ino();
        let read_only = move |call: &Call<'_>| {
            let is_look = call.syscall == Syscall::Faccessat && inode(call) == Some(directory);
            if is_look { Action::Fail(30) } else { Action::Proceed }
        };
        inject(read_only, || adapter.give_up(intent)).0.unwrap();
        read().unwrap();
    }
}

/// What must be durable then is the removal of the directory.
#[test]
#[cfg(target_os = "linux")]
fn where_the_directory_of_a_handle_was_removed_the_one_above_is_synced() {
    let (dir, adapter) = scratch();
    let above = dir.path().join("above");
    let below = above.join("below");
    let path = below.join("file");
    let file = adapter.file(&path).unwrap();
    file.write("old").unwrap();
    fs::remove_dir_all(&below).unwrap();
    let synced = Rc::new(RefCell::new(Vec::new()));
    let watched = synced.clone();
    let watch = move |call: &Call<'_>| {
        if call.syscall == Syscall::Fsync {
            watched.borrow_mut().extend(inode(call));
        }
        Action::Proceed
    };
    assert!(!inject(watch.clone(), || file.delete()).0.unwrap());
    assert!(synced.take().contains(&fs::metadata(&above).unwrap().ino()));
    // Another directory has the path. There is no file in it, and the old one must stay gone.
    fs::create_dir(&below).unwrap();
    assert!(!inject(watch, || file.delete()).0.unwrap());
    assert!(synced.take().contains(&fs::metadata(&above).unwrap().ino()));
    // This handle does not know the file in it.
    fs::write(&path, "new").unwrap();
    let refused = file.delete().unwrap_err();
    assert!(matches!(refused, Error::Io { step: Step::Resolve, .. }), "{refused:?}");
    assert_eq!(fs::read(&path).unwrap(), b"new");
}

#[test]
fn a_lock_directory_that_exists_need_not_be_made() {
    // On a read-only file system, mkdir reports EROFS whether the directory exists or not.
    const EROFS: i32 = 30;
    let (dir, adapter) = scratch();
    let path = dir.path().join("file");
    let write = || inject(fail(Syscall::Mkdirat, EROFS), || adapter.write_atomic(&path, "new")).0;
    let refused = write().unwrap_err();
    assert!(matches!(refused, Error::Io { step: Step::CreateLockDirectory, .. }), "{refused:?}");
    fs::create_dir(adapter.lock_dir()).unwrap();
    write().unwrap();
}

#[test]
fn a_file_that_cannot_be_removed_does_not_stop_sweep() {
    let (dir, adapter) = scratch();
    let left = |name: &str| dir.path().join(common::temporary_name(name, "abcdefg"));
    for name in ["one", "two", "three", "four"] {
        fs::write(left(name), "").unwrap();
    }
    let refuse = |call: &Call<'_>| {
        let refused = call.path.is_some_and(|path| path.to_str().unwrap().contains("two"));
        if call.syscall == Syscall::Unlinkat && refused { Action::Fail(1) } else { Action::Proceed }
    };
    let error = inject(refuse, || adapter.sweep(dir.path())).0.unwrap_err();
    assert_eq!(error.path(), left("two").canonicalize().unwrap());
    assert!(matches!(&error, Error::Partial { done, failed, .. } if (done.len(), failed.len()) == (3, 1)), "{error:?}");
    assert_eq!(["one", "two", "three", "four"].map(|name| left(name).exists()), [false, true, false, false]);
    fs::create_dir_all(adapter.lock_dir().join(".gitignore.tmp.1")).unwrap();
    adapter.sweep(dir.path()).unwrap();
    assert!(!left("two").exists());
}

#[test]
fn a_write_that_finds_every_temporary_name_taken_gives_up() {
    const EEXIST: i32 = 17;
    // The number of names that glibc's mkstemp tries: 62 to the third, ATTEMPTS_MIN in its sysdeps/posix/tempname.c.
    const TRIES: usize = 62 * 62 * 62;
    let (dir, adapter) = scratch();
    let path = dir.path().canonicalize().unwrap().join("file");
    adapter.write_atomic(&path, "old").unwrap();
    let write_if_so_many_are_taken = |taken: usize| {
        let tried = Rc::new(RefCell::new(0));
        let count = tried.clone();
        let refuse = move |call: &Call<'_>| {
            let temporary = call.path.is_some_and(|path| path.to_str().unwrap().ends_with(".tmp"));
            if call.syscall != Syscall::Openat || !temporary {
                return Action::Proceed;
            }
            *count.borrow_mut() += 1;
            assert!(*count.borrow() < 3 * TRIES, "it tries for ever");
            if *count.borrow() <= taken { Action::Fail(EEXIST) } else { Action::Proceed }
        };
        let (written, _) = inject(refuse, || adapter.write_atomic(&path, "new"));
        (written, *tried.borrow())
    };
    let (refused, tried) = write_if_so_many_are_taken(usize::MAX);
    let error = refused.unwrap_err();
    assert_eq!(tried, TRIES);
    assert!(matches!(error, Error::Io { step: Step::CreateTemporary, .. }), "{error:?}");
    assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
    let text = error.to_string();
    let dir = path.parent().unwrap().display();
    assert!(text.contains(&format!("{TRIES} names were tried, and each is taken in {dir}")), "{text}");
    assert_eq!(fs::read(&path).unwrap(), b"old");

    let (written, tried) = write_if_so_many_are_taken(TRIES - 1);
    written.unwrap();
    assert_eq!(tried, TRIES);
    assert_eq!(fs::read(&path).unwrap(), b"new");
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: elsewhere no call starts the write-back")]
fn a_large_file_is_written_though_its_write_back_cannot_be_started() {
    let (dir, adapter) = scratch();
    let file = adapter.file(dir.path().join("name")).unwrap();
    let contents = vec![b'x'; 20 << 20];
    let failed = Rc::new(RefCell::new(0));
    let count = failed.clone();
    let decide = move |call: &Call<'_>| match call.syscall {
        Syscall::PosixFadvise => {
            *count.borrow_mut() += 1;
            Action::Fail(EIO)
        }
        _ => Action::Proceed,
    };
    inject(decide, || file.write(&contents)).0.unwrap();
    assert_eq!(failed.take(), 2);
    assert!(file.read().unwrap() == Some(contents));
}

/// The temporary names that a write has tried.
fn temporary_names_of(write: impl FnOnce()) -> Vec<String> {
    let creates = |call: &String| call.starts_with("openat") && call.contains(".tmp");
    let tried = calls(write).into_iter().filter(creates);
    tried.map(|call| call.split('"').nth(1).unwrap().to_owned()).collect()
}

#[test]
fn a_thread_keeps_its_temporary_name_until_it_is_taken() {
    let (dir, adapter) = scratch();
    let file = adapter.file(dir.path().join("name")).unwrap();
    // Made first, because lock files and `.gitignore` are made with temporary files, too.
    file.write("first").unwrap();
    let write = || temporary_names_of(|| file.write("contents").unwrap());
    let first = write();
    assert_eq!(first.len(), 1);
    assert_eq!(write(), first);

    let taken = dir.path().join(&first[0]);
    fs::write(&taken, "somebody else's").unwrap();
    let [tried, second] = write().try_into().unwrap();
    assert_eq!((&tried, fs::read_to_string(&taken).unwrap().as_str()), (&first[0], "somebody else's"));
    assert_eq!(write(), std::slice::from_ref(&second));

    let other = std::thread::scope(|scope| scope.spawn(write).join().unwrap());
    assert_eq!(other.len(), 1);
    assert!(![&first[0], &second].contains(&&other[0]), "two threads have {second}");
}

#[test]
fn a_batch_syncs_each_directory_even_if_one_takes_the_place_of_another() {
    use std::os::unix::fs::MetadataExt;

    let (dir, adapter) = scratch();
    let (files, moved) = (dir.path().canonicalize().unwrap().join("files"), dir.path().join("moved"));
    fs::create_dir(&files).unwrap();
    let mut batch = adapter.batch();
    batch.write(files.join("one"), "1").write(files.join("two"), "2");
    let synced = Rc::new(RefCell::new(Vec::new()));
    let (mut lookups, watched, there) = (0, synced.clone(), (files.clone(), moved.clone()));
    let swap = move |call: &Call<'_>| {
        if call.number > 0 && call.path.is_some_and(|path| path.ends_with("one")) && lookups == 0 {
            lookups += 1;
            fs::rename(&there.0, &there.1).unwrap();
            fs::create_dir(&there.0).unwrap();
        }
        if call.syscall == Syscall::Fsync || call.syscall == Syscall::FcntlFullfsync {
            let file: fs::File = call.fd.unwrap().try_clone_to_owned().unwrap().into();
            let meta = file.metadata().unwrap();
            watched.borrow_mut().extend(meta.is_dir().then_some(meta.ino()));
        }
        Action::Proceed
    };
    inject(swap, || batch.commit()).0.unwrap();
    assert!(moved.join("one").exists() && files.join("two").exists());
    let mut synced = synced.take();
    let mut expected = [moved, files].map(|dir| fs::metadata(dir).unwrap().ino());
    synced.sort_unstable();
    expected.sort_unstable();
    assert_eq!(synced, expected);
}
