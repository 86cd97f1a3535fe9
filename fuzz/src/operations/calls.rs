//! Calls of the crate, under watch. Some of their system calls fail, and none may come in the wrong order.

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

/// The faults of an operation's calls, except interruptions and short pieces, which must change nothing.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Hit {
    pub(super) any: bool,
    /// The removal of a temporary file may have failed, so that it is left.
    pub(super) unlink: bool,
}

/// The changes of an operation that it has not synced.
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
                // With `Ordered` an intent may be renamed without a sync, because a power cut may leave half of the change
                // anyway.
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

/// By inode, because a directory may be open several times.
fn inode(call: &Call<'_>) -> Option<u64> {
    call.fd.map(|fd| fstat(fd).unwrap().st_ino)
}

/// The result of a call.
pub(super) struct Called<T> {
    pub(super) result: T,
    pub(super) hit: Hit,
    /// It has left a directory without a sync.
    pub(super) unsynced: bool,
}

/// Makes a call of the crate under watch, with these faults.
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
            // For a directory this means that there is no such sync, so nothing is left to do.
            if call.syscall == Syscall::Fsync && [EINVAL, ENOTSUP].contains(&error) {
                seen.borrow_mut().directories.retain(|directory| Some(*directory) != inode(call));
            }
            // A call that was interrupted is made again.
            if error != EINTR {
                let unlink = hits.get().unlink || call.syscall == Syscall::Unlinkat;
                hits.set(Hit { any: true, unlink });
            }
            return action;
        }
        if action == Action::Short(0) && call.syscall == Syscall::Write {
            hits.set(Hit { any: true, ..hits.get() });
        }
        // Only calls that are made count.
        seen.borrow_mut().see(call, durability);
        action
    };
    let (result, _) = inject(decide, body);
    let unsynced = !unsynced.borrow().directories.is_empty();
    Called { result, hit: hit.get(), unsynced }
}

/// The action for the next call.
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
