//! One directory at two paths, as a container and its host have it. Processes use it by different paths.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use atomic_file_adapter::{AtomicFileAdapter, Error};

use crate::common::{Worker, hear, names, tell};
use crate::disks::Mount;
use crate::{Scratch, utf8};

/// Whether the two adapters have a lock root.
const WITH: &str = "with a lock root";
const WITHOUT: &str = "without one";

/// A directory, and its second mount point.
struct Twice {
    here: PathBuf,
    there: PathBuf,
    _mount: Mount,
    _scratch: Scratch,
}

impl Twice {
    fn new() -> Self {
        let scratch = Scratch::new();
        let here = scratch.make_dir("here", 0, 0o755);
        let there = scratch.make_dir("there", 0, 0o755);
        let mount = Mount::new(&there, &["--bind", utf8(&here)]);
        Twice { here, there, _mount: mount, _scratch: scratch }
    }
}

fn adapter(how: &str, dir: &Path) -> AtomicFileAdapter {
    let builder = AtomicFileAdapter::builder().lock_dir(dir.join("locks"));
    if how == WITH { builder.lock_root(dir) } else { builder }.build().unwrap()
}

/// The worker: holds a lock of this kind until it is told to release it.
pub(crate) fn hold_below(args: &[String]) {
    let [how, dir, name, kind] = args else { panic!("{args:?}") };
    let dir = Path::new(dir);
    let file = adapter(how, dir).file(dir.join(name)).unwrap();
    match &**kind {
        "exclusive" => {
            let _guard = file.lock().unwrap();
            tell("held");
            hear();
        }
        "shared" => {
            let _guard = file.lock_shared().unwrap();
            tell("held");
            hear();
        }
        // With a temporary file.
        "writing" => {
            let guard = file.lock().unwrap();
            let mut writer = guard.writer().unwrap();
            writer.write_all(b"half of").unwrap();
            tell("held");
            hear();
            writer.write_all(b" it all").unwrap();
            writer.commit().unwrap();
        }
        other => panic!("{other}"),
    }
}

fn hold(how: &str, dir: &Path, name: &str, kind: &str) -> Worker {
    let mut holder = Worker::start("hold_below", &[how, utf8(dir), name, kind]);
    holder.expect("held");
    holder
}

/// The worker: adds to the number in a file.
pub(crate) fn count_below(args: &[String]) {
    let [how, dir, times] = args else { panic!("{args:?}") };
    let dir = Path::new(dir);
    let adapter = adapter(how, dir);
    tell("ready");
    hear();
    for _ in 0..times.parse::<u32>().unwrap() {
        adapter.update(dir.join("counter"), |old| (number(old) + 1).to_string().into_bytes()).unwrap();
    }
}

fn number(contents: Option<&[u8]>) -> u32 {
    contents.map_or(0, |contents| std::str::from_utf8(contents).unwrap().parse().unwrap())
}

pub(crate) fn two_paths_of_one_file_exclude_each_other() {
    for (how, excludes) in [(WITHOUT, false), (WITH, true)] {
        for name in ["file", "missing/deeper/file"] {
            let twice = Twice::new();
            for (first, second) in [(&twice.here, &twice.there), (&twice.there, &twice.here)] {
                let other = adapter(how, second).file(second.join(name)).unwrap();
                let mut holder = hold(how, first, name, "exclusive");
                let taken = matches!(other.try_lock().map(drop), Err(Error::WouldBlock { .. }));
                let taken_for_readers = matches!(other.try_lock_shared().map(drop), Err(Error::WouldBlock { .. }));
                assert_eq!((taken, taken_for_readers), (excludes, excludes), "{how}, {name}");
                holder.tell("let go");
                holder.finish();
                let reader = hold(how, first, name, "shared");
                let taken = matches!(other.try_lock().map(drop), Err(Error::WouldBlock { .. }));
                assert_eq!(taken, excludes, "{how}, {name}");
                drop(other.try_lock_shared().unwrap());
                drop(reader);
                // It was killed.
                drop(other.lock().unwrap());
            }
        }
    }
}

pub(crate) fn no_update_by_two_paths_is_lost() {
    const TIMES: u32 = 200;
    let twice = Twice::new();
    let paths = [&twice.here, &twice.there, &twice.here, &twice.there];
    let mut workers = paths.map(|dir| Worker::start("count_below", &[WITH, utf8(dir), &TIMES.to_string()]));
    workers.iter_mut().for_each(|worker| worker.expect("ready"));
    workers.iter_mut().for_each(|worker| worker.tell("go"));
    workers.into_iter().for_each(Worker::finish);
    let counted = adapter(WITH, &twice.there).read_with_lock(twice.there.join("counter")).unwrap();
    assert_eq!(number(counted.as_deref()), TIMES * 4);
    assert_eq!(names(&twice.here), ["counter", "locks"]);
}

/// An adapter without a root does not exclude one with a root. The documentation says so.
pub(crate) fn with_and_without_a_root_do_not_exclude_each_other() {
    let twice = Twice::new();
    let _holder = hold(WITH, &twice.here, "file", "exclusive");
    drop(adapter(WITHOUT, &twice.here).file(twice.here.join("file")).unwrap().try_lock().unwrap());
}

pub(crate) fn upkeep_by_one_path_does_not_disturb_users_of_the_other() {
    let twice = Twice::new();
    let long = "y".repeat(250);
    for name in ["file", "sub/file", &*long] {
        let there = adapter(WITH, &twice.there);
        let lock = there.lock_path(twice.there.join(name)).unwrap();
        let above = twice.there.join(name).parent().unwrap().to_owned();
        let mut writer = hold(WITH, &twice.here, name, "writing");
        // Its lock file and its temporary file stay.
        assert_eq!(there.prune().unwrap(), [""; 0].map(PathBuf::from), "{name}");
        let held: Vec<_> = there.locks().unwrap().into_iter().map(|lock| (lock.path, lock.holder.is_some())).collect();
        assert_eq!(held, [(lock.clone(), true)], "{name}");
        assert_eq!(there.sweep(&above).unwrap(), [""; 0].map(PathBuf::from), "{name}");
        writer.tell("on");
        writer.finish();
        assert_eq!(there.read_with_lock(twice.there.join(name)).unwrap().unwrap(), b"half of it all");
        assert_eq!(there.prune().unwrap(), [lock], "{name}");

        // A killed writer has left a temporary file, which is swept by either path.
        hold(WITH, &twice.here, name, "writing").kill();
        assert_eq!(there.sweep(&above).unwrap().len(), 1, "{name}");
        there.prune().unwrap();
        fs::remove_file(twice.here.join(name)).unwrap();
    }
}

/// Both paths in one process. The thread that holds the lock by one path must get a deadlock error for the other.
pub(crate) fn a_thread_that_uses_both_paths_gets_a_deadlock_error() {
    let twice = Twice::new();
    let [here, there] = [&twice.here, &twice.there].map(|dir| adapter(WITH, dir).file(dir.join("file")).unwrap());
    let guard = here.lock().unwrap();
    assert!(matches!(there.lock(), Err(Error::Deadlock { .. })));
    drop(guard);
    drop(there.lock().unwrap());
}
