//! What the writer does with the file under test.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use clap::ValueEnum;
use crash_lab::commit::commit_all;
use crash_lab::file_system::FileSystem;
use xxhash_rust::xxh3::xxh3_64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// There is no file; one write of 6000 bytes
    Create,
    /// 6000 bytes replace 6000
    Replace,
    /// 200,000 bytes replace 300
    Larger,
    /// 300 bytes replace 200,000
    Smaller,
    /// Three writes of 6000 bytes, one after the other
    Several,
}

impl Workload {
    /// The size of the first version, if there is one.
    pub fn first(self) -> Option<usize> {
        match self {
            Workload::Create => None,
            Workload::Replace | Workload::Several => Some(6000),
            Workload::Larger => Some(300),
            Workload::Smaller => Some(200_000),
        }
    }

    /// The sizes of the versions that are written.
    pub fn sizes(self) -> &'static [usize] {
        match self {
            Workload::Create | Workload::Replace => &[6000],
            Workload::Larger => &[200_000],
            Workload::Smaller => &[300],
            Workload::Several => &[6000; 3],
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

/// Where the file system commits its changes. It may do so at any moment, for example because another program syncs a
/// file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Commits {
    /// Only where the command asks for it
    None,
    /// In one gap between two system calls, chosen at random
    Once,
    /// In every gap
    Always,
    /// As `once`, with the whole transaction of btrfs or f2fs, because a file's sync commits less than that
    OneTransaction,
    /// As `always`, with the whole transaction of btrfs or f2fs
    Transactions,
}

impl Commits {
    /// Those that differ on this file system.
    pub fn all(file_system: FileSystem) -> &'static [Self] {
        use Commits::{Always, None, Once, OneTransaction, Transactions};
        if file_system.commits_apart() {
            &[None, Once, Always, OneTransaction, Transactions]
        } else {
            &[None, Once, Always]
        }
    }

    /// Whether there is a commit before the call with this number. `once` is the number that was drawn.
    pub fn is_before(self, call: usize, once: usize) -> bool {
        match self {
            Commits::None => false,
            Commits::Once | Commits::OneTransaction => call == once,
            Commits::Always | Commits::Transactions => true,
        }
    }

    /// Whether the gap has to be drawn.
    pub fn is_single(self) -> bool {
        matches!(self, Commits::Once | Commits::OneTransaction)
    }

    /// Changes a file that the command does not use, and commits the change.
    pub fn commit(self, unrelated: &Path) -> io::Result<()> {
        let mut file = File::options().append(true).open(unrelated)?;
        file.write_all(b"+")?;
        match self {
            Commits::OneTransaction | Commits::Transactions => commit_all(unrelated).map(|_| ()),
            _ => file.sync_all(),
        }
    }
}

impl fmt::Display for Commits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

/// A value of lines of text. The first line tells its version, and no two blocks are the same.
pub fn value(version: usize, size: usize) -> Vec<u8> {
    let title = format!("version {version}, {size} bytes\n");
    let line = |line: usize| {
        let words = (0..4).map(|word| format!("{:016x}", xxh3_64(format!("{title}{line} {word}").as_bytes())));
        words.collect::<Vec<_>>().join(" ") + "\n"
    };
    let mut value = title.clone();
    let mut lines = 0..;
    while value.len() < size {
        value += &line(lines.next().unwrap_or_default());
    }
    value.truncate(size.saturating_sub(1));
    value.push('\n');
    value.into_bytes()
}
