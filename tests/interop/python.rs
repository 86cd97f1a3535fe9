//! The other implementation, `atomic_file.py`, as the tests run it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use atomic_file_adapter::{AtomicFileAdapter, Durability};
use serde_json::json;
use tempfile::TempDir;

use crate::common::bank::amount;
use crate::common::{Worker, names};

/// A directory for files, `files`, and one for locks beside it, `locks`.
pub(crate) struct Place {
    pub(crate) above: PathBuf,
    pub(crate) files: PathBuf,
    pub(crate) adapter: AtomicFileAdapter,
    pub(crate) durability: Durability,
    _dir: TempDir,
}

impl Place {
    /// In memory if possible. Its writes are not durable.
    pub(crate) fn quick() -> Self {
        Self::within(Path::new("/dev/shm"), Durability::None)
    }

    pub(crate) fn within(above: &Path, durability: Durability) -> Self {
        let dir = if above.is_dir() { tempfile::tempdir_in(above) } else { tempfile::tempdir() }.unwrap();
        let above = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(above.join("files/branch")).unwrap();
        let adapter = adapter(&above, durability);
        Place { files: above.join("files"), adapter, above, durability, _dir: dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.files.join(name)
    }

    /// The names of the intents.
    pub(crate) fn intents(&self) -> Vec<String> {
        let locks = self.adapter.lock_dir();
        let names = if locks.is_dir() { names(locks) } else { Vec::new() };
        names.into_iter().filter(|name| name.ends_with(".intent")).collect()
    }

    pub(crate) fn has_marks(&self) -> bool {
        let locks = self.adapter.locks().unwrap();
        locks.iter().any(|lock| lock.path.metadata().unwrap().len() > 2048)
    }

    /// No intents, no marks, and after a sweep no temporary files.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self, what: &str) {
        assert_eq!(self.intents(), [""; 0], "{what}");
        for lock in self.adapter.locks().unwrap() {
            let size = lock.path.metadata().unwrap().len();
            assert!(
                lock.intent.is_none() && lock.problem.is_none() && size <= 2048,
                "{what}: {lock:?} of {size} bytes"
            );
        }
        for dir in [&*self.files, &self.files.join("branch"), self.adapter.lock_dir()] {
            self.adapter.sweep(dir).unwrap();
            let left: Vec<_> = names(dir).into_iter().filter(|name| name.ends_with(".tmp")).collect();
            assert!(left.is_empty(), "{what}: {left:?}");
        }
    }
}

pub(crate) fn adapter(above: &Path, durability: Durability) -> AtomicFileAdapter {
    AtomicFileAdapter::builder().lock_dir(above.join("locks")).durability(durability).build().unwrap()
}

/// A file of this directory of the tests.
pub(crate) fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop").join(name)
}

/// The interpreter itself. `python3` may be a script that searches for it at each start.
fn interpreter() -> &'static str {
    static INTERPRETER: OnceLock<String> = OnceLock::new();
    INTERPRETER.get_or_init(|| {
        let asked = Command::new("python3").args(["-c", "import sys; print(sys.executable, end='')"]).output().unwrap();
        String::from_utf8(asked.stdout).unwrap()
    })
}

/// `driver.py`, for the files of one place.
pub(crate) struct Python(pub(crate) Worker);

impl Python {
    pub(crate) fn start(above: &Path) -> Self {
        let mut command = Command::new(interpreter());
        // Python must not write anything into the directory of the sources.
        command.arg(source("driver.py")).arg(above.join("locks")).env("PYTHONDONTWRITEBYTECODE", "1");
        Python(Worker::spawn(&mut command))
    }

    pub(crate) fn tell(&mut self, verb: &str, args: &[&str]) {
        self.0.tell(&json!([&[verb], args].concat()).to_string());
    }

    pub(crate) fn ask(&mut self, verb: &str, args: &[&str]) -> String {
        self.tell(verb, args);
        self.0.hear()
    }

    /// From now on it uses another place.
    pub(crate) fn go_to(&mut self, place: &Place) {
        self.tell("at", &[place.adapter.lock_dir().to_str().unwrap()]);
    }

    /// The contents that it reads under the locks of all these files.
    pub(crate) fn read(&mut self, names: &[&str]) -> Vec<Option<String>> {
        let answer = self.ask("read", names);
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }
}

pub(crate) fn it_finds_what_the_vectors_say() {
    let place = Place::quick();
    let mut python = Python::start(&place.above);
    assert_eq!(python.ask("vectors", &[]), "checked");
    python.0.finish();
}

/// The library and Python count in one file at the same time.
pub(crate) fn they_count_together() {
    const EACH: u32 = 150;
    let place = Place::quick();
    let mut pythons = [(); 2].map(|()| Python::start(&place.above));
    // All processes run before the first one begins.
    pythons.iter_mut().for_each(|python| assert_eq!(python.read(&["count"]), [None]));
    for python in &mut pythons {
        python.tell("count", &["count", &EACH.to_string()]);
    }
    let mut ours = [(); 2].map(|()| Worker::start("count", &[place.above.to_str().unwrap(), &EACH.to_string()]));
    for python in &mut pythons {
        assert_eq!(python.0.hear(), "counted");
    }
    ours.iter_mut().for_each(|ours| ours.expect("counted"));
    let counted = place.adapter.read_to_string_with_lock(place.path("count")).unwrap().unwrap();
    assert_eq!(counted, (4 * EACH).to_string());
    pythons.into_iter().for_each(|python| python.0.finish());
    place.assert_nothing_left("counting");
}

/// A process that counts. Arguments: the directory, and how often.
pub(crate) fn count(args: &[String]) {
    let [above, times] = args else { panic!("{args:?}") };
    let above = Path::new(above);
    let file = adapter(above, Durability::None).file(above.join("files/count")).unwrap();
    for _ in 0..times.parse().unwrap() {
        file.update(|old| (amount(old) + 1).to_string().into_bytes()).unwrap();
    }
    crate::common::tell("counted");
}
