//! The lock directory: made on first use, hidden from git, shared by every spelling of it, and never trusted.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use atomic_file_adapter::{AtomicFileAdapter, Error, FileKind};
use common::names;

fn adapter(lock_dir: impl AsRef<Path>) -> AtomicFileAdapter {
    AtomicFileAdapter::with_lock_dir(lock_dir).unwrap()
}

#[test]
fn nothing_is_made_before_the_first_lock() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = adapter(dir.path().join("a/b/locks"));
    adapter.lock_path(dir.path().join("file")).unwrap();
    assert!(adapter.locks().unwrap().is_empty());
    assert!(!adapter.exists(dir.path().join("file")));
    assert_eq!(names(dir.path()), [""; 0]);
    assert_eq!(adapter.read_with_lock(dir.path().join("file")).unwrap(), None);
    assert_eq!(names(dir.path()), ["a"]);
}

#[test]
fn reading_without_the_lock_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = adapter(dir.path().join("locks"));
    let file = adapter.file(dir.path().join("file")).unwrap();
    assert_eq!((file.read_unlocked().unwrap(), adapter.read_unlocked(file.path()).unwrap()), (None, None));
    fs::write(file.path(), "contents").unwrap();
    for read in [file.read_unlocked(), adapter.read_unlocked(file.path())] {
        assert_eq!(read.unwrap().as_deref(), Some(&b"contents"[..]));
    }
    assert_eq!(names(dir.path()), ["file"]);
}

#[test]
fn it_hides_its_contents_and_itself_from_git() {
    let dir = tempfile::tempdir().unwrap();
    let locks = dir.path().join("locks");
    adapter(&locks).write_atomic(dir.path().join("file"), "").unwrap();
    assert_eq!(fs::read(locks.join(".gitignore")).unwrap(), b"*\n");
    // It is made again if it is missing, for example after a crash between the two steps.
    fs::remove_file(locks.join(".gitignore")).unwrap();
    fs::write(locks.join(".gitignore.1234"), "").unwrap();
    adapter(&locks).write_atomic(dir.path().join("another"), "").unwrap();
    assert_eq!(fs::read(locks.join(".gitignore")).unwrap(), b"*\n");
}

#[test]
fn a_gitignore_that_is_there_is_never_changed() {
    let dir = tempfile::tempdir().unwrap();
    let locks = dir.path().join("locks");
    fs::create_dir(&locks).unwrap();
    fs::write(locks.join(".gitignore"), "# mine").unwrap();
    adapter(&locks).write_atomic(dir.path().join("file"), "").unwrap();
    assert_eq!(fs::read(locks.join(".gitignore")).unwrap(), b"# mine");
}

#[test]
fn a_directory_with_other_things_in_it_gets_no_gitignore() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("precious.txt"), "").unwrap();
    adapter(dir.path()).write_atomic(dir.path().join("file"), "").unwrap();
    assert!(!dir.path().join(".gitignore").exists());
}

#[test]
fn every_spelling_of_the_directory_is_one_lock() {
    let dir = tempfile::tempdir().unwrap();
    let locks = dir.path().join("locks");
    fs::create_dir(&locks).unwrap();
    symlink(&locks, dir.path().join("link")).unwrap();
    let path = dir.path().join("file");
    let held = adapter(&locks).file(&path).unwrap();
    let guard = held.lock().unwrap();
    for spelling in ["locks/", "locks/.", "./locks/../locks", "link", "link/../link"] {
        let other = adapter(dir.path().join(spelling)).file(&path).unwrap();
        let refused = std::thread::spawn(move || matches!(other.try_lock(), Err(Error::WouldBlock { .. })));
        assert!(refused.join().unwrap(), "{spelling}");
    }
    drop(guard);
}

#[test]
fn a_directory_that_was_removed_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let locks = dir.path().join("locks");
    let adapter = adapter(&locks);
    let file = adapter.file(dir.path().join("file")).unwrap();
    for contents in ["one", "two"] {
        file.write(contents).unwrap();
        assert_eq!(names(&locks).len(), 2);
        fs::remove_dir_all(&locks).unwrap();
    }
    adapter.write_atomic(dir.path().join("another"), "three").unwrap();
    assert_eq!(names(&locks).len(), 2);
}

#[test]
fn what_is_not_a_lock_file_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let locks = dir.path().join("locks");
    let adapter = adapter(&locks);
    let path = dir.path().join("file");
    fs::create_dir(&locks).unwrap();
    let lock = adapter.lock_path(&path).unwrap();

    nix::unistd::mkfifo(&lock, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let refused = adapter.write_atomic(&path, "new").unwrap_err();
    assert!(matches!(&refused, Error::NotRegularFile { kind: FileKind::Fifo, path, .. } if *path == lock), "{refused}");
    fs::remove_file(&lock).unwrap();

    fs::create_dir(&lock).unwrap();
    let refused = adapter.write_atomic(&path, "new").unwrap_err();
    assert!(matches!(refused, Error::NotRegularFile { kind: FileKind::Directory, .. }), "{refused}");
    fs::remove_dir(&lock).unwrap();

    // A user who can put a link there could make this process lock, or make, any file.
    symlink(dir.path().join("victim"), &lock).unwrap();
    let refused = adapter.write_atomic(&path, "new").unwrap_err();
    assert!(matches!(refused, Error::NotRegularFile { kind: FileKind::Symlink, .. }), "{refused}");
    assert_eq!(names(dir.path()), ["locks"]);
    fs::remove_file(&lock).unwrap();

    // The contents of a lock file are ignored, and stay.
    fs::write(&lock, "some words").unwrap();
    adapter.write_atomic(&path, "new").unwrap();
    assert_eq!(fs::read(&lock).unwrap(), b"some words");
}

#[test]
fn a_file_in_the_place_of_the_directory_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let locks = dir.path().join("locks");
    fs::write(&locks, "").unwrap();
    let refused = adapter(&locks).write_atomic(dir.path().join("file"), "new").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::NotADirectory);
    assert!(refused.to_string().contains(locks.to_str().unwrap()), "{refused}");
    assert_eq!(names(dir.path()), ["locks"]);
}

#[test]
fn a_directory_without_a_name_is_refused() {
    // An empty path would mean the current directory, which is hardly intended.
    let refused = AtomicFileAdapter::with_lock_dir("").unwrap_err();
    assert!(matches!(refused, Error::InvalidPath { .. }), "{refused:?}");
    assert!(refused.to_string().contains("the lock directory's path is empty"), "{refused}");
}

#[test]
fn a_lock_file_is_not_handled_as_data() {
    // Reading a lock file as data would drop the locks on it, and replacing it would split them.
    let dir = tempfile::tempdir().unwrap();
    let locks = dir.path().join("locks");
    let adapter = adapter(&locks);
    let file = adapter.file(dir.path().join("file")).unwrap();
    let guard = file.lock().unwrap();
    symlink(&locks, dir.path().join("link")).unwrap();
    let lock = file.lock_path().to_owned();
    for path in [lock.clone(), dir.path().join("link").join(lock.file_name().unwrap())] {
        for result in [
            adapter.read_with_lock(&path).map(drop),
            adapter.read_unlocked(&path).map(drop),
            adapter.write_atomic(&path, "x"),
            adapter.delete_with_lock(&path).map(drop),
            adapter.file(&path).map(drop),
        ] {
            assert!(matches!(result, Err(Error::InvalidPath { .. })), "{result:?}");
        }
    }
    // In another directory the name has no meaning.
    adapter.write_atomic(dir.path().join(lock.file_name().unwrap()), "x").unwrap();
    let others = adapter.file(dir.path().join("file")).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(matches!(others.try_lock(), Err(Error::WouldBlock { .. }))));
    });
    drop(guard);
}
