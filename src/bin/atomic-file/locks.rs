//! What `locks` prints.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use atomic_file_adapter::{AtomicFileAdapter, Intent, LockFile, Result};

use crate::paths::escaped;
use crate::process::{program, running, user};

/// A lock file, or a given path without a lock file.
pub struct Listed {
    /// The path of the lock file.
    path: PathBuf,
    file: Option<PathBuf>,
    lock: Option<LockFile>,
}

/// All lock files.
pub fn all(adapter: &AtomicFileAdapter) -> Result<Vec<Listed>> {
    let listed = adapter.locks()?.into_iter().map(|lock| Listed {
        path: lock.path.clone(),
        file: lock.guards.clone(),
        lock: Some(lock),
    });
    Ok(sorted(listed.collect()))
}

/// The lock files of these paths.
pub fn of(adapter: &AtomicFileAdapter, paths: &[PathBuf]) -> Result<Vec<Listed>> {
    let (mut listed, mut known) = (Vec::new(), BTreeSet::new());
    for path in paths {
        let file = adapter.file(path)?;
        if !known.insert(file.lock_path().to_owned()) {
            continue;
        }
        let lock = adapter.lock_of(file.path())?;
        // If other users share the lock directory, a lock file does not contain the path.
        let guards = lock.as_ref().and_then(|lock| lock.guards.clone());
        let guards = guards.or_else(|| Some(file.path().to_owned()));
        listed.push(Listed { path: file.lock_path().to_owned(), file: guards, lock });
    }
    Ok(sorted(listed))
}

/// Held files first, free files last.
fn sorted(mut listed: Vec<Listed>) -> Vec<Listed> {
    listed.sort_by(|one, other| {
        let key = |it: &Listed| if it.is_held() { 0 } else { 1 + i32::from(it.problem().is_none()) };
        (key(one), one.name()).cmp(&(key(other), other.name()))
    });
    listed
}

impl Listed {
    fn name(&self) -> &Path {
        self.file.as_ref().unwrap_or(&self.path)
    }

    pub fn is_held(&self) -> bool {
        self.lock.as_ref().is_some_and(|lock| lock.holder.is_some())
    }

    pub fn problem(&self) -> Option<&str> {
        self.lock.as_ref()?.problem.as_deref()
    }

    fn pid(&self) -> Option<u32> {
        self.lock.as_ref()?.holder?.pid
    }

    fn is_exclusive(&self) -> bool {
        self.lock.as_ref().and_then(|lock| lock.holder).is_some_and(|holder| holder.exclusive)
    }

    /// `None`: the system does not tell.
    fn waiters(&self) -> Option<&[u32]> {
        // A lock file that does not exist has no waiters.
        self.lock.as_ref().map_or(Some(&[]), |lock| lock.waiters.as_deref())
    }

    /// The change of several files that has to be finished. A mark without a decided intent means nothing.
    fn intent<'a>(&self, intents: &'a [Intent]) -> Option<&'a Intent> {
        let marked = self.lock.as_ref()?.intent.as_ref()?;
        intents.iter().find(|intent| intent.path == *marked)
    }
}

/// The intents for files in this list.
pub fn concerned(intents: Vec<Intent>, listed: &[Listed]) -> Vec<Intent> {
    let about: BTreeSet<PathBuf> =
        listed.iter().filter_map(|it| it.intent(&intents)).map(|intent| intent.path.clone()).collect();
    intents.into_iter().filter(|intent| about.contains(&intent.path)).collect()
}

/// A table for people, and a list of the unfinished changes. Empty, without the column heads, if there are none.
pub fn table(listed: &[Listed], intents: &[Intent]) -> String {
    let mut rows = vec![["STATE", "PID", "PROGRAM", "USER", "FILE"].map(String::from)];
    for it in listed {
        let state = match (it.is_held(), it.problem()) {
            (true, _) => {
                if it.is_exclusive() {
                    "exclusive"
                } else {
                    "shared"
                }
            }
            (false, None) => "free",
            (false, Some(_)) => "unknown",
        };
        rows.push(row(state, it.pid(), it.name()));
        rows.extend(it.waiters().unwrap_or_default().iter().map(|pid| row("waiting", Some(*pid), it.name())));
    }
    let width = |n: usize| rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0);
    let [state, pid, program, user] = [0, 1, 2, 3].map(width);
    let mut text = String::new();
    for row in rows.iter().filter(|_| !listed.is_empty()) {
        let [of_state, of_pid, of_program, of_user, file] = row;
        text += &format!("{of_state:state$}  {of_pid:>pid$}  {of_program:program$}  {of_user:user$}  {file}\n");
    }
    for intent in intents {
        text += &format!("\nnot finished: {}\n", escaped(&intent.path));
        text.extend(intent.files.iter().map(|file| format!("  {}\n", escaped(file))));
    }
    text.trim_start_matches('\n').into()
}

fn row(state: &str, pid: Option<u32>, file: &Path) -> [String; 5] {
    let or_dash = |what: Option<String>| what.map_or("-".into(), |what| escaped(Path::new(&what)));
    let program = pid.and_then(program).map(|program| match pid.and_then(running) {
        Some(command) => format!("{program} ({command})"),
        None => program,
    });
    let who = [pid.map(|pid| pid.to_string()), program, pid.and_then(user)];
    let [pid, program, user] = who.map(or_dash);
    [state.into(), pid, program, user, escaped(file)]
}

/// One JSON document, a line for each lock file. The help describes the fields, which will stay.
pub fn json(listed: &[Listed], intents: &[Intent]) -> String {
    let objects = listed.iter().map(|it| {
        let known = |fact: bool| if it.problem().is_none() { fact.to_string() } else { "null".into() };
        let waiters = it.waiters().map(|waiters| {
            let waiters: Vec<_> = waiters.iter().map(|pid| format!("{{{}}}", json_process(Some(*pid)))).collect();
            format!("[{}]", waiters.join(", "))
        });
        let fields = [
            ("path", json_path(Some(&it.path))),
            ("file", json_path(it.file.as_ref())),
            ("held", known(it.is_held())),
            ("exclusive", known(it.is_exclusive())),
        ];
        let rest = [
            ("waiters", or_null(waiters)),
            ("intent", json_path(it.intent(intents).map(|intent| &intent.path))),
            ("problem", or_null(it.problem().map(json_string))),
        ];
        format!("\n  {{{}, {}, {}}}", json_fields(&fields), json_process(it.pid()), json_fields(&rest))
    });
    let objects: Vec<_> = objects.collect();
    let end = if objects.is_empty() { "" } else { "\n" };
    format!("[{}{end}]\n", objects.join(","))
}

fn json_process(pid: Option<u32>) -> String {
    json_fields(&[
        ("pid", or_null(pid.map(|pid| pid.to_string()))),
        ("program", or_null(pid.and_then(program).as_deref().map(json_string))),
        ("user", or_null(pid.and_then(user).as_deref().map(json_string))),
    ])
}

fn json_fields(fields: &[(&str, String)]) -> String {
    fields.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect::<Vec<_>>().join(", ")
}

fn json_path(path: Option<&PathBuf>) -> String {
    or_null(path.map(|path| json_string(&path.to_string_lossy())))
}

fn or_null(value: Option<String>) -> String {
    value.unwrap_or_else(|| "null".into())
}

fn json_string(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            // The JSON standard requires this only below U+0020. The others control terminals, too.
            c if c.is_control() => quoted += &format!("\\u{:04x}", u32::from(c)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
