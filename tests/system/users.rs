//! Acting as another user.

use std::path::Path;

use atomic_file_adapter::{AtomicFileAdapter, Durability, Error, Step};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid};

use crate::common::{Worker, tell};
use crate::{Scratch, WRITING, utf8};

/// A user without files.
pub(crate) const NOBODY: &str = "65534";
pub(crate) const NOBODYS_ID: u32 = 65534;
/// Another user.
pub(crate) const STRANGERS_ID: u32 = 1234;

/// Makes one call as another user, in another process. `user` is the uid, followed by the groups that the user has
/// besides the group of the same number. Returns the answer, or the error's kind, step and text.
pub(crate) fn as_user(user: &str, verb: &str, scratch: &Scratch, path: &Path) -> String {
    let mut worker = Worker::start("call", &[user, verb, scratch.locks(), utf8(path)]);
    let answer = worker.hear();
    worker.finish();
    answer
}

pub(crate) fn call(args: &[String]) {
    let [user, verb, locks, path] = args else { panic!("{args:?}") };
    become_user(user);
    umask(Mode::from_bits_truncate(0o022));
    let builder = AtomicFileAdapter::builder().lock_dir(locks);
    let ordered = builder.clone().durability(Durability::Ordered).build().unwrap();
    let sharing = builder.clone().lock_file_mode(0o666).build().unwrap();
    let adapter = builder.build().unwrap();
    let answer = match verb.as_str() {
        "read" => adapter.read_to_string_with_lock(path).map(|contents| contents.unwrap_or("nothing".to_owned())),
        "read unlocked" => adapter
            .read_unlocked(path)
            .map(|read| read.map_or("nothing".to_owned(), |read| String::from_utf8(read).unwrap())),
        "delete" => adapter.delete_with_lock(path).map(|found| found.to_string()),
        "ordered write" => ordered.write_atomic(path, "new").map(|()| "done".to_owned()),
        "sharing write" => sharing.write_atomic(path, "new").map(|()| "done".to_owned()),
        "ordered delete" => ordered.delete_with_lock(path).map(|found| found.to_string()),
        _ => {
            let (_, write) = WRITING.into_iter().find(|(known, _)| known == verb).expect("a verb");
            write(&adapter, Path::new(path), b"new").map(|()| "done".to_owned())
        }
    };
    tell(&answer.unwrap_or_else(|error| {
        let step = match &error {
            Error::Io { step, .. } => format!("{step:?}"),
            Error::LockFileDenied { owner, mode, .. } => {
                let owner = owner.map_or("nobody".to_owned(), |id| id.to_string());
                format!("lock file of {owner}, {:o}", mode.unwrap_or(0))
            }
            _ => String::new(),
        };
        format!("{:?} {step}: {error}", error.kind())
    }));
}

pub(crate) fn become_user(user: &str) {
    let mut ids = user.split(',').map(|id| id.parse().unwrap());
    let id = ids.next().unwrap();
    #[cfg(target_os = "linux")]
    nix::unistd::setgroups(&ids.map(Gid::from_raw).collect::<Vec<_>>()).unwrap();
    nix::unistd::setgid(Gid::from_raw(id)).unwrap();
    nix::unistd::setuid(Uid::from_raw(id)).unwrap();
}

/// Fails unless the call failed because of the lock file of this user with this mode.
#[track_caller]
pub(crate) fn assert_lock_denied(answer: &str, lock: &Path, owner: &str, mode: u32) {
    let start = format!("PermissionDenied lock file of {owner}, {mode:o}: ");
    assert!(answer.starts_with(&start) && answer.contains(utf8(lock)), "no {start:?} for {lock:?}: {answer}");
}

#[track_caller]
pub(crate) fn assert_denied(answer: &str, step: Step, named: &Path) {
    let start = format!("PermissionDenied {step:?}: ");
    assert!(answer.starts_with(&start) && answer.contains(utf8(named)), "no {start:?} for {named:?}: {answer}");
}
