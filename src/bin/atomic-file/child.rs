//! A command that runs under a lock of ours.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use crate::Failure;
use crate::args::FAILED;

/// The child's status as this program's.
pub fn passed_on(status: ExitStatus) -> Result<(), Failure> {
    if status.success() {
        return Ok(());
    }
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(FAILED.into());
    Err(Failure::Status(u8::try_from(code).unwrap_or(FAILED)))
}

/// The command; this process must not die before it, or it would go on unlocked.
pub struct Running<'a> {
    pub child: Child,
    name: &'a OsString,
    ended: Arc<AtomicBool>,
    signals: Handle,
}

impl<'a> Running<'a> {
    pub fn start(command: &'a [OsString], set: impl FnOnce(&mut Command) -> &mut Command) -> Result<Self, Failure> {
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

    pub fn wait(mut self) -> Result<ExitStatus, Failure> {
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
