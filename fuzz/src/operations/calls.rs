//! Calls of the crate, watched: some of their system calls go wrong, and none may come in the wrong order.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use atomic_file_adapter::Durability;
use atomic_file_adapter::fault::{Action, Call, Syscall, inject};
use libc::{EINTR, EINVAL, ENOTSUP};
use nix::fcntl::AtFlags;
use nix::sys::stat::{fstat, fstatat};

use super::language::{ERRORS, Fault, Faults};
use crate::sandbox::assert_inside;

/// What was done to the calls of an operation, beyond interrupting and shortening them, which must change nothing.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Hit {
    pub(super) any: bool,
    /// So that a temporary file may be left.
    pub(super) unlink: bool,
}

/// What an operation has changed and not synced.
#[derive(Debug, Default)]
struct Unsynced {
    files: BTreeSet<u64>,
    directories: BTreeSet<u64>,
}

impl Unsynced {
    fn see(&mut self, call: &Call<'_>, durability: Durability) {
        let inode = inode(call);
        match call.syscall {
            Syscall::Write => self.files.extend(inode),
            Syscall::Syncfs => self.files.clear(),
            Syscall::Fsync => {
                self.files.retain(|file| Some(*file) != inode);
                self.directories.retain(|directory| Some(*directory) != inode);
            }
            Syscall::Renameat => {
                let version = fstatat(call.fd.unwrap(), call.path.unwrap(), AtFlags::AT_SYMLINK_NOFOLLOW).unwrap();
                // That of several files may be, where a power cut may come in the middle of them anyway.
                let is_intent = call.new_path.unwrap().extension().is_some_and(|extension| extension == "intent");
                let may_be_torn = self.files.contains(&version.st_ino)
                    && (durability == Durability::Full || durability == Durability::Ordered && !is_intent);
                assert!(!may_be_torn, "a new version is renamed before it is synced");
                self.directories.extend(inode);
            }
            Syscall::Unlinkat | Syscall::Linkat | Syscall::Mkdirat => self.directories.extend(inode),
            _ => {}
        }
    }
}

/// A directory may be open several times.
fn inode(call: &Call<'_>) -> Option<u64> {
    call.fd.map(|fd| fstat(fd).unwrap().st_ino)
}

/// What came of a call.
pub(super) struct Called<T> {
    pub(super) result: T,
    pub(super) hit: Hit,
    /// It has left a directory unsynced.
    pub(super) unsynced: bool,
}

/// Makes a call of the crate under the eyes of the tests, with these faults.
pub(super) fn call<T>(durability: Durability, faults: Option<&Faults>, body: impl FnOnce() -> T) -> Called<T> {
    let unsynced = Rc::new(RefCell::new(Unsynced::default()));
    let seen = unsynced.clone();
    let hit = Rc::new(Cell::new(Hit::default()));
    let mut coming = faults.map(|faults| faults.0.clone()).unwrap_or_default();
    coming.truncate(4);
    coming.reverse();
    let hits = hit.clone();
    let decide = move |call: &Call<'_>| {
        assert_inside(call);
        let action = next_fault(&mut coming);
        if let Action::Fail(error) = action {
            // To a directory it says that there is no such sync, and then nothing is left to be done.
            if call.syscall == Syscall::Fsync && [EINVAL, ENOTSUP].contains(&error) {
                seen.borrow_mut().directories.retain(|directory| Some(*directory) != inode(call));
            }
            // One that was interrupted is made again.
            if error != EINTR {
                let unlink = hits.get().unlink || call.syscall == Syscall::Unlinkat;
                hits.set(Hit { any: true, unlink });
            }
            return action;
        }
        if action == Action::Short(0) && call.syscall == Syscall::Write {
            hits.set(Hit { any: true, ..hits.get() });
        }
        // Only what is made counts.
        seen.borrow_mut().see(call, durability);
        action
    };
    let (result, _) = inject(decide, body);
    let unsynced = !unsynced.borrow().directories.is_empty();
    Called { result, hit: hit.get(), unsynced }
}

/// What becomes of the next call.
fn next_fault(coming: &mut Vec<(u8, Fault)>) -> Action {
    let Some((left, fault)) = coming.last_mut() else { return Action::Proceed };
    if *left > 0 {
        *left -= 1;
        return Action::Proceed;
    }
    let fault = *fault;
    coming.pop();
    match fault {
        Fault::Interrupted => Action::Fail(EINTR),
        Fault::Short(len) => Action::Short(len.into()),
        Fault::Fails(error) => Action::Fail(ERRORS[usize::from(error) % ERRORS.len()]),
    }
}
