//! The operations, each with the state before it and after it.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use atomic_file_adapter::fault::Syscall;
use atomic_file_adapter::{AtomicFileAdapter, Durability, Error, Result};

use crate::common::{no_root, syncs_whole_file_systems, temporary_name};
use crate::laboratory::{Laboratory, Scratch, calls_of};

/// One operation, and the state before it and after it.
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    /// The path of the file in the directory `files`.
    pub(crate) target: &'static str,
    /// Makes the state before, without the target.
    pub(crate) prepare: fn(&Scratch),
    pub(crate) run: fn(&AtomicFileAdapter, &Scratch) -> Result<Did>,
    pub(crate) old: Option<&'static str>,
    pub(crate) new: Option<&'static str>,
    /// What an update writes if the kernel reports (ENOENT) that there is no such file.
    pub(crate) new_if_told_missing: Option<&'static str>,
    /// The lock file was used before.
    pub(crate) warm: bool,
    /// The kernel has no openat2.
    pub(crate) without_openat2: bool,
    /// In addition, /proc (or F_GETPATH) cannot tell real paths.
    pub(crate) without_proc: bool,
    /// The most temporary files at a time.
    pub(crate) temporaries: usize,
    /// Not in memory, where syncfs is not used. Disks are slow, so only the calls that differ are made to fail.
    pub(crate) on_disk: bool,
}

/// What an operation reports.
#[derive(Debug, PartialEq)]
pub(crate) enum Did {
    It,
    /// There was no file.
    Nothing,
    Read(Option<Vec<u8>>),
}

const OLD: &str = "the old version";
const NEW: &str = "the new version, which is longer";
pub(crate) const MODE: u32 = 0o604;
const LONG_NAME: &str = concat!(
    "a_name_so_long_that_the_name_of_its_temporary_file_must_be_cut_",
    "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
    "ccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
);

const WRITE: Operation = Operation {
    name: "write",
    target: "target",
    prepare: |_| {},
    run: |adapter, scratch| adapter.write_atomic(scratch.path(), NEW).map(|()| Did::It),
    old: Some(OLD),
    new: Some(NEW),
    new_if_told_missing: None,
    warm: true,
    without_openat2: false,
    without_proc: false,
    temporaries: 1,
    on_disk: false,
};

const READ: Operation = Operation {
    name: "read",
    run: |adapter, scratch| adapter.read_with_lock(scratch.path()).map(Did::Read),
    new: Some(OLD),
    ..WRITE
};

const READ_UNLOCKED: Operation = Operation {
    name: "read_unlocked",
    run: |adapter, scratch| adapter.read_unlocked(scratch.path()).map(Did::Read),
    ..READ
};

const UPDATE: Operation = Operation {
    name: "update",
    run: |adapter, scratch| {
        adapter.update(scratch.path(), |old| [old.unwrap_or_default(), b" and more"].concat()).map(|()| Did::It)
    },
    new: Some("the old version and more"),
    new_if_told_missing: Some(" and more"),
    ..WRITE
};

const DELETE: Operation = Operation {
    name: "delete",
    run: |adapter, scratch| Ok(if adapter.delete_with_lock(scratch.path())? { Did::It } else { Did::Nothing }),
    new: None,
    ..WRITE
};

const BATCH: Operation = Operation {
    name: "batch",
    // So many that they are synced together, if the system can do that. Their lock files exist already, because the
    // order in which they are taken depends on their hashes.
    prepare: |scratch| {
        let names = (0..7).map(|n| n.to_string()).chain(["missing".to_owned()]);
        drop(scratch.adapter(Durability::Full).lock_many(names.map(|name| scratch.files.join(name))).unwrap());
    },
    run: |adapter, scratch| {
        let mut batch = adapter.batch();
        for n in 0..7 {
            batch.write(scratch.files.join(n.to_string()), "beside");
        }
        batch.write(scratch.path(), NEW).delete(scratch.files.join("missing"));
        batch.commit().map(|()| Did::It)
    },
    temporaries: 8,
    ..WRITE
};

const WRITE_WITH_AN_ACL: Operation = Operation { name: "write_a_file_with_an_acl", prepare: give_attributes, ..WRITE };

/// An ACL that lets in one user, where the mode has the same bits for the group, and a user attribute.
#[cfg(target_os = "linux")]
fn give_attributes(scratch: &Scratch) {
    use crate::common::acl::{ACCESS, Acl, Tag, set_acl, set_attribute};
    let entries = [(Tag::UserObj, 6), (Tag::User(1236), 6), (Tag::GroupObj, 0), (Tag::Mask, 6), (Tag::Other, 0)];
    set_acl(&scratch.path(), ACCESS, Some(&Acl::new(&entries)));
    set_attribute(&scratch.path(), c"user.key", b"value").unwrap();
}

/// An existing file must not inherit it.
#[cfg(target_os = "linux")]
fn give_directory_a_default_acl(scratch: &Scratch) {
    use crate::common::acl::{Acl, DEFAULT, Tag, set_acl};
    let entries = [(Tag::UserObj, 7), (Tag::User(1236), 7), (Tag::GroupObj, 7), (Tag::Mask, 7), (Tag::Other, 7)];
    set_acl(&scratch.files, DEFAULT, Some(&Acl::new(&entries)));
}

#[cfg(not(target_os = "linux"))]
fn give_attributes(_: &Scratch) {}

#[cfg(not(target_os = "linux"))]
fn give_directory_a_default_acl(_: &Scratch) {}

/// The base of operations that do not change the target.
const LOOK: Operation = Operation { new: Some(OLD), ..WRITE };

pub(crate) const OPERATIONS: &[Operation] = &[
    READ,
    Operation { name: "read_nothing", old: None, new: None, ..READ },
    Operation { name: "first_read", warm: false, ..READ },
    READ_UNLOCKED,
    Operation { name: "read_unlocked_without_openat2", without_openat2: true, ..READ_UNLOCKED },
    Operation { name: "read_without_openat2", without_openat2: true, ..READ },
    Operation { name: "read_without_proc", without_proc: true, ..READ },
    WRITE,
    Operation {
        name: "write_new",
        prepare: |scratch| {
            fs::remove_file(scratch.adapter(Durability::Full).lock_path(scratch.path()).unwrap()).unwrap()
        },
        old: None,
        ..WRITE
    },
    Operation { name: "first_write", old: None, warm: false, ..WRITE },
    Operation { name: "write_without_openat2", without_openat2: true, ..WRITE },
    Operation { name: "write_without_proc", without_proc: true, ..WRITE },
    Operation { name: "write_in_missing_directories", target: "a/b/c/target", old: None, ..WRITE },
    Operation { name: "write_a_long_name", target: LONG_NAME, ..WRITE },
    Operation {
        name: "write_through_a_link",
        prepare: |scratch| {
            fs::create_dir(scratch.files.join("sub")).unwrap();
            symlink("../target", scratch.files.join("sub/link")).unwrap();
        },
        run: |adapter, scratch| adapter.write_atomic(scratch.files.join("sub/link"), NEW).map(|()| Did::It),
        ..WRITE
    },
    Operation {
        name: "write_a_link_to_nothing_without_proc",
        prepare: |scratch| {
            symlink("here/target", scratch.files.join("link")).unwrap();
            symlink(".", scratch.files.join("here")).unwrap();
        },
        run: |adapter, scratch| adapter.write_atomic(scratch.files.join("link"), NEW).map(|()| Did::It),
        old: None,
        without_proc: true,
        ..WRITE
    },
    Operation {
        name: "write_a_file_of_another_owner",
        prepare: |scratch| {
            if no_root().is_none() {
                chown(scratch.path(), Some(1234), Some(1235)).unwrap();
            }
        },
        ..WRITE
    },
    WRITE_WITH_AN_ACL,
    Operation { name: "write_a_file_with_an_acl_without_proc", without_proc: true, ..WRITE_WITH_AN_ACL },
    Operation {
        name: "update_a_file_with_an_acl_of_another_owner",
        prepare: |scratch| {
            give_attributes(scratch);
            if no_root().is_none() {
                chown(scratch.path(), Some(1234), Some(1235)).unwrap();
            }
        },
        ..UPDATE
    },
    Operation { name: "write_under_a_default_acl", prepare: give_directory_a_default_acl, ..WRITE },
    Operation {
        name: "batch_under_a_default_acl",
        prepare: |scratch| {
            (BATCH.prepare)(scratch);
            give_attributes(scratch);
            give_directory_a_default_acl(scratch);
        },
        ..BATCH
    },
    Operation {
        name: "write_with_a_mode",
        run: |_, scratch| {
            let adapter = AtomicFileAdapter::builder().lock_dir(&scratch.locks).new_file_mode(MODE).build()?;
            adapter.write_atomic(scratch.path(), NEW).map(|()| Did::It)
        },
        old: None,
        ..WRITE
    },
    Operation {
        // The first lock file in a lock directory of another group, which the mode gives more rights than others.
        name: "write_with_a_lock_file_mode",
        prepare: |scratch| {
            fs::remove_file(scratch.adapter(Durability::Full).lock_path(scratch.path()).unwrap()).unwrap();
            if no_root().is_none() {
                chown(&scratch.locks, None, Some(1235)).unwrap();
            }
        },
        run: |_, scratch| {
            let adapter = AtomicFileAdapter::builder().lock_dir(&scratch.locks).lock_file_mode(0o664).build()?;
            let written = adapter.write_atomic(scratch.path(), NEW).map(|()| Did::It);
            let is_lock = |path: &Path| path.extension().is_some_and(|it| it == "lock");
            for entry in fs::read_dir(&scratch.locks).unwrap().map(|entry| entry.unwrap()) {
                let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
                assert!(!is_lock(&entry.path()) || mode == 0o664, "{mode:o}");
            }
            written
        },
        ..WRITE
    },
    Operation {
        name: "write_in_pieces",
        run: |adapter, scratch| {
            let file = adapter.file(scratch.path())?;
            let guard = file.lock()?;
            let mut writer = guard.writer()?;
            for piece in NEW.as_bytes().chunks(10) {
                writer.write_all(piece).map_err(|error| error.downcast::<Error>().unwrap())?;
            }
            writer.commit().map(|()| Did::It)
        },
        ..WRITE
    },
    Operation {
        name: "write_by_a_handle",
        run: |adapter, scratch| {
            let file = adapter.file(scratch.path())?;
            // This keeps the lock file open, so that no close drops a lock that was not released.
            scratch.kept.set(Some(file.clone()));
            file.write(NEW).map(|()| Did::It)
        },
        ..WRITE
    },
    UPDATE,
    Operation { name: "update_nothing", old: None, new: Some(" and more"), ..UPDATE },
    Operation {
        name: "update_before_a_deadline",
        run: |_, scratch| {
            let adapter = AtomicFileAdapter::builder().lock_dir(&scratch.locks);
            (UPDATE.run)(&adapter.lock_timeout(std::time::Duration::from_secs(100)).build()?, scratch)
        },
        ..UPDATE
    },
    DELETE,
    Operation { name: "delete_nothing", old: None, ..DELETE },
    Operation {
        name: "lock_many",
        // The order of the two depends on their hashes.
        prepare: |scratch| {
            let file = scratch.adapter(Durability::Full).file(scratch.files.join("second")).unwrap();
            drop(file.lock().unwrap());
        },
        run: |adapter, scratch| {
            let guards = adapter.lock_many([scratch.path(), scratch.files.join("second")])?;
            guards[0].write(NEW).map(|()| Did::It)
        },
        ..WRITE
    },
    BATCH,
    Operation { name: "batch_on_disk", on_disk: true, ..BATCH },
    Operation {
        name: "batch_of_deletes",
        run: |adapter, scratch| {
            let mut batch = adapter.batch();
            batch.delete(scratch.path());
            // A batch does not tell whether there was a file.
            batch.commit().map(|()| if scratch.path().exists() { Did::Nothing } else { Did::It })
        },
        ..DELETE
    },
    Operation {
        name: "relative_paths",
        run: |_, scratch| {
            // A current directory of this thread's own, because other tests run in this process.
            #[cfg(target_os = "linux")]
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
            env::set_current_dir(&scratch.files).unwrap();
            let written =
                AtomicFileAdapter::with_lock_dir("../locks").and_then(|adapter| adapter.write_atomic("target", NEW));
            env::set_current_dir("/").unwrap();
            written.map(|()| Did::It)
        },
        without_proc: true,
        ..WRITE
    },
    Operation {
        name: "a_path_used_lately",
        run: |adapter, scratch| {
            adapter.read_with_lock(scratch.path())?;
            adapter.write_atomic(scratch.path(), NEW).map(|()| Did::It)
        },
        ..WRITE
    },
    Operation {
        name: "a_link_where_a_file_was_used_lately",
        run: |adapter, scratch| {
            let link = scratch.files.join("link");
            fs::write(&link, "").unwrap();
            adapter.read_with_lock(&link)?;
            fs::remove_file(&link).unwrap();
            symlink("target", &link).unwrap();
            adapter.read_with_lock(&link).map(Did::Read)
        },
        ..READ
    },
    Operation {
        name: "links_in_a_sticky_directory",
        prepare: |scratch| {
            let sticky = scratch.files.join("sticky");
            fs::create_dir(&sticky).unwrap();
            fs::set_permissions(&sticky, Permissions::from_mode(0o1777)).unwrap();
            if no_root().is_none() {
                chown(&sticky, Some(1234), None).unwrap();
            }
            symlink("../target", sticky.join("link")).unwrap();
        },
        run: |adapter, scratch| adapter.write_atomic(scratch.files.join("sticky/link"), NEW).map(|()| Did::It),
        ..WRITE
    },
    Operation {
        name: "no_links",
        run: |_, scratch| {
            let strict = AtomicFileAdapter::builder().lock_dir(&scratch.locks).follow_links(false).build()?;
            strict.write_atomic(scratch.path(), NEW).map(|()| Did::It)
        },
        without_openat2: true,
        ..WRITE
    },
    Operation { name: "locks", run: |adapter, _| adapter.locks().map(|_| Did::It), ..LOOK },
    Operation { name: "prune", run: |adapter, _| adapter.prune().map(|_| Did::It), ..LOOK },
    Operation {
        name: "sweep",
        prepare: |scratch| {
            fs::write(scratch.files.join(temporary_name("target", "abcdefg")), "left").unwrap();
            fs::write(scratch.locks.join(".gitignore.tmp.1234567890"), "left").unwrap();
        },
        run: |adapter, scratch| adapter.sweep(scratch.path()).map(|_| Did::It),
        ..LOOK
    },
];

pub(crate) fn the_operations_make_all_the_calls_there_are() {
    use Syscall::*;
    let mut seen = BTreeSet::new();
    for operation in OPERATIONS {
        let laboratory = Laboratory::new(operation, Durability::Full);
        seen.extend(calls_of(&laboratory, &mut 0).iter().map(|call| call.syscall));
    }
    let mut all = BTreeSet::from([
        Openat,
        Mkdirat,
        Fstatat,
        Fstat,
        Readlinkat,
        Read,
        Pread,
        Pwrite,
        Write,
        Fchmod,
        Renameat,
        Linkat,
        Unlinkat,
        Readdir,
        Getcwd,
        Getpid,
        Getrlimit,
        FcntlSetlkw,
        FcntlSetlk,
        FcntlUnlock,
        FcntlGetlk,
        Flistxattr,
        Fsync,
        Close,
    ]);
    if cfg!(target_os = "linux") {
        all.extend([Openat2, Statx, Faccessat, Fstatfs, Llistxattr, Lgetxattr, Fgetxattr, Fsetxattr, Fremovexattr]);
    }
    if syncs_whole_file_systems(&env::temp_dir()) {
        all.extend([Syncfs, Uname]);
    }
    if no_root().is_none() {
        // Only where an owner is somebody else: of the old version, and of a sticky directory with a link in it.
        all.extend([Fchown, Geteuid]);
    }
    if cfg!(target_vendor = "apple") {
        all.remove(&Fsync);
        all.extend([FcntlFullfsync, FcntlGetpath]);
    }
    assert_eq!(seen, all);
}
