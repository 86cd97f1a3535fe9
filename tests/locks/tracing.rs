//! Stops a thread of another process when it returns from a system call (ptrace(2)).

use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// A thread that sleeps in a system call, and is stopped when it returns from that call. It goes on when this is
/// dropped, which the thread that made this has to do.
pub(crate) struct Traced(Pid);

impl Traced {
    pub(crate) fn asleep(task: i32) -> Self {
        let task = Pid::from_raw(task);
        ptrace::seize(task, Options::PTRACE_O_TRACESYSGOOD).unwrap();
        let traced = Traced(task);
        ptrace::interrupt(task).unwrap();
        assert!(matches!(traced.stopped(), WaitStatus::PtraceEvent(..)));
        // The thread makes its call again, and stops before that.
        ptrace::syscall(task, None).unwrap();
        assert_eq!(traced.stopped(), WaitStatus::PtraceSyscall(task));
        ptrace::syscall(task, None).unwrap();
        traced
    }

    /// Waits until the thread has returned from its call.
    pub(crate) fn until_returned(&self) {
        assert_eq!(self.stopped(), WaitStatus::PtraceSyscall(self.0));
    }

    fn stopped(&self) -> WaitStatus {
        waitpid(self.0, Some(WaitPidFlag::__WALL)).unwrap()
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        // If a test fails, the thread may still sleep. Then the test's process ends it.
        let _ = ptrace::detach(self.0, None);
    }
}
