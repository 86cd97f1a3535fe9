//! For each file, a batch has the same effect as the single calls.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use atomic_file_adapter::{AtomicFileAdapter, Durability, Error, FileKind};

use crate::common::{Scratch, Work, Worker, hear, names, tell, test};

const WORKERS: &[(&str, Work)] =
    &[("few_descriptors", few_descriptors), ("swap_pairs", swap_pairs), ("fail_half_way", fail_half_way)];

fn main() -> ExitCode {
    common::main(
        vec![
            test("it_does_what_the_single_calls_do", it_does_what_the_single_calls_do),
            test("of_several_changes_of_a_file_the_last_one_counts", of_several_changes_the_last_one_counts),
            test("a_file_that_was_deleted_before_is_a_new_one", a_file_that_was_deleted_before_is_a_new_one),
            test("an_error_says_which_files_were_replaced", || Worker::start("fail_half_way", &[]).finish()),
            test("before_the_first_rename_an_error_changes_nothing", before_the_first_rename_an_error_changes_nothing),
            test("relative_paths_are_taken_when_they_are_added", relative_paths_are_taken_when_they_are_added),
            test("it_takes_the_locks", it_takes_the_locks),
            test("batches_in_different_orders_are_never_in_a_deadlock", batches_in_different_orders),
            test("a_thousand_files_need_few_descriptors", || Worker::start("few_descriptors", &[]).finish()),
            test("an_empty_batch_does_nothing", an_empty_batch_does_nothing),
        ],
        WORKERS,
    )
}

/// The tree: for each path, its contents and mode.
fn tree(scratch: &Scratch) -> BTreeMap<PathBuf, (Vec<u8>, u32)> {
    let mut tree = BTreeMap::new();
    let mut dirs = vec![scratch.files.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let relative = path.strip_prefix(&scratch.files).unwrap().to_owned();
            if meta.is_dir() {
                dirs.push(path);
            } else if meta.is_symlink() {
                tree.insert(relative, (path.read_link().unwrap().into_os_string().into_encoded_bytes(), 0));
            } else {
                tree.insert(relative, (fs::read(&path).unwrap(), meta.mode()));
            }
        }
    }
    tree
}

fn it_does_what_the_single_calls_do() {
    let changes: Vec<(String, Option<String>)> = (0..150)
        .map(|n| match n % 5 {
            0 => (format!("old{n}"), Some("new".repeat(n))),
            1 => (format!("new{n}"), Some(format!("{n}"))),
            2 => (format!("old{n}"), None),
            3 => (format!("dir/{n}/deep/file"), Some(String::new())),
            _ => (format!("missing/{n}"), None),
        })
        .chain([("link".to_owned(), Some("through".to_owned())), ("other-link".to_owned(), None)])
        .collect();
    for durability in [Durability::Full, Durability::Ordered, Durability::None] {
        let [together, single] = [(); 2].map(|()| {
            let mut scratch = Scratch::new();
            let builder = AtomicFileAdapter::builder().lock_dir(scratch.adapter.lock_dir()).durability(durability);
            scratch.adapter = builder.build().unwrap();
            for n in 0..150 {
                fs::write(scratch.path(&format!("old{n}")), "old").unwrap();
                fs::set_permissions(scratch.path(&format!("old{n}")), Permissions::from_mode(0o600 + n % 8)).unwrap();
            }
            symlink("old1", scratch.path("link")).unwrap();
            symlink("old3", scratch.path("other-link")).unwrap();
            scratch
        });
        let mut batch = together.adapter.batch();
        for (name, contents) in &changes {
            match contents {
                Some(contents) => {
                    batch.write(together.path(name), contents.as_bytes());
                    single.adapter.write_atomic(single.path(name), contents).unwrap();
                }
                None => {
                    batch.delete(together.path(name));
                    single.adapter.delete_with_lock(single.path(name)).unwrap();
                }
            }
        }
        assert_eq!(names(&together.files).len(), 152, "nothing happens before the commit");
        batch.commit().unwrap();
        assert_eq!(tree(&together), tree(&single), "{durability:?}");
    }
}

fn of_several_changes_the_last_one_counts() {
    let scratch = Scratch::new();
    symlink("one", scratch.path("link")).unwrap();
    let mut batch = scratch.adapter.batch();
    batch.write(scratch.path("one"), "first").delete(scratch.path("two")).delete(scratch.path("one"));
    batch.write(scratch.path("link"), "through the link").write(scratch.path("two"), "written");
    batch.write(scratch.path("three"), "x").delete(scratch.path("../files/three"));
    batch.commit().unwrap();
    assert_eq!(names(&scratch.files), ["link", "one", "two"]);
    assert_eq!(fs::read(scratch.path("one")).unwrap(), b"through the link");
    assert_eq!(fs::read(scratch.path("two")).unwrap(), b"written");
}

fn a_file_that_was_deleted_before_is_a_new_one() {
    let scratch = Scratch::new();
    let builder = AtomicFileAdapter::builder().lock_dir(scratch.adapter.lock_dir()).new_file_mode(0o640);
    let adapter = builder.build().unwrap();
    for name in ["deleted", "written", "twice"] {
        fs::write(scratch.path(name), "old").unwrap();
        fs::set_permissions(scratch.path(name), Permissions::from_mode(0o755)).unwrap();
    }
    let mut batch = adapter.batch();
    batch.delete(scratch.path("deleted")).write(scratch.path("deleted"), "new");
    batch.write(scratch.path("written"), "newer").write(scratch.path("written"), "new");
    batch.delete(scratch.path("twice")).write(scratch.path("twice"), "newer").write(scratch.path("twice"), "new");
    batch.commit().unwrap();
    for (name, mode) in [("deleted", 0o640), ("written", 0o755), ("twice", 0o640)] {
        assert_eq!(fs::read(scratch.path(name)).unwrap(), b"new", "{name}");
        assert_eq!(scratch.path(name).metadata().unwrap().mode() & 0o7777, mode, "{name}");
    }
}

fn fail_half_way(_: &[String]) {
    let scratch = Scratch::new();
    limit_descriptors(400);
    let mut batch = scratch.adapter.batch();
    // 50 files at a time. The 71st name is a directory.
    for n in 0..100 {
        batch.write(scratch.path(&format!("{n:02}")), "new");
    }
    fs::create_dir(scratch.path("70")).unwrap();
    let error = batch.commit().unwrap_err();
    assert_eq!(error.path(), scratch.path("70"));
    assert_eq!(error.kind(), std::io::ErrorKind::IsADirectory);
    let text = error.to_string();
    assert!(text.contains("after 50 of its files") && text.contains("files/70 is not a regular file"), "{text}");
    let Error::Batch { replaced, source, .. } = error else { panic!("{error}") };
    assert!(matches!(*source, Error::NotRegularFile { kind: FileKind::Directory, .. }));
    assert_eq!(replaced, (0..50).map(|n| scratch.path(&format!("{n:02}"))).collect::<Vec<_>>());
    assert_eq!(names(&scratch.files).len(), 51, "no temporary file is left");
}

fn before_the_first_rename_an_error_changes_nothing() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("directory")).unwrap();
    for n in 0..10 {
        scratch.adapter.write_atomic(scratch.path(&n.to_string()), "old").unwrap();
    }
    let before = tree(&scratch);
    for what in ["an empty path", "a directory to delete"] {
        let mut batch = scratch.adapter.batch();
        for n in 0..10 {
            batch.write(scratch.path(&n.to_string()), "new");
        }
        if what == "an empty path" {
            batch.write("", "")
        } else {
            batch.delete(scratch.path("directory"))
        };
        let Err(Error::Batch { replaced, .. }) = batch.commit() else { panic!("it was committed") };
        assert_eq!((replaced, tree(&scratch)), (vec![], before.clone()), "{what}");
        batch.commit().expect("it is empty now");
    }
}

fn relative_paths_are_taken_when_they_are_added() {
    let scratch = Scratch::new();
    let mut worker = Worker::start_in(&scratch.files, "swap_pairs", &["relative"]);
    worker.expect("done");
    worker.finish();
    assert_eq!(names(&scratch.files), ["file", "locks"]);
}

fn it_takes_the_locks() {
    let scratch = Scratch::new();
    let file = scratch.adapter.file(scratch.path("5")).unwrap();
    let guard = file.lock_shared().unwrap();
    let impatient = AtomicFileAdapter::builder().lock_dir(scratch.adapter.lock_dir()).lock_timeout(Duration::ZERO);
    let commit = |adapter: &AtomicFileAdapter| {
        let mut batch = adapter.batch();
        for n in 0..10 {
            batch.write(scratch.path(&n.to_string()), "new");
        }
        batch.commit()
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| commit(&impatient.build().unwrap()));
        let Err(Error::Batch { replaced, source, .. }) = other.join().unwrap() else { panic!("it was committed") };
        assert!(replaced.is_empty() && matches!(*source, Error::Timeout { .. }), "{source}");
    });
    drop(guard);
    commit(&scratch.adapter).unwrap();
    assert_eq!(names(&scratch.files).len(), 10);
}

fn batches_in_different_orders() {
    let scratch = Scratch::new();
    let (files, locks) = (scratch.files.to_str().unwrap(), scratch.adapter.lock_dir().to_str().unwrap());
    let workers: Vec<_> =
        ["forwards", "backwards"].into_iter().map(|way| Worker::start("swap_pairs", &[way, files, locks])).collect();
    for mut worker in workers {
        worker.expect("done");
        worker.finish();
    }
}

fn swap_pairs(args: &[String]) {
    if args[0] == "relative" {
        let adapter = AtomicFileAdapter::with_lock_dir("locks").unwrap();
        let mut batch = adapter.batch();
        batch.write("file", "contents");
        std::env::set_current_dir("/").unwrap();
        batch.commit().unwrap();
    } else {
        let adapter = AtomicFileAdapter::builder().lock_dir(&args[2]).durability(Durability::None).build().unwrap();
        for round in 0..50 {
            let mut order: Vec<_> = (0..20).collect();
            if args[0] == "backwards" {
                order.reverse();
            }
            let mut batch = adapter.batch();
            for n in order {
                batch.write(Path::new(&args[1]).join(n.to_string()), round.to_string());
            }
            batch.commit().unwrap();
        }
    }
    tell("done");
    assert_eq!(hear(), "");
}

fn limit_descriptors(most: libc::rlim_t) {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: the pointer is to an rlimit of this function.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}

fn few_descriptors(_: &[String]) {
    let scratch = Scratch::new();
    limit_descriptors(256);
    let mut batch = scratch.adapter.batch();
    for n in 0..1000 {
        batch.write(scratch.path(&format!("{}/{n}", n % 70)), n.to_string());
    }
    batch.commit().unwrap();
    assert_eq!(tree(&scratch).len(), 1000);
}

fn an_empty_batch_does_nothing() {
    let scratch = Scratch::new();
    scratch.adapter.batch().commit().unwrap();
    assert!(!scratch.adapter.lock_dir().exists());
}
