//! Runs an operation in a new directory, with faults, and looks at the result.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use atomic_file_adapter::fault::{Action, Call, Syscall, inject};
use atomic_file_adapter::{AtomicFile, AtomicFileAdapter, Durability, Result};
use libc::{ENOENT, ENOSYS};
use tempfile::TempDir;

use crate::common::{Worker, hear, names, sample, say_what_is_left_out, tell};
use crate::operations::{Did, MODE, Operation};

/// A directory for one run of an operation.
pub(crate) struct Scratch {
    pub(crate) files: PathBuf,
    pub(crate) locks: PathBuf,
    target: &'static str,
    pub(crate) kept: Cell<Option<AtomicFile>>,
    /// The target's protection before the operation, and after it if nothing fails. `None`: there is no protection to
    /// keep.
    pub(crate) found: Option<Protection>,
}

/// The rights of a file, and its attributes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Protection {
    mode: u32,
    acl: Option<Vec<u8>>,
    attributes: Vec<(CString, Vec<u8>)>,
}

impl Protection {
    fn of(path: &Path) -> Option<Self> {
        let mode = path.metadata().ok()?.permissions().mode() & 0o7777;
        #[cfg(target_os = "linux")]
        {
            use crate::common::acl::{ACCESS, attribute, attributes};
            let acl = attribute(path, ACCESS);
            let others = attributes(path).into_iter().filter(|(name, _)| name.as_c_str() != ACCESS).collect();
            Some(Protection { mode, acl, attributes: others })
        }
        #[cfg(not(target_os = "linux"))]
        Some(Protection { mode, acl: None, attributes: Vec::new() })
    }

    /// Whether it lets in nobody whom `old` keeps out. The ACLs of the operations give others no rights. So without an
    /// ACL, only the owner may have rights.
    fn is_no_wider_than(&self, old: &Protection) -> bool {
        let acl_kept = self.acl == old.acl;
        let mode_kept = self.mode & !old.mode == 0;
        let nobody_else = self.acl.is_none() && self.mode & 0o077 == 0;
        let attributes_kept = self.attributes.iter().all(|attribute| old.attributes.contains(attribute));
        attributes_kept && mode_kept && (acl_kept || nobody_else)
    }
}

impl Scratch {
    pub(crate) fn at(dir: &Path, operation: &Operation) -> Self {
        let (files, locks) = (dir.join("files"), dir.join("locks"));
        Scratch { files, locks, target: operation.target, kept: Cell::new(None), found: None }
    }

    pub(crate) fn protection(&self) -> Option<Protection> {
        Protection::of(&self.path())
    }

    /// An old version is unchanged or gone, or a new version in its place has all of this.
    #[track_caller]
    pub(crate) fn assert_protection_is_kept(&self, what: &str) {
        let (Some(now), Some(before)) = (self.protection(), &self.found) else { return };
        assert_eq!(now, *before, "{what}");
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.files.join(self.target)
    }

    pub(crate) fn adapter(&self, durability: Durability) -> AtomicFileAdapter {
        AtomicFileAdapter::builder().lock_dir(&self.locks).durability(durability).build().unwrap()
    }

    pub(crate) fn contents(&self) -> Option<String> {
        match fs::read_to_string(self.path()) {
            Ok(contents) => Some(contents),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// The temporary files beside the files and in the lock directory.
    pub(crate) fn temporaries(&self) -> Vec<String> {
        let beside = self.path();
        let mut dirs = vec![self.locks.clone(), self.files.clone()];
        dirs.extend(beside.parent().map(Path::to_owned));
        let names = dirs.iter().filter(|dir| dir.exists()).flat_map(|dir| names(dir));
        let found: BTreeSet<_> = names.filter(|name| name.starts_with('.') && name.contains(".tmp")).collect();
        found.into_iter().collect()
    }
}

/// Runs an operation again and again, each time in a new directory.
pub(crate) struct Laboratory<'a> {
    pub(crate) operation: &'a Operation,
    pub(crate) durability: Durability,
    dir: TempDir,
    witness: Worker,
}

impl<'a> Laboratory<'a> {
    pub(crate) fn new(operation: &'a Operation, durability: Durability) -> Self {
        // If a process uses no other lock file, it opens one without a look at its name first. Tests that run at the
        // same time must not decide this, so one is open. Operations that die run in processes of their own.
        static ELSEWHERE: OnceLock<AtomicFile> = OnceLock::new();
        ELSEWHERE.get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            let file = AtomicFileAdapter::with_lock_dir(&dir).unwrap().file(dir.path().join("file")).unwrap();
            drop(file.lock().unwrap());
            file
        });
        // These tests are not about disks, and memory is faster.
        let memory = Path::new("/dev/shm");
        let dir =
            if memory.is_dir() && !operation.on_disk { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }
                .unwrap();
        Laboratory { operation, durability, dir, witness: Worker::start("witness", &[]) }
    }

    /// A new directory. Its name is its number.
    pub(crate) fn scratch(&self, number: usize) -> Scratch {
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
        Scratch { found: self.operation.old.and_then(|_| scratch.protection()), ..scratch }
    }

    pub(crate) fn run(
        &self,
        scratch: &Scratch,
        decide: impl FnMut(&Call<'_>) -> Action + 'static,
    ) -> (Result<Did>, usize) {
        run(self.operation, self.durability, scratch, decide)
    }

    /// What must hold after any operation has failed or died at any place: another process gets the lock at once, the
    /// file is complete, the leftovers can be swept, and everything works again.
    pub(crate) fn check_afterwards(
        &mut self,
        scratch: &Scratch,
        allowed: &[Option<&str>],
        temporaries: usize,
        what: &str,
    ) {
        let contents = scratch.contents();
        assert!(allowed.contains(&contents.as_deref()), "{what}: {contents:?}");
        if let (Some(now), Some(before)) = (scratch.protection(), &scratch.found) {
            assert!(now.is_no_wider_than(before), "{what}: {before:?}, now {now:?}");
        }
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

/// Runs an operation, with `decide` called at each system call. Returns the number of calls.
pub(crate) fn run(
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
        // These go through /proc.
        Action::Proceed | Action::Short(_)
            if without_proc && [Syscall::Llistxattr, Syscall::Lgetxattr].contains(&call.syscall) =>
        {
            Action::Fail(ENOENT)
        }
        action => action,
    };
    let adapter = scratch.adapter(durability);
    inject(decide, || (operation.run)(&adapter, scratch))
}

pub(crate) const EACH_DURABILITY: [Durability; 3] = [Durability::Full, Durability::Ordered, Durability::None];

/// Another process reports whether the lock of this path is free, and the contents of the file.
pub(crate) fn witness(_: &[String]) {
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

/// How many errors of calls were in the samples, and how many there are in all.
static SAMPLED: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// A sample of what can happen to a call of an operation.
pub(crate) fn sample_of_call<T: Copy>(
    operation: &Operation,
    durability: Durability,
    at: usize,
    all: &[T],
    short: usize,
) -> Vec<T> {
    let sample = sample(all, short, &format!("{} {durability:?} {at}", operation.name));
    SAMPLED[0].fetch_add(sample.len(), Relaxed);
    SAMPLED[1].fetch_add(all.len(), Relaxed);
    sample
}

pub(crate) fn say_how_much_was_tried() {
    let [sampled, all] = [0, 1].map(|n| SAMPLED[n].load(Relaxed));
    if all > 0 {
        let left_out = all - sampled;
        say_what_is_left_out(&format!("{left_out} of {all} errors of calls, and deaths at most of the calls"));
    }
}

/// A call of the operation if nothing fails.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) syscall: Syscall,
    pub(crate) text: String,
    /// It syncs a directory.
    pub(crate) syncs_directory: bool,
}

pub(crate) fn calls_of(laboratory: &Laboratory<'_>, number: &mut usize) -> Vec<Seen> {
    *number += 1;
    let scratch = laboratory.scratch(*number);
    let seen = Rc::new(RefCell::new(Vec::new()));
    let mine = seen.clone();
    let (result, calls) = laboratory.run(&scratch, move |call| {
        // Not for a lock file, because closing a copy of its descriptor would drop the lock.
        let synced = call.fd.filter(|_| call.syscall == Syscall::Fsync);
        let syncs_directory = synced.is_some_and(|fd| {
            let file = File::from(fd.try_clone_to_owned().unwrap());
            file.metadata().unwrap().is_dir()
        });
        mine.borrow_mut().push(Seen { syscall: call.syscall, text: call.to_string(), syncs_directory });
        Action::Proceed
    });
    result.unwrap();
    assert_eq!(scratch.contents().as_deref(), laboratory.operation.new);
    scratch.assert_protection_is_kept(laboratory.operation.name);
    assert_eq!(scratch.temporaries(), [""; 0]);
    assert_eq!(calls, seen.borrow().len());
    seen.take()
}
