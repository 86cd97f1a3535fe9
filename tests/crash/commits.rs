//! When the file system commits its journal while a writer is at work.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use atomic_file_adapter::Durability;
use crash_lab::commit::commit_all;
use crash_lab::file_system::FileSystem;
use crash_lab::random::Random;

use crate::cases::is_short;
use crate::common::sample;
use crate::seed::seed;

/// Where the journal is committed. The file system may do so at any moment, for example because another program syncs a
/// file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commits {
    No,
    /// Between any two steps.
    Everywhere,
    /// Before one random step of each operation. A commit at the end would hide a missing sync.
    Once,
    /// As `Everywhere`, with the file system's own transaction, if the sync of a file commits less than that.
    Transactions,
    /// As `Once`, with the file system's own transaction.
    OneTransaction,
}

impl Commits {
    /// Those that differ on this file system.
    pub fn all(file_system: FileSystem) -> &'static [Self] {
        use Commits::{Everywhere, No, Once, OneTransaction, Transactions};
        if file_system.commits_apart() {
            &[No, Everywhere, Once, Transactions, OneTransaction]
        } else {
            &[No, Everywhere, Once]
        }
    }

    /// Those to test a workload with. The short form has `Everywhere`, which makes the most states, and with `Full`, where more can go
    /// wrong, one other.
    pub fn to_try(file_system: FileSystem, durability: Durability, workload: &str) -> Vec<Self> {
        if !is_short() {
            return Self::all(file_system).to_vec();
        }
        let others: Vec<Self> =
            Self::all(file_system).iter().copied().filter(|it| *it != Commits::Everywhere).collect();
        let count = usize::from(durability == Durability::Full);
        let mut some = sample(&others, count, &format!("{workload} on {} {}", file_system.name, seed()));
        some.push(Commits::Everywhere);
        some
    }

    /// The function that is called before each step of an operation with about so many steps. It commits the journal,
    /// or does nothing. `purpose` differs for each operation, and `unrelated` is a file for the commit.
    pub fn before_each(self, steps: usize, purpose: &str, unrelated: PathBuf) -> impl FnMut() + use<> {
        let once = Random::new(seed(), purpose).below(steps);
        let mut numbers = 0..;
        move || {
            let step: usize = numbers.next().unwrap_or_default();
            match self {
                Commits::Everywhere => commit(&unrelated),
                Commits::Once if step == once => commit(&unrelated),
                Commits::Transactions => commit_transaction(&unrelated),
                Commits::OneTransaction if step == once => commit_transaction(&unrelated),
                Commits::No | Commits::Once | Commits::OneTransaction => {}
            }
        }
    }
}

/// Commits the journal: changes and syncs a file that the workload does not use.
pub fn commit(unrelated: &Path) {
    change(unrelated).sync_all().unwrap();
}

/// The same with the file system's own transaction.
pub fn commit_transaction(unrelated: &Path) {
    drop(change(unrelated));
    assert!(commit_all(unrelated).unwrap(), "there is no call for it");
}

fn change(unrelated: &Path) -> File {
    let mut file = File::options().append(true).open(unrelated).unwrap();
    file.write_all(b"+").unwrap();
    file
}
