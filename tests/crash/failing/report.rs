//! The tables of the failing device.

use std::fmt::Write;
use std::sync::Mutex;

use crash_lab::device::{Failure, Lasting, Request};

use crate::failing::verdict::Fault;
use crate::report::distinct;

/// The state of a file system after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    Writable,
    ReadOnly,
    ShutDown,
}

#[derive(Debug, Clone, Default)]
pub struct Counts {
    pub runs: usize,
    /// Runs in which a request failed.
    pub reached: usize,
    /// Runs of these in which no call failed.
    pub hidden: usize,
    pub calls: usize,
    /// Calls that reported that nothing has happened.
    pub nothing: usize,
    pub not_durable: usize,
    pub unknown: usize,
    /// Calls that succeeded after an earlier one had failed.
    pub retried_done: usize,
    /// Runs in which a read returned an error.
    pub unreadable: usize,
    pub read_only: usize,
    pub shut_down: usize,
    /// Disks at the end of a run, mounted again.
    pub remounted: usize,
    pub damaged: usize,
    /// Disks after a power cut.
    pub states: usize,
    /// Runs in which readers saw something else than a call had reported.
    pub contradictions: usize,
    pub lost: usize,
    /// Lost, after another program got the error.
    pub another_was_told: usize,
    pub torn: usize,
    pub half: usize,
    pub happened: usize,
    pub stuck: usize,
    pub unusable: usize,
    /// Disks after a power cut, of a device that loses its cache when a flush fails. And those with a fault.
    pub without_cache: usize,
    pub lost_with_cache: usize,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        for (mine, theirs) in self.all_mut().into_iter().zip(other.clone().all_mut()) {
            *mine += *theirs;
        }
    }

    fn all_mut(&mut self) -> [&mut usize; 24] {
        [
            &mut self.runs,
            &mut self.reached,
            &mut self.hidden,
            &mut self.calls,
            &mut self.nothing,
            &mut self.not_durable,
            &mut self.unknown,
            &mut self.retried_done,
            &mut self.unreadable,
            &mut self.read_only,
            &mut self.shut_down,
            &mut self.remounted,
            &mut self.damaged,
            &mut self.states,
            &mut self.contradictions,
            &mut self.lost,
            &mut self.another_was_told,
            &mut self.torn,
            &mut self.half,
            &mut self.happened,
            &mut self.stuck,
            &mut self.unusable,
            &mut self.without_cache,
            &mut self.lost_with_cache,
        ]
    }

    pub fn count(&mut self, fault: &Fault) {
        *match fault {
            Fault::Lost(_) => &mut self.lost,
            Fault::AnotherWasTold(_) => &mut self.another_was_told,
            Fault::Torn(_) => &mut self.torn,
            Fault::Half(_) => &mut self.half,
            Fault::Happened(_) => &mut self.happened,
            Fault::Stuck(_) => &mut self.stuck,
            Fault::Unusable(_) => &mut self.unusable,
        } += 1;
    }

    pub fn count_afterwards(&mut self, afterwards: Afterwards) {
        match afterwards {
            Afterwards::Writable => {}
            Afterwards::ReadOnly => self.read_only += 1,
            Afterwards::ShutDown => self.shut_down += 1,
        }
    }

    fn bad(&self) -> usize {
        self.lost + self.torn + self.half + self.happened + self.stuck + self.unusable + self.contradictions
    }
}

pub struct Judged {
    pub file_system: &'static str,
    pub failure: Failure,
    pub counts: Counts,
}

#[derive(Default)]
struct Report {
    judged: Vec<Judged>,
    controls: Vec<(&'static str, Counts)>,
    lies: Vec<(&'static str, Counts)>,
}

static REPORT: Mutex<Report> = Mutex::new(Report { judged: Vec::new(), controls: Vec::new(), lies: Vec::new() });

pub fn add(judged: Judged) {
    REPORT.lock().unwrap().judged.push(judged);
}

pub fn add_control(file_system: &'static str, counts: Counts) {
    REPORT.lock().unwrap().controls.push((file_system, counts));
}

pub fn add_lie(file_system: &'static str, counts: Counts) {
    REPORT.lock().unwrap().lies.push((file_system, counts));
}

/// Empty if nothing was judged.
pub fn to_markdown() -> String {
    let report = REPORT.lock().unwrap();
    let mut text = String::new();
    if !report.judged.is_empty() {
        text += &report.failures();
    }
    if !report.controls.is_empty() {
        text += &report.controls();
    }
    if !report.lies.is_empty() {
        text += &report.lies();
    }
    text
}

const KINDS: [(Request, Lasting); 4] = [
    (Request::Write, Lasting::Once),
    (Request::Write, Lasting::FromThenOn),
    (Request::Flush, Lasting::Once),
    (Request::Flush, Lasting::FromThenOn),
];

fn name((request, lasting): (Request, Lasting)) -> &'static str {
    match (request, lasting) {
        (Request::Write, Lasting::Once) => "one write",
        (Request::Write, Lasting::FromThenOn) => "every write from then on",
        (Request::Flush, Lasting::Once) => "one flush",
        (Request::Flush, Lasting::FromThenOn) => "every flush from then on",
    }
}

impl Report {
    fn failures(&self) -> String {
        let mut text = String::from(
            "\nA device that fails: in each run another request, or all from it on. A call that fails is made again, once. Of the\n\
             calls are those that said that nothing was done; that it is done and may not survive a power cut; that it may be\n\
             done or not. Then those that succeeded after one that failed, and what became of the file system. Disks are\n\
             remounted as they are (with the failed writes and without), and after power cuts. Untrue is what a call said and a disk\n\
             disproves; another was told where the sync of another program had the error; without the cache are power cuts of a\n\
             device that loses its cache when a flush fails, of which nothing is promised (untrue / judged).\n\
             \n| file system | fails | runs | no call failed | nothing done | not durable | unfinished | done after a failure | \
             read-only | shut down | reads failed | remounted | damaged | power cuts | another was told | \
             untrue | without the cache |\n\
             |---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        );
        for file_system in distinct(&self.judged, |row| row.file_system) {
            for kind in KINDS {
                let mut sum = Counts::default();
                let of = |row: &&Judged| {
                    row.file_system == file_system && (row.failure.request, row.failure.lasting) == kind
                };
                self.judged.iter().filter(of).for_each(|row| sum.add(&row.counts));
                let Counts { reached, hidden, nothing, not_durable, unknown, retried_done, .. } = sum;
                let Counts { read_only, shut_down, unreadable, remounted, damaged, states, another_was_told, .. } = sum;
                let Counts { without_cache, lost_with_cache, .. } = sum;
                let bad = sum.bad();
                writeln!(
                    text,
                    "| {file_system} | {} | {reached} | {hidden} | {nothing} | {not_durable} | {unknown} | {retried_done} \
                     | {read_only} | {shut_down} | {unreadable} | {remounted} | {damaged} | {states} | {another_was_told} | {bad} \
                     | {lost_with_cache}/{without_cache} |",
                    name(kind),
                )
                .unwrap();
            }
        }
        text
    }

    fn controls(&self) -> String {
        let mut text = String::from(
            "\nA writer that repeats a sync that has failed, until it succeeds, while one request fails:\n\
             \n| file system | runs | no call failed | remounted | said to be done, and lost | verdict |\n\
             |---|--:|--:|--:|--:|---|\n",
        );
        for (file_system, counts) in &self.controls {
            let Counts { reached, hidden, remounted, lost, .. } = counts;
            let verdict = if *lost > 0 { "caught" } else { "MISSED" };
            writeln!(text, "| {file_system} | {reached} | {hidden} | {remounted} | {lost} | {verdict} |").unwrap();
        }
        text
    }

    fn lies(&self) -> String {
        let mut text = String::from(
            "\nA device that lies: it says that a flush is done and does nothing, so that a power cut may take whatever was written\n\
             since the beginning. Nothing can be promised then; this is what is lost.\n\
             \n| file system | states | lost | torn | half | stuck | cannot be mounted or read |\n\
             |---|--:|--:|--:|--:|--:|--:|\n",
        );
        for (file_system, counts) in &self.lies {
            let Counts { states, lost, torn, half, stuck, unusable, .. } = counts;
            writeln!(text, "| {file_system} | {states} | {lost} | {torn} | {half} | {stuck} | {unusable} |").unwrap();
        }
        text
    }
}
