//! What a caller asks of the table, how far the call has come, and the answer.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::lock_file::{LockFile, Thread, Wait};
use crate::sys::LockMode;

/// Which lock a caller wants, in which mode, and for how long it waits.
pub(in super::super) struct Request<'a, F> {
    /// The caller is a user of this file in the table, until the lock is released.
    pub(in super::super) file: &'a Arc<LockFile<F>>,
    pub(in super::super) mode: LockMode,
    pub(in super::super) wait: Wait,
    pub(in super::super) thread: Thread,
    /// How many locks the thread holds when the call begins.
    pub(in super::super) holds: usize,
    /// The path that is locked, for the error of a thread that finds a deadlock.
    pub(in super::super) label: &'a Arc<Path>,
    /// The callback for a call that waits.
    pub(in super::super) on_wait: Option<OnWait<'a>>,
    /// Starts a thread that calls [`Table::wait_as_deputy`](super::Table::wait_as_deputy). False: no thread could be
    /// started.
    pub(in super::super) start_deputy: &'a dyn Fn(Errand<F>) -> bool,
}

/// The callback for a wait that lasts until `at`. The waiting thread calls it without a mutex and outside the queue.
#[derive(Clone, Copy)]
pub(in super::super) struct OnWait<'a> {
    pub(in super::super) at: Instant,
    /// The argument: whether a thread of this process holds the lock.
    pub(in super::super) tell: &'a dyn Fn(bool) -> Told,
}

/// What to do after the callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Told {
    /// Go on. The thread holds so many locks now.
    GoOn(usize),
    GiveUp,
    /// The callback has forked, and this is the child: the table belongs to the parent.
    InAChild,
}

/// Why a lock was not granted.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Refusal<E> {
    WouldBlock,
    /// True: a thread of this process holds the lock.
    TimedOut(bool),
    /// [`Table::held_by`](super::Table::held_by) tells what the thread holds.
    Deadlock,
    /// The lock file was closed because an unlock failed. The caller has to enter it again.
    Gone,
    /// [`Told::GiveUp`]
    GaveUp,
    /// [`Told::InAChild`]
    Forked,
    Kernel(E),
}

/// The progress of a call in the queue.
pub(super) struct Visit<'a> {
    pub(super) ticket: u64,
    /// How many locks the thread holds.
    pub(super) holds: usize,
    /// The callback, until it was called.
    pub(super) on_wait: Option<OnWait<'a>>,
    /// How often the call has looked again.
    pub(super) looks: u32,
    /// Until when the call gives way to other processes.
    pub(super) drain: Option<Instant>,
    /// Whether the call is in the list of threads that hold a lock and wait (`cycles.rs`).
    pub(super) is_listed: bool,
    /// Until when the call still waits although its time is over.
    pub(super) late: Option<Instant>,
}

/// The task of a deputy.
#[derive(Debug)]
pub(in super::super) struct Errand<F> {
    pub(super) file: Arc<LockFile<F>>,
    pub(super) mode: LockMode,
    pub(super) number: u64,
}
