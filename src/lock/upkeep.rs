//! Works on all lock files: removes those that nobody holds, and tells who holds the others.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dir::OpenLock;
use super::process::{Process, User};
use super::{Lock, LockDir, Patience, c_path, mark};
use crate::error::{Error, Removed, Result, Step};
use crate::protocol::lock_contents::{guarded, is_marked};
use crate::sys::{self, Errno, Holder, LockMode, Meta};

/// Removes the lock files that nobody holds, and returns their paths.
pub(crate) fn prune(dir: &Arc<LockDir>) -> Result<Vec<PathBuf>> {
    let mut removed = Removed::default();
    for path in dir.list()? {
        let pruned = prune_one(dir, &path);
        removed.note(path, pruned);
    }
    removed.into_result()
}

/// False: the lock is held.
fn prune_one(dir: &Arc<LockDir>, path: &Path) -> Result<bool> {
    let lock = Lock::new(dir, path.to_owned(), path.into())?;
    match lock.acquire(LockMode::Exclusive, &Patience::none()) {
        // Removed while the lock is held. A process that has opened the file waits for its lock, and then sees that the
        // file was removed.
        Ok(held) => {
            held.check_kept(false)?;
            dir.remove(&lock.file).map(|()| true)
        }
        Err(Error::WouldBlock { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What a look at a lock file shows.
pub(crate) struct Seen {
    /// The holder and the mode, if the lock is held.
    pub(crate) holder: Option<Holder>,
    /// The path that the lock is named after, if the file contains it.
    pub(crate) guards: Option<PathBuf>,
    /// The intent in its mark.
    pub(crate) intent: Option<PathBuf>,
    /// The processes that wait for the lock. `None`: the system does not tell.
    pub(crate) waiters: Option<Vec<u32>>,
    inode: u64,
}

/// All lock files. An error for a file that is no lock file, or that may not be opened.
pub(crate) fn list(dir: &Arc<LockDir>) -> Result<Vec<(PathBuf, Result<Seen>)>> {
    look_at(dir, dir.list()?)
}

/// The same for one lock file, if it exists.
pub(crate) fn list_one(dir: &Arc<LockDir>, path: PathBuf) -> Result<Option<(PathBuf, Result<Seen>)>> {
    Ok(look_at(dir, vec![path])?.pop())
}

fn look_at(dir: &Arc<LockDir>, paths: Vec<PathBuf>) -> Result<Vec<(PathBuf, Result<Seen>)>> {
    let mut found = Vec::new();
    for path in paths {
        match look(dir, &path) {
            // It was pruned meanwhile.
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            seen => found.push((path, seen)),
        }
    }
    let mut seen: Vec<&mut Seen> = found.iter_mut().filter_map(|(_, seen)| seen.as_mut().ok()).collect();
    if !seen.is_empty() {
        // One look for all lock files.
        let waiters = sys::waiters(&c_path(dir.path())?);
        for seen in &mut seen {
            seen.waiters = waiters.as_ref().map(|waiters| waiters_of(seen.inode, waiters));
        }
    }
    Ok(found)
}

/// Each process once, even if several of its threads wait.
fn waiters_of(inode: u64, waiters: &[(u64, u32)]) -> Vec<u32> {
    let here = waiters.iter().filter(|(waited_for, _)| *waited_for == inode).map(|(_, pid)| *pid);
    here.collect::<BTreeSet<u32>>().into_iter().collect()
}

fn look(dir: &Arc<LockDir>, path: &Path) -> Result<Seen> {
    let process = Process::current();
    let file = c_path(path)?;
    let failed = |error| Error::io(path, Step::OpenLock, error);
    // Through the table, because closing another descriptor would drop the locks of this process.
    let gone = || failed(Errno::NOENT);
    let user = User::enter(process, || dir.key_of(&file), || dir.open_existing(&file)?.ok_or_else(gone))?;
    let ask = |file: &OpenLock| -> sys::Result<Seen> {
        let holder = match process.table.held(&user.file) {
            Some(mode) => Some(Holder { mode, pid: Some(sys::pid()) }),
            None => sys::holder(file.as_fd(), LockMode::Exclusive)?,
        };
        let Meta { size, ino: inode, .. } = sys::stat_open(file)?;
        let text = mark::text_in(file, size)?;
        let guards = guarded(&text, path.file_name().unwrap_or_default().as_bytes()).map(Path::to_owned);
        let intent = if is_marked(size) { mark::name_in(file)? } else { None };
        let intent = intent.map(|name| dir.path_of(&name));
        Ok(Seen { holder, guards, intent, waiters: None, inode })
    };
    // The file was closed meanwhile, because an unlock failed.
    let nothing = || Ok(Seen { holder: None, guards: None, intent: None, waiters: None, inode: 0 });
    process.table.with_file(&user.file, ask).unwrap_or_else(nothing).map_err(failed)
}
