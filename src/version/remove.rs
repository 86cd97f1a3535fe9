//! Removing a file.

use std::os::fd::AsFd;
use std::path::Path;

use crate::error::{Error, Result, Step};
use crate::lock::Held;
use crate::path::{Dir, Place};
use crate::protocol::temporary_name::TemporaryName;
use crate::settings::{Durability, Options};
use crate::sys::{self, Errno, Meta};
use crate::version::{check_syncable, failed_at, stat_regular, sync_dir};

/// Removes a file. False: the file does not exist. That is made durable, too, because another process may have removed
/// the file and died before its sync. `temporary` is a name for a file that may be made in the same directory.
pub(crate) fn remove(held: &Held, place: &Place, options: Options, temporary: TemporaryName) -> Result<bool> {
    let Some((dir, was_there)) = unlink(held, place, options)? else { return Ok(false) };
    let synced = sync_removal(dir, place.path(), options, temporary);
    if was_there { held.check_kept(true).and(synced) } else { synced }.map(|()| was_there)
}

/// Removes a file if it exists. Returns its directory, which has to be synced in either case, and whether there was a
/// file. `None`: there is no directory, which is durable.
pub(crate) fn unlink<'a>(held: &Held, place: &'a Place, options: Options) -> Result<Option<(&'a Dir, bool)>> {
    let path: &Path = place.path();
    let Some(dir) = place.dir()? else {
        if options.durability == Durability::Full {
            place.sync_absence()?;
        }
        return Ok(None);
    };
    if check_removable(place, options)?.is_some() {
        held.check_kept(false)?;
        match sys::unlink(dir.as_fd(), place.name()) {
            Ok(()) => return Ok(Some((dir, true))),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(failed_at(dir, place.name(), path, Step::Remove, error)),
        }
    }
    if options.durability == Durability::Full {
        check_alive(dir).map_err(|error| Error::io(path, Step::SyncDirectory, error))?;
    }
    Ok(Some((dir, false)))
}

/// Fails if the file system was shut down after an error of the device. The sync of a directory without changes
/// succeeds even then. On xfs (`xfs_dir_fsync` in fs/xfs/xfs_file.c) this look at the directory fails. On btrfs the
/// file system is read-only then. A file system that was always read-only fails, too, because nobody knows what
/// happened before.
fn check_alive(dir: &Dir) -> sys::Result<()> {
    sys::stat_open(dir)?;
    match sys::check_changeable(dir.as_fd()) {
        Err(Errno::ROFS) => Err(Errno::ROFS),
        _ => Ok(()),
    }
}

/// Syncs a directory from which a file was removed, or may have been removed before.
pub(crate) fn sync_removal(dir: &Dir, path: &Path, options: Options, temporary: TemporaryName) -> Result<()> {
    let synced = sync_dir(dir, path, options);
    if synced.is_err() {
        // The caller may try again. It then finds no file, and syncs a directory without changes. On ext4 that sync
        // succeeds although the removal is lost, because ext4 notices only at the next change that its journal was
        // aborted (`ext4_force_commit` in fs/ext4/super.c, `ext4_journal_check_start` in fs/ext4/ext4_jbd2.c). So make
        // that change now.
        if sys::create_new(dir.as_fd(), temporary.get(), 0).is_ok() {
            let _ = sys::unlink(dir.as_fd(), temporary.get());
        }
    }
    synced
}

/// The file to remove, if it exists. An error if its removal could not be made durable.
pub(crate) fn check_removable(place: &Place, options: Options) -> Result<Option<Meta>> {
    let Some(dir) = place.dir()? else { return Ok(None) };
    check_syncable(dir, place.path(), options.durability == Durability::Full)?;
    stat_regular(dir, place.name(), place.path())
}
