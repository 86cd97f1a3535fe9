//! The locks of the paths that were used last. Their lock files stay open, so that calls by path need not open and
//! close them each time.

use std::path::Path;
use std::sync::{Arc, Mutex};

use super::{Lock, LockDir};
use crate::error::Result;

/// How many lock files an adapter keeps open.
const KEPT: usize = 16;

/// The last used lock is the last element.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<Vec<Arc<Lock>>>);

impl Recent {
    /// The lock of a canonical path that was used lately. Another spelling of the path does not find it.
    pub(crate) fn get(&self, canonical: &Path) -> Option<Arc<Lock>> {
        // Not waited for: in a child made by fork, a thread that exists only in the parent may have locked it for ever.
        let mut recent = self.0.try_lock().ok()?;
        let found = recent.iter().position(|lock| lock.guarded.as_os_str() == canonical.as_os_str())?;
        recent[found..].rotate_left(1);
        recent.last().cloned()
    }

    /// Forgets a lock that its path no longer needs.
    pub(crate) fn forget(&self, lock: &Arc<Lock>) {
        let Ok(mut recent) = self.0.try_lock() else { return };
        let found = recent.iter().position(|other| Arc::ptr_eq(other, lock));
        let forgotten = found.map(|found| recent.remove(found));
        drop(recent);
        // Dropped without the mutex, because the drop may close a file.
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
        // Dropped without the mutex, because the drop may close a file.
        drop(oldest);
        Ok(lock)
    }
}
