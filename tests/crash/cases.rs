//! The cases: which workloads run on which file systems, and what must come of it.

use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use atomic_file_adapter::Durability;
use libtest_mimic::Trial;
use tempfile::TempDir;

use crate::common::test_if;
use crate::judge::{Fault, Promise, look};
use crate::lab::{FILE_SYSTEMS, FileSystem, Lab, isolated};
use crate::report::{self, Row};
use crate::states::Recording;
use crate::workloads::{History, Meddling, Run, WORKLOADS, Workload, Writer};

pub fn all() -> Vec<Trial> {
    let mut trials = Vec::new();
    for file_system in FILE_SYSTEMS {
        for workload in WORKLOADS {
            let name = format!("{} {}", file_system.name, workload.name);
            let body = move || isolated(move || keeps_its_promise(file_system, &workload));
            trials.push(test_if(file_system.missing().as_deref(), &name, body));
        }
    }
    trials
}

fn keeps_its_promise(file_system: FileSystem, workload: &Workload) {
    let lab = Lab::new(file_system);
    let mut bad = Vec::new();
    for durability in [Durability::Full, Durability::Ordered] {
        for commits in [false, true] {
            let meddling = Meddling { commits, left_out: None };
            let (row, faults) = examine(&lab, workload, durability, meddling);
            eprintln!("{row:?}");
            report::add(row);
            bad.extend(faults);
        }
    }
    assert!(bad.is_empty(), "{} bad states; the first:\n{}", bad.len(), bad[..bad.len().min(5)].join("\n"));
}

fn examine(lab: &Lab, workload: &Workload, durability: Durability, meddling: Meddling) -> (Row, Vec<String>) {
    let start = Instant::now();
    let lock_dir =
        TempDir::new_in(if Path::new("/dev/shm").is_dir() { "/dev/shm".into() } else { std::env::temp_dir() });
    let lock_dir = lock_dir.unwrap();
    let writer = Writer::adapter(durability, lock_dir.path());
    let (recording, history) = record(lab, workload, &writer, meddling);
    eprintln!(
        "recorded in {:?}: {} events, {} points, {} states",
        start.elapsed(),
        recording.log.len(),
        recording.points.len(),
        recording.states.len()
    );
    let mut row = Row {
        file_system: lab.file_system.name,
        workload: workload.name,
        title: format!("{durability:?}, {meddling:?}"),
        recordings: 1,
        possible: recording.states.len(),
        ..Row::default()
    };
    if !meddling.commits {
        row.flushes = recording.flushes();
    }
    let promise = Promise { history: &history, durability, leftovers: Some(workload.writers) };
    let mut bad = Vec::new();
    let limit = std::env::var("N").map_or(30, |n| n.parse().unwrap());
    for state in recording.sample(limit, 1) {
        let seen = look(lab, &recording, state, true);
        row.states += 1;
        let mut faults: Vec<(Fault, usize)> = Vec::new();
        for number in &state.points {
            let point = &recording.points[*number];
            faults.extend(seen.faults(&promise, &recording.log[..point.at]).into_iter().map(|fault| (fault, *number)));
        }
        faults.sort();
        row.torn += usize::from(faults.iter().any(|(fault, _)| matches!(fault, Fault::Torn(_))));
        row.lost += usize::from(faults.iter().any(|(fault, _)| matches!(fault, Fault::Lost(_))));
        row.other += usize::from(faults.iter().any(|(fault, _)| matches!(fault, Fault::Other(_))));
        if let Some((fault, point)) = faults.first() {
            bad.push(format!("{} {}: {fault:?}: {}", row.file_system, row.title, recording.describe(state, *point)));
        }
    }
    eprintln!("judged in {:?}", start.elapsed());
    (row, bad)
}

fn record(lab: &Lab, workload: &Workload, writer: &Writer, meddling: Meddling) -> (Recording, History) {
    lab.format();
    let mounted = lab.mount().unwrap();
    let run = Run { mounted: &mounted, disk: &lab.disk, writer, meddling, history: Mutex::default() };
    run.prepare(workload);
    let start = lab.disk.record();
    run.operate(workload);
    let log = lab.disk.log();
    let history = run.history.into_inner().unwrap();
    drop(mounted);
    (Recording::new(start, log, 1), history)
}
