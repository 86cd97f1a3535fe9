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

/// Removes a file. False: there is none, and that is durable, too: somebody may have removed it and have died, or failed,
/// before the removal was synced. `temporary` may be made beside it.
pub(crate) fn remove(held: &Held, place: &Place, options: Options, temporary: TemporaryName) -> Result<bool> {
    let Some((dir, was_there)) = unlink(held, place, options)? else { return Ok(false) };
    let synced = sync_removal(dir, place.path(), options, temporary);
    if was_there { held.check_kept(true).and(synced) } else { synced }.map(|()| was_there)
}

/// Removes a file, if there is one, which is the second thing that is returned; the first is the directory, which has to be
/// synced in either case. `None`: there is no directory, which is durable.
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

/// On a file system that a failed device has stopped, the sync of a directory in which nothing has changed since succeeds
/// all the same: on xfs (`xfs_dir_fsync` in fs/xfs/xfs_file.c), where this look at the directory fails, and on btrfs, which is
/// read-only then. So may be a file system that was never written to, where nobody knows what came before.
fn check_alive(dir: &Dir) -> sys::Result<()> {
    sys::stat_open(dir)?;
    match sys::check_changeable(dir.as_fd()) {
        Err(Errno::ROFS) => Err(Errno::ROFS),
        _ => Ok(()),
    }
}

/// Syncs a directory from which a file was removed, or may have been.
pub(crate) fn sync_removal(dir: &Dir, path: &Path, options: Options, temporary: TemporaryName) -> Result<()> {
    let synced = sync_dir(dir, path, options);
    if synced.is_err() {
        // Whoever tries again finds no file, and syncs a directory in which nothing has changed since. That succeeds on ext4
        // though the removal is lost, for it notices only with the next change that its journal is dead
        // (`ext4_force_commit` in fs/ext4/super.c, `ext4_journal_check_start` in fs/ext4/ext4_jbd2.c).
        if sys::create_new(dir.as_fd(), temporary.get(), 0).is_ok() {
            let _ = sys::unlink(dir.as_fd(), temporary.get());
        }
    }
    synced
}

/// The file that is to be removed, if there is one; an error if its removal cannot be made durable.
pub(crate) fn check_removable(place: &Place, options: Options) -> Result<Option<Meta>> {
    let Some(dir) = place.dir()? else { return Ok(None) };
    check_syncable(dir, place.path(), options.durability == Durability::Full)?;
    stat_regular(dir, place.name(), place.path())
}
