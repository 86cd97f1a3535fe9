//! User namespaces. An owner who is not mapped looks like the overflow id (user_namespaces(7), "Unmapped user and group
//! IDs"), which may also be a real user.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use atomic_file_adapter::AtomicFileAdapter;
use atomic_file_adapter::fault::{Action, Call, inject};
use nix::sched::{CloneFlags, unshare};

use crate::common::acl::{ACCESS, Acl, Tag, set_acl};
use crate::common::{Worker, hear, names, tell};
use crate::stories::{Scratch, mode, set_mode};
use crate::users::{GROUP, MEMBER, NAMED, OWNER, User, opened_by};

/// The id that the kernel shows for one that the namespace does not map.
const OVERFLOW: u32 = 65534;
/// The ids of the namespace's root and of its overflow user outside.
const ROOT: u32 = 5000;
const NOBODY: u32 = 5001;

/// The namespace's user with the overflow id, seen from outside.
fn nobody() -> User {
    User { name: "the namespace's nobody", uid: NOBODY, gid: NOBODY, groups: Vec::new() }
}

/// Writes in a user namespace with these maps. At each call and at the end, the namespace's user with the overflow id
/// must not be able to open any file.
fn write_in_a_namespace(scratch: &Scratch, path: &Path, uid_map: &str, gid_map: &str) {
    scratch.share_lock(path);
    let places = [scratch.adapter.lock_dir().to_str().unwrap(), path.to_str().unwrap()];
    let mut worker = Worker::start("write_in_a_namespace", &places);
    worker.expect("in the namespace");
    for (file, map) in [("uid_map", uid_map), ("gid_map", gid_map)] {
        fs::write(format!("/proc/{}/{file}", worker.pid()), map).unwrap();
    }
    worker.tell("mapped");
    loop {
        let line = worker.hear();
        let Some(call) = line.strip_prefix("before ") else {
            assert_eq!(line, "done");
            break;
        };
        look(&scratch.files, &format!("before {call}"));
        worker.tell("on");
    }
    worker.finish();
    look(&scratch.files, "at the end");
    assert_eq!(names(&scratch.files), ["file"]);
    assert_eq!(fs::read_to_string(path).unwrap(), "new");
}

fn look(files: &Path, when: &str) {
    for name in names(files) {
        assert_eq!(opened_by(&nobody(), &files.join(&name)), "--", "{name:?} {when}");
    }
}

/// The worker.
pub(crate) fn write(args: &[String]) {
    let [locks, path] = args else { panic!("{args:?}") };
    unshare(CloneFlags::CLONE_NEWUSER).unwrap();
    tell("in the namespace");
    assert_eq!(hear(), "mapped");
    User { name: "root", uid: 0, gid: 0, groups: Vec::new() }.become_it();
    let decide = |call: &Call<'_>| {
        tell(&format!("before {call}"));
        assert_eq!(hear(), "on");
        Action::Proceed
    };
    let written = AtomicFileAdapter::with_lock_dir(locks)
        .and_then(|adapter| inject(decide, || adapter.write_atomic(path, "new")).0);
    tell(&written.map_or_else(|error| error.to_string(), |()| "done".to_owned()));
}

fn some_ids() -> String {
    format!("0 {ROOT} 1\n{OVERFLOW} {NOBODY} 1\n")
}

pub(crate) fn a_file_whose_owner_is_not_mapped_is_not_nobodys() {
    for before in [0o600, 0o640, 0o660, 0o4750, 0o6770, 0o2750] {
        let scratch = Scratch::new();
        let path = scratch.make(OWNER, GROUP, before);
        write_in_a_namespace(&scratch, &path, &some_ids(), &some_ids());
        let meta = path.metadata().unwrap();
        assert_eq!((meta.uid(), meta.gid()), (ROOT, ROOT), "{before:o}");
        assert_eq!(mode(&path) & 0o6000, 0, "{before:o}");
    }
}

/// The kernel shows such an entry with an id that it does not accept back (`posix_acl_to_xattr` in fs/posix_acl.c), so
/// the list cannot be kept. Then the mask must not become the group's bits.
pub(crate) fn an_unmapped_user_in_an_acl_stays_out() {
    let scratch = Scratch::new();
    let named = User::new("the named user", NAMED, &[ROOT]);
    let member = User::new("a member of the group", MEMBER, &[ROOT]);
    for (for_named, for_group, for_others) in [(6, 0, 0), (0, 4, 0), (0, 6, 0)] {
        let path = scratch.make(ROOT, ROOT, 0o600);
        let entries = [
            (Tag::UserObj, 6),
            (Tag::User(NAMED), for_named),
            (Tag::GroupObj, for_group),
            (Tag::Mask, 6),
            (Tag::Other, for_others),
        ];
        set_acl(&path, ACCESS, Some(&Acl::new(&entries)));
        let before = [opened_by(&named, &path), opened_by(&member, &path)];
        write_in_a_namespace(&scratch, &path, &some_ids(), &some_ids());
        let after = [opened_by(&named, &path), opened_by(&member, &path)];
        for (before, after) in before.iter().zip(&after) {
            let wider = before.chars().zip(after.chars()).any(|(before, after)| before == '-' && after != '-');
            assert!(!wider, "{before}, then {after}");
        }
        let meta = path.metadata().unwrap();
        assert_eq!((meta.uid(), meta.gid()), (ROOT, ROOT));
        fs::remove_file(&path).unwrap();
    }
}

pub(crate) fn a_group_that_is_not_mapped_is_not_nobodys() {
    let scratch = Scratch::new();
    for before in [0o660, 0o640, 0o2750] {
        // The owner is mapped, and is kept.
        let path = scratch.make(ROOT, GROUP, before);
        write_in_a_namespace(&scratch, &path, &some_ids(), &some_ids());
        let meta = path.metadata().unwrap();
        assert_eq!((meta.uid(), meta.gid()), (ROOT, ROOT), "{before:o}");
        assert_eq!(mode(&path) & 0o2000, 0, "{before:o}");
        fs::remove_file(&path).unwrap();
    }
}

/// All ids are mapped there, so 65534 is a real user.
pub(crate) fn where_all_ids_are_mapped_nobody_keeps_his_file() {
    let scratch = Scratch::new();
    let path = scratch.make(OVERFLOW, OVERFLOW, 0o640);
    let all = format!("0 0 {}", u32::MAX);
    write_in_a_namespace(&scratch, &path, &all, &all);
    let meta = path.metadata().unwrap();
    assert_eq!((meta.uid(), meta.gid(), mode(&path)), (OVERFLOW, OVERFLOW, 0o640));
}

/// The initial namespace.
pub(crate) fn outside_of_namespaces_nobody_keeps_his_file() {
    let scratch = Scratch::new();
    for before in [0o644, 0o600, 0o6755] {
        let path = scratch.make(0, 0, 0o600);
        chown(&path, Some(OVERFLOW), Some(OVERFLOW)).unwrap();
        set_mode(&path, before);
        scratch.write(&path);
        let meta = path.metadata().unwrap();
        assert_eq!((meta.uid(), meta.gid(), mode(&path)), (OVERFLOW, OVERFLOW, before));
    }
}
