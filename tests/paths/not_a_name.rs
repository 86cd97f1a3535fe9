//! Paths that cannot name a file.

use std::fs;
use std::io;
use std::path::PathBuf;

use atomic_file_adapter::Error;

use crate::common::names;
use crate::{Scratch, contents, errors};

#[test]
fn a_path_that_cannot_name_a_file_is_invalid() {
    let scratch = Scratch::new();
    scratch.make("a");
    fs::create_dir(scratch.path("dir")).unwrap();
    scratch.link("missing", "dangling");
    let below =
        ["a/", "a/.", "a/..", "dir/", "dir/.", "dir/..", "x/", "x/.", "missing/../x", "x/y/../../a", "dangling/../x"];
    let with_nul = ["a\0", "\0", "a\0b", "di\0r/a", "missing\0/a"];
    let mut paths: Vec<PathBuf> = ["", "/", "//", "/.", "/..", ".", "..", "./", "../", "a/", "a/.", "\0", "a\0/b"]
        .into_iter()
        .map(PathBuf::from)
        .collect();
    paths.extend(below.into_iter().chain(with_nul).map(|name| scratch.path(name)));
    for path in paths {
        let mut failures = errors(&scratch.adapter, &path);
        failures.push((format!("lock_path of {path:?}"), scratch.adapter.lock_path(&path).unwrap_err()));
        for (what, error) in failures {
            let Error::InvalidPath { path: named, reason, .. } = &error else { panic!("{what}: {error:?}") };
            assert_eq!(*named, path, "{what}");
            assert!(!reason.is_empty() && error.to_string().contains(reason), "{what}");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{what}");
        }
        assert!(!scratch.adapter.exists(&path), "{path:?}");
        scratch.holds_only(&["a", "dangling", "dir"]);
    }
    assert_eq!(contents(&scratch.path("a")), "a");
    assert_eq!(names(&scratch.path("dir")), [""; 0]);
}

#[test]
fn a_file_as_a_directory_is_not_a_directory() {
    let scratch = Scratch::new();
    scratch.make("a");
    scratch.link("a", "link");
    for name in ["a/b", "a/b/c", "a/../b", "link/b", "a/missing/../b"] {
        for (what, error) in errors(&scratch.adapter, &scratch.path(name)) {
            assert_eq!(error.kind(), io::ErrorKind::NotADirectory, "{what}: {error:?}");
            assert!(error.to_string().contains(scratch.path(name).to_str().unwrap()), "{what}: {error}");
        }
        assert!(!scratch.adapter.exists(scratch.path(name)), "{name}");
        scratch.holds_only(&["a", "link"]);
        assert_eq!(contents(&scratch.path("a")), "a");
    }
}

#[test]
fn a_file_that_takes_the_place_of_a_missing_directory_is_not_a_directory() {
    let scratch = Scratch::new();
    let file = scratch.adapter.file(scratch.path("a/b")).unwrap();
    scratch.make("a");
    for failure in [file.write("new"), file.read().map(drop), file.delete().map(drop)] {
        assert_eq!(failure.unwrap_err().kind(), io::ErrorKind::NotADirectory);
    }
    scratch.holds_only(&["a"]);
}
