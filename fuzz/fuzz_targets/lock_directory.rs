//! An arbitrary hostile lock directory. Lock files, the `.gitignore` or the directory itself are links, loops, FIFOs,
//! directories or unreadable files.
//!
//! Every call ends, with the right result, or with an error that names the path and changes nothing. Without an
//! obstacle it succeeds. Files that are no lock files stay as they are. libFuzzer's `-timeout` finds calls that hang.

#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use arbitrary::Arbitrary;
use atomic_file_adapter::{AtomicFileAdapter, Durability, Error, Result};
use atomic_file_adapter_fuzz::protocol::{is_lock_name, lock_name};
use atomic_file_adapter_fuzz::sandbox::{keep_inside, sandbox};
use libfuzzer_sys::fuzz_target;
use nix::sys::stat::Mode;
use nix::unistd::{Uid, geteuid, mkfifo, seteuid};

#[derive(Debug, Arbitrary)]
struct Input {
    dir: Dir,
    entries: Vec<(Name, Thing)>,
    ops: Vec<(u8, Op)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
enum Dir {
    Missing,
    Here { mode: u16 },
    LinkTo { mode: u16 },
    Dangling,
    Loop,
    File,
    Fifo,
    BelowAFile,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Name {
    LockOf(u8),
    OtherLock(u8),
    NoLock(u8),
    Gitignore,
    GitignoreTemporary { own: bool },
    Other(u8),
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Thing {
    Directory,
    Fifo,
    Socket,
    LinkToVictim,
    LinkToDirectory,
    Dangling,
    Loop,
    File { mode: u16, foreign: bool },
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Op {
    Read,
    Write,
    Update,
    Delete,
    TryLock,
    TryLockShared,
    LockPath,
    Locks,
    Prune,
    Sweep,
    Batch,
}

const FILES: [&str; 3] = ["one", "two", "three"];
/// Names that only look like those of lock files.
const NO_LOCKS: [&str; 4] =
    ["Cargo.lock", "0123456789abcde.lock", "0123456789ABCDEF.lock", "0123456789abcdef.lock.tmp"];
const NOBODY: u32 = 65534;

/// Permissions do not restrict root, so the calls run as NOBODY. When this is dropped the process is root again,
/// because libFuzzer writes its corpus.
struct AsNobody(Uid);

impl AsNobody {
    fn begin() -> Self {
        let before = geteuid();
        if before.is_root() {
            seteuid(NOBODY.into()).unwrap();
        }
        AsNobody(before)
    }
}

impl Drop for AsNobody {
    fn drop(&mut self) {
        seteuid(self.0).unwrap();
    }
}

fn own(path: &Path, mode: u32, foreign: bool) {
    if geteuid().is_root() && !foreign {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

struct World {
    files: PathBuf,
    locks: PathBuf,
    adapter: AtomicFileAdapter,
    contents: [Option<Vec<u8>>; FILES.len()],
}

impl World {
    fn new(input: &Input) -> Self {
        let world = sandbox().join("hostile");
        // The first time it does not exist.
        let _ = fs::remove_dir_all(&world);
        for dir in ["", "files", "elsewhere"] {
            fs::create_dir(world.join(dir)).unwrap();
            own(&world.join(dir), 0o755, false);
        }
        own(sandbox(), 0o755, true);
        fs::write(world.join("victim"), "victim").unwrap();
        own(&world.join("victim"), 0o666, false);
        let locks = world.join("locks");
        let (real, mode) = match input.dir {
            Dir::Here { mode } => (Some(locks.clone()), mode),
            Dir::LinkTo { mode } => (Some(world.join("real")), mode),
            _ => (None, 0),
        };
        match input.dir {
            Dir::Missing | Dir::Here { .. } => {}
            Dir::LinkTo { .. } => symlink("real", &locks).unwrap(),
            Dir::Dangling => symlink("nowhere/to/go", &locks).unwrap(),
            Dir::Loop => symlink("locks", &locks).unwrap(),
            Dir::File => fs::write(&locks, "no directory").unwrap(),
            Dir::Fifo => mkfifo(&locks, Mode::S_IRWXU | Mode::S_IRWXO).unwrap(),
            Dir::BelowAFile => {}
        }
        if let Some(real) = real {
            fs::create_dir(&real).unwrap();
            for (name, thing) in input.entries.iter().take(12) {
                make(&real.join(called(&world, *name)), *thing, &world);
            }
            own(&real, u32::from(mode) & 0o777, false);
        }
        let locks = if input.dir == Dir::BelowAFile { world.join("victim/locks") } else { locks };
        let adapter = AtomicFileAdapter::builder().lock_dir(&locks).durability(Durability::None).build().unwrap();
        World { files: world.join("files"), locks, adapter, contents: [const { None }; FILES.len()] }
    }

    fn file(&self, file: usize) -> PathBuf {
        self.files.join(FILES[file])
    }

    /// Whether there is no obstacle to the lock of this file.
    fn is_clear(&self, file: usize) -> bool {
        let usable = |path: &Path, bits| {
            fs::symlink_metadata(path).is_ok_and(|meta| {
                meta.is_file() && (meta.uid() == NOBODY || geteuid().is_root()) && meta.mode() & bits == bits
            })
        };
        let dir = fs::metadata(&self.locks);
        let lock = self.locks.join(lock_name(&self.file(file)));
        match (dir, fs::symlink_metadata(&lock)) {
            (Ok(dir), Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                dir.is_dir() && dir.mode() & 0o700 == 0o700
            }
            (Ok(dir), Ok(_)) => dir.is_dir() && dir.mode() & 0o100 == 0o100 && usable(&lock, 0o600),
            // The directory is missing, and will be made.
            (Err(error), _) => {
                error.kind() == std::io::ErrorKind::NotFound && fs::symlink_metadata(&self.locks).is_err()
            }
            _ => false,
        }
    }

    fn step(&mut self, file: usize, op: Op) {
        let path = self.file(file);
        let clear = self.is_clear(file);
        let adapter = &self.adapter;
        let old = self.contents[file].clone();
        let done: Result<()> = match op {
            Op::Read => adapter.read_with_lock(&path).map(|read| assert_eq!(read, old)),
            Op::Write => adapter.write_atomic(&path, "written").map(|()| self.contents[file] = Some(b"written".into())),
            Op::Update => {
                let more = |old: Option<&[u8]>| [old.unwrap_or_default(), b"+"].concat();
                let updated = adapter.update(&path, more);
                updated.map(|()| self.contents[file] = Some(more(old.as_deref())))
            }
            Op::Delete => adapter.delete_with_lock(&path).map(|deleted| {
                assert_eq!(deleted, old.is_some());
                self.contents[file] = None;
            }),
            Op::TryLock => adapter.file(&path).and_then(|file| file.try_lock().map(drop)),
            Op::TryLockShared => adapter.file(&path).and_then(|file| file.try_lock_shared().map(drop)),
            Op::LockPath => {
                let lock = adapter.lock_path(&path).unwrap();
                assert_eq!(lock, self.locks.join(lock_name(&path)));
                Ok(())
            }
            Op::Locks | Op::Prune | Op::Sweep => {
                let done = match op {
                    Op::Locks => adapter.locks().map(|locks| {
                        assert!(locks.iter().all(|lock| lock.holder.is_none()));
                        let listed: BTreeSet<PathBuf> = locks.into_iter().map(|lock| lock.path).collect();
                        assert_eq!(listed, lock_names(&self.locks), "one thing hides another");
                    }),
                    Op::Prune => {
                        let before = lock_names(&self.locks);
                        let pruned = adapter.prune();
                        let kept = lock_names(&self.locks);
                        let (done, failed) = match pruned {
                            Err(Error::Partial { done, failed, .. }) => (done, failed),
                            pruned => (pruned.unwrap_or_default(), vec![]),
                        };
                        // No lock is held. So each lock file that is left has its own error, or the directory could not
                        // be listed.
                        assert!(done.iter().all(|path| before.contains(path) && !kept.contains(path)));
                        assert!(done.is_empty() && failed.is_empty() || done.len() + failed.len() == before.len());
                        assert!(failed.iter().all(|error| kept.contains(error.path())));
                        failed.iter().for_each(|error| self.judge(error));
                        Ok(())
                    }
                    _ => adapter.sweep(&self.files).map(drop),
                };
                // Whether these calls meet an obstacle depends on the whole directory.
                if let Err(error) = done {
                    self.judge(&error);
                }
                Ok(())
            }
            Op::Batch => {
                let mut batch = adapter.batch();
                match batch.write(&path, "batch").commit() {
                    Ok(()) => {
                        self.contents[file] = Some(b"batch".into());
                        Ok(())
                    }
                    Err(Error::Batch { replaced, source, .. }) => {
                        assert!(replaced.is_empty());
                        Err(*source)
                    }
                    Err(error) => panic!("a batch has failed with {error:?}"),
                }
            }
        };
        if let Err(error) = done {
            assert!(!clear, "nothing is in the way, and yet: {error}");
            self.judge(&error);
        }
        assert_eq!(fs::read(self.file(file)).ok(), self.contents[file], "after {op:?}");
    }

    /// An error must say what is wrong and where.
    fn judge(&self, error: &Error) {
        match error {
            Error::Io { source, .. } | Error::LockFileDenied { source, .. } => {
                assert!(source.raw_os_error().is_some(), "{error:?}");
            }
            Error::NotRegularFile { .. } => {}
            Error::Partial { failed, .. } => failed.iter().for_each(|error| self.judge(error)),
            _ => panic!("not an error for a bad lock directory: {error:?}"),
        }
        assert!(error.path().starts_with(sandbox()), "{error:?}");
        assert!(error.to_string().contains(error.path().to_str().unwrap()), "{error}");
    }
}

fn called(world: &Path, name: Name) -> String {
    match name {
        Name::LockOf(file) => lock_name(&world.join("files").join(FILES[usize::from(file) % FILES.len()])),
        Name::OtherLock(number) => format!("{number:016x}.lock"),
        Name::NoLock(number) => NO_LOCKS[usize::from(number) % NO_LOCKS.len()].into(),
        Name::Gitignore => ".gitignore".into(),
        Name::GitignoreTemporary { own: true } => format!(".gitignore.tmp.{}", std::process::id()),
        Name::GitignoreTemporary { own: false } => ".gitignore.tmp.1".into(),
        Name::Other(number) => format!("other {}", number % 4),
    }
}

fn make(path: &Path, thing: Thing, world: &Path) {
    if path.symlink_metadata().is_ok() {
        return;
    }
    match thing {
        Thing::Directory => fs::create_dir(path).unwrap(),
        Thing::Fifo => mkfifo(path, Mode::S_IRWXU | Mode::S_IRWXO).unwrap(),
        // The path of a socket has 108 bytes at most.
        Thing::Socket => drop(UnixListener::bind(path).or_else(|_| UnixListener::bind(world.join("sock")))),
        Thing::LinkToVictim => symlink(world.join("victim"), path).unwrap(),
        Thing::LinkToDirectory => symlink(world.join("elsewhere"), path).unwrap(),
        Thing::Dangling => symlink(world.join("elsewhere/new"), path).unwrap(),
        Thing::Loop => symlink(path.file_name().unwrap(), path).unwrap(),
        Thing::File { mode, foreign } => {
            fs::write(path, "contents").unwrap();
            own(path, u32::from(mode) & 0o777, foreign);
        }
    }
}

/// The entries with names of lock files.
fn lock_names(dir: &Path) -> BTreeSet<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return BTreeSet::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| is_lock_name(&path.file_name().unwrap().to_string_lossy())).collect()
}

/// The entries that must stay: all but lock files and those that `sweep` may remove.
fn others(dir: &Path) -> BTreeMap<PathBuf, (u64, u64, u32)> {
    let Ok(entries) = fs::read_dir(dir) else { return BTreeMap::new() };
    entries
        .map(|entry| entry.unwrap())
        .filter_map(|entry| {
            let (path, meta) = (entry.path(), fs::symlink_metadata(entry.path()).unwrap());
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let ours = is_lock_name(&name) || name.starts_with(".gitignore.tmp.");
            let stays = !(ours && meta.is_file());
            stays.then(|| (path, (meta.ino(), meta.len(), meta.mode())))
        })
        .collect()
}

fuzz_target!(|input: Input| {
    let mut world = World::new(&input);
    let before = others(&world.locks);
    let had_ignore = before.contains_key(&world.locks.join(".gitignore"));
    let is_foreign = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        !name.starts_with(".gitignore") && !is_lock_name(&name)
    };
    let foreign = before.keys().any(is_foreign);
    {
        let _nobody = AsNobody::begin();
        keep_inside(|| input.ops.iter().take(20).for_each(|(file, op)| world.step(usize::from(*file) % 3, *op)));
    }
    let mut after = others(&world.locks);
    if !had_ignore && after.remove(&world.locks.join(".gitignore")).is_some() {
        assert!(!foreign, "somebody's files are hidden from git");
        assert_eq!(fs::read(world.locks.join(".gitignore")).unwrap(), b"*\n");
    }
    assert_eq!(before, after, "a file that is no lock file was changed");
    let hostile = sandbox().join("hostile");
    assert_eq!(fs::read(hostile.join("victim")).unwrap(), b"victim");
    assert_eq!(fs::read_dir(hostile.join("elsewhere")).unwrap().count(), 0, "a link was followed");
    assert!(!hostile.join("nowhere").exists(), "a link was followed");
});
