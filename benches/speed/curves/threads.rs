//! The effect of a second thread, and how long it takes until a waiting thread has the lock.

use std::fs::{self, File};
use std::hint::black_box;
use std::sync::{Barrier, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::{Bench, Curve, HAND_OVERS, LOCK_IN_TWO, Point, READ_IN_TWO, TO_THREAD, Unit, bare_lock};
use crate::contests::{SMALL, adapter, handle};
use crate::turns::{in_turns, time};

/// Much longer than the start of a thread.
const BATCH: Duration = Duration::from_millis(20);
const BUDGET: Duration = Duration::from_secs(3);

/// Two threads do the same work as one, each half of it and each with its own file. Half of the time would be the best.
pub fn two_threads(bench: &Bench) -> Vec<Curve> {
    let adapter = adapter(bench.dir);
    let paths = ["own-1", "own-2"].map(|name| bench.dir.join(name));
    paths.iter().for_each(|path| fs::write(path, SMALL).unwrap());
    let files = paths.each_ref().map(|path| adapter.file(path).unwrap());
    let bare_files = ["bare-1.lock", "bare-2.lock"].map(|name| File::create(bench.dir.join(name)).unwrap());
    let lock = |n: usize| drop(files[n].lock().unwrap());
    let read = |n: usize| drop(black_box(files[n].read().unwrap().unwrap()));
    let bare_lock = |n: usize| bare_lock(&bare_files[n]);
    let bare_read = |n: usize| drop(black_box(fs::read(&paths[n]).unwrap()));
    vec![scaling(LOCK_IN_TWO, &lock, &bare_lock, bench), scaling(READ_IN_TWO, &read, &bare_read, bench)]
}

/// Each thread does something to its own of two files.
type Once<'a> = &'a (dyn Fn(usize) + Sync);

fn scaling(name: &'static str, ours: Once, bare: Once, bench: &Bench) -> Curve {
    let mut runs: Vec<Box<dyn FnMut(u64) -> Duration + '_>> = Vec::new();
    for once in [ours, bare] {
        runs.push(Box::new(move |times| time(times, || once(0))));
        runs.push(Box::new(move |times| time_of_two(times, once)));
    }
    let [ours_alone, ours, bare_alone, bare] =
        in_turns(&mut runs, BATCH, BUDGET, bench.only_try).try_into().expect("one for each");
    let scaled = |two: Vec<f64>, one: Vec<f64>| two.iter().zip(one).map(|(two, one)| two / one).collect();
    let point = Point { at: "2 threads".into(), n: 2, ours: scaled(ours, ours_alone), bare: scaled(bare, bare_alone) };
    Curve { name, unit: Unit::Share, points: vec![point] }
}

/// The time from when both have begun until both have ended.
fn time_of_two(times: u64, once: Once) -> Duration {
    let both = Barrier::new(2);
    let half = |n| {
        both.wait();
        let start = Instant::now();
        (0..times.div_ceil(2)).for_each(|_| once(n));
        (start, Instant::now())
    };
    let ((start, end), (other_start, other_end)) = thread::scope(|scope| {
        let other = scope.spawn(|| half(1));
        (half(0), other.join().unwrap())
    });
    end.max(other_end).duration_since(start.min(other_start))
}

/// Bare: `std::sync::Mutex`.
pub fn hand_over(bench: &Bench) -> Vec<Curve> {
    let file = handle(bench.dir, "handed-over");
    let mutex = Mutex::new(());
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for round in 0..bench.rounds(HAND_OVERS) {
        let hold = bench.hold(round);
        ours.push(hand_over_once(|| file.lock().unwrap(), hold));
        bare.push(hand_over_once(|| mutex.lock().unwrap(), hold));
    }
    let point = Point { at: "held for 20 ms".into(), n: 1, ours, bare };
    vec![Curve { name: TO_THREAD, unit: Unit::Seconds, points: vec![point] }]
}

/// The time from just before one thread releases the lock until the other has it.
fn hand_over_once<G>(lock: impl Fn() -> G + Sync, hold: Duration) -> f64 {
    let held = lock();
    thread::scope(|scope| {
        let (begin, begun) = mpsc::channel();
        let lock = &lock;
        let waiter = scope.spawn(move || {
            begin.send(()).unwrap();
            let _held = lock();
            Instant::now()
        });
        begun.recv().unwrap();
        thread::sleep(hold);
        let released = Instant::now();
        drop(held);
        waiter.join().unwrap().duration_since(released).as_secs_f64()
    })
}
