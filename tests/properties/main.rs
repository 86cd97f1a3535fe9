//! Properties that must hold for all contents, names, paths, batches and deaths, tested with generated ones.
//!
//! A case that fails is shrunk, and its seed saved in `tests/properties/*.regressions`, which are read again before new
//! cases are made. `PROPTEST_CASES=5000 cargo test --all-features --test properties` tries more cases than the default;
//! other variables are those of proptest. Without the feature `fault-injection`, reads and writes are not cut short, no
//! rename fails, and processes die between two calls only by chance.

#[path = "../common/mod.rs"]
mod common;

mod batches;
mod deaths;
mod errors;
mod lock_names;
mod names;
mod round_trip;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use atomic_file_adapter::{AtomicFileAdapter, Durability};
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, FileFailurePersistence, TestCaseResult, TestError, TestRunner};

use crate::common::{Scratch, say_what_is_left_out, test, thorough_or};

fn main() -> ExitCode {
    say_what_is_left_out("half of the generated cases");
    common::main(
        vec![
            test("what_is_written_is_read", round_trip::what_is_written_is_read),
            test("every_spelling_of_a_file_has_one_lock", lock_names::every_spelling_of_a_file_has_one_lock),
            test("any_path_leads_where_the_kernel_says", lock_names::any_path_leads_where_the_kernel_says),
            test("obstacles_have_their_errors", errors::obstacles_have_their_errors),
            test("a_batch_is_its_single_calls", batches::a_batch_is_its_single_calls),
            test("all_or_nothing_is_the_single_calls_or_none", batches::all_or_nothing_is_the_single_calls_or_none),
            test("killed_processes_lose_and_hold_nothing", deaths::killed_processes_lose_and_hold_nothing),
        ],
        &[("lock_paths", lock_names::answer_lock_paths), ("operate", deaths::operate)],
    )
}

/// Tests a property of the file `source` with so many cases, or half of them in the short form, unless `PROPTEST_CASES` is set.
#[track_caller]
fn check<S: Strategy>(source: &'static str, cases: u32, cases_of: &S, property: impl Fn(S::Value) -> TestCaseResult) {
    // The default comes from the environment.
    let mut config = Config::default();
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = thorough_or(cases, cases.div_ceil(2));
    }
    if std::env::var_os("PROPTEST_MAX_SHRINK_ITERS").is_none() {
        config.max_shrink_iters = 5000;
    }
    if std::env::var_os("PROPTEST_MAX_SHRINK_TIME").is_none() {
        config.max_shrink_time = 20_000;
    }
    config.source_file = Some(source);
    if let Some(persistence) = &mut config.failure_persistence {
        *persistence = Box::new(FileFailurePersistence::WithSource("regressions"));
    }
    match TestRunner::new(config).run(cases_of, property) {
        Ok(()) => {}
        Err(TestError::Fail(why, case)) => panic!("{why}\nthe smallest case found: {case:?}"),
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}

/// The path of this source file, wherever the test runs.
macro_rules! this_file {
    () => {
        concat!(env!("CARGO_MANIFEST_DIR"), "/", file!())
    };
}
use this_file;

/// A scratch directory whose adapter does not sync. Syncs take most of the time, and other tests have them.
fn scratch() -> Scratch {
    let mut scratch = Scratch::new();
    let builder = AtomicFileAdapter::builder().lock_dir(scratch.adapter.lock_dir());
    scratch.adapter = builder.durability(Durability::None).build().unwrap();
    scratch
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    File { contents: Vec<u8>, mode: u32, inode: u64 },
    Link(PathBuf),
    Directory,
    Fifo,
    Socket,
}

impl Entry {
    fn at(path: &Path) -> Option<Self> {
        let meta = path.symlink_metadata().ok()?;
        let kind = meta.file_type();
        Some(if kind.is_dir() {
            Entry::Directory
        } else if kind.is_symlink() {
            Entry::Link(path.read_link().unwrap())
        } else if kind.is_fifo() {
            Entry::Fifo
        } else if kind.is_socket() {
            Entry::Socket
        } else {
            Entry::File { contents: fs::read(path).unwrap(), mode: meta.mode(), inode: meta.ino() }
        })
    }
}

/// All entries below a directory, by relative path.
fn tree(top: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut tree = BTreeMap::new();
    let mut dirs = vec![top.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in dir.read_dir().unwrap() {
            let path = entry.unwrap().path();
            let entry = Entry::at(&path).unwrap();
            tree.insert(path.strip_prefix(top).unwrap().to_owned(), entry.clone());
            if entry == Entry::Directory {
                dirs.push(path);
            }
        }
    }
    tree
}
