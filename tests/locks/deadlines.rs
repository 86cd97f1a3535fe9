//! Deadlines are kept, their errors name the holder, and a wait uses no processor time.

use std::process;
use std::thread;
use std::time::{Duration, Instant};

use atomic_file_adapter::{AtomicFile, Error, Result};

use crate::talk::{Ask, LOCK, LOCK_SHARED, LOCK_SHARED_TIMEOUT, LOCK_TIMEOUT, Ordered, boxed, said};
use crate::watching::{PARKED, spawn_until_in, until_blocked};
use crate::{MINUTE, Scratch, settings};

const SHORT: Duration = Duration::from_millis(100);

/// Both kinds of wait for a lock that is never released: the error names the holder, and the deadline is kept.
fn assert_times_out(file: &AtomicFile, holder: u32, asks: &[Ask]) {
    for ask in asks {
        let begun = Instant::now();
        let error = ask(file).unwrap_err();
        let elapsed = begun.elapsed();
        assert!(elapsed >= SHORT, "given up after {elapsed:?}");
        assert!(elapsed < Duration::from_secs(5), "given up after {elapsed:?}");
        eprintln!("past the deadline of {SHORT:?}: {:?}", elapsed - SHORT);
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        match error {
            Error::Timeout { path, lock, waited, holder: named, .. } => {
                assert_eq!(path, file.path());
                assert_eq!(lock, file.lock_path());
                assert_eq!(waited, SHORT);
                assert_eq!(named, Some(holder));
            }
            error => panic!("{error}"),
        }
    }
}

const EXCLUSIVE_FOR_SHORT: Ask = |file| file.lock_timeout(SHORT).map(boxed);
const SHARED_FOR_SHORT: Ask = |file| file.lock_shared_timeout(SHORT).map(boxed);

pub(crate) fn a_deadline_is_kept_beside_a_thread() {
    let scratch = Scratch::new();
    let file = scratch.file("file");
    for (hold, asks) in [(LOCK, &[EXCLUSIVE_FOR_SHORT, SHARED_FOR_SHORT][..]), (LOCK_SHARED, &[EXCLUSIVE_FOR_SHORT])] {
        let held = hold(&file).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| assert_times_out(&file, process::id(), asks));
        });
        drop(held);
        assert_eq!(said(&file.try_lock()), "ok", "a waiter that gave up is in the way");
    }
}

pub(crate) fn a_deadline_is_kept_beside_a_process() {
    let scratch = Scratch::new();
    let file = scratch.file("file");
    let mut holder = scratch.worker("talk", &[]);
    assert_eq!(holder.order("lock file"), "ok");
    assert_times_out(&file, holder.pid(), &[EXCLUSIVE_FOR_SHORT, SHARED_FOR_SHORT]);
    assert_eq!(holder.order("unlock file"), "ok");
    assert_eq!(holder.order("lock_shared file"), "ok");
    assert_times_out(&file, holder.pid(), &[EXCLUSIVE_FOR_SHORT]);
    assert_eq!(said(&file.lock_shared_timeout(SHORT)), "ok");
    assert_eq!(holder.order("unlock file"), "ok");
    assert_eq!(said(&file.try_lock()), "ok");
}

pub(crate) fn the_builders_deadline_holds_for_every_verb() {
    let scratch = Scratch::new();
    let path = scratch.path("file");
    scratch.adapter.write_atomic(&path, "old").unwrap();
    let adapter = settings(scratch.dir.path()).lock_timeout(SHORT).build().unwrap();
    let mut holder = scratch.worker("talk", &[]);
    assert_eq!(holder.order("lock file"), "ok");
    let verbs: [(&str, &dyn Fn() -> Result<()>); 7] = [
        ("write_atomic", &|| adapter.write_atomic(&path, "new")),
        ("read_with_lock", &|| adapter.read_with_lock(&path).map(drop)),
        ("update", &|| adapter.update(&path, |_| panic!("without the lock"))),
        ("delete_with_lock", &|| adapter.delete_with_lock(&path).map(drop)),
        ("lock", &|| adapter.file(&path)?.lock().map(drop)),
        ("lock_shared", &|| adapter.file(&path)?.lock_shared().map(drop)),
        // The call's own deadline comes before the builder's.
        ("lock_timeout", &|| adapter.file(&path)?.lock_timeout(SHORT * 2).map(drop)),
    ];
    for (verb, call) in verbs {
        let least = if verb == "lock_timeout" { SHORT * 2 } else { SHORT };
        let begun = Instant::now();
        match call() {
            Err(Error::Timeout { waited, holder: named, .. }) => {
                assert_eq!((waited, named), (least, Some(holder.pid())), "{verb}");
            }
            other => panic!("{verb}: {other:?}"),
        }
        assert!(begun.elapsed() >= least, "{verb}");
    }
    assert_eq!(holder.order("unlock file"), "ok");
    assert_eq!(adapter.read_with_lock(&path).unwrap().unwrap(), b"old");
}

/// Asks for the lock in a thread, calls `release` when the thread sleeps, and returns the time from then until the
/// thread has the lock.
fn until_taken(file: &AtomicFile, ask: Ask, release: impl FnOnce()) -> Duration {
    thread::scope(|scope| {
        let waiter = spawn_until_in(scope, PARKED, || {
            let answer = said(&ask(file));
            (answer, Instant::now())
        });
        let released = Instant::now();
        release();
        let (answer, taken) = waiter.join().unwrap();
        assert_eq!(answer, "ok");
        taken.saturating_duration_since(released)
    })
}

pub(crate) fn a_lock_freed_early_is_taken() {
    let scratch = Scratch::new();
    let file = scratch.file("file");
    let mut holder = scratch.worker("talk", &[]);
    for ask in [LOCK_TIMEOUT, LOCK_SHARED_TIMEOUT] {
        let held = file.lock().unwrap();
        let beside_thread = until_taken(&file, ask, || drop(held));
        assert_eq!(holder.order("lock file"), "ok");
        let beside_process = until_taken(&file, ask, || assert_eq!(holder.order("unlock file"), "ok"));
        eprintln!("a lock freed early is taken after {beside_thread:?} (thread) and {beside_process:?} (process)");
        assert!(beside_thread < MINUTE / 2 && beside_process < MINUTE / 2);
    }
}

pub(crate) fn a_deadline_beyond_the_clock_is_none() {
    let scratch = Scratch::new();
    let file = scratch.file("file");
    let mut holder = scratch.worker("talk", &[]);
    let asks: [Ask; 2] =
        [|file| file.lock_timeout(Duration::MAX).map(boxed), |file| file.lock_shared_timeout(Duration::MAX).map(boxed)];
    for ask in asks {
        assert_eq!(said(&ask(&file)), "ok");
        let held = file.lock().unwrap();
        until_taken(&file, ask, || drop(held));
        assert_eq!(holder.order("lock file"), "ok");
        thread::scope(|scope| {
            let waiter = scope.spawn(|| said(&ask(&file)));
            until_blocked(process::id(), &file);
            assert_eq!(holder.order("unlock file"), "ok");
            assert_eq!(waiter.join().unwrap(), "ok");
        });
    }
    let forever = settings(scratch.dir.path()).lock_timeout(Duration::MAX).build().unwrap();
    forever.write_atomic(file.path(), "written").unwrap();
}

pub(crate) fn a_deadline_of_zero_tries_once() {
    let scratch = Scratch::new();
    let file = scratch.file("file");
    let mut holder = scratch.worker("talk", &[]);
    assert_eq!(said(&file.lock_timeout(Duration::ZERO)), "ok");
    assert_eq!(said(&file.lock_shared_timeout(Duration::ZERO)), "ok");
    let adapter = settings(scratch.dir.path()).lock_timeout(Duration::ZERO).build().unwrap();
    adapter.write_atomic(file.path(), "written").unwrap();
    let timed_out = |holder| match file.lock_timeout(Duration::ZERO) {
        Err(Error::Timeout { waited: Duration::ZERO, holder: named, .. }) => assert_eq!(named, Some(holder)),
        other => panic!("{other:?}"),
    };
    assert_eq!(holder.order("lock file"), "ok");
    timed_out(holder.pid());
    assert_eq!(holder.order("unlock file"), "ok");
    let held = file.lock().unwrap();
    thread::scope(|scope| scope.spawn(|| timed_out(process::id())).join().unwrap());
    drop(held);
}

pub(crate) fn waiting_burns_no_cpu() {
    const SECOND: Duration = Duration::from_secs(1);
    let scratch = Scratch::new();
    let (here, elsewhere) = (scratch.file("here"), scratch.file("elsewhere"));
    let mut holder = scratch.worker("talk", &[]);
    assert_eq!(holder.order("lock elsewhere"), "ok");
    let _held = here.lock().unwrap();
    let waits = |name: &str, file: &AtomicFile| {
        let (begun, before) = (Instant::now(), thread_cpu_time());
        assert!(matches!(file.lock_timeout(SECOND), Err(Error::Timeout { .. })));
        let (waited, burnt) = (begun.elapsed(), thread_cpu_time() - before);
        eprintln!("waiting for {waited:?} for a {name} burns {burnt:?}");
        assert!(burnt < Duration::from_millis(200), "{burnt:?}");
    };
    thread::scope(|scope| {
        scope.spawn(|| waits("thread", &here));
        scope.spawn(|| waits("process", &elsewhere));
        scope.spawn(|| waits("process, behind a thread that does", &elsewhere));
    });
}

fn thread_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of this function.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) }, 0);
    Duration::new(u64::try_from(time.tv_sec).unwrap(), u32::try_from(time.tv_nsec).unwrap())
}
