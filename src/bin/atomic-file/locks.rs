//! What `locks` prints.

use atomic_file_adapter::LockFile;

use crate::paths::escaped;

/// A table for people. Nothing, not even the heads of its columns, if there are no lock files.
pub fn table(locks: &[LockFile]) -> String {
    let rows = locks.iter().map(|lock| {
        let (state, pid) = match &lock.holder {
            None => (if lock.problem.is_none() { "free" } else { "unknown" }, None),
            Some(holder) => (if holder.exclusive { "exclusive" } else { "shared" }, holder.pid),
        };
        let pid = pid.map_or("-".into(), |pid| pid.to_string());
        (state, pid, escaped(&lock.path))
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return String::new();
    }
    let width = rows.iter().map(|(_, pid, _)| pid.len()).max().unwrap_or(0).max("PID".len());
    let mut text = String::new();
    let head = ("STATE", "PID".into(), "LOCK FILE".into());
    for (state, pid, path) in [head].iter().chain(&rows) {
        text += &format!("{state:9}  {pid:>width$}  {path}\n");
    }
    text
}

/// One JSON document, a line for each lock file.
pub fn json(locks: &[LockFile]) -> String {
    let objects = locks.iter().map(|lock| {
        let path = json_string(&lock.path.to_string_lossy());
        let known = |fact: bool| if lock.problem.is_none() { fact.to_string() } else { "null".into() };
        let exclusive = known(lock.holder.is_some_and(|holder| holder.exclusive));
        let pid = lock.holder.and_then(|holder| holder.pid);
        let pid = pid.map_or("null".into(), |pid| pid.to_string());
        let held = known(lock.holder.is_some());
        let problem = lock.problem.as_deref().map_or("null".into(), json_string);
        format!(
            "\n  {{\"path\": {path}, \"held\": {held}, \"exclusive\": {exclusive}, \"pid\": {pid}, \
             \"problem\": {problem}}}"
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
