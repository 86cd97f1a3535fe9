//! Messages of errors, and wrong usage.

use std::fs;

use crate::common::names;
use crate::{FAILED, Scratch, TIMED_OUT, WRONG_USAGE, message};

#[test]
fn an_error_is_one_line_whatever_is_in_the_path() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.at("a\nb")).unwrap();
    let name = scratch.at(r"a\nb").display().to_string();
    for verb in ["read", "write", "delete"] {
        let assert = scratch.run(&[verb, "a\nb"]).code(FAILED).stdout("");
        assert_eq!(message(&assert), format!("{name} is not a regular file but a directory"), "{verb}");
        let assert = scratch.run(&[verb, "a\nb/"]).code(FAILED).stdout("");
        assert!(message(&assert).contains("cannot name a file"), "{verb}");
    }
    fs::create_dir(scratch.at("\r\u{1b}[31mred")).unwrap();
    let assert = scratch.run(&["read", "\r\u{1b}[31mred"]).code(FAILED);
    assert!(message(&assert).contains(r"\r\u{1b}[31mred is not"), "{}", message(&assert));
    let _holder = scratch.hold("a\nfile");
    let assert = scratch.run(&["--timeout", "0", "read", "a\nfile"]).code(TIMED_OUT);
    assert!(message(&assert).contains(scratch.at(r"a\nfile").to_str().unwrap()));
}

#[test]
fn wrong_usage_is_status_2_and_does_nothing() {
    let scratch = Scratch::new();
    for args in [
        &[][..],
        &["frobnicate"],
        &["read"],
        &["read", "one", "two"],
        &["write", "--must-exist", "file"],
        &["update", "file"],
        &["update", "file", "--"],
        &["run", "file"],
        &["run", "file", "true"],
        &["--durability", "most", "write", "file"],
        &["--lock-dir"],
    ] {
        let assert = scratch.run(args).code(WRONG_USAGE).stdout("");
        assert!(!assert.get_output().stderr.is_empty(), "{args:?}");
    }
    assert!(names(&scratch.path).is_empty());
}
