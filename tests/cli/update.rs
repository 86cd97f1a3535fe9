//! `update`.

use std::fs;
use std::process::Stdio;

use assert_cmd::assert::Assert;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{MORE_THAN_A_PIPE, Scratch, TIMED_OUT, TOOL, message};

#[test]
fn update_passes_the_old_contents_through_the_command() {
    let scratch = Scratch::with("file", b"b\nc\0\xFF\na\n");
    scratch.run(&["update", "file", "--", "sh", "-c", "cat; echo new"]).success().stdout("").stderr("");
    assert_eq!(scratch.contents("file"), b"b\nc\0\xFF\na\nnew\n");
    assert_eq!(scratch.names(), ["file"]);
}

#[test]
fn update_of_a_missing_file_gives_the_command_empty_input() {
    let scratch = Scratch::new();
    // CMD must not get the tool's own input.
    let mut tool = scratch.tool(&["update", "file", "--", "sh", "-c", "echo old=$(cat)"]);
    tool.write_stdin("not this").assert().success();
    assert_eq!(scratch.contents("file"), b"old=\n");
}

#[test]
fn update_with_a_command_that_says_nothing_leaves_an_empty_file() {
    let scratch = Scratch::with("file", vec![b'x'; MORE_THAN_A_PIPE]);
    scratch.run(&["update", "file", "--", "true"]).success();
    assert_eq!(scratch.contents("file"), b"");
}

#[test]
fn update_changes_nothing_when_the_command_fails_and_passes_its_status_on() {
    for (script, status) in
        [("cat; echo new; exit 7", 7), ("echo new; kill -KILL $$", 128 + 9), ("echo new; kill -TERM $$", 128 + 15)]
    {
        let scratch = Scratch::with("file", "old");
        scratch.run_sh(&["update", "file"], script).code(status).stdout("").stderr("");
        assert_eq!(scratch.contents("file"), b"old", "{script}");
        assert_eq!(scratch.names(), ["file"], "{script}");
        // If there was no file, none is made.
        scratch.run_sh(&["update", "new"], script).code(status);
        assert_eq!(scratch.names(), ["file"], "{script}");
    }
}

#[test]
fn a_command_that_cannot_be_started_changes_nothing() {
    let scratch = Scratch::with("file", "old");
    fs::write(scratch.at("no program"), "").unwrap();
    // The statuses of env(1) and nohup(1).
    for (command, status, why) in [
        ("./no\nprogram", 127, r"cannot run ./no\nprogram: No such file"),
        ("no-program-on-the-path", 127, "cannot run no-program-on-the-path: No such file"),
        ("./no program", 126, "cannot run ./no program: Permission denied"),
        (".", 126, "cannot run .: Permission denied"),
        ("file/below", 126, "cannot run file/below: Not a directory"),
    ] {
        for verb in ["update", "run"] {
            let assert = scratch.run(&[verb, "file", "--", command]).code(status).stdout("");
            assert!(message(&assert).starts_with(why), "{verb}: {}", message(&assert));
            assert_eq!(scratch.contents("file"), b"old");
            assert_eq!(scratch.names(), ["file", "no program"]);
        }
    }
}

#[test]
fn update_keeps_readers_and_writers_out_while_the_command_runs() {
    let scratch = Scratch::with("file", "old");
    for verb in ["read", "delete"] {
        let assert = scratch.run(&["update", "file", "--", TOOL, "--timeout", "0", verb, "file"]).code(TIMED_OUT);
        assert!(message(&assert).contains("cannot lock file: process "));
    }
    assert_eq!(scratch.contents("file"), b"old");
}

#[test]
fn no_update_of_processes_that_race_is_lost() {
    const PROCESSES: usize = 8;
    const EACH: usize = 5;
    let scratch = Scratch::new();
    std::thread::scope(|scope| {
        for _ in 0..PROCESSES {
            scope.spawn(|| {
                for _ in 0..EACH {
                    scratch.run_sh(&["update", "n"], "read n; echo $((${n:-0} + 1))").success().stderr("");
                }
            });
        }
    });
    assert_eq!(scratch.contents("n"), format!("{}\n", PROCESSES * EACH).into_bytes());
    assert_eq!(scratch.names(), ["n"]);
}

#[test]
fn sigterm_to_update_reaches_the_command_and_changes_nothing_when_that_fails() {
    let scratch = Scratch::with("file", "old");
    nix::unistd::mkfifo(&scratch.at("started"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Without a signal it would succeed.
    let script = "echo new; trap 'kill $!; exit 9' TERM; sleep 10 >started & wait; exit 0";
    let mut command = scratch.command(&["update", "file", "--", "sh", "-c", script]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The open returns when the other end is opened, which is after the trap was set.
    drop(fs::File::open(scratch.at("started")).unwrap());
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    Assert::new(child.wait_with_output().unwrap()).code(9).stdout("").stderr("");
    assert_eq!(scratch.contents("file"), b"old");
    assert_eq!(scratch.names(), ["file", "started"]);
}
