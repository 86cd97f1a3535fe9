//! What a handle and its guards share: the settings, the place of the file and its lock; and what can be done while the
//! lock is held.

use std::fs::File;
use std::sync::Arc;

use crate::error::Result;
use crate::lock::{Held, Lock};
use crate::path::Place;
use crate::settings::Config;
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
