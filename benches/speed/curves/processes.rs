//! How long it takes until another process has the lock, how many turns each process gets, and the cost of a wait.

use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use rustix::fs::FlockOperation;

use super::{Bench, CPU, Curve, HAND_OVERS, Point, TO_LOCK, TO_TIMEOUT, TURNS, TURNS_A_SECOND, Unit};
use crate::contests::handle;
use crate::helpers::{Helper, answer};
use crate::report::percentile;

/// Much longer than anything that is measured.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a turn lasts. The holder sleeps, so that eight processes do not wait for two processors.
const TURN: Duration = Duration::from_micros(200);
const TURNS_LAST: Duration = Duration::from_secs(1);
const ROUNDS_OF_TURNS: usize = 5;
const WAIT: Duration = Duration::from_secs(3);

const LOCK: &str = "lock";
const LOCK_TIMEOUT: &str = "lock_timeout";
const SETLKW: &str = "F_SETLKW";

/// Bare: both processes use bare calls, and the waiting one sleeps in F_SETLKW.
pub fn hand_over(bench: &Bench) -> Vec<Curve> {
    let file = handle(bench.dir, "to-a-process");
    let mut waiters = [LOCK, LOCK_TIMEOUT, SETLKW].map(|way| Helper::curve("wait", way, bench.dir));
    let [lock, lock_timeout, setlkw] = &mut waiters;
    let [mut to_lock, mut to_timeout, mut bare] = [const { Vec::new() }; 3];
    for round in 0..bench.rounds(HAND_OVERS) {
        let hold = bench.hold(round);
        to_lock.push(hand_over_once(|| file.lock().unwrap(), lock, hold));
        to_timeout.push(hand_over_once(|| file.lock().unwrap(), lock_timeout, hold));
        bare.push(hand_over_once(|| locked_file(bench.dir, FlockOperation::LockExclusive), setlkw, hold));
    }
    let curve = |name, ours: Vec<f64>| {
        let p90 = |seconds: &[f64]| vec![percentile(90, seconds.iter().copied())];
        let slow = Point { at: "the same, 90th percentile".into(), n: 1, ours: p90(&ours), bare: p90(&bare) };
        let usual = Point { at: "held for 20 ms".into(), n: 1, ours, bare: bare.clone() };
        Curve { name, unit: Unit::Seconds, points: vec![usual, slow] }
    };
    vec![curve(TO_LOCK, to_lock), curve(TO_TIMEOUT, to_timeout)]
}

/// The time from just before this process releases the lock until the other process has it.
fn hand_over_once<G>(lock: impl Fn() -> G, waiter: &mut Helper, hold: Duration) -> f64 {
    let held = lock();
    waiter.tell(1);
    // The other process is about to ask for the lock.
    waiter.hear();
    thread::sleep(hold);
    let released = seconds_of(ClockId::CLOCK_MONOTONIC);
    drop(held);
    waiter.hear() - released
}

/// The file with a lock until it is closed.
fn locked_file(dir: &Path, how: FlockOperation) -> File {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(dir.join("bare-process.lock"))
        .unwrap();
    rustix::fs::fcntl_lock(&file, how).unwrap();
    file
}

/// The seconds of a clock that is the same for all processes, or the processor time of this process.
fn seconds_of(clock: ClockId) -> f64 {
    Duration::from(clock_gettime(clock).unwrap()).as_secs_f64()
}

/// Processes that use one file in a loop, half of them with a deadline: how many turns those got compared with the
/// others, and how many all of them had. Bare: all of them open the lock file, sleep in F_SETLKW and close it.
pub fn turns(bench: &Bench) -> Vec<Curve> {
    let (mut shares, mut all) = (Vec::new(), Vec::new());
    for (processes, reads) in [(2, "50% reads"), (2, "90% reads"), (8, "50% reads"), (8, "90% reads")] {
        let start = |way, processes| -> Vec<Helper> {
            let mut helpers: Vec<_> = (0..processes).map(|_| Helper::curve(reads, way, bench.dir)).collect();
            // Each of them runs when it has answered.
            turns_in(Duration::ZERO, helpers.iter_mut());
            helpers
        };
        let mut ours: Vec<_> = [LOCK, LOCK_TIMEOUT].into_iter().flat_map(|way| start(way, processes / 2)).collect();
        let mut bare = start(SETLKW, processes);
        let lasts = bench.lasting(TURNS_LAST);
        let [mut share, mut ours_a_second, mut bare_a_second] = [const { Vec::new() }; 3];
        for _ in 0..bench.rounds(ROUNDS_OF_TURNS) {
            let turns = turns_in(lasts, ours.iter_mut());
            let (without, with) = turns.split_at(processes / 2);
            share.push(with.iter().sum::<f64>() / without.iter().sum::<f64>().max(1.0));
            ours_a_second.push(turns.iter().sum::<f64>() / lasts.as_secs_f64());
            bare_a_second.push(turns_in(lasts, bare.iter_mut()).iter().sum::<f64>() / lasts.as_secs_f64());
        }
        let at = format!("{processes} processes, {reads}");
        shares.push(Point { at: at.clone(), n: processes, ours: share, bare: Vec::new() });
        all.push(Point { at, n: processes, ours: ours_a_second, bare: bare_a_second });
    }
    vec![
        Curve { name: TURNS, unit: Unit::Share, points: shares },
        Curve { name: TURNS_A_SECOND, unit: Unit::Number, points: all },
    ]
}

/// The number of turns of each.
fn turns_in<'a>(time: Duration, helpers: impl Iterator<Item = &'a mut Helper>) -> Vec<f64> {
    let mut helpers: Vec<_> = helpers.collect();
    helpers.iter_mut().for_each(|helper| helper.tell(time.as_millis() as u64));
    helpers.iter_mut().map(|helper| helper.hear()).collect()
}

/// The processor time of a process that waits until its deadline.
pub fn cpu(bench: &Bench) -> Vec<Curve> {
    let file = handle(bench.dir, "to-a-process");
    let wait = bench.lasting(WAIT);
    let _held = file.lock().unwrap();
    let mut waiter = Helper::curve("cpu", LOCK_TIMEOUT, bench.dir);
    waiter.tell(wait.as_millis() as u64);
    let ours = vec![waiter.hear() / wait.as_secs_f64()];
    let point = Point { at: "waits for 3 s".into(), n: 1, ours, bare: Vec::new() };
    vec![Curve { name: CPU, unit: Unit::PerCent, points: vec![point] }]
}

/// In another process: answers requests.
pub fn help(role: &str, way: &str, dir: &Path) {
    let file = handle(dir, "to-a-process");
    match role {
        "wait" => answer(|_| {
            println!("0");
            let inside = || seconds_of(ClockId::CLOCK_MONOTONIC);
            match way {
                LOCK => {
                    let _held = file.lock().unwrap();
                    inside()
                }
                LOCK_TIMEOUT => {
                    let _held = file.lock_timeout(LIMIT).unwrap();
                    inside()
                }
                _ => {
                    let _held = locked_file(dir, FlockOperation::LockExclusive);
                    inside()
                }
            }
        }),
        "cpu" => answer(|milliseconds| {
            let before = seconds_of(ClockId::CLOCK_PROCESS_CPUTIME_ID);
            file.lock_timeout(Duration::from_millis(milliseconds)).expect_err("somebody else holds it");
            seconds_of(ClockId::CLOCK_PROCESS_CPUTIME_ID) - before
        }),
        reads => {
            let reads = if reads.contains("90%") { 9 } else { 5 };
            // As in the contests of processes.
            let first = u64::from(std::process::id());
            let is_read = move |turn: u64| (first + turn * 7) % 10 < reads;
            let turn = |read: bool| match (read, way) {
                (true, SETLKW) => asleep_under(locked_file(dir, FlockOperation::LockShared)),
                (false, SETLKW) => asleep_under(locked_file(dir, FlockOperation::LockExclusive)),
                (true, LOCK) => asleep_under(file.lock_shared().unwrap()),
                (true, _) => asleep_under(file.lock_shared_timeout(LIMIT).unwrap()),
                (false, LOCK) => asleep_under(file.lock().unwrap()),
                (false, _) => asleep_under(file.lock_timeout(LIMIT).unwrap()),
            };
            answer(|milliseconds| {
                let end = Instant::now() + Duration::from_millis(milliseconds);
                // A turn that ends later does not count in this round.
                let in_time = |n: &u64| {
                    turn(is_read(*n));
                    Instant::now() < end
                };
                if milliseconds == 0 { 0.0 } else { (0..).take_while(in_time).count() as f64 }
            });
        }
    }
}

fn asleep_under<G>(_held: G) {
    thread::sleep(TURN);
}
