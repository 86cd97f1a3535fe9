//! Removing a file.

use std::os::fd::AsFd;
use std::path::Path;

use crate::error::{Error, Result, Step};
use crate::lock::Held;
use crate::path::{Dir, Place};
use crate::settings::{Durability, Options};
use crate::sys::{self, Errno, Meta};
use crate::version::{check_syncable, failed_at, stat_regular, sync_dir};

/// Removes a file. False: the file does not exist, and that is durable, too.
pub(crate) fn remove(held: &Held, place: &Place, options: Options) -> Result<bool> {
    let Some(dir) = unlink(held, place, options)? else {
        return sync_absence(place, options).map(|()| false);
    };
    let synced = sync_dir(dir, place.path(), options);
    held.check_kept(true).and(synced).map(|()| true)
}

/// Removes a file and returns its directory, which must be synced. `None`: there is no file, which [`sync_absence`] must
/// make durable.
pub(crate) fn unlink<'a>(held: &Held, place: &'a Place, options: Options) -> Result<Option<&'a Dir>> {
    let Some(dir) = place.dir()? else { return Ok(None) };
    if check_removable(place, options)?.is_none() {
        return Ok(None);
    }
    held.check_kept(false)?;
    match sys::unlink(dir.as_fd(), place.name()) {
        Ok(()) => Ok(Some(dir)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(failed_at(dir, place.name(), place.path(), Step::Remove, error)),
    }
}

/// Makes it durable that a file does not exist. Another process may have removed it, and may have died or failed before
/// its sync.
pub(crate) fn sync_absence(place: &Place, options: Options) -> Result<()> {
    if options.durability == Durability::Full { place.sync_absence() } else { Ok(()) }
}

/// For a directory in which a file is absent. Fails if the file system is dead, because then its sync proves nothing.
pub(crate) fn check_alive(dir: impl AsFd, path: &Path) -> Result<()> {
    sys::check_alive(dir).map_err(|error| Error::io(path, Step::SyncDirectory, error))
}

/// The file to remove, if it exists. An error if its removal could not be made durable.
pub(crate) fn check_removable(place: &Place, options: Options) -> Result<Option<Meta>> {
    let Some(dir) = place.dir()? else { return Ok(None) };
    check_syncable(dir, place.path(), options.durability == Durability::Full)?;
    stat_regular(dir, place.name(), place.path())
}
