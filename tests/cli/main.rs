//! The command line tool, as its user meets it: arguments, streams, statuses and signals of the real program.

#[path = "../common/mod.rs"]
mod common;

mod delete;
mod edit;
mod errors;
mod locks;
mod read_and_write;
mod recover;
mod run;
mod settings;
mod signals;
mod timeout;
mod update;
mod waiting;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use assert_cmd::assert::Assert;
use atomic_file_adapter::AtomicFileAdapter;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::stat::{Mode, umask};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::common::{Worker, names};

const TOOL: &str = env!("CARGO_BIN_EXE_atomic-file");

const DONE: i32 = 0;
const FAILED: i32 = 1;
const WRONG_USAGE: i32 = 2;
const MISSING: i32 = 3;
const TIMED_OUT: i32 = 4;

/// A CMD that says when it runs, and ends when it gets a line.
const HOLD: &str = "echo held; read answer";

/// More than fits into a pipe. A writer that has written all of it knows that some was read.
const MORE_THAN_A_PIPE: usize = 200_000;

/// An empty current directory for the tool.
struct Scratch {
    dir: TempDir,
    path: PathBuf,
}

impl Scratch {
    fn new() -> Self {
        common::usual_umask();
        let dir = tempfile::tempdir().unwrap();
        // The directory for temporary files may be behind a symbolic link, but messages have real paths.
        let path = dir.path().canonicalize().unwrap();
        Scratch { dir, path }
    }

    /// The same with a file.
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

    /// The names in the directory, without the tool's own directory.
    fn names(&self) -> Vec<String> {
        names(&self.path).into_iter().filter(|name| name != ".jerry").collect()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(TOOL);
        command.current_dir(self.dir.path()).args(args);
        as_from_a_terminal(&mut command);
        command
    }

    /// The tool with empty input. If it hangs, the test fails.
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

    /// A process of the tool that holds the lock of `name`.
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

/// Makes the command start as from a terminal, however the tests were started. nohup ignores SIGHUP, and a shell
/// ignores SIGINT and SIGQUIT in programs that it starts with `&`. Ignored signals stay ignored in the tool and in its
/// CMD. The umask is a usual one, because a lock directory that the group may write to is shared, and its lock files
/// are empty.
fn as_from_a_terminal(command: &mut Command) {
    let set = || {
        // Some numbers are no signals, and some signals cannot be changed. These calls fail.
        for signal in 1..=64 {
            // SAFETY: the default action is no function that could run.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        SigSet::empty().thread_set_mask()?;
        umask(Mode::from_bits_truncate(0o022));
        // No core file for a process that the test kills.
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: it reads the struct, which lives long enough.
        unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) };
        Ok(())
    };
    // SAFETY: it makes only system calls that are allowed between fork and exec, and allocates nothing.
    unsafe { command.pre_exec(set) };
}

/// The tool's message. It has to be everything that is on standard error.
#[track_caller]
fn message(assert: &Assert) -> String {
    let stderr = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    let message = stderr.strip_prefix("atomic-file: ").and_then(|rest| rest.strip_suffix('\n')).unwrap_or_default();
    assert!(!message.is_empty() && !message.contains('\n'), "not one line of the tool: {stderr:?}");
    message.to_owned()
}

fn stderr(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
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
