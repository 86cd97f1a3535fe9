//! Paths: links, spellings, missing directories, long and odd names, and files that are not regular.

#[path = "../common/mod.rs"]
mod common;

mod contents;
mod links;
mod missing;
mod not_a_name;
mod not_regular;
mod odd_names;
mod refused_links;
mod spellings;
mod used_lately;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use atomic_file_adapter::{AtomicFileAdapter, Error, Result};
use tempfile::TempDir;

use crate::common::names;

/// A directory for the files of a test, and an adapter whose lock files are outside it.
struct Scratch {
    dir: PathBuf,
    adapter: AtomicFileAdapter,
    _above: TempDir,
}

impl Scratch {
    fn new() -> Self {
        let above = tempfile::tempdir().unwrap();
        // The temporary directory itself may be behind a symbolic link.
        let real = above.path().canonicalize().unwrap();
        let adapter = AtomicFileAdapter::with_lock_dir(real.join("locks")).unwrap();
        fs::create_dir(real.join("files")).unwrap();
        Scratch { dir: real.join("files"), adapter, _above: above }
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// A file with its own name as its contents.
    fn make(&self, name: &str) -> PathBuf {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), name).unwrap();
        self.path(name)
    }

    fn link(&self, target: impl AsRef<Path>, name: &str) -> PathBuf {
        symlink(target, self.path(name)).unwrap();
        self.path(name)
    }

    /// Fails if anything else is in the directory: a temporary file, for example.
    #[track_caller]
    fn holds_only(&self, expected: &[&str]) {
        assert_eq!(names(&self.dir), expected);
    }
}

#[track_caller]
fn contents(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// An operation on a path, without its result.
type Verb = fn(&AtomicFileAdapter, &Path) -> Result<()>;

const VERBS: [(&str, Verb); 7] = [
    ("read", |adapter, path| adapter.read_with_lock(path).map(drop)),
    ("read_into", |adapter, path| adapter.file(path)?.read_into(&mut Vec::new()).map(drop)),
    ("write", |adapter, path| adapter.write_atomic(path, "new")),
    ("writer", |adapter, path| adapter.file(path)?.lock()?.writer()?.commit()),
    ("update", |adapter, path| adapter.update(path, |_| b"new".to_vec())),
    ("delete", |adapter, path| adapter.delete_with_lock(path).map(drop)),
    ("read_unlocked", |adapter, path| adapter.read_unlocked(path).map(drop)),
];

/// The verbs that get a path and take its lock.
const BY_PATH: [(&str, Verb); 4] = [VERBS[0], VERBS[2], VERBS[4], VERBS[5]];

/// The error of every verb. No verb may succeed.
#[track_caller]
fn errors(adapter: &AtomicFileAdapter, path: &Path) -> Vec<(String, Error)> {
    let failed = |(verb, call): (&str, Verb)| {
        let what = format!("{verb} of {path:?}");
        match call(adapter, path) {
            Ok(()) => panic!("{what} succeeded"),
            Err(error) => (what, error),
        }
    };
    VERBS.into_iter().map(failed).collect()
}

fn os_error(error: &Error) -> Option<i32> {
    if let Error::Io { source, .. } = error { source.raw_os_error() } else { None }
}

/// Returns what `call` returns. If `call` blocks, the test fails instead of hanging.
#[track_caller]
fn promptly<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    let caller = thread::spawn(move || done.send(call()));
    match result.recv_timeout(Duration::from_secs(30)) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => panic!("the call blocks"),
        Err(RecvTimeoutError::Disconnected) => std::panic::resume_unwind(caller.join().unwrap_err()),
    }
}
