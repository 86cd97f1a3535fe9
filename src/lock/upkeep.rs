//! Looking through all lock files: removing those that nobody holds, and telling who holds the others.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use super::process::Process;
use super::{Entered, Lock, LockDir, Patience, c_path};
use crate::error::{Error, Result, Step};
use crate::sys::{self, Errno, Holder, LockMode};

/// Removes the lock files that nobody holds, and returns their paths.
pub(crate) fn prune(dir: &Arc<LockDir>) -> Result<Vec<PathBuf>> {
    let mut pruned = Vec::new();
    for path in dir.list()? {
        let lock = Lock::new(dir, path.clone(), path.as_path().into())?;
        match lock.acquire(LockMode::Exclusive, Patience::NONE) {
            // While the lock is held: whoever has opened the file waits for it, and will find that it is gone.
            Ok(_held) => dir.remove(&lock.file)?,
            Err(Error::WouldBlock { .. }) => continue,
            Err(error) => return Err(error),
        }
        pruned.push(path);
    }
    Ok(pruned)
}

/// All lock files, and of those that are held, how and by whom.
pub(crate) fn list(dir: &Arc<LockDir>) -> Result<Vec<(PathBuf, Option<Holder>)>> {
    let process = Process::current();
    let mut found = Vec::new();
    for path in dir.list()? {
        let file = c_path(&path)?;
        let failed = |error| Error::io(&path, Step::OpenLock, error);
        // Through the table, because closing a descriptor of our own would drop the locks that this process holds.
        let gone = || Error::io(&path, Step::OpenLock, Errno::NOENT);
        let entered = process.table.enter(|| dir.identify(&file), || dir.open_existing(&file)?.ok_or_else(gone));
        let entered = match entered {
            Ok(key) => Entered { process, key },
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let holder = match process.table.held(entered.key) {
            Some(mode) => Some(Holder { mode, pid: Some(sys::pid()) }),
            None => process
                .table
                .with_file(entered.key, |file| sys::holder(file.as_fd(), LockMode::Exclusive))
                .transpose()
                .map_err(failed)?
                .flatten(),
        };
        found.push((path, holder));
    }
    Ok(found)
}
