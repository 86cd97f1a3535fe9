//! The table at the end of a run.

use std::fmt;
use std::path::Path;
use std::sync::Mutex;

use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, TMPFS_MAGIC, statfs};

#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    pub(crate) cases: usize,
    /// The steps at which every user has tried everything.
    pub(crate) looks: usize,
    /// The opens that were tried.
    pub(crate) opens: usize,
    /// The opens that the kernel granted.
    pub(crate) granted: usize,
    /// Those of a new version by a user whom the old one kept out.
    pub(crate) widened: usize,
    /// New versions that differ from the old one although they could be equal.
    pub(crate) inexact: usize,
    /// Answers of the oracle that differ from the kernel's.
    pub(crate) oracle: usize,
}

impl Counts {
    fn numbers(&mut self) -> [&mut usize; 7] {
        let Counts { cases, looks, opens, granted, widened, inexact, oracle } = self;
        [cases, looks, opens, granted, widened, inexact, oracle]
    }

    pub(crate) fn add(&mut self, other: &Counts) {
        let mut other = other.clone();
        self.numbers().into_iter().zip(other.numbers()).for_each(|(sum, number)| *sum += *number);
    }

    /// The opposite of `Display`.
    pub(crate) fn parse(text: &str) -> Self {
        let mut counts = Counts::default();
        let numbers = text.split(" | ").map(|number| number.parse().unwrap());
        counts.numbers().into_iter().zip(numbers).for_each(|(count, number)| *count = number);
        counts
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.clone().numbers().map(|number| number.to_string()).join(" | "))
    }
}

static ROWS: Mutex<Vec<(String, String, Counts)>> = Mutex::new(Vec::new());

pub(crate) fn add(file_system: &str, writer: &str, counts: &Counts) {
    ROWS.lock().unwrap().push((file_system.to_owned(), writer.to_owned(), counts.clone()));
}

pub(crate) fn file_system(dir: &Path) -> String {
    let kind = statfs(dir).unwrap().filesystem_type();
    let known = [(EXT4_SUPER_MAGIC, "ext4"), (BTRFS_SUPER_MAGIC, "btrfs"), (TMPFS_MAGIC, "tmpfs")];
    known.iter().find(|(magic, _)| *magic == kind).map_or_else(|| format!("{kind:?}"), |(_, name)| (*name).to_owned())
}

/// Prints the table.
pub(crate) fn publish() {
    let mut rows = ROWS.lock().unwrap();
    if rows.is_empty() {
        return;
    }
    rows.sort_by(|(a_fs, a_writer, _), (b_fs, b_writer, _)| (a_fs, a_writer).cmp(&(b_fs, b_writer)));
    println!("\n## Who could open what at which step\n");
    println!(
        "| file system | writer | cases | looks | opens tried | granted | widened | not as it was | oracle wrong |"
    );
    println!("|---|---|--:|--:|--:|--:|--:|--:|--:|");
    let mut all = Counts::default();
    for (file_system, writer, counts) in rows.iter() {
        println!("| {file_system} | {writer} | {counts} |");
        all.add(counts);
    }
    println!("| all | | {all} |");
}
