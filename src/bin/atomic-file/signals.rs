//! Signals that would end this program. All verbs handle them in this way.
//!
//! They are caught from when the lock is held, before there is a temporary file or a command. Before that, nothing
//! would be left behind, so they have their default effect: a wait for a lock, for example, ends at once. After that,
//! the program checks for them wherever it waits. There is no second thread, because the system might not allow one.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Signal;
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

/// The signals that ask a program to end.
pub const REQUESTS: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];

/// Other signals that end a program by default, and may mean something else to a command. SIGPIPE is not among them,
/// because Rust's runtime ignores it. SIGILL, SIGBUS, SIGFPE, SIGSEGV and SIGSYS are not either, because a program must
/// not go on after such a fault.
pub const MESSAGES: &[Signal] = &[
    Signal::ABORT,
    Signal::ALARM,
    Signal::PROF,
    Signal::TRAP,
    Signal::USR1,
    Signal::USR2,
    Signal::VTALARM,
    Signal::XCPU,
    // Other systems ignore this signal by default.
    #[cfg(target_os = "linux")]
    Signal::IO,
    #[cfg(target_os = "linux")]
    Signal::POWER,
    #[cfg(all(
        target_os = "linux",
        not(any(target_arch = "mips", target_arch = "mips64", target_arch = "sparc", target_arch = "sparc64"))
    ))]
    Signal::STKFLT,
];

/// Some C libraries reserve the first of these and refuse to catch it.
#[cfg(target_os = "linux")]
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// How often the command is checked if no signal reports its end.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// The signals that have arrived since they are caught.
pub struct Signals {
    delivery: SignalDelivery<UnixStream, SignalOnly>,
    patience: Option<Timespec>,
    end: Option<i32>,
}

impl Signals {
    pub fn catch() -> io::Result<Self> {
        let ignored = mask("SigIgn:");
        // A signal that is ignored, under nohup for example, is not caught. Otherwise the command would get the default
        // action back.
        let caught = |signal: &i32| ignored & bit(*signal) == 0;
        let (read, write) = UnixStream::pair()?;
        // SIGXFSZ is caught, so that a write past the limit fails with an error message.
        let named = REQUESTS.iter().chain(MESSAGES).chain([&Signal::XFSZ]).map(|signal| signal.as_raw()).filter(caught);
        let all = named.chain([Signal::CHILD.as_raw()]);
        let delivery = SignalDelivery::with_pipe(read, write, SignalOnly, all)?;
        #[cfg(target_os = "linux")]
        for signal in REAL_TIME.filter(caught) {
            match delivery.handle().add_signal(signal) {
                Err(error) if error.kind() != io::ErrorKind::InvalidInput => return Err(error),
                _ => {}
            }
        }
        // If this program was started with SIGCHLD blocked, no signal reports the end of the command.
        let patience = (mask("SigBlk:") & bit(Signal::CHILD.as_raw()) != 0).then_some(LOOK);
        Ok(Signals { delivery, patience, end: None })
    }

    /// The signals that have arrived since the last call.
    pub fn arrived(&mut self) -> impl Iterator<Item = i32> + use<> {
        self.delivery.pending()
    }

    /// The first of them that would have ended this program. For verbs that run no command.
    pub fn end(&mut self) -> Option<i32> {
        let harmless = [Signal::CHILD, Signal::XFSZ].map(Signal::as_raw);
        self.end = self.end.or(self.arrived().find(|signal| !harmless.contains(signal)));
        self.end
    }

    /// Waits until there is something to read, a signal has arrived, or it is time to check the command. True: there is
    /// something to read, and no signal.
    pub fn wait(&self, input: Option<BorrowedFd<'_>>) -> io::Result<bool> {
        let fds = [Some(self.delivery.get_read().as_fd()), input];
        let mut fds: Vec<_> = fds.into_iter().flatten().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match poll(&mut fds, self.patience.as_ref()) {
            Ok(_) => Ok(fds.iter().map(|fd| !fd.revents().is_empty()).eq([false, true])),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until there is something to read. False: a signal has to end this program. For verbs that run no command.
    pub fn wait_for_input(&mut self, input: BorrowedFd<'_>) -> io::Result<bool> {
        while self.end().is_none() {
            if self.wait(Some(input))? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A reader that calls `wait` before each read. It ends when `wait` returns false.
pub struct Interruptible<R, W> {
    pub from: R,
    pub wait: W,
}

impl<R: Read + AsFd, W: FnMut(BorrowedFd<'_>) -> io::Result<bool>> Read for Interruptible<R, W> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if (self.wait)(self.from.as_fd())? { self.from.read(buf) } else { Ok(0) }
    }
}

/// A set of signals that this process was started with, one bit for each (proc_pid_status(5)). Empty if there is no
/// /proc.
fn mask(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix(name));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}
