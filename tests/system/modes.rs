//! Modes and owners.

use std::fs;
use std::path::Path;

use atomic_file_adapter::AtomicFileAdapter;
use nix::sys::stat::{Mode, umask};

use crate::common::{Worker, names};
use crate::users::{NOBODY, NOBODYS_ID, STRANGERS_ID, as_user};
use crate::{Scratch, WRITING, mode, owner, set_mode, utf8};

const UMASKS: [&str; 3] = ["0", "022", "077"];

/// Runs a worker for each umask, because a umask is the whole process's.
pub(crate) fn with_each_umask(worker: &str) {
    for umask in UMASKS {
        let scratch = Scratch::new();
        Worker::start(worker, &[umask, scratch.locks(), utf8(&scratch.dir)]).finish();
    }
}

/// In a worker of [`with_each_umask`]: the settings of an adapter, and the directory for the files.
pub(crate) fn under_umask(args: &[String]) -> (atomic_file_adapter::Builder, &Path) {
    let [mask, locks, dir] = args else { panic!("{args:?}") };
    umask(Mode::from_bits(libc::mode_t::from_str_radix(mask, 8).unwrap()).unwrap());
    (AtomicFileAdapter::builder().lock_dir(locks), Path::new(dir))
}

pub(crate) fn keep_modes(args: &[String]) {
    let (builder, dir) = under_umask(args);
    // A mode for new files does not apply to existing files.
    for builder in [builder.clone(), builder.new_file_mode(0o604)] {
        let adapter = builder.build().unwrap();
        for before in [0o600, 0o640, 0o664, 0o755, 0o444, 0o666, 0o400, 0o777, 0o471, 0o2755, 0o4755, 0o1644] {
            for (verb, write) in WRITING {
                let path = dir.join("file");
                fs::write(&path, "old").unwrap();
                set_mode(&path, before);
                write(&adapter, &path, b"new").unwrap();
                assert_eq!(format!("{:o}", mode(&path)), format!("{before:o}"), "{verb}, {args:?}");
                assert_eq!(names(dir), ["file"]);
                fs::remove_file(&path).unwrap();
            }
        }
    }
}

pub(crate) fn make_like_std(args: &[String]) {
    let (builder, dir) = under_umask(args);
    let adapter = builder.build().unwrap();
    fs::write(dir.join("std"), "new").unwrap();
    fs::create_dir(dir.join("std-dir")).unwrap();
    for (verb, write) in WRITING {
        write(&adapter, &dir.join("dir").join(verb), b"new").unwrap();
        assert_eq!(mode(&dir.join("dir").join(verb)), mode(&dir.join("std")), "{verb}, {args:?}");
    }
    assert_eq!(mode(&dir.join("dir")), mode(&dir.join("std-dir")), "{args:?}");
}

pub(crate) fn make_exact(args: &[String]) {
    let (builder, dir) = under_umask(args);
    for exact in [0o640, 0o600, 0o666, 0o444, 0o777, 0] {
        let adapter = builder.clone().new_file_mode(exact).build().unwrap();
        for (verb, write) in WRITING {
            let path = dir.join(format!("{verb}-{exact}"));
            write(&adapter, &path, b"new").unwrap();
            assert_eq!(format!("{:o}", mode(&path)), format!("{exact:o}"), "{verb}, {args:?}");
        }
    }
}

pub(crate) fn set_exactly(args: &[String]) {
    let (builder, dir) = under_umask(args);
    let file = builder.build().unwrap().file(dir.join("file")).unwrap();
    let guard = file.lock().unwrap();
    assert!(!guard.set_mode(0o600).unwrap(), "there is no such file");
    guard.write("old").unwrap();
    for exact in [0o600, 0o666, 0o4755, 0o444, 0o1777, 0o640] {
        assert!(guard.set_mode(exact).unwrap());
        assert_eq!(format!("{:o}", mode(file.path())), format!("{exact:o}"), "{args:?}");
        guard.write("new").unwrap();
        assert_eq!(format!("{:o}", mode(file.path())), format!("{exact:o}"), "the next version, {args:?}");
    }
}

/// A program that opened the temporary file can still read it when it has become the file.
pub(crate) fn hide_temporary(args: &[String], exists: bool) {
    let (builder, dir) = under_umask(args);
    let path = dir.join("file");
    for secret in [0o600, 0o640, 0o400, 0o604] {
        let adapter = builder.clone().new_file_mode(if exists { 0o666 } else { secret }).build().unwrap();
        if exists {
            fs::write(&path, "old").unwrap();
            set_mode(&path, secret);
        }
        let file = adapter.file(&path).unwrap();
        let guard = file.lock().unwrap();
        let _writer = guard.writer().unwrap();
        let temporary = names(dir).into_iter().find(|name| name != "file").expect("a temporary file");
        let extra = mode(&dir.join(temporary)) & !secret;
        assert_eq!(extra, 0, "the bits {extra:o}, which {secret:o} has not; {args:?}");
        if exists {
            fs::remove_file(&path).unwrap();
        }
    }
}

pub(crate) fn root_keeps_owner_group_and_setuid_bits() {
    let scratch = Scratch::new();
    for mode_before in [0o644, 0o4755, 0o2755, 0o6755, 0o2644, 0o600] {
        for (uid, gid) in [(STRANGERS_ID, 5678), (STRANGERS_ID, 0), (0, 5678), (0, 0)] {
            for (verb, write) in WRITING {
                let path = scratch.make_in_group("file", uid, gid, mode_before);
                write(&scratch.adapter, &path, b"new").unwrap();
                assert_eq!(owner(&path), (uid, gid), "{verb}");
                assert_eq!(format!("{:o}", mode(&path)), format!("{mode_before:o}"), "{verb}, {uid}:{gid}");
                assert_eq!(fs::read_to_string(&path).unwrap(), "new");
            }
        }
    }
    assert_eq!(names(&scratch.dir), ["file"]);
}

/// As long as the temporary file has the writer's group, that group must not get the rights of the file's group.
pub(crate) fn group_of_a_temporary_file() {
    let scratch = Scratch::new();
    for before in [0o660, 0o640, 0o664, 0o754, 0o6775] {
        let path = scratch.make_in_group("file", STRANGERS_ID, 5678, before);
        let file = scratch.adapter.file(&path).unwrap();
        let guard = file.lock().unwrap();
        let _writer = guard.writer().unwrap();
        let temporary = names(&scratch.dir).into_iter().find(|name| name != "file").expect("a temporary file");
        let temporary = scratch.path(&temporary);
        let (groups, others) = ((mode(&temporary) & 0o070) >> 3, before & 0o007);
        assert!(owner(&temporary).1 == 5678 || groups & !others == 0, "{:o} for {before:o}", mode(&temporary));
        assert_eq!(mode(&temporary) & 0o6000, 0, "{before:o}: runs with the writer's rights");
    }
}

pub(crate) fn setuid_is_not_taken_from_another_owner() {
    let scratch = Scratch::new();
    let dir = scratch.make_dir("dir", NOBODYS_ID, 0o755);
    let (nobody, stranger) = (NOBODYS_ID, STRANGERS_ID);
    // The file's owner, group and mode, and the mode after NOBODY has replaced it.
    let cases = [
        (0, 0, 0o6755, 0o755),
        (0, 0, 0o4755, 0o755),
        (stranger, stranger, 0o6755, 0o755),
        (stranger, nobody, 0o6755, 0o2755),
        (nobody, stranger, 0o6755, 0o4755),
        (nobody, nobody, 0o6755, 0o6755),
        (nobody, nobody, 0o4755, 0o4755),
        (0, 0, 0o644, 0o644),
    ];
    for (uid, gid, before, after) in cases {
        for (verb, _) in WRITING {
            let path = scratch.make_in_group("dir/file", uid, gid, before);
            assert_eq!(as_user(NOBODY, verb, &scratch, &path), "done");
            assert_eq!(fs::read_to_string(&path).unwrap(), "new");
            assert_eq!(owner(&path), (nobody, nobody), "{verb}, {uid}:{gid}");
            assert_eq!(format!("{:o}", mode(&path)), format!("{after:o}"), "{verb}, {uid}:{gid} {before:o}");
            assert_eq!(names(&dir), ["file"]);
        }
    }
}

pub(crate) fn a_group_is_kept_by_its_members() {
    let scratch = Scratch::new();
    scratch.make_dir("dir", NOBODYS_ID, 0o755);
    for uid in [NOBODYS_ID, STRANGERS_ID] {
        for (user, gid_after) in [("65534,5678", 5678), ("65534,4321", NOBODYS_ID), (NOBODY, NOBODYS_ID)] {
            let path = scratch.make_in_group("dir/file", uid, 5678, 0o664);
            assert_eq!(as_user(user, "write", &scratch, &path), "done");
            assert_eq!(owner(&path), (NOBODYS_ID, gid_after), "{user}, file of {uid}");
        }
    }
}
