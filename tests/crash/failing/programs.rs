//! The programs that run while the device fails. After an error, a program tries again once, and goes on.

use std::cell::Cell;
use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use atomic_file_adapter::fault::{Action, Call, Syscall, inject};
use atomic_file_adapter::{AtomicFile, AtomicFileAdapter, Batch, Error, Step};
use crash_lab::disk::{Disk, Event};
use nix::fcntl::{FcntlArg, fcntl};

use crate::commits::Commits;
use crate::together::changes::LOCKS;
use crate::workloads::{UNRELATED, changes_or_follows, contents};

/// Files that are changed as one, by their paths below the root. Most groups have one file.
pub type Group = &'static [&'static str];

/// A version of each file. `None`: there is no such file.
pub type Versions = Vec<Option<Vec<u8>>>;

pub struct Program {
    pub name: &'static str,
    pub groups: &'static [Group],
    /// Directories that exist before.
    dirs: &'static [&'static str],
    /// The lock directory is on another file system, which does not fail.
    pub locks_elsewhere: bool,
    /// One in so many groups exists before.
    prepared: Option<usize>,
    verbs: &'static [Verb],
}

#[derive(Debug, Clone, Copy)]
enum Verb {
    Write(usize),
    /// A few hundred bytes, which some file systems store in another way.
    WriteLittle(usize),
    /// Of the first group, with a handle.
    Update,
    Delete,
    /// Sets the mode of the first group in place, through a guard.
    SetMode,
    /// Writes all groups, with shared syncs.
    Batch,
    /// Changes all files of a group as one.
    UpdateMany,
    CommitAll,
    /// As one.
    DeleteAll,
}

pub const REPLACE: Program = Program {
    name: "replace",
    groups: &[&["file"]],
    dirs: &[],
    locks_elsewhere: false,
    prepared: Some(1),
    verbs: &[Verb::Write(0), Verb::WriteLittle(0), Verb::Update],
};

pub const CREATE: Program = Program {
    name: "create",
    groups: &[&["first"], &["second"]],
    dirs: &[],
    locks_elsewhere: false,
    prepared: None,
    verbs: &[Verb::Write(0), Verb::Write(1)],
};

pub static PROGRAMS: [Program; 9] = [
    CREATE,
    REPLACE,
    Program {
        name: "delete",
        groups: &[&["file"]],
        dirs: &[],
        locks_elsewhere: true,
        prepared: Some(1),
        verbs: &[Verb::Delete, Verb::Write(0), Verb::Delete],
    },
    Program {
        name: "set mode",
        groups: &[&["file"]],
        dirs: &[],
        locks_elsewhere: false,
        prepared: Some(1),
        verbs: &[Verb::SetMode, Verb::SetMode],
    },
    Program {
        name: "new directories",
        groups: &[&["one/two/file"], &["one/three/file"]],
        dirs: &[],
        locks_elsewhere: false,
        prepared: None,
        verbs: &[Verb::Write(0), Verb::Write(1)],
    },
    Program {
        name: "batch",
        groups: &[&["0"], &["1"], &["2"], &["3"], &["4"], &["5"], &["6"], &["7"]],
        dirs: &[],
        locks_elsewhere: false,
        prepared: Some(2),
        verbs: &[Verb::Batch, Verb::Batch],
    },
    Program {
        name: "2 files as one",
        groups: &[&["a/0", "a/1"]],
        dirs: &["a"],
        locks_elsewhere: false,
        prepared: Some(1),
        verbs: &[Verb::UpdateMany, Verb::CommitAll],
    },
    Program {
        name: "6 files as one, 6 directories",
        groups: &[&["a/0", "b/1", "c/2", "d/3", "e/4", "f/5"]],
        dirs: &["a", "b", "c", "d", "e", "f"],
        locks_elsewhere: false,
        prepared: Some(1),
        verbs: &[Verb::UpdateMany, Verb::CommitAll],
    },
    // The first of them is absent before.
    Program {
        name: "files removed as one",
        groups: &[&["a/0", "b/1", "b/2"]],
        dirs: &["a", "b"],
        locks_elsewhere: true,
        prepared: Some(1),
        verbs: &[Verb::DeleteAll],
    },
];

/// The writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    Adapter,
    /// Repeats a failed sync until it succeeds. It can only write.
    RepeatsSyncs,
}

/// What a call has reported about its change of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    Done,
    /// An error after which nothing has happened.
    Nothing,
    /// An error after which the change has happened, and a power cut may undo it.
    NotDurable,
    /// An error after which the change may have happened or not.
    Unknown,
}

/// A change of a group, and what the call reported.
pub struct Attempt {
    pub group: usize,
    pub new: Versions,
    pub said: Said,
    /// The error's message.
    pub error: Option<String>,
    /// Another program's sync has failed between the last change and the last sync.
    pub another_was_told: bool,
}

/// All attempts of a run.
#[derive(Default)]
pub struct History {
    /// The first version of each group.
    pub first: Vec<Versions>,
    /// In the order of their numbers in the log.
    pub attempts: Vec<Attempt>,
}

impl History {
    /// The versions of a group in their order, each with the number of its attempt.
    pub fn of(&self, group: usize) -> impl Iterator<Item = (&Versions, Option<usize>)> {
        let attempts = self.attempts.iter().enumerate().filter(move |(_, attempt)| attempt.group == group);
        [(&self.first[group], None)].into_iter().chain(attempts.map(|(number, attempt)| (&attempt.new, Some(number))))
    }
}

impl Program {
    /// Whether a version of a file is its mode, in octal digits. The contents never change then.
    fn is_of_modes(&self) -> bool {
        matches!(self.verbs[0], Verb::SetMode)
    }

    /// The version of a group that this attempt makes. If the group has several files, some are removed each time.
    fn version(&self, group: usize, attempt: usize, size: usize) -> Versions {
        let files = self.groups[group];
        if self.is_of_modes() {
            return vec![Some(digits(mode_of(attempt)))];
        }
        let is_absent = |n: usize| files.len() > 1 && (n + attempt) % 3 == 0;
        let version = |(n, path): (usize, &&str)| (!is_absent(n)).then(|| contents(path, attempt, size));
        files.iter().enumerate().map(version).collect()
    }

    pub fn prepare(&self, root: &Path) -> History {
        fs::write(root.join(UNRELATED), "start").unwrap();
        self.dirs.iter().for_each(|dir| fs::create_dir(root.join(dir)).unwrap());
        let mut history = History::default();
        for (number, group) in self.groups.iter().enumerate() {
            let is_there = self.prepared.is_some_and(|every| number % every == 0);
            let first = if is_there { self.version(number, 0, 6000) } else { vec![None; group.len()] };
            for (path, contents) in group.iter().zip(&first) {
                contents.iter().for_each(|contents| fs::write(root.join(path), contents).unwrap());
                if self.is_of_modes() {
                    fs::set_permissions(root.join(path), Permissions::from_mode(mode_of(0))).unwrap();
                }
            }
            history.first.push(first);
        }
        history
    }

    pub fn adapter(&self, root: &Path) -> AtomicFileAdapter {
        let dir = if self.locks_elsewhere { root.with_file_name(LOCKS) } else { root.join(LOCKS) };
        AtomicFileAdapter::with_lock_dir(dir).unwrap()
    }

    /// Reads files that are changed as one together, through the crate, which finishes a decided change first.
    pub fn read(&self, root: &Path, files: Group) -> io::Result<Versions> {
        if let [path] = files {
            let path = root.join(path);
            return match fs::read(&path) {
                Ok(contents) if self.is_of_modes() && contents != digits(mode_of(0)) => {
                    Err(io::Error::other(format!("{} has other contents", path.display())))
                }
                Ok(_) if self.is_of_modes() => {
                    Ok(vec![Some(digits(fs::metadata(path)?.permissions().mode() & 0o7777))])
                }
                Ok(contents) => Ok(vec![Some(contents)]),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![None]),
                Err(error) => Err(error),
            };
        }
        let guards = self.adapter(root).lock_many_shared(files.iter().map(|path| root.join(path)))?;
        guards.iter().map(|guard| Ok(guard.read()?)).collect()
    }
}

/// Another one for each attempt.
fn mode_of(attempt: usize) -> u32 {
    0o600 + u32::try_from(attempt).unwrap()
}

fn digits(mode: u32) -> Vec<u8> {
    format!("{mode:o}").into_bytes()
}

/// A program that runs on the mounted file system.
pub struct Run<'a> {
    pub program: &'a Program,
    pub writer: Writer,
    pub commits: Commits,
    pub root: &'a Path,
    pub disk: &'a Disk,
    pub history: History,
    /// The present version of each group.
    pub now: Vec<Versions>,
    /// What readers saw just after a call, if it contradicts the call's report.
    pub contradictions: Vec<String>,
    /// How many reads returned an error.
    pub unreadable: usize,
}

impl Run<'_> {
    pub fn operate(&mut self) {
        let adapter = self.program.adapter(self.root);
        // A handle keeps the directory open. After a shutdown of the file system nobody can open the directory any
        // more.
        let first = adapter.file(self.root.join(self.program.groups[0][0])).unwrap();
        let files = (&adapter, &first);
        let mut failed = false;
        for &verb in self.program.verbs {
            // The second time, as a program that tries again.
            if !self.attempt(files, verb) {
                failed = true;
                self.attempt(files, verb);
            }
        }
        // There may have been no second write yet.
        if failed {
            self.attempt(files, self.program.verbs[0]);
        }
    }

    /// Makes an attempt. Returns whether it succeeded.
    fn attempt(&mut self, files: (&AtomicFileAdapter, &AtomicFile), verb: Verb) -> bool {
        let groups = match verb {
            Verb::Write(group) | Verb::WriteLittle(group) => group..group + 1,
            Verb::Batch => 0..self.program.groups.len(),
            Verb::Update | Verb::Delete | Verb::SetMode | Verb::UpdateMany | Verb::CommitAll | Verb::DeleteAll => 0..1,
        };
        let first = self.history.attempts.len();
        let changes: Vec<(usize, Versions)> =
            groups.zip(first..).map(|(group, attempt)| (group, self.contents_for(verb, group, attempt))).collect();
        for attempt in first..first + changes.len() {
            self.disk.mark(Event::Begin(attempt));
        }
        let (result, another_was_told) = self.meddled(|| self.make(files, verb, &changes));
        let error = result.as_ref().err().map(ToString::to_string);
        let mut all_said = vec![None; self.program.groups.len()];
        for (number, (group, new)) in changes.into_iter().enumerate() {
            let path = self.root.join(self.program.groups[group][0]);
            let said = result.as_ref().err().map_or(Said::Done, |error| error.said(&path));
            let ended = if said == Said::Done { Event::Acknowledged } else { Event::Failed };
            self.disk.mark(ended(first + number));
            all_said[group] = Some((said, new.clone()));
            self.history.attempts.push(Attempt { group, new, said, error: error.clone(), another_was_told });
        }
        for (group, said) in all_said.iter().enumerate() {
            self.look(group, said.as_ref().map(|(said, new)| (*said, new)));
        }
        result.is_ok()
    }

    fn contents_for(&self, verb: Verb, group: usize, attempt: usize) -> Versions {
        match verb {
            Verb::Delete | Verb::DeleteAll => vec![None; self.program.groups[group].len()],
            Verb::WriteLittle(_) => self.program.version(group, attempt + 1, 300),
            // Version 0 existed before.
            _ => self.program.version(group, attempt + 1, 6000),
        }
    }

    fn make(
        &self,
        (adapter, first): (&AtomicFileAdapter, &AtomicFile),
        verb: Verb,
        changes: &[(usize, Versions)],
    ) -> Result<(), Failed> {
        let (group, new) = &changes[0];
        let paths: Vec<PathBuf> = self.program.groups[*group].iter().map(|path| self.root.join(path)).collect();
        let contents = || new[0].as_deref().unwrap_or_default();
        if self.writer == Writer::RepeatsSyncs {
            return write_and_repeat_syncs(&paths[0], contents()).map_err(Failed::Other);
        }
        let made = match verb {
            Verb::Write(_) | Verb::WriteLittle(_) => adapter.write_atomic(&paths[0], contents()),
            Verb::Update => first.update(|_| contents().to_owned()),
            Verb::Delete => first.delete().map(drop),
            Verb::SetMode => {
                let mode = u32::from_str_radix(std::str::from_utf8(contents()).unwrap(), 8).unwrap();
                let set = first.lock().and_then(|guard| guard.set_mode(mode));
                return set.map(drop).map_err(Failed::Mode);
            }
            Verb::Batch => {
                let mut batch = adapter.batch();
                for (group, new) in changes {
                    add(&mut batch, &self.root.join(self.program.groups[*group][0]), new[0].as_ref());
                }
                batch.commit()
            }
            Verb::UpdateMany => adapter.update_many(paths, |_| new.clone()),
            Verb::CommitAll | Verb::DeleteAll => {
                let mut batch = adapter.batch();
                paths.iter().zip(new).for_each(|(path, new)| add(&mut batch, path, new.as_ref()));
                batch.commit_all()
            }
        };
        made.map_err(Failed::Adapter)
    }

    /// If wanted, commits the journal before each step, as other programs may do. Such a commit's sync may be the one
    /// that fails. Also returns whether that came between the last change and the last sync.
    fn meddled<R>(&self, body: impl FnOnce() -> R) -> (R, bool) {
        let (commits, unrelated) = (self.commits, self.root.join(UNRELATED));
        // Nothing changes between the last change of a mode and its sync.
        let (of_modes, last_sync) = (self.program.is_of_modes(), |call: &Call<'_>| call.syscall == Syscall::Fsync);
        let failed_before = Rc::new(Cell::new(None));
        let failed = failed_before.clone();
        let decide = move |call: &Call<'_>| {
            if commits == Commits::Everywhere && changes_or_follows(call) && commit(&unrelated).is_err() {
                let is_after = if of_modes { last_sync(call) } else { changes_nothing(call) };
                failed.set(failed.get().or(Some(is_after)));
            }
            Action::Proceed
        };
        (inject(decide, body).0, failed_before.get() == Some(true))
    }

    /// Reads a group just after a call that has reported this.
    fn look(&mut self, group: usize, said: Option<(Said, &Versions)>) {
        let files = self.program.groups[group];
        let seen = match self.program.read(self.root, files) {
            Ok(seen) => seen,
            Err(_) => {
                self.unreadable += 1;
                if let Some((Said::Done | Said::NotDurable, new)) = said {
                    self.now[group] = new.clone();
                }
                return;
            }
        };
        let now = &self.now[group];
        let is_right = match said {
            None | Some((Said::Nothing, _)) => seen == *now,
            Some((Said::Done | Said::NotDurable, new)) => seen == *new,
            Some((Said::Unknown, new)) => seen == *new || seen == *now,
        };
        if !is_right {
            let said = said.map(|(said, _)| said);
            self.contradictions.push(format!("{files:?} is not what was said ({said:?})"));
        }
        self.now[group] = seen;
    }
}

enum Failed {
    Adapter(Error),
    /// From the change of a mode.
    Mode(Error),
    Other(io::Error),
}

impl Failed {
    /// What an error reports about the change of the file at this path.
    fn said(&self, path: &Path) -> Said {
        match self {
            Failed::Adapter(Error::NotDurable { .. }) => Said::NotDurable,
            Failed::Adapter(Error::Batch { replaced, .. }) if replaced.iter().any(|it| it == path) => Said::NotDurable,
            // What fails then is no temporary file's sync.
            Failed::Mode(Error::Io { step: Step::Sync, .. }) => Said::NotDurable,
            Failed::Adapter(Error::Unfinished { .. }) | Failed::Other(_) => Said::Unknown,
            Failed::Adapter(_) | Failed::Mode(_) => Said::Nothing,
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failed::Adapter(error) | Failed::Mode(error) => error.fmt(f),
            Failed::Other(error) => error.fmt(f),
        }
    }
}

fn add(batch: &mut Batch, path: &Path, new: Option<&Vec<u8>>) {
    match new {
        Some(new) => batch.write(path, new.clone()),
        None => batch.delete(path),
    };
}

/// How often a sync is tried.
const TRIES: usize = 3;

/// The wrong way: repeats a failed sync and believes it.
fn write_and_repeat_syncs(path: &Path, contents: &[u8]) -> io::Result<()> {
    let sync = |file: &File| {
        let mut synced = file.sync_all();
        for _ in 1..TRIES {
            if synced.is_err() {
                synced = file.sync_all();
            }
        }
        synced
    };
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(contents)?;
    sync(&file)?;
    fs::rename(&temporary, path)?;
    sync(&File::open(path.parent().unwrap())?)
}

/// Whether this call is the sync of a directory, or comes between the rename and that sync.
fn changes_nothing(call: &Call<'_>) -> bool {
    // fstat fails if the file system was shut down.
    let is_directory = |fd| fcntl(fd, FcntlArg::F_GETFL).is_ok_and(|flags| flags & libc::O_DIRECTORY != 0);
    match call.syscall {
        Syscall::Close => true,
        Syscall::Fsync => call.fd.is_some_and(is_directory),
        _ => false,
    }
}

fn commit(unrelated: &Path) -> io::Result<()> {
    let mut file = File::options().append(true).open(unrelated)?;
    file.write_all(b"+")?;
    file.sync_all()
}
