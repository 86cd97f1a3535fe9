//! What a handle and its guards share: the settings, the place of the file and its lock; and what can be done while the
//! lock is held.

use std::fs::File;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::lock::{Held, Lock, Patience};
use crate::path::Place;
use crate::settings::Config;
use crate::sys::LockMode;
use crate::version::metadata::set_mode_in_place;
use crate::version::read;
use crate::version::remove::remove;
use crate::version::replace::Replacement;

#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) config: Arc<Config>,
    pub(crate) place: Place,
    pub(crate) lock: Arc<Lock>,
}

impl Resolved {
    /// Takes the lock and does one of our own verbs under it. No code of a caller runs in it that could fork, so that a lock that
    /// has served is let go without a look whether this is still the process that took it.
    pub(crate) fn locked<T>(
        &self,
        mode: LockMode,
        patience: Patience,
        verb: impl FnOnce(&Self, &Held) -> Result<T>,
    ) -> Result<(Held, T)> {
        let held = self.lock.acquire(mode, patience)?;
        match verb(self, &held) {
            Ok(done) => Ok((held, done)),
            Err(error) => {
                held.release();
                Err(error)
            }
        }
    }

    /// The second half of an update: `old` is what was read under the lock that is held.
    pub(crate) fn update<E: From<Error>>(
        &self,
        held: Held,
        old: Option<Vec<u8>>,
        change: impl FnOnce(Option<&[u8]>) -> Result<Vec<u8>, E>,
    ) -> Result<(), E> {
        let new = change(old.as_deref())?;
        // The change may have forked, and this may be the child.
        held.check()?;
        let written = self.write(&held, &new);
        held.release();
        Ok(written?)
    }
}

/// What can be done while the lock is held.
impl Resolved {
    pub(crate) fn read(&self) -> Result<Option<Vec<u8>>> {
        read::read(&self.place)
    }

    pub(crate) fn read_into(&self, buf: &mut Vec<u8>) -> Result<Option<usize>> {
        read::read_into(&self.place, buf)
    }

    pub(crate) fn open(&self) -> Result<Option<File>> {
        read::open(&self.place)
    }

    pub(crate) fn write(&self, held: &Held, contents: &[u8]) -> Result<()> {
        self.writer(held, false)?.put_all(contents)
    }

    pub(crate) fn writer<'lock>(&'lock self, held: &'lock Held, anew: bool) -> Result<Replacement<'lock>> {
        Replacement::begin(held, &self.place, self.config.replace, anew)
    }

    pub(crate) fn set_mode(&self, mode: u32) -> Result<bool> {
        set_mode_in_place(&self.place, mode, self.config.replace)
    }

    pub(crate) fn delete(&self) -> Result<bool> {
        remove(&self.place, self.config.replace)
    }
}
