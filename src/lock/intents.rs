//! Changes of several files that are decided: finding and finishing what a dead process began. `draft.rs` decides one,
//! `work.rs` carries it out.
//!
//! A change is decided when its intent has its name in the lock directory. Before that all the lock files are marked with
//! that name, and what the intent speaks of is synced. So whoever takes one of the locks from then on is told by the lock
//! file, takes all of them, and goes on where the other one stopped. The order at the end is as strict: first the files,
//! then the intent goes, and the marks last. Were a mark gone before the intent, somebody could change that file, and the
//! intent, found by way of another mark, would be carried out on a version that it knows nothing of.

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

/// Heeds the marks of lock files whose locks were taken by one call, in the order of `locks`. `None`: there was something to
/// finish, and all of these locks were let go for it.
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
    // With other locks in its hands the thread must wait for none of these, or two could wait for each other. It waits for
    // its own again, of which whoever is in the way lets go soon.
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

/// What has to be finished before a file is looked at. `None`: nothing; the mark has been taken away.
fn heed_mark<'a>(lock: &'a Lock, held: &Held, mode: LockMode) -> Result<Option<(&'a Lock, CString, Found)>> {
    let dir = &lock.dir;
    let mark = held.mark().map_err(|error| Error::io(&lock.path, Step::ReadIntent, error))?;
    let found = match &mark {
        Some(name) => look(dir, name).map_err(|error| dir.unfinished(&lock.guarded, name, error))?,
        None => None,
    };
    // An intent that is not about this file is none of its business, whoever has put its name here.
    let is_about_it = |found: &Found| found.locks.iter().any(|it| it.path == lock.path);
    if let Some((name, found)) = mark.zip(found.filter(is_about_it)) {
        return Ok(Some((lock, name, found)));
    }
    // Whoever may only read the lock file leaves that to those who may write to it: a reader loses nothing by an old intent.
    if mode == LockMode::Shared && !held.may_clear_mark() {
        return Ok(None);
    }
    // Nobody can decide anything about the file now. But whoever has finished the change may have died before the removal
    // of its intent was synced, and it must not come back by a power cut over what is written from now on.
    match dir.open_itself().and_then(|at| dir.sync(&at)) {
        Ok(()) => held.clear_mark(),
        // For those who may not list the directory the mark stays.
        Err(error) if mode == LockMode::Shared || error.kind() == io::ErrorKind::PermissionDenied => {}
        Err(error) => return Err(error),
    }
    Ok(None)
}

/// An intent that is there, and the locks of its files.
#[derive(Debug)]
struct Found {
    intent: Intent,
    locks: Vec<Lock>,
}

/// `None`: there is none of this name, or one that nobody has decided.
fn look(dir: &Arc<LockDir>, name: &CStr) -> Result<Option<Found>> {
    let Some((intent, _)) = read(dir, name)? else { return Ok(None) };
    let lock_of = |change: &Change| Lock::of(dir, &Arc::from(dir.real_path(&change.named())?));
    let locks = intent.changes.iter().map(lock_of).collect::<Result<_>>()?;
    Ok(Some(Found { intent, locks }))
}

/// The same without the locks, with the user whose word it is.
fn read(dir: &LockDir, name: &CStr) -> Result<Option<(Intent, Option<u32>)>> {
    let path = dir.path_of(name);
    let failed = |error: Errno| Error::io(&path, Step::ReadIntent, error);
    let file = match sys::open_read(sys::cwd(), &c_path(&path)?) {
        Ok(file) => file,
        // ELOOP: a symbolic link is none of ours.
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
        // What others may write to, as a lock file that somebody has given this name, is nobody's word; nor is a copy.
        Ok(intent) => {
            let is_own = meta.mode & GROUP_OR_OTHERS_WRITE == 0 && meta.ino == intent.inode;
            Ok(Some((intent, is_own.then_some(meta.uid))))
        }
        // With its own name an intent is whole, unless a power cut has come over one that was not to survive it.
        Err(Unreadable::Torn) => Ok(None),
        Err(Unreadable::Newer) => {
            let why = "a later version of this crate has written it, and only such a one can finish it or give it up";
            Err(Error::io(&path, Step::ReadIntent, io::Error::new(io::ErrorKind::Unsupported, why)))
        }
    }
}

/// Takes the locks of an intent's files and finishes it. The files that could not be finished, if that is to be given up;
/// `None`: somebody else has finished it.
fn finish_under_locks(
    dir: &Arc<LockDir>,
    name: &CStr,
    found: &Found,
    patience: &Patience<'_>,
    give_up: bool,
) -> Result<Option<Vec<PathBuf>>> {
    let locks: Vec<&Lock> = found.locks.iter().collect();
    let held = take_all(&locks, LockMode::Exclusive, patience).map_err(|error| error.for_files(locks.len()))?;
    // Only now nobody changes it any more, at least nobody who keeps to the rules.
    let Some((intent, owner)) = read(dir, name)?.filter(|(intent, _)| *intent == found.intent) else { return Ok(None) };
    let mut marked = Vec::with_capacity(held.len());
    for held in &held {
        held.check_kept(false)?;
        let mark = held.mark().map_err(|error| Error::io(&held.guarded, Step::ReadIntent, error))?;
        marked.push(mark.as_deref() == Some(name));
    }
    let at = dir.open_itself()?;
    let found_by = Some(Recovery { owner, me: sys::effective_uid(), marked });
    let held: Vec<&Held> = held.iter().collect();
    let mut work = Work {
        dir,
        at: &at,
        name,
        intent: &intent,
        held: &held,
        dirs: &mut Dirs::default(),
        found_by,
        end: End::NotYet,
    };
    work.finish(give_up).map(Some).map_err(|error| error.for_files(held.len()))
}

/// Finishes every intent in the lock directory, one after the other, and goes on where one cannot be.
pub(crate) fn recover<'a>(dir: &Arc<LockDir>, patience: impl Fn() -> Patience<'a>) -> Result<Vec<PathBuf>> {
    let mut done = Removed::default();
    for path in dir.intents()? {
        let name = name_of(&path)?;
        let recovered = finish_one(dir, &name, &patience(), false).map(|left| left.is_some());
        done.note(path, recovered);
    }
    done.into_result()
}

/// Finishes what can be of an intent, and removes it. The files that could not be finished.
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

/// `None`: somebody else has finished it.
fn finish_one(dir: &Arc<LockDir>, name: &CStr, patience: &Patience<'_>, give_up: bool) -> Result<Option<Vec<PathBuf>>> {
    let path = dir.path_of(name);
    match look(dir, name) {
        Ok(Some(found)) => finish_under_locks(dir, name, &found, patience, give_up).map_err(|error| {
            match found.intent.changes.first() {
                Some(first) => dir.unfinished(&dir.real(&first.named()).unwrap_or_else(|| first.named()), name, error),
                None => error,
            }
        }),
        // Nobody has decided it, and whoever has its name in a lock file takes that away.
        Ok(None) => match sys::unlink(sys::cwd(), &c_path(&path)?) {
            Ok(()) => Ok(Some(Vec::new())),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(Error::io(&path, Step::ReadIntent, error)),
        },
        Err(error) => Err(error),
    }
}

/// The intents in the lock directory, and the files that each is about.
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
