//! The table of locks under the model checker loom: every interleaving of a few threads (up to a bound of preemptions),
//! with a stand-in for the kernel that knows processes only and drops all locks at any close, as the real one does.
//! loom fails a model in which threads are left that nobody will wake.

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
