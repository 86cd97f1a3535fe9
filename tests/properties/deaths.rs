//! Processes work on a few files and are killed at any moment. Nothing that was acknowledged is lost, nothing is torn,
//! every lock is free, and a sweep leaves nothing but files.
//!
//! Each operation writes its beginning and its end to a history, which is a file that all processes append to. So its
//! order is a possible order of the operations.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use atomic_file_adapter::{AtomicFileAdapter, Durability};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use crate::common::{Scratch, Worker, hear, names, tell};
use crate::{check, this_file};

/// The files. The directory of the second is missing at first.
const REGISTERS: [&str; 2] = ["register", "below/register"];
const COUNTERS: [&str; 2] = ["counter", "below/counter"];

#[derive(Debug, Clone, Copy)]
enum Operation {
    /// The number of the register, and the number of bytes.
    Write(usize, usize),
    /// Written in so many pieces.
    Stream(usize, usize, usize),
    /// A stream that is dropped without a commit.
    Abandon(usize, usize),
    Delete(usize),
    /// Both registers.
    Batch(usize),
    /// The number of the counter.
    Count(usize),
    Read,
    Prune,
    Sweep,
}

use Operation::*;

#[derive(Debug, Clone)]
struct Life {
    /// The operations, which it repeats.
    operations: Vec<Operation>,
    rounds: usize,
    death: Death,
}

#[derive(Debug, Clone, Copy)]
enum Death {
    None,
    /// From outside, after it has reported so many operations as done: during one of the later ones.
    After(usize),
    /// In the operation of this number, before the system call of this number.
    Before(usize, usize),
}

fn life() -> impl Strategy<Value = Life> {
    let size = prop_oneof![0..300usize, 0..60_000usize];
    let operation = prop_oneof![
        3 => (0..2usize, size.clone()).prop_map(|(register, size)| Write(register, size)),
        2 => (0..2usize, size.clone(), 0..5usize).prop_map(|(register, size, pieces)| Stream(register, size, pieces)),
        1 => (0..2usize, size.clone()).prop_map(|(register, size)| Abandon(register, size)),
        1 => (0..2usize).prop_map(Delete),
        2 => size.prop_map(Batch),
        4 => (0..2usize).prop_map(Count),
        1 => Just(Read),
        1 => Just(Prune),
        1 => Just(Sweep),
    ];
    (vec(operation, 1..12), 1..15usize).prop_flat_map(|(operations, rounds)| {
        let count = operations.len() * rounds;
        let before = (0..count, prop_oneof![4 => 0..22usize, 1 => 0..60usize])
            .prop_map(|(operation, call)| Death::Before(operation, call));
        let death = prop_oneof![3 => Just(Death::None), 4 => (0..count).prop_map(Death::After), 6 => before];
        (Just(operations), Just(rounds), death).prop_map(|(operations, rounds, death)| Life {
            operations,
            rounds,
            death,
        })
    })
}

pub fn killed_processes_lose_and_hold_nothing() {
    let durability =
        prop_oneof![18 => Just(Durability::None), 1 => Just(Durability::Ordered), 1 => Just(Durability::Full)];
    // A failure depends on chance. After the first failure, the simpler cases get more attempts.
    let has_failed = Cell::new(false);
    check(this_file!(), 60, &(vec(life(), 1..5), durability), |(lives, durability)| {
        let chances = if has_failed.get() { 10 } else { 1 };
        let result = (0..chances).try_for_each(|_| live_and_die(&lives, durability));
        has_failed.set(has_failed.get() || result.is_err());
        result
    });
}

fn live_and_die(lives: &[Life], durability: Durability) -> TestCaseResult {
    let scratch = crate::scratch();
    File::create(history(&scratch.files))?;
    let mut workers: Vec<Worker> = lives
        .iter()
        .enumerate()
        .map(|(number, life)| {
            let plan = format!("{number} {durability:?} {}", written(life));
            Worker::start("operate", &[scratch.files.to_str().unwrap(), &plan])
        })
        .collect();
    workers.iter_mut().for_each(|worker| worker.expect("ready"));
    workers.iter_mut().for_each(|worker| worker.tell("go"));
    std::thread::scope(|scope| {
        let watches: Vec<_> = workers
            .into_iter()
            .zip(lives)
            .enumerate()
            .map(|(number, (worker, life))| {
                let files = &scratch.files;
                scope.spawn(move || watch(worker, number, life, files))
            })
            .collect();
        watches.into_iter().try_for_each(|watch| watch.join().unwrap())
    })?;
    judge(&scratch, lives)
}

/// Kills a worker at its time, and waits for its end.
fn watch(mut worker: Worker, number: usize, life: &Life, files: &Path) -> TestCaseResult {
    let (mut done, mut came_to_its_end) = (0, false);
    loop {
        if matches!(life.death, Death::After(count) if count == done) {
            worker.kill();
            // Its earlier messages have to be read.
        }
        match &*worker.hear() {
            "done" => done += 1,
            "end" => came_to_its_end = true,
            "" => break,
            line => return Err(TestCaseError::fail(line.to_owned())),
        }
    }
    let killed = worker.signal() == Some(libc::SIGKILL);
    note(files, &format!("dead {number} 0"));
    prop_assert!(came_to_its_end || killed, "worker {} failed; see what it says above", number);
    Ok(())
}

// The worker.

fn written(life: &Life) -> String {
    let (operation, call) = match life.death {
        Death::Before(operation, call) => (operation, call),
        Death::None | Death::After(_) => (usize::MAX, 0),
    };
    let operations = life.operations.iter().map(|operation| match operation {
        Write(register, size) => format!("write,{register},{size}"),
        Stream(register, size, pieces) => format!("stream,{register},{size},{pieces}"),
        Abandon(register, size) => format!("abandon,{register},{size}"),
        Delete(register) => format!("delete,{register}"),
        Batch(size) => format!("batch,{size}"),
        Count(counter) => format!("count,{counter}"),
        Read => "read".to_owned(),
        Prune => "prune".to_owned(),
        Sweep => "sweep".to_owned(),
    });
    let round = operations.collect::<Vec<_>>().join(" ");
    format!("{operation} {call} {}", [&*round].repeat(life.rounds).join(" "))
}

fn operation(text: &str) -> Operation {
    let mut words = text.split(',');
    let verb = words.next().unwrap();
    let mut number = || words.next().unwrap().parse().unwrap();
    match verb {
        "write" => Write(number(), number()),
        "stream" => Stream(number(), number(), number()),
        "abandon" => Abandon(number(), number()),
        "delete" => Delete(number()),
        "batch" => Batch(number()),
        "count" => Count(number()),
        "read" => Read,
        "prune" => Prune,
        "sweep" => Sweep,
        _ => panic!("{text}"),
    }
}

pub fn operate(args: &[String]) {
    let [files, plan] = args else { panic!("{args:?}") };
    let files = Path::new(files);
    let words: Vec<&str> = plan.split(' ').collect();
    let [worker, durability, last, call, operations @ ..] = &*words else { panic!("{words:?}") };
    let (last, call): (usize, usize) = (last.parse().unwrap(), call.parse().unwrap());
    let durability = match *durability {
        "None" => Durability::None,
        "Ordered" => Durability::Ordered,
        _ => Durability::Full,
    };
    let adapter = AtomicFileAdapter::builder()
        .lock_dir(files.parent().unwrap().join("locks"))
        .durability(durability)
        // A lock that is never released must be an error, and not hang the test.
        .lock_timeout(Duration::from_secs(30))
        .build()
        .unwrap();
    tell("ready");
    assert_eq!(hear(), "go");
    for (number, text) in operations.iter().enumerate() {
        // Read before the register is replaced by a complete version.
        look(&adapter, files).unwrap();
        let tag = tag(worker.parse().unwrap(), number);
        note(files, &format!("start {worker} {number}"));
        let body = || run(operation(text), &adapter, files, tag).unwrap();
        if number == last {
            dying_before(call, body)
        } else {
            body()
        }
        note(files, &format!("end {worker} {number}"));
        tell("done");
    }
    tell("end");
}

fn run(operation: Operation, adapter: &AtomicFileAdapter, files: &Path, tag: u64) -> atomic_file_adapter::Result<()> {
    let register = |which: usize| files.join(REGISTERS[which]);
    match operation {
        Write(which, size) => adapter.write_atomic(register(which), version(tag, size))?,
        Stream(which, size, pieces) => {
            let (file, version) = (adapter.file(register(which))?, version(tag, size));
            let guard = file.lock()?;
            let mut writer = guard.writer()?;
            for piece in version.chunks(version.len() / (pieces + 1) + 1) {
                writer.write_all(piece).unwrap();
            }
            writer.commit()?;
        }
        Abandon(which, size) => {
            adapter.file(register(which))?.lock()?.writer()?.write_all(&version(tag, size)).unwrap()
        }
        Delete(which) => drop(adapter.delete_with_lock(register(which))?),
        Batch(size) => adapter
            .batch()
            .write(register(0), version(tag, size))
            .write(register(1), version(tag, size / 2))
            .commit()?,
        Count(which) => adapter.update(files.join(COUNTERS[which]), |old| {
            let count = old.map_or(0, |old| whole(old).expect("a torn counter"));
            // Gives other processes a chance to come in between.
            std::thread::yield_now();
            version(count + 1, usize::try_from(count * 7919 % 9000).unwrap())
        })?,
        Read => look(adapter, files)?,
        Prune => drop(adapter.prune()?),
        Sweep => {
            adapter.sweep(files)?;
            if files.join("below").exists() {
                adapter.sweep(files.join("below"))?;
            }
        }
    }
    Ok(())
}

/// Reads everything.
fn look(adapter: &AtomicFileAdapter, files: &Path) -> atomic_file_adapter::Result<()> {
    for file in REGISTERS.iter().chain(&COUNTERS) {
        if let Some(version) = adapter.read_with_lock(files.join(file))? {
            whole(&version).expect("a torn version");
        }
    }
    Ok(())
}

#[cfg(feature = "fault-injection")]
fn dying_before(number: usize, body: impl FnOnce()) {
    use atomic_file_adapter::fault::{Action, inject};
    inject(move |call| if call.number == number { Action::Kill } else { Action::Proceed }, body);
}

#[cfg(not(feature = "fault-injection"))]
fn dying_before(_: usize, body: impl FnOnce()) {
    body();
}

fn history(files: &Path) -> PathBuf {
    files.parent().unwrap().join("history")
}

fn note(files: &Path, line: &str) {
    // In one call, so that lines are never mixed.
    let line = format!("{line}\n");
    OpenOptions::new().append(true).open(history(files)).unwrap().write_all(line.as_bytes()).unwrap();
}

/// The tag of the versions that an operation of a worker writes.
fn tag(worker: usize, number: usize) -> u64 {
    (worker * 1000 + number).try_into().unwrap()
}

/// Contents with the tag, and with their checksum at the end.
fn version(tag: u64, size: usize) -> Vec<u8> {
    let mut version = tag.to_le_bytes().to_vec();
    version.extend(version.clone().into_iter().cycle().take(size));
    version.extend(xxhash_rust::xxh3::xxh3_64(&version).to_le_bytes());
    version
}

/// The tag of a version. `None`: the version is torn.
fn whole(version: &[u8]) -> Option<u64> {
    let (version, sum) = version.split_last_chunk()?;
    let tag = u64::from_le_bytes(*version.first_chunk()?);
    (xxhash_rust::xxh3::xxh3_64(version).to_le_bytes() == *sum).then_some(tag)
}

// The judge.

/// A change in the history.
#[derive(Debug)]
struct Change {
    operation: Operation,
    tag: u64,
    start: usize,
    /// The latest possible end of the change.
    end: usize,
    acknowledged: bool,
}

fn judge(scratch: &Scratch, lives: &[Life]) -> TestCaseResult {
    let history = std::fs::read_to_string(history(&scratch.files))?;
    let changes = changes(&history, lives);
    for (which, name) in REGISTERS.iter().enumerate() {
        // Must not wait: the kernel has released the locks of the dead processes.
        let found = scratch.adapter.file(scratch.path(name))?.try_lock()?.read()?;
        let tag = match found.as_deref().map(whole) {
            Some(None) => return Err(TestCaseError::fail(format!("{name} is torn\n{history}"))),
            tag => tag.flatten(),
        };
        prop_assert!(may_be_last(tag, which, &changes), "{} has {:?} after\n{}", name, tag, history);
    }
    for (which, name) in COUNTERS.iter().enumerate() {
        let found = scratch.adapter.file(scratch.path(name))?.try_lock()?.read()?;
        let count = found.map_or(Some(0), |version| whole(&version));
        let started = changes.iter().filter(|change| matches!(change.operation, Count(counter) if counter == which));
        let most = started.clone().count() as u64;
        let least = started.filter(|change| change.acknowledged).count() as u64;
        let fits = count.is_some_and(|count| (least..=most).contains(&count));
        prop_assert!(fits, "{} is {:?}, not {} to {}, after\n{}", name, count, least, most, history);
    }
    scratch.adapter.sweep(&scratch.files)?;
    let below = scratch.path("below");
    if below.exists() {
        scratch.adapter.sweep(&below)?;
        prop_assert!(names(&below).iter().all(|name| name == "register" || name == "counter"), "{:?}", names(&below));
    }
    let left = names(&scratch.files);
    prop_assert!(left.iter().all(|name| matches!(&**name, "register" | "counter" | "below")), "{:?}", left);
    let locks = names(scratch.adapter.lock_dir());
    prop_assert!(locks.iter().all(|name| name.ends_with(".lock") || name == ".gitignore"), "{:?}", locks);
    Ok(())
}

fn changes(history: &str, lives: &[Life]) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    for (at, line) in history.lines().enumerate() {
        let words: Vec<&str> = line.split(' ').collect();
        let [what, worker, number] = &*words else { panic!("{history}") };
        let (worker, number): (usize, usize) = (worker.parse().unwrap(), number.parse().unwrap());
        match *what {
            "start" => changes.push(Change {
                operation: lives[worker].operations[number % lives[worker].operations.len()],
                tag: tag(worker, number),
                start: at,
                end: usize::MAX,
                acknowledged: false,
            }),
            // A dead worker does nothing more. Its last operation has happened by now, or never will.
            "dead" => changes
                .iter_mut()
                .filter(|change| (tag(worker, 0)..tag(worker + 1, 0)).contains(&change.tag))
                .for_each(|change| change.end = change.end.min(at)),
            _ => {
                let ended = changes.iter_mut().find(|change| change.tag == tag(worker, number)).unwrap();
                (ended.end, ended.acknowledged) = (at, true);
            }
        }
    }
    changes
}

/// Whether a register can have this version at the end: a worker wrote it, and no later write was reported as done.
fn may_be_last(found: Option<u64>, register: usize, changes: &[Change]) -> bool {
    let is_of_register = |change: &&Change| match change.operation {
        Write(which, _) | Stream(which, ..) | Delete(which) => which == register,
        Batch(_) => true,
        Abandon(..) | Count(_) | Read | Prune | Sweep => false,
    };
    let result = |change: &Change| (!matches!(change.operation, Delete(_))).then_some(change.tag);
    let superseded =
        |end: usize| changes.iter().filter(is_of_register).any(|later| later.acknowledged && later.start >= end);
    let never_written = found.is_none() && !superseded(0);
    never_written
        || changes.iter().filter(is_of_register).any(|change| result(change) == found && !superseded(change.end))
}
