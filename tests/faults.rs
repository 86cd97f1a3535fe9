//! Every system call of every operation fails once with every error that its manual page lists, and is once the place
//! where the process dies. After each, the file is whole, nothing is left behind, and the lock is free.

mod common;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::env;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::OnceLock;

use atomic_file_adapter::fault::{Action, Call, Syscall, inject};
use atomic_file_adapter::{AtomicFile, AtomicFileAdapter, Durability, Error, FileKind, Result, Step};
use libc::{
    E2BIG, EACCES, EAGAIN, EBADF, EBUSY, EDEADLK, EDESTADDRREQ, EDQUOT, EEXIST, EFAULT, EFBIG, EINTR, EINVAL, EIO,
    EISDIR, ELOOP, EMFILE, EMLINK, ENAMETOOLONG, ENFILE, ENODEV, ENOENT, ENOLCK, ENOMEM, ENOSPC, ENOSYS, ENOTDIR,
    ENOTEMPTY, ENOTSUP, ENXIO, EOPNOTSUPP, EOVERFLOW, EPERM, EPIPE, ERANGE, EROFS, ETXTBSY, EXDEV,
};
use libtest_mimic::Trial;
use tempfile::TempDir;

use crate::common::{Work, Worker, hear, names, tell};

const WORKERS: &[(&str, Work)] = &[("witness", witness), ("die", die)];

fn main() -> ExitCode {
    let mut tests = Vec::new();
    for operation in OPERATIONS {
        let mut add = |how: &str, body: fn(&Operation)| {
            let test = Trial::test(format!("{}::{how}", operation.name), move || {
                body(operation);
                Ok(())
            });
            // Elsewhere a current directory is not a thread's own.
            let missing = common::not_linux().filter(|_| operation.name == "relative_paths");
            tests.push(test.with_ignored_flag(missing.is_some()));
        };
        add("each_call_fails_in_each_way", each_call_fails_in_each_way);
        if operation.on_disk {
            continue;
        }
        add("everything_fails_from_some_call_on", everything_fails_from_some_call_on);
        add("interruptions_and_short_pieces_change_nothing", interruptions_and_short_pieces_change_nothing);
        add("the_process_dies_at_each_call", the_process_dies_at_each_call);
    }
    tests
        .push(common::test("the_operations_make_all_the_calls_there_are", the_operations_make_all_the_calls_there_are));
    common::main(tests, WORKERS)
}

/// The errors in section ERRORS of the call's manual page (man-pages 6.03), but for EINTR, which has a test of its own.
fn errors_of(syscall: Syscall) -> &'static [i32] {
    match syscall {
        Syscall::Openat => &[
            EACCES,
            EAGAIN,
            EBADF,
            EBUSY,
            EDQUOT,
            EEXIST,
            EFAULT,
            EFBIG,
            EINVAL,
            EISDIR,
            ELOOP,
            EMFILE,
            ENAMETOOLONG,
            ENFILE,
            ENODEV,
            ENOENT,
            ENOMEM,
            ENOSPC,
            ENOTDIR,
            ENXIO,
            EOPNOTSUPP,
            EOVERFLOW,
            EPERM,
            EROFS,
            ETXTBSY,
        ],
        Syscall::Openat2 => &[
            E2BIG,
            EACCES,
            EAGAIN,
            EBADF,
            EBUSY,
            EDQUOT,
            EEXIST,
            EFAULT,
            EFBIG,
            EINVAL,
            EISDIR,
            ELOOP,
            EMFILE,
            ENAMETOOLONG,
            ENFILE,
            ENODEV,
            ENOENT,
            ENOMEM,
            ENOSPC,
            ENOSYS,
            ENOTDIR,
            ENXIO,
            EOPNOTSUPP,
            EOVERFLOW,
            EPERM,
            EROFS,
            ETXTBSY,
            EXDEV,
        ],
        Syscall::Mkdirat => &[
            EACCES,
            EBADF,
            EDQUOT,
            EEXIST,
            EFAULT,
            EINVAL,
            ELOOP,
            EMLINK,
            ENAMETOOLONG,
            ENOENT,
            ENOMEM,
            ENOSPC,
            ENOTDIR,
            EPERM,
            EROFS,
        ],
        Syscall::Fstatat | Syscall::Fstat => {
            &[EACCES, EBADF, EFAULT, EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOMEM, ENOTDIR, EOVERFLOW]
        }
        Syscall::Readlinkat => &[EACCES, EBADF, EFAULT, EINVAL, EIO, ELOOP, ENAMETOOLONG, ENOENT, ENOMEM, ENOTDIR],
        Syscall::Read => &[EAGAIN, EBADF, EFAULT, EINVAL, EIO, EISDIR],
        Syscall::Write => &[EAGAIN, EBADF, EDESTADDRREQ, EDQUOT, EFAULT, EFBIG, EINVAL, EIO, ENOSPC, EPERM, EPIPE],
        Syscall::Fchown => {
            &[EACCES, EBADF, EFAULT, EINVAL, EIO, ELOOP, ENAMETOOLONG, ENOENT, ENOMEM, ENOTDIR, EPERM, EROFS]
        }
        Syscall::Fchmod => {
            &[EACCES, EBADF, EFAULT, EINVAL, EIO, ELOOP, ENAMETOOLONG, ENOENT, ENOMEM, ENOTDIR, ENOTSUP, EPERM, EROFS]
        }
        Syscall::Renameat => &[
            EACCES,
            EBADF,
            EBUSY,
            EDQUOT,
            EEXIST,
            EFAULT,
            EINVAL,
            EISDIR,
            ELOOP,
            EMLINK,
            ENAMETOOLONG,
            ENOENT,
            ENOMEM,
            ENOSPC,
            ENOTDIR,
            ENOTEMPTY,
            EPERM,
            EROFS,
            EXDEV,
        ],
        Syscall::Linkat => &[
            EACCES,
            EBADF,
            EDQUOT,
            EEXIST,
            EFAULT,
            EINVAL,
            EIO,
            ELOOP,
            EMLINK,
            ENAMETOOLONG,
            ENOENT,
            ENOMEM,
            ENOSPC,
            ENOTDIR,
            EPERM,
            EROFS,
            EXDEV,
        ],
        Syscall::Unlinkat => &[
            EACCES,
            EBADF,
            EBUSY,
            EFAULT,
            EINVAL,
            EIO,
            EISDIR,
            ELOOP,
            ENAMETOOLONG,
            ENOENT,
            ENOMEM,
            ENOTDIR,
            EPERM,
            EROFS,
        ],
        // readdir(3) and getdents(2).
        Syscall::Readdir => &[EBADF, EFAULT, EINVAL, ENOENT, ENOTDIR],
        Syscall::Getcwd => &[EACCES, EFAULT, EINVAL, ENAMETOOLONG, ENOENT, ENOMEM, ERANGE],
        Syscall::FcntlSetlkw => &[EBADF, EDEADLK, EFAULT, EINVAL, ENOLCK],
        Syscall::FcntlSetlk => &[EACCES, EAGAIN, EBADF, EFAULT, EINVAL, ENOLCK],
        Syscall::FcntlUnlock | Syscall::FcntlGetlk => &[EBADF, EFAULT, EINVAL, ENOLCK],
        Syscall::Fsync => &[EBADF, EDQUOT, EINVAL, EIO, ENOSPC, EROFS],
        // Not EINVAL, which means that fsync is to be used.
        Syscall::FcntlFullfsync => &[EBADF, EDQUOT, EIO, ENOSPC, EROFS],
        Syscall::Syncfs => &[EBADF, EDQUOT, EIO, ENOSPC],
        Syscall::Fstatfs => {
            &[EACCES, EBADF, EFAULT, EIO, ELOOP, ENAMETOOLONG, ENOENT, ENOMEM, ENOSYS, ENOTDIR, EOVERFLOW]
        }
        Syscall::FcntlGetpath => &[EBADF, EFAULT, EINVAL, ENOENT, ENOSPC],
        // They cannot fail, or nobody looks.
        Syscall::Getpid | Syscall::Geteuid | Syscall::Getrlimit | Syscall::Uname | Syscall::Close => &[],
        other => panic!("{other:?} is not in this table"),
    }
}

/// One operation, and what it finds and leaves.
struct Operation {
    name: &'static str,
    /// Where the file is, in the directory `files`.
    target: &'static str,
    /// Makes what the operation finds, but for the target.
    prepare: fn(&Scratch),
    run: fn(&AtomicFileAdapter, &Scratch) -> Result<Did>,
    old: Option<&'static str>,
    new: Option<&'static str>,
    /// What an update makes of it if it is told (ENOENT) that there is no such file.
    new_if_told_missing: Option<&'static str>,
    /// The lock file has been used before.
    warm: bool,
    /// The kernel is older than openat2.
    without_openat2: bool,
    /// And /proc (or F_GETPATH) cannot tell real paths either.
    without_proc: bool,
    /// How many temporary files there can be at a time.
    temporaries: usize,
    /// Not in memory, where there is no syncfs to be had. Disks are slow, so only the calls that make the difference fail.
    on_disk: bool,
}

/// What an operation says that it has done.
#[derive(Debug, PartialEq)]
enum Did {
    It,
    /// There was no file.
    Nothing,
    Read(Option<Vec<u8>>),
}

const OLD: &str = "the old version";
const NEW: &str = "the new version, which is longer";
const MODE: u32 = 0o604;
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
    // So many that they are synced together where that can be done; with lock files that exist, because the order in
    // which they are taken is a matter of their hashes.
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

/// For those that do something else than change the target.
const LOOK: Operation = Operation { new: Some(OLD), ..WRITE };

const OPERATIONS: &[Operation] = &[
    READ,
    Operation { name: "read_nothing", old: None, new: None, ..READ },
    Operation { name: "first_read", warm: false, ..READ },
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
            if common::no_root().is_none() {
                chown(scratch.path(), Some(1234), Some(1235)).unwrap();
            }
        },
        ..WRITE
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
            // It keeps the lock file open, so that no close drops a lock that was not let go of.
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
        // Which of the two comes first is a matter of their hashes.
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
            // It does not tell whether there was a file.
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
        name: "links_in_a_sticky_directory",
        prepare: |scratch| {
            let sticky = scratch.files.join("sticky");
            fs::create_dir(&sticky).unwrap();
            fs::set_permissions(&sticky, Permissions::from_mode(0o1777)).unwrap();
            if common::no_root().is_none() {
                chown(&sticky, Some(1234), None).unwrap();
            }
            symlink("../target", sticky.join("link")).unwrap();
        },
        run: |adapter, scratch| adapter.write_atomic(scratch.files.join("sticky/link"), NEW).map(|()| Did::It),
        ..WRITE
    },
    Operation { name: "locks", run: |adapter, _| adapter.locks().map(|_| Did::It), ..LOOK },
    Operation { name: "prune", run: |adapter, _| adapter.prune().map(|_| Did::It), ..LOOK },
    Operation {
        name: "sweep",
        prepare: |scratch| {
            fs::write(scratch.files.join(".target.abcdefghij.tmp"), "left").unwrap();
            fs::write(scratch.locks.join(".gitignore.tmp.1234567890"), "left").unwrap();
        },
        run: |adapter, scratch| adapter.sweep(scratch.path()).map(|_| Did::It),
        ..LOOK
    },
];

/// A directory for one run of an operation.
struct Scratch {
    files: PathBuf,
    locks: PathBuf,
    target: &'static str,
    kept: Cell<Option<AtomicFile>>,
}

impl Scratch {
    fn at(dir: &Path, operation: &Operation) -> Self {
        Scratch { files: dir.join("files"), locks: dir.join("locks"), target: operation.target, kept: Cell::new(None) }
    }

    fn path(&self) -> PathBuf {
        self.files.join(self.target)
    }

    fn adapter(&self, durability: Durability) -> AtomicFileAdapter {
        AtomicFileAdapter::builder().lock_dir(&self.locks).durability(durability).build().unwrap()
    }

    fn contents(&self) -> Option<String> {
        match fs::read_to_string(self.path()) {
            Ok(contents) => Some(contents),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Temporary files, of files and of the lock directory.
    fn temporaries(&self) -> Vec<String> {
        let beside = self.path();
        let mut dirs = vec![self.locks.clone(), self.files.clone()];
        dirs.extend(beside.parent().map(Path::to_owned));
        let names = dirs.iter().filter(|dir| dir.exists()).flat_map(|dir| names(dir));
        let found: BTreeSet<_> = names.filter(|name| name.starts_with('.') && name.contains(".tmp")).collect();
        found.into_iter().collect()
    }
}

/// Runs an operation again and again, each time in a directory made anew.
struct Laboratory<'a> {
    operation: &'a Operation,
    durability: Durability,
    dir: TempDir,
    witness: Worker,
}

impl<'a> Laboratory<'a> {
    fn new(operation: &'a Operation, durability: Durability) -> Self {
        // Where a process uses no other lock file, it opens one without looking at its name first. Tests that run at the
        // same time must not decide that. Those that die do so in processes of their own.
        static ELSEWHERE: OnceLock<AtomicFile> = OnceLock::new();
        ELSEWHERE.get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            let file = AtomicFileAdapter::with_lock_dir(&dir).unwrap().file(dir.path().join("file")).unwrap();
            drop(file.lock().unwrap());
            file
        });
        // Nothing here is about disks, and memory is faster.
        let memory = Path::new("/dev/shm");
        let dir =
            if memory.is_dir() && !operation.on_disk { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }
                .unwrap();
        Laboratory { operation, durability, dir, witness: Worker::start("witness", &[]) }
    }

    /// A new directory, with its number as its name.
    fn scratch(&self, number: usize) -> Scratch {
        let dir = self.dir.path().canonicalize().unwrap().join(number.to_string());
        let scratch = Scratch::at(&dir, self.operation);
        fs::create_dir_all(&scratch.files).unwrap();
        if let Some(old) = self.operation.old {
            fs::write(scratch.path(), old).unwrap();
            fs::set_permissions(scratch.path(), Permissions::from_mode(MODE)).unwrap();
        }
        if self.operation.warm {
            drop(scratch.adapter(self.durability).file(scratch.path()).unwrap().lock().unwrap());
        }
        (self.operation.prepare)(&scratch);
        scratch
    }

    fn run(&self, scratch: &Scratch, decide: impl FnMut(&Call<'_>) -> Action + 'static) -> (Result<Did>, usize) {
        run(self.operation, self.durability, scratch, decide)
    }

    /// What must hold when an operation has failed or died somewhere, whatever it was: another process gets the lock at
    /// once, the file is whole, what was left behind can be swept, and everything works again.
    fn check_afterwards(&mut self, scratch: &Scratch, allowed: &[Option<&str>], temporaries: usize, what: &str) {
        let contents = scratch.contents();
        assert!(allowed.contains(&contents.as_deref()), "{what}: {contents:?}");
        self.witness.tell(&format!("{}\t{}", scratch.locks.display(), scratch.path().display()));
        assert_eq!(self.witness.hear(), format!("free {contents:?}"), "{what}");
        let left = scratch.temporaries();
        assert!(left.len() <= temporaries, "{what}: {left:?}");
        let adapter = scratch.adapter(self.durability);
        let swept = adapter.sweep(scratch.path().parent().unwrap()).unwrap();
        assert_eq!((swept.len(), scratch.temporaries()), (left.len(), vec![]), "{what}");
        adapter.write_atomic(scratch.path(), "after").unwrap_or_else(|error| panic!("{what}: afterwards {error}"));
        assert_eq!(scratch.contents().as_deref(), Some("after"), "{what}");
    }
}

/// Runs an operation with `decide` asked at each call, and says how many calls there were.
fn run(
    operation: &Operation,
    durability: Durability,
    scratch: &Scratch,
    mut decide: impl FnMut(&Call<'_>) -> Action + 'static,
) -> (Result<Did>, usize) {
    let Operation { without_proc, without_openat2, .. } = *operation;
    let decide = move |call: &Call<'_>| match decide(call) {
        Action::Proceed | Action::Short(_)
            if without_proc
                && (call.syscall == Syscall::FcntlGetpath
                    || call.path.is_some_and(|path| path.starts_with("/proc"))) =>
        {
            Action::Fail(ENOENT)
        }
        Action::Proceed | Action::Short(_) if (without_openat2 || without_proc) && call.syscall == Syscall::Openat2 => {
            Action::Fail(ENOSYS)
        }
        action => action,
    };
    let adapter = scratch.adapter(durability);
    inject(decide, || (operation.run)(&adapter, scratch))
}

const EACH_DURABILITY: [Durability; 3] = [Durability::Full, Durability::Ordered, Durability::None];

/// In another process: is the lock of this path free, and what is in the file?
fn witness(_: &[String]) {
    loop {
        let line = hear();
        let Some((locks, path)) = line.split_once('\t') else { return };
        let adapter = AtomicFileAdapter::with_lock_dir(locks).unwrap();
        let answer = adapter.file(path).and_then(|file| file.try_lock()?.read());
        tell(&match answer {
            Ok(contents) => format!("free {:?}", contents.map(|contents| String::from_utf8(contents).unwrap())),
            Err(error) => error.to_string(),
        });
    }
}

fn each_call_fails_in_each_way(operation: &Operation) {
    for durability in EACH_DURABILITY {
        let mut laboratory = Laboratory::new(operation, durability);
        let mut number = 0;
        let calls = calls_of(&laboratory, &mut number);
        for (at, call) in calls.iter().enumerate() {
            if operation.on_disk && ![Syscall::Fstatfs, Syscall::Syncfs, Syscall::Fsync].contains(&call.syscall) {
                continue;
            }
            for errno in errors_of(call.syscall) {
                number += 1;
                fails_once(&mut laboratory, number, at, call, *errno);
            }
        }
    }
}

/// A call as the operation makes it if nothing fails.
#[derive(Debug, Clone)]
struct Seen {
    syscall: Syscall,
    text: String,
}

fn calls_of(laboratory: &Laboratory<'_>, number: &mut usize) -> Vec<Seen> {
    *number += 1;
    let scratch = laboratory.scratch(*number);
    let seen = Rc::new(RefCell::new(Vec::new()));
    let mine = seen.clone();
    let (result, calls) = laboratory.run(&scratch, move |call| {
        mine.borrow_mut().push(Seen { syscall: call.syscall, text: call.to_string() });
        Action::Proceed
    });
    result.unwrap();
    assert_eq!(scratch.contents().as_deref(), laboratory.operation.new);
    assert_eq!(scratch.temporaries(), [""; 0]);
    assert_eq!(calls, seen.borrow().len());
    seen.take()
}

fn fails_once(laboratory: &mut Laboratory<'_>, number: usize, at: usize, call: &Seen, errno: i32) {
    let Operation { name, old, new, new_if_told_missing, .. } = *laboratory.operation;
    let scratch = laboratory.scratch(number);
    let inode = |scratch: &Scratch| scratch.path().metadata().map(|meta| (meta.ino(), meta.mode())).ok();
    let before = inode(&scratch);
    let (result, calls) =
        laboratory.run(&scratch, move |call| if call.number == at { Action::Fail(errno) } else { Action::Proceed });
    assert!(calls > at);
    let os_error = io::Error::from_raw_os_error(errno);
    let what = format!("{name}, {:?}: call {at}, {}, fails with {os_error}", laboratory.durability, call.text);
    // A kernel that says that something is missing is believed.
    let told_missing = errno == ENOENT;
    // If the removal of a temporary file fails, it stays.
    let mut temporaries = usize::from(call.syscall == Syscall::Unlinkat);
    let contents = scratch.contents();
    // The others have another way, or concern the `.gitignore` of the lock directory only.
    let must_be_told =
        [Syscall::Syncfs, Syscall::Write, Syscall::Fsync, Syscall::Fchmod, Syscall::Renameat].contains(&call.syscall);
    assert!(result.is_err() || !must_be_told || !laboratory.operation.warm && call.syscall == Syscall::Write, "{what}");
    // What a batch says of the file is what is judged here.
    let result = match result {
        Err(Error::Batch { replaced, source, .. }) => {
            assert_eq!(replaced.contains(&scratch.path()), contents.as_deref() == new, "{what}: {replaced:?}");
            is_clear(&source, call.syscall, errno, &scratch, &what);
            if replaced.contains(&scratch.path()) { Ok(Did::It) } else { Err(*source) }
        }
        result => result,
    };
    match &result {
        Ok(Did::It) => {
            let right = contents.as_deref() == new || told_missing && contents.as_deref() == new_if_told_missing;
            assert!(right, "{what}: {contents:?}");
        }
        Ok(Did::Nothing) => assert!(contents.as_deref() == old && (old.is_none() || told_missing), "{what}"),
        Ok(Did::Read(read)) => {
            let right = read.as_deref() == old.map(str::as_bytes);
            assert!(right || told_missing && read.is_none(), "{what}: {read:?}");
        }
        Err(error @ Error::NotDurable { .. }) => {
            assert_eq!((call.syscall, contents.as_deref()), (Syscall::Fsync, new), "{what}");
            let text = error.to_string();
            assert!(text.contains("was replaced or removed, but its directory could not be synced"), "{text}");
            assert!(text.contains(&os_error.to_string()), "{what}: {text}");
        }
        Err(error) => {
            assert_eq!((contents.as_deref(), inode(&scratch)), (old, before), "{what}: {error}");
            is_clear(error, call.syscall, errno, &scratch, &what);
        }
    }
    if name == "sweep" {
        temporaries = if result.is_ok() { 1 } else { 2 };
    }
    laboratory.check_afterwards(&scratch, &[contents.as_deref()], temporaries, &what);
}

/// The error names a path and says what the system said.
fn is_clear(error: &Error, syscall: Syscall, errno: i32, scratch: &Scratch, what: &str) {
    let text = error.to_string();
    let above = scratch.files.parent().unwrap().to_str().unwrap();
    assert!(text.contains(above) || text.contains("target") || text.contains("../locks"), "{what}: {text}");
    match (syscall, errno, error) {
        // What the kernel called missing, or existing, was not so a moment later.
        (Syscall::Fstatat, ENOENT, Error::NotRegularFile { kind: FileKind::Symlink, .. }) => {}
        (Syscall::Mkdirat, EEXIST, Error::Io { source, .. }) => {
            assert_eq!(source.raw_os_error(), Some(ENOENT), "{what}: {text}");
        }
        // The lock file could be opened for reading only, which is not enough.
        (Syscall::FcntlSetlkw | Syscall::FcntlSetlk, EBADF, Error::Io { source, .. }) => {
            assert_eq!(source.raw_os_error(), Some(EACCES), "{what}: {text}");
        }
        (Syscall::Openat, EPERM | EROFS, Error::Io { source, step: Step::OpenLock, .. }) => {
            assert!([Some(EACCES), Some(errno)].contains(&source.raw_os_error()), "{what}: {text}");
        }
        (_, _, Error::Io { source, .. } | Error::NotDurable { source, .. }) => {
            assert_eq!(source.raw_os_error(), Some(errno), "{what}: {text}")
        }
        (_, _, other) => panic!("{what}: {other}"),
    }
}

fn everything_fails_from_some_call_on(operation: &Operation) {
    for durability in EACH_DURABILITY {
        let mut laboratory = Laboratory::new(operation, durability);
        let mut number = 0;
        let calls = calls_of(&laboratory, &mut number);
        for (first, call) in calls.iter().enumerate() {
            for errno in [EIO, EROFS, EMFILE] {
                number += 1;
                let scratch = laboratory.scratch(number);
                let had = scratch.temporaries().len();
                let (result, _) =
                    laboratory.run(
                        &scratch,
                        move |call| {
                            if call.number >= first { Action::Fail(errno) } else { Action::Proceed }
                        },
                    );
                let what =
                    format!("{}, {durability:?}: everything fails from {} on: {result:?}", operation.name, call.text);
                let allowed = [operation.old, operation.new];
                laboratory.check_afterwards(
                    &scratch,
                    if result.is_ok() { &allowed[1..] } else { &allowed },
                    had + operation.temporaries,
                    &what,
                );
            }
        }
    }
}

type Way = (&'static str, fn() -> Decide);
type Decide = Box<dyn FnMut(&Call<'_>) -> Action>;

fn interruptions_and_short_pieces_change_nothing(operation: &Operation) {
    for durability in EACH_DURABILITY {
        let mut laboratory = Laboratory::new(operation, durability);
        let mut number = 0;
        let expected = calls_of(&laboratory, &mut number).len();
        let ways: [Way; 3] = [
            ("each call is interrupted once", || {
                let mut again = false;
                Box::new(move |call| {
                    // Those that cannot be interrupted are made all the same.
                    again = !again && !errors_of(call.syscall).is_empty();
                    if again { Action::Fail(EINTR) } else { Action::Proceed }
                })
            }),
            ("each call is interrupted three times and moves one byte", || {
                let mut times = 0;
                Box::new(move |call| {
                    times = if times < 3 && !errors_of(call.syscall).is_empty() { times + 1 } else { 0 };
                    if times > 0 { Action::Fail(EINTR) } else { Action::Short(1) }
                })
            }),
            ("each read and write moves five bytes", || Box::new(|_| Action::Short(5))),
        ];
        for (way, decide) in ways {
            number += 1;
            let scratch = laboratory.scratch(number);
            let what = format!("{}, {durability:?}: {way}", operation.name);
            let (result, calls) = laboratory.run(&scratch, decide());
            match result.unwrap_or_else(|error| panic!("{what}: {error}")) {
                Did::Read(read) => assert_eq!(read.as_deref(), operation.old.map(str::as_bytes), "{what}"),
                Did::It | Did::Nothing => assert!(calls >= expected, "{what}"),
            }
            laboratory.check_afterwards(&scratch, &[operation.new], 0, &what);
        }
    }
}

fn the_process_dies_at_each_call(operation: &Operation) {
    for durability in EACH_DURABILITY {
        let mut laboratory = Laboratory::new(operation, durability);
        for at in 0.. {
            let scratch = laboratory.scratch(at);
            let had = scratch.temporaries().len();
            let dir = scratch.files.parent().unwrap().to_str().unwrap();
            let mut worker = Worker::start("die", &[operation.name, &format!("{durability:?}"), &at.to_string(), dir]);
            let end = worker.hear();
            if !end.is_empty() {
                assert_eq!(end, "done");
                worker.finish();
                assert!(at > 5, "hardly any calls");
                laboratory.check_afterwards(&scratch, &[operation.new], 0, operation.name);
                break;
            }
            assert_eq!(worker.signal(), Some(libc::SIGKILL));
            let what = format!("{}, {durability:?}: dies at call {at}", operation.name);
            laboratory.check_afterwards(&scratch, &[operation.old, operation.new], had + operation.temporaries, &what);
        }
    }
}

/// One operation in a process of its own, which dies at a call.
fn die(args: &[String]) {
    let [name, durability, at, dir] = args else { panic!("{args:?}") };
    let operation = OPERATIONS.iter().find(|operation| operation.name == name).unwrap();
    let durability = EACH_DURABILITY.into_iter().find(|known| format!("{known:?}") == *durability).unwrap();
    let at: usize = at.parse().unwrap();
    let scratch = Scratch::at(Path::new(dir), operation);
    let decide = move |call: &Call<'_>| if call.number == at { Action::Kill } else { Action::Proceed };
    let (result, _) = run(operation, durability, &scratch, decide);
    result.unwrap();
    tell("done");
}

fn the_operations_make_all_the_calls_there_are() {
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
        Write,
        Fchmod,
        Renameat,
        Linkat,
        Unlinkat,
        Readdir,
        Getcwd,
        Getpid,
        Getrlimit,
        Geteuid,
        FcntlSetlkw,
        FcntlSetlk,
        FcntlUnlock,
        FcntlGetlk,
        Fsync,
        Close,
    ]);
    if cfg!(target_os = "linux") {
        all.extend([Openat2, Fstatfs]);
    }
    if common::syncs_whole_file_systems(&env::temp_dir()) {
        all.extend([Syncfs, Uname]);
    }
    if common::no_root().is_none() {
        all.insert(Fchown);
    }
    if cfg!(target_vendor = "apple") {
        all.remove(&Fsync);
        all.extend([FcntlFullfsync, FcntlGetpath]);
    }
    assert_eq!(seen, all);
}
