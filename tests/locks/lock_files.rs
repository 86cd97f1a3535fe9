//! Lock files that are removed while a call waits for them.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use atomic_file_adapter::Error;

use crate::common::{Worker, hear, tell};
use crate::talk::{LOCK, LOCK_TIMEOUT, Ordered, said};
use crate::watching::{PARKED, spawn_until_in, until_blocked};
use crate::{Scratch, Stop, next, settings};

pub(crate) fn a_removed_lock_file_is_noticed_by_processes() {
    for ask in ["lock", "lock_shared", "lock_timeout"] {
        let scratch = Scratch::new();
        let file = scratch.file("file");
        let (mut holder, mut waiter) = (scratch.worker("talk", &[]), scratch.worker("talk", &[]));
        assert_eq!(holder.order("lock file"), "ok");
        waiter.tell(&format!("{ask} file"));
        until_blocked(waiter.pid(), &file);
        fs::remove_file(file.lock_path()).unwrap();
        assert_eq!(holder.order("unlock file"), "ok");
        waiter.expect("ok");
        assert_eq!(said(&file.try_lock()), "would block", "the waiter holds a file that has no name");
        assert_eq!(waiter.order("unlock file"), "ok");
        assert_eq!(said(&file.try_lock()), "ok");
    }
}

pub(crate) fn a_removed_lock_file_is_noticed_by_threads() {
    for ask in [LOCK, LOCK_TIMEOUT] {
        let scratch = Scratch::new();
        // One handle for both rounds: it still refers to the removed file.
        let file = scratch.file("file");
        let mut other = scratch.worker("talk", &[]);
        let held = file.lock().unwrap();
        thread::scope(|scope| {
            let ((release, may_release), (taken, is_taken)) = (channel::<()>(), channel());
            let file = &file;
            let waiter = spawn_until_in(scope, PARKED, move || {
                let _guard = ask(file).unwrap();
                taken.send(()).unwrap();
                // An error if the test has failed.
                let _ = may_release.recv();
            });
            fs::remove_file(file.lock_path()).unwrap();
            drop(held);
            is_taken.recv().unwrap();
            assert_eq!(other.order("try_lock file"), "would block", "the waiter holds a file that has no name");
            drop(release);
            waiter.join().unwrap();
        });
        assert_eq!(other.order("try_lock file"), "ok");
    }
}

pub(crate) fn a_lock_file_that_changes_costs_no_lock() {
    // Trap 1: between the look at B's lock file and its opening, the name leads to A's lock file. So A's lock file has
    // a second descriptor, and closing that would drop A's lock.
    let scratch = Scratch::new();
    let a = scratch.file("a");
    let mut other = scratch.worker("talk", &[]);
    let _held = a.lock().unwrap();
    let (of_b, alternate) = (scratch.adapter.lock_path(scratch.path("b")).unwrap(), scratch.path("alternate"));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                fs::hard_link(a.lock_path(), &alternate).unwrap();
                fs::rename(&alternate, &of_b).unwrap();
                fs::write(&alternate, "").unwrap();
                fs::rename(&alternate, &of_b).unwrap();
            }
        });
        let begun = Instant::now();
        // A descriptor that was opened by mistake stays open as long as A is held. Many systems allow a process 1024
        // descriptors.
        let few_are_open = || fs::read_dir("/dev/fd").unwrap().count() < 700;
        while begun.elapsed() < Duration::from_millis(500) && few_are_open() {
            match scratch.adapter.file(scratch.path("b")).unwrap().try_lock() {
                Ok(_) | Err(Error::WouldBlock { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
    assert_eq!(other.order("try_lock a"), "would block", "the lock was dropped on the way");
}

/// A file system that is slow for this one lock file.
#[cfg(feature = "fault-injection")]
pub(crate) fn a_slow_file_system_keeps_only_its_own_waiting() {
    use std::path::PathBuf;
    use std::sync::mpsc::{Receiver, Sender};

    use atomic_file_adapter::AtomicFile;
    use atomic_file_adapter::fault::{Action, Call, Syscall, inject};

    /// Stops `body` in its first call of this kind, until it gets a message.
    fn slowly(slow: Syscall, on: Option<PathBuf>, (stops, go): (Sender<()>, Receiver<()>), body: impl FnOnce()) {
        let mut first = true;
        let stop = move |call: &Call<'_>| {
            let meant = call.syscall == slow && on.as_deref().is_none_or(|on| call.path == Some(on));
            if meant && std::mem::take(&mut first) {
                stops.send(()).unwrap();
                go.recv().unwrap();
            }
            Action::Proceed
        };
        inject(stop, body);
    }

    let scratch = Scratch::new();
    let (slow, other) = (scratch.file("slow"), scratch.file("other"));
    // So that the table has a lock file open. Then a call looks at the name before it opens another one.
    let _held = scratch.file("held").lock().unwrap();
    let lock_path = slow.lock_path().to_owned();
    let opens = |file: AtomicFile| drop(file.lock().unwrap());
    thread::scope(|scope| {
        for syscall in [Syscall::Fstatat, Syscall::Openat, Syscall::Close] {
            let ((stops, has_stopped), (go, may_go)) = (channel(), channel());
            let on = (syscall != Syscall::Close).then(|| lock_path.clone());
            // Dropping the last handle closes the file.
            let slow = scratch.file("slow");
            let thread = scope.spawn(move || slowly(syscall, on, (stops, may_go), || opens(slow)));
            has_stopped.recv().unwrap();
            for _ in 0..2 {
                drop(other.lock().unwrap());
                drop(scratch.file("another").lock().unwrap());
            }
            go.send(()).unwrap();
            thread.join().unwrap();
        }
    });
    drop(slow.lock().unwrap());
}

pub(crate) fn a_read_without_the_lock_waits_for_nobody() {
    let scratch = Scratch::new();
    let file = scratch.file("file");
    file.write("old").unwrap();
    let mut other = scratch.worker("talk", &[]);
    let read = || [file.read_unlocked(), scratch.adapter.read_unlocked(file.path())].map(|read| read.unwrap().unwrap());
    assert_eq!(other.order("lock file"), "ok");
    assert_eq!(said(&file.try_lock_shared()), "would block");
    assert_eq!(read(), [b"old", b"old"]);
    assert_eq!(other.order("unlock file"), "ok");
    // The slow file system does not keep this thread waiting either, and no lock is lost.
    let guard = file.lock().unwrap();
    assert_eq!(read(), [b"old", b"old"]);
    assert_eq!(other.order("try_lock file"), "would block");
    guard.write("new").unwrap();
    assert_eq!(read(), [b"new", b"new"]);
}

pub(crate) fn a_hard_link_to_a_lock_file_costs_no_lock() {
    // Trap 15: reading the link as data would open the lock file and close it.
    let scratch = Scratch::new();
    let file = scratch.file("file");
    let mut other = scratch.worker("talk", &[]);
    let (linked, handle) = (scratch.path("linked"), scratch.file("linked"));
    let guard = file.lock().unwrap();
    fs::hard_link(file.lock_path(), &linked).unwrap();
    type Call<'a> = Box<dyn Fn() -> Result<(), Error> + 'a>;
    let calls: [(&str, Call<'_>); 7] = [
        ("read_unlocked", Box::new(|| handle.read_unlocked().map(drop))),
        ("read_with_lock", Box::new(|| scratch.adapter.read_with_lock(&linked).map(drop))),
        ("read", Box::new(|| handle.read().map(drop))),
        ("open", Box::new(|| handle.open().map(drop))),
        ("update", Box::new(|| handle.update(next))),
        ("write", Box::new(|| handle.write("new"))),
        ("delete", Box::new(|| handle.delete().map(drop))),
    ];
    for (verb, call) in calls {
        let refused = call();
        assert_eq!(other.order("try_lock file"), "would block", "{verb} drops the lock");
        assert!(matches!(&refused, Err(Error::InvalidPath { path, .. }) if *path == linked), "{verb}: {refused:?}");
    }
    guard.write("new").unwrap();
    drop(guard);
    // The link to a lock file that this process does not use is a usual file.
    drop(file);
    assert!(handle.read().unwrap().is_some());
}

pub(crate) fn no_increment_is_lost_while_lock_files_go() {
    const EACH: usize = 500;
    let scratch = Scratch::new();
    let each = EACH.to_string();
    let mut workers: Vec<Worker> =
        ["handle", "path", "exact handle", "exact path"].map(|how| scratch.worker("increment", &[how, &each])).into();
    workers.iter_mut().for_each(|worker| worker.expect("ready"));
    workers.iter_mut().for_each(|worker| worker.tell("go"));
    let (stop, removed) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            let file = scratch.file("counter");
            while !stop.load(SeqCst) {
                match file.try_lock() {
                    // A lock file may be removed only under its own lock.
                    Ok(_guard) => {
                        fs::remove_file(file.lock_path()).unwrap();
                        removed.fetch_add(1, SeqCst);
                    }
                    Err(error) => assert!(matches!(error, Error::WouldBlock { .. }), "{error}"),
                }
            }
        });
        workers.iter_mut().for_each(|worker| worker.expect("done"));
    });
    workers.into_iter().for_each(Worker::finish);
    assert!(removed.load(SeqCst) > 0, "no lock file was removed");
    eprintln!("{} lock files were removed during {} increments", removed.into_inner(), 4 * EACH);
    assert_eq!(scratch.file("counter").read().unwrap().unwrap(), (4 * EACH).to_string().as_bytes());
}

pub(crate) fn increment(args: &[String]) {
    let dir = Path::new(&args[0]);
    // Lock files are made in two ways.
    let settings = settings(dir);
    let exact = args[1].starts_with("exact");
    let adapter = if exact { settings.lock_file_mode(0o600) } else { settings }.build().unwrap();
    let file = adapter.file(dir.join("counter")).unwrap();
    tell("ready");
    hear();
    for _ in 0..args[2].parse().unwrap() {
        if args[1].ends_with("handle") { file.update(next) } else { adapter.update(file.path(), next) }.unwrap();
    }
    tell("done");
}

/// The waiter is in another process or in a thread of this one. The queue has waiters of both kinds.
pub(crate) fn waiters_are_listed() {
    let scratch = Scratch::new();
    let (file, adapter) = (scratch.file("file"), &scratch.adapter);
    assert_eq!(adapter.lock_of(file.path()).unwrap(), None, "there is a lock file already");
    let waiters = || adapter.lock_of(file.path()).unwrap().unwrap().waiters;
    let (mut holder, mut reader) = (scratch.worker("talk", &[]), scratch.worker("talk", &[]));
    assert_eq!(holder.order("lock file"), "ok");
    assert_eq!(holder.order("lock other"), "ok");
    assert_eq!(waiters(), Some(vec![]));
    reader.tell("lock_shared file");
    until_blocked(reader.pid(), &file);
    thread::scope(|scope| {
        // Moved in, so that it ends with this closure. Otherwise a failing test would wait for it.
        let mut holder = holder;
        let thread = scope.spawn(|| said(&file.lock()));
        until_blocked(std::process::id(), &file);
        let mut both = vec![reader.pid(), std::process::id()];
        both.sort();
        assert_eq!(waiters(), Some(both.clone()));
        // The list of all lock files shows the same. The other lock has no waiters.
        for lock in adapter.locks().unwrap() {
            let here = if lock.path == file.lock_path() { both.clone() } else { vec![] };
            assert_eq!(lock.waiters, Some(here));
            assert_eq!(lock.holder.unwrap().pid, Some(holder.pid()));
        }
        assert_eq!(holder.order("unlock file"), "ok");
        reader.expect("ok");
        assert_eq!(reader.order("unlock file"), "ok");
        assert_eq!(thread.join().unwrap(), "ok");
    });
    assert_eq!(waiters(), Some(vec![]));
}
