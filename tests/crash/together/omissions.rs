//! Controls: syncs that are left out of a change. The file of a sync, and the calls before it, show which sync it is.

use std::fmt;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use atomic_file_adapter::fault::{Call, Syscall};

use crate::together::changes::LOCKS;

/// A sync that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Omission {
    /// The sync of the lock files, which have their marks by now.
    Marks,
    /// All syncs of the files that the intent names, and of the intent itself: it gets its name before they are
    /// durable.
    BeforeTheIntent,
    /// The sync of the lock directory, after the intent got its name.
    TheIntent,
    /// The first sync of the lock directory in a recovery.
    InRecovery,
    /// The syncs of the directories in which files were replaced and removed. The removal of the intent is durable all
    /// the same.
    Directories,
}

impl Omission {
    pub const ALL: [Self; 5] =
        [Omission::Marks, Omission::BeforeTheIntent, Omission::TheIntent, Omission::Directories, Omission::InRecovery];
}

impl fmt::Display for Omission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Omission::Marks => "the marks' syncs",
            Omission::BeforeTheIntent => "all syncs before the intent's rename",
            Omission::TheIntent => "the sync of the intent's rename",
            Omission::InRecovery => "the first sync of a recovery",
            Omission::Directories => "the directories' syncs",
        })
    }
}

/// Where a process is killed.
#[derive(Debug, Clone, Copy)]
pub enum Death {
    /// After so many steps.
    In(usize),
    /// After so many steps since the intent got its name.
    Decided(usize),
}

/// The progress of a change, or of a recovery.
#[derive(Debug, Default)]
pub struct Watch {
    steps: usize,
    /// The steps since the intent got its name.
    steps_decided: usize,
    /// A file was renamed or removed.
    changed: bool,
    /// The intent has its name.
    decided: bool,
    /// The intent was removed.
    removed: bool,
}

impl Watch {
    /// Must see each call of the change, in their order, before [`is`](Self::is).
    pub fn see(&mut self, call: &Call<'_>) {
        let is_intent = |path: Option<&Path>| path.and_then(Path::extension).is_some_and(|it| it == "intent");
        match call.syscall {
            Syscall::Renameat => self.decided |= is_intent(call.new_path),
            Syscall::Unlinkat => self.removed |= is_intent(call.path),
            _ => return,
        }
        self.changed = true;
    }

    /// Counts a step.
    pub fn count(&mut self) {
        self.steps += 1;
        self.steps_decided += usize::from(self.decided);
    }

    /// Whether the process dies before the next step.
    pub fn is_time(&self, death: Death) -> bool {
        match death {
            Death::In(steps) => self.steps == steps,
            Death::Decided(steps) => self.decided && self.steps_decided == steps,
        }
    }

    pub fn is(&self, omission: Omission, call: &Call<'_>) -> bool {
        if !matches!(call.syscall, Syscall::Fsync | Syscall::Syncfs) {
            return false;
        }
        let is_lock_dir = |path: &Path| path.ends_with(LOCKS);
        match omission {
            Omission::Marks => !self.decided && file(call).extension().is_some_and(|it| it == "lock"),
            Omission::BeforeTheIntent => !self.decided,
            Omission::TheIntent => self.decided && !self.removed && is_lock_dir(&file(call)),
            Omission::InRecovery => !self.changed && is_lock_dir(&file(call)),
            Omission::Directories => self.decided && !is_lock_dir(&file(call)),
        }
    }
}

/// The file of the call.
fn file(call: &Call<'_>) -> PathBuf {
    let fd = call.fd.expect("a sync of an open file").as_raw_fd();
    // Not the process's: this thread has its own descriptors.
    fs::read_link(format!("/proc/thread-self/fd/{fd}")).unwrap()
}
