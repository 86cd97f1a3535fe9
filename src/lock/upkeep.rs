//! Looking through all lock files: removing those that nobody holds, and telling who holds the others.

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

/// False: somebody holds it.
fn prune_one(dir: &Arc<LockDir>, path: &Path) -> Result<bool> {
    let lock = Lock::new(dir, path.to_owned(), path.into())?;
    match lock.acquire(LockMode::Exclusive, &Patience::none()) {
        // While the lock is held: whoever has opened the file waits for it, and will find that it is gone.
        Ok(held) => {
            held.check_kept(false)?;
            dir.remove(&lock.file).map(|()| true)
        }
        Err(Error::WouldBlock { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What a look at a lock file tells.
pub(crate) struct Seen {
    /// How it is held and by whom, if it is.
    pub(crate) holder: Option<Holder>,
    /// What it is named after, if that is in it.
    pub(crate) guards: Option<PathBuf>,
    /// The intent that it is marked with.
    pub(crate) intent: Option<PathBuf>,
    /// The processes that wait for it, if the system tells.
    pub(crate) waiters: Option<Vec<u32>>,
    inode: u64,
}

/// All lock files; an error for what is no lock file or may not be opened.
pub(crate) fn list(dir: &Arc<LockDir>) -> Result<Vec<(PathBuf, Result<Seen>)>> {
    look_at(dir, dir.list()?)
}

/// The same of one lock file, if there is such a one.
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
        // One look for all of them.
        let waiters = sys::waiters(&c_path(dir.path())?);
        for seen in &mut seen {
            seen.waiters = waiters.as_ref().map(|waiters| waiters_of(seen.inode, waiters));
        }
    }
    Ok(found)
}

/// Each of them once, although several of its threads may wait.
fn waiters_of(inode: u64, waiters: &[(u64, u32)]) -> Vec<u32> {
    let here = waiters.iter().filter(|(waited_for, _)| *waited_for == inode).map(|(_, pid)| *pid);
    here.collect::<BTreeSet<u32>>().into_iter().collect()
}

fn look(dir: &Arc<LockDir>, path: &Path) -> Result<Seen> {
    let process = Process::current();
    let file = c_path(path)?;
    let failed = |error| Error::io(path, Step::OpenLock, error);
    // Through the table, because closing a descriptor of our own would drop the locks that this process holds.
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
    // Closed meanwhile, because an unlock failed.
    let nothing = || Ok(Seen { holder: None, guards: None, intent: None, waiters: None, inode: 0 });
    process.table.with_file(&user.file, ask).unwrap_or_else(nothing).map_err(failed)
}
