//! The workloads: what is done to files while the disk records, and the versions of the files.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Barrier, Mutex};
use std::thread;

use atomic_file_adapter::fault::{Action, Call, Syscall, inject};
use atomic_file_adapter::{AtomicFileAdapter, Durability};
use crash_lab::disk::{Disk, Event};
use crash_lab::mounted::Mounted;
use nix::sys::stat::{SFlag, fstat};
use xxhash_rust::xxh3::xxh3_64;

use crate::commits::Commits;
use crate::common::acl::{ACCESS, Acl, Tag, set_acl, set_attribute, try_attributes};

/// A umask would make neither of these modes.
const REPLACED_MODE: u32 = 0o604;
const NEW_MODE: u32 = 0o640;

/// The approximate number of steps of a write.
const STEPS: usize = 8;

/// A file that the workload does not use. A sync of it commits the journal.
pub const UNRELATED: &str = "unrelated";

pub struct Workload {
    pub name: &'static str,
    prepare: fn(&Run),
    operate: fn(&Run),
    /// The most temporary files that a crash may leave in one directory.
    pub writers: usize,
}

pub const CREATE: Workload = Workload { name: "create", prepare: |_| {}, operate: create, writers: 1 };
pub const REPLACE: Workload =
    Workload { name: "replace", prepare: |run| run.put("file", 6000), operate: replace, writers: 1 };
pub const RESIZE: Workload =
    Workload { name: "grow and shrink", prepare: |run| run.put("file", 300), operate: resize, writers: 1 };

pub const DELETE: Workload =
    Workload { name: "delete", prepare: |run| run.put("file", 6000), operate: delete, writers: 1 };

pub const BATCH: Workload = Workload { name: "batch", prepare: prepare_batch, operate: batch, writers: BATCHED };

/// The file has an ACL and attributes, one of which does not fit into an inode. (It must fit into a block of 1024
/// bytes.)
pub const ATTRIBUTES: Workload =
    Workload { name: "attributes", prepare: prepare_attributes, operate: replace, writers: 1 };

/// The mode is changed in place.
pub const SET_MODE: Workload =
    Workload { name: "set mode", prepare: |run| run.put("file", 6000), operate: set_modes, writers: 1 };

pub static WORKLOADS: [Workload; 11] = [
    CREATE,
    REPLACE,
    RESIZE,
    DELETE,
    Workload { name: "update", prepare: |run| run.put("file", 6000), operate: update, writers: 1 },
    Workload { name: "new directories", prepare: |_| {}, operate: new_directories, writers: 1 },
    Workload { name: "two writers", prepare: |run| run.put("file", 6000), operate: two_writers, writers: 2 },
    Workload { name: "symbolic link", prepare: prepare_link, operate: through_link, writers: 1 },
    BATCH,
    ATTRIBUTES,
    SET_MODE,
];

fn create(run: &Run) {
    for name in ["first", "second", "third"] {
        run.write(name, 6000);
    }
}

fn replace(run: &Run) {
    for _ in 0..3 {
        run.write("file", 6000);
    }
}

fn resize(run: &Run) {
    for size in [200_000, 300, 200_000] {
        run.write("file", size);
    }
}

fn delete(run: &Run) {
    let file = run.adapter().file(run.path("file")).unwrap();
    run.operation("file", None, |_| assert!(file.delete().unwrap()));
    run.write("file", 6000);
    run.operation("file", None, |_| assert!(file.delete().unwrap()));
}

fn set_modes(run: &Run) {
    let file = run.adapter().file(run.path("file")).unwrap();
    let set_mode = |mode| {
        let guard = file.lock().unwrap();
        run.set_mode("file", mode, || assert!(guard.set_mode(mode).unwrap()));
    };
    set_mode(0o600);
    set_mode(0o640);
    run.write("file", 300);
    set_mode(0o400);
}

fn update(run: &Run) {
    let file = run.adapter().file(run.path("file")).unwrap();
    for _ in 0..3 {
        let old_contents = run.newest("file");
        run.operation("file", Some(6000), |new| {
            let change = |old: Option<&[u8]>| {
                assert_eq!(old, old_contents.as_deref());
                new.to_owned()
            };
            file.update(change).unwrap();
        });
    }
}

fn new_directories(run: &Run) {
    for path in ["one/two/three/file", "one/two/four/file", "five/six/seven/file"] {
        run.write(path, 6000);
    }
}

fn two_writers(run: &Run) {
    let start = Barrier::new(2);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let file = run.adapter().file(run.path("file")).unwrap();
                start.wait();
                for _ in 0..2 {
                    // Under the lock everything is in one order, so each version replaces all before it.
                    let guard = file.lock().unwrap();
                    run.operation("file", Some(6000), |new| guard.write(new).unwrap());
                }
            });
        }
    });
}

/// Enough files to be synced together, by syncfs.
const BATCHED: usize = 8;

fn batched() -> impl Iterator<Item = String> {
    (0..BATCHED).map(|n| format!("file{n}"))
}

/// Half of the files exist before.
fn prepare_batch(run: &Run) {
    batched().step_by(2).for_each(|name| run.put(&name, 6000));
}

fn batch(run: &Run) {
    for _ in 0..2 {
        let mut batch = run.adapter().batch();
        let mut operations = Vec::new();
        for name in batched() {
            let (operation, new) = run.begin(&name, Some(6000));
            batch.write(run.path(&name), new.unwrap_or_default());
            operations.push(operation);
        }
        run.meddle(operations[0], "batch", || batch.commit().unwrap());
        operations.into_iter().for_each(|operation| run.disk.mark(Event::Acknowledged(operation)));
    }
}

fn prepare_attributes(run: &Run) {
    run.put("file", 6000);
    let path = run.path("file");
    let entries = [(Tag::UserObj, 6), (Tag::User(1234), 6), (Tag::GroupObj, 0), (Tag::Mask, 6), (Tag::Other, 0)];
    set_acl(&path, ACCESS, Some(&Acl::new(&entries)));
    set_attribute(&path, c"user.small", b"value").unwrap();
    set_attribute(&path, c"user.large", &contents("user.large", 0, 700)).unwrap();
    let mut history = run.history.lock().unwrap();
    let version = &mut history.files.get_mut(Path::new("file")).unwrap()[0];
    version.mode = path.metadata().unwrap().permissions().mode() & 0o7777;
    version.attributes = attributes_of(&path).unwrap();
    assert_eq!(version.attributes.len(), 3);
}

fn prepare_link(run: &Run) {
    fs::create_dir(run.path("elsewhere")).unwrap();
    run.put("elsewhere/file", 6000);
    symlink("elsewhere/file", run.path("link")).unwrap();
}

fn through_link(run: &Run) {
    for _ in 0..3 {
        let path = run.path("link");
        run.write_through("elsewhere/file", &path, 6000);
    }
}

/// The writer.
pub struct Writer {
    adapter: AtomicFileAdapter,
    durability: Durability,
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.durability)
    }
}

impl Writer {
    pub fn new(durability: Durability, lock_dir: &Path) -> Self {
        let builder = AtomicFileAdapter::builder().durability(durability).new_file_mode(NEW_MODE).lock_dir(lock_dir);
        Writer { adapter: builder.build().unwrap(), durability }
    }
}

/// What is done between the writer's system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meddling {
    pub commits: Commits,
    pub left_out: Option<LeftOut>,
}

impl fmt::Display for Meddling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "commits {:?}", self.commits)?;
        self.left_out.map_or(Ok(()), |sync| write!(f, ", {sync} left out"))
    }
}

/// A step that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftOut {
    FileSync,
    DirectorySync,
    /// The sync that makes a mode durable which was set in place.
    ModeSync,
    /// Not a sync, but the calls that set attributes.
    Attributes,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LeftOut::FileSync => "the file's sync",
            LeftOut::DirectorySync => "the directory's sync",
            LeftOut::ModeSync => "the mode's sync",
            LeftOut::Attributes => "the attributes",
        })
    }
}

impl LeftOut {
    pub fn is(self, call: &Call<'_>) -> bool {
        match call.syscall {
            Syscall::Syncfs => return self == LeftOut::FileSync,
            Syscall::Fsetxattr => return self == LeftOut::Attributes,
            _ => {}
        }
        let Some(fd) = call.fd.filter(|_| call.syscall == Syscall::Fsync) else { return false };
        let kind = SFlag::from_bits_truncate(fstat(fd).unwrap().st_mode) & SFlag::S_IFMT;
        match self {
            LeftOut::FileSync | LeftOut::ModeSync => kind == SFlag::S_IFREG,
            LeftOut::DirectorySync => kind == SFlag::S_IFDIR,
            LeftOut::Attributes => false,
        }
    }
}

/// The ACL, and user attributes.
pub type Attributes = Vec<(CString, Vec<u8>)>;

pub fn attributes_of(path: &Path) -> io::Result<Attributes> {
    let ours = |name: &CStr| name == ACCESS || name.to_bytes().starts_with(b"user.");
    Ok(try_attributes(path)?.into_iter().filter(|(name, _)| ours(name)).collect())
}

/// A version that a file may have after a crash.
#[derive(Clone)]
pub struct Version {
    /// `None`: there is no such file.
    pub contents: Option<Vec<u8>>,
    pub mode: u32,
    pub attributes: Attributes,
    /// The operation that makes it. `None`: it existed before.
    pub operation: Option<usize>,
}

/// All versions that were on the file system at any time.
#[derive(Default)]
pub struct History {
    pub files: BTreeMap<PathBuf, Vec<Version>>,
    operations: usize,
}

/// One run of a workload on the mounted file system.
pub struct Run<'a> {
    pub mounted: &'a Mounted,
    pub disk: &'a Disk,
    pub writer: &'a Writer,
    pub meddling: Meddling,
    pub history: Mutex<History>,
}

impl Run<'_> {
    pub fn prepare(&self, workload: &Workload) {
        self.put_unrelated(b"start");
        (workload.prepare)(self);
        self.mounted.sync().unwrap();
    }

    pub fn operate(&self, workload: &Workload) {
        (workload.operate)(self);
    }

    fn path(&self, path: &str) -> PathBuf {
        self.mounted.root().join(path)
    }

    fn adapter(&self) -> &AtomicFileAdapter {
        &self.writer.adapter
    }

    /// Makes the file with a first version, before the recording.
    fn put(&self, path: &str, size: usize) {
        let contents = contents(path, 0, size);
        fs::write(self.path(path), &contents).unwrap();
        fs::set_permissions(self.path(path), Permissions::from_mode(REPLACED_MODE)).unwrap();
        let version =
            Version { contents: Some(contents), mode: REPLACED_MODE, attributes: Vec::new(), operation: None };
        self.history.lock().unwrap().files.insert(path.into(), vec![version]);
    }

    fn put_unrelated(&self, contents: &[u8]) {
        fs::write(self.path(UNRELATED), contents).unwrap();
    }

    fn newest(&self, path: &str) -> Option<Vec<u8>> {
        self.history.lock().unwrap().files[Path::new(path)].last().unwrap().contents.clone()
    }

    fn write(&self, path: &str, size: usize) {
        self.write_through(path, &self.path(path), size);
    }

    /// `place` leads to the file.
    fn write_through(&self, path: &str, place: &Path, size: usize) {
        let (operation, new) = self.begin(path, Some(size));
        let new = new.unwrap_or_default();
        self.meddle(operation, path, || self.adapter().write_atomic(place, &new).unwrap());
        self.disk.mark(Event::Acknowledged(operation));
    }

    /// An operation that makes a new version of the file, of `size` bytes, or deletes it.
    fn operation(&self, path: &str, size: Option<usize>, body: impl FnOnce(&[u8])) {
        let (operation, contents) = self.begin(path, size);
        self.meddle(operation, path, || body(contents.as_deref().unwrap_or_default()));
        self.disk.mark(Event::Acknowledged(operation));
    }

    /// An operation that changes only the mode.
    fn set_mode(&self, path: &str, mode: u32, body: impl FnOnce()) {
        let operation = self.begin_version(path, |versions| Version { mode, ..versions.last().unwrap().clone() });
        self.meddle(operation, path, body);
        self.disk.mark(Event::Acknowledged(operation));
    }

    /// Begins an operation. Returns its number and the contents of the new version.
    fn begin(&self, path: &str, size: Option<usize>) -> (usize, Option<Vec<u8>>) {
        let operation = self.begin_version(path, |versions| {
            let contents = size.map(|size| contents(path, versions.len(), size));
            let old = versions.last().unwrap().clone();
            if old.contents.is_none() {
                Version { contents, mode: NEW_MODE, attributes: Vec::new(), ..old }
            } else {
                Version { contents, ..old }
            }
        });
        (operation, self.newest(path))
    }

    fn begin_version(&self, path: &str, new: impl FnOnce(&[Version]) -> Version) -> usize {
        let mut history = self.history.lock().unwrap();
        let operation = history.operations;
        history.operations += 1;
        let absent = || vec![Version { contents: None, mode: 0, attributes: Vec::new(), operation: None }];
        let versions = history.files.entry(path.into()).or_insert_with(absent);
        versions.push(Version { operation: Some(operation), ..new(versions) });
        self.disk.mark(Event::Begin(operation));
        operation
    }

    /// Watches the system calls of the adapter in `body`.
    fn meddle(&self, operation: usize, path: &str, body: impl FnOnce()) {
        let left_out = self.meddling.left_out;
        let mut step = self.commits(operation, path);
        let decide = move |call: &Call<'_>| {
            if changes_or_follows(call) {
                step();
            }
            if left_out.is_some_and(|sync| sync.is(call)) { Action::Skip } else { Action::Proceed }
        };
        inject(decide, body);
    }

    fn commits(&self, operation: usize, path: &str) -> impl FnMut() + use<> {
        let purpose = format!("commit in operation {operation} on {path}");
        self.meddling.commits.before_each(STEPS, &purpose, self.path(UNRELATED))
    }
}

/// Whether the call changes the disk, or is the first interesting one after a call that did.
pub fn changes_or_follows(call: &Call<'_>) -> bool {
    use Syscall::{
        Close, Fchmod, Fchown, Fremovexattr, Fsetxattr, Fsync, Ftruncate, Mkdirat, Pwrite, Renameat, Syncfs, Unlinkat,
        Write,
    };
    let changes_the_file =
        matches!(call.syscall, Write | Pwrite | Ftruncate | Fchown | Fchmod | Fsetxattr | Fremovexattr);
    changes_the_file || matches!(call.syscall, Mkdirat | Fsync | Syncfs | Renameat | Unlinkat | Close)
}

/// Contents that tell their file and version. No two blocks are the same.
pub fn contents(path: &str, version: usize, size: usize) -> Vec<u8> {
    let title = format!("{path}, version {version}, {size} bytes\n");
    let blocks = (0u64..).flat_map(|block| xxh3_64(format!("{title}{block}").as_bytes()).to_le_bytes());
    title.bytes().chain(blocks).take(size).collect()
}

/// Whether the file system may contain this path beside the workload's files.
pub fn is_expected(path: &Path) -> bool {
    [UNRELATED, "lost+found", ".nilfs", "link", "elsewhere"].iter().any(|name| path == Path::new(name))
}
