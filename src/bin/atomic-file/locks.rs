//! What `locks` prints.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use atomic_file_adapter::{Intent, LockFile};

use crate::paths::escaped;

/// A table for people, and a list of what is not finished. Nothing, not even the heads of its columns, if there are none.
pub fn table(locks: &[LockFile], intents: &[Intent]) -> String {
    let rows = locks.iter().map(|lock| {
        let (state, pid) = match &lock.holder {
            None => (if lock.problem.is_none() { "free" } else { "unknown" }, None),
            Some(holder) => (if holder.exclusive { "exclusive" } else { "shared" }, holder.pid),
        };
        let pid = pid.map_or("-".into(), |pid| pid.to_string());
        (state, pid, escaped(lock.guards.as_ref().unwrap_or(&lock.path)))
    });
    let rows: Vec<_> = rows.collect();
    let width = rows.iter().map(|(_, pid, _)| pid.len()).max().unwrap_or(0).max("PID".len());
    let mut text = String::new();
    let head = ("STATE", "PID".into(), "FILE".into());
    if !rows.is_empty() {
        for (state, pid, path) in [head].iter().chain(&rows) {
            text += &format!("{state:9}  {pid:>width$}  {path}\n");
        }
    }
    for intent in intents {
        text += &format!("\nnot finished: {}\n", escaped(&intent.path));
        text.extend(intent.files.iter().map(|file| format!("  {}\n", escaped(file))));
    }
    text.trim_start_matches('\n').into()
}

/// One JSON document, a line for each lock file.
pub fn json(locks: &[LockFile], intents: &[Intent]) -> String {
    let not_finished: BTreeSet<&Path> = intents.iter().map(|intent| &*intent.path).collect();
    let objects = locks.iter().map(|lock| {
        let path = json_string(&lock.path.to_string_lossy());
        let path_or_null =
            |path: Option<&PathBuf>| path.map_or("null".into(), |path| json_string(&path.to_string_lossy()));
        let file = path_or_null(lock.guards.as_ref());
        // The mark of a change that was never decided, or is finished, means nothing.
        let intent = path_or_null(lock.intent.as_ref().filter(|intent| not_finished.contains(&***intent)));
        let known = |fact: bool| if lock.problem.is_none() { fact.to_string() } else { "null".into() };
        let exclusive = known(lock.holder.is_some_and(|holder| holder.exclusive));
        let pid = lock.holder.and_then(|holder| holder.pid);
        let pid = pid.map_or("null".into(), |pid| pid.to_string());
        let held = known(lock.holder.is_some());
        let problem = lock.problem.as_deref().map_or("null".into(), json_string);
        format!(
            "\n  {{\"path\": {path}, \"file\": {file}, \"held\": {held}, \"exclusive\": {exclusive}, \"pid\": {pid}, \
             \"intent\": {intent}, \"problem\": {problem}}}"
        )
    });
    let objects: Vec<_> = objects.collect();
    let end = if objects.is_empty() { "" } else { "\n" };
    format!("[{}{end}]\n", objects.join(","))
}

fn json_string(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            // The standard asks for this below U+0020 only; the others are commands to terminals, too.
            c if c.is_control() => quoted += &format!("\\u{:04x}", u32::from(c)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
