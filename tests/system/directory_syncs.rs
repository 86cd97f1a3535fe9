//! File systems that do not sync directories. FUSE serves them from memory, so that a real kernel asks and returns the
//! answer.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atomic_file_adapter::{AtomicFileAdapter, Error, Step};
use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, Session, TimeOrNow, WriteFlags,
};

use crate::common::{Worker, end_after, take_own_mounts, tell};
use crate::{Scratch, WRITING, utf8};

pub(crate) fn where_there_is_no_sync_of_directories_a_write_is_done() {
    let scratch = Scratch::new();
    let mut worker = Worker::start("write_without_syncs_of_directories", &[utf8(&scratch.dir)]);
    for answer in ["EINVAL", "ENOTSUP", "ENOSYS", "EIO"] {
        worker.expect(answer);
    }
    worker.finish();
}

/// The worker, in a process with its own mounts, which end with it.
pub(crate) fn write_without_syncs_of_directories(args: &[String]) {
    let above = Path::new(&args[0]);
    take_own_mounts();
    // First of all, because the mount hangs if this process hangs, which serves it.
    let _done = end_after(Duration::from_secs(120), "a call does not end");
    let adapter = AtomicFileAdapter::with_lock_dir(above.join("locks")).unwrap();
    for (name, answer) in [("EINVAL", Errno::EINVAL), ("ENOTSUP", Errno::ENOTSUP), ("ENOSYS", Errno::ENOSYS)] {
        let (dir, asked) = serve(above, name, answer);
        for (verb, write) in WRITING {
            for path in [dir.join("file"), dir.join(verb).join("deep/file")] {
                write(&adapter, &path, verb.as_bytes()).unwrap_or_else(|error| panic!("{name}: {verb}: {error}"));
                assert_eq!(adapter.read_to_string_with_lock(&path).unwrap().as_deref(), Some(verb), "{name}");
            }
        }
        adapter.batch().write(dir.join("one"), "1").delete(dir.join("file")).commit().unwrap();
        assert!(adapter.delete_with_lock(dir.join("one")).unwrap());
        // The kernel remembers ENOSYS and then reports success by itself (`fuse_dir_fsync` in fs/fuse/dir.c).
        let asked = asked.load(SeqCst);
        assert!(if name == "ENOSYS" { asked == 1 } else { asked > 10 }, "{name}: {asked}");
        tell(name);
    }

    // Every other error is reported.
    let (dir, _) = serve(above, "EIO", Errno::EIO);
    let error = adapter.write_atomic(dir.join("file"), "new").unwrap_err();
    assert!(matches!(error, Error::NotDurable { .. }), "{error:?}");
    assert_eq!(fs::read(dir.join("file")).unwrap(), b"new");
    let error = adapter.write_atomic(dir.join("missing/file"), "new").unwrap_err();
    assert!(matches!(error, Error::Io { step: Step::CreateDirectory, .. }), "{error:?}");
    tell("EIO");
}

/// A new file system, and a counter of its requests to sync a directory.
fn serve(above: &Path, name: &str, answer: Errno) -> (PathBuf, Arc<AtomicUsize>) {
    let dir = above.join(name);
    fs::create_dir(&dir).unwrap();
    let memory = Memory::new(answer);
    let asked = memory.asked.clone();
    let session = Session::new(memory, &dir, &Config::default()).unwrap();
    thread::spawn(move || session.run());
    (dir, asked)
}

enum Node {
    Directory(BTreeMap<OsString, INodeNo>),
    File { contents: Vec<u8>, mode: u16 },
}

/// Files and directories in memory.
struct Memory {
    nodes: Mutex<BTreeMap<u64, Node>>,
    /// The answer to a request to sync a directory.
    answer: Errno,
    asked: Arc<AtomicUsize>,
}

const ONCE: Duration = Duration::ZERO;

impl Memory {
    fn new(answer: Errno) -> Self {
        let root = (INodeNo::ROOT.0, Node::Directory(BTreeMap::new()));
        Memory { nodes: Mutex::new(BTreeMap::from([root])), answer, asked: Arc::default() }
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<u64, Node>> {
        self.nodes.lock().unwrap()
    }

    fn attributes(nodes: &BTreeMap<u64, Node>, ino: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = match nodes.get(&ino.0)? {
            Node::Directory(_) => (FileType::Directory, 0o755, 0),
            Node::File { contents, mode } => (FileType::RegularFile, *mode, contents.len() as u64),
        };
        let [atime, mtime, ctime, crtime] = [UNIX_EPOCH; 4];
        let (nlink, uid, gid, rdev, blocks, blksize, flags) = (1, 0, 0, 0, 1, 4096, 0);
        Some(FileAttr {
            ino,
            size,
            blocks,
            atime,
            mtime,
            ctime,
            crtime,
            kind,
            perm,
            nlink,
            uid,
            gid,
            rdev,
            blksize,
            flags,
        })
    }

    fn names(nodes: &mut BTreeMap<u64, Node>, dir: INodeNo) -> &mut BTreeMap<OsString, INodeNo> {
        match nodes.get_mut(&dir.0) {
            Some(Node::Directory(names)) => names,
            _ => panic!("{dir:?} is no directory"),
        }
    }

    fn add(&self, dir: INodeNo, name: &OsStr, node: Node) -> FileAttr {
        let mut nodes = self.nodes();
        let ino = INodeNo(nodes.last_key_value().unwrap().0 + 1);
        nodes.insert(ino.0, node);
        Self::names(&mut nodes, dir).insert(name.to_owned(), ino);
        Self::attributes(&nodes, ino).unwrap()
    }

    fn contents(&self, ino: INodeNo, work: impl FnOnce(&mut Vec<u8>)) {
        match self.nodes().get_mut(&ino.0) {
            Some(Node::File { contents, .. }) => work(contents),
            _ => panic!("{ino:?} is no file"),
        }
    }
}

impl Filesystem for Memory {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut nodes = self.nodes();
        let found = Self::names(&mut nodes, parent).get(name).copied();
        match found.and_then(|ino| Self::attributes(&nodes, ino)) {
            Some(attributes) => reply.entry(&ONCE, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match Self::attributes(&self.nodes(), ino) {
            Some(attributes) => reply.attr(&ONCE, &attributes),
            None => reply.error(Errno::ESTALE),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        new_mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut nodes = self.nodes();
        if let (Some(Node::File { mode, .. }), Some(new)) = (nodes.get_mut(&ino.0), new_mode) {
            *mode = (new & 0o7777) as u16;
        }
        reply.attr(&ONCE, &Self::attributes(&nodes, ino).unwrap());
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.entry(&ONCE, &self.add(parent, name, Node::Directory(BTreeMap::new())), Generation(0));
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, _: i32, reply: ReplyCreate) {
        let file = self.add(parent, name, Node::File { contents: Vec::new(), mode: (mode & 0o7777) as u16 });
        reply.created(&ONCE, &file, Generation(0), FileHandle(0), FopenFlags::empty());
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        Self::names(&mut self.nodes(), parent).remove(name);
        reply.ok();
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut nodes = self.nodes();
        let moved = Self::names(&mut nodes, parent).remove(name).unwrap();
        Self::names(&mut nodes, new_parent).insert(new_name.to_owned(), moved);
        reply.ok();
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        _: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.contents(ino, |contents| reply.data(contents.get(offset as usize..).unwrap_or_default()));
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.contents(ino, |contents| {
            contents.truncate(offset as usize);
            contents.extend_from_slice(data);
        });
        reply.written(data.len() as u32);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.asked.fetch_add(1, SeqCst);
        reply.error(self.answer);
    }
}
