//! `--timeout`.

use std::time::{Duration, Instant};

use crate::{DONE, FAILED, MISSING, Scratch, TIMED_OUT, WRONG_USAGE, message};

#[test]
fn a_timeout_names_the_file_and_the_holder() {
    let scratch = Scratch::with("file", "x");
    let holder = scratch.hold("file");
    for verb in [
        &["read", "file"][..],
        &["write", "file"],
        &["update", "file", "--", "cat"],
        &["delete", "file"],
        &["run", "file", "--", "true"],
        &["edit", "file", "--", "true"],
    ] {
        let assert = scratch.run(&[&["--timeout", "0"], verb].concat()).code(TIMED_OUT).stdout("");
        let message = message(&assert);
        let program = if cfg!(target_os = "linux") { " (atomic-file, running sh)" } else { "" };
        let expected = format!("cannot lock file: process {}{program} holds it; ", holder.pid());
        assert!(message.starts_with(&expected), "{message}");
    }
}

#[test]
fn a_timeout_may_be_a_fraction_of_a_second() {
    let scratch = Scratch::with("file", "x");
    let _holder = scratch.hold("file");
    for (seconds, least) in [("0.05", 50), (".1", 100)] {
        let begin = Instant::now();
        let assert = scratch.run(&["--timeout", seconds, "read", "file"]).code(TIMED_OUT);
        assert!(begin.elapsed() >= Duration::from_millis(least));
        assert!(begin.elapsed() < Duration::from_secs(30));
        assert!(message(&assert).contains(&format!("{least}ms")));
    }
}

#[test]
fn a_free_lock_is_had_whatever_the_timeout() {
    let scratch = Scratch::with("file", "x");
    for seconds in ["0", "0.5", "3600", "1e19"] {
        scratch.run(&["--timeout", seconds, "read", "file"]).code(DONE).stdout("x");
    }
}

#[test]
fn a_timeout_that_is_no_time_is_wrong_usage() {
    let scratch = Scratch::with("file", "x");
    for wrong in ["--timeout=-1", "--timeout=-0.5", "--timeout=soon", "--timeout=", "--timeout=1s", "--timeout=nan"] {
        scratch.run(&[wrong, "read", "file"]).code(WRONG_USAGE).stdout("");
    }
    for wrong in ["-1", "inf", "1e300"] {
        scratch.run(&["--timeout", wrong, "read", "file"]).code(WRONG_USAGE).stdout("");
    }
}

/// As flock(1)'s.
#[test]
fn the_status_of_a_timeout_can_be_chosen() {
    let scratch = Scratch::with("file", "x");
    let _holder = scratch.hold("file");
    for (option, status) in [("--conflict-exit-code=77", 77), ("-E0", 0), ("-E255", 255), ("-E4", TIMED_OUT)] {
        for verb in [&["read", "file"][..], &["write", "file"], &["delete", "file"], &["run", "file", "--", "true"]] {
            let assert = scratch.run(&[&["--timeout", "0", option], verb].concat()).code(status).stdout("");
            assert!(message(&assert).contains("cannot lock file: "), "{option} {verb:?}");
        }
    }
    // It is for nothing else: neither for what CMD says, nor for other failures.
    scratch.run(&["-E77", "run", "another", "--", "sh", "-c", "exit 4"]).code(4).stderr("");
    scratch.run(&["-E77", "delete", "another"]).code(MISSING);
    scratch.run(&["-E77", "read", "."]).code(FAILED);
    for wrong in ["-E256", "-E-1", "-Ex", "-E="] {
        scratch.run(&[wrong, "read", "file"]).code(WRONG_USAGE).stdout("");
    }
}
