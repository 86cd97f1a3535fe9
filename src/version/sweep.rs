//! Removing what killed processes left behind.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Removed, Result, Step};
use crate::lock::{self, Held, Lock, LockDir, Patience, c_path};
use crate::path::{Dir, Place, directory};
use crate::protocol::intent::{is_intent_name, lock_hash_in};
use crate::protocol::lock_name::path_hash;
use crate::protocol::temporary_name::Owner;
use crate::settings::Config;
use crate::sys::{self, Errno, Links, LockMode};

/// Removes the temporary files of the file `path`, or of all files in the directory `path`, if the lock of their file
/// is free. Also removes what was left in the lock directory.
pub(crate) fn sweep(config: &Config, path: &Path) -> Result<Vec<PathBuf>> {
    let lock_dir = &config.lock_dir;
    let mut removed = Removed::default();
    // A path that cannot be resolved is an error before anything is removed.
    if let Some((dir, real)) = directory(path, config.links)? {
        lock_dir.check_directory(&real, path)?;
        sweep_dir(lock_dir, &dir, &real, |_| true, &mut removed);
    } else {
        let place = Place::resolve(path, config.links)?;
        let hash = path_hash(lock_dir.named_after(place.path(), path)?);
        let is_mine = |owner: &Owner<'_>| {
            owner.name == place.name().to_bytes() || owner.hash.is_some_and(|of_path| of_path == hash.as_bytes())
        };
        if let (Some(dir), Some(real)) = (place.dir()?, place.path().parent()) {
            sweep_dir(lock_dir, dir, real, is_mine, &mut removed);
        }
    }
    match lock_dir.left_behind() {
        Ok(left) => left.into_iter().for_each(|path| {
            let swept = c_path(&path).and_then(|name| remove_if_no_intent(lock_dir, &name, &path));
            removed.note(path, swept);
        }),
        Err(error) => removed.failed.push(error),
    }
    removed.into_result()
}

/// How many names of a directory are looked at before a write. So many fit into one or two reads of the directory. All
/// names of a large directory would take longer than the write.
const NAMES: usize = 1000;

/// In seconds. The lock does not exclude a writer with another lock directory, which would lose its temporary file. But
/// such a writer has most probably written to the file within this time.
const ABANDONED: i64 = 3600;

/// Removes the temporary files that killed writers of this file left beside it. The caller holds the file's exclusive
/// lock, and `own` is the only temporary file that it has made. Errors are ignored, and only the first [`NAMES`] names
/// are looked at: [`sweep`] removes the rest.
///
/// A name that may belong to two files is left, because removing it takes both locks. If there is any intent,
/// everything is left: the intent may name one of these files although its mark is gone (if somebody removed a lock
/// file by hand).
pub(crate) fn remove_own_litter(lock_dir: &Arc<LockDir>, place: &Place, held: &Held, own: &CStr) {
    let Ok(Some(dir)) = place.dir() else { return };
    let Ok(names) = sys::open_dir(dir.as_fd(), c".", Links::Follow).and_then(sys::list) else { return };
    let is_ours = |name: &CString| {
        let owner = Owner::of(name.as_bytes()).filter(|owner| owner.hash.is_none());
        owner.is_some_and(|owner| owner.name == place.name().to_bytes()) && name.as_c_str() != own
    };
    let mut left: Vec<CString> = names.take(NAMES).map_while(sys::Result::ok).filter(is_ours).collect();
    if left.is_empty() {
        return;
    }
    // Both times are from the clock of the file system, which may be a server's.
    let modified = |name: &CStr| sys::stat(dir.as_fd(), name).map(|meta| meta.modified);
    let Ok(now) = modified(own) else { return };
    left.retain(|name| modified(name).is_ok_and(|then| now.saturating_sub(then) >= ABANDONED));
    let may_remove = || held.check_kept(false).is_ok() && lock_dir.intents().is_ok_and(|intents| intents.is_empty());
    if left.is_empty() || !may_remove() {
        return;
    }
    for name in left {
        // Errors are ignored: nobody asked for this removal.
        let _ = remove_regular(dir.as_fd(), &name, place.path());
    }
}

/// If a file cannot be removed, goes on with the rest.
fn sweep_dir(
    lock_dir: &Arc<LockDir>,
    dir: &Dir,
    real: &Path,
    wanted: impl Fn(&Owner<'_>) -> bool,
    removed: &mut Removed,
) {
    let failed = |error| Error::io(real, Step::ListDirectory, error);
    let names = match sys::open_dir(dir.as_fd(), c".", Links::Follow).and_then(sys::list) {
        Ok(names) => names,
        Err(error) => return removed.failed.push(failed(error)),
    };
    for name in names {
        // After an error the kernel returns no more names.
        let name = match name {
            Ok(name) => name,
            Err(error) => return removed.failed.push(failed(error)),
        };
        let Some(owner) = Owner::of(name.as_bytes()).filter(&wanted) else { continue };
        let path = real.join(OsStr::from_bytes(name.as_bytes()));
        let swept = remove_if_left(lock_dir, dir, real, &name, &owner, &path);
        removed.note(path, swept);
    }
}

/// Removes a temporary file if no writer may be using it. A writer holds its lock from before it makes the file until
/// after it has renamed or removed it.
fn remove_if_left(
    lock_dir: &Arc<LockDir>,
    dir: &Dir,
    real: &Path,
    name: &CStr,
    owner: &Owner<'_>,
    path: &Path,
) -> Result<bool> {
    let owner_path: Arc<Path> = real.join(OsStr::from_bytes(owner.name)).into();
    let by_name = Lock::of(lock_dir, &owner_path)?;
    let by_hash = owner.hash.map(|hash| Lock::of_hash(lock_dir, hash, path.into())).transpose()?;
    let locks: Vec<&Lock> = [&by_name].into_iter().chain(&by_hash).collect();
    let held = match lock::acquire_all(&locks, LockMode::Exclusive, &Patience::none()) {
        Ok(held) => held,
        Err(Error::WouldBlock { .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    held.iter().try_for_each(|held| held.check_kept(false))?;
    remove_regular(dir.as_fd(), name, path)
}

/// Removes a leftover of the lock directory. An intent that was not decided is removed only if no process is about to
/// decide it.
fn remove_if_no_intent(lock_dir: &Arc<LockDir>, name: &CStr, path: &Path) -> Result<bool> {
    let owner = path.file_name().and_then(|name| Owner::of(name.as_bytes())).map(|owner| owner.name);
    let Some(intent) = owner.filter(|name| is_intent_name(name)) else {
        return remove_regular(sys::cwd(), name, path);
    };
    let lock = Lock::of_hash(lock_dir, lock_hash_in(intent), path.into())?;
    match lock.acquire(LockMode::Exclusive, &Patience::none()) {
        Ok(_held) => remove_regular(sys::cwd(), name, path),
        Err(Error::WouldBlock { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a regular file, because this crate makes no others. False: it is not a regular file, or it is gone.
fn remove_regular(dir: BorrowedFd<'_>, name: &CStr, path: &Path) -> Result<bool> {
    match sys::stat(dir, name) {
        Ok(meta) if meta.special.is_some() => return Ok(false),
        Ok(_) => {}
        Err(Errno::NOENT) => return Ok(false),
        Err(error) => return Err(Error::io(path, Step::Stat, error)),
    }
    match sys::unlink(dir, name) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(Error::io(path, Step::Remove, error)),
    }
}
