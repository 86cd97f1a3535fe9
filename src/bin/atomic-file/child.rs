//! A command that runs while this program holds locks.

use std::ffi::OsString;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, ExitStatus};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};

use crate::Failure;
use crate::args::FAILED;
use crate::signals::{Interruptible, MESSAGES, REQUESTS, Signals};

/// Passes on the child's status as this program's.
pub fn passed_on(status: ExitStatus) -> Result<(), Failure> {
    let status = match (status.code(), status.signal()) {
        (Some(0), _) => return Ok(()),
        (Some(code), _) => u8::try_from(code).unwrap_or(FAILED),
        (None, signal) => signal.map_or(FAILED, status_of),
    };
    Err(Failure::Status(status))
}

/// A shell's status for a signal.
pub fn status_of(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(FAILED)
}

/// The running command. This process must not end before it, or the command would go on without the lock.
pub struct Running<'a> {
    child: Child,
    name: &'a OsString,
    signals: Signals,
    status: Option<ExitStatus>,
    /// The first signal that asked this program to end.
    request: Option<i32>,
    /// Whether to wait for all descendants of the command, too.
    family: Family,
    /// The last signal that the command was sent together with its family.
    passed_on: Option<Signal>,
    /// The processes that were sent this signal.
    told: Vec<Pid>,
    /// The children that this process had before it started the command.
    strangers: Vec<Pid>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    NotOurs,
    Lives,
    /// No process is left.
    Ended,
}

impl<'a> Running<'a> {
    /// Everything that can fail is done before the command starts.
    pub fn start(
        command: &'a [OsString],
        mut signals: Signals,
        set: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<Self, Failure> {
        let (name, args) = command.split_first().ok_or(Failure::Status(FAILED))?;
        if let Some(signal) = signals.end() {
            return Err(Failure::Signal(signal));
        }
        let child = set(Command::new(name).args(args)).spawn();
        let child = child.map_err(|error| Failure::Command(name.to_string_lossy().into(), error))?;
        Ok(Running {
            child,
            name,
            signals,
            status: None,
            request: None,
            family: Family::NotOurs,
            passed_on: None,
            told: Vec::new(),
            strangers: Vec::new(),
        })
    }

    /// The same, and waits for all processes that the command starts. A process that loses its parent becomes a child
    /// of this process, because this is the nearest ancestor that is a subreaper
    /// ([PR_SET_CHILD_SUBREAPER](https://man7.org/linux/man-pages/man2/PR_SET_CHILD_SUBREAPER.2const.html)). So all
    /// processes that are left are children of this process.
    pub fn start_family(command: &'a [OsString], signals: Signals) -> Result<Self, Failure> {
        become_reaper()
            .map_err(|error| Failure::Io("cannot wait for what the command starts (--inherit)".into(), error))?;
        // This program may have had children before execve(2) started it.
        let strangers = children().collect();
        Ok(Running { family: Family::Lives, strangers, ..Self::start(command, signals, |command| command)? })
    }

    /// The command's output. If the command has failed, or a signal has asked for an end, the output ends with the
    /// command: a process that the command has left may have the pipe open for much longer.
    pub fn output(&mut self) -> Option<Interruptible<ChildStdout, impl FnMut(BorrowedFd<'_>) -> io::Result<bool>>> {
        let from = self.child.stdout.take()?;
        let wait = |output: BorrowedFd<'_>| {
            while !self.status.is_some_and(|status| !status.success() || self.request.is_some()) {
                if self.signals.wait(Some(output))? {
                    return Ok(true);
                }
                self.look()?;
            }
            Ok(false)
        };
        Some(Interruptible { from, wait })
    }

    /// Waits for the end of the command.
    pub fn wait(&mut self) -> Result<ExitStatus, Failure> {
        loop {
            if let (Some(status), Family::NotOurs | Family::Ended) = (self.status, self.family) {
                return Ok(status);
            }
            if let Err(error) = self.signals.wait(None).and_then(|_| self.look()) {
                // The command must not go on without the lock.
                let _ = self.child.wait();
                return Err(Failure::Io(format!("cannot wait for {}", self.name.to_string_lossy()), error));
            }
        }
    }

    /// The first signal that has asked for an end.
    pub fn request(&mut self) -> Option<i32> {
        self.handle_signals();
        self.request
    }

    fn look(&mut self) -> io::Result<()> {
        self.handle_signals();
        match self.family {
            Family::NotOurs if self.status.is_none() => self.status = self.child.try_wait()?,
            Family::NotOurs => {}
            Family::Lives | Family::Ended => self.reap()?,
        }
        Ok(())
    }

    /// Takes the statuses of all children that have ended, so that they do not stay zombies while others live.
    fn reap(&mut self) -> io::Result<()> {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    // From then on another process may get this pid.
                    if self.status.is_none() && pid == Pid::from_child(&self.child) {
                        self.status = Some(ExitStatus::from_raw(status.as_raw()));
                    }
                    self.told.retain(|told| *told != pid);
                    self.strangers.retain(|stranger| *stranger != pid);
                }
                Err(Errno::INTR) => {}
                Ok(None) => {
                    self.tell_family();
                    return Ok(());
                }
                Err(Errno::CHILD) => {
                    self.family = Family::Ended;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn handle_signals(&mut self) {
        for signal in self.signals.arrived().filter_map(Signal::from_named_raw) {
            let is_request = REQUESTS.contains(&signal);
            if is_request {
                self.request.get_or_insert(signal.as_raw());
            }
            // The terminal sends these two signals to the command itself.
            let has_it = [Signal::INT, Signal::QUIT].contains(&signal);
            // No other process can have the command's pid before this process has taken its status.
            if (is_request && !has_it || MESSAGES.contains(&signal)) && self.status.is_none() {
                // The command may have ended just now. Then nobody needs the signal.
                let _ = kill_process(Pid::from_child(&self.child), signal);
            }
            // A shell has its background processes ignore the two, so what CMD left gets SIGTERM for them.
            let for_family = match (has_it, self.status) {
                (true, None) => None,
                (true, Some(_)) => Some(Signal::TERM),
                (false, _) => Some(signal),
            };
            if is_request && for_family.is_some() && self.family == Family::Lives {
                self.passed_on = for_family;
                self.told.clear();
            }
        }
    }

    /// When the command has ended, sends the last signal to the processes that it left, to each of them once. It is
    /// called again and again, because a process that ends may leave children.
    fn tell_family(&mut self) {
        let (Some(signal), Some(_)) = (self.passed_on, self.status) else { return };
        // No other process can have these pids before this process has taken their statuses.
        for child in children() {
            if !self.told.contains(&child) && !self.strangers.contains(&child) {
                let _ = kill_process(child, signal);
                self.told.push(child);
            }
        }
    }
}

#[cfg(target_os = "linux")]
fn become_reaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

#[cfg(not(target_os = "linux"))]
fn become_reaper() -> io::Result<()> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "this system gives orphans to process 1; only Linux can give them to others",
    ))
}

/// The children of this process, which starts them all from one thread: proc_tid_children(5). Empty if the kernel does
/// not have that file (CONFIG_PROC_CHILDREN).
fn children() -> impl Iterator<Item = Pid> {
    let pid = std::process::id();
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children: Vec<_> = text.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect();
    children.into_iter()
}
