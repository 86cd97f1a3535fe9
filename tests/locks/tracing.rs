//! Keeping a thread of another process where it returns from a system call (ptrace(2)).

use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// A thread that sleeps in a system call, and is stopped when it returns from that. It goes on when this is dropped, by the
/// thread that has made it.
pub(crate) struct Traced(Pid);

impl Traced {
    pub(crate) fn asleep(task: i32) -> Self {
        let task = Pid::from_raw(task);
        ptrace::seize(task, Options::PTRACE_O_TRACESYSGOOD).unwrap();
        let traced = Traced(task);
        ptrace::interrupt(task).unwrap();
        assert!(matches!(traced.stopped(), WaitStatus::PtraceEvent(..)));
        // It makes its call again, and stops before that.
        ptrace::syscall(task, None).unwrap();
        assert_eq!(traced.stopped(), WaitStatus::PtraceSyscall(task));
        ptrace::syscall(task, None).unwrap();
        traced
    }

    /// Waits until it has returned from its call.
    pub(crate) fn until_returned(&self) {
        assert_eq!(self.stopped(), WaitStatus::PtraceSyscall(self.0));
    }

    fn stopped(&self) -> WaitStatus {
        waitpid(self.0, Some(WaitPidFlag::__WALL)).unwrap()
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        // A test that fails may find it asleep, and ends its process.
        let _ = ptrace::detach(self.0, None);
    }
}
