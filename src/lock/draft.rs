//! Deciding a change of several files.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use super::work::{Dirs, End, Work};
use super::{Held, LockDir};
use crate::error::{Error, Result, Step};
use crate::protocol::intent::{Change, Intent, LARGEST, NAME_LEN, new_name};
use crate::protocol::lock_contents::MARK;
use crate::protocol::temporary_name::TemporaryName;
use crate::sys::{self, Errno, Fd};

/// A change that is written down. If it is dropped before it is decided, the files stay as they are.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    dir: &'a Arc<LockDir>,
    /// The lock directory.
    at: Fd,
    device: u64,
    /// In the order of the intent's changes.
    held: &'a [&'a Held],
    intent: Intent,
    name: CString,
    temporary: TemporaryName,
    file: Fd,
    /// Set when the change is decided: the result of the lock directory's sync.
    decided: Option<sys::Result<()>>,
    /// The removal of the intent may not be durable. With the marks in place, the next holder of a lock syncs it first.
    marks_stay: bool,
}

impl<'a> Draft<'a> {
    /// Writes an intent under a temporary name, and marks the lock files of its files. `lock_hash` is from the name of
    /// the first lock file.
    pub(crate) fn write(
        dir: &'a Arc<LockDir>,
        held: &'a [&'a Held],
        lock_hash: &[u8],
        full: bool,
        changes: Vec<Change>,
    ) -> Result<Self> {
        let failed = |error: Errno| Error::io(dir.path(), Step::WriteIntent, error);
        let at = dir.open_itself()?;
        if full && sys::is_in_memory(at.as_fd()) {
            return Err(in_memory(dir.path()));
        }
        if full && !sys::syncs_parents(at.as_fd()) {
            dir.make_durable()?;
        }
        let device = sys::stat_open(&at).map_err(failed)?.dev;
        let (name, temporary, file) = make(dir, &at, lock_hash).map_err(failed)?;
        let intent = Intent { inode: 0, full, changes };
        let mut draft =
            Draft { dir, at, device, held, intent, name, temporary, file, decided: None, marks_stay: false };
        draft.intent.inode = sys::stat_open(&draft.file).map_err(failed)?.ino;
        let bytes = draft.intent.to_bytes();
        let len = bytes.len() as u64;
        // Checked first, because a write past the limit ends the process with SIGXFSZ.
        if sys::file_size_limit() < (MARK + NAME_LEN as u64).max(len) || len > LARGEST {
            return Err(failed(Errno::FBIG));
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match sys::write(&draft.file, rest).map_err(failed)? {
                0 => return Err(failed(Errno::NOSPC)),
                written => rest = &rest[written..],
            }
        }
        for held in draft.held {
            let marked = held.set_mark(draft.name.to_bytes());
            marked.map_err(|error| Error::io(&held.guarded, Step::MarkLock, error))?;
        }
        Ok(draft)
    }

    /// The file of the intent, to be synced.
    pub(crate) fn file(&self) -> &Fd {
        &self.file
    }

    /// The lock directory, to be synced.
    pub(crate) fn lock_dir(&self) -> &Fd {
        &self.at
    }

    /// The device of the intent and the lock directory.
    pub(crate) fn device(&self) -> u64 {
        self.device
    }

    /// Decides the change. If it has to survive a power cut, the caller has synced everything that the intent names. `dirs`
    /// are the directories of its files.
    pub(crate) fn decide(&mut self, dirs: &Dirs) -> Result<()> {
        self.held.iter().try_for_each(|held| held.check_kept(false))?;
        let failed = |error: Errno| Error::io(self.dir.path(), Step::WriteIntent, error);
        if let Err(error) = sys::rename(self.at.as_fd(), self.temporary.get(), &self.name) {
            // A server may have made the rename and reported an error.
            return match sys::unlink(self.at.as_fd(), &self.name) {
                Err(Errno::NOENT) => Err(failed(error)),
                Ok(()) => {
                    self.marks_stay = true;
                    Err(failed(error))
                }
                Err(_) => {
                    let failed = failed(error);
                    self.decided = Some(Err(error));
                    Err(self.dir.unfinished(self.path(), &self.name, failed))
                }
            };
        }
        // From here on the change can only go forward. If this sync fails, the change is still made, because others can
        // see the intent. A power cut may undo it.
        let is_apart = dirs.all().any(|dir| dir.meta.dev != self.device);
        let sync = || {
            sys::sync_dir(&self.at)?;
            // Another program may have been told that the rename is lost.
            if is_apart { sys::prove_alive(&self.at) } else { Ok(()) }
        };
        let synced = if self.intent.full { sync() } else { Ok(()) };
        self.decided = Some(synced);
        match synced {
            // Files on another file system can be changed even if the one of the intent is dead. After a power cut that
            // change would be half done, and the intent gone.
            Err(error) if is_apart => Err(self.dir.unfinished(self.path(), &self.name, failed(error))),
            _ => Ok(()),
        }
    }

    /// Whether the change is decided, or may be.
    pub(crate) fn is_decided(&self) -> bool {
        self.decided.is_some()
    }

    /// Makes the change that was decided.
    pub(crate) fn finish(&mut self, dirs: &mut Dirs) -> Result<()> {
        let Draft { dir, ref at, device, held, ref intent, ref name, .. } = *self;
        let mut work = Work { dir, at, device, name, intent, held, dirs, found_by: None, end: End::NotYet };
        let finished = work.finish(false);
        let end = work.end;
        if let End::TakenBack(synced) = end {
            self.decided = None;
            self.marks_stay = synced.is_err();
            return finished.map(drop);
        }
        finished.map_err(|error| dir.unfinished(self.path(), name, error))?;
        if let (Some(Err(error)), _) | (_, End::Removed(Err(error))) = (self.decided, end) {
            return Err(Error::NotDurable { path: self.path().to_owned(), source: error.into() });
        }
        held.iter().try_for_each(|held| held.check_kept(true))
    }

    /// The path of the first file.
    fn path(&self) -> &Path {
        self.held.first().map_or(self.dir.path(), |held| &held.guarded)
    }
}

/// The number of names that are tried for a new intent.
const NAMES_TRIED: usize = 1000;

/// Makes an intent under a temporary name. A child made by fork continues the parent's sequence of random numbers. So
/// its name may exist already, if the other process made that file and was killed.
fn make(dir: &LockDir, at: &Fd, lock_hash: &[u8]) -> sys::Result<(CString, TemporaryName, Fd)> {
    for _ in 1..NAMES_TRIED {
        match make_once(dir, at, lock_hash) {
            Err(Errno::EXIST) => {}
            made => return made,
        }
    }
    make_once(dir, at, lock_hash)
}

fn make_once(dir: &LockDir, at: &Fd, lock_hash: &[u8]) -> sys::Result<(CString, TemporaryName, Fd)> {
    let name = CString::new(new_name(lock_hash)).map_err(|_| Errno::INVAL)?;
    let temporary = TemporaryName::fresh(&name, lock_hash);
    let file = dir.make_intent(at.as_fd(), temporary.get())?;
    Ok((name, temporary, file))
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.is_decided() {
            let _ = sys::unlink(self.at.as_fd(), self.temporary.get());
            if !self.marks_stay {
                self.held.iter().for_each(|held| held.clear_mark());
            }
        }
    }
}

/// The error for a file system in memory.
pub(crate) fn in_memory(path: &Path) -> Error {
    let why = "it is in memory (tmpfs), where nothing survives a power cut, and all or nothing across one cannot be promised \
               there: use Durability::Ordered, or a disk";
    Error::io(path, Step::WriteIntent, std::io::Error::new(std::io::ErrorKind::Unsupported, why))
}
