//! Permissions.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, lchown, symlink};

use atomic_file_adapter::{AtomicFileAdapter, Error, Step};

use crate::common::names;
use crate::users::{NOBODY, NOBODYS_ID, STRANGERS_ID, as_user, assert_denied, assert_lock_denied};
use crate::{Scratch, WRITING, mode, owner, set_mode};

pub(crate) fn without_write_permission_nothing_happens() {
    let scratch = Scratch::new();
    let dir = scratch.make_dir("dir", 0, 0o555);
    // Write permission for the file itself does not help.
    let path = scratch.make("dir/file", NOBODYS_ID, 0o666);
    let missing = dir.join("missing");
    let cases = [
        ("write", &path, Step::CreateTemporary),
        ("update", &path, Step::CreateTemporary),
        ("writer", &path, Step::CreateTemporary),
        ("delete", &path, Step::Remove),
        ("write", &missing, Step::CreateTemporary),
        ("write", &missing.join("file"), Step::CreateDirectory),
    ];
    for (verb, path, step) in cases {
        assert_denied(&as_user(NOBODY, verb, &scratch, path), step, path);
        assert_eq!(names(&dir), ["file"], "{verb}");
    }
    assert_eq!(as_user(NOBODY, "delete", &scratch, &missing), "false");
    assert_eq!(as_user(NOBODY, "read", &scratch, &missing), "nothing");
    assert_eq!(as_user(NOBODY, "read", &scratch, &path), "old");
}

pub(crate) fn what_may_not_be_seen_is_not_missing() {
    let scratch = Scratch::new();
    let secret = scratch.make("secret", 0, 0o600);
    scratch.make_dir("closed", 0, 0o700);
    let inside = scratch.make("closed/file", NOBODYS_ID, 0o666);
    for verb in ["read", "update", "write", "delete"] {
        for path in [&inside, &scratch.path("closed/missing"), &scratch.path("closed/missing/file")] {
            assert_denied(&as_user(NOBODY, verb, &scratch, path), Step::Resolve, path);
        }
    }
    assert_denied(&as_user(NOBODY, "read", &scratch, &secret), Step::Open, &secret);
    assert_eq!(names(&scratch.path("closed")), ["file"]);
    assert_eq!(fs::read_to_string(inside).unwrap(), "old");
}

pub(crate) fn an_unreadable_directory() {
    let scratch = Scratch::new();
    let dir = scratch.make_dir("dir", NOBODYS_ID, 0o311);
    let path = scratch.make("dir/file", NOBODYS_ID, 0o644);
    assert_eq!(as_user(NOBODY, "read", &scratch, &path), "old");
    let inode = path.metadata().unwrap().ino();
    for verb in ["write", "update", "writer", "delete"] {
        assert_denied(&as_user(NOBODY, verb, &scratch, &path), Step::SyncDirectory, &path);
        assert_eq!((fs::read_to_string(&path).unwrap(), path.metadata().unwrap().ino()), ("old".to_owned(), inode));
        assert_eq!(names(&dir), ["file"], "{verb}");
    }
    assert_eq!(as_user(NOBODY, "ordered write", &scratch, &path), "done");
    assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    assert_eq!(names(&dir), ["file"]);
    assert_eq!(as_user(NOBODY, "ordered delete", &scratch, &path), "true");
    assert_eq!(names(&dir), [""; 0]);
}

pub(crate) fn a_read_only_lock_file_serves_readers() {
    let scratch = Scratch::new();
    let dir = scratch.make_dir("dir", NOBODYS_ID, 0o755);
    let path = scratch.make("dir/file", NOBODYS_ID, 0o644);
    scratch.adapter.read_with_lock(&path).unwrap();
    let lock = scratch.adapter.lock_path(&path).unwrap();
    set_mode(&lock, 0o644);
    set_mode(scratch.adapter.lock_dir(), 0o755);
    assert_eq!((owner(&lock), mode(&lock)), ((0, 0), 0o644));

    assert_eq!(as_user(NOBODY, "read", &scratch, &path), "old");
    for verb in ["write", "update", "writer", "delete"] {
        assert_lock_denied(&as_user(NOBODY, verb, &scratch, &path), &lock, "0", 0o644);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old", "{verb}");
        assert_eq!(names(&dir), ["file"], "{verb}");
    }

    set_mode(&lock, 0o600);
    assert_lock_denied(&as_user(NOBODY, "read", &scratch, &path), &lock, "0", 0o600);
    assert_eq!(as_user(NOBODY, "read unlocked", &scratch, &path), "old");
    // Without a lock file, and without permission to make one, a reader would not exclude writers.
    fs::remove_file(&lock).unwrap();
    assert_lock_denied(&as_user(NOBODY, "read", &scratch, &path), &lock, "nobody", 0);
    assert_eq!(as_user(NOBODY, "read unlocked", &scratch, &path), "old");
    assert!(!lock.exists());
}

pub(crate) fn links_in_sticky_directories() {
    let (nobody, stranger, root) = (NOBODYS_ID, STRANGERS_ID, 0);
    // The directory's owner and mode, the link's owner, the caller, and whether the link may be followed.
    let cases = [
        (root, 0o1777, stranger, NOBODY, false),
        (root, 0o1777, nobody, NOBODY, true),
        (root, 0o1777, root, NOBODY, true),
        (root, 0o0777, stranger, NOBODY, true),
        (root, 0o1775, stranger, NOBODY, true),
        (stranger, 0o1777, stranger, NOBODY, true),
        (stranger, 0o1777, root, NOBODY, false),
        (root, 0o1777, stranger, "0", false),
        (nobody, 0o1777, nobody, "0", true),
    ];
    for case @ (dirs_owner, dirs_mode, links_owner, caller, may_follow) in cases {
        let scratch = Scratch::new();
        let targets = scratch.make_dir("targets", NOBODYS_ID, 0o755);
        let target = scratch.make("targets/file", NOBODYS_ID, 0o644);
        let sticky = scratch.make_dir("sticky", dirs_owner, dirs_mode);
        for (link, target) in [("link", "file"), ("dangling", "new")] {
            symlink(targets.join(target), sticky.join(link)).unwrap();
            lchown(sticky.join(link), Some(links_owner), Some(links_owner)).unwrap();
        }
        // The second link of a chain is checked, too.
        symlink("sticky/link", scratch.path("chain")).unwrap();

        for path in [&sticky.join("link"), &scratch.path("chain")] {
            if may_follow {
                assert_eq!(as_user(caller, "write", &scratch, path), "done", "{case:?}");
                assert_eq!(fs::read_to_string(&target).unwrap(), "new", "{case:?}");
                assert_eq!(as_user(caller, "read", &scratch, path), "new", "{case:?}");
                fs::write(&target, "old").unwrap();
            } else {
                for verb in ["write", "update", "writer", "delete", "read"] {
                    assert_denied(&as_user(caller, verb, &scratch, path), Step::Resolve, path);
                    assert_eq!(fs::read_to_string(&target).unwrap(), "old", "{case:?}");
                }
            }
        }
        let dangling = as_user(caller, "write", &scratch, &sticky.join("dangling"));
        assert_eq!(dangling == "done", may_follow, "{case:?}: {dangling}");
        assert_eq!(targets.join("new").exists(), may_follow, "{case:?}");
        assert_eq!(names(&sticky), ["dangling", "link"], "{case:?}");
        assert!(sticky.join("link").is_symlink() && sticky.join("dangling").is_symlink(), "{case:?}");
    }
}

pub(crate) fn a_link_where_a_file_was_used_lately() {
    for (verb, write) in WRITING {
        let scratch = Scratch::new();
        scratch.make_dir("sticky", 0, 0o1777);
        let target = scratch.make("target", NOBODYS_ID, 0o644);
        let path = scratch.make("sticky/file", 0, 0o644);
        let adapter = AtomicFileAdapter::with_lock_dir(scratch.locks()).unwrap();
        adapter.write_atomic(&path, "used").unwrap();
        adapter.write_atomic(&path, "used").unwrap();
        fs::remove_file(&path).unwrap();
        symlink(&target, &path).unwrap();
        lchown(&path, Some(STRANGERS_ID), Some(STRANGERS_ID)).unwrap();
        for refused in [write(&adapter, &path, b"new"), adapter.read_with_lock(&path).map(drop)] {
            let error = refused.unwrap_err();
            let told = matches!(&error, Error::Io { step: Step::Resolve, .. });
            assert!(told && error.kind() == io::ErrorKind::PermissionDenied, "{verb}: {error:?}");
        }
        assert_eq!((fs::read_to_string(&target).unwrap().as_str(), path.is_symlink()), ("old", true), "{verb}");
        // The caller's own link is followed.
        lchown(&path, Some(0), Some(0)).unwrap();
        write(&adapter, &path, b"new").unwrap();
        assert!(path.is_symlink(), "{verb}");
    }
}

pub(crate) fn files_in_sticky_directories() {
    let scratch = Scratch::new();
    let sticky = scratch.make_dir("sticky", 0, 0o1777);
    let theirs = scratch.make("sticky/theirs", STRANGERS_ID, 0o666);
    let own = scratch.make("sticky/own", NOBODYS_ID, 0o644);
    for (verb, step) in
        [("write", Step::Rename), ("update", Step::Rename), ("writer", Step::Rename), ("delete", Step::Remove)]
    {
        assert_denied(&as_user(NOBODY, verb, &scratch, &theirs), step, &theirs);
        assert_eq!(fs::read_to_string(&theirs).unwrap(), "old", "{verb}");
        assert_eq!(names(&sticky), ["own", "theirs"], "{verb}");
    }
    assert_eq!(as_user(NOBODY, "read", &scratch, &theirs), "old");
    assert_eq!(as_user(NOBODY, "write", &scratch, &own), "done");
}
