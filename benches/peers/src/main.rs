//! 100 files changed at once: by this crate, one after the other and as one, and by other crates that change them as
//! one.
//!
//! ```sh
//! BENCH_DIR=/some/dir cargo run --release --manifest-path benches/peers/Cargo.toml
//! ```
//!
//! It is a program of its own, because SQLite takes a minute to compile, and these crates need a newer compiler than
//! this crate. They are measured in turns, one call each, as in `benches/speed`. Each replaces the same 100 files of 4
//! KiB, or rows of a table, and returns when that is durable.
//!
//! The flushes are those of the whole device, as the kernel counts them (Linux, Documentation/block/stat.rst). So they
//! are right only if no other program writes to the device, for example if the file system is on a loop device.

#[path = "../../speed/turns.rs"]
mod turns;

use std::cell::Cell;
use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use atomic_file_adapter::{AtomicFileAdapter, Batch};
use fs_transaction::exec::block_on;
use fs_transaction::{ChangeSet, StdFs};
use rusqlite::Connection;

use crate::turns::{in_turns, time};

const FILES: usize = 100;
const CONTENTS: [u8; 4096] = [b'x'; 4096];
const BUDGET: Duration = Duration::from_secs(30);

/// Prepares an empty directory. Each call of the returned function makes the change once.
type Prepare = fn(&Path) -> Box<dyn FnMut()>;

/// The others are compared with the first.
const WAYS: [(&str, Prepare); 5] = [
    ("ours, `commit` (each file for itself)", |dir| ours(dir, |batch| batch.commit().unwrap())),
    ("ours, `commit_all`", |dir| ours(dir, |batch| batch.commit_all().unwrap())),
    ("fs-transaction", fs_transaction),
    ("fstx", fstx),
    ("SQLite (rollback journal, synchronous=FULL)", sqlite),
];

fn main() {
    let dir = env::var_os("BENCH_DIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let dir = tempfile::tempdir_in(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let counted: Vec<Cell<(u64, u64)>> = WAYS.iter().map(|_| Cell::default()).collect();
    let mut runs = Vec::new();
    for (n, ((_, prepare), counted)) in WAYS.into_iter().zip(&counted).enumerate() {
        let place = dir.path().join(n.to_string());
        fs::create_dir(&place).unwrap();
        let mut once = prepare(&place);
        // The first call makes the files.
        once();
        runs.push(move |times: u64| {
            let before = flushes(&place);
            let took = time(times, &mut once);
            let (calls, all) = counted.get();
            counted.set((calls + times, all + flushes(&place) - before));
            took
        });
    }
    let only_try = env::args().any(|arg| arg == "--test");
    let seconds = in_turns(&mut runs, Duration::from_millis(1), BUDGET, only_try);
    println!("| {FILES} files of 4 KiB | time | ratio | flushes |\n|---|--:|--:|--:|");
    for ((way, counted), took) in WAYS.iter().zip(&counted).zip(&seconds) {
        let ratio = median(took.iter().zip(&seconds[0]).map(|(one, first)| one / first));
        let (calls, all) = counted.get();
        let flushes = all as f64 / calls as f64;
        println!("| {} | {:.1} ms | {ratio:.2} | {flushes:.1} |", way.0, median(took.iter().copied()) * 1e3);
    }
    println!("\n{} rounds", seconds[0].len());
}

fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// How often the device of the directory was flushed. 0 if the system does not tell.
fn flushes(dir: &Path) -> u64 {
    let device = fs::metadata(dir).unwrap().dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let counters = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).unwrap_or_default();
    counters.split_whitespace().nth(15).and_then(|count| count.parse().ok()).unwrap_or(0)
}

fn names() -> impl Iterator<Item = String> {
    (0..FILES).map(|n| n.to_string())
}

fn ours(dir: &Path, commit: fn(&mut Batch)) -> Box<dyn FnMut()> {
    let adapter = AtomicFileAdapter::with_lock_dir(dir.join("locks")).unwrap();
    let paths: Vec<PathBuf> = names().map(|name| dir.join(name)).collect();
    Box::new(move || {
        let mut batch = adapter.batch();
        for path in &paths {
            batch.write(path, CONTENTS);
        }
        commit(&mut batch);
    })
}

fn fs_transaction(dir: &Path) -> Box<dyn FnMut()> {
    let dir = dir.to_owned();
    Box::new(move || {
        let mut change = ChangeSet::new();
        for name in names() {
            change.write(name, CONTENTS);
        }
        block_on(change.apply(&StdFs, &dir)).unwrap();
    })
}

fn fstx(dir: &Path) -> Box<dyn FnMut()> {
    let dir = dir.to_owned();
    Box::new(move || {
        let mut transaction = fstx::Transaction::begin(&dir).unwrap();
        for name in names() {
            transaction.write(name, CONTENTS).unwrap();
        }
        transaction.commit().unwrap();
    })
}

fn sqlite(dir: &Path) -> Box<dyn FnMut()> {
    let mut database = Connection::open(dir.join("database")).unwrap();
    database
        .execute_batch(
            "PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL;
             CREATE TABLE files (path TEXT PRIMARY KEY, contents BLOB NOT NULL)",
        )
        .unwrap();
    Box::new(move || {
        let transaction = database.transaction().unwrap();
        let mut write = transaction.prepare_cached("INSERT OR REPLACE INTO files VALUES (?, ?)").unwrap();
        for name in names() {
            write.execute((name, CONTENTS)).unwrap();
        }
        drop(write);
        transaction.commit().unwrap();
    })
}
