//! The command line tool: the library's verbs for shells and scripts.
#![forbid(unsafe_code)]

mod args;
mod child;
mod edit;
mod locks;
mod man;
mod paths;
mod process;
mod progress;
mod signals;
mod streams;
mod waiting;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use atomic_file_adapter::{AtomicFileAdapter, Durability, Error, Replacement};
use clap::{CommandFactory, Parser};
use signal_hook::low_level::emulate_default_handler;

use args::{CANNOT_RUN, Cli, FAILED, Level, MISSING, NOT_FOUND, Verb};
use child::{Running, passed_on, status_of};
use progress::Watched;
use signals::{Interruptible, Signals};

/// Input of up to this size is read before the lock is taken. Everything is copied in pieces of this size.
const PIECE: usize = 1 << 20;

/// Why the program ends with another status than 0.
enum Failure {
    Adapter(Error),
    Io(String, io::Error),
    /// The command of this name could not be started.
    Command(String, io::Error),
    /// A signal that was caught, and that would have ended the program.
    Signal(i32),
    /// Only this status, without a message.
    Status(u8),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Adapter(error)
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let timed_out = cli.conflict_exit_code;
    let result = run(cli);
    waiting::is_over();
    let (status, message) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Status(status)) => return status.into(),
        Err(Failure::Signal(signal)) => return die_of(signal),
        Err(Failure::Adapter(Error::Timeout { path, waited, holder, .. })) => {
            (timed_out, waiting::timed_out(&path, waited, holder))
        }
        Err(Failure::Adapter(error)) => (FAILED, error.to_string()),
        Err(Failure::Io(what, error)) => (FAILED, format!("{what}: {error}")),
        Err(Failure::Command(name, error)) => {
            let advice = match error.kind() {
                io::ErrorKind::NotFound => "; give its path, or a name that is found in PATH",
                io::ErrorKind::PermissionDenied => "; it must be a file that this user may execute (chmod +x)",
                _ => "",
            };
            (not_started(&error), format!("cannot run {name}: {error}{advice}"))
        }
    };
    say(&message);
    status.into()
}

fn say(message: &str) {
    // If standard error is closed, the message is lost.
    let _ = writeln!(io::stderr(), "atomic-file: {}", one_line(message));
}

/// The status for a command that could not be started, as in env(1) and nohup(1).
fn not_started(error: &io::Error) -> u8 {
    match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        // The system has no room for another process (fork(2)). That is not the fault of the command.
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => FAILED,
        _ => CANNOT_RUN,
    }
}

/// Ends as if the signal had not been caught, so that a shell sees the signal and ends its loop, for example.
fn die_of(signal: i32) -> ExitCode {
    // It returns only for a signal that it does not know (SIGIO, SIGPWR, SIGSTKFLT, real-time signals).
    let _ = emulate_default_handler(signal);
    status_of(signal).into()
}

/// The text as one line, without control characters for the terminal.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() || paths::turns_text(c) { c.escape_default().to_string() } else { c.into() })
        .collect()
}

fn run(
    Cli { lock_dir, lock_root, lock_mode, no_follow, timeout, verbose, durability, verb, .. }: Cli,
) -> Result<(), Failure> {
    // Completions and the manual page must work in every directory, even in one that was removed.
    let adapter = || {
        let mut builder = AtomicFileAdapter::builder().follow_links(!no_follow).durability(match durability {
            Level::Full => Durability::Full,
            Level::Ordered => Durability::Ordered,
            Level::None => Durability::None,
        });
        if let Some(dir) = lock_dir {
            builder = builder.lock_dir(dir);
        }
        if let Some(dir) = lock_root {
            builder = builder.lock_root(dir);
        }
        if let Some(mode) = lock_mode {
            builder = builder.lock_file_mode(mode);
        }
        if let Some(timeout) = timeout {
            builder = builder.lock_timeout(timeout);
        }
        waiting::tell(builder, verbose).build()
    };
    match verb {
        Verb::Read { path, must_exist } => {
            let file = adapter()?.file(path)?;
            match file.open()? {
                Some(version) => {
                    streams::check_output(file.path(), &version)?;
                    to_stdout(|out| show(version, out))
                }
                None if must_exist => Err(Failure::Status(MISSING)),
                None => Ok(()),
            }
        }
        Verb::Write { path, append } => write(&adapter()?, path, append),
        Verb::Update { path, command } => update(&adapter()?, path, &command),
        Verb::Delete { path } => match adapter()?.delete_with_lock(path)? {
            true => Ok(()),
            false => Err(Failure::Status(MISSING)),
        },
        Verb::Run { paths, shared, inherit, command } => {
            let adapter = adapter()?;
            let _guards = match shared {
                true => (adapter.lock_many_shared(paths)?, Vec::new()),
                false => (Vec::new(), adapter.lock_many(paths)?),
            };
            let signals = catch_signals()?;
            let mut child = match inherit {
                true => Running::start_family(&command, signals)?,
                false => Running::start(&command, signals, |command| command)?,
            };
            passed_on(child.wait()?)
        }
        Verb::Edit { paths, command } => edit::edit(&adapter()?, &paths, &command),
        Verb::LockPath { path, ends } => paths::print(&[adapter()?.lock_path(path)?], &ends),
        Verb::Locks { paths, json } => {
            let adapter = adapter()?;
            let (listed, mut intents);
            if paths.is_empty() {
                (listed, intents) = (locks::all(&adapter)?, adapter.intents()?);
            } else {
                // If the lock directory exists, the user may still mean another one, so the message names it only if it
                // does not exist.
                if !adapter.lock_dir().exists() {
                    let dir = paths::escaped(adapter.lock_dir());
                    say(&format!("there is no lock directory {dir}; locks in another one are not seen (--lock-dir)"));
                }
                listed = locks::of(&adapter, &paths)?;
                intents = locks::concerned(adapter.intents()?, &listed);
            }
            let text = if json { locks::json(&listed, &intents) } else { locks::table(&listed, &intents) };
            let printed = to_stdout(|out| out.write_all(text.as_bytes()));
            let problems = listed.iter().filter_map(|it| it.problem().map(String::from));
            paths::complain(problems.chain(intents.drain(..).filter_map(|intent| intent.problem))).and(printed)?;
            // The same statuses as fuser(1), for scripts.
            let is_free = !paths.is_empty() && !listed.iter().any(locks::Listed::is_held);
            if is_free { Err(Failure::Status(MISSING)) } else { Ok(()) }
        }
        Verb::Recover { give_up: None, ends } => paths::print_removed(adapter()?.recover(), &ends),
        Verb::Recover { give_up: Some(intent), ends } => {
            let left = adapter()?.give_up(&intent)?;
            let printed = paths::print(&left, &ends);
            let said = (!left.is_empty())
                .then(|| format!("{} is given up, and {} of its files are as they were", intent.display(), left.len()));
            paths::complain(said.into_iter()).and(printed)
        }
        Verb::Prune { ends } => paths::print_removed(adapter()?.prune(), &ends),
        Verb::Sweep { path, ends } => paths::print_removed(adapter()?.sweep(path), &ends),
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "atomic-file", &mut script);
            // Because the name has a hyphen, bash would complete no options of verbs:
            // github.com/clap-rs/clap/issues/6421
            let script = String::from_utf8_lossy(&script).replace("atomic__subcmd__file", "atomic__file");
            to_stdout(|out| out.write_all(script.as_bytes()))
        }
        Verb::Man => to_stdout(|out| out.write_all(&man::page(Cli::command())?)),
    }
}

fn show(mut file: File, out: &mut File) -> io::Result<()> {
    let length = progress::rest(&file);
    let copied = match progress::wanted(length) {
        true => io::copy(&mut BufReader::with_capacity(PIECE, Watched::new(file, length)), out),
        // The kernel copies.
        false => io::copy(&mut file, out),
    };
    copied.map(drop)
}

fn write(adapter: &AtomicFileAdapter, path: PathBuf, append: bool) -> Result<(), Failure> {
    let reading = |error| Failure::Io("cannot read standard input".into(), error);
    let stdin = streams::input().map_err(reading)?;
    let file = adapter.file(path)?;
    // A slow writer at the other end of the pipe must not keep others waiting for the lock.
    let mut first = Vec::new();
    let length = progress::rest(&stdin);
    let mut stdin = Watched::new(stdin, length);
    stdin.by_ref().take(PIECE as u64).read_to_end(&mut first).map_err(reading)?;
    let guard = file.lock()?;
    let mut signals = catch_signals()?;
    let mut replacement = guard.writer()?;
    let is_all = first.len() < PIECE;
    let mut copied = Ok(());
    let mut source = "standard input";
    if append {
        if let Some(old) = guard.open()? {
            let old = Interruptible { from: old, wait: |_: BorrowedFd<'_>| Ok(signals.end().is_none()) };
            copied = copy(old, &mut replacement);
            if copied.is_err() {
                source = "the old contents";
            }
        }
    }
    copied = copied.and_then(|()| replacement.write_all(&first));
    drop(first);
    if copied.is_ok() && !is_all {
        let rest = Interruptible { from: stdin, wait: |stdin: BorrowedFd<'_>| signals.wait_for_input(stdin) };
        copied = copy(rest, &mut replacement);
    }
    copied.map_err(|error| copying(error, source))?;
    match signals.end() {
        Some(signal) => Err(Failure::Signal(signal)),
        None => Ok(replacement.commit()?),
    }
}

fn update(adapter: &AtomicFileAdapter, path: PathBuf, command: &[OsString]) -> Result<(), Failure> {
    let guard = adapter.file(path)?.lock()?;
    let signals = catch_signals()?;
    let old = guard.open()?.map_or(Stdio::null(), Stdio::from);
    let mut replacement = guard.writer()?;
    let mut child = Running::start(command, signals, |command| command.stdin(old).stdout(Stdio::piped()))?;
    let copied = child.output().map_or(Ok(()), |output| copy(output, &mut replacement));
    // The command's output is closed by now, so the command ends even if the copy has failed.
    let status = child.wait()?;
    copied.map_err(|error| copying(error, "the output of the command"))?;
    passed_on(status)?;
    match child.request() {
        Some(signal) => Err(Failure::Status(status_of(signal))),
        None => Ok(replacement.commit()?),
    }
}

/// Called when the lock is held.
fn catch_signals() -> Result<Signals, Failure> {
    waiting::is_over();
    Signals::catch().map_err(|error| Failure::Io("cannot catch signals".into(), error))
}

fn copy(from: impl Read, to: &mut Replacement<'_>) -> io::Result<()> {
    io::copy(&mut BufReader::with_capacity(PIECE, from), to).map(drop)
}

/// An error from writing is the library's own error, which names the file and the step.
fn copying(error: io::Error, from: &str) -> Failure {
    match error.downcast::<Error>() {
        Ok(error) => Failure::Adapter(error),
        Err(error) => Failure::Io(format!("cannot read {from}"), error),
    }
}

fn to_stdout(print: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), Failure> {
    waiting::is_over();
    match print(&mut streams::output()?) {
        // The reader at the other end has closed the pipe, as in `atomic-file read PATH | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(streams::cannot_write),
    }
}
