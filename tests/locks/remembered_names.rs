//! A FUSE file system that lets the kernel cache names and then changes them, as if other machines had mounted it, too.
//! The test shows why the crate does not ask such a file system anew as it asks NFS.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use atomic_file_adapter::AtomicFileAdapter;
use atomic_file_adapter::fault::{Action, Call, Syscall, inject};
use fuser::{
    Config, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, Request, Session,
};

use crate::Scratch;
use crate::common::{take_own_mounts, tell};

pub(crate) fn no_call_refreshes_the_names_that_fuse_caches() {
    for (ttl, expected) in [("0", ["new", "new"]), ("36000", ["none", "none"])] {
        let scratch = Scratch::new();
        let mut worker = scratch.worker("read_behind_the_kernels_back", &[ttl]);
        worker.expect("none");
        expected.iter().for_each(|expected| worker.expect(expected));
        worker.finish();
    }
}

/// The worker, in a process with its own mounts, which end with it.
pub(crate) fn read_behind_the_kernels_back(args: &[String]) {
    let dir = Path::new(&args[0]);
    let mounted = dir.join("mounted");
    std::fs::create_dir(&mounted).unwrap();
    take_own_mounts();
    let is_there = Arc::new(AtomicBool::new(false));
    let ttl = Duration::from_secs(args[1].parse().unwrap());
    let session = Session::new(Remembered { is_there: is_there.clone(), ttl }, &mounted, &Config::default()).unwrap();
    thread::spawn(move || session.run());

    let adapter = AtomicFileAdapter::with_lock_dir(dir.join("locks")).unwrap();
    let read = || {
        let read = adapter.read_with_lock(mounted.join("file")).unwrap();
        tell(&read.map_or("none".to_owned(), |read| String::from_utf8(read).unwrap()));
    };
    read();
    is_there.store(true, SeqCst);
    // Opens the directory again.
    read();
    // The adapter cannot see that this is not NFS, so it asks the server.
    let refuse = |call: &Call<'_>| match call.syscall {
        Syscall::Fstatfs => Action::Fail(nix::errno::Errno::EPERM as i32),
        _ => Action::Proceed,
    };
    inject(refuse, read);
}

/// A directory with the file `file`, or without it.
struct Remembered {
    is_there: Arc<AtomicBool>,
    ttl: Duration,
}

const CONTENTS: &[u8] = b"new";
const FILE: INodeNo = INodeNo(2);

fn attributes(ino: INodeNo) -> FileAttr {
    let file = ino == FILE;
    FileAttr {
        ino,
        size: if file { CONTENTS.len() as u64 } else { 0 },
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if file { FileType::RegularFile } else { FileType::Directory },
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Remembered {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        // Inode number 0: there is no such file, and the kernel may cache that.
        let ino = if name == "file" && self.is_there.load(SeqCst) { FILE } else { INodeNo(0) };
        reply.entry(&self.ttl, &attributes(ino), Generation(0));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&self.ttl, &attributes(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        _: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        reply.data(CONTENTS.get(offset as usize..).unwrap_or_default());
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}
