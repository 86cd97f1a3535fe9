//! Removing a file.

use std::os::fd::AsFd;
use std::path::Path;

use crate::error::{Result, Step};
use crate::lock::Held;
use crate::path::{Dir, Place};
use crate::settings::{Durability, Options};
use crate::sys::{self, Errno, Meta};
use crate::version::{check_syncable, failed_at, stat_regular, sync_dir};

/// Removes a file. False: there is none.
pub(crate) fn remove(held: &Held, place: &Place, options: Options) -> Result<bool> {
    let Some(dir) = unlink(held, place, options)? else { return Ok(false) };
    let synced = sync_dir(dir, place.path(), options);
    held.check_kept(true).and(synced).map(|()| true)
}

/// The same without the sync of the directory, which is returned. `None`: there is no such file.
pub(crate) fn unlink<'a>(held: &Held, place: &'a Place, options: Options) -> Result<Option<&'a Dir>> {
    let path: &Path = place.path();
    let Some(dir) = place.dir()? else { return Ok(None) };
    if check_removable(place, options)?.is_none() {
        return Ok(None);
    }
    held.check_kept(false)?;
    match sys::unlink(dir.as_fd(), place.name()) {
        Ok(()) => Ok(Some(dir)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(failed_at(dir, place.name(), path, Step::Remove, error)),
    }
}

/// The file that is to be removed, if there is one; an error if its removal cannot be made durable.
pub(crate) fn check_removable(place: &Place, options: Options) -> Result<Option<Meta>> {
    let Some(dir) = place.dir()? else { return Ok(None) };
    check_syncable(dir, place.path(), options.durability == Durability::Full)?;
    stat_regular(dir, place.name(), place.path())
}
