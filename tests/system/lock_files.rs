//! The lock files of several users: whether a user can use the lock file of another one.

use std::fs;
use std::os::unix::fs::chown;

#[cfg(target_os = "linux")]
use atomic_file_adapter::AtomicFileAdapter;

#[cfg(target_os = "linux")]
use crate::common::acl::{self, Acl, Tag};
use crate::modes::under_umask;
use crate::users::{as_user, assert_lock_denied};
use crate::{Scratch, mode, owner, set_mode};

/// The modes of lock directories that are shared, and of the lock files in them.
const SHARED: [(u32, u32); 7] = [
    (0o2775, 0o664),
    (0o2770, 0o660),
    (0o0770, 0o660),
    (0o1777, 0o666),
    (0o0777, 0o666),
    (0o2755, 0o644),
    (0o2700, 0o600),
];

const PROJECT: u32 = 4321;
/// Two users of the directory's group.
const ALICE: &str = "5001,4321";
const BOB: &str = "5002,4321";

pub(crate) fn follow_the_directory(args: &[String]) {
    let (builder, dir) = under_umask(args);
    fs::write(dir.join("std"), "").unwrap();
    let private = [0o755, 0o750, 0o700].map(|private| (private, mode(&dir.join("std"))));
    for (dirs, expected) in SHARED.into_iter().chain(private) {
        let locks = dir.join(format!("{dirs:o}"));
        fs::create_dir(&locks).unwrap();
        set_mode(&locks, dirs);
        let file = builder.clone().lock_dir(&locks).build().unwrap().file(dir.join("file")).unwrap();
        drop(file.lock().unwrap());
        assert_eq!(format!("{:o}", mode(file.lock_path())), format!("{expected:o}"), "{dirs:o}, {args:?}");
    }
}

pub(crate) fn have_the_builders_mode(args: &[String]) {
    let (builder, dir) = under_umask(args);
    for dirs in [0o700, 0o755, 0o2775] {
        for exact in [0o666, 0o660, 0o664, 0o600, 0o644] {
            let builder = builder.clone().lock_dir(dir.join(format!("{dirs:o}-{exact:o}")));
            let adapter = builder.clone().lock_file_mode(exact).build().unwrap();
            fs::create_dir(adapter.lock_dir()).unwrap();
            set_mode(adapter.lock_dir(), dirs);
            adapter.write_atomic(dir.join("file"), "new").unwrap();
            let lock = adapter.lock_path(dir.join("file")).unwrap();
            assert_eq!(format!("{:o}", mode(&lock)), format!("{exact:o}"), "{dirs:o}, {args:?}");
            // Existing lock files stay as they are.
            builder.lock_file_mode(0o606).build().unwrap().write_atomic(dir.join("file"), "newer").unwrap();
            assert_eq!(format!("{:o}", mode(&lock)), format!("{exact:o}"), "{dirs:o}, {args:?}");
        }
    }
}

/// This case needs other users, and so Linux.
#[cfg(not(target_os = "linux"))]
pub(crate) fn a_default_list_of_the_directory_counts() {
    unreachable!("it needs Linux");
}

/// A default access control list of the lock directory decides who may use new lock files, unless the builder sets an
/// exact mode.
#[cfg(target_os = "linux")]
pub(crate) fn a_default_list_of_the_directory_counts() {
    let list =
        Acl::new(&[(Tag::UserObj, 7), (Tag::User(5002), 6), (Tag::GroupObj, 5), (Tag::Mask, 7), (Tag::Other, 0)]);
    for (exact, bobs) in [(None, Some(6)), (Some(0o600), None)] {
        let scratch = project(0o2770);
        acl::set_acl(scratch.adapter.lock_dir(), acl::DEFAULT, Some(&list));
        let builder = AtomicFileAdapter::builder().lock_dir(scratch.adapter.lock_dir());
        let builder = exact.map_or(builder.clone(), |mode| builder.lock_file_mode(mode));
        let adapter = builder.build().unwrap();
        let path = scratch.path("file");
        adapter.write_atomic(&path, "new").unwrap();
        let lock = adapter.lock_path(&path).unwrap();
        let found = acl::attribute(&lock, acl::ACCESS).map(|bytes| Acl::decode(&bytes));
        let bob = found.as_ref().and_then(|list| list.get(Tag::User(5002)));
        assert_eq!(bob, bobs, "{exact:?}: {found:?}");
        if let Some(exact) = exact {
            assert_eq!(mode(&lock), exact);
        }
    }
}

/// The directory of a project, and its lock directory.
fn project(dirs: u32) -> Scratch {
    let scratch = Scratch::new();
    for dir in [&scratch.dir, scratch.adapter.lock_dir()] {
        chown(dir, Some(0), Some(PROJECT)).unwrap();
        set_mode(dir, dirs);
    }
    scratch
}

pub(crate) fn two_users_of_a_group_share_a_directory() {
    for dirs in [0o2770, 0o2775, 0o770, 0o775] {
        let scratch = project(dirs);
        let path = scratch.path("file");
        for (user, verb, answer) in
            [(ALICE, "write", "done"), (BOB, "read", "new"), (BOB, "write", "done"), (ALICE, "update", "done")]
        {
            assert_eq!(as_user(user, verb, &scratch, &path), answer, "{dirs:o}, {user}");
        }
        let lock = scratch.adapter.lock_path(&path).unwrap();
        assert_eq!((owner(&lock), mode(&lock)), ((5001, PROJECT), dirs & 0o666), "{dirs:o}");
    }
}

pub(crate) fn a_write_of_roots_locks_nobody_out() {
    // The first user was a reader, or root. Either the directory is shared, or the adapter's mode shares its lock
    // files.
    for (dirs, verb) in [(0o2775, "write"), (0o775, "write"), (0o2775, "read"), (0o755, "sharing write")] {
        let scratch = project(dirs);
        if dirs == 0o755 {
            chown(&scratch.dir, Some(5001), None).unwrap();
            chown(scratch.adapter.lock_dir(), Some(5001), None).unwrap();
        }
        let path = scratch.path("file");
        as_user("0", verb, &scratch, &path);
        assert_eq!(as_user(ALICE, "write", &scratch, &path), "done", "{dirs:o}, {verb}");
    }
}

pub(crate) fn in_a_private_directory_nothing_has_changed() {
    let scratch = project(0o755);
    chown(&scratch.dir, Some(5001), None).unwrap();
    chown(scratch.adapter.lock_dir(), Some(5001), None).unwrap();
    let path = scratch.path("file");
    assert_eq!(as_user("0", "write", &scratch, &path), "done");
    let lock = scratch.adapter.lock_path(&path).unwrap();
    assert_eq!((owner(&lock), mode(&lock)), ((0, 0), 0o644));
    let answer = as_user(ALICE, "write", &scratch, &path);
    assert_lock_denied(&answer, &lock, "0", 0o644);
    // The message contains the remedy, and the remedy works.
    assert!(answer.contains("belongs to user 0 and has mode 0644") && answer.contains("chmod"), "{answer}");
    set_mode(&lock, 0o666);
    assert_eq!(as_user(ALICE, "write", &scratch, &path), "done");
}

/// The group of the first user does not get the rights of the directory's group.
pub(crate) fn another_group_than_the_directorys_gets_nothing() {
    let scratch = project(0o777);
    set_mode(scratch.adapter.lock_dir(), 0o773);
    // This user is not in the group, and may not give the lock file to it.
    assert_eq!(as_user("5003", "write", &scratch, &scratch.path("file")), "done");
    let lock = scratch.adapter.lock_path(scratch.path("file")).unwrap();
    assert_eq!((owner(&lock), mode(&lock)), ((5003, 5003), 0o622));
}
