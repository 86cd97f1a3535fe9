//! Finding and finishing a change of several files that a dead process decided. `draft.rs` decides a change, `work.rs`
//! makes it.
//!
//! A change is decided when the intent is renamed to its final name in the lock directory. Before that, every lock file
//! gets a mark, which is that name, and everything that the intent names is synced. So the next holder of one of the
//! locks sees the mark, takes all the locks, and finishes the change. The order at the end is strict, too: first the
//! files are changed, then the intent is removed, then the marks. If a mark were removed before the intent, another
//! process could write a newer version of that file. A process that finds the intent through another mark would then
//! change the newer version.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dir::GROUP_OR_OTHERS_WRITE;
use super::work::{Dirs, End, Recovery, Work};
use super::{Held, Lock, LockDir, Patience, c_path, take_all};
use crate::error::{Error, Removed, Result, Step};
use crate::protocol::intent::{Change, Intent, LARGEST, Unreadable, is_intent_name};
use crate::protocol::lock_contents::is_marked;
use crate::sys::{self, Errno, LockMode};

/// Looks at the marks of these lock files. One call has taken their locks, and `held` is in the order of `locks`.
/// `None`: there was a change to finish, and all of these locks were released for that.
pub(super) fn heed_marks(
    locks: &[&Lock],
    held: Vec<Held>,
    mode: LockMode,
    patience: &Patience<'_>,
) -> Result<Option<Vec<Held>>> {
    let marked = locks.iter().zip(&held).filter(|(_, held)| is_marked(held.size));
    let Some((lock, name, found)) =
        marked.map(|(lock, held)| heed_mark(lock, held, mode)).find_map(Result::transpose).transpose()?
    else {
        return Ok(Some(held));
    };
    // If the thread holds other locks as well, it must not wait for the intent's locks: two threads could wait for each
    // other. It only tries. If a lock is not free, it waits for its own locks again, because the process that is in the
    // way releases them soon.
    let has_others = held.first().is_some_and(|one| one.caller.holds() > held.len());
    drop(held);
    let try_only = Patience::none();
    let finished = finish_under_locks(&lock.dir, &name, &found, if has_others { &try_only } else { patience }, false);
    match finished {
        Ok(_) => Ok(None),
        Err(Error::WouldBlock { .. }) if has_others && !patience.is_none() => Ok(None),
        Err(
            error @ (Error::WouldBlock { .. } | Error::Timeout { .. } | Error::Deadlock { .. } | Error::Forked { .. }),
        ) => Err(error),
        Err(error) => Err(lock.dir.unfinished(&lock.guarded, &name, error)),
    }
}

/// Finds the change that has to be finished before the file is used. `None`: there is none. The mark is removed where
/// that is possible.
fn heed_mark<'a>(lock: &'a Lock, held: &Held, mode: LockMode) -> Result<Option<(&'a Lock, CString, Found)>> {
    let dir = &lock.dir;
    let mark = held.mark().map_err(|error| Error::io(&lock.path, Step::ReadIntent, error))?;
    let found = match &mark {
        Some(name) => look(dir, name).map_err(|error| dir.unfinished(&lock.guarded, name, error))?,
        None => None,
    };
    // An intent that does not name this file does not count, whoever wrote the mark.
    let is_about_it = |found: &Found| found.locks.iter().any(|it| it.path == lock.path);
    if let Some((name, found)) = mark.zip(found.filter(is_about_it)) {
        return Ok(Some((lock, name, found)));
    }
    // A reader that cannot write to the lock file leaves the mark to writers. An old intent does no harm to a reader.
    if mode == LockMode::Shared && !held.may_clear_mark() {
        return Ok(None);
    }
    // Nobody can decide a change of this file now, because this thread holds its lock. But the process that finished
    // the change may have died before it synced the removal of the intent. A power cut could then bring the intent
    // back, and it would be carried out on newer versions.
    match dir.open_itself().and_then(|at| dir.sync(&at)) {
        Ok(()) => held.clear_mark(),
        // A user who may not list the directory cannot sync it, so the mark stays.
        Err(error) if mode == LockMode::Shared || error.kind() == io::ErrorKind::PermissionDenied => {}
        Err(error) => return Err(error),
    }
    Ok(None)
}

/// An intent and the locks of its files.
#[derive(Debug)]
struct Found {
    intent: Intent,
    locks: Vec<Lock>,
}

/// `None`: there is no such intent, or it was never decided.
fn look(dir: &Arc<LockDir>, name: &CStr) -> Result<Option<Found>> {
    let Some((intent, _)) = read(dir, name)? else { return Ok(None) };
    let lock_of = |change: &Change| Lock::of(dir, &Arc::from(dir.real_path(&change.named())?));
    let locks = intent.changes.iter().map(lock_of).collect::<Result<_>>()?;
    Ok(Some(Found { intent, locks }))
}

/// Reads the intent, without its locks. The user is its owner, if only the owner can have written it.
fn read(dir: &LockDir, name: &CStr) -> Result<Option<(Intent, Option<u32>)>> {
    let path = dir.path_of(name);
    let failed = |error: Errno| Error::io(&path, Step::ReadIntent, error);
    let file = match sys::open_read(sys::cwd(), &c_path(&path)?) {
        Ok(file) => file,
        // ELOOP: it is a symbolic link, and an intent is none.
        Err(Errno::NOENT | Errno::STALE | Errno::LOOP) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let meta = sys::stat_open(&file).map_err(failed)?;
    if meta.special.is_some() || meta.size > LARGEST {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(meta.size).unwrap_or(0) + 1);
    while sys::read(&file, &mut bytes).map_err(failed)? > 0 {
        bytes.reserve(1);
    }
    match Intent::parse(&bytes) {
        // The owner counts only if others cannot write to the intent, and if it is not a copy. A lock file under an
        // intent's name could be written by others.
        Ok(intent) => {
            let is_own = meta.mode & GROUP_OR_OTHERS_WRITE == 0 && meta.ino == intent.inode;
            Ok(Some((intent, is_own.then_some(meta.uid))))
        }
        // A decided intent is complete. After a power cut, an intent that was not synced can be torn.
        Err(Unreadable::Torn) => Ok(None),
        Err(Unreadable::Unknown) => {
            let why = "it is complete, but this version cannot read it: a later version can finish it or give it up; if none \
                       has written it, look at the files and remove it";
            Err(Error::io(&path, Step::ReadIntent, io::Error::new(io::ErrorKind::Unsupported, why)))
        }
    }
}

/// Takes the locks of the intent's files and finishes the change. If `give_up`, it returns the files that it could not
/// finish. `None`: another process has finished the change.
fn finish_under_locks(
    dir: &Arc<LockDir>,
    name: &CStr,
    found: &Found,
    patience: &Patience<'_>,
    give_up: bool,
) -> Result<Option<Vec<PathBuf>>> {
    let locks: Vec<&Lock> = found.locks.iter().collect();
    let held = take_all(&locks, LockMode::Exclusive, patience).map_err(|error| error.for_files(locks.len()))?;
    // Read again: from now on only programs that ignore the locks can change the intent.
    let Some((intent, owner)) = read(dir, name)?.filter(|(intent, _)| *intent == found.intent) else { return Ok(None) };
    let mut marked = Vec::with_capacity(held.len());
    for held in &held {
        held.check_kept(false)?;
        let mark = held.mark().map_err(|error| Error::io(&held.guarded, Step::ReadIntent, error))?;
        marked.push(mark.as_deref() == Some(name));
    }
    let at = dir.open_itself()?;
    let device = sys::stat_open(&at).map_err(|error| Error::io(dir.path(), Step::SyncLocks, error))?.dev;
    let found_by = Some(Recovery { owner, me: sys::effective_uid(), marked });
    let held: Vec<&Held> = held.iter().collect();
    let mut work = Work {
        dir,
        at: &at,
        device,
        name,
        intent: &intent,
        held: &held,
        dirs: &mut Dirs::default(),
        found_by,
        end: End::NotYet,
    };
    work.finish(give_up).map(Some).map_err(|error| error.for_files(held.len()))
}

/// Finishes every intent in the lock directory. If one cannot be finished, it goes on with the next.
pub(crate) fn recover<'a>(dir: &Arc<LockDir>, patience: impl Fn() -> Patience<'a>) -> Result<Vec<PathBuf>> {
    let mut done = Removed::default();
    for path in dir.intents()? {
        let name = name_of(&path)?;
        let recovered = finish_one(dir, &name, &patience(), false).map(|left| left.is_some());
        done.note(path, recovered);
    }
    done.into_result()
}

/// Finishes as many files of an intent as it can, and removes the intent. Returns the files that it could not finish.
pub(crate) fn give_up(dir: &Arc<LockDir>, intent: &Path, patience: &Patience<'_>) -> Result<Vec<PathBuf>> {
    let is_here = match intent.parent() {
        None => false,
        Some(above) if above.as_os_str().is_empty() => true,
        Some(above) => sys::stat_follow(sys::cwd(), above).is_ok_and(|above| dir.is_that(&above)),
    };
    if !is_here {
        return Err(Error::InvalidPath {
            path: intent.to_owned(),
            reason: "it is not in the lock directory, as an intent is; `locks` and `intents` list them",
        });
    }
    finish_one(dir, &name_of(intent)?, patience, true).map(Option::unwrap_or_default)
}

fn name_of(intent: &Path) -> Result<CString> {
    let name = intent.file_name().unwrap_or_default().as_bytes();
    let c_name = CString::new(name).ok().filter(|name| is_intent_name(name.to_bytes()));
    c_name.ok_or_else(|| Error::InvalidPath {
        path: intent.to_owned(),
        reason: "it is not the name of an intent; `locks` and `intents` list them",
    })
}

/// `None`: another process has finished the change.
fn finish_one(dir: &Arc<LockDir>, name: &CStr, patience: &Patience<'_>, give_up: bool) -> Result<Option<Vec<PathBuf>>> {
    let path = dir.path_of(name);
    match look(dir, name) {
        Ok(Some(found)) => finish_under_locks(dir, name, &found, patience, give_up).map_err(|error| {
            match found.intent.changes.first() {
                Some(first) => dir.unfinished(&dir.real(&first.named()).unwrap_or_else(|| first.named()), name, error),
                None => error,
            }
        }),
        // Nobody decided this change. Marks with its name are removed by the next holders of those locks.
        Ok(None) => match sys::unlink(sys::cwd(), &c_path(&path)?) {
            Ok(()) => Ok(Some(Vec::new())),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(Error::io(&path, Step::ReadIntent, error)),
        },
        Err(error) => Err(error),
    }
}

/// The intents in the lock directory, each with its files.
pub(crate) fn list(dir: &Arc<LockDir>) -> Result<Vec<(PathBuf, Result<Vec<PathBuf>>)>> {
    let mut intents = Vec::new();
    for path in dir.intents()? {
        let files = read(dir, &name_of(&path)?).map(|found| {
            let changes = found.map(|(intent, _)| intent.changes).unwrap_or_default();
            changes.iter().map(|change| dir.real(&change.named()).unwrap_or_else(|| change.named())).collect()
        });
        intents.push((path, files));
    }
    Ok(intents)
}
