//! Cycles of threads across lock files. Only a thread that holds a lock can be waited for, so only such threads are
//! listed here, and only when they begin to wait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use super::Table;
use super::kernel::Kernel;
use super::lock_file::{LockFile, Thread};
use super::request::Request;
use crate::sys::LockMode;

/// The threads that hold a lock and wait for another.
#[derive(Debug)]
pub(in super::super) struct Waits<F>(BTreeMap<Thread, Place<F>>);

/// A place in the queue of a lock file.
#[derive(Debug)]
struct Place<F> {
    file: Arc<LockFile<F>>,
    mode: LockMode,
    ticket: u64,
}

impl<F> Waits<F> {
    pub(in super::super) const fn new() -> Self {
        Waits(BTreeMap::new())
    }

    /// Whether a chain of threads, each waiting for the next, leads from a thread back to itself.
    ///
    /// The search looks at one lock file after the other, and other threads run meanwhile. But nobody enters or leaves
    /// this list during the search. So a listed thread that is found in a queue has been there since before the search
    /// began, and has released nothing. All links of a chain that is found existed at the same time. And no cycle is
    /// missed: the last thread to begin its wait finds all others of the cycle in this list and in their queues.
    fn lead_back_to(&self, thread: Thread) -> bool {
        let (mut seen, mut todo) = (BTreeSet::new(), vec![thread]);
        while let Some(Place { file, mode, ticket }) = todo.pop().and_then(|next| self.0.get(&next)) {
            for holder in file.state().in_the_way(*ticket, *mode) {
                if holder == thread {
                    return true;
                }
                if self.0.contains_key(&holder) && seen.insert(holder) {
                    todo.push(holder);
                }
            }
        }
        false
    }
}

impl<K: Kernel> Table<K> {
    /// For a thread that holds a lock and is in the queue of another. False: it would wait for itself. The thread must
    /// not have locked a lock file's mutex, because the search locks one after the other.
    pub(super) fn begin_to_wait(&self, request: &Request<'_, K::File>, ticket: u64) -> bool {
        let place = Place { file: request.file.clone(), mode: request.mode, ticket };
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        waits.0.insert(request.thread, place);
        let closes = waits.lead_back_to(request.thread);
        if closes {
            waits.0.remove(&request.thread);
        }
        !closes
    }

    pub(super) fn end_to_wait(&self, thread: Thread) {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner).0.remove(&thread);
    }
}
