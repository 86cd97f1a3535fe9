//! Signals to the tool, one by one: the effect of each while a CMD runs under the lock, and while there is a temporary
//! file.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use libc::*;
use nix::sys::signal::{Signal, killpg};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use crate::common::names;
use crate::{DONE, FAILED, MORE_THAN_A_PIPE, Scratch, TIMED_OUT, TOOL};

/// Signals that end a process by default, are passed on to CMD, and mean nothing else to the tool.
const MESSAGES: &[(&str, i32)] = &[
    ("ABRT", SIGABRT),
    ("ALRM", SIGALRM),
    ("PROF", SIGPROF),
    ("TRAP", SIGTRAP),
    ("USR1", SIGUSR1),
    ("USR2", SIGUSR2),
    ("VTALRM", SIGVTALRM),
    ("XCPU", SIGXCPU),
    #[cfg(target_os = "linux")]
    ("IO", SIGIO),
    #[cfg(target_os = "linux")]
    ("PWR", SIGPWR),
    #[cfg(target_os = "linux")]
    ("STKFLT", SIGSTKFLT),
];

/// Signals that ask the tool to end, and that it passes on.
const PASSED_ON_REQUESTS: [(&str, i32); 2] = [("HUP", SIGHUP), ("TERM", SIGTERM)];

/// Signals that ask it to end, and that CMD gets from the terminal.
const TERMINAL_REQUESTS: [(&str, i32); 2] = [("INT", SIGINT), ("QUIT", SIGQUIT)];

/// The tool in its own process group. At the end the whole group is killed.
struct Tool {
    child: Child,
}

impl Tool {
    fn spawn(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        Tool { child: command.spawn().unwrap() }
    }

    fn sh(scratch: &Scratch, verb: &str, script: &str) -> Self {
        Tool::spawn(&mut scratch.command(&[verb, "file", "--", "sh", "-c", script]))
    }

    fn pid(&self) -> i32 {
        self.child.id().try_into().unwrap()
    }

    fn send(&self, signal: i32) {
        // SAFETY: the call takes numbers, and nobody has waited for this process yet.
        assert_eq!(unsafe { kill(self.pid(), signal) }, 0);
    }

    fn output(&mut self) -> BufReader<ChildStdout> {
        BufReader::new(self.child.stdout.take().unwrap())
    }

    fn tell(&mut self, text: &str) {
        self.child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Waits until the process is in this state (proc_pid_stat(5)).
    fn wait_for_state(&self, state: char) {
        let stat = format!("/proc/{}/stat", self.pid());
        wait_until(|| fs::read_to_string(&stat).unwrap().rsplit_once(") ").unwrap().1.starts_with(state));
    }

    fn end(mut self) -> ExitStatus {
        drop(self.child.stdin.take());
        self.ended()
    }

    /// Waits for its end, and keeps its input open.
    fn ended(mut self) -> ExitStatus {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        // All of them may have ended.
        let _ = killpg(Pid::from_raw(self.pid()), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

#[track_caller]
fn wait_until(mut happened: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !happened() {
        assert!(Instant::now() < end, "it did not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Expects this line. Its pipe does not close when the tool ends, because CMD may go on.
#[track_caller]
fn expect(output: &mut BufReader<ChildStdout>, line: &str, what: &str) {
    let mut fd = pollfd { fd: output.get_ref().as_raw_fd(), events: POLLIN, revents: 0 };
    // SAFETY: the call gets one struct, which lives long enough.
    let ready = !output.buffer().is_empty() || unsafe { poll(&mut fd, 1, 60_000) } == 1;
    assert!(ready, "{what}: no answer");
    let mut heard = String::new();
    output.read_line(&mut heard).unwrap();
    assert_eq!(heard.trim_end(), line, "{what}");
}

#[track_caller]
fn is_locked(scratch: &Scratch, what: &str) {
    let status = scratch.command(&["--timeout", "0", "read", "file"]).output().unwrap().status;
    assert_eq!(status.code(), Some(TIMED_OUT), "{what}: CMD goes on without the lock");
}

// While CMD runs

#[test]
fn each_signal_that_would_end_run_reaches_the_command_and_the_lock_stays_until_that_has_ended() {
    for (name, signal) in PASSED_ON_REQUESTS.iter().chain(MESSAGES) {
        let scratch = Scratch::with("file", "x");
        // A trap is certain to interrupt only `wait`.
        let script = format!(
            "trap 'kill $!; echo got it; read answer; exit 0' {signal}; sleep 60 >&2 & echo held; wait; exit 1"
        );
        let mut tool = Tool::sh(&scratch, "run", &script);
        let mut output = tool.output();
        expect(&mut output, "held", name);
        tool.send(*signal);
        expect(&mut output, "got it", name);
        is_locked(&scratch, name);
        tool.tell("end\n");
        assert_eq!(tool.end().code(), Some(DONE), "{name}");
        scratch.run(&["--timeout", "0", "read", "file"]).code(DONE);
    }
}

#[test]
fn each_other_signal_that_would_end_run_is_left_to_the_command() {
    let mut left = TERMINAL_REQUESTS.to_vec();
    // Rust's runtime ignores the second one already.
    left.extend([("XFSZ", SIGXFSZ), ("PIPE", SIGPIPE)]);
    #[cfg(target_os = "linux")]
    left.extend([("RTMIN", SIGRTMIN()), ("RTMIN+1", SIGRTMIN() + 1), ("RTMAX", SIGRTMAX())]);
    for (name, signal) in left {
        let scratch = Scratch::with("file", "x");
        // A trap is certain to interrupt only `wait`.
        let script = "trap 'echo usr1' USR1; trap 'kill $!; exit 0' USR2; sleep 60 >&2 & echo held; while wait $!; [ $? -gt 128 ]; do :; done";
        let mut tool = Tool::sh(&scratch, "run", script);
        let mut output = tool.output();
        expect(&mut output, "held", name);
        tool.send(signal);
        // A second signal is sent after the first was handled, because two pending signals have no order.
        for _ in 0..2 {
            tool.send(SIGUSR1);
            expect(&mut output, "usr1", name);
        }
        is_locked(&scratch, name);
        tool.send(SIGUSR2);
        // The signal would have ended CMD, and then the tool, too.
        assert_eq!(tool.end().code(), Some(DONE), "{name}");
    }
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: /proc")]
fn a_stopped_tool_keeps_the_lock() {
    for (name, signal) in [("STOP", SIGSTOP), ("TSTP", SIGTSTP), ("TTIN", SIGTTIN), ("TTOU", SIGTTOU)] {
        let scratch = Scratch::with("file", "x");
        let mut tool = Tool::sh(&scratch, "run", "echo held; read answer; echo ended");
        let mut output = tool.output();
        expect(&mut output, "held", name);
        tool.send(signal);
        tool.wait_for_state('T');
        is_locked(&scratch, name);
        // Only the tool was stopped. From a terminal, CMD would be stopped, too.
        tool.tell("end\n");
        expect(&mut output, "ended", name);
        is_locked(&scratch, name);
        tool.send(SIGCONT);
        assert_eq!(tool.end().code(), Some(DONE), "{name}");
        scratch.run(&["--timeout", "0", "read", "file"]).code(DONE);
    }
}

#[test]
fn only_sigkill_and_its_own_faults_end_run_before_the_command() {
    for signal in [SIGKILL, SIGILL, SIGBUS, SIGFPE, SIGSEGV, SIGSYS] {
        let scratch = Scratch::with("file", "x");
        let mut tool = Tool::sh(&scratch, "run", "echo held; read answer");
        let mut output = tool.output();
        expect(&mut output, "held", "");
        wait_until(|| {
            // Rust's runtime looks at the first SIGSEGV and SIGBUS, and then restores the default
            // (library/std/src/sys/pal/unix/stack_overflow.rs).
            tool.send(signal);
            tool.child.try_wait().unwrap().is_some()
        });
        assert_eq!(tool.child.wait().unwrap().signal(), Some(signal));
        scratch.run(&["--timeout", "0", "read", "file"]).code(DONE);
    }
}

#[test]
fn a_command_that_ends_is_seen_although_sigchld_is_blocked() {
    let scratch = Scratch::with("file", "x");
    let mut command = scratch.command(&["run", "file", "--", "sh", "-c", "exit 7"]);
    let block = || {
        // SAFETY: the set lives long enough, and is made empty first.
        unsafe {
            let mut set = std::mem::zeroed();
            sigemptyset(&mut set);
            sigaddset(&mut set, SIGCHLD);
            sigprocmask(SIG_BLOCK, &set, std::ptr::null_mut());
        }
        Ok(())
    };
    // SAFETY: the closure makes one system call.
    unsafe { command.pre_exec(block) };
    assert_eq!(Tool::spawn(&mut command).end().code(), Some(7));
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: setpriv and prlimit")]
fn where_no_process_can_be_had_the_command_is_not_started_and_nothing_is_changed() {
    if !nix::unistd::geteuid().is_root() {
        return; // The limit counts all processes of a user, and root has no such limit.
    }
    use std::os::unix::fs::PermissionsExt;
    let cases = ["run", "update", "edit"].map(|verb| [(verb, 1, FAILED), (verb, 2, DONE)]);
    for (verb, processes, status) in cases.concat() {
        let scratch = Scratch::new();
        fs::set_permissions(&scratch.path, fs::Permissions::from_mode(0o777)).unwrap();
        // The other user may have no access to its place. A process copies it: if this process had it open for writing,
        // a process that another test starts could inherit that descriptor, and running the copy would fail (ETXTBSY).
        assert!(Command::new("cp").arg(TOOL).arg(scratch.at("tool")).status().unwrap().success());
        let mut command = Command::new("setpriv");
        // RLIMIT_NPROC counts the processes of a user on the whole machine, including those of another run of this
        // test.
        let user = (40_000 + std::process::id() % 20_000).to_string();
        command.args(["--reuid", &user, "--clear-groups", "prlimit", &format!("--nproc={processes}"), "./tool"]);
        let command = command.args([verb, "file", "--", "touch", "started"]).current_dir(&scratch.path);
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let what = format!("{verb} with {processes}: {stderr}");
        assert_eq!(output.status.code(), Some(status), "{what}");
        assert_eq!(scratch.at("started").exists(), status == DONE, "{what}");
        if status == FAILED {
            assert!(stderr.starts_with("atomic-file: cannot run touch: Resource temporarily unavailable"), "{what}");
            assert_eq!(scratch.names(), ["tool"], "{what}");
        }
    }
}

// edit

#[test]
fn after_a_request_to_end_edit_changes_nothing_however_the_command_ends_and_leaves_no_copies() {
    for (name, signal) in PASSED_ON_REQUESTS.into_iter().chain(TERMINAL_REQUESTS) {
        for (end, status) in [("exit 0", 128 + signal), ("exit 7", 7)] {
            let scratch = Scratch::with("file", "old");
            fs::create_dir(scratch.at("tmp")).unwrap();
            // The script has the copy as $0. It gets a signal or not.
            let script = format!("trap '' {name}; echo new >$0; echo copied; read answer; {end}");
            let mut command = scratch.command(&["edit", "file", "--", "sh", "-c", &script]);
            let mut tool = Tool::spawn(command.env("TMPDIR", scratch.at("tmp")));
            let mut output = tool.output();
            expect(&mut output, "copied", name);
            assert_eq!(names(&scratch.at("tmp")).len(), 1, "{name}");
            tool.send(signal);
            tool.tell("end\n");
            assert_eq!(tool.end().code(), Some(status), "{name}");
            assert_eq!((scratch.contents("file"), names(&scratch.at("tmp")).len()), (b"old".to_vec(), 0), "{name}");
        }
    }
}

#[test]
fn a_signal_that_ends_the_command_ends_edit() {
    for (name, signal) in PASSED_ON_REQUESTS.iter().chain(MESSAGES) {
        let scratch = Scratch::with("file", "old");
        fs::create_dir(scratch.at("tmp")).unwrap();
        let script = "echo new >$0; echo copied; exec sleep 60 >&2";
        let mut command = scratch.command(&["edit", "file", "--", "sh", "-c", script]);
        let mut tool = Tool::spawn(command.env("TMPDIR", scratch.at("tmp")));
        let mut output = tool.output();
        expect(&mut output, "copied", name);
        tool.send(*signal);
        assert_eq!(tool.end().code(), Some(128 + signal), "{name}");
        assert_eq!((scratch.contents("file"), names(&scratch.at("tmp")).len()), (b"old".to_vec(), 0), "{name}");
    }
}

// update, with a CMD that leaves a process

/// A CMD that ends while a process that it has started goes on. That process has the pipe to the tool.
struct LeftBehind {
    scratch: Scratch,
    tool: Tool,
}

impl LeftBehind {
    /// CMD ends with `status`. When this returns, CMD has started the other process.
    fn start(status: i32) -> (Self, u32) {
        let scratch = Scratch::with("file", "old");
        for fifo in ["started", "release"] {
            mkfifo(&scratch.at(fifo), Mode::S_IRWXU).unwrap();
        }
        let script =
            format!("{{ echo $$ >started; read answer <release; echo late; }} 2>/dev/null & echo new; exit {status}");
        let tool = Tool::sh(&scratch, "update", &script);
        let cmd = fs::read_to_string(scratch.at("started")).unwrap();
        (LeftBehind { scratch, tool }, cmd.trim().parse().unwrap())
    }

    fn release(&self) {
        OpenOptions::new().write(true).open(self.scratch.at("release")).unwrap().write_all(b"go\n").unwrap();
    }
}

fn wait_for_end_of(pid: u32) {
    let pid = Pid::from_raw(pid.try_into().unwrap());
    wait_until(|| nix::sys::signal::kill(pid, None).is_err());
}

#[test]
fn after_a_request_to_end_update_commits_nothing_once_the_command_has_ended() {
    for (name, signal) in PASSED_ON_REQUESTS.into_iter().chain(TERMINAL_REQUESTS) {
        let (LeftBehind { scratch, tool }, cmd) = LeftBehind::start(0);
        wait_for_end_of(cmd);
        tool.send(signal);
        let status = tool.end();
        assert_eq!(status.code(), Some(128 + signal), "{name}: {status}");
        assert_eq!(scratch.contents("file"), b"old", "{name}");
        assert_eq!(scratch.names(), ["file", "release", "started"], "{name}");
    }
}

#[test]
fn a_request_to_end_counts_although_the_command_ends_well_later() {
    for (name, signal) in PASSED_ON_REQUESTS.into_iter().chain(TERMINAL_REQUESTS) {
        let scratch = Scratch::with("file", "old");
        mkfifo(&scratch.at("started"), Mode::S_IRWXU).unwrap();
        let script = format!("trap '' {name}; echo new; echo >started; read answer <started");
        let tool = Tool::sh(&scratch, "update", &script);
        fs::read_to_string(scratch.at("started")).unwrap();
        tool.send(signal);
        fs::write(scratch.at("started"), "end\n").unwrap();
        assert_eq!(tool.end().code(), Some(128 + signal), "{name}");
        assert_eq!(scratch.contents("file"), b"old", "{name}");
        assert_eq!(scratch.names(), ["file", "started"], "{name}");
    }
}

#[test]
fn a_signal_that_is_only_a_message_does_not_keep_update_from_its_commit() {
    for (name, signal) in MESSAGES {
        let scratch = Scratch::with("file", "old");
        mkfifo(&scratch.at("started"), Mode::S_IRWXU).unwrap();
        let script =
            format!("trap 'kill $!; echo got it; exit 0' {signal}; sleep 60 >/dev/null & echo >started; wait; exit 1");
        let tool = Tool::sh(&scratch, "update", &script);
        fs::read_to_string(scratch.at("started")).unwrap();
        tool.send(*signal);
        assert_eq!(tool.end().code(), Some(DONE), "{name}");
        assert_eq!(scratch.contents("file"), b"got it\n", "{name}");
    }
}

/// The same rule as for `$(...)` in a shell.
#[test]
fn without_a_signal_update_takes_what_is_said_after_the_end_of_the_command() {
    let (left, cmd) = LeftBehind::start(0);
    wait_for_end_of(cmd);
    is_locked(&left.scratch, "until the pipe is closed");
    left.release();
    assert_eq!(left.tool.end().code(), Some(DONE));
    assert_eq!(left.scratch.contents("file"), b"new\nlate\n");
}

#[test]
fn update_waits_for_nobody_when_the_command_has_failed() {
    let (LeftBehind { scratch, tool }, _) = LeftBehind::start(7);
    assert_eq!(tool.end().code(), Some(7));
    assert_eq!(scratch.contents("file"), b"old");
    assert_eq!(scratch.names(), ["file", "release", "started"]);
}

// While there is a temporary file

/// A `write` that has made its temporary file and waits for more input.
fn half_a_write(scratch: &Scratch) -> Tool {
    let mut tool = Tool::spawn(&mut scratch.command(&["write", "file"]));
    tool.tell(&"x".repeat((1 << 20) + MORE_THAN_A_PIPE));
    wait_until(|| scratch.names().len() == 2);
    tool
}

#[test]
fn a_write_that_a_signal_ends_leaves_no_temporary_file() {
    #[cfg(target_os = "linux")]
    let real_time = [("RTMIN", SIGRTMIN()), ("RTMAX", SIGRTMAX())];
    #[cfg(not(target_os = "linux"))]
    let real_time = [];
    for (name, signal) in [&PASSED_ON_REQUESTS[..], &TERMINAL_REQUESTS, MESSAGES, &real_time].concat() {
        let scratch = Scratch::with("file", "old");
        let tool = half_a_write(&scratch);
        tool.send(signal);
        let status = tool.ended();
        // These others cannot be restored once they were caught.
        match name {
            "IO" | "PWR" | "STKFLT" | "RTMIN" | "RTMAX" => assert_eq!(status.code(), Some(128 + signal), "{name}"),
            _ => assert_eq!(status.signal(), Some(signal), "{name}: {status}"),
        }
        assert_eq!(scratch.names(), ["file"], "{name}");
        assert_eq!(scratch.contents("file"), b"old", "{name}");
    }
}

#[test]
fn a_write_that_was_started_with_a_signal_ignored_goes_on() {
    for (name, signal) in PASSED_ON_REQUESTS.into_iter().chain(TERMINAL_REQUESTS) {
        if cfg!(not(target_os = "linux")) {
            return; // That system does not tell which signals are ignored.
        }
        let scratch = Scratch::with("file", "old");
        let mut command = Command::new("sh");
        command.args(["-c", &format!("trap '' {name}; exec \"$0\" write file"), TOOL]).current_dir(&scratch.path);
        let mut tool = Tool::spawn(&mut command);
        tool.tell(&"x".repeat((1 << 20) + MORE_THAN_A_PIPE));
        wait_until(|| scratch.names().len() == 2);
        tool.send(signal);
        assert_eq!(tool.end().code(), Some(DONE), "{name}");
        assert_eq!(scratch.contents("file").len(), (1 << 20) + MORE_THAN_A_PIPE, "{name}");
        assert_eq!(scratch.names(), ["file"], "{name}");
    }
}

#[test]
fn a_write_of_more_than_may_be_written_says_so_and_leaves_no_temporary_file() {
    let scratch = Scratch::with("file", "old");
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -f 100; head -c 3000000 /dev/zero | \"$0\" write file", TOOL]);
    let output = command.current_dir(&scratch.path).output().unwrap();
    assert_eq!(output.status.code(), Some(FAILED), "{}", output.status);
    assert!(String::from_utf8(output.stderr).unwrap().contains("File too large"));
    assert_eq!(scratch.names(), ["file"]);
    assert_eq!(scratch.contents("file"), b"old");
}

#[test]
fn a_signal_to_what_waits_for_a_lock_or_its_input_ends_it_at_once() {
    for (name, signal) in PASSED_ON_REQUESTS.into_iter().chain(TERMINAL_REQUESTS) {
        let scratch = Scratch::with("file", "old");
        let _holder = scratch.hold("file");
        for args in [&["write", "file"][..], &["update", "file", "--", "cat"], &["run", "file", "--", "true"]] {
            let mut command = scratch.command(args);
            // Its input ends at once, so it goes on to take the lock.
            command.stdin(File::open("/dev/null").unwrap()).stdout(Stdio::null()).process_group(0);
            let tool = Tool { child: command.spawn().unwrap() };
            #[cfg(target_os = "linux")]
            wait_until(|| {
                let locks = fs::read_to_string("/proc/locks").unwrap();
                locks.lines().any(|line| line.contains(" -> ") && line.contains(&format!(" {} ", tool.pid())))
            });
            tool.send(signal);
            assert_eq!(tool.end().signal(), Some(signal), "{name} {args:?}");
        }
        let tool = Tool::spawn(&mut scratch.command(&["write", "another"]));
        tool.send(signal);
        assert_eq!(tool.end().signal(), Some(signal), "{name}");
        assert_eq!(scratch.names(), ["file"]);
    }
}
