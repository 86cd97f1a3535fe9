//! A file system whose inode numbers change at each look, as on some FUSE file systems. No lock file can be locked
//! there, and every call ends with an error that says so.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use atomic_file_adapter::{AtomicFileAdapter, Error, Step};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, OpenFlags, ReplyAttr,
    ReplyCreate, ReplyDirectory, ReplyEmpty, ReplyEntry, Request, Session,
};

use crate::common::{end_after, take_own_mounts, tell};
use crate::{Scratch, WATCHDOG};

pub(crate) fn every_call_ends_where_inode_numbers_change() {
    let scratch = Scratch::new();
    let mut worker = scratch.worker("call_where_inode_numbers_change", &[]);
    for call in ["lock_timeout", "lock_shared_timeout", "lock", "lock_shared", "try_lock", "read", "prune", "locks"] {
        worker.expect(call);
    }
    worker.finish();
}

/// The worker, in a process with its own mounts, which end with it.
pub(crate) fn call_where_inode_numbers_change(args: &[String]) {
    let dir = Path::new(&args[0]);
    let locks = dir.join("locks");
    std::fs::create_dir(&locks).unwrap();
    take_own_mounts();
    // First of all, because the mount hangs if this process hangs, which serves it.
    let _done = end_after(WATCHDOG / 2, "a call does not end");
    let session = Session::new(Changing::default(), &locks, &Config::default()).unwrap();
    thread::spawn(move || session.run());

    let adapter = AtomicFileAdapter::with_lock_dir(&locks).unwrap();
    let file = adapter.file(dir.join("file")).unwrap();
    let timeout = Duration::from_millis(200);
    for (call, result) in [
        ("lock_timeout", file.lock_timeout(timeout).map(drop)),
        ("lock_shared_timeout", file.lock_shared_timeout(timeout).map(drop)),
    ] {
        assert!(matches!(result, Err(Error::Timeout { waited, .. }) if waited == timeout), "{call}: {result:?}");
        tell(call);
    }
    for (call, result) in [
        ("lock", file.lock().map(drop)),
        ("lock_shared", file.lock_shared().map(drop)),
        ("try_lock", file.try_lock().map(drop)),
        ("read", adapter.read_with_lock(dir.join("file")).map(drop)),
        ("prune", adapter.prune().map(drop)),
    ] {
        let error = match result.expect_err(call) {
            // The error of the only lock file.
            Error::Partial { mut failed, .. } => failed.remove(0),
            error => error,
        };
        assert!(matches!(&error, Error::Io { step: Step::OpenLock, .. }), "{call}: {error:?}");
        assert!(error.to_string().contains("another file at each look"), "{call}: {error}");
        tell(call);
    }
    // `locks` looks at each lock file only once.
    assert_eq!(adapter.locks().unwrap().len(), 1);
    tell("locks");
}

/// A directory of empty files.
#[derive(Default)]
struct Changing {
    names: Mutex<BTreeSet<OsString>>,
    numbers: AtomicU64,
}

const ONCE: Duration = Duration::ZERO;

impl Changing {
    fn directory() -> FileAttr {
        FileAttr {
            ino: INodeNo::ROOT,
            size: 0,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: FileType::Directory,
            perm: 0o755,
            nlink: 2,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn file(&self) -> FileAttr {
        let ino = INodeNo(2 + self.numbers.fetch_add(1, SeqCst));
        FileAttr { ino, kind: FileType::RegularFile, perm: 0o644, nlink: 1, ..Self::directory() }
    }
}

impl Filesystem for Changing {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if self.names.lock().unwrap().contains(name) {
            reply.entry(&ONCE, &self.file(), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&ONCE, &if ino == INodeNo::ROOT { Self::directory() } else { self.file() });
    }

    fn create(&self, _: &Request, _: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        self.names.lock().unwrap().insert(name.to_owned());
        reply.created(&ONCE, &self.file(), Generation(0), FileHandle(0), FopenFlags::empty());
    }

    fn unlink(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.names.lock().unwrap().remove(name);
        reply.ok();
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        for (n, name) in self.names.lock().unwrap().iter().enumerate().skip(offset as usize) {
            if reply.add(self.file().ino, n as u64 + 1, FileType::RegularFile, name) {
                break;
            }
        }
        reply.ok();
    }

    /// It reports nothing about locks, because the kernel keeps the locks of this machine itself.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: fuser::LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: fuser::ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }
}
