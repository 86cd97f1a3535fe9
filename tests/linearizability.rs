//! Histories of one file, or of two files that some calls change as one: what the threads of several processes saw, and
//! when. They must be linearizable, and nobody may hold the lock while another thread holds it exclusively. The same
//! runs without the locks have to fail both checks.

mod common;

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use atomic_file_adapter::{AtomicFile, AtomicFileAdapter, Durability};
use common::{Worker, hear, say_what_is_left_out, tell, test, thorough_or};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};
use xxhash_rust::xxh3::xxh3_64;

fn main() -> ExitCode {
    say_what_is_left_out("nine tenths of the histories of one file, and four fifths of those of two");
    common::main(
        vec![
            test("the_checker_accepts_overlaps_that_some_order_explains", the_checker_accepts_overlaps),
            test("the_checker_rejects_a_stale_read_and_a_lost_update", the_checker_rejects),
            test("the_checker_rejects_the_half_of_a_change_of_two_files", the_checker_rejects_a_half),
            test("histories_of_four_processes_are_linearizable", histories_are_linearizable),
            test("histories_with_the_locks_off_are_not_linearizable", histories_with_the_locks_off_are_not),
            test("histories_of_two_files_are_linearizable", histories_of_two_files_are_linearizable),
            test(
                "histories_of_two_files_with_the_locks_off_are_not",
                histories_of_two_files_with_the_locks_off_are_not,
            ),
            test("no_hold_overlaps_an_exclusive_one_but_shared_ones_overlap", no_hold_overlaps_an_exclusive_one),
            test("exclusive_holds_with_the_locks_off_overlap", exclusive_holds_with_the_locks_off_overlap),
        ],
        &[("operate", operate), ("operate_on_two", operate_on_two), ("hold", hold)],
    )
}

/// Nanoseconds since a moment that is the same for all processes. [`Instant`] does not promise that.
fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec that lives longer than the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    assert_eq!(result, 0);
    u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).unwrap()
}

/// The times at which the work began and ended, and its result.
fn timed<R>(work: impl FnOnce() -> R) -> ((u64, u64), R) {
    let begin = now();
    let result = work();
    let end = now();
    // The thread's next operation must not seem to begin at the same time.
    while now() == end {}
    ((begin, end), result)
}

/// The same numbers in every run, so that a run can be repeated as far as the scheduler allows.
fn random(state: &mut u64, limit: u64) -> u64 {
    *state += 1;
    xxh3_64(&state.to_le_bytes()) % limit
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Read,
    Write(u64),
    /// See [`updated`].
    Update,
    Delete,
}

/// The file of an operation. Some histories have two.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Which {
    First,
    Second,
    /// Both as one. A delete of both does not tell what existed.
    Both,
}

impl Which {
    const ALL: [Which; 3] = [Which::First, Which::Second, Which::Both];

    fn concerns(self, file: usize) -> bool {
        self == Which::Both || self == Which::ALL[file]
    }
}

/// What an operation learns about each file: a read and an update see its value, a delete sees zero if the file
/// existed, and a write sees nothing.
type Ret = [Option<u64>; 2];

fn updated(old: Option<u64>) -> u64 {
    old.map_or(0, |old| old + 1)
}

/// The finished operations, one bit each, and the values.
type State = (u64, [Option<u64>; 2]);

/// The files if one caller at a time uses them.
#[derive(Clone, Default)]
struct Contents {
    state: State,
    /// The states that the tester's search has seen, shared by all its branches.
    been: Rc<RefCell<HashSet<State>>>,
}

impl SequentialSpec for Contents {
    /// The operation, with its number in the history.
    type Op = (usize, Which, Op);
    type Ret = Ret;

    fn invoke(&mut self, &(number, which, op): &(usize, Which, Op)) -> Ret {
        let (done, mut contents) = self.state;
        let mut ret = [None; 2];
        for file in (0..2).filter(|file| which.concerns(*file)) {
            let old = contents[file];
            (contents[file], ret[file]) = match op {
                Op::Read => (old, old),
                Op::Write(new) => (Some(new), None),
                Op::Update => (Some(updated(old)), old),
                Op::Delete => (None, old.and(Some(0)).filter(|_| which != Which::Both)),
            };
        }
        self.state = (done | 1 << number, contents);
        ret
    }

    /// After a valid step the tester searches on from there, and comes back only if that led nowhere. It remembers
    /// nothing, and would search for hours. But the possible rest depends only on the values and on the set of finished
    /// operations, not on their order. So a state that was searched once need not be searched again.
    fn is_valid_step(&mut self, op: &(usize, Which, Op), ret: &Ret) -> bool {
        self.invoke(op) == *ret && self.been.borrow_mut().insert(self.state)
    }
}

/// One operation, or one hold of a lock: a shared hold as a read, an exclusive one as an update.
#[derive(Clone, Copy, Debug)]
struct Event {
    thread: u64,
    time: (u64, u64),
    which: Which,
    op: Op,
    ret: Ret,
}

impl Event {
    fn to_line(self) -> String {
        let Event { thread, time: (begin, end), which, op, ret } = self;
        let which = Which::ALL.iter().position(|it| *it == which).unwrap();
        let op = match op {
            Op::Read => 0,
            Op::Update => 1,
            Op::Delete => 2,
            Op::Write(value) => value,
        };
        let [first, second] = ret.map(|ret| ret.unwrap_or(u64::MAX));
        format!("{thread} {begin} {end} {which} {op} {first} {second}")
    }

    fn from_line(line: &str) -> Self {
        let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        let [thread, begin, end, which, op, first, second] = numbers.try_into().unwrap();
        let which = Which::ALL[usize::try_from(which).unwrap()];
        let op = match op {
            0 => Op::Read,
            1 => Op::Update,
            2 => Op::Delete,
            value => Op::Write(value),
        };
        let ret = [first, second].map(|ret| (ret != u64::MAX).then_some(ret));
        Event { thread, time: (begin, end), which, op, ret }
    }
}

/// Whether some order of the operations explains what each returned, with each operation between its call and its end.
fn is_linearizable(history: &[Event]) -> bool {
    assert!(history.len() <= 64, "a state has 64 bits");
    let moments = |(number, event): (usize, &Event)| [(event.time.0, false, number), (event.time.1, true, number)];
    let mut moments: Vec<(u64, bool, usize)> = history.iter().enumerate().flat_map(moments).collect();
    // At equal times calls come before ends, because it is not known which was first. Two overlapping operations may
    // have happened in either order, and the other choice could exclude the real one.
    moments.sort_unstable();
    let mut tester = LinearizabilityTester::new(Contents::default());
    for (_, is_end, number) in moments {
        let Event { thread, which, op, ret, .. } = history[number];
        if is_end { tester.on_return(thread, ret) } else { tester.on_invoke(thread, (number, which, op)) }.unwrap();
    }
    tester.is_consistent()
}

/// How many pairs that count overlap in time.
fn overlaps(events: &[Event], counts: fn(&Event, &Event) -> bool) -> usize {
    let mut sorted = events.to_vec();
    sorted.sort_by_key(|event| event.time);
    let others = |(index, one): (usize, &Event)| {
        let later = sorted[index + 1..].iter().take_while(|other| other.time.0 < one.time.1);
        later.filter(|other| counts(one, other)).count()
    };
    sorted.iter().enumerate().map(others).sum()
}

/// An operation on one file: thread, times, operation, and result.
type Seen = (u64, (u64, u64), Op, Option<u64>);

fn explained<const N: usize>(history: [Seen; N]) -> bool {
    is_linearizable(&history.map(|(thread, time, op, ret)| Event {
        thread,
        time,
        which: Which::First,
        op,
        ret: [ret, None],
    }))
}

fn the_checker_accepts_overlaps() {
    assert!(explained([
        (0, (0, 9), Op::Write(5), None),
        (1, (1, 2), Op::Read, None),
        (1, (3, 4), Op::Update, Some(5)),
        (2, (3, 8), Op::Delete, Some(0)),
        (1, (5, 6), Op::Read, Some(6)),
        // It was called when the delete ended, so it may come before the delete.
        (3, (8, 9), Op::Read, Some(6)),
    ]));
}

fn the_checker_rejects() {
    assert!(!explained([(0, (0, 1), Op::Write(5), None), (1, (2, 3), Op::Read, None)]), "a stale read");
    assert!(!explained([(0, (0, 3), Op::Update, None), (1, (1, 2), Op::Update, None)]), "a lost update");
}

fn the_checker_rejects_a_half() {
    let write = Event { thread: 0, time: (0, 5), which: Which::Both, op: Op::Write(5), ret: [None; 2] };
    let read = |time, which, ret| Event { thread: 1, time, which, op: Op::Read, ret };
    let looks_at = |first, second| [write, read((1, 2), Which::First, first), read((3, 4), Which::Second, second)];
    let both = |ret| [write, read((1, 4), Which::Both, ret)];
    assert!(is_linearizable(&both([Some(5); 2])) && is_linearizable(&both([None; 2])));
    assert!(!is_linearizable(&both([Some(5), None])) && !is_linearizable(&both([None, Some(5)])));
    // Two reads one after the other may be before and after it, but not in the reverse order.
    assert!(is_linearizable(&looks_at([None; 2], [None, Some(5)])));
    assert!(!is_linearizable(&looks_at([Some(5), None], [None; 2])));
}

const THREADS: u64 = 3;
const OPERATIONS: u64 = 6;

/// Processes of [`THREADS`] threads each, which use the same files at the same time.
struct Crowd {
    workers: Vec<Worker>,
    _dir: tempfile::TempDir,
}

impl Crowd {
    fn start(work: &str, processes: u64, locks: &str) -> Self {
        // In memory if possible, because these tests are about order, and not about disks.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let path = dir.path().to_str().unwrap();
        let start = |process: u64| Worker::start(work, &[path, locks, &process.to_string()]);
        Crowd { workers: (0..processes).map(start).collect(), _dir: dir }
    }

    /// Sends all threads to the place with this number. Returns their events.
    fn visit(&mut self, place: u64) -> Vec<Event> {
        self.workers.iter_mut().for_each(|worker| worker.tell(&place.to_string()));
        let mut events = Vec::new();
        for worker in &mut self.workers {
            let count: usize = worker.hear().parse().unwrap();
            events.extend((0..count).map(|_| Event::from_line(&worker.hear())));
        }
        events
    }
}

/// The work of a thread at a place: its adapter, the place's path, its own number and a seed.
type Visit = fn(&AtomicFileAdapter, &Path, u64, u64) -> Vec<Event>;

/// The worker's side of [`Crowd::visit`].
fn visits(args: &[String], visit: Visit) {
    let (dir, process) = (Path::new(&args[0]), args[2].parse::<u64>().unwrap());
    while let Ok(place) = hear().parse::<u64>() {
        let all_here = Barrier::new(usize::try_from(THREADS).unwrap());
        let thread = |thread: u64| {
            // Without locks, each thread has its own lock directory, and everything else is the same.
            let locks = if args[1] == "on" { "locks".to_owned() } else { format!("locks-{thread}") };
            let builder = AtomicFileAdapter::builder().lock_dir(dir.join(locks)).durability(Durability::None);
            let adapter = builder.build().unwrap();
            all_here.wait();
            visit(&adapter, &dir.join(place.to_string()), thread, (place << 32) | (thread << 16))
        };
        let lines: Vec<String> = thread::scope(|scope| {
            let numbers = process * THREADS..(process + 1) * THREADS;
            let threads: Vec<_> = numbers.map(|number| scope.spawn(move || thread(number))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).map(Event::to_line).collect()
        });
        tell(&format!("{}\n{}", lines.len(), lines.join("\n")));
    }
}

fn operate(args: &[String]) {
    visits(args, |adapter, place, thread, mut seed| {
        let path = place.with_extension((thread % 2).to_string());
        let kept = adapter.file(&path).unwrap();
        let operation = |number| {
            // Looking the file up again opens its lock file again, which must not drop the holder's lock.
            let file = if random(&mut seed, 2) == 0 { kept.clone() } else { adapter.file(&path).unwrap() };
            let op = match random(&mut seed, 8) {
                0..3 => Op::Read,
                // The values are unique, even after some updates, so that a read shows whose write it saw.
                3 => Op::Write((thread * OPERATIONS + number + 1) << 16),
                4..7 => Op::Update,
                _ => Op::Delete,
            };
            let (time, ret) = timed(|| perform(&file, op));
            Event { thread, time, which: Which::First, op, ret: [ret, None] }
        };
        (0..OPERATIONS).map(operation).collect()
    });
}

fn parse(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}

fn perform(file: &AtomicFile, op: Op) -> Option<u64> {
    let mut ret = None;
    match op {
        Op::Read => ret = file.read().unwrap().as_deref().map(parse),
        Op::Write(value) => file.write(value.to_le_bytes()).unwrap(),
        Op::Update => file
            .update(|old| {
                ret = old.map(parse);
                updated(ret).to_le_bytes().into()
            })
            .unwrap(),
        Op::Delete => ret = file.delete().unwrap().then_some(0),
    }
    ret
}

/// The same on two files. Half of the operations change both as one.
fn operate_on_two(args: &[String]) {
    visits(args, |adapter, place, thread, mut seed| {
        let paths = ["0", "1"].map(|file| place.with_extension(file));
        let operation = |number| {
            let op = match random(&mut seed, 8) {
                0..3 => Op::Read,
                3..5 => Op::Write((thread * OPERATIONS + number + 1) << 16),
                5..7 => Op::Update,
                _ => Op::Delete,
            };
            let which = [Which::First, Which::Second, Which::Both, Which::Both][random(&mut seed, 4) as usize];
            let (time, ret) = timed(|| match which {
                Which::First => [perform(&adapter.file(&paths[0]).unwrap(), op), None],
                Which::Second => [None, perform(&adapter.file(&paths[1]).unwrap(), op)],
                Which::Both => perform_on_both(adapter, &paths, op),
            });
            Event { thread, time, which, op, ret }
        };
        (0..OPERATIONS).map(operation).collect()
    });
}

fn perform_on_both(adapter: &AtomicFileAdapter, paths: &[PathBuf; 2], op: Op) -> Ret {
    let mut ret = [None; 2];
    match op {
        Op::Read => {
            let guards = adapter.lock_many_shared(paths).unwrap();
            ret = [0, 1].map(|file| guards[file].read().unwrap().as_deref().map(parse));
        }
        Op::Write(value) => {
            let value = value.to_le_bytes();
            adapter.batch().write(&paths[0], value).write(&paths[1], value).commit_all().unwrap();
        }
        Op::Update => adapter
            .update_many(paths, |old| {
                ret = [0, 1].map(|file| old[file].as_deref().map(parse));
                ret.map(|old| Some(updated(old).to_le_bytes().into())).into()
            })
            .unwrap(),
        Op::Delete => adapter.batch().delete(&paths[0]).delete(&paths[1]).commit_all().unwrap(),
    }
    ret
}

/// Histories of four processes. Each place gives two: the threads of every process are divided between two files. The
/// histories are many and short, with six threads each, because the check is exponential in the number of overlapping
/// operations.
fn histories(locks: &str, places: u64) -> impl Iterator<Item = Vec<Event>> {
    let mut crowd = Crowd::start("operate", 4, locks);
    (0..places).flat_map(move |place| {
        let (even, odd) = crowd.visit(place).into_iter().partition(|event| event.thread % 2 == 0);
        [even, odd]
    })
}

fn histories_are_linearizable() {
    let start = Instant::now();
    let (mut count, mut operations, mut overlapping) = (0, 0, 0);
    for history in histories("on", thorough_or(1_400, 140)) {
        count += 1;
        operations += history.len();
        overlapping += overlaps(&history, |_, _| true);
        assert!(is_linearizable(&history), "no order explains {history:#?}");
    }
    eprintln!("{operations} operations, {overlapping} overlaps, {count} histories, {:.1?}", start.elapsed());
    assert!(operations >= thorough_or(100_000, 10_000));
    assert!(overlapping > operations / 10, "{overlapping} overlaps in {operations} operations show nothing");
}

fn histories_with_the_locks_off_are_not() {
    let rejected = histories("off", 1_000).position(|history| !is_linearizable(&history));
    eprintln!("{} histories were checked until one was rejected", 1 + rejected.expect("one that is not linearizable"));
}

fn histories_of_two_files(locks: &str, places: u64) -> impl Iterator<Item = Vec<Event>> {
    let mut crowd = Crowd::start("operate_on_two", 2, locks);
    (0..places).map(move |place| crowd.visit(place))
}

fn histories_of_two_files_are_linearizable() {
    let (mut operations, mut overlapping) = (0, 0);
    for history in histories_of_two_files("on", thorough_or(300, 60)) {
        operations += history.len();
        // Counts an operation on both files that overlaps with one on one of them.
        overlapping += overlaps(&history, |one, other| (one.which == Which::Both) != (other.which == Which::Both));
        assert!(is_linearizable(&history), "no order explains {history:#?}");
    }
    eprintln!("{operations} operations on two files, {overlapping} overlaps of both with one");
    assert!(overlapping > operations / 20, "{overlapping} overlaps in {operations} operations show nothing");
}

fn histories_of_two_files_with_the_locks_off_are_not() {
    let rejected = histories_of_two_files("off", 1_000).position(|history| !is_linearizable(&history));
    eprintln!("{} histories were checked until one was rejected", 1 + rejected.expect("one that is not linearizable"));
}

fn hold(args: &[String]) {
    visits(args, |adapter, path, thread, mut seed| {
        let file = adapter.file(path).unwrap();
        let hold = |_| {
            let op = if random(&mut seed, 4) == 0 { Op::Update } else { Op::Read };
            let _guard = match op {
                Op::Update => (Some(file.lock().unwrap()), None),
                _ => (None, Some(file.lock_shared().unwrap())),
            };
            // Gives other threads time to take the lock, if they can.
            let (time, ()) = timed(|| (0..3).for_each(|_| thread::yield_now()));
            Event { thread, time, which: Which::First, op, ret: [None; 2] }
        };
        (0..500).map(hold).collect()
    });
}

const EXCLUSIVE: fn(&Event, &Event) -> bool = |one, other| one.op == Op::Update || other.op == Op::Update;

fn no_hold_overlaps_an_exclusive_one() {
    let holds = Crowd::start("hold", 3, "on").visit(0);
    assert_eq!(overlaps(&holds, EXCLUSIVE), 0);
    // A thread's own holds do not overlap, so these are of different threads.
    let within = overlaps(&holds, |one, other| one.thread / THREADS == other.thread / THREADS);
    let across = overlaps(&holds, |one, other| one.thread / THREADS != other.thread / THREADS);
    eprintln!("{} holds, shared ones overlap {within} times in a process, {across} between two", holds.len());
    assert!(within > 0 && across > 0, "sharing was not tested");
}

fn exclusive_holds_with_the_locks_off_overlap() {
    let holds = Crowd::start("hold", 3, "off").visit(0);
    assert!(overlaps(&holds, EXCLUSIVE) > 0);
}
