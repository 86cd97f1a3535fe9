//! What callers ask of the table, and what they are told.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::deputy::Errand;
use super::lock_file::LockFile;
use crate::sys::LockMode;

/// Device and inode of a lock file.
pub(in super::super) type Key = (u64, u64);

/// A thread, by a number of its own.
pub(in super::super) type Thread = u64;

/// How long to wait for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    Never,
    Until(Instant),
    Forever,
}

impl Wait {
    pub(super) fn is_over(self, now: Instant) -> bool {
        match self {
            Wait::Never => true,
            Wait::Until(deadline) => deadline <= now,
            Wait::Forever => false,
        }
    }
}

/// Who wants which lock, how, and for how long.
pub(in super::super) struct Request<'a, F> {
    /// The caller is in the table as a user of it, and stays so until the lock is let go.
    pub(in super::super) file: &'a Arc<LockFile<F>>,
    pub(in super::super) mode: LockMode,
    pub(in super::super) wait: Wait,
    pub(in super::super) thread: Thread,
    /// How many locks the thread holds, before somebody is told that it waits.
    pub(in super::super) holds: usize,
    /// What is locked, for the error of somebody who meets a deadlock.
    pub(in super::super) label: &'a Arc<Path>,
    /// Whom to tell that the call waits.
    pub(in super::super) on_wait: Option<OnWait<'a>>,
    /// Starts a thread that calls [`Table::wait_as_deputy`](super::Table::wait_as_deputy). False: there can be none.
    pub(in super::super) start_deputy: &'a dyn Fn(Errand<F>) -> bool,
}

/// What is called if the wait lasts until `at`, by the thread that waits, under no mutex and out of the queue.
#[derive(Clone, Copy)]
pub(in super::super) struct OnWait<'a> {
    pub(in super::super) at: Instant,
    /// It is told whether a thread of this process holds the lock.
    pub(in super::super) tell: &'a dyn Fn(bool) -> Told,
}

/// What to do after somebody was told of the wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Told {
    /// The thread holds so many locks now.
    GoOn(usize),
    GiveUp,
    /// This is a child, made by fork meanwhile: the table is not its own.
    InAChild,
}

/// Why a lock was not granted.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Refusal<E> {
    WouldBlock,
    /// True: a thread of this process is in the way.
    TimedOut(bool),
    /// What the thread holds, [`Table::held_by`](super::Table::held_by) says.
    Deadlock,
    /// The lock file had to be closed, because an unlock failed: enter it again.
    Gone,
    /// [`Told::GiveUp`]
    GaveUp,
    /// [`Told::InAChild`]
    Forked,
    Kernel(E),
}
