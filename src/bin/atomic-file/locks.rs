//! What `locks` prints.

use atomic_file_adapter::LockFile;

/// A table for people. Nothing, not even the heads of its columns, if there are no lock files.
pub fn table(locks: &[LockFile]) -> String {
    let rows = locks.iter().map(|lock| {
        let (state, pid) = match &lock.holder {
            None => ("free", None),
            Some(holder) => (if holder.exclusive { "exclusive" } else { "shared" }, holder.pid),
        };
        let pid = pid.map_or("-".into(), |pid| pid.to_string());
        (state, pid, crate::one_line(&lock.path.to_string_lossy()))
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
        let exclusive = lock.holder.is_some_and(|holder| holder.exclusive);
        let pid = lock.holder.and_then(|holder| holder.pid);
        let pid = pid.map_or("null".into(), |pid| pid.to_string());
        let held = lock.holder.is_some();
        format!("\n  {{\"path\": {path}, \"held\": {held}, \"exclusive\": {exclusive}, \"pid\": {pid}}}")
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
