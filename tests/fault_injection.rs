//! The tool itself: what `fault::inject` sees and does, and that it leaves nothing behind.
#![cfg(feature = "fault-injection")]

use std::cell::RefCell;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use atomic_file_adapter::fault::{Action, Call, Syscall, inject};
use atomic_file_adapter::{AtomicFileAdapter, Error};

fn scratch() -> (tempfile::TempDir, AtomicFileAdapter) {
    let dir = tempfile::tempdir().unwrap();
    let adapter = AtomicFileAdapter::with_lock_dir(dir.path().join("locks")).unwrap();
    (dir, adapter)
}

const EIO: i32 = 5;

fn fail(syscall: Syscall, errno: i32) -> impl FnMut(&Call<'_>) -> Action {
    move |call| if call.syscall == syscall { Action::Fail(errno) } else { Action::Proceed }
}

/// What the calls of `body` look like.
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
        "openat temporary",
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
fn a_call_that_is_skipped_is_not_made_and_nobody_hears_of_it() {
    let (dir, adapter) = scratch();
    let path = dir.path().join("file");
    adapter.write_atomic(&path, "old").unwrap();
    let skip = |call: &Call<'_>| if call.syscall == Syscall::Renameat { Action::Skip } else { Action::Proceed };
    inject(skip, || adapter.write_atomic(&path, "new")).0.unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"old");
    // Those that answer something are made.
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
    // A write that takes nothing is an error, or it would be tried for ever.
    let (result, _) = inject(|_| Action::Short(0), || adapter.write_atomic(&path, "new"));
    assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::WriteZero);
    // A read of nothing would look like the end of the file.
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
    // In `decide`, at each call in turn, also while the library holds its mutex.
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
