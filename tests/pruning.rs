//! Lock files that nobody holds can be removed at any time, and no lock is lost by it.

mod common;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use atomic_file_adapter::{AtomicFileAdapter, Error};
use common::{Worker, hear, names, tell, test};

fn main() -> ExitCode {
    common::main(
        vec![
            test("what_nobody_holds_is_removed_and_nothing_else", what_nobody_holds_is_removed),
            test("without_a_lock_directory_there_is_nothing_to_prune", nothing_to_prune),
            test("a_handle_survives_the_pruning_of_its_lock_file", a_handle_survives),
            test("no_increment_is_lost_while_lock_files_are_pruned", no_increment_is_lost),
        ],
        &[("hold", hold), ("increment", increment)],
    )
}

fn adapter(dir: &Path) -> AtomicFileAdapter {
    AtomicFileAdapter::with_lock_dir(dir.join("locks")).unwrap()
}

fn hold(args: &[String]) {
    let dir = Path::new(&args[0]);
    let _guard = adapter(dir).file(dir.join("there")).unwrap().lock_shared().unwrap();
    tell("held");
    hear();
}

fn what_nobody_holds_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = adapter(dir.path());
    for name in ["here", "there", "nowhere", "over"] {
        adapter.write_atomic(dir.path().join(name), name).unwrap();
    }
    // Sixteen digits, and hexadecimal ones, are a lock file's.
    let foreign = ["0123456789ABCDEF.lock", "0123456789abcde.lock", "Cargo.lock", "notes.txt", "sixteen.of.them_.lock"];
    foreign.iter().for_each(|name| fs::write(dir.path().join("locks").join(name), "not a lock file").unwrap());
    let lock = |name| adapter.lock_path(dir.path().join(name)).unwrap();

    let here = adapter.file(dir.path().join("here")).unwrap();
    let guard = here.lock().unwrap();
    let mut holder = Worker::start("hold", &[dir.path().to_str().unwrap()]);
    holder.expect("held");

    let mut expected = vec![lock("nowhere"), lock("over")];
    expected.sort();
    assert_eq!(adapter.prune().unwrap(), expected);
    assert!(lock("here").exists() && lock("there").exists());
    assert!(dir.path().join("locks/.gitignore").exists());
    // Looking at them has dropped nobody's lock.
    let others = AtomicFileAdapter::with_lock_dir(dir.path().join("locks")).unwrap();
    let locks = others.locks().unwrap();
    let pid = |name| locks.iter().find(|found| found.path == lock(name)).unwrap().holder.unwrap().pid;
    assert_eq!((pid("here"), pid("there")), (Some(std::process::id()), Some(holder.pid())));
    let refused = others.file(dir.path().join("there")).unwrap().try_lock();
    assert!(matches!(refused, Err(Error::WouldBlock { .. })));

    drop(guard);
    holder.kill();
    assert_eq!(adapter.prune().unwrap().len(), 2);
    assert_eq!(names(&dir.path().join("locks")), [&[".gitignore"], &foreign[..]].concat());
}

fn nothing_to_prune() {
    let dir = tempfile::tempdir().unwrap();
    assert!(adapter(dir.path()).prune().unwrap().is_empty());
    assert_eq!(names(dir.path()), [""; 0]);
}

fn a_handle_survives() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = adapter(dir.path());
    let file = adapter.file(dir.path().join("file")).unwrap();
    for contents in ["one", "two", "three"] {
        file.write(contents).unwrap();
        assert_eq!(adapter.prune().unwrap(), [file.lock_path()]);
    }
    // The handle's next lock is the one that everybody else finds by the name.
    let _guard = file.lock().unwrap();
    let other = adapter.file(dir.path().join("file")).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(matches!(other.try_lock(), Err(Error::WouldBlock { .. }))));
    });
}

fn no_increment_is_lost() {
    const PROCESSES: usize = 4;
    const EACH: usize = 300;
    let dir = tempfile::tempdir().unwrap();
    let adapter = adapter(dir.path());
    let path = dir.path().to_str().unwrap();
    let mut workers: Vec<Worker> =
        (0..PROCESSES).map(|_| Worker::start("increment", &[path, &EACH.to_string()])).collect();
    let (mut pruned, mut rounds) = (0, 0);
    // On a busy machine the two may hardly meet in one round.
    while pruned <= 10 {
        rounds += 1;
        assert!(rounds < 50, "pruned {pruned} times only: the two do not meet");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                workers.iter_mut().for_each(|worker| worker.tell("go"));
                workers.iter_mut().for_each(|worker| worker.expect("done"));
            });
            while !waiting.is_finished() {
                pruned += adapter.prune().unwrap().len();
            }
        });
    }
    workers.into_iter().for_each(Worker::finish);
    let count = fs::read_to_string(dir.path().join("counter")).unwrap();
    assert_eq!(count, (rounds * PROCESSES * EACH).to_string(), "after {pruned} prunings");
}

fn increment(args: &[String]) {
    let dir = Path::new(&args[0]);
    let adapter = adapter(dir);
    let handle = adapter.file(dir.join("counter")).unwrap();
    let each: usize = args[1].parse().unwrap();
    while hear() == "go" {
        std::thread::scope(|scope| {
            for by_handle in [true, false] {
                let (adapter, handle) = (&adapter, &handle);
                scope.spawn(move || {
                    let next = |old: Option<&[u8]>| -> Vec<u8> {
                        let old: u64 = old.map_or(0, |old| std::str::from_utf8(old).unwrap().parse().unwrap());
                        (old + 1).to_string().into()
                    };
                    for _ in 0..each / 2 {
                        if by_handle { handle.update(next) } else { adapter.update(dir.join("counter"), next) }
                            .unwrap();
                    }
                });
            }
        });
        tell("done");
    }
}
