//! Syncing many files and directories at once.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::Path;

use crate::error::{Error, Result, Step};
use crate::lock::Held;
use crate::settings::{Durability, Options};
use crate::sys::{self, Fd};
use crate::version::sync;

/// With so many on one file system, the whole file system is synced instead of each.
const MANY: usize = 8;

/// Something that has to be synced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unsynced<'a> {
    /// The file system that contains it.
    pub(crate) device: u64,
    pub(crate) what: What<'a>,
    /// For errors.
    pub(crate) path: &'a Path,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum What<'a> {
    File(&'a Fd),
    Dir(&'a Fd),
    /// The lock file of a lock that is held.
    LockFile(&'a Held),
}

/// Syncs all of them, one file system at a time.
pub(crate) fn sync_together<'a>(things: impl IntoIterator<Item = Unsynced<'a>>, options: Options) -> Result<()> {
    if options.durability == Durability::None {
        return Ok(());
    }
    let mut by_device: HashMap<u64, Vec<Unsynced<'_>>> = HashMap::new();
    for thing in things {
        by_device.entry(thing.device).or_default().push(thing);
    }
    for things in by_device.values() {
        if things.len() < MANY || !sync_all_at_once(things)? {
            things.iter().try_for_each(|thing| thing.sync(options))?;
        }
    }
    Ok(())
}

/// False: each of them has to be synced on its own.
fn sync_all_at_once(things: &[Unsynced<'_>]) -> Result<bool> {
    let any = things.iter().find_map(|thing| match thing.what {
        What::File(file) => Some((file.as_fd(), thing.path)),
        What::Dir(dir) => Some((dir.as_fd(), thing.path)),
        What::LockFile(_) => None,
    });
    let Some((fd, path)) = any else { return Ok(false) };
    sys::sync_file_system(fd).map_err(|error| Error::io(path, Step::Sync, error))
}

impl Unsynced<'_> {
    fn sync(&self, options: Options) -> Result<()> {
        match self.what {
            What::File(file) => sync(file, self.path, options),
            What::Dir(dir) => sys::sync_dir(dir).map_err(|error| Error::io(self.path, Step::Sync, error)),
            What::LockFile(held) => held.sync(),
        }
    }
}
