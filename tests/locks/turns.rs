//! Turns: a waiter gets the lock although others take it again at once, in this process and in others.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Worker, hear, tell};
use crate::talk::{Ordered, said};
use crate::watching::{PARKED, spawn_until_in, until, until_blocked};
use crate::{Scratch, Stop, adapter, next};

/// So long that three readers never release the lock at the same time by chance.
pub(crate) const SLOWLY: Duration = Duration::from_millis(5);

/// Three readers that hold the lock for so long and take it again at once.
pub(crate) fn a_writer_gets_in(how: &str, inside: Duration) {
    let scratch = Scratch::new();
    let file = scratch.file("file");
    file.write("first").unwrap();
    let mut writer = scratch.worker("write_often", &[how]);
    writer.expect("ready");
    let (stop, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (time, during) = thread::scope(|scope| {
        let _stop = Stop(&stop);
        for n in 0..3 {
            let (file, stop, reads) = (&file, &stop, &reads);
            scope.spawn(move || {
                while !stop.load(SeqCst) {
                    let guard = file.lock_shared().unwrap();
                    guard.read().unwrap().unwrap();
                    // Not in step, or all of them would be without the lock at the same time.
                    thread::sleep(inside + inside * n / 7);
                    drop(guard);
                    reads.fetch_add(1, SeqCst);
                }
            });
        }
        until("the readers read", || reads.load(SeqCst) > 20);
        let (begun, before) = (Instant::now(), reads.load(SeqCst));
        assert_eq!(writer.order("go"), "done");
        (begun.elapsed(), reads.load(SeqCst) - before)
    });
    eprintln!("20 writes ({how}) beside three readers of {inside:?}: {time:?}, with {during} reads");
    writer.finish();
}

/// A writer that takes the lock again at once is without it only for some microseconds.
pub(crate) fn a_writer_that_comes_back_lets_others_in() {
    let scratch = Scratch::new();
    let file = scratch.file("file");
    let mut writer = scratch.worker("write_often", &["deadline"]);
    writer.expect("ready");
    let (stop, mine) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (time, during) = thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                let guard = file.lock().unwrap();
                thread::sleep(SLOWLY);
                drop(guard);
                mine.fetch_add(1, SeqCst);
            }
        });
        until("the writer writes", || mine.load(SeqCst) > 20);
        let (begun, before) = (Instant::now(), mine.load(SeqCst));
        assert_eq!(writer.order("go"), "done");
        (begun.elapsed(), mine.load(SeqCst) - before)
    });
    eprintln!("20 writes beside a writer that comes back at once: {time:?}, with {during} of its own");
    writer.finish();
}

pub(crate) fn write_often(args: &[String]) {
    let dir = Path::new(&args[0]);
    let file = adapter(dir).file(dir.join("file")).unwrap();
    tell("ready");
    hear();
    for n in 0..20 {
        match args[1].as_str() {
            "forever" => file.write(n.to_string()).unwrap(),
            _ => file.lock_timeout(Duration::from_secs(30)).unwrap().write(n.to_string()).unwrap(),
        }
    }
    tell("done");
}

pub(crate) fn two_processes_of_four_writers_share_a_lock() {
    let scratch = Scratch::new();
    let mut processes = [scratch.worker("share", &[]), scratch.worker("share", &[])];
    processes.iter_mut().for_each(|process| process.expect("ready"));
    processes.iter_mut().for_each(|process| process.tell("go"));
    let counts = processes.each_mut().map(|process| process.hear().parse::<usize>().unwrap());
    let sum: usize = counts.iter().sum();
    eprintln!("two processes share a lock {counts:?}");
    assert_eq!(scratch.file("counter").read().unwrap().unwrap(), sum.to_string().as_bytes(), "increments are lost");
    assert!(counts.iter().all(|count| count * 10 >= sum * 3), "{counts:?}");
    processes.into_iter().for_each(Worker::finish);
}

pub(crate) fn share(args: &[String]) {
    let dir = Path::new(&args[0]);
    let file = adapter(dir).file(dir.join("counter")).unwrap();
    tell("ready");
    hear();
    let (begun, count) = (Instant::now(), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while begun.elapsed() < Duration::from_secs(3) {
                    file.update(next).unwrap();
                    count.fetch_add(1, SeqCst);
                }
            });
        }
    });
    tell(&count.into_inner().to_string());
}

pub(crate) fn a_reader_does_not_overtake_a_writer() {
    let scratch = Scratch::new();
    let file = scratch.file("file");
    let guard = file.lock_shared().unwrap();
    thread::scope(|scope| {
        let writer = spawn_until_in(scope, PARKED, || file.lock().map(drop));
        let overtakes = scope.spawn(|| said(&file.try_lock_shared())).join().unwrap();
        drop(guard);
        writer.join().unwrap().unwrap();
        assert_eq!(overtakes, "would block");
    });
}

pub(crate) fn a_reader_need_not_wait_until_others_have_woken_up() {
    const ROUNDS: usize = 100;
    let scratch = Scratch::new();
    let file = scratch.file("file");
    let mut refused = 0;
    for _ in 0..ROUNDS {
        let guard = file.lock().unwrap();
        thread::scope(|scope| {
            let sleeper = spawn_until_in(scope, PARKED, || file.lock_shared().map(drop));
            drop(guard);
            // The other process wakes up only after a while, and then asks the kernel only for a moment.
            refused += usize::from(file.try_lock_shared().is_err());
            sleeper.join().unwrap().unwrap();
        });
    }
    assert!(refused < ROUNDS / 2, "refused {refused} times of {ROUNDS}");
}

pub(crate) fn a_reader_may_join_a_reader_that_waits_for_it() {
    let scratch = Scratch::new();
    let file = scratch.file("file");
    file.write("contents").unwrap();
    let read_in_a_thread = || {
        let file = file.clone();
        let joined = thread::spawn(move || file.read()).join().unwrap();
        assert_eq!(joined.unwrap().unwrap(), b"contents");
    };
    let mut writer = scratch.worker("talk", &[]);
    let guard = file.lock_shared().unwrap();
    read_in_a_thread();
    // The process's turn ends only because of the time.
    thread::sleep(Duration::from_millis(25));
    read_in_a_thread();
    writer.tell("lock file");
    until_blocked(writer.pid(), &file);
    for _ in 0..3 {
        read_in_a_thread();
        thread::sleep(Duration::from_millis(25));
    }
    drop(guard);
    writer.expect("ok");
}

pub(crate) fn a_reader_is_never_refused_beside_readers() {
    let scratch = Scratch::new();
    let (one, two) = (scratch.file("one"), scratch.file("two"));
    let guard = one.lock_shared().unwrap();
    let (holds, held) = channel();
    let waiter = thread::scope(|scope| {
        let (one, two) = (&one, &two);
        // At the end of a turn, readers give way for a while to a writer of another process, which they cannot see.
        thread::sleep(Duration::from_millis(25));
        let reader = scope.spawn(move || {
            for micros in [0, 100, 1_000, 1_900] {
                drop(one.lock_shared_timeout(Duration::from_micros(micros)).unwrap());
                drop(one.try_lock_shared().unwrap());
            }
            // This is no deadlock either: the holder of `one` waits for `two`, and the holder of `two` can take `one`
            // here.
            let _two = two.lock().unwrap();
            holds.send(()).unwrap();
            thread::sleep(Duration::from_millis(25));
            for _ in 0..3 {
                drop(one.lock_shared().unwrap());
            }
        });
        held.recv().unwrap();
        drop(two.lock().unwrap());
        reader.join()
    });
    waiter.unwrap();
    drop(guard);
}

pub(crate) fn hundreds_of_threads_get_their_turn() {
    const THREADS: usize = 400;
    let scratch = Scratch::new();
    let file = scratch.file("counter");
    let guard = file.lock().unwrap();
    let begun = thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| file.update(|old| (count(old) + 1).to_string().into()).unwrap());
        }
        let begun = Instant::now();
        drop(guard);
        begun
    });
    eprintln!("{THREADS} threads, one update each: {:?}", begun.elapsed());
    assert_eq!(count(file.read().unwrap().as_deref()), THREADS);
}

fn count(contents: Option<&[u8]>) -> usize {
    contents.map_or(0, |contents| std::str::from_utf8(contents).unwrap().parse().unwrap())
}
