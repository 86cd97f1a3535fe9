//! A directory with files, and processes that die in the middle of changing them.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use atomic_file_adapter::fault::{Action, Call, Syscall, inject};
use atomic_file_adapter::{AtomicFileAdapter, Durability, Error};

use crate::common::{Worker, names, tell};

/// A change of one file: its name and the new contents. `None`: it is removed.
pub(crate) type Change<'a> = (&'a str, Option<&'a str>);

pub(crate) struct Place {
    pub(crate) files: PathBuf,
    pub(crate) adapter: AtomicFileAdapter,
    pub(crate) above: PathBuf,
    _dir: tempfile::TempDir,
}

/// The change during which most processes here die. After one step `replaced` is new, after two `made` exists.
pub(crate) const CHANGES: [Change<'static>; 3] = [("replaced", Some("new")), ("made", Some("made")), ("deleted", None)];
pub(crate) const OLD: [Change<'static>; 3] = [("replaced", Some("old")), ("made", None), ("deleted", Some("old"))];

impl Place {
    /// On a disk, with durable writes.
    pub(crate) fn new() -> Self {
        Self::within(&std::env::temp_dir(), Durability::Full)
    }

    /// Without durable writes, and in memory if possible.
    pub(crate) fn quick() -> Self {
        let memory = Path::new("/dev/shm");
        let above = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        Self::within(&above, Durability::None)
    }

    pub(crate) fn within(above: &Path, durability: Durability) -> Self {
        let dir = tempfile::tempdir_in(above).unwrap();
        let above = dir.path().canonicalize().unwrap();
        fs::create_dir(above.join("files")).unwrap();
        let builder = AtomicFileAdapter::builder().lock_dir(above.join("locks")).durability(durability);
        Place { files: above.join("files"), adapter: builder.build().unwrap(), above, _dir: dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        path(&self.files, name)
    }

    pub(crate) fn paths(&self, names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(|name| self.path(name)).collect()
    }

    pub(crate) fn locks(&self) -> &Path {
        self.adapter.lock_dir()
    }

    /// The contents on the disk.
    pub(crate) fn raw(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path(name)).ok()
    }

    /// The contents that the crate returns, each read under its lock.
    pub(crate) fn seen(&self, name: &str) -> Option<String> {
        self.adapter.read_to_string_with_lock(self.path(name)).unwrap()
    }

    #[track_caller]
    pub(crate) fn assert_is(&self, files: &[Change<'_>]) {
        for (name, contents) in files {
            assert_eq!(self.seen(name).as_deref(), *contents, "{name}");
        }
        for (name, contents) in files {
            assert_eq!(self.raw(name).as_deref(), *contents, "{name} on the disk");
        }
    }

    pub(crate) fn batch(&self, changes: &[Change<'_>]) -> Result<(), Error> {
        batch(&self.adapter, &self.files, changes)
    }

    /// The old files after a process has died during the change. It had replaced or removed `done` of them. Returns the
    /// intent.
    pub(crate) fn after_death(&self, done: usize) -> PathBuf {
        self.make(&OLD);
        self.dies(&self.adapter, done, &CHANGES)
    }

    pub(crate) fn make(&self, files: &[Change<'_>]) {
        for (name, contents) in files {
            match contents {
                Some(contents) => fs::write(self.path(name), contents).unwrap(),
                None => assert!(!self.path(name).exists()),
            }
        }
    }

    /// A process dies after it has decided these changes and made `done` of them.
    pub(crate) fn dies(&self, adapter: &AtomicFileAdapter, done: usize, changes: &[Change<'_>]) -> PathBuf {
        let (locks, files) = (adapter.lock_dir().to_str().unwrap(), self.files.to_str().unwrap());
        let changes = changes.iter().map(|(name, contents)| match contents {
            Some(contents) => format!("{name}={contents}"),
            None => (*name).to_owned(),
        });
        let changes: Vec<String> = changes.collect();
        let done = done.to_string();
        let mut args = vec![locks, files, &done, ""];
        args.extend(changes.iter().map(String::as_str));
        died("die", &args);
        let intents = self.intents();
        assert_eq!(intents.len(), 1, "{intents:?}");
        intents[0].clone()
    }

    /// The intents, by their names.
    pub(crate) fn intents(&self) -> Vec<PathBuf> {
        let names = if self.locks().exists() { names(self.locks()) } else { Vec::new() };
        names.iter().filter(|name| name.ends_with(".intent")).map(|name| self.locks().join(name)).collect()
    }

    /// The temporary files, intents and marks.
    pub(crate) fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        let mut dirs = vec![self.files.clone(), self.locks().to_owned()];
        while let Some(dir) = dirs.pop().filter(|dir| dir.exists()) {
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                let meta = path.symlink_metadata().unwrap();
                if meta.is_dir() {
                    dirs.push(path);
                } else if name.contains(".tmp")
                    || name.ends_with(".intent")
                    || name.ends_with(".lock") && meta.len() > 2048
                {
                    left.push(name);
                }
            }
        }
        left
    }

    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(self.left(), [""; 0]);
    }
}

/// Names that consist of this and a digit have the same lock.
pub(crate) const COLLIDES: &str = "collides-";

fn path(files: &Path, name: &str) -> PathBuf {
    // See `two_names_of_one_lock` in tests/common/bank.rs.
    const SECRET: &[u8] = b"\xde\xd4\x6d\xe9\x83\x90\x97\xdb";
    let Some(digit) = name.strip_prefix(COLLIDES) else { return files.join(name) };
    let name = [b"two-names-of-one-lock-".as_slice(), SECRET, digit.repeat(8).as_bytes()].concat();
    files.join(OsStr::from_bytes(&name))
}

pub(crate) fn batch(adapter: &AtomicFileAdapter, files: &Path, changes: &[Change<'_>]) -> Result<(), Error> {
    let mut batch = adapter.batch();
    for (name, contents) in changes {
        match contents {
            Some(contents) => batch.write(path(files, name), *contents),
            None => batch.delete(path(files, name)),
        };
    }
    batch.commit_all()
}

/// Runs a worker that kills itself.
pub(crate) fn died(worker: &str, args: &[&str]) {
    let mut worker = Worker::start(worker, args);
    let said = worker.hear();
    assert_eq!((worker.signal(), &*said), (Some(libc::SIGKILL), ""));
}

/// The arguments: the lock directory, the directory of the files, the number of steps after which to die, a lock root
/// or "", and the changes.
pub(crate) fn die(args: &[String]) {
    let [locks, files, done, root, changes @ ..] = args else { panic!("{args:?}") };
    let changes: Vec<Change<'_>> = changes
        .iter()
        .map(|change| change.split_once('=').map_or((&**change, None), |(name, contents)| (name, Some(contents))))
        .collect();
    let mut builder = AtomicFileAdapter::builder().lock_dir(locks).durability(Durability::None);
    if !root.is_empty() {
        builder = builder.lock_root(root);
    }
    let adapter = builder.build().unwrap();
    let result = inject(die_after(done.parse().unwrap()), || batch(&adapter, Path::new(files), &changes)).0;
    tell(&format!("{result:?}"));
}

/// After the change is decided, dies before the step that comes after so many steps.
pub(crate) fn die_after(mut steps: usize) -> impl FnMut(&Call<'_>) -> Action + 'static {
    let is_own = |name: &Path| {
        let name = name.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with('.') || name.ends_with(".intent") || name.ends_with(".lock")
    };
    move |call| {
        let target = match call.syscall {
            Syscall::Renameat => call.new_path,
            Syscall::Unlinkat => call.path,
            _ => None,
        };
        match target {
            Some(name) if !is_own(name) && steps == 0 => Action::Kill,
            Some(name) if !is_own(name) => {
                steps -= 1;
                Action::Proceed
            }
            _ => Action::Proceed,
        }
    }
}
