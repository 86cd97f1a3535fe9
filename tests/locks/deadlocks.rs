//! Deadlocks, real ones and false ones, of threads and of processes.

use std::os::unix::fs::symlink;
use std::process;
use std::sync::Barrier;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use atomic_file_adapter::{AtomicFile, Error, WriteGuard};

use crate::common::Worker;
use crate::talk::{Ask, LOCK, LOCK_SHARED, LOCK_TIMEOUT, Ordered, TRY_LOCK, TRY_LOCK_SHARED, WAITING, said};
use crate::watching::{PAUSED, is_in, spawn_until_in, until, until_blocked};
use crate::{Scratch, adapter};

pub(crate) fn asking_again_for_a_held_lock_is_a_deadlock() {
    let scratch = Scratch::new();
    let mut other = scratch.worker("talk", &[]);
    let file = scratch.file("file");
    // Another handle, with the lock directory spelled differently: it is the file that counts.
    symlink(scratch.dir.path(), scratch.path("link")).unwrap();
    let again = adapter(&scratch.path("link")).file(scratch.path("./file")).unwrap();
    assert_ne!(again.lock_path(), file.lock_path());
    for first in [LOCK, LOCK_SHARED] {
        let held = first(&file).unwrap();
        for second in WAITING {
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
        for attempt in [TRY_LOCK, TRY_LOCK_SHARED] {
            assert_eq!(said(&attempt(&again)), "would block");
        }
        assert_eq!(other.order("try_lock file"), "would block", "the first lock is gone");
        drop(held);
        assert_eq!(other.order("try_lock file"), "ok", "the first lock stays");
        assert_eq!(other.order("unlock file"), "ok");
    }
}

pub(crate) fn a_verb_inside_an_update_is_a_deadlock() {
    let scratch = Scratch::new();
    let (path, adapter) = (scratch.path("file"), &scratch.adapter);
    let told = "file would deadlock with file";
    adapter.write_atomic(&path, "old").unwrap();
    let mut asked = 0;
    adapter
        .update(&path, |old| {
            assert_eq!(said(&adapter.update(&path, |_| panic!("inside twice"))), told);
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
        // What another thread holds is not this one's.
        scope.spawn(|| {
            let _d = scratch.file("d").lock().unwrap();
            assert_eq!(said(&scratch.file("d").lock()), "d would deadlock with d");
        });
    });
    assert_eq!(said(&b.lock()), "b would deadlock with a b c");
    assert!(b.lock().unwrap_err().to_string().contains(a.path().to_str().unwrap()));
}

pub(crate) fn of_two_threads_in_a_cycle_one_is_told() {
    for (first, second) in [(LOCK, LOCK), (LOCK, LOCK_SHARED), (LOCK_SHARED, LOCK), (LOCK, LOCK_TIMEOUT)] {
        ring(2, first, second);
    }
}

pub(crate) fn of_three_threads_in_a_ring_one_is_told() {
    for (first, second) in [(LOCK, LOCK), (LOCK_SHARED, LOCK_TIMEOUT)] {
        ring(3, first, second);
    }
}

/// Thread N holds file N and asks for the next one. Whoever asks last closes the ring, and nobody lets go before.
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

pub(crate) fn of_two_processes_in_a_cycle_one_is_told() {
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
    // The kernel sees the thread at the head of the queue only, and that one holds nothing.
    let scratch = Scratch::new();
    let (a, b) = (scratch.file("a"), scratch.file("b"));
    let (held, other) = crosswise(&scratch, &a);
    thread::scope(|scope| {
        // Ends with this closure, so that nobody waits for it when the test fails.
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

/// As above, but who waits behind the head of the queue takes its locks in the common order. Nobody else can end it: the
/// other process sleeps in the kernel, and the head holds nothing. It takes half a minute to be believed.
#[cfg(feature = "fault-injection")]
pub(crate) fn a_cycle_is_told_to_many_locks() {
    use atomic_file_adapter::fault::{Action, Syscall, inject};

    use crate::watching::PARKED;

    let scratch = Scratch::new();
    let mut files = [scratch.file("a"), scratch.file("b")];
    files.sort_by(|one, other| one.lock_path().cmp(other.lock_path()));
    let [first, second] = &files;
    let name = |file: &AtomicFile| file.path().file_name().unwrap().to_str().unwrap().to_owned();
    let mut other = scratch.worker("talk", &[]);
    assert_eq!(other.order(&format!("lock {}", name(second))), "ok");
    thread::scope(|scope| {
        // Ends with this closure, so that nobody waits for it when the test fails.
        let mut other = other;
        let (asks, is_asking) = channel();
        let (go, may_go) = channel::<()>();
        let head = scope.spawn(move || {
            let pause = move |call: &atomic_file_adapter::fault::Call<'_>| {
                if call.syscall == Syscall::FcntlSetlkw {
                    asks.send(()).unwrap();
                    // Only the first time; later there is nobody to say it.
                    let _ = may_go.recv();
                }
                Action::Proceed
            };
            said(&inject(pause, || second.lock()).0)
        });
        is_asking.recv().unwrap();
        let many = spawn_until_in(scope, PARKED, || {
            said(&scratch.adapter.lock_many(["a", "b"].map(|name| scratch.path(name))))
        });
        other.tell(&format!("lock {}", name(first)));
        until_blocked(other.pid(), first);
        drop(go);
        assert_eq!(many.join().unwrap(), format!("{} would deadlock with {}", name(second), name(first)));
        other.expect("ok");
        assert_eq!(other.order(&format!("unlock {}", name(second))), "ok");
        assert_eq!(head.join().unwrap(), "ok");
    });
}

pub(crate) fn a_false_deadlock_here() {
    // Trap 3: thread 1 holds A, another process holds B and waits for A, thread 2 waits for B.
    let scratch = Scratch::new();
    let (a, b) = (scratch.file("a"), scratch.file("b"));
    let (held, other) = crosswise(&scratch, &a);
    thread::scope(|scope| {
        // Ends with this closure, so that nobody waits for it when the test fails.
        let mut other = other;
        let (answer, answers) = channel();
        scope.spawn(move || answer.send(said(&b.lock())).unwrap());
        // Longer than the library believes the kernel less than its caller.
        assert_eq!(answers.recv_timeout(Duration::from_millis(1500)), Err(RecvTimeoutError::Timeout));
        drop(held);
        other.expect("ok");
        assert_eq!(other.order("unlock a"), "ok");
        assert_eq!(other.order("unlock b"), "ok");
        assert_eq!(answers.recv().unwrap(), "ok");
    });
}

pub(crate) fn a_false_deadlock_elsewhere() {
    // Trap 3 in the other order: thread 2 waits for B before the other process, which holds B, asks for A. It is the
    // other process that is told EDEADLK, and it holds something.
    let in_time = (0..20).find(|_| {
        let scratch = Scratch::new();
        let (a, b) = (scratch.file("a"), scratch.file("b"));
        let mut other = scratch.worker("talk", &[]);
        let held = a.lock().unwrap();
        assert_eq!(other.order("lock b"), "ok");
        thread::scope(|scope| {
            // Ends with this closure, so that nobody waits for it when the test fails.
            let mut other = other;
            let thread = scope.spawn(|| b.lock().map(drop));
            until_blocked(process::id(), &b);
            let asked = Instant::now();
            other.tell("lock a");
            // It does not sleep in F_SETLKW, so it was told EDEADLK.
            let polls = || is_in(&format!("/proc/{}", other.pid()), PAUSED);
            until("told EDEADLK", || polls() || asked.elapsed() > Duration::from_secs(1));
            drop(held);
            // A round in which this thread got no processor for so long proves nothing: the cycle did persist.
            let in_time = asked.elapsed() < Duration::from_millis(150);
            let answer = other.hear();
            assert!(answer == "ok" || !in_time, "{answer}");
            other.order("unlock a");
            assert_eq!(other.order("unlock b"), "ok");
            assert_eq!(said(&thread.join().unwrap()), "ok");
            in_time
        })
    });
    assert!(in_time.is_some(), "the machine is too slow for this test");
}
