//! Carries out an intent: for the process that decided the change, and for a process that finds the intent later.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Component, Path, PathBuf};

use super::{Held, LockDir};
use crate::error::{Error, Result, Step};
use crate::protocol::intent::{FileId, Intent};
use crate::sys::{self, Errno, Fd, Links, Meta};

/// The open directories of an intent's files.
#[derive(Debug, Default)]
pub(crate) struct Dirs(HashMap<PathBuf, OpenDir>);

#[derive(Debug)]
pub(crate) struct OpenDir {
    pub(crate) fd: Fd,
    pub(crate) meta: Meta,
    pub(crate) id: FileId,
    /// A file in this directory, for error messages.
    pub(crate) path: PathBuf,
}

impl Dirs {
    /// Opens a directory by its real path and follows no link. Somebody may have put a link there since, and it must
    /// not lead the change to another place.
    pub(crate) fn open(&mut self, real: &Path, file: &Path) -> Result<&OpenDir> {
        if !self.0.contains_key(real) {
            let failed = |error: Errno| Error::io(file, Step::FinishChange, error);
            let fd = open_without_links(real).map_err(failed)?;
            let meta = sys::stat_open(&fd).map_err(failed)?;
            let id = sys::inode_and_birth(fd.as_fd(), c"").map_err(failed)?.into();
            self.0.insert(real.to_owned(), OpenDir { fd, meta, id, path: file.to_owned() });
        }
        self.0.get(real).ok_or_else(|| Error::io(file, Step::FinishChange, Errno::NOENT))
    }

    pub(crate) fn get(&self, real: &Path) -> Option<&OpenDir> {
        self.0.get(real)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &OpenDir> {
        self.0.values()
    }
}

fn open_without_links(real: &Path) -> sys::Result<Fd> {
    if let Some(fd) = sys::open_dir_without_links(real) {
        return Ok(fd);
    }
    let names: Vec<&OsStr> =
        real.components().filter_map(|it| if let Component::Normal(name) = it { Some(name) } else { None }).collect();
    let Some((last, above)) = names.split_last() else { return sys::open_dir(sys::cwd(), c"/", Links::Follow) };
    let mut at = sys::open_search_only(sys::cwd(), c"/", Links::Follow)?;
    for name in above {
        at = sys::open_search_only(at.as_fd(), *name, Links::Refuse)?;
    }
    match sys::open_dir(at.as_fd(), *last, Links::Refuse) {
        Err(Errno::ACCESS) => sys::open_search_only(at.as_fd(), *last, Links::Refuse),
        opened => opened,
    }
}

/// An intent that is being carried out. All of its locks are held.
pub(super) struct Work<'a> {
    pub(super) dir: &'a LockDir,
    /// The lock directory.
    pub(super) at: &'a Fd,
    /// The device that it is on.
    pub(super) device: u64,
    pub(super) name: &'a CStr,
    pub(super) intent: &'a Intent,
    /// The locks, in the order of the intent's changes.
    pub(super) held: &'a [&'a Held],
    pub(super) dirs: &'a mut Dirs,
    /// `None`: this process has just decided the change.
    pub(super) found_by: Option<Recovery>,
    pub(super) end: End,
}

/// The state of an intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    NotYet,
    /// The change was made or given up, and the intent was removed. If the sync failed, a power cut may bring the
    /// intent back.
    Removed(sys::Result<()>),
    /// The change was taken back before any file was changed. If the sync failed, a power cut may bring the intent
    /// back.
    TakenBack(sys::Result<()>),
}

/// What is known about an intent that another process may have decided.
pub(super) struct Recovery {
    /// The user who decided the change. `None`: unknown, because other users may write to the intent, or
    /// it is a copy.
    pub(super) owner: Option<u32>,
    pub(super) me: u32,
    /// Which lock files have the mark of this intent. The mark is missing if somebody shortened the lock file, or if a
    /// power cut brought an old intent back.
    pub(super) marked: Vec<bool>,
}

impl Work<'_> {
    /// Makes the changes. If `give_up`, it goes on after errors and returns the files that it could not finish.
    pub(super) fn finish(&mut self, give_up: bool) -> Result<Vec<PathBuf>> {
        // The process that decided this change may have died before it synced the intent. Without a durable intent, a
        // power cut could leave the change half done.
        if self.intent.full && self.found_by.is_some() {
            self.dir.sync(self.at)?;
        }
        let mut left = Vec::new();
        let mut first = None;
        for n in 0..self.intent.changes.len() {
            if let Err(error) = self.apply(n) {
                if n == 0 && self.found_by.is_none() && self.undecide() {
                    return Err(error);
                }
                first.get_or_insert(error);
                left.push(self.held[n].guarded.to_path_buf());
            }
        }
        if let Some(error) = first.filter(|_| !give_up) {
            return Err(error);
        }
        if self.intent.full {
            let (is_found, home) = (self.found_by.is_some(), self.device);
            // If one sync fails, the other directories are synced all the same.
            let sync = |dir: &OpenDir| {
                let synced = sys::sync_dir(&dir.fd).and_then(|()| {
                    // Another process may have been told that the changes are lost: the one that made them, or one that
                    // synced something else. Then this sync proves nothing. On a dead file system the removal of the
                    // intent fails, but the lock directory may be on another one.
                    if is_found || dir.meta.dev != home { sys::prove_alive(&dir.fd) } else { Ok(()) }
                });
                synced.map_err(|error| Error::NotDurable { path: dir.path.clone(), source: error.into() })
            };
            let synced = self.dirs.all().map(sync).fold(Ok(()), Result::and);
            // A change that is given up ends, even if its file system is dead, or was mounted read-only.
            if !give_up {
                synced?;
            }
        }
        self.remove(give_up).map(|()| left)
    }

    /// Takes the change back, while no file has been changed. False: the intent could not be removed.
    fn undecide(&mut self) -> bool {
        if !matches!(sys::unlink(self.at.as_fd(), self.name), Ok(()) | Err(Errno::NOENT)) {
            return false;
        }
        self.end = End::TakenBack(if self.intent.full { sys::sync_dir(self.at) } else { Ok(()) });
        true
    }

    fn apply(&mut self, n: usize) -> Result<()> {
        let change = &self.intent.changes[n];
        let path: &Path = &self.held[n].guarded;
        let failed = |error: Errno| Error::io(path, Step::FinishChange, error);
        let why = |why| Err(Error::io(path, Step::FinishChange, io::Error::other(why)));
        let dir = self.dirs.open(&self.dir.real_path(&change.dir)?, path)?;
        if !dir.id.is(change.dir_id) {
            return why("its directory is another one than when it was decided: it was moved, or made anew");
        }
        let at = dir.fd.as_fd();
        let make = || match &change.new {
            Some(new) => sys::rename(at, &new.temporary, &change.name),
            None => sys::unlink(at, &change.name),
        };
        let made = if self.found_by.is_none() { Some(make()) } else { None };
        if made == Some(Ok(())) {
            return Ok(());
        }
        // A server may have made the change and reported an error, so the look at the file decides.
        let now = which(at, &change.name).map_err(failed)?;
        let is_old = match (now, change.old) {
            (Some(now), Some(old)) => now.is(old),
            (now, old) => now.is_none() && old.is_none(),
        };
        let is_marked = self.found_by.as_ref().is_none_or(|recovery| recovery.marked[n]);
        let temporary = match &change.new {
            Some(new) => {
                stat(at, &new.temporary).map_err(failed)?.filter(|it| it.ino == new.inode && it.special.is_none())
            }
            None => None,
        };
        let is_left = match &change.new {
            // Without its mark, the lock file no longer belongs to this change. The file is replaced only if it is
            // still the old version.
            Some(_) if temporary.is_some() => is_marked || is_old,
            Some(_) if is_old && is_marked => {
                return why(
                    "its new version is gone: somebody has removed the temporary file before it could be renamed",
                );
            }
            // The new version was renamed into place. Later, a program without the lock may have replaced it.
            Some(_) => false,
            // A file that is not the old version was put there later, and stays.
            None => now.is_some() && is_old && is_marked,
        };
        match (&self.found_by, made) {
            _ if !is_left => Ok(()),
            (Some(recovery), _) => {
                let now = stat(at, &change.name).map_err(failed)?;
                recovery.check_right(dir, temporary, now, path)?;
                make().map_err(failed)
            }
            (None, made) => made.unwrap_or(Ok(())).map_err(failed),
        }
    }

    /// Removes the intent first, and the marks after it. The sync makes the removal durable. Otherwise a power cut
    /// could bring the intent back when the files have newer versions. If the sync fails, the marks stay, and the next
    /// holder of a lock syncs again.
    fn remove(&mut self, give_up: bool) -> Result<()> {
        match sys::unlink(self.at.as_fd(), self.name) {
            Ok(()) | Err(Errno::NOENT) => {
                let synced = if self.intent.full { sys::sync_dir(self.at) } else { Ok(()) };
                if synced.is_ok() {
                    self.clear_marks();
                }
                self.end = End::Removed(synced);
                Ok(())
            }
            // In a directory with the sticky bit, only the owner of the intent may remove it. All changes of the intent
            // are made, so it can stay without marks.
            Err(Errno::PERM | Errno::ACCESS) if self.found_by.is_some() && !give_up => {
                self.clear_marks();
                if self.intent.full { self.held.iter().try_for_each(|held| held.sync()) } else { Ok(()) }
            }
            Err(error) => Err(Error::io(&self.dir.path_of(self.name), Step::ReadIntent, error)),
        }
    }

    /// Removes the marks of this intent. A lock file with the mark of another intent keeps it: that change is not
    /// finished.
    fn clear_marks(&self) {
        let is_own = |n: usize| self.found_by.as_ref().is_none_or(|recovery| recovery.marked[n]);
        self.held.iter().enumerate().filter(|(n, _)| is_own(*n)).for_each(|(_, held)| held.clear_mark());
    }
}

impl Recovery {
    /// Checks that the owner of the intent could have made this change himself. In a shared lock directory, no user may
    /// make root or another user do what he may not do himself.
    fn check_right(&self, dir: &OpenDir, temporary: Option<Meta>, now: Option<Meta>, path: &Path) -> Result<()> {
        let owns = |meta: &Meta| Some(meta.uid) == self.owner;
        // The owner's temporary file shows that he may make files in this directory. So he may rename and remove his
        // own files there, and without the sticky bit all files.
        let may_write = temporary.as_ref().is_some_and(owns);
        let is_his = !dir.meta.is_sticky() || now.as_ref().is_none_or(owns);
        let is_trusted = self.owner == Some(0) || self.owner == Some(self.me);
        if is_trusted || owns(&dir.meta) || (may_write && is_his) {
            return Ok(());
        }
        let why = match self.owner {
            Some(owner) => format!(
                "user {owner} has decided it, and nothing shows that he may change this directory: he can finish it, or root can \
                 give it up"
            ),
            None => {
                "nobody knows who has decided it: others than its owner may write to the intent, or it is a copy of one"
                    .into()
            }
        };
        Err(Error::io(path, Step::FinishChange, io::Error::new(io::ErrorKind::PermissionDenied, why)))
    }
}

fn stat(at: BorrowedFd<'_>, name: &CStr) -> sys::Result<Option<Meta>> {
    match sys::stat(at, name) {
        Ok(meta) => Ok(Some(meta)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn which(at: BorrowedFd<'_>, name: &CStr) -> sys::Result<Option<FileId>> {
    match sys::inode_and_birth(at, name) {
        Ok(found) => Ok(Some(found.into())),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}
