//! Verbs by path: a file is looked up for one use.
//!
//! If the adapter has used a canonical path lately, it still has the lock, and does not look at the path before it
//! takes the lock. The path may have become a symbolic link since. Then the verb's own first look under the lock finds
//! the link before anything was done. The lock is released, and the path is resolved as if it had never been used. (The
//! wait for the lock may have been in vain. A look before it would cost every call.)

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::file::resolved::{Resolved, look_again, place_of, place_to_lock};
use crate::lock::{Held, Lock, Patience};
use crate::path::Place;
use crate::protocol::lock_name::is_like_lock_name;
use crate::settings::Config;
use crate::sys::{FileKind, LockMode};
use crate::version::read;

/// Takes the lock of a file and runs `verb` under it. `verb` must look at the file's name before it changes anything.
pub(crate) fn locked<T>(
    config: &Arc<Config>,
    path: &Path,
    mode: LockMode,
    verb: impl Fn(&Resolved, &Held) -> Result<T>,
) -> Result<(Resolved, Held, T)> {
    Call { config, path, mode, patience: &config.patience() }.locked(verb)
}

/// A call that locks a file by its path.
struct Call<'a> {
    config: &'a Arc<Config>,
    path: &'a Path,
    mode: LockMode,
    patience: &'a Patience<'a>,
}

impl Call<'_> {
    fn locked<T>(&self, verb: impl Fn(&Resolved, &Held) -> Result<T>) -> Result<(Resolved, Held, T)> {
        let once = || look_again(|| self.locked_once(&verb));
        match once() {
            // On NFS, the kernel's cached name was wrong. It is correct now.
            Err(error) if is_link(&error) => once(),
            done => done,
        }
    }

    fn locked_once<T>(&self, verb: impl Fn(&Resolved, &Held) -> Result<T>) -> Result<(Resolved, Held, T)> {
        let mut known = None;
        let place = place_to_lock(self.config, self.path, |canonical| {
            known = self.config.recent.get(canonical);
            known.is_some()
        })?;
        let Some(lock) = known else { return self.seen(place, verb) };
        let unseen = Resolved { config: self.config.clone(), place, lock };
        let refused = match unseen.acquire(self.mode, self.patience) {
            Ok(held) => match unseen.under(held, &verb) {
                Err(error) if is_link(&error) => None,
                done => return done.map(|(held, done)| (unseen, held, done)),
            },
            Err(error) => Some(error),
        };
        let place = self.look_anew(&unseen.lock, refused)?;
        self.seen(place, verb)
    }

    /// The same for a place that was looked at.
    fn seen<T>(&self, place: Place, verb: impl Fn(&Resolved, &Held) -> Result<T>) -> Result<(Resolved, Held, T)> {
        let lock = self.config.recent.lock_of(&self.config.lock_dir, place.path())?;
        let file = Resolved { config: self.config.clone(), place, lock };
        let (held, done) = file.locked(self.mode, self.patience, verb)?;
        Ok((file, held, done))
    }

    /// Resolves the path again, because it was not looked at before this lock was taken. `refused` is the error of the
    /// first attempt.
    fn look_anew(&self, lock: &Arc<Lock>, refused: Option<Error>) -> Result<Place> {
        // A child made by fork must not take the lock that its parent waited for.
        if let Some(error @ Error::Forked { .. }) = refused {
            return Err(error);
        }
        let place = place_to_lock(self.config, self.path, |_| false)?;
        match refused {
            Some(error) if place.path() == lock.guarded() => Err(error),
            // If the path has another lock by now, the error for the old lock does not count.
            _ => {
                self.config.recent.forget(lock);
                Ok(place)
            }
        }
    }
}

/// The same for a verb after which the lock is released.
pub(crate) fn under_lock<T>(
    config: &Arc<Config>,
    path: &Path,
    mode: LockMode,
    verb: impl Fn(&Resolved, &Held) -> Result<T>,
) -> Result<T> {
    let (_file, held, done) = locked(config, path, mode, verb)?;
    held.release();
    Ok(done)
}

/// Reads a file, and returns its canonical path. If `path` is canonical and was used lately, it is opened as a whole:
/// under the lock that is named after the path, the file at this path is the right one, even if directories above were
/// replaced.
pub(crate) fn read(config: &Arc<Config>, path: &Path) -> Result<(Option<Vec<u8>>, Arc<Path>)> {
    let (mode, verb) = (LockMode::Shared, |file: &Resolved, _: &Held| Ok((file.read()?, file.place.path().clone())));
    // Only Linux has a call that refuses a path with links.
    let may_open = cfg!(linux_backend) && is_no_lock(path);
    let Some(lock) = config.recent.get(path).filter(|_| may_open) else { return under_lock(config, path, mode, verb) };
    let call = Call { config, path, mode, patience: &config.patience() };
    let refused = match lock.acquire(mode, call.patience) {
        Ok(held) => {
            // On NFS, the cached names of the path may be wrong.
            let is_local = |device| held.home().is_local(device);
            let read = read::read_at_once(path, is_local).filter(|read| !read.as_ref().is_err_and(Error::is_stale));
            let read = read.map(|read| read.map(Some));
            let read = read.or_else(|| read_there(config, path, &held));
            held.release();
            if let Some(read) = read {
                return Ok((read?, lock.guarded().clone()));
            }
            None
        }
        Err(error) => Some(error),
    };
    call.look_anew(&lock, refused)?;
    let (_file, held, done) = call.locked(verb)?;
    held.release();
    Ok(done)
}

/// Reads the file of a canonical path, through its directory. `None`: the path has a link in it by now.
fn read_there(config: &Config, path: &Path, held: &Held) -> Option<Result<Option<Vec<u8>>>> {
    let place = place_of(config, path, |canonical| canonical == path).ok().filter(|place| **place.path() == *path)?;
    place.freshen(held.home()).ok()?;
    let read = read::read(&place);
    if read.as_ref().is_err_and(|error| is_link(error) || error.is_stale()) { None } else { Some(read) }
}

/// Reads a file without its lock. Nothing is looked at before, because without a lock the canonical path means nothing.
pub(crate) fn read_unlocked(config: &Config, path: &Path) -> Result<Option<Vec<u8>>> {
    look_again(|| read_unlocked_once(config, path))
}

fn read_unlocked_once(config: &Config, path: &Path) -> Result<Option<Vec<u8>>> {
    if is_no_lock(path) {
        if let Some(read) = read::read_at_once(path, |_| true) {
            return read.map(Some);
        }
    }
    read::read(&place_of(config, path, |_| false)?)
}

/// Whether the name shows that this is not a lock file.
fn is_no_lock(path: &Path) -> bool {
    path.file_name().is_some_and(|name| !is_like_lock_name(name.as_bytes()))
}

fn is_link(error: &Error) -> bool {
    matches!(error, Error::NotRegularFile { kind: FileKind::Symlink, .. })
}
