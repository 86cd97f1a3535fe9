//! The locks of the paths that were used last, with their lock files open: verbs that are given a path need not open and
//! close the lock file each time.

use std::path::Path;
use std::sync::{Arc, Mutex};

use super::{Lock, LockDir};
use crate::error::Result;

/// How many lock files an adapter keeps open.
const KEPT: usize = 16;

/// The last used is last.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<Vec<Arc<Lock>>>);

impl Recent {
    /// The lock of a canonical path that was used lately. Another spelling of that path has none.
    pub(crate) fn get(&self, canonical: &Path) -> Option<Arc<Lock>> {
        // Not waited for: in a child made by fork it may be locked for ever, by a thread that exists in the parent only.
        let mut recent = self.0.try_lock().ok()?;
        let found = recent.iter().position(|lock| lock.guarded.as_os_str() == canonical.as_os_str())?;
        recent[found..].rotate_left(1);
        recent.last().cloned()
    }

    /// Forgets a lock that is not what its path needs any more.
    pub(crate) fn forget(&self, lock: &Arc<Lock>) {
        let Ok(mut recent) = self.0.try_lock() else { return };
        let found = recent.iter().position(|other| Arc::ptr_eq(other, lock));
        let forgotten = found.map(|found| recent.remove(found));
        drop(recent);
        // To drop it may close a file, which others need not wait for.
        drop(forgotten);
    }

    /// The lock of a canonical path.
    pub(crate) fn lock_of(&self, dir: &Arc<LockDir>, canonical: &Arc<Path>) -> Result<Arc<Lock>> {
        // As above.
        let Ok(mut recent) = self.0.try_lock() else { return Ok(Arc::new(Lock::of(dir, canonical)?)) };
        let lock = match recent.iter().position(|lock| lock.guarded == *canonical) {
            Some(found) => recent.remove(found),
            None => Arc::new(Lock::of(dir, canonical)?),
        };
        let oldest = if recent.len() == KEPT { Some(recent.remove(0)) } else { None };
        recent.push(lock.clone());
        drop(recent);
        // To drop it may close a file, which others need not wait for.
        drop(oldest);
        Ok(lock)
    }
}
