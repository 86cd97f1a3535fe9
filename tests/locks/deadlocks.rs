//! Deadlocks of threads and of processes, true ones and false ones.

use std::os::unix::fs::symlink;
use std::process;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use atomic_file_adapter::{AtomicFile, Error, WriteGuard};

use crate::common::Worker;
use crate::talk::{
    Ask, LOCK, LOCK_SHARED, LOCK_SHARED_TIMEOUT, LOCK_TIMEOUT, Ordered, TRY_LOCK, TRY_LOCK_SHARED, WAITING, said,
};
use crate::watching::{PARKED, PAUSED, spawn_until_in, until_blocked};
use crate::{Scratch, adapter};

/// Another handle of the same file, with another spelling of the lock directory: both use the same lock file.
fn another_handle(scratch: &Scratch, file: &AtomicFile) -> AtomicFile {
    symlink(scratch.dir.path(), scratch.path("link")).unwrap();
    let again = adapter(&scratch.path("link")).file(scratch.path("./file")).unwrap();
    assert_ne!(again.lock_path(), file.lock_path());
    again
}

pub(crate) fn asking_again_for_a_held_lock_is_a_deadlock() {
    let scratch = Scratch::new();
    let mut other = scratch.worker("talk", &[]);
    let file = scratch.file("file");
    let again = another_handle(&scratch, &file);
    let exclusive: (&[Ask], &[Ask]) = (&[LOCK, LOCK_TIMEOUT], &[TRY_LOCK]);
    let all: (&[Ask], &[Ask]) = (&WAITING, &[TRY_LOCK, TRY_LOCK_SHARED]);
    for (first, (waiting, trying)) in [(LOCK, all), (LOCK_SHARED, exclusive)] {
        let held = first(&file).unwrap();
        for second in waiting {
            let error = second(&again).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::Deadlock);
            match error {
                Error::Deadlock { path, held, .. } => {
                    assert_eq!(path, file.path());
                    assert_eq!(held, [file.path()]);
                }
                error => panic!("{error}"),
            }
        }
        for attempt in trying {
            assert_eq!(said(&attempt(&again)), "would block");
        }
        assert_eq!(other.order("try_lock file"), "would block", "the first lock is gone");
        drop(held);
        assert_eq!(other.order("try_lock file"), "ok", "the first lock stays");
        assert_eq!(other.order("unlock file"), "ok");
    }
}

pub(crate) fn a_shared_lock_is_shared_with_its_own_thread() {
    let scratch = Scratch::new();
    let mut other = scratch.worker("talk", &[]);
    let file = scratch.file("file");
    let again = another_handle(&scratch, &file);
    thread::scope(|scope| {
        let held = file.lock_shared().unwrap();
        // Behind this writer in the queue, the thread would wait for itself.
        let writer = spawn_until_in(scope, PARKED, || file.lock().map(drop));
        for second in [LOCK_SHARED, LOCK_SHARED_TIMEOUT, TRY_LOCK_SHARED] {
            let second = second(&again).unwrap();
            assert_eq!(again.read().unwrap(), None);
            drop(second);
            assert_eq!(other.order("try_lock file"), "would block", "the first lock is gone");
        }
        // The guards are dropped in another order than the locks were taken.
        let second = again.lock_shared().unwrap();
        drop(held);
        assert_eq!(other.order("try_lock file"), "would block", "the second lock is gone");
        drop(second);
        writer.join().unwrap().unwrap();
    });
    assert_eq!(other.order("try_lock file"), "ok", "a lock stays");
}

pub(crate) fn a_verb_inside_an_update_is_a_deadlock() {
    let scratch = Scratch::new();
    let (path, adapter) = (scratch.path("file"), &scratch.adapter);
    let told = "file would deadlock with file";
    adapter.write_atomic(&path, "old").unwrap();
    let mut asked = 0;
    adapter
        .update(&path, |old| {
            assert_eq!(said(&adapter.update(&path, |_| panic!("the thread took its own lock twice"))), told);
            assert_eq!(said(&adapter.write_atomic(&path, "lost")), told);
            assert_eq!(said(&adapter.read_with_lock(&path)), told);
            assert_eq!(said(&adapter.delete_with_lock(&path)), told);
            asked += 1;
            [old.unwrap(), b" and new"].concat()
        })
        .unwrap();
    assert_eq!(asked, 1);
    assert_eq!(adapter.read_with_lock(&path).unwrap().unwrap(), b"old and new");
}

pub(crate) fn a_deadlock_names_every_lock_of_the_thread() {
    let scratch = Scratch::new();
    let (a, b) = (scratch.file("a"), scratch.file("b"));
    let _c = scratch.file("c").lock_shared().unwrap();
    let (_a, _b) = (a.lock().unwrap(), b.lock_shared().unwrap());
    thread::scope(|scope| {
        // The holds of another thread are not this thread's.
        scope.spawn(|| {
            let _d = scratch.file("d").lock().unwrap();
            assert_eq!(said(&scratch.file("d").lock()), "d would deadlock with d");
        });
    });
    assert_eq!(said(&b.lock()), "b would deadlock with a b c");
    assert!(b.lock().unwrap_err().to_string().contains(a.path().to_str().unwrap()));
}

pub(crate) fn of_two_threads_in_a_cycle_one_gets_an_error() {
    for (first, second) in [(LOCK, LOCK), (LOCK, LOCK_SHARED), (LOCK_SHARED, LOCK), (LOCK, LOCK_TIMEOUT)] {
        ring(2, first, second);
    }
}

pub(crate) fn of_three_threads_in_a_ring_one_gets_an_error() {
    for (first, second) in [(LOCK, LOCK), (LOCK_SHARED, LOCK_TIMEOUT)] {
        ring(3, first, second);
    }
}

/// Thread N holds file N and asks for the next one. The last thread to ask closes the cycle, and no thread releases a
/// lock before.
fn ring(threads: usize, first: Ask, second: Ask) {
    let scratch = Scratch::new();
    let all_hold = Barrier::new(threads);
    let ring = |n: usize| {
        let (mine, wanted) = (scratch.file(&n.to_string()), scratch.file(&((n + 1) % threads).to_string()));
        let _held = first(&mine).unwrap();
        all_hold.wait();
        said(&second(&wanted))
    };
    let answers: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|n| scope.spawn(move || ring(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let told: Vec<usize> = (0..threads).filter(|n| answers[*n] != "ok").collect();
    assert_eq!(told.len(), 1, "{answers:?}");
    assert_eq!(answers[told[0]], format!("{} would deadlock with {}", (told[0] + 1) % threads, told[0]));
}

pub(crate) fn of_two_processes_in_a_cycle_one_gets_an_error() {
    let scratch = Scratch::new();
    let (mut first, mut second) = (scratch.worker("talk", &[]), scratch.worker("talk", &[]));
    assert_eq!(first.order("lock a"), "ok");
    assert_eq!(second.order("lock b"), "ok");
    first.tell("lock b");
    until_blocked(first.pid(), &scratch.file("b"));
    let begun = Instant::now();
    assert_eq!(second.order("lock a"), "a would deadlock with b");
    eprintln!("two processes in a cycle: told after {:?}", begun.elapsed());
    assert_eq!(second.order("unlock b"), "ok");
    first.expect("ok");
}

/// This thread holds A, another process holds B and waits for A.
fn crosswise(scratch: &Scratch, a: &AtomicFile) -> (WriteGuard, Worker) {
    let mut other = scratch.worker("talk", &[]);
    let held = a.lock().unwrap();
    assert_eq!(other.order("lock b"), "ok");
    other.tell("lock a");
    until_blocked(other.pid(), a);
    (held, other)
}

pub(crate) fn a_cycle_through_the_queue_is_found() {
    // The kernel sees only the first thread in the queue, and that one holds nothing.
    let scratch = Scratch::new();
    let (a, b) = (scratch.file("a"), scratch.file("b"));
    let (held, other) = crosswise(&scratch, &a);
    thread::scope(|scope| {
        // Moved in, so that it ends with this closure. Otherwise a failing test would wait for it.
        let mut other = other;
        let head = spawn_until_in(scope, PAUSED, || b.lock().map(drop));
        assert_eq!(said(&b.lock()), "b would deadlock with a");
        drop(held);
        other.expect("ok");
        assert!(!head.is_finished());
        assert_eq!(other.order("unlock b"), "ok");
        assert_eq!(said(&head.join().unwrap()), "ok");
    });
}

/// A false deadlock (trap 3): a thread of this process holds A, another one waits for B, and another process holds B
/// and asks for A. The last one to ask gets EDEADLK. `they_ask_last`: that is the other process.
fn no_thread_waits_for_itself(hold: Duration, they_ask_last: bool, we_hold_something: bool) {
    let scratch = Scratch::new();
    let (a, b, c) = (scratch.file("a"), scratch.file("b"), scratch.file("c"));
    let mut they = scratch.worker("talk", &[]);
    assert_eq!(they.order("lock b"), "ok");
    thread::scope(|scope| {
        // Moved in, so that it ends with this closure. Otherwise a failing test would wait for it.
        let mut they = they;
        let held = a.lock().unwrap();
        let waits_for_b = || {
            let _c = we_hold_something.then(|| c.lock().unwrap());
            said(&b.lock())
        };
        let we = if they_ask_last {
            let we = scope.spawn(waits_for_b);
            until_blocked(process::id(), &b);
            they.tell("lock a");
            we
        } else {
            they.tell("lock a");
            until_blocked(they.pid(), &a);
            spawn_until_in(scope, PAUSED, waits_for_b)
        };
        // Not a wait for an event: the test is about a lock that is held for this long.
        thread::sleep(hold);
        assert!(!we.is_finished(), "{:?}", we.join());
        drop(held);
        they.expect("ok");
        assert_eq!(they.order("unlock a"), "ok");
        assert_eq!(they.order("unlock b"), "ok");
        assert_eq!(we.join().unwrap(), "ok");
    });
}

/// As Go's `TestSpuriousEDEADLK`: a false report is a failure, however long the wait takes.
pub(crate) fn a_false_deadlock_is_not_reported(seconds: u64) {
    let hold = Duration::from_secs(seconds);
    thread::scope(|scope| {
        for (they_ask_last, we_hold_something) in [(false, false), (false, true), (true, false), (true, true)] {
            scope.spawn(move || no_thread_waits_for_itself(hold, they_ask_last, we_hold_something));
        }
    });
}
