//! The parts that a handle and its guards share: the settings, the file's place and its lock. And the operations under
//! the lock.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::lock::{Held, Lock, Patience};
use crate::path::Place;
use crate::protocol::intent::is_intent_name;
use crate::protocol::lock_name::is_like_lock_name;
use crate::protocol::temporary_name::TemporaryName;
use crate::settings::Config;
use crate::sys::LockMode;
use crate::version::metadata::set_mode_in_place;
use crate::version::read;
use crate::version::remove::remove;
use crate::version::replace::Replacement;
use crate::version::sweep::remove_own_litter;

#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) config: Arc<Config>,
    pub(crate) place: Place,
    pub(crate) lock: Arc<Lock>,
}

/// The place of a file. An error if it is a lock file. If `is_known` is true for the canonical path, the name is not
/// looked at, and may be a symbolic link.
pub(crate) fn place_of(config: &Config, path: &Path, mut is_known: impl FnMut(&Path) -> bool) -> Result<Place> {
    let place = look_again(|| Place::resolve_unless(path, config.links, &mut is_known))?;
    // The name is checked first, because that needs no system call.
    let name = place.name().to_bytes();
    if (is_like_lock_name(name) || is_intent_name(name))
        && place.dir()?.is_some_and(|dir| config.lock_dir.is(dir.as_fd()))
    {
        return Err(Error::InvalidPath {
            path: path.to_owned(),
            reason: "it is a lock file; give the path of the file that it is for",
        });
    }
    Ok(place)
}

/// The same for a file that will be locked.
pub(super) fn place_to_lock(config: &Config, path: &Path, is_known: impl FnMut(&Path) -> bool) -> Result<Place> {
    let place = place_of(config, path, is_known)?;
    config.lock_dir.named_after(place.path(), path)?;
    Ok(place)
}

/// How often a call is repeated after ESTALE.
const LOOKS: usize = 5;

/// Repeats a call after ESTALE. A server reports that for a file or directory that was removed after it was looked up,
/// and the next look finds what is there now. If the directory is gone for good, every look reports it.
pub(super) fn look_again<T>(mut look: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 1..LOOKS {
        match look() {
            Err(error) if error.is_stale() => {}
            done => return done,
        }
    }
    look()
}

impl Resolved {
    /// Takes the lock and runs an operation of this crate under it.
    pub(crate) fn locked<T>(
        &self,
        mode: LockMode,
        patience: &Patience<'_>,
        verb: impl FnOnce(&Self, &Held) -> Result<T>,
    ) -> Result<(Held, T)> {
        self.under(self.acquire(mode, patience)?, verb)
    }

    /// Takes the lock. After that, the changes that earlier holders made to the file are visible.
    pub(super) fn acquire(&self, mode: LockMode, patience: &Patience<'_>) -> Result<Held> {
        let held = look_again(|| self.lock.acquire(mode, patience))?;
        look_again(|| self.place.freshen(held.home()))?;
        Ok(held)
    }

    /// An operation of this crate under the lock. It runs no code of the caller that could fork. So the lock can be
    /// released without a check whether this is still the process that took it.
    pub(super) fn under<T>(&self, held: Held, verb: impl FnOnce(&Self, &Held) -> Result<T>) -> Result<(Held, T)> {
        match verb(self, &held) {
            Ok(done) => Ok((held, done)),
            Err(error) => {
                held.release();
                Err(error)
            }
        }
    }

    /// The second half of an update. `old` was read under the lock, which is still held.
    pub(crate) fn update<E: From<Error>>(
        &self,
        held: Held,
        old: Option<Vec<u8>>,
        change: impl FnOnce(Option<&[u8]>) -> Result<Vec<u8>, E>,
    ) -> Result<(), E> {
        let new = change(old.as_deref())?;
        // `change` may have forked, and this may be the child.
        held.check()?;
        let written = self.write(&held, &new);
        held.release();
        Ok(written?)
    }
}

/// The operations under the lock.
impl Resolved {
    pub(crate) fn read(&self) -> Result<Option<Vec<u8>>> {
        look_again(|| read::read(&self.place))
    }

    pub(crate) fn read_into(&self, buf: &mut Vec<u8>) -> Result<Option<usize>> {
        look_again(|| read::read_into(&self.place, buf))
    }

    pub(crate) fn open(&self) -> Result<Option<File>> {
        look_again(|| read::open(&self.place))
    }

    pub(crate) fn write(&self, held: &Held, contents: &[u8]) -> Result<()> {
        look_again(|| self.writer(held, false)?.put_all(contents))
    }

    pub(crate) fn writer<'lock>(&'lock self, held: &'lock Held, anew: bool) -> Result<Replacement<'lock>> {
        let replacement =
            look_again(|| Replacement::begin(held, &self.place, self.temporary_name(), self.config.replace, anew))?;
        // Not for a new file: a program that makes many files would read their directory for each.
        if self.lock.take_first_write() && replacement.replaces() && self.config.take_look() {
            remove_own_litter(&self.config.lock_dir, &self.place, held, replacement.temporary());
        }
        Ok(replacement)
    }

    pub(crate) fn set_mode(&self, mode: u32) -> Result<bool> {
        look_again(|| set_mode_in_place(&self.place, mode, self.config.replace))
    }

    pub(crate) fn delete(&self, held: &Held) -> Result<bool> {
        look_again(|| remove(held, &self.place, self.config.replace))
    }

    pub(crate) fn temporary_name(&self) -> TemporaryName {
        TemporaryName::new(self.place.name(), self.lock.hash())
    }
}
