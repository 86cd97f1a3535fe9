//! Looking through all lock files: removing those that nobody holds, and telling who holds the others.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::process::{Process, User};
use super::{Lock, LockDir, Patience, c_path};
use crate::error::{Error, Removed, Result, Step};
use crate::sys::{self, Errno, Holder, LockMode};

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

/// All lock files, and of those that are held, how and by whom; an error for what is no lock file or may not be opened.
pub(crate) fn list(dir: &Arc<LockDir>) -> Result<Vec<(PathBuf, Result<Option<Holder>>)>> {
    let mut found = Vec::new();
    for path in dir.list()? {
        match holder(dir, &path) {
            // It was pruned meanwhile.
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            holder => found.push((path, holder)),
        }
    }
    Ok(found)
}

fn holder(dir: &Arc<LockDir>, path: &Path) -> Result<Option<Holder>> {
    let process = Process::current();
    let file = c_path(path)?;
    let failed = |error| Error::io(path, Step::OpenLock, error);
    // Through the table, because closing a descriptor of our own would drop the locks that this process holds.
    let gone = || failed(Errno::NOENT);
    let user = User::enter(process, || dir.identify(&file), || dir.open_existing(&file)?.ok_or_else(gone))?;
    if let Some(mode) = process.table.held(&user.file) {
        return Ok(Some(Holder { mode, pid: Some(sys::pid()) }));
    }
    let asked = process.table.with_file(&user.file, |file| sys::holder(file.as_fd(), LockMode::Exclusive));
    asked.transpose().map_err(failed).map(Option::flatten)
}
