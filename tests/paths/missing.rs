//! Missing files and directories.

use std::fs;
use std::io::{self, Write};

use atomic_file_adapter::Error;

use crate::common::names;
use crate::{Scratch, Verb, contents};

#[test]
fn without_a_file_reading_and_deleting_find_nothing_and_make_nothing() {
    let scratch = Scratch::new();
    for name in ["file", "missing/file", "missing/deeper/still/file"] {
        let path = scratch.path(name);
        assert_eq!(scratch.adapter.read_with_lock(&path).unwrap(), None, "{name}");
        assert_eq!(scratch.adapter.read_to_string_with_lock(&path).unwrap(), None, "{name}");
        assert!(!scratch.adapter.delete_with_lock(&path).unwrap(), "{name}");
        assert!(!scratch.adapter.exists(&path), "{name}");
        scratch.holds_only(&[]);
    }
}

#[test]
fn writing_makes_the_missing_directories() {
    let verbs: [(&str, Verb); 3] = [
        ("write", |adapter, path| adapter.write_atomic(path, "new")),
        ("update", |adapter, path| {
            adapter.update(path, |old| {
                assert_eq!(old, None);
                b"new".to_vec()
            })
        }),
        ("writer", |adapter, path| {
            let file = adapter.file(path)?;
            let guard = file.lock()?;
            let mut writer = guard.writer()?;
            writer.write_all(b"new").unwrap();
            writer.commit()
        }),
    ];
    for (verb, call) in verbs {
        let scratch = Scratch::new();
        let path = scratch.path("one/two/three/file");
        call(&scratch.adapter, &path).unwrap_or_else(|error| panic!("{verb}: {error}"));
        assert_eq!(contents(&path), "new", "{verb}");
        for (dir, expected) in [("", "one"), ("one", "two"), ("one/two", "three"), ("one/two/three", "file")] {
            assert_eq!(names(&scratch.path(dir)), [expected], "{verb}");
        }
        assert!(scratch.adapter.delete_with_lock(&path).unwrap());
        assert_eq!(names(path.parent().unwrap()), [""; 0], "{verb}");
    }
}

#[test]
fn a_handle_finds_a_directory_that_somebody_else_makes_later() {
    let scratch = Scratch::new();
    let path = scratch.path("later/and/deeper/file");
    let file = scratch.adapter.file(&path).unwrap();
    for dir in ["", "later", "later/and", "later/and/deeper"] {
        fs::create_dir_all(scratch.path(dir)).unwrap();
        assert_eq!(file.read().unwrap(), None, "{dir:?}");
        assert!(!file.delete().unwrap(), "{dir:?}");
    }
    fs::write(&path, "theirs").unwrap();
    assert_eq!(file.read().unwrap().unwrap(), b"theirs");
    file.write("mine").unwrap();
    assert_eq!(contents(&path), "mine");
    assert!(file.delete().unwrap());
    assert_eq!(names(&scratch.path("later/and/deeper")), [""; 0]);
}

#[test]
fn a_handle_makes_the_directories_when_it_writes() {
    let scratch = Scratch::new();
    let path = scratch.path("later/and/deeper/file");
    let (file, other) = (scratch.adapter.file(&path).unwrap(), scratch.adapter.file(&path).unwrap());
    assert_eq!(other.read().unwrap(), None);
    scratch.holds_only(&[]);
    file.write("new").unwrap();
    assert_eq!(contents(&path), "new");
    // This handle was made when there was no file.
    assert_eq!(other.read().unwrap().unwrap(), b"new");
    other.update(|old| [old.unwrap(), b"er"].concat()).unwrap();
    assert_eq!(file.read().unwrap().unwrap(), b"newer");
    assert_eq!(names(path.parent().unwrap()), ["file"]);
}

#[test]
fn a_handle_does_not_follow_a_link_in_the_place_of_a_missing_directory() {
    let scratch = Scratch::new();
    let file = scratch.adapter.file(scratch.path("missing/file")).unwrap();
    fs::create_dir(scratch.path("elsewhere")).unwrap();
    scratch.link("elsewhere", "missing");
    for failure in [file.write("new"), file.read().map(drop), file.delete().map(drop)] {
        assert!(matches!(failure.unwrap_err(), Error::Io { .. }));
    }
    assert_eq!(names(&scratch.path("elsewhere")), [""; 0]);
}

#[test]
fn a_handle_stays_with_its_directory_when_that_is_renamed() {
    let scratch = Scratch::new();
    let file = scratch.adapter.file(scratch.make("before/file")).unwrap();
    fs::rename(scratch.path("before"), scratch.path("after")).unwrap();
    assert_eq!(file.read().unwrap().unwrap(), b"before/file");
    file.write("new").unwrap();
    scratch.holds_only(&["after"]);

    // Not even if another directory with the old name takes its place.
    let decoy = scratch.make("before/file");
    file.update(|old| [old.unwrap(), b"er"].concat()).unwrap();
    assert_eq!(contents(&scratch.path("after/file")), "newer");
    assert_eq!(contents(&decoy), "before/file");
    assert!(file.delete().unwrap());
    assert_eq!((names(&scratch.path("after")), names(&scratch.path("before"))), (vec![], vec!["file".to_owned()]));
}

#[test]
fn a_handle_whose_directory_was_removed_fails_to_write_and_makes_nothing() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("dir")).unwrap();
    let file = scratch.adapter.file(scratch.path("dir/file")).unwrap();
    fs::remove_dir(scratch.path("dir")).unwrap();
    assert_eq!(file.read().unwrap(), None);
    assert!(!file.delete().unwrap());
    assert_eq!(file.write("new").unwrap_err().kind(), io::ErrorKind::NotFound);
    scratch.holds_only(&[]);
}
