//! The table of `src/docs/proofs.md`, made from the results of the cases.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::cases::CASES;
use crate::site::is_full;

/// The promise that a case checks: the columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    Exclusion,
    FreshReads,
    NoLostUpdate,
    Prune,
    KilledHolder,
    /// No promise that every file system has to keep.
    None,
}

const COLUMNS: [(Promise, &str); 6] = [
    (Promise::Exclusion, "exclusion"),
    (Promise::FreshReads, "fresh reads"),
    (Promise::NoLostUpdate, "no lost update"),
    (Promise::Prune, "prune"),
    (Promise::KilledHolder, "killed holder"),
    (Promise::None, "others"),
];

/// For each promise, the number of checks, and of those that found a violation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts([(u32, u32); COLUMNS.len()]);

impl Counts {
    pub fn add(&mut self, promise: Promise, wrong: bool) {
        let column = COLUMNS.iter().position(|(it, _)| *it == promise).unwrap();
        self.0[column].0 += 1;
        self.0[column].1 += u32::from(wrong);
    }
}

/// "exclusion 40/0, killed holder 20/0"
pub fn to_line(counts: &Counts) -> String {
    let seen = COLUMNS.iter().zip(counts.0).filter(|(_, (runs, _))| *runs > 0);
    let words: Vec<String> = seen.map(|((_, column), (runs, wrong))| format!("{column} {runs}/{wrong}")).collect();
    words.join(", ")
}

fn from_line(line: &str) -> Option<Counts> {
    let mut counts = Counts::default();
    for word in line.split(", ").filter(|word| !word.is_empty()) {
        let (column, numbers) = word.rsplit_once(' ')?;
        let (runs, wrong) = numbers.split_once('/')?;
        let column = COLUMNS.iter().position(|(_, it)| *it == column)?;
        counts.0[column] = (runs.parse().ok()?, wrong.parse().ok()?);
    }
    Some(counts)
}

/// The rows in their order, and whether a finished write survives a power cut, with the evidence.
pub const ROWS: [(&str, &str); 10] = [
    ("ext4", "yes: `tests/crash`"),
    ("xfs", "yes: `tests/crash`"),
    ("btrfs", "yes: `tests/crash`"),
    ("tmpfs", "no"),
    ("overlayfs", "on ext4: `tests/crash`"),
    ("FUSE (bindfs)", "not measured"),
    ("NFSv4.0", "as the server's"),
    ("NFSv4.2", "as the server's"),
    ("GlusterFS", "not measured"),
    ("GlusterFS, default options", "not measured"),
];

struct Row {
    name: String,
    kernel: String,
    counts: Counts,
}

static REPORT: Mutex<Vec<Row>> = Mutex::new(Vec::new());

/// Adds the results of a case in one place. Controls do not count.
pub fn add(row: &str, kernel: &str, case: &str, counts: &str) {
    if CASES.iter().any(|it| it.name == case && it.must_fail) {
        return;
    }
    let new = from_line(counts).expect("counts");
    let mut report = REPORT.lock().unwrap_or_else(PoisonError::into_inner);
    match report.iter_mut().find(|it| it.name == row) {
        None => report.push(Row { name: row.to_owned(), kernel: kernel.to_owned(), counts: new }),
        Some(row) => {
            for (sum, new) in row.counts.0.iter_mut().zip(new.0) {
                *sum = (sum.0 + new.0, sum.1 + new.1);
            }
        }
    }
}

/// Prints the table of a full run, and writes it to `network-report.md` in cargo's target directory.
pub fn publish() {
    let report = REPORT.lock().unwrap_or_else(PoisonError::into_inner);
    if !is_full() || report.is_empty() {
        return;
    }
    let text = to_markdown(&report);
    print!("\n{text}");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("network-report.md");
    match fs::write(&path, text) {
        Ok(()) => println!("This table is in {}.", path.display()),
        Err(error) => eprintln!("{}: {error}", path.display()),
    }
}

fn to_markdown(report: &[Row]) -> String {
    let columns = COLUMNS.iter().filter(|(promise, _)| *promise != Promise::None);
    let names: Vec<&str> = columns.clone().map(|(_, name)| *name).collect();
    let mut text =
        format!("| | {} | durable | Linux |\n|---|{}---|---|\n", names.join(" | "), "--:|".repeat(names.len()));
    for (name, durable) in ROWS {
        let Some(row) = report.iter().find(|row| row.name == name) else { continue };
        write!(text, "| {name} |").unwrap();
        for ((_, (runs, wrong)), _) in COLUMNS.iter().zip(row.counts.0).zip(columns.clone()) {
            write!(text, " {runs} / {wrong} |").unwrap();
        }
        writeln!(text, " {durable} | {} |", row.kernel).unwrap();
    }
    text
}
