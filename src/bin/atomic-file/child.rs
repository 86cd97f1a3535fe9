//! A command that runs under a lock of ours.

use std::ffi::OsString;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, ExitStatus};

use rustix::process::{Pid, Signal, kill_process};

use crate::Failure;
use crate::args::FAILED;
use crate::signals::{Interruptible, MESSAGES, REQUESTS, Signals};

/// The child's status as this program's.
pub fn passed_on(status: ExitStatus) -> Result<(), Failure> {
    let status = match (status.code(), status.signal()) {
        (Some(0), _) => return Ok(()),
        (Some(code), _) => u8::try_from(code).unwrap_or(FAILED),
        (None, signal) => signal.map_or(FAILED, status_of),
    };
    Err(Failure::Status(status))
}

/// What a shell makes of a signal.
pub fn status_of(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(FAILED)
}

/// The command; this process must not end before it, or it would go on unlocked.
pub struct Running<'a> {
    child: Child,
    name: &'a OsString,
    signals: Signals,
    status: Option<ExitStatus>,
    /// The first signal that asked for an end.
    request: Option<i32>,
}

impl<'a> Running<'a> {
    /// All that can fail has been done when the command starts.
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
        Ok(Running { child, name, signals, status: None, request: None })
    }

    /// What it prints. The end comes with the end of the command, if that has failed or a signal has asked for an end: a
    /// process that the command has left behind may have the pipe open for much longer.
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

    /// Waits for its end.
    pub fn wait(&mut self) -> Result<ExitStatus, Failure> {
        loop {
            if let Some(status) = self.status {
                return Ok(status);
            }
            if let Err(error) = self.signals.wait(None).and_then(|_| self.look()) {
                // It must not go on without the lock.
                let _ = self.child.wait();
                return Err(Failure::Io(format!("cannot wait for {}", self.name.to_string_lossy()), error));
            }
        }
    }

    /// The signal that has asked for an end, if one has: the first.
    pub fn request(&mut self) -> Option<i32> {
        self.handle_signals();
        self.request
    }

    fn look(&mut self) -> io::Result<()> {
        self.handle_signals();
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(())
    }

    fn handle_signals(&mut self) {
        for signal in self.signals.arrived().filter_map(Signal::from_named_raw) {
            let is_request = REQUESTS.contains(&signal);
            if is_request {
                self.request.get_or_insert(signal.as_raw());
            }
            // The terminal sends these two to the command itself.
            let has_it = [Signal::INT, Signal::QUIT].contains(&signal);
            // Nobody else has the command's number until this process has asked for its status.
            if (is_request && !has_it || MESSAGES.contains(&signal)) && self.status.is_none() {
                // It may have ended just now; then there is nobody to tell.
                let _ = kill_process(Pid::from_child(&self.child), signal);
            }
        }
    }
}
