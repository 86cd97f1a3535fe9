//! Error messages, and wrong usage.

use std::fs;

use crate::common::{names, no_root};
use crate::{FAILED, Scratch, TIMED_OUT, TOOL, WRONG_USAGE, message, stdout};

#[test]
fn an_error_is_one_line_whatever_is_in_the_path() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.at("a\nb")).unwrap();
    let name = scratch.at(r"a\nb").display().to_string();
    for verb in ["read", "write", "delete"] {
        let assert = scratch.run(&[verb, "a\nb"]).code(FAILED).stdout("");
        assert_eq!(message(&assert), format!("{name} is not a regular file but a directory"), "{verb}");
        let assert = scratch.run(&[verb, "a\nb/"]).code(FAILED).stdout("");
        assert!(message(&assert).contains("which only a directory can"), "{verb}");
    }
    fs::create_dir(scratch.at("\r\u{1b}[31mred")).unwrap();
    let assert = scratch.run(&["read", "\r\u{1b}[31mred"]).code(FAILED);
    assert!(message(&assert).contains(r"\r\u{1b}[31mred is not"), "{}", message(&assert));
    let _holder = scratch.hold("a\nfile");
    let assert = scratch.run(&["--timeout", "0", "read", "a\nfile"]).code(TIMED_OUT);
    assert!(message(&assert).contains(r"a\nfile"), "{}", message(&assert));
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

/// The error of the file system, and not that of a fallback.
#[test]
fn on_a_read_only_file_system_the_error_says_so() {
    if no_root().is_some() || cfg!(not(target_os = "linux")) {
        return; // Mounting needs root.
    }
    let scratch = Scratch::new();
    let script = r#"
        mount -t tmpfs none . && cd "$PWD" && echo old >file && "$0" read file >there && mount -o remount,ro . || exit 99
        for verb in write delete run; do
            case $verb in run) set -- -- true;; *) set --;; esac
            "$0" $verb file "$@" </dev/null 2>&1
            echo "status $?"
        done
        "$0" prune 2>&1
        "$0" read file"#;
    let mut unshare = assert_cmd::Command::new("unshare");
    let assert = unshare.args(["-m", "sh", "-c", script, TOOL]).current_dir(&scratch.path).assert().success();
    let output = stdout(&assert);
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines.len(), 8, "{output}");
    for said in lines[..6].chunks(2) {
        assert!(said[0].contains("Read-only file system") && said[1] == "status 1", "{output}");
    }
    assert!(lines[6].contains("Read-only file system"), "{output}");
    assert_eq!(lines[7], "old");
}
