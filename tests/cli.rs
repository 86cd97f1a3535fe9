//! The command line tool, as its user meets it: arguments, streams, statuses and signals of the real program.

mod common;

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::assert::Assert;
use atomic_file_adapter::AtomicFileAdapter;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use common::{Worker, names, until_it_waits_for_a_lock};

const TOOL: &str = env!("CARGO_BIN_EXE_atomic-file");

const DONE: i32 = 0;
const FAILED: i32 = 1;
const WRONG_USAGE: i32 = 2;
const MISSING: i32 = 3;
const TIMED_OUT: i32 = 4;

/// A CMD that says when it runs, and ends when it is told to.
const HOLD: &str = "echo held; read answer";

/// An empty current directory for the tool.
struct Scratch {
    dir: TempDir,
    path: PathBuf,
}

impl Scratch {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // The directory for temporary files may be behind a symbolic link, and messages name real paths.
        let path = dir.path().canonicalize().unwrap();
        Scratch { dir, path }
    }

    /// With a file of these contents.
    fn with(name: &str, contents: impl AsRef<[u8]>) -> Self {
        let scratch = Scratch::new();
        fs::write(scratch.at(name), contents).unwrap();
        scratch
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn contents(&self, name: &str) -> Vec<u8> {
        fs::read(self.at(name)).unwrap()
    }

    /// What is there, but for the tool's own directory.
    fn names(&self) -> Vec<String> {
        names(&self.path).into_iter().filter(|name| name != ".jerry").collect()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(TOOL);
        command.current_dir(self.dir.path()).args(args);
        command
    }

    /// The tool, with empty input; a hang is a failure.
    fn tool(&self, args: &[&str]) -> assert_cmd::Command {
        let mut tool = assert_cmd::Command::from_std(self.command(args));
        tool.timeout(Duration::from_secs(60));
        tool
    }

    fn run(&self, args: &[&str]) -> Assert {
        self.tool(args).assert()
    }

    /// `verb PATH -- sh -c SCRIPT`
    fn run_sh(&self, verb: &[&str], script: &str) -> Assert {
        self.run(&[verb, &["--", "sh", "-c", script]].concat())
    }

    /// The same in the background.
    fn start_sh(&self, verb: &[&str], script: &str) -> Worker {
        self.start(&[verb, &["--", "sh", "-c", script]].concat())
    }

    fn start(&self, args: &[&str]) -> Worker {
        Worker::spawn(&mut self.command(args))
    }

    /// A process of the tool that has the lock of `name`.
    fn hold(&self, name: &str) -> Worker {
        let mut holder = self.start_sh(&["run", name], HOLD);
        holder.expect("held");
        holder
    }

    fn hold_shared(&self, name: &str) -> Worker {
        let mut holder = self.start_sh(&["run", "--shared", name], HOLD);
        holder.expect("held");
        holder
    }

    fn adapter(&self, lock_dir: &str) -> AtomicFileAdapter {
        AtomicFileAdapter::with_lock_dir(self.at(lock_dir)).unwrap()
    }

    /// The default lock file of `name`.
    fn lock_path(&self, name: &str) -> PathBuf {
        self.adapter(AtomicFileAdapter::DEFAULT_LOCK_DIR).lock_path(self.at(name)).unwrap()
    }
}

/// The tool's message, which has to be all that there is on standard error.
#[track_caller]
fn message(assert: &Assert) -> String {
    let stderr = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    let message = stderr.strip_prefix("atomic-file: ").and_then(|rest| rest.strip_suffix('\n')).unwrap_or_default();
    assert!(!message.is_empty() && !message.contains('\n'), "not one line of the tool: {stderr:?}");
    message.to_owned()
}

fn stdout(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

fn send(signal: Signal, worker: &Worker) {
    kill(Pid::from_raw(worker.pid().try_into().unwrap()), signal).unwrap();
}

fn line(path: &Path) -> String {
    format!("{}\n", path.display())
}

// read and write

#[test]
fn read_gives_back_the_bytes_that_write_was_given() {
    let every_byte: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    // The last two go over the limit up to which the input is kept in memory, by nothing and by something.
    for contents in [vec![], b"one line\n".to_vec(), every_byte, vec![0; 1 << 20], vec![0xFF; (1 << 20) + 1]] {
        let scratch = Scratch::new();
        scratch.tool(&["write", "file"]).write_stdin(contents.clone()).assert().success().stdout("").stderr("");
        assert!(scratch.contents("file") == contents);
        let read = scratch.run(&["read", "file"]).success().stderr("");
        assert!(read.get_output().stdout == contents, "{} bytes", contents.len());
        assert_eq!(scratch.names(), ["file"]);
    }
}

#[test]
fn write_replaces_longer_contents_as_a_whole() {
    let scratch = Scratch::with("file", "something longer");
    scratch.tool(&["write", "file"]).write_stdin("new").assert().success();
    assert_eq!(scratch.contents("file"), b"new");
    scratch.run(&["write", "file"]).success();
    assert_eq!(scratch.contents("file"), b"");
}

#[test]
fn write_makes_the_directories_above_the_file() {
    let scratch = Scratch::new();
    scratch.tool(&["write", "new/deep/file"]).write_stdin("x").assert().success();
    assert_eq!(scratch.contents("new/deep/file"), b"x");
}

#[test]
fn write_through_a_symlink_keeps_the_link() {
    let scratch = Scratch::with("file", "old");
    symlink("file", scratch.at("link")).unwrap();
    scratch.tool(&["write", "link"]).write_stdin("new").assert().success();
    assert_eq!(scratch.at("link").read_link().unwrap(), Path::new("file"));
    assert_eq!(scratch.contents("file"), b"new");
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: Apple's file systems refuse such names")]
fn names_need_not_be_utf_8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let scratch = Scratch::new();
    let (name, lock_dir) = (OsStr::from_bytes(b"caf\xE9"), OsStr::from_bytes(b"locks\xFF"));
    let call = |verb: &str| {
        let mut tool = scratch.tool(&[verb]);
        tool.arg(name).arg("--lock-dir").arg(lock_dir);
        tool
    };
    call("write").write_stdin("x").assert().success();
    assert_eq!(fs::read(scratch.path.join(name)).unwrap(), b"x");
    call("read").assert().success().stdout("x");
    let lock = AtomicFileAdapter::with_lock_dir(scratch.path.join(lock_dir)).unwrap();
    let lock = lock.lock_path(scratch.path.join(name)).unwrap();
    call("lock-path").assert().success().stdout([lock.as_os_str().as_bytes(), b"\n"].concat());
}

#[test]
fn a_missing_file_reads_as_nothing() {
    let scratch = Scratch::new();
    scratch.run(&["read", "file"]).code(DONE).stdout("").stderr("");
    scratch.run(&["read", "no/such/directory/file"]).code(DONE).stdout("").stderr("");
    assert!(scratch.names().is_empty());
}

#[test]
fn read_must_exist_tells_a_missing_file_from_an_empty_one() {
    let scratch = Scratch::with("empty", "");
    scratch.run(&["read", "--must-exist", "file"]).code(MISSING).stdout("").stderr("");
    scratch.run(&["read", "--must-exist", "empty"]).code(DONE).stdout("").stderr("");
}

#[test]
fn read_ends_quietly_when_nobody_wants_the_rest() {
    // Much more than a pipe holds.
    let scratch = Scratch::with("file", vec![b'x'; 4 << 20]);
    let mut child = scratch.command(&["read", "file"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0];
    // The pipe closes at the end of this statement.
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(DONE), String::new()));
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: /dev/full")]
fn output_that_cannot_be_written_is_an_error() {
    let scratch = Scratch::with("file", "x");
    scratch.run(&["run", "file", "--", "true"]).success();
    for args in [&["read", "file"][..], &["lock-path", "file"], &["locks"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let assert = scratch.command(args).stdout(full).output().map(Assert::new).unwrap().code(FAILED);
        assert!(message(&assert).starts_with("cannot write to standard output: No space left"), "{args:?}");
    }
}

#[test]
fn input_that_cannot_be_read_changes_nothing() {
    let scratch = Scratch::with("file", "old");
    let directory = fs::File::open(&scratch.path).unwrap();
    let assert = scratch.command(&["write", "file"]).stdin(directory).output().map(Assert::new).unwrap().code(FAILED);
    assert!(message(&assert).starts_with("cannot read standard input: Is a directory"));
    assert_eq!(scratch.contents("file"), b"old");
    assert_eq!(scratch.names(), ["file"]);
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "needs Linux: elsewhere a socket that is closed with unread data in it just ends"
)]
fn input_that_breaks_in_the_middle_changes_nothing() {
    use std::io::Write;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    let scratch = Scratch::with("file", "old");
    let (mut ours, mut its) = UnixStream::pair().unwrap();
    // What nobody has read when our end closes makes it a reset instead of an end (unix_release_sock in
    // net/unix/af_unix.c).
    its.write_all(b"unread").unwrap();
    let mut command = scratch.command(&["write", "file"]);
    command.stdin(OwnedFd::from(its)).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    // It has its own copy; ours in here would keep the socket open.
    drop(command);
    ours.write_all(&vec![b'x'; 3 << 20]).unwrap();
    drop(ours);
    let assert = Assert::new(child.wait_with_output().unwrap()).code(FAILED);
    assert!(message(&assert).starts_with("cannot read standard input: Connection reset"));
    assert_eq!(scratch.contents("file"), b"old");
    assert_eq!(scratch.names(), ["file"]);
}

/// More than fits into a pipe, so that whoever has written all of it knows that some has been read.
const MORE_THAN_A_PIPE: usize = 200_000;

#[test]
fn a_write_that_waits_for_its_input_keeps_nobody_out() {
    let scratch = Scratch::with("file", "old");
    let mut slow = scratch.start(&["write", "file"]);
    let half = "x".repeat(MORE_THAN_A_PIPE);
    slow.tell(&half);
    scratch.run(&["--timeout", "0", "read", "file"]).code(DONE).stdout("old");
    scratch.tool(&["--timeout", "0", "write", "file"]).write_stdin("in between").assert().code(DONE);
    slow.tell("end");
    slow.finish();
    assert_eq!(String::from_utf8(scratch.contents("file")).unwrap(), half + "\nend\n");
}

#[test]
fn a_write_of_more_than_a_mebibyte_has_the_lock_while_it_streams() {
    let scratch = Scratch::with("file", "old");
    let mut slow = scratch.start(&["write", "file"]);
    let half = "x".repeat((1 << 20) + MORE_THAN_A_PIPE);
    slow.tell(&half);
    scratch.run(&["--timeout", "0", "read", "file"]).code(TIMED_OUT).stdout("");
    assert_eq!(scratch.contents("file"), b"old");
    slow.tell("end");
    slow.finish();
    assert!(scratch.contents("file") == (half + "\nend\n").into_bytes());
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: macOS does not enforce `ulimit -v`")]
fn contents_larger_than_the_memory_stream_through_write_read_and_update() {
    let scratch = Scratch::new();
    // Numbers, so that a piece that is lost, doubled or misplaced shows. 200 MB of address space for 300 MB of data.
    let data = "seq 100000000 | head -c 300000000";
    let limit = "ulimit -v 200000";
    let sh = |script: &str| {
        let mut sh = assert_cmd::Command::new("sh");
        sh.args(["-c", script, TOOL]).current_dir(&scratch.path).timeout(Duration::from_secs(300));
        sh.assert().success().stdout("").stderr("");
    };
    // Durability is not what this is about, and 600 MB of it take their time.
    sh(&format!("{data} | ({limit}; \"$0\" --durability none write big)"));
    sh(&format!("{data} | cmp - big"));
    sh(&format!("({limit}; \"$0\" read big) | cmp - big"));
    sh(&format!("{limit}; \"$0\" --durability none update big -- tr 0-9 1-90"));
    sh(&format!("{data} | tr 0-9 1-90 | cmp - big"));
    assert_eq!(scratch.names(), ["big"]);
}

// update

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
    // The input of the tool itself must not reach CMD.
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
        // Nor does a file appear where there was none.
        scratch.run_sh(&["update", "new"], script).code(status);
        assert_eq!(scratch.names(), ["file"], "{script}");
    }
}

#[test]
fn a_command_that_cannot_be_started_changes_nothing() {
    let scratch = Scratch::with("file", "old");
    for verb in ["update", "run"] {
        let assert = scratch.run(&[verb, "file", "--", "./no\nprogram"]).code(FAILED).stdout("");
        assert!(message(&assert).starts_with(r"cannot run ./no\nprogram: No such file"), "{verb}");
        assert_eq!(scratch.contents("file"), b"old");
        assert_eq!(scratch.names(), ["file"]);
    }
}

#[test]
fn update_keeps_readers_and_writers_out_while_the_command_runs() {
    let scratch = Scratch::with("file", "old");
    for verb in ["read", "delete"] {
        let assert = scratch.run(&["update", "file", "--", TOOL, "--timeout", "0", verb, "file"]).code(TIMED_OUT);
        assert!(message(&assert).contains("held by process"));
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
    // Left alone it would succeed.
    let script = "echo new; trap 'kill $!; exit 9' TERM; sleep 10 >started & wait; exit 0";
    let mut command = scratch.command(&["update", "file", "--", "sh", "-c", script]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Opens when the other end is opened, which is after the trap was set.
    drop(fs::File::open(scratch.at("started")).unwrap());
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    Assert::new(child.wait_with_output().unwrap()).code(9).stdout("").stderr("");
    assert_eq!(scratch.contents("file"), b"old");
    assert_eq!(scratch.names(), ["file", "started"]);
}

// delete

#[test]
fn delete_says_whether_there_was_a_file() {
    let scratch = Scratch::with("file", "x");
    scratch.run(&["delete", "file"]).code(DONE).stdout("").stderr("");
    assert!(scratch.names().is_empty());
    scratch.run(&["delete", "file"]).code(MISSING).stdout("").stderr("");
}

// run

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
        // Only `wait` is sure to be interrupted by a trap.
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

/// As nohup does, and a script for what it starts with `&`.
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
    // CMD ends well, which it would not if either had been passed on to it, nor would the tool if it had died.
    holder.tell("end");
    holder.finish();
}

#[test]
fn the_command_gets_the_signals_that_the_tool_leaves_to_it() {
    let scratch = Scratch::new();
    // The tool's own handlers must not turn into ignored or blocked signals of CMD.
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
    // Its standard input: the old contents, whose name the new ones have got.
    assert_eq!(below(&listing), [scratch.at("file").to_str().unwrap()]);
}

// lock-path and locks

#[test]
fn lock_path_is_the_librarys_for_every_spelling_and_makes_nothing() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.at("real")).unwrap();
    fs::write(scratch.at("real/file"), "x").unwrap();
    symlink("real", scratch.at("dirlink")).unwrap();
    symlink("dirlink/../real/file", scratch.at("link")).unwrap();
    let absolute = scratch.at("real/file");
    let expected = line(&scratch.lock_path("real/file"));
    for spelling in ["real/file", "./real//../real/file", "dirlink/file", "link", absolute.to_str().unwrap()] {
        scratch.run(&["lock-path", spelling]).success().stdout(expected.clone()).stderr("");
    }
    let missing = line(&scratch.lock_path("not/yet/there"));
    assert_ne!(missing, expected);
    scratch.run(&["lock-path", "not/yet/there"]).success().stdout(missing);
    assert_eq!(names(&scratch.path), ["dirlink", "link", "real"]);
    assert_eq!(names(&scratch.at("real")), ["file"]);
}

#[test]
fn lock_path_names_the_file_that_is_locked() {
    let scratch = Scratch::new();
    scratch.tool(&["write", "file"]).write_stdin("x").assert().success();
    let lock = scratch.lock_path("file");
    assert_eq!(lock.parent(), Some(&*scratch.at(".jerry/local/locks")));
    assert!(lock.is_file());
}

#[test]
fn locks_says_who_holds_what() {
    let scratch = Scratch::new();
    scratch.run(&["read", "free"]).success();
    let holders = [scratch.hold("exclusive"), scratch.hold_shared("shared")];
    let path = |name| scratch.lock_path(name).into_os_string().into_string().unwrap();
    let [exclusive, shared] = holders.each_ref().map(|holder| holder.pid().to_string());
    let mut rows = [
        (path("free"), "free", "-"),
        (path("exclusive"), "exclusive", &exclusive),
        (path("shared"), "shared", &shared),
    ];
    rows.sort();
    let width = exclusive.len().max(shared.len()).max(3);
    let mut table = format!("STATE      {:>width$}  LOCK FILE\n", "PID");
    for (path, state, pid) in &rows {
        table += &format!("{state:9}  {pid:>width$}  {path}\n");
    }
    scratch.run(&["locks"]).success().stdout(table).stderr("");

    let json: Value = serde_json::from_str(&stdout(&scratch.run(&["locks", "--json"]).success().stderr(""))).unwrap();
    let object = |(path, state, pid): &(String, &str, &str)| {
        let pid = pid.parse::<u32>().ok();
        serde_json::json!({"path": path, "held": *state != "free", "exclusive": *state == "exclusive", "pid": pid})
    };
    assert_eq!(json, rows.iter().map(object).collect::<Value>());
}

#[test]
fn locks_are_one_line_and_json_is_valid_whatever_is_in_the_path() {
    let scratch = Scratch::new();
    let dir = "a\"b\\c\n\t\u{1b}[31m\u{7f}\u{9b}é🦀";
    let args = |verb: &[&'static str]| [&["--lock-dir", dir], verb].concat();
    scratch.run(&args(&["read", "file"])).success();
    let lock = scratch.adapter(dir).lock_path(scratch.at("file")).unwrap();
    let table = stdout(&scratch.run(&args(&["locks"])).success());
    assert!(table.lines().count() == 2 && table.contains(r#"a"b\c\n\t\u{1b}[31m\u{7f}\u{9b}é🦀/"#), "{table}");
    let json = stdout(&scratch.run(&args(&["locks", "--json"])).success());
    assert!(json.chars().all(|c| c == '\n' || !c.is_control()), "{json:?}");
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["path"], lock.to_str().unwrap());
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: Apple's file systems refuse such names")]
fn json_is_utf_8_even_if_the_path_is_not() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let scratch = Scratch::new();
    let tool = |args: &[&str]| {
        let mut tool = scratch.tool(args);
        tool.arg("--lock-dir").arg(OsStr::from_bytes(b"locks\xFF"));
        tool.assert().success()
    };
    tool(&["read", "file"]);
    let json: Value = serde_json::from_str(&stdout(&tool(&["locks", "--json"]))).unwrap();
    let dir = scratch.at("locks\u{FFFD}").into_os_string().into_string().unwrap();
    let name = json[0]["path"].as_str().unwrap().strip_prefix(&format!("{dir}/")).unwrap();
    assert!(scratch.path.join(OsStr::from_bytes(b"locks\xFF")).join(name).is_file());
}

#[test]
fn locks_without_a_lock_directory_says_nothing_and_makes_nothing() {
    let scratch = Scratch::new();
    scratch.run(&["locks"]).code(DONE).stdout("").stderr("");
    assert!(names(&scratch.path).is_empty());
}

#[test]
fn prune_removes_what_nobody_holds_and_prints_it() {
    let scratch = Scratch::new();
    scratch.run(&["prune"]).code(DONE).stdout("").stderr("");
    assert!(names(&scratch.path).is_empty());
    scratch.run(&["write", "file"]).success();
    let _holder = scratch.hold_shared("held");
    let line = format!("{}\n", scratch.lock_path("file").display());
    scratch.run(&["prune"]).success().stdout(line).stderr("");
    assert!(!scratch.lock_path("file").exists() && scratch.lock_path("held").exists());
    scratch.run(&["--timeout", "0", "write", "held"]).code(TIMED_OUT);
    scratch.run(&["--timeout", "0", "write", "file"]).success();
}

#[test]
fn sweep_removes_what_killed_writers_left_and_prints_it() {
    let scratch = Scratch::new();
    scratch.run(&["write", "file"]).success();
    let left =
        [".file.abcdefghij.tmp", ".held.abcdefghij.tmp"].map(|name| scratch.path.canonicalize().unwrap().join(name));
    for left in &left {
        fs::write(left, "").unwrap();
    }
    let holder = scratch.hold("held");
    scratch.run(&["sweep", "."]).success().stdout(format!("{}\n", left[0].display())).stderr("");
    assert!(!left[0].exists() && left[1].exists());
    scratch.run(&["sweep", "held"]).code(DONE).stdout("").stderr("");
    drop(holder);
    scratch.run(&["sweep", "held"]).success().stdout(format!("{}\n", left[1].display())).stderr("");
    scratch.run(&["sweep", "missing/file"]).code(DONE).stdout("").stderr("");
}

#[test]
fn locks_lists_nothing_but_lock_files() {
    let scratch = Scratch::new();
    scratch.run(&["read", "file"]).success();
    fs::write(scratch.at(".jerry/local/locks/notes.lock"), "").unwrap();
    let table = stdout(&scratch.run(&["locks"]).success());
    assert_eq!(
        table.lines().skip(1).collect::<Vec<_>>(),
        [format!("free         -  {}", scratch.lock_path("file").display())]
    );
}

// --timeout

#[test]
fn a_timeout_names_the_file_its_lock_file_and_the_holder() {
    let scratch = Scratch::with("file", "x");
    let holder = scratch.hold("file");
    for verb in [
        &["read", "file"][..],
        &["write", "file"],
        &["update", "file", "--", "cat"],
        &["delete", "file"],
        &["run", "file", "--", "true"],
    ] {
        let assert = scratch.run(&[&["--timeout", "0"], verb].concat()).code(TIMED_OUT).stdout("");
        let message = message(&assert);
        let (file, lock) = (scratch.at("file"), scratch.lock_path("file"));
        assert!(message.contains(&format!("the lock of {} ({})", file.display(), lock.display())), "{message}");
        assert!(message.ends_with(&format!("held by process {}", holder.pid())), "{message}");
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

// errors

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

// --lock-dir and --durability

#[test]
fn lock_files_are_in_the_default_directory_hidden_from_git() {
    let scratch = Scratch::with("file", "x");
    scratch.run(&["read", "file"]).success();
    let dir = scratch.at(".jerry/local/locks");
    let lock = scratch.lock_path("file");
    assert_eq!(names(&dir), [".gitignore", lock.file_name().unwrap().to_str().unwrap()]);
    assert_eq!(fs::read(dir.join(".gitignore")).unwrap(), b"*\n");
}

#[test]
fn the_lock_directory_may_be_given_before_and_after_the_verb() {
    let scratch = Scratch::with("file", "x");
    let absolute = scratch.at("absolute/locks");
    let absolute = absolute.to_str().unwrap();
    for (dir, below) in [("relative/locks", "relative/locks"), (absolute, "absolute/locks"), ("./a/../b", "b")] {
        // `..` only leads back out of what is there.
        fs::create_dir_all(scratch.at("a")).unwrap();
        let lock = scratch.adapter(below).lock_path(scratch.at("file")).unwrap();
        for args in [["--lock-dir", dir, "read", "file"], ["read", "file", "--lock-dir", dir]] {
            scratch.run(&args).success().stdout("x");
            assert_eq!(names(&scratch.at(below)), [".gitignore", lock.file_name().unwrap().to_str().unwrap()]);
            fs::remove_dir_all(scratch.at(below)).unwrap();
        }
    }
    assert!(!scratch.at(".jerry").exists());
}

#[test]
fn two_spellings_of_a_lock_directory_exclude_each_other() {
    let scratch = Scratch::with("file", "x");
    let absolute = scratch.at("locks");
    let mut holder = scratch.start_sh(&["--lock-dir", "locks", "run", "file"], HOLD);
    holder.expect("held");
    scratch.run(&["--lock-dir", absolute.to_str().unwrap(), "--timeout", "0", "read", "file"]).code(TIMED_OUT);
}

#[test]
fn every_durability_writes_and_deletes() {
    for level in ["full", "ordered", "none"] {
        let scratch = Scratch::with("file", "old");
        scratch.tool(&["--durability", level, "write", "file"]).write_stdin("a").assert().success();
        scratch.run_sh(&["update", "--durability", level, "file"], "tr a b").success();
        scratch.run(&["read", "file"]).success().stdout("b");
        scratch.run(&["delete", "file", "--durability", level]).success();
        assert!(scratch.names().is_empty());
    }
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: setpriv")]
fn full_durability_is_the_default_and_refused_where_a_directory_cannot_be_synced() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    let dir = scratch.at("unreadable");
    fs::create_dir(&dir).unwrap();
    let set_mode = |mode| fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
    let write = |args: &[&str]| {
        let args = [args, &["write", "unreadable/file"]].concat();
        // Root may read everything, unless it has lost its capabilities.
        let mut tool = match common::no_root() {
            Some(_) => scratch.tool(&args),
            None => {
                let mut tool = assert_cmd::Command::new("setpriv");
                tool.args(["--bounding-set=-all", "--inh-caps=-all", TOOL]).args(&args).current_dir(&scratch.path);
                tool
            }
        };
        tool.assert()
    };
    set_mode(0o300);
    let refused = [write(&[]), write(&["--durability", "full"])];
    let written = [write(&["--durability", "ordered"]), write(&["--durability", "none"])];
    set_mode(0o700);
    for assert in refused {
        assert!(message(&assert.code(FAILED)).contains("sync the directory"));
    }
    for assert in written {
        assert.success();
    }
    assert_eq!(names(&dir), ["file"]);
}
