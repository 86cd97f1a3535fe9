//! Verbs by path: a file that is looked up for one use.
//!
//! A canonical path that was used lately, so that its lock is at hand, is not looked at before the lock is taken. Should a
//! symbolic link have its name by now, the verb meets that in its own first look, under the lock, and has done nothing then;
//! the lock is let go, and the path is followed as if it had never been used.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::file::resolved::{Resolved, look_again, place_of};
use crate::lock::Held;
use crate::protocol::lock_name::is_like_lock_name;
use crate::settings::Config;
use crate::sys::{FileKind, LockMode};
use crate::version::read;

/// Takes the lock of a file and does `verb` under it, one that looks at what has the file's name before it does anything.
pub(crate) fn locked<T>(
    config: &Arc<Config>,
    path: &Path,
    mode: LockMode,
    verb: impl Fn(&Resolved, &Held) -> Result<T>,
) -> Result<(Resolved, Held, T)> {
    let once = || look_again(|| locked_once(config, path, mode, &verb));
    match once() {
        // What the kernel remembered of the name, on NFS, was not true any more; now it is.
        Err(error) if is_link(&error) => once(),
        done => done,
    }
}

fn locked_once<T>(
    config: &Arc<Config>,
    path: &Path,
    mode: LockMode,
    verb: impl Fn(&Resolved, &Held) -> Result<T>,
) -> Result<(Resolved, Held, T)> {
    let patience = &config.patience();
    let file = |place, lock| Resolved { config: config.clone(), place, lock };
    let mut known = None;
    let mut place = place_of(config, path, |canonical| {
        known = config.recent.get(canonical);
        known.is_some()
    })?;
    if let Some(lock) = known {
        let unseen = file(place, lock);
        let refused = match unseen.acquire(mode, patience) {
            Ok(held) => match unseen.under(held, &verb) {
                Err(error) if is_link(&error) => None,
                done => return done.map(|(held, done)| (unseen, held, done)),
            },
            Err(error) => Some(error),
        };
        place = place_of(config, path, |_| false)?;
        // A lock that is not the file's any more is nobody's business.
        if let Some(error) = refused.filter(|_| place.path() == unseen.place.path()) {
            return Err(error);
        }
        config.recent.forget(&unseen.lock);
    }
    let lock = config.recent.lock_of(&config.lock_dir, place.path())?;
    let file = file(place, lock);
    let (held, done) = file.locked(mode, patience, verb)?;
    Ok((file, held, done))
}

/// The same for a verb after which the lock is let go.
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

/// Reads a file without its lock, of which nothing is looked at. Without a lock its canonical path says nothing either.
pub(crate) fn read_unlocked(config: &Config, path: &Path) -> Result<Option<Vec<u8>>> {
    look_again(|| read_unlocked_once(config, path))
}

fn read_unlocked_once(config: &Config, path: &Path) -> Result<Option<Vec<u8>>> {
    if path.file_name().is_some_and(|name| !is_like_lock_name(name.as_bytes())) {
        if let Some(read) = read::read_at_once(path) {
            return read.map(Some);
        }
    }
    read::read(&place_of(config, path, |_| false)?)
}

fn is_link(error: &Error) -> bool {
    matches!(error, Error::NotRegularFile { kind: FileKind::Symlink, .. })
}
