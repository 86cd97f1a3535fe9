//! The command line tool: the library's verbs for shells and scripts.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use atomic_file_adapter::{AtomicFileAdapter, Durability, Error, Replacement};
use clap::{Parser, Subcommand, ValueEnum};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

const FAILED: u8 = 1;
const MISSING: u8 = 3;
const TIMED_OUT: u8 = 4;

/// Input up to this size is read before the lock is taken, and everything is copied in pieces of it.
const PIECE: usize = 1 << 20;

/// Locked reads and durable atomic writes of files that several processes share.
#[derive(Parser)]
#[command(name = "atomic-file", version, max_term_width = 100)]
#[command(after_help = "Status: 0 done; 1 failed; 2 wrong usage; 3 there is no such file; 4 the lock was not free in \
                        time. `update` and `run` pass on the status of CMD (128 + N if signal N ended it).")]
struct Cli {
    /// Directory of the lock files [default: .jerry/local/locks]
    #[arg(long, value_name = "DIR", global = true)]
    lock_dir: Option<PathBuf>,
    /// Give up waiting for a lock after so many seconds; 0 tries once [default: wait for ever]
    #[arg(long, value_name = "SECONDS", global = true, value_parser = seconds)]
    timeout: Option<Duration>,
    /// What a write promises about a power cut
    #[arg(long, value_name = "LEVEL", global = true, default_value = "full")]
    durability: Level,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Copy, ValueEnum)]
enum Level {
    /// The new version is on the device when the command ends
    Full,
    /// The old or the new version, whole
    Ordered,
    /// Nothing: atomic for other processes only
    None,
}

#[derive(Subcommand)]
enum Verb {
    /// Write the contents to standard output
    Read {
        path: PathBuf,
        /// Status 3 if there is no such file, instead of nothing and 0
        #[arg(long)]
        must_exist: bool,
    },
    /// Replace the contents with standard input
    ///
    /// Input of up to 1 MiB is read before the lock is taken; of a larger one, the rest is read under it.
    Write { path: PathBuf },
    /// Pass the contents through a command
    ///
    /// CMD gets the old contents on standard input; its standard output becomes the new file, all under one exclusive
    /// lock. If CMD fails, nothing changes and its status is passed on.
    Update {
        path: PathBuf,
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Remove the file; status 3 if there was none
    Delete { path: PathBuf },
    /// Run a command while the lock of a path is held
    ///
    /// CMD must not ask for the same lock itself. SIGTERM and SIGHUP are passed on to it, and SIGINT and SIGQUIT are left
    /// to it.
    /// If this program is killed with SIGKILL, the lock is free although CMD goes on.
    Run {
        path: PathBuf,
        /// Hold the shared lock, not the exclusive one
        #[arg(long)]
        shared: bool,
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Print the path of the lock file
    LockPath { path: PathBuf },
    /// List the lock files: path, `free`, `shared` or `exclusive`, and the process that holds it
    Locks,
    /// Remove the lock files that nobody holds, and print their paths
    Prune,
    /// Remove the temporary files that killed writers have left, and print their paths
    ///
    /// If PATH is a directory, those of all files in it; else those of that file. What a live writer is using is left.
    Sweep { path: PathBuf },
}

/// Why the program ends with another status than 0.
enum Failure {
    Adapter(Error),
    Io(String, io::Error),
    /// Nothing is to be said about it.
    Status(u8),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Adapter(error)
    }
}

fn main() -> ExitCode {
    let (status, message) = match run(Cli::parse()) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Status(status)) => return status.into(),
        Err(Failure::Adapter(error @ Error::Timeout { .. })) => (TIMED_OUT, error.to_string()),
        Err(Failure::Adapter(error)) => (FAILED, error.to_string()),
        Err(Failure::Io(what, error)) => (FAILED, format!("{what}: {error}")),
    };
    // One line and no commands to the terminal, whatever is in a path.
    let escaped = message.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.into() });
    // If standard error is closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "atomic-file: {}", escaped.collect::<String>());
    status.into()
}

fn run(cli: Cli) -> Result<(), Failure> {
    let mut builder = AtomicFileAdapter::builder().durability(match cli.durability {
        Level::Full => Durability::Full,
        Level::Ordered => Durability::Ordered,
        Level::None => Durability::None,
    });
    if let Some(dir) = cli.lock_dir {
        builder = builder.lock_dir(dir);
    }
    if let Some(timeout) = cli.timeout {
        builder = builder.lock_timeout(timeout);
    }
    let adapter = builder.build()?;
    match cli.verb {
        Verb::Read { path, must_exist } => match adapter.file(path)?.open()? {
            Some(mut file) => to_stdout(|out| io::copy(&mut file, out).map(drop)),
            None if must_exist => Err(Failure::Status(MISSING)),
            None => Ok(()),
        },
        Verb::Write { path } => write(&adapter, path),
        Verb::Update { path, command } => update(&adapter, path, &command),
        Verb::Delete { path } => match adapter.delete_with_lock(path)? {
            true => Ok(()),
            false => Err(Failure::Status(MISSING)),
        },
        Verb::Run { path, shared, command } => {
            let file = adapter.file(path)?;
            let _guard = if shared { (Some(file.lock_shared()?), None) } else { (None, Some(file.lock()?)) };
            let child = Running::start(&command, |command| command)?;
            passed_on(child.wait()?)
        }
        Verb::LockPath { path } => print_paths(&[adapter.lock_path(path)?]),
        Verb::Prune => print_paths(&adapter.prune()?),
        Verb::Sweep { path } => print_paths(&adapter.sweep(path)?),
        Verb::Locks => {
            let mut lines = Vec::new();
            for lock in adapter.locks()? {
                let (how, pid) = match lock.holder {
                    None => ("free", None),
                    Some(holder) => (if holder.exclusive { "exclusive" } else { "shared" }, holder.pid),
                };
                let pid = pid.map_or("-".into(), |pid| pid.to_string());
                lines.extend_from_slice(lock.path.as_os_str().as_bytes());
                lines.extend_from_slice(format!("\t{how}\t{pid}\n").as_bytes());
            }
            to_stdout(|out| out.write_all(&lines))
        }
    }
}

fn write(adapter: &AtomicFileAdapter, path: PathBuf) -> Result<(), Failure> {
    let reading = |error| Failure::Io("cannot read standard input".into(), error);
    let file = adapter.file(path)?;
    // A slow writer at the other end of the pipe should keep nobody waiting.
    let mut first = Vec::new();
    let mut stdin = io::stdin().lock();
    stdin.by_ref().take(PIECE as u64).read_to_end(&mut first).map_err(reading)?;
    let guard = file.lock()?;
    if first.len() < PIECE {
        return Ok(guard.write(first)?);
    }
    let mut replacement = guard.writer()?;
    let written = replacement.write_all(&first);
    drop(first);
    written.and_then(|()| copy(stdin, &mut replacement)).map_err(|error| copying(error, "standard input"))?;
    Ok(replacement.commit()?)
}

fn update(adapter: &AtomicFileAdapter, path: PathBuf, command: &[OsString]) -> Result<(), Failure> {
    let guard = adapter.file(path)?.lock()?;
    let old = guard.open()?.map_or(Stdio::null(), Stdio::from);
    let mut replacement = guard.writer()?;
    let mut child = Running::start(command, |command| command.stdin(old).stdout(Stdio::piped()))?;
    let copied = match child.child.stdout.take() {
        Some(output) => copy(output, &mut replacement),
        None => Ok(()),
    };
    // Its output is closed by now, so it ends even if the copy failed half-way.
    let status = child.wait()?;
    copied.map_err(|error| copying(error, "the output of the command"))?;
    passed_on(status)?;
    Ok(replacement.commit()?)
}

fn copy(from: impl Read, to: &mut Replacement<'_>) -> io::Result<()> {
    io::copy(&mut BufReader::with_capacity(PIECE, from), to).map(drop)
}

/// The error of a copy is the library's if it came from writing; that one names the file and the step itself.
fn copying(error: io::Error, from: &str) -> Failure {
    match error.downcast::<Error>() {
        Ok(error) => Failure::Adapter(error),
        Err(error) => Failure::Io(format!("cannot read {from}"), error),
    }
}

fn print_paths(paths: &[PathBuf]) -> Result<(), Failure> {
    let lines: Vec<_> = paths.iter().map(|path| [path.as_os_str().as_bytes(), b"\n"].concat()).collect();
    to_stdout(|out| out.write_all(&lines.concat()))
}

fn to_stdout(print: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), Failure> {
    let failed = |error| Failure::Io("cannot write to standard output".into(), error);
    // A plain descriptor lets the kernel copy from file to file.
    let mut out = io::stdout().as_fd().try_clone_to_owned().map(File::from).map_err(failed)?;
    match print(&mut out) {
        // Whoever reads has seen enough, as in `atomic-file read PATH | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(failed),
    }
}

/// The child's status as this program's.
fn passed_on(status: ExitStatus) -> Result<(), Failure> {
    if status.success() {
        return Ok(());
    }
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(FAILED.into());
    Err(Failure::Status(u8::try_from(code).unwrap_or(FAILED)))
}

/// A command that runs under a lock of ours. This process must not die before it, or it would go on unlocked.
struct Running<'a> {
    child: Child,
    name: &'a OsString,
    ended: Arc<AtomicBool>,
    signals: Handle,
}

impl<'a> Running<'a> {
    fn start(command: &'a [OsString], set: impl FnOnce(&mut Command) -> &mut Command) -> Result<Self, Failure> {
        let (name, args) = command.split_first().ok_or(Failure::Status(FAILED))?;
        let failed = |error| Failure::Io(format!("cannot run {}", name.to_string_lossy()), error);
        // Before the command starts, so that no signal falls in between.
        let ignored = ignored_signals();
        let caught = [SIGHUP, SIGINT, SIGQUIT, SIGTERM].into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0);
        let mut signals = Signals::new(caught).map_err(failed)?;
        let handle = signals.handle();
        let child = set(Command::new(name).args(args)).spawn().map_err(failed)?;
        let pid = Pid::from_child(&child);
        let ended = Arc::new(AtomicBool::new(false));
        let has_ended = ended.clone();
        std::thread::spawn(move || {
            for signal in signals.forever() {
                let signal = match signal {
                    SIGTERM => Signal::TERM,
                    SIGHUP => Signal::HUP,
                    // The terminal sends the other two to the child itself.
                    _ => continue,
                };
                if !has_ended.load(SeqCst) {
                    // It may have ended just now; then there is nobody to tell.
                    let _ = kill_process(pid, signal);
                }
            }
        });
        Ok(Running { child, name, ended, signals: handle })
    }

    fn wait(mut self) -> Result<ExitStatus, Failure> {
        let status = self.child.wait();
        self.ended.store(true, SeqCst);
        self.signals.close();
        status.map_err(|error| Failure::Io(format!("cannot wait for {}", self.name.to_string_lossy()), error))
    }
}

/// The signals that this process was told to ignore, by nohup for example, as a bit each (proc_pid_status(5)). To catch
/// one of them would give the command its default again. None where there is no /proc.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number")?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
