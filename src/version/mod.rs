//! One version of a file: reading, replacing and removing it, and the checks that all of these share.

mod acl;
pub(crate) mod metadata;
pub(crate) mod read;
pub(crate) mod remove;
pub(crate) mod replace;
pub(crate) mod sweep;
pub(crate) mod together;

use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use crate::error::{Error, Result, Step};
use crate::lock::is_open_lock_file;
use crate::path::Dir;
use crate::settings::{Durability, Options};
use crate::sys::{self, Errno, Fd, Meta};

/// Looks at the file of this name. An error if it is not a regular file, or if it is a lock file of this process:
/// opening it as data and closing it would drop the lock. (A link that is put there between this look and the open is
/// not seen.)
pub(crate) fn stat_regular(dir: &Dir, name: &CStr, path: &Path) -> Result<Option<Meta>> {
    match dir.stat(name) {
        Ok(meta) if meta.special.is_none() && is_open_lock_file(meta.identity()) => {
            let reason = "it is another name of a lock file that this process is using";
            Err(Error::InvalidPath { path: path.to_owned(), reason })
        }
        Ok(meta) => check_regular(meta, path).map(Some),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(Error::io(path, Step::Stat, error)),
    }
}

pub(crate) fn check_regular(meta: Meta, path: &Path) -> Result<Meta> {
    match meta.special {
        None => Ok(meta),
        Some(kind) => Err(Error::NotRegularFile { path: path.to_owned(), kind }),
    }
}

/// A directory that may be searched and written but not read cannot be opened for a sync. That is checked before the
/// rename.
pub(crate) fn check_syncable(dir: &Dir, path: &Path, full: bool) -> Result<()> {
    if full && !dir.syncable { Err(Error::io(path, Step::SyncDirectory, Errno::ACCESS)) } else { Ok(()) }
}

/// The error of a rename over a file, or of its removal. A file that something is mounted on can be neither replaced
/// nor removed (`vfs_rename` and `vfs_unlink` in fs/namei.c). A container with a bind-mounted file has this case, and
/// EBUSY alone does not explain it. Some network file systems report EBUSY for other reasons, so the name is checked.
pub(crate) fn failed_at(dir: &Dir, name: &CStr, path: &Path, step: Step, error: Errno) -> Error {
    if error == Errno::BUSY && sys::is_mount_point(dir.as_fd(), name) {
        return Error::io(path, step, io::Error::new(io::ErrorKind::ResourceBusy, sys::MOUNT_POINT));
    }
    Error::io(path, step, error)
}

/// Syncs a changed file.
pub(crate) fn sync(file: &Fd, path: &Path, options: Options) -> Result<()> {
    match options.durability {
        Durability::Full => sys::sync(file),
        Durability::Ordered => sys::sync_ordered(file),
        Durability::None => Ok(()),
    }
    .map_err(|error| Error::io(path, Step::Sync, error))
}

/// Syncs a directory after its last change.
pub(crate) fn sync_dir(dir: &Dir, path: &Path, options: Options) -> Result<()> {
    match options.durability {
        Durability::Full => {
            sys::sync_dir(dir).map_err(|error| Error::NotDurable { path: path.to_owned(), source: error.into() })
        }
        Durability::Ordered | Durability::None => Ok(()),
    }
}
