//! `run`.

use std::fs;
#[cfg(target_os = "linux")]
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::common::{Worker, until_it_waits_for_a_lock};
use crate::{DONE, Scratch, TIMED_OUT, TOOL, send, stdout};

#[test]
fn run_keeps_everybody_out_while_the_command_runs() {
    let scratch = Scratch::with("file", "old");
    for verb in ["read", "write", "delete"] {
        scratch.run(&["run", "file", "--", TOOL, "--timeout", "0", verb, "file"]).code(TIMED_OUT).stdout("");
    }
    scratch.run(&["run", "file", "--", TOOL, "--timeout", "0", "read", "another"]).code(DONE);
    assert_eq!(scratch.contents("file"), b"old");
    scratch.run(&["--timeout", "0", "read", "file"]).code(DONE);
}

#[test]
fn run_shared_lets_readers_in_and_keeps_writers_out() {
    let scratch = Scratch::with("file", "old");
    let inside =
        |args: &[&str]| scratch.run(&[&["run", "--shared", "file", "--", TOOL, "--timeout", "0"], args].concat());
    inside(&["read", "file"]).code(DONE).stdout("old");
    inside(&["run", "--shared", "file", "--", "true"]).code(DONE);
    inside(&["write", "file"]).code(TIMED_OUT);
    inside(&["delete", "file"]).code(TIMED_OUT);
    assert_eq!(scratch.contents("file"), b"old");
}

#[test]
fn run_takes_the_locks_of_several_files() {
    let scratch = Scratch::with("a", "old");
    let inside = |run: &[&str], args: &[&str]| {
        scratch.run(&[&["run"], run, &["./a", "b", "a", "--", TOOL, "--timeout", "0"], args].concat())
    };
    for file in ["a", "b"] {
        inside(&[], &["read", file]).code(TIMED_OUT).stdout("");
        inside(&["--shared"], &["read", file]).code(DONE);
        inside(&["--shared"], &["delete", file]).code(TIMED_OUT);
    }
    inside(&[], &["read", "another"]).code(DONE);
    // The order of the names does not matter.
    let mut holder = scratch.start_sh(&["run", "b", "a"], "echo held; read answer");
    holder.expect("held");
    for files in [["a", "b"], ["b", "a"]] {
        scratch.run(&[&["--timeout", "0", "run"], &files[..], &["--", "true"]].concat()).code(TIMED_OUT);
    }
    holder.tell("end");
    holder.finish();
    scratch.run(&["--timeout", "0", "run", "a", "b", "--", "sh", "-c", "exit 7"]).code(7);
    assert_eq!(scratch.contents("a"), b"old");
}

#[test]
fn run_passes_the_status_of_the_command_on() {
    let scratch = Scratch::new();
    for (script, status) in [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 128 + 9), ("kill -HUP $$", 128 + 1)] {
        scratch.run_sh(&["run", "file"], script).code(status).stdout("").stderr("");
    }
}

#[test]
fn the_streams_of_run_are_those_of_the_command() {
    let scratch = Scratch::new();
    let mut tool = scratch.tool(&["run", "file", "--", "sh", "-c", "cat; echo said >&2"]);
    tool.write_stdin("heard").assert().success().stdout("heard").stderr("said\n");
}

#[test]
fn what_follows_the_dashes_belongs_to_the_command() {
    let scratch = Scratch::new();
    let args = ["--timeout", "garbage", "--shared", "--help", "--"];
    scratch
        .run(&[&["run", "file", "--", "printf", "%s\n"], &args[..]].concat())
        .success()
        .stdout(args.join("\n") + "\n");
}

#[test]
fn sigterm_and_sighup_to_run_reach_the_command_and_the_lock_stays_until_that_has_ended() {
    for (signal, name) in [(Signal::SIGTERM, "TERM"), (Signal::SIGHUP, "HUP")] {
        let scratch = Scratch::with("file", "x");
        // A trap is certain to interrupt only `wait`.
        let script = format!(
            "trap 'kill $!; echo asked to end; read answer; exit 0' {name}; sleep 10 >&2 & echo held; wait; exit 1"
        );
        let mut holder = scratch.start_sh(&["run", "file"], &script);
        holder.expect("held");
        send(signal, &holder);
        holder.expect("asked to end");
        scratch.run(&["--timeout", "0", "read", "file"]).code(TIMED_OUT);
        holder.tell("end");
        holder.finish();
        scratch.run(&["--timeout", "0", "read", "file"]).code(DONE);
    }
}

/// As under nohup, or in a script that starts the tool with `&`.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: /proc")]
fn a_signal_that_is_ignored_stays_ignored_for_the_command() {
    let scratch = Scratch::new();
    let script = "trap '' HUP INT; exec \"$0\" run file -- grep SigIgn /proc/self/status";
    let output = Command::new("sh").args(["-c", script, TOOL]).current_dir(&scratch.path).output().unwrap();
    let mask = String::from_utf8(output.stdout).unwrap();
    let mask = u64::from_str_radix(mask.trim_start_matches("SigIgn:").trim(), 16).unwrap();
    assert_eq!(mask & 0b11, 0b11, "the command got back the default of a signal");
}

#[test]
fn sigint_and_sigquit_are_left_to_the_command() {
    let scratch = Scratch::with("file", "x");
    let mut holder = scratch.hold("file");
    send(Signal::SIGINT, &holder);
    send(Signal::SIGQUIT, &holder);
    scratch.run(&["--timeout", "0", "read", "file"]).code(TIMED_OUT);
    // CMD ends normally. It would not if the tool had passed on a signal or had died.
    holder.tell("end");
    holder.finish();
}

#[test]
fn the_command_gets_the_signals_that_the_tool_leaves_to_it() {
    let scratch = Scratch::new();
    // The tool's own signal handlers must not become ignored or blocked signals in CMD.
    for (name, number) in [("INT", 2), ("QUIT", 3), ("PIPE", 13), ("TERM", 15)] {
        scratch.run_sh(&["run", "file"], &format!("ulimit -c 0; kill -{name} $$")).code(128 + number);
    }
}

#[test]
fn a_killed_process_lets_the_next_in_at_once() {
    let scratch = Scratch::with("file", "x");
    let mut holder = scratch.hold("file");
    let mut next = scratch.start(&["read", "file"]);
    until_it_waits_for_a_lock(&next);
    holder.kill();
    next.expect("x");
    next.finish();
    scratch.run(&["--timeout", "0", "delete", "file"]).code(DONE);
}

#[test]
fn without_a_timeout_a_call_waits_until_the_lock_is_free() {
    let scratch = Scratch::with("file", "old");
    let mut holder = scratch.hold("file");
    let mut readers = [scratch.start(&["read", "file"]), scratch.start(&["read", "file"])];
    let writer = scratch.start(&["run", "file", "--", "true"]);
    readers.iter().chain([&writer]).for_each(until_it_waits_for_a_lock);
    fs::write(scratch.at("file"), "new").unwrap();
    holder.tell("end");
    holder.finish();
    readers.iter_mut().for_each(|reader| reader.expect("new"));
    readers.into_iter().chain([writer]).for_each(Worker::finish);
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: /proc tells where a descriptor leads")]
fn the_command_inherits_no_descriptor_of_ours() {
    let scratch = Scratch::with("file", "x");
    let below = |listing: &str| -> Vec<String> {
        let targets: Vec<&str> = listing.lines().filter_map(|line| Some(line.split_once(" -> ")?.1)).collect();
        assert!(targets.len() >= 3, "not a list of descriptors: {listing}");
        targets.into_iter().filter(|target| Path::new(target).starts_with(&scratch.path)).map(String::from).collect()
    };
    let list = ["--", "ls", "-l", "/proc/self/fd"];
    for verb in [&["run", "file"][..], &["run", "--shared", "file"]] {
        assert!(below(&stdout(&scratch.run(&[verb, &list].concat()).success())).is_empty(), "{verb:?}");
    }
    scratch.run(&[&["update", "file"], &list[..]].concat()).success();
    let listing = String::from_utf8(scratch.contents("file")).unwrap();
    // Its standard input: the old version. The new version has its name now.
    assert_eq!(below(&listing), [scratch.at("file").to_str().unwrap()]);
}

/// A CMD that ends with status 7 and leaves two processes that live until they get a line: a child, and a daemon (in
/// its own session, and its parent has ended).
#[cfg(target_os = "linux")]
const LEAVES: &str = "(read answer <child; echo child >&2) & \
    (setsid sh -c 'echo $$ >daemon.pid; echo >started; read answer <daemon; echo daemon >&2' &) ; read answer <started; exit 7";

#[cfg(target_os = "linux")]
fn leaving(scratch: &Scratch, args: &[&str]) -> std::process::Child {
    for fifo in ["child", "daemon", "started"] {
        nix::unistd::mkfifo(&scratch.at(fifo), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    let mut command = scratch.command(&[args, &["file", "--", "sh", "-c", LEAVES]].concat());
    command.stderr(std::process::Stdio::piped()).spawn().unwrap()
}

#[cfg(target_os = "linux")]
fn release(scratch: &Scratch, fifo: &str) {
    fs::write(scratch.at(fifo), "go\n").unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn run_inherit_keeps_the_lock_until_all_have_ended_that_the_command_has_started() {
    let scratch = Scratch::with("file", "x");
    let mut tool = leaving(&scratch, &["run", "--inherit"]);
    // The line shows that the process exists.
    let mut said = BufReader::new(tool.stderr.take().unwrap());
    let mut expect = |expected: &str| {
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), expected);
    };
    release(&scratch, "child");
    expect("child");
    // CMD itself may have ended by now or not.
    scratch.run(&["--timeout", "0", "read", "file"]).code(TIMED_OUT);
    assert_eq!(tool.try_wait().unwrap(), None);
    let mut daemon = String::new();
    wait_until(|| {
        daemon = fs::read_to_string(scratch.at("daemon.pid")).unwrap_or_default();
        daemon.ends_with('\n')
    });
    until_its_parent_is(daemon.trim(), tool.id());
    scratch.run(&["--timeout", "0", "read", "file"]).code(TIMED_OUT);
    release(&scratch, "daemon");
    expect("daemon");
    assert_eq!(tool.wait().unwrap().code(), Some(7));
    scratch.run(&["--timeout", "0", "read", "file"]).code(DONE);
}

#[test]
#[cfg(target_os = "linux")]
fn run_without_inherit_ends_with_the_command() {
    let scratch = Scratch::with("file", "x");
    let mut tool = leaving(&scratch, &["run"]);
    assert_eq!(tool.wait().unwrap().code(), Some(7));
    scratch.run(&["--timeout", "0", "read", "file"]).code(DONE);
    for fifo in ["child", "daemon"] {
        release(&scratch, fifo);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn when_the_command_has_ended_a_request_to_end_reaches_those_that_are_left() {
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
        let scratch = Scratch::with("file", "x");
        let mut tool = leaving(&scratch, &["run", "--inherit"]);
        let daemon = scratch.at("daemon.pid");
        wait_until(|| fs::read_to_string(&daemon).is_ok_and(|pid| pid.ends_with('\n')));
        until_its_parent_is(fs::read_to_string(&daemon).unwrap().trim(), tool.id());
        // CMD has ended when it is no longer a child of the tool.
        let children = format!("/proc/{0}/task/{0}/children", tool.id());
        wait_until(|| fs::read_to_string(&children).unwrap().split_whitespace().count() == 2);
        scratch.run(&["--timeout", "0", "read", "file"]).code(TIMED_OUT);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(tool.id().try_into().unwrap()), signal).unwrap();
        assert_eq!(tool.wait().unwrap().code(), Some(7));
        scratch.run(&["--timeout", "0", "read", "file"]).code(DONE);
    }
}

#[cfg(target_os = "linux")]
fn terminate(child: &std::process::Child) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn a_request_that_ends_the_command_reaches_those_that_it_leaves() {
    let scratch = Scratch::with("file", "x");
    let mut tool = scratch.command(&["run", "--inherit", "file", "--", "sh", "-c", "sleep 1000 & echo held; wait"]);
    let mut tool = tool.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(tool.stdout.take().unwrap()).read_line(&mut line).unwrap();
    terminate(&tool);
    assert_eq!(tool.wait().unwrap().code(), Some(128 + 15));
    scratch.run(&["--timeout", "0", "read", "file"]).code(DONE);
}

#[test]
#[cfg(target_os = "linux")]
fn run_inherit_kills_nobody_that_was_there_before() {
    let scratch = Scratch::with("file", "x");
    nix::unistd::mkfifo(&scratch.at("go"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let tool = scratch.command(&["run", "--inherit", "file", "--", "sh", "-c", "echo >ended"]);
    // A child of a shell, which then becomes the tool by exec.
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "{ read answer <go; echo lives; } & exec \"$0\" \"$@\""]);
    shell.arg(tool.get_program()).args(tool.get_args()).current_dir(&scratch.path);
    let mut shell = shell.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let children = format!("/proc/{0}/task/{0}/children", shell.id());
    wait_until(|| scratch.at("ended").exists());
    wait_until(|| fs::read_to_string(&children).unwrap().split_whitespace().count() == 1);
    terminate(&shell);
    release(&scratch, "go");
    let mut said = String::new();
    BufReader::new(shell.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "lives\n");
    assert_eq!(shell.wait().unwrap().code(), Some(0));
}

#[test]
#[cfg(target_os = "linux")]
fn run_inherit_passes_on_the_status_and_leaves_no_zombies() {
    let scratch = Scratch::with("file", "x");
    scratch.run(&["run", "--inherit", "file", "--", "true"]).code(DONE);
    scratch.run(&["run", "--inherit", "file", "--", "sh", "-c", "kill -KILL $$"]).code(128 + 9);
    scratch.run(&["run", "--inherit", "file", "--", "./missing"]).code(127);
    // Orphans that end while CMD still runs.
    let script = "for n in 1 2 3; do (true &); done; echo held; read answer";
    let mut holder = scratch.start(&["run", "--inherit", "file", "--", "sh", "-c", script]);
    holder.expect("held");
    let children = format!("/proc/{0}/task/{0}/children", holder.pid());
    wait_until(|| fs::read_to_string(&children).unwrap().split_whitespace().count() == 1);
    holder.tell("end");
    holder.finish();
}

/// Waits until this is the parent of the orphan: the fourth field of its state (proc_pid_stat(5)).
#[cfg(target_os = "linux")]
fn until_its_parent_is(pid: &str, parent: u32) {
    let stat = format!("/proc/{pid}/stat");
    wait_until(|| {
        let stat = fs::read_to_string(&stat).unwrap();
        stat.rsplit_once(") ").unwrap().1.split(' ').nth(1) == Some(&parent.to_string())
    });
}

#[cfg(target_os = "linux")]
#[track_caller]
fn wait_until(mut happened: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !happened() {
        assert!(std::time::Instant::now() < end, "it did not happen");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
