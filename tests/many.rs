//! Several locks in one call: all or none. Two such calls never deadlock.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use atomic_file_adapter::{AtomicFileAdapter, Error};
use common::bank::two_names_of_one_lock;
use common::{Worker, hear, tell, test};

fn main() -> ExitCode {
    common::main(
        vec![
            test("the_guards_are_in_the_order_of_the_paths", the_guards_are_in_order),
            test("two_spellings_of_one_file_are_one_lock", two_spellings_are_one_lock),
            test("two_files_with_one_lock_file_do_not_deadlock", a_collision_does_not_deadlock),
            test("all_locks_or_none", all_locks_or_none),
            test("there_is_one_limit_for_all_of_them", there_is_one_limit),
            test("shared_locks_are_shared", shared_locks_are_shared),
            test("calls_in_any_order_never_deadlock_and_lose_nothing", calls_in_any_order_never_deadlock),
        ],
        &[("hold", hold), ("transfer", transfer)],
    )
}

fn scratch() -> (tempfile::TempDir, AtomicFileAdapter) {
    let dir = tempfile::tempdir().unwrap();
    let adapter = AtomicFileAdapter::with_lock_dir(dir.path().join("locks")).unwrap();
    (dir, adapter)
}

/// Whether another thread is kept out of this file.
fn is_locked(adapter: &AtomicFileAdapter, path: &Path) -> bool {
    let file = adapter.file(path).unwrap();
    std::thread::scope(|scope| {
        let tried = scope.spawn(|| file.try_lock().map(drop));
        match tried.join().unwrap() {
            Ok(()) => false,
            Err(Error::WouldBlock { .. }) => true,
            Err(error) => panic!("{error}"),
        }
    })
}

fn the_guards_are_in_order() {
    let (dir, adapter) = scratch();
    let paths: Vec<PathBuf> = (0..10).map(|n| dir.path().join(n.to_string())).collect();
    for guard in adapter.lock_many(&paths).unwrap().iter().zip(&paths) {
        guard.0.write(guard.1.to_str().unwrap()).unwrap();
    }
    for path in &paths {
        assert_eq!(fs::read(path).unwrap(), path.to_str().unwrap().as_bytes());
        assert!(!is_locked(&adapter, path));
    }
    assert!(adapter.lock_many::<&Path>([]).unwrap().is_empty());
}

fn two_spellings_are_one_lock() {
    let (dir, adapter) = scratch();
    let path = dir.path().join("file");
    let mut guards = adapter.lock_many([&path, &dir.path().join("./file"), &path]).unwrap();
    guards[0].write("one").unwrap();
    assert_eq!(guards[1].read().unwrap().unwrap(), b"one");
    drop(guards.remove(0));
    drop(guards.remove(0));
    assert!(is_locked(&adapter, &path), "the last guard still holds it");
    drop(guards);
    assert!(!is_locked(&adapter, &path));
}

fn a_collision_does_not_deadlock() {
    let (dir, adapter) = scratch();
    let [one, two] = two_names_of_one_lock(dir.path());
    assert_eq!(adapter.lock_path(&one).unwrap(), adapter.lock_path(&two).unwrap());
    let mut guards = adapter.lock_many([&one, &two]).unwrap();
    guards[0].write("1").unwrap();
    guards[1].write("2").unwrap();
    drop(guards.remove(0));
    assert!(is_locked(&adapter, &one) && is_locked(&adapter, &two));
    // Taken one after the other, it is the same lock twice, which is an error and no deadlock.
    let error = adapter.write_atomic(&one, "3").unwrap_err();
    assert!(matches!(&error, Error::Deadlock { path, held, .. } if *path == one && *held == [two.clone()]), "{error}");
    drop(guards);
    assert!(!is_locked(&adapter, &one));
    assert_eq!((fs::read(one).unwrap(), fs::read(two).unwrap()), (b"1".to_vec(), b"2".to_vec()));
}

fn hold(args: &[String]) {
    let adapter = AtomicFileAdapter::with_lock_dir(&args[0]).unwrap();
    let _guards = adapter.lock_many(&args[1..]).unwrap();
    tell("held");
    hear();
}

fn all_locks_or_none() {
    let (dir, adapter) = scratch();
    let paths: Vec<PathBuf> = (0..6).map(|n| dir.path().join(n.to_string())).collect();
    let impatient = AtomicFileAdapter::builder()
        .lock_dir(adapter.lock_dir())
        .lock_timeout(Duration::from_millis(10))
        .build()
        .unwrap();
    for held in &paths {
        let locks = adapter.lock_dir().to_str().unwrap();
        let mut holder = Worker::start("hold", &[locks, held.to_str().unwrap()]);
        holder.expect("held");
        let error = impatient.lock_many(&paths).unwrap_err();
        assert!(matches!(&error, Error::Timeout { path, .. } if path.ends_with(held.file_name().unwrap())), "{error}");
        for path in &paths {
            assert_eq!(is_locked(&adapter, path), path == held, "{path:?}");
        }
    }
}

fn there_is_one_limit() {
    let (dir, adapter) = scratch();
    let paths: Vec<PathBuf> = (0..6).map(|n| dir.path().join(n.to_string())).collect();
    let limit = Duration::from_millis(300);
    let mut held = adapter.lock_many(&paths).unwrap();
    std::thread::scope(|scope| {
        let began = Instant::now();
        let patient = AtomicFileAdapter::builder().lock_dir(adapter.lock_dir()).lock_timeout(limit).build().unwrap();
        let paths = &paths;
        let waiter = scope.spawn(move || patient.lock_many(paths).map(drop));
        // Five of six locks become free before the limit, one after the other. Each uses up a part of the limit.
        while held.len() > 1 && began.elapsed() < limit / 2 {
            held.pop();
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(matches!(waiter.join().unwrap(), Err(Error::Timeout { waited, .. }) if waited == limit));
        let took = began.elapsed();
        assert!(took >= limit && took < limit * 4, "{took:?} for a limit of {limit:?} over all");
    });
}

fn shared_locks_are_shared() {
    let (dir, adapter) = scratch();
    let paths = [dir.path().join("a"), dir.path().join("b"), dir.path().join("a")];
    let _mine = adapter.lock_many_shared(&paths).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(adapter.lock_many_shared(&paths).unwrap().len(), 3);
            assert!(matches!(adapter.file(&paths[1]).unwrap().try_lock(), Err(Error::WouldBlock { .. })));
        });
    });
}

/// Six files. Two of them have the same lock.
fn accounts(dir: &Path) -> Vec<PathBuf> {
    (0..4).map(|n| dir.join(n.to_string())).chain(two_names_of_one_lock(dir)).collect()
}

fn calls_in_any_order_never_deadlock() {
    const PROCESSES: u64 = 4;
    let (dir, adapter) = scratch();
    let paths = accounts(dir.path());
    assert_eq!(adapter.lock_path(&paths[4]).unwrap(), adapter.lock_path(&paths[5]).unwrap());
    let workers: Vec<Worker> =
        (0..PROCESSES).map(|n| Worker::start("transfer", &[dir.path().to_str().unwrap(), &n.to_string()])).collect();
    workers.into_iter().for_each(Worker::finish);
    let balances: Vec<i64> =
        paths.iter().map(|path| fs::read_to_string(path).unwrap_or("0".into()).parse().unwrap()).collect();
    assert_eq!(balances.iter().sum::<i64>(), 0, "{balances:?}");
    assert!(balances.iter().any(|balance| *balance != 0));
}

/// Moves amounts between files. Each time it locks three of them in any order.
fn transfer(args: &[String]) {
    let dir = Path::new(&args[0]);
    let seed: u64 = args[1].parse().unwrap();
    let adapter = AtomicFileAdapter::with_lock_dir(dir.join("locks")).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let adapter = &adapter;
            scope.spawn(move || {
                let accounts = accounts(dir);
                let mut random = xxhash_rust::xxh3::xxh3_64_with_seed(b"", seed * 2 + thread);
                for _ in 0..150 {
                    random = xxhash_rust::xxh3::xxh3_64(&random.to_le_bytes());
                    let paths = [random, random >> 16, random >> 32].map(|n| &accounts[(n % 6) as usize]);
                    let guards = adapter.lock_many(paths).unwrap();
                    for (guard, amount) in guards.iter().zip([1, 2, -3]) {
                        let old =
                            guard.read().unwrap().map_or(0, |old| String::from_utf8(old).unwrap().parse().unwrap());
                        let new: i64 = old + amount;
                        guard.write(new.to_string()).unwrap();
                    }
                }
            });
        }
    });
}
