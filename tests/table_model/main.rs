//! The table of locks under the model checker loom. loom runs every order of a few threads' steps, up to a number of
//! preemptions, in the short form up to 2. The kernel is a substitute that knows only processes and drops all locks at any
//! close, as the real one does. loom fails a model if threads are left that nobody will wake.

#[path = "../common/mod.rs"]
mod common;

mod deadlines;
mod deadlocks;
mod deputies;
mod exclusion;
mod kernel;
mod lock_files;
mod turns;
mod world;

#[allow(dead_code, reason = "the library uses the rest")]
#[path = "../../src/lock/table.rs"]
mod table;

mod sync {
    pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
}

mod sys {
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum LockMode {
        Shared,
        Exclusive,
    }
}
