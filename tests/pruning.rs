//! Lock files that nobody holds can be removed at any time. No lock is lost by that.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use atomic_file_adapter::{AtomicFileAdapter, Error, FileKind};
use common::{Worker, hear, names, no_root, not_linux, tell, test, test_if};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, mkfifo};

fn main() -> ExitCode {
    common::main(
        vec![
            test("what_nobody_holds_is_removed_and_nothing_else", what_nobody_holds_is_removed),
            test("without_a_lock_directory_there_is_nothing_to_prune", nothing_to_prune),
            test("a_handle_survives_the_pruning_of_its_lock_file", a_handle_survives),
            test("no_increment_is_lost_while_lock_files_are_pruned", no_increment_is_lost),
            test("another_file_does_not_stop_prune", another_file_does_not_stop_prune),
            test("another_file_does_not_stop_the_list_of_locks", another_file_does_not_stop_the_list_of_locks),
            test_if(
                no_root().or(not_linux()),
                "a_lock_file_of_another_user_does_not_stop_prune",
                a_lock_file_of_another_user_does_not_stop_prune,
            ),
        ],
        &[("hold", hold), ("increment", increment), ("look_after", look_after)],
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
    // The name of a lock file has sixteen hexadecimal digits in lower case.
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
    // The look at these lock files has dropped no lock.
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
    // The handle's next lock uses the lock file that all others find by its name.
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
    // On a busy machine the two may hardly overlap in one round.
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

/// Lock files that nobody holds. Before, between and after them are names of lock files that are not regular files.
fn lock_files_and_others(locks: &Path) -> (Vec<PathBuf>, Vec<(PathBuf, FileKind)>) {
    let lock = |number: usize| locks.join(format!("{number:016x}.lock"));
    fs::create_dir(locks).unwrap();
    let free: Vec<PathBuf> = [1, 3, 5, 7].map(lock).to_vec();
    free.iter().for_each(|path| fs::write(path, "").unwrap());
    fs::create_dir(lock(0)).unwrap();
    // A link to a free lock file. Nothing must be done to the lock file through this name.
    symlink(&free[0], lock(2)).unwrap();
    symlink("nowhere", lock(4)).unwrap();
    mkfifo(&lock(6), Mode::S_IRWXU).unwrap();
    drop(UnixListener::bind(lock(8)).unwrap());
    let kinds = [FileKind::Directory, FileKind::Symlink, FileKind::Symlink, FileKind::Fifo, FileKind::Socket];
    (free, kinds.into_iter().enumerate().map(|(n, kind)| (lock(2 * n), kind)).collect())
}

fn another_file_does_not_stop_prune() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = adapter(dir.path());
    let (free, others) = lock_files_and_others(adapter.lock_dir());
    for removed in [free, vec![]] {
        let error = adapter.prune().unwrap_err();
        let text = error.to_string();
        assert_eq!((error.path(), error.kind()), (others[0].0.as_path(), std::io::ErrorKind::IsADirectory));
        let Error::Partial { done, failed, .. } = error else { panic!("{error:?}") };
        assert_eq!(done, removed);
        let found = failed.iter().map(|failed| match failed {
            Error::NotRegularFile { path, kind, .. } => (path.clone(), *kind),
            other => panic!("{other:?}"),
        });
        assert_eq!(found.collect::<Vec<_>>(), others);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], format!("not everything could be done (done: {}, failed: 5):", removed.len()));
        assert_eq!(lines[1..], failed.iter().map(Error::to_string).collect::<Vec<_>>());
        for (path, _) in &others {
            assert!(path.symlink_metadata().is_ok() && text.contains(path.to_str().unwrap()), "{path:?}: {text}");
        }
    }
    assert_eq!(names(adapter.lock_dir()).len(), others.len());
}

fn another_file_does_not_stop_the_list_of_locks() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = adapter(dir.path());
    let (free, others) = lock_files_and_others(adapter.lock_dir());
    let file = adapter.file(dir.path().join("file")).unwrap();
    let _guard = file.lock().unwrap();
    let locks = adapter.locks().unwrap();
    assert_eq!(locks, adapter.locks().unwrap());
    let mut expected: Vec<_> = free.iter().map(|path| (path.clone(), None, None)).collect();
    for (path, kind) in &others {
        let problem = format!("{} is not a regular file but {kind}", path.display());
        expected.push((path.clone(), None, Some(problem)));
    }
    expected.push((file.lock_path().to_owned(), Some(std::process::id()), None));
    expected.sort();
    let found = locks.into_iter().map(|lock| (lock.path, lock.holder.and_then(|it| it.pid), lock.problem));
    assert_eq!(found.collect::<Vec<_>>(), expected);
}

/// The worker: runs as NOBODY, not as root.
fn look_after(args: &[String]) {
    let [locks, verb] = args else { panic!("{args:?}") };
    #[cfg(target_os = "linux")]
    nix::unistd::setgroups(&[]).unwrap();
    nix::unistd::setgid(Gid::from_raw(65534)).unwrap();
    nix::unistd::setuid(Uid::from_raw(65534)).unwrap();
    let adapter = AtomicFileAdapter::with_lock_dir(locks).unwrap();
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    if verb == "locks" {
        for lock in adapter.locks().unwrap() {
            let state = lock.problem.unwrap_or_else(|| format!("{:?}", lock.holder));
            tell(&format!("{}: {state}", name(&lock.path)));
        }
    } else {
        let Err(Error::Partial { done, failed, .. }) = adapter.prune() else { panic!("all was pruned") };
        done.iter().for_each(|path| tell(&format!("{}: removed", name(path))));
        failed.iter().for_each(|error| tell(&format!("{}: {error}", name(error.path()))));
    }
    tell("end");
}

fn a_lock_file_of_another_user_does_not_stop_prune() {
    const NOBODY: u32 = 65534;
    // The lock file's name, owner and mode, and the step that NOBODY cannot do in a directory of this mode.
    type Case = (&'static str, u32, u32, &'static str);
    let sticky: [Case; 4] = [
        ("0000000000000001.lock", 0, 0o600, "cannot open the lock file"),
        ("0000000000000002.lock", NOBODY, 0o600, "removed"),
        ("0000000000000003.lock", 0, 0o666, "cannot remove the lock file"),
        ("0000000000000004.lock", NOBODY, 0o600, "removed"),
    ];
    let not_writable: [Case; 2] = [
        ("0000000000000001.lock", 0, 0o644, "cannot open the lock file"),
        ("0000000000000002.lock", NOBODY, 0o600, "cannot remove the lock file"),
    ];
    for (mode, cases) in [(0o1777, &sticky[..]), (0o755, &not_writable)] {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        let locks = dir.path().join("locks");
        fs::create_dir(&locks).unwrap();
        fs::set_permissions(&locks, Permissions::from_mode(mode)).unwrap();
        for (name, owner, mode, _) in cases {
            fs::write(locks.join(name), "").unwrap();
            fs::set_permissions(locks.join(name), Permissions::from_mode(*mode)).unwrap();
            chown(locks.join(name), Some(*owner), None).unwrap();
        }
        let as_nobody = |verb: &str| -> Vec<String> {
            let mut worker = Worker::start("look_after", &[locks.to_str().unwrap(), verb]);
            let said = std::iter::from_fn(|| Some(worker.hear()).filter(|line| !matches!(&**line, "end" | "")));
            let mut said: Vec<_> = said.collect();
            worker.finish();
            said.sort();
            said
        };
        let listed = as_nobody("locks");
        assert_eq!(listed.len(), cases.len());
        for ((name, _, mode, what), line) in cases.iter().zip(&listed) {
            let expected = if *mode == 0o600 && what.contains("open") { "cannot open the lock file" } else { "None" };
            assert!(line.starts_with(&format!("{name}: {expected}")), "{line}");
        }
        let pruned = as_nobody("prune");
        assert_eq!(pruned.len(), cases.len());
        for ((name, _, _, what), line) in cases.iter().zip(&pruned) {
            assert!(line.starts_with(&format!("{name}: {what}")), "{line}");
            assert_eq!(locks.join(name).exists(), *what != "removed", "{line}");
        }
    }
}
