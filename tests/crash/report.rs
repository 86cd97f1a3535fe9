//! The tables at the end of a run.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use crate::failing;
use crate::generated;
use crate::others;
use crate::seed::seed;
use crate::together;

/// The results for the states of one or more recordings.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    pub recordings: usize,
    /// The distinct states.
    pub possible: usize,
    /// The states that were judged.
    pub states: usize,
    pub torn: usize,
    pub lost: usize,
    /// Lost versions, where that is allowed.
    pub old: usize,
    pub other: usize,
    /// The sum of the times of judging.
    pub time: Duration,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.recordings += other.recordings;
        self.possible += other.possible;
        self.states += other.states;
        self.torn += other.torn;
        self.lost += other.lost;
        self.old += other.old;
        self.other += other.other;
        self.time += other.time;
    }
}

pub struct Judged {
    pub file_system: &'static str,
    pub workload: &'static str,
    pub writer: String,
    pub counts: Counts,
    /// The flushes of each operation, if only the writer wrote.
    pub flushes: Option<Vec<usize>>,
}

/// The results of a control.
pub struct Control {
    pub file_system: &'static str,
    pub left_out: String,
    pub commits: String,
    pub counts: Counts,
    pub verdict: String,
}

#[derive(Default)]
struct Report {
    judged: Vec<Judged>,
    controls: Vec<Control>,
}

static REPORT: Mutex<Report> = Mutex::new(Report { judged: Vec::new(), controls: Vec::new() });

pub fn add(judged: Judged) {
    REPORT.lock().unwrap().judged.push(judged);
}

pub fn add_control(control: Control) {
    REPORT.lock().unwrap().controls.push(control);
}

/// Prints the tables and writes them to `crash-report.md` in cargo's target directory.
pub fn publish() {
    let report = REPORT.lock().unwrap();
    let others =
        [together::report::to_markdown(), failing::report::to_markdown(), generated::report::to_markdown()].concat();
    if report.judged.is_empty() && report.controls.is_empty() && others.is_empty() {
        return;
    }
    let text = report.to_markdown() + &others;
    print!("{text}");
    if others::asked() {
        return;
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("crash-report.md");
    match fs::write(&path, text) {
        Ok(()) => println!("This report is in {}.", path.display()),
        Err(error) => eprintln!("{}: {error}", path.display()),
    }
}

/// The values of `key`, in the order in which they first appear in `of`.
pub fn distinct<'a, T, K: PartialEq>(of: &'a [T], key: impl Fn(&'a T) -> K) -> Vec<K> {
    let mut keys = Vec::new();
    for item in of {
        let key = key(item);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

impl Report {
    fn to_markdown(&self) -> String {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let mut text = format!("\n## Crash states (seed {}, Linux {})\n", seed(), kernel.trim());
        if !self.judged.is_empty() {
            text += &self.states();
            text += &self.flushes();
        }
        if !self.controls.is_empty() {
            text += &self.controls();
        }
        text
    }

    fn states(&self) -> String {
        let mut text = String::from(
            "\nEach state was mounted, read, unmounted, and checked with the file system's own program.\n\
             \n| file system | writer | recordings | states | of | torn | lost | other | old, allowed | ms a state |\n\
             |---|---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        );
        let mut all = Counts::default();
        for file_system in distinct(&self.judged, |row| row.file_system) {
            for writer in distinct(&self.judged, |row| &row.writer) {
                let mut sum = Counts::default();
                let rows = self.judged.iter().filter(|row| row.file_system == file_system && row.writer == *writer);
                rows.for_each(|row| sum.add(&row.counts));
                all.add(&sum);
                text += &state_row(file_system, writer, &sum);
            }
        }
        text += &state_row("all", "", &all);
        text
    }

    fn flushes(&self) -> String {
        let file_systems = distinct(&self.judged, |row| row.file_system);
        let mut text = String::from(
            "\nFlushes of the device in one operation, where nobody else writes:\n\n| workload | writer |",
        );
        for file_system in &file_systems {
            write!(text, " {file_system} |").unwrap();
        }
        text += "\n|---|---|";
        text += &"---|".repeat(file_systems.len());
        text += "\n";
        for workload in distinct(&self.judged, |row| row.workload) {
            for writer in distinct(&self.judged, |row| &row.writer) {
                write!(text, "| {workload} | {writer} |").unwrap();
                for file_system in &file_systems {
                    let rows = self
                        .judged
                        .iter()
                        .filter(|row| (row.file_system, row.workload, &row.writer) == (*file_system, workload, writer));
                    let flushes: BTreeSet<usize> =
                        rows.filter_map(|row| row.flushes.as_ref()).flatten().copied().collect();
                    let flushes: Vec<String> = flushes.iter().map(usize::to_string).collect();
                    write!(text, " {} |", flushes.join(", ")).unwrap();
                }
                text += "\n";
            }
        }
        text
    }

    fn controls(&self) -> String {
        let mut text = String::from(
            "\nControls: what the same states look like when a sync is left out.\n\
             \n| file system | left out | commits | states | torn | lost | other | verdict |\n\
             |---|---|---|--:|--:|--:|--:|---|\n",
        );
        let mut rows: Vec<&Control> = self.controls.iter().collect();
        rows.sort_by_key(|row| (row.left_out.clone(), row.file_system));
        for Control { file_system, left_out, commits, counts, verdict } in rows {
            let Counts { states, torn, lost, other, .. } = counts;
            let row = format!(
                "| {file_system} | {left_out} | {commits} | {states} | {torn} | {lost} | {other} | {verdict} |"
            );
            text += &row;
            text += "\n";
        }
        text
    }
}

fn state_row(file_system: &str, writer: &str, counts: &Counts) -> String {
    let Counts { recordings, possible, states, torn, lost, old, other, time } = counts;
    let each = time.as_millis() / (*states).max(1) as u128;
    let found = format!("{torn} | {lost} | {other} | {old}");
    format!("| {file_system} | {writer} | {recordings} | {states} | {possible} | {found} | {each} |\n")
}
