//! The workload: the same files are changed as one several times. Each time some of them are replaced, some made and
//! some removed.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use atomic_file_adapter::fault::{Action, Call, inject};
use atomic_file_adapter::{AtomicFileAdapter, Durability, Result};
use crash_lab::disk::{Disk, Event};
use crash_lab::random::Random;
use crash_lab::states::Recording;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use crate::commits::Commits;
use crate::seed::seed;
use crate::together::omissions::{Death, Omission, Watch};
use crate::workloads::{UNRELATED, changes_or_follows, contents};

/// The lock directory, on the same disk.
pub const LOCKS: &str = "locks";

/// Files, and the number of their changes.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    pub name: &'static str,
    pub dirs: &'static [&'static str],
    files: usize,
    changes: usize,
    /// The directories and some of the files exist before.
    prepared: bool,
    /// In each change, so many processes are killed one after the other, until one of them has decided it.
    pub killed: usize,
}

/// What is done between the system calls.
#[derive(Debug, Clone, Copy)]
pub struct Meddling {
    pub commits: Commits,
    pub left_out: Option<Omission>,
}

/// How the files are read.
#[derive(Debug, Clone, Copy)]
pub enum Reader {
    /// Under all locks together.
    Together,
    /// One after the other, the last one first. Nobody changes them meanwhile.
    OneByOne,
}

pub const TWO: Workload =
    Workload { name: "2 files, 1 directory", dirs: &["a"], files: 2, changes: 3, prepared: true, killed: 0 };
const TWO_APART: Workload = Workload { name: "2 files, 2 directories", dirs: &["a", "b"], ..TWO };
/// Here half of a change may be durable at many moments.
pub const APART: Workload =
    Workload { name: "6 files, 6 directories", dirs: &["a", "b", "c", "d", "e", "f"], files: 6, changes: 2, ..TWO };
pub const APART_KILLED: Workload = Workload { killed: 1, ..APART };

pub const WORKLOADS: [Workload; 5] = [
    TWO,
    TWO_APART,
    Workload { name: "20 files, 3 directories", dirs: &["a", "b", "c"], files: 20, ..TWO },
    Workload { name: "2 files, new directories", dirs: &["new/a", "new/b"], changes: 2, prepared: false, ..TWO },
    Workload { name: "2 files, processes die", killed: 3, ..TWO_APART },
];

/// A version of each file. `None`: there is no such file.
pub type Versions = Vec<Option<Vec<u8>>>;

impl Workload {
    /// The paths below the root of the file system.
    pub fn paths(&self) -> Vec<PathBuf> {
        (0..self.files).map(|n| Path::new(self.dirs[n % self.dirs.len()]).join(format!("file{n}"))).collect()
    }

    pub fn absolute(&self, root: &Path) -> Vec<PathBuf> {
        self.paths().iter().map(|path| root.join(path)).collect()
    }

    /// The files after this change. 0 is the state before. In three changes in a row, one replaces a file, one removes
    /// it and one makes it again. Neighbouring files are in another phase.
    pub fn version(&self, change: usize) -> Versions {
        let absent = |n: usize| (n + change) % 3 == 0 || change == 0 && !self.prepared;
        let version = |(n, path): (usize, &PathBuf)| {
            // btrfs stores small files in another way.
            let size = if n % 2 == 0 { 6000 } else { 300 };
            (!absent(n)).then(|| contents(path.to_str().unwrap(), change, size))
        };
        self.paths().iter().enumerate().map(version).collect()
    }

    /// The approximate number of steps of a change.
    pub fn steps(&self) -> usize {
        15 + 8 * self.files
    }

    pub fn prepare(&self, root: &Path) {
        fs::write(root.join(UNRELATED), "start").unwrap();
        if !self.prepared {
            return;
        }
        for dir in self.dirs {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for (path, version) in self.absolute(root).iter().zip(self.version(0)) {
            if let Some(version) = version {
                fs::write(path, version).unwrap();
            }
        }
    }

    /// Makes all changes, with marks in the log.
    pub fn operate(&self, root: &Path, disk: &Disk, durability: Durability, meddling: Meddling) {
        for change in 1..=self.changes {
            disk.mark(Event::Begin(change));
            let decided = (0..self.killed).any(|kill| self.is_killed_in(root, durability, meddling, change, kill));
            if !decided {
                self.meddled(root, durability, meddling, change, None);
            }
            disk.mark(Event::Acknowledged(change));
        }
    }

    /// A process that makes the change is killed: the first time in any step, and later after the intent has its name.
    /// Then another process reads the files, which finishes a decided change. Returns whether it was decided.
    fn is_killed_in(
        &self,
        root: &Path,
        durability: Durability,
        meddling: Meddling,
        change: usize,
        kill: usize,
    ) -> bool {
        let mut random = Random::new(seed(), &format!("kill {kill} in change {change} of {}", self.name));
        let death = match (meddling.left_out, kill) {
            // Before the sync that would otherwise be left out twice.
            (Some(Omission::InRecovery), _) => Death::Decided(0),
            (_, 0) => Death::In(random.below(self.steps())),
            _ => Death::Decided(random.below(8)),
        };
        // SAFETY: the child makes this change, which allocates memory. The C library and Linux allow that after a fork.
        // The child does not return.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let done = catch_unwind(|| self.meddled(root, durability, meddling, change, Some(death)));
                // SAFETY: the call ends the process.
                unsafe { libc::_exit(i32::from(done.is_err())) }
            }
            ForkResult::Parent { child } => {
                let status = waitpid(child, None).unwrap();
                let is_right =
                    |status| matches!(status, WaitStatus::Exited(_, 0) | WaitStatus::Signaled(_, Signal::SIGKILL, _));
                assert!(is_right(status), "{status:?}");
            }
        }
        let read = self.read(root, durability, meddling, Reader::Together).unwrap();
        let is_new = read == self.version(change);
        assert!(is_new || read == self.version(change - 1), "half, after the death of a process");
        is_new
    }

    /// Makes a change. `meddling` is done between its system calls, and it dies at `death`.
    fn meddled(&self, root: &Path, durability: Durability, meddling: Meddling, change: usize, death: Option<Death>) {
        let adapter = adapter(root, durability);
        let Meddling { commits, left_out } = meddling;
        let purpose = format!("commit in change {change} of {}", self.name);
        let mut step = commits.before_each(self.steps(), &purpose, root.join(UNRELATED));
        let mut watch = Watch::default();
        let decide = move |call: &Call<'_>| {
            if changes_or_follows(call) {
                if death.is_some_and(|death| watch.is_time(death)) {
                    return Action::Kill;
                }
                step();
                watch.count();
            }
            watch.see(call);
            if left_out.is_some_and(|omission| watch.is(omission, call)) { Action::Skip } else { Action::Proceed }
        };
        inject(decide, || self.change(root, &adapter, change));
    }

    /// Reads all files under their locks.
    pub fn read(&self, root: &Path, durability: Durability, meddling: Meddling, by: Reader) -> Result<Versions> {
        let adapter = adapter(root, durability);
        let Meddling { commits, left_out } = meddling;
        let mut step = commits.before_each(self.steps(), "commit in a recovery", root.join(UNRELATED));
        let mut watch = Watch::default();
        let decide = move |call: &Call<'_>| {
            if changes_or_follows(call) {
                step();
                watch.count();
            }
            watch.see(call);
            let left_out = left_out == Some(Omission::InRecovery) && watch.is(Omission::InRecovery, call);
            if left_out { Action::Skip } else { Action::Proceed }
        };
        let paths = self.absolute(root);
        let read_all = || match by {
            Reader::Together => adapter.lock_many_shared(paths)?.iter().map(|guard| guard.read()).collect(),
            Reader::OneByOne => {
                let read = paths.iter().rev().map(|path| adapter.read_with_lock(path));
                let mut read: Versions = read.collect::<Result<_>>()?;
                read.reverse();
                Ok(read)
            }
        };
        inject(decide, read_all).0
    }

    /// Makes the change with one verb or the other in turn.
    fn change(&self, root: &Path, adapter: &AtomicFileAdapter, change: usize) {
        let (paths, new) = (self.absolute(root), self.version(change));
        if change % 2 == 0 {
            let replace = |old: &[Option<Vec<u8>>]| {
                assert_eq!(old, self.version(change - 1));
                new
            };
            return adapter.update_many(paths, replace).unwrap();
        }
        let mut batch = adapter.batch();
        for (path, new) in paths.into_iter().zip(new) {
            match new {
                Some(new) => batch.write(path, new),
                None => batch.delete(path),
            };
        }
        batch.commit_all().unwrap();
    }
}

pub fn adapter(root: &Path, durability: Durability) -> AtomicFileAdapter {
    AtomicFileAdapter::builder().durability(durability).lock_dir(root.join(LOCKS)).build().unwrap()
}

/// The changes that a state may be of: the last acknowledged one and the last begun one, at a moment in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    pub acknowledged: usize,
    pub begun: usize,
}

impl Reached {
    pub fn at(log: &[Event]) -> Self {
        let mut reached = Reached { acknowledged: 0, begun: 0 };
        for event in log {
            match event {
                Event::Begin(change) => reached.begun = *change,
                Event::Acknowledged(change) => reached.acknowledged = *change,
                _ => {}
            }
        }
        reached
    }

    /// At each of the crash points at which the state is possible.
    pub fn of_points(recording: &Recording, points: &[usize]) -> Vec<Self> {
        points.iter().map(|point| Self::at(&recording.log[..recording.points[*point].at])).collect()
    }
}
