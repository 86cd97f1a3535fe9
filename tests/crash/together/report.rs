//! The tables of all or nothing.

use std::fmt::Write;
use std::sync::Mutex;
use std::time::Duration;

use atomic_file_adapter::Durability;
use crash_lab::file_system::FILE_SYSTEMS;

use crate::commits::Commits;
use crate::report::distinct;
use crate::together::excuse;
use crate::together::omissions::Omission;
use crate::together::verdict::Fault;

/// The results for the states of one or more recordings.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    pub recordings: usize,
    /// The distinct states.
    pub possible: usize,
    /// The states that were judged.
    pub states: usize,
    /// Those with an unfinished change.
    pub unfinished: usize,
    /// States of a crash during the recovery of one of these.
    pub again: usize,
    pub half: usize,
    pub torn: usize,
    pub lost: usize,
    pub stuck: usize,
    pub other: usize,
    /// States of both kinds with any fault.
    pub bad: usize,
    pub time: Duration,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.recordings += other.recordings;
        self.possible += other.possible;
        self.states += other.states;
        self.unfinished += other.unfinished;
        self.again += other.again;
        self.half += other.half;
        self.torn += other.torn;
        self.lost += other.lost;
        self.stuck += other.stuck;
        self.other += other.other;
        self.bad += other.bad;
        self.time += other.time;
    }

    pub fn count(&mut self, faults: &[Fault]) {
        let any = |is: fn(&Fault) -> bool| usize::from(faults.iter().any(is));
        self.half += any(|fault| matches!(fault, Fault::Half(_)));
        self.torn += any(|fault| matches!(fault, Fault::Torn(_)));
        self.lost += any(|fault| matches!(fault, Fault::Lost(_)));
        self.stuck += any(|fault| matches!(fault, Fault::Stuck(_)));
        self.other += any(|fault| matches!(fault, Fault::Other(_)));
        self.bad += any(|_| true);
    }

    fn faults(&self) -> String {
        let Counts { half, torn, lost, stuck, other, .. } = self;
        format!("{half} | {torn} | {lost} | {stuck} | {other}")
    }
}

pub struct Judged {
    pub file_system: &'static str,
    pub workload: &'static str,
    pub durability: Durability,
    pub counts: Counts,
}

/// The results of a control.
pub struct Control {
    pub file_system: &'static str,
    pub left_out: Omission,
    pub commits: Commits,
    pub counts: Counts,
}

/// The flushes of one call for so many files.
pub struct Flushes {
    pub file_system: &'static str,
    pub files: usize,
    pub verb: &'static str,
    /// Of the first time, which makes the lock files, too. And the fewest and the most of the later times.
    pub flushes: (usize, (usize, usize)),
}

struct Report {
    judged: Vec<Judged>,
    controls: Vec<Control>,
    flushes: Vec<Flushes>,
}

static REPORT: Mutex<Report> = Mutex::new(Report { judged: Vec::new(), controls: Vec::new(), flushes: Vec::new() });

pub fn add(judged: Judged) {
    REPORT.lock().unwrap().judged.push(judged);
}

pub fn add_control(control: Control) {
    REPORT.lock().unwrap().controls.push(control);
}

pub fn add_flushes(flushes: Flushes) {
    REPORT.lock().unwrap().flushes.push(flushes);
}

/// Empty if there is nothing to report.
pub fn to_markdown() -> String {
    let report = REPORT.lock().unwrap();
    let mut text = String::new();
    if !report.judged.is_empty() {
        text += &report.states();
    }
    if !report.flushes.is_empty() {
        text += &report.flushes();
    }
    if !report.controls.is_empty() {
        text += &report.controls();
    }
    text
}

impl Report {
    fn states(&self) -> String {
        let mut text = String::from(
            "\n## All or nothing\n\nEach state was mounted, read through the crate, swept, unmounted, and checked with the \
             file system's own program. \"To finish\": there was an intent, or a mark. \"Again\": crashes while that was \
             finished.\n\
             \n| file system | durability | files | recordings | states | of | to finish | again | half | torn | lost | stuck \
             | other | ms a state |\n|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        );
        let mut all = Counts::default();
        for file_system in distinct(&self.judged, |row| row.file_system) {
            for durability in [Durability::Full, Durability::Ordered] {
                let rows =
                    self.judged.iter().filter(|row| (row.file_system, row.durability) == (file_system, durability));
                let mut sum = Counts::default();
                for row in rows {
                    sum.add(&row.counts);
                    text += &state_row(file_system, &format!("{durability:?}"), row.workload, &row.counts);
                }
                all.add(&sum);
                text += &state_row(file_system, &format!("{durability:?}"), "**all**", &sum);
            }
        }
        text += &state_row("**all**", "", "", &all);
        text
    }

    fn flushes(&self) -> String {
        let mut text = String::from(
            "\nFlushes of the device in one call for so many files in one directory: the first time, and every time after \
             that.\n\n| files | verb |",
        );
        let file_systems = distinct(&self.flushes, |row| row.file_system);
        for file_system in &file_systems {
            write!(text, " {file_system} |").unwrap();
        }
        text += "\n|--:|---|";
        text += &"--:|".repeat(file_systems.len());
        text += "\n";
        let mut lines = distinct(&self.flushes, |row| (row.files, row.verb));
        lines.sort_unstable();
        for (files, verb) in lines {
            write!(text, "| {files} | `{verb}` |").unwrap();
            for file_system in &file_systems {
                let found = self
                    .flushes
                    .iter()
                    .find(|row| (row.file_system, row.files, row.verb) == (*file_system, files, verb));
                let Some(Flushes { flushes: (first, (least, most)), .. }) = found else {
                    text += " |";
                    continue;
                };
                let later = if least == most { least.to_string() } else { format!("{least} to {most}") };
                write!(text, " {first}, {later} |").unwrap();
            }
            text += "\n";
        }
        text
    }

    fn controls(&self) -> String {
        let mut text = String::from(
            "\nControls of all or nothing: what the same states look like when syncs are left out.\n\
             \n| file system | left out | commits | states | bad | half | torn | lost | stuck | other | verdict |\n\
             |---|---|---|--:|--:|--:|--:|--:|--:|--:|---|\n",
        );
        let mut rows: Vec<&Control> = self.controls.iter().collect();
        rows.sort_by_key(|row| (row.left_out.to_string(), row.file_system));
        for Control { file_system, left_out, commits, counts } in rows {
            let of = FILE_SYSTEMS.into_iter().find(|of| of.name == *file_system).expect("one of these");
            let verdict = match excuse(of, *left_out) {
                _ if counts.bad > 0 => "caught".to_owned(),
                Some(excuse) => format!("not caught: {excuse}"),
                None => "not caught".to_owned(),
            };
            let found = counts.faults();
            let Counts { states, bad, .. } = counts;
            let row =
                format!("| {file_system} | {left_out} | {commits:?} | {states} | {bad} | {found} | {verdict} |\n");
            text += &row;
        }
        text
    }
}

fn state_row(file_system: &str, durability: &str, workload: &str, counts: &Counts) -> String {
    let Counts { recordings, possible, states, unfinished, again, time, .. } = counts;
    let each = time.as_millis() / (states + again).max(1) as u128;
    let judged = format!("{recordings} | {states} | {possible} | {unfinished} | {again}");
    format!("| {file_system} | {durability} | {workload} | {judged} | {} | {each} |\n", counts.faults())
}
