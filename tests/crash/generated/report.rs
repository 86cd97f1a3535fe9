//! The tables of the generated sequences.

use std::sync::Mutex;
use std::time::Duration;

use crate::generated::each;
use crate::generated::operations::{self, LONGEST};

/// The results for the states of one or more recordings.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    pub sequences: usize,
    pub recordings: usize,
    /// The distinct states.
    pub possible: usize,
    /// The states that were judged.
    pub states: usize,
    pub torn: usize,
    pub half: usize,
    pub lost: usize,
    pub stuck: usize,
    pub other: usize,
    /// The sum of the times.
    pub recording: Duration,
    pub judging: Duration,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.sequences += other.sequences;
        self.recordings += other.recordings;
        self.possible += other.possible;
        self.states += other.states;
        self.torn += other.torn;
        self.half += other.half;
        self.lost += other.lost;
        self.stuck += other.stuck;
        self.other += other.other;
        self.recording += other.recording;
        self.judging += other.judging;
    }

    fn row(&self, title: &str) -> String {
        let Counts { sequences, recordings, possible, states, torn, half, lost, stuck, other, recording, judging } =
            self;
        let (record, judge) = (each(*recording, *recordings), each(*judging, *states));
        let found = format!("{torn} | {half} | {lost} | {stuck} | {other}");
        format!("| {title} | {sequences} | {recordings} | {states} | {possible} | {found} | {record} | {judge} |\n")
    }
}

pub struct Judged {
    pub file_system: &'static str,
    pub counts: Counts,
}

/// The results of a control.
pub struct Control {
    pub file_system: &'static str,
    pub left_out: String,
    pub counts: Counts,
}

static JUDGED: Mutex<Vec<Judged>> = Mutex::new(Vec::new());
static CONTROLS: Mutex<Vec<Control>> = Mutex::new(Vec::new());

pub fn add(judged: Judged) {
    JUDGED.lock().unwrap().push(judged);
}

pub fn add_control(control: Control) {
    CONTROLS.lock().unwrap().push(control);
}

pub fn to_markdown() -> String {
    let (judged, controls) = (JUDGED.lock().unwrap(), CONTROLS.lock().unwrap());
    let columns =
        "sequences | recordings | states | of | torn | half | lost | stuck | other | ms a recording | ms a state |";
    let line = "--:|".repeat(11);
    let mut text = String::new();
    if !judged.is_empty() {
        let all = operations::all().len();
        text += &format!(
            "\nGenerated sequences of up to {LONGEST} operations, of which there are {all}. One state of 16 was checked with the \
             file system's own program.\n\n| file system | {columns}\n|---|{line}\n"
        );
        let mut sum = Counts::default();
        for Judged { file_system, counts } in judged.iter() {
            text += &counts.row(file_system);
            sum.add(counts);
        }
        text += &sum.row("**all**");
    }
    if !controls.is_empty() {
        text +=
            "\nControls of the generated sequences: a sync is left out until the first state is found that shows it.\n";
        text += &format!("\n| file system, left out | {columns}\n|---|{line}\n");
        for Control { file_system, left_out, counts } in controls.iter() {
            text += &counts.row(&format!("{file_system}, {left_out}"));
        }
    }
    text
}
