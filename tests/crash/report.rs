//! The tables at the end of a run.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

/// What became of the states of one recording.
#[derive(Debug, Clone, Default)]
pub struct Row {
    pub file_system: &'static str,
    pub workload: &'static str,
    /// How durable, or what was left out.
    pub title: String,
    pub control: bool,
    pub recordings: usize,
    /// Distinct states that were possible, and how many of them were judged and checked.
    pub possible: usize,
    pub states: usize,
    pub checked: usize,
    pub torn: usize,
    pub lost: usize,
    pub other: usize,
    /// Of each operation of the workload, without forced commits.
    pub flushes: Vec<usize>,
}

static ROWS: Mutex<Vec<Row>> = Mutex::new(Vec::new());

pub fn add(row: Row) {
    ROWS.lock().unwrap().push(row);
}

pub fn print() {}
