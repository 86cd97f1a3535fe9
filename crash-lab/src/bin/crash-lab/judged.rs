//! What was found in the states of a recording.

use std::path::PathBuf;

use crash_lab::verdict::Fault;

use crate::workload::{Commits, Workload};

/// The result for the states of one recording.
pub struct Judged {
    pub file_system: String,
    pub workload: Workload,
    pub commits: Commits,
    /// How many states are possible.
    pub possible: usize,
    /// How many were judged.
    pub states: usize,
    pub torn: usize,
    pub lost: usize,
    pub broken: usize,
    /// How many states are bad in any way.
    pub bad_states: usize,
    /// How many requests the disk answered with EIO.
    pub failed: usize,
    /// The flushes of each write.
    pub flushes: Vec<usize>,
    pub bad: Vec<Bad>,
}

/// The fault of a state.
pub struct Bad {
    pub fault: Fault,
    /// The description of the state.
    pub state: String,
    pub kept: Option<PathBuf>,
}

/// What a look at a state found.
pub struct Found {
    /// The value, if it could be read.
    pub value: Option<Option<Vec<u8>>>,
    /// The fault of the file system, or why the value could not be read.
    pub broken: Option<String>,
}

pub fn kind(fault: &Fault) -> &'static str {
    match fault {
        Fault::Torn(_) => "torn",
        Fault::Lost(_) => "lost",
        Fault::Other(_) => "broken",
    }
}

pub fn what(fault: &Fault) -> &str {
    let (Fault::Torn(what) | Fault::Lost(what) | Fault::Other(what)) = fault;
    what
}
