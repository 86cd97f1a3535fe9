//! File systems on which it is refused, and the largest change.

use std::fs;
use std::path::Path;

use atomic_file_adapter::fault::{Action, Call, Syscall, inject};
use atomic_file_adapter::{AtomicFileAdapter, Durability, Error, Step};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use crate::common::{Worker, hear, tell};
use crate::place::{CHANGES, Change, OLD, Place, batch};

fn memory() -> &'static Path {
    Path::new("/dev/shm")
}

fn adapter(locks: &Path, durability: Durability) -> AtomicFileAdapter {
    AtomicFileAdapter::builder().lock_dir(locks).durability(durability).build().unwrap()
}

#[track_caller]
fn assert_refused(result: Result<(), Error>, in_memory: &Path) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported, "{error}");
    assert!(matches!(error, Error::Io { step: Step::WriteIntent, .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(in_memory.to_str().unwrap()) && text.contains("memory"), "{text}");
}

pub(crate) fn in_memory_nothing_can_be_durable() {
    let [memory, disk] = [memory(), &std::env::temp_dir()].map(|above| Place::within(above, Durability::Full));
    // The lock directory and the files, each in memory or on disk.
    for place in [&memory, &disk] {
        place.make(&OLD);
    }
    let locks_in_memory = adapter(memory.locks(), Durability::Full);
    assert_refused(batch(&locks_in_memory, &memory.files, &CHANGES), &memory.above);
    assert_refused(batch(&locks_in_memory, &disk.files, &CHANGES), &memory.above);
    assert_refused(batch(&adapter(disk.locks(), Durability::Full), &memory.files, &CHANGES), &memory.above);
    for place in [&memory, &disk] {
        place.assert_is(&OLD);
        place.assert_nothing_left();
    }
    for durability in [Durability::Ordered, Durability::None] {
        for (name, contents) in OLD {
            match contents {
                Some(contents) => memory.adapter.write_atomic(memory.path(name), contents).unwrap(),
                None => drop(memory.adapter.delete_with_lock(memory.path(name)).unwrap()),
            }
        }
        batch(&adapter(memory.locks(), durability), &memory.files, &CHANGES).unwrap();
        memory.assert_is(&CHANGES);
        memory.assert_nothing_left();
    }
    // A change of one file needs no intent, so it is a usual write.
    memory.adapter.write_atomic(memory.path("file"), "written").unwrap();
}

pub(crate) fn several_file_systems() {
    let [memory, disk] = [memory(), &std::env::temp_dir()].map(|above| Place::within(above, Durability::Ordered));
    for locks in [memory.locks(), disk.locks()] {
        let adapter = adapter(locks, Durability::Ordered);
        adapter
            .update_many([memory.path("a"), disk.path("b"), memory.path("c")], |_| {
                vec![Some(b"1".into()), Some(b"2".into()), Some(b"3".into())]
            })
            .unwrap();
        let read = |path| adapter.read_to_string_with_lock(path).unwrap();
        let all = || [read(memory.path("a")), read(disk.path("b")), read(memory.path("c"))];
        assert_eq!(all(), ["1", "2", "3"].map(|it| Some(it.to_owned())));
        // Another process finishes the change.
        let links = Place::within(&std::env::temp_dir(), Durability::Ordered);
        for (name, to) in [("a", memory.path("a")), ("b", disk.path("b")), ("c", memory.path("c"))] {
            std::os::unix::fs::symlink(to, links.path(name)).unwrap();
        }
        let changes = [("a", Some("11")), ("b", Some("22")), ("c", None)];
        let (locks, files) = (locks.to_str().unwrap(), links.files.to_str().unwrap());
        crate::place::died("die", &[locks, files, "1", "", "a=11", "b=22", "c"]);
        assert_eq!(all(), changes.map(|(_, contents)| contents.map(str::to_owned)));
        memory.assert_nothing_left();
        disk.assert_nothing_left();
    }
}

fn limit_descriptors(most: libc::rlim_t) {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: the pointer is to an rlimit of this function.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}

const MANY: usize = 1000;

/// Arguments: the lock directory, the directory of the files, the limit of descriptors, and the call.
pub(crate) fn open_many(args: &[String]) {
    let [locks, files, descriptors, what] = args else { panic!("{args:?}") };
    limit_descriptors(descriptors.parse().unwrap());
    let adapter = adapter(Path::new(locks), Durability::None);
    let mut batch = adapter.batch();
    let mut write_all = |text: &str| {
        for n in 0..MANY {
            batch.write(Path::new(files).join(format!("{}/{n}", n % 7)), text);
        }
    };
    let result = if let Some(text) = what.strip_prefix("write ") {
        write_all(text);
        batch.commit_all()
    } else if what == "die" {
        write_all("dead");
        atomic_file_adapter::fault::inject(crate::place::die_after(MANY / 2), || batch.commit_all()).0
    } else {
        adapter.read_with_lock(Path::new(files).join("0/0")).map(drop)
    };
    tell(&result.map_or_else(|error| error.to_string(), |()| "done".to_owned()));
    hear();
}

pub(crate) fn a_thousand_files() {
    let place = Place::quick();
    let [locks, files] = [place.locks(), &place.files].map(|path| path.to_str().unwrap().to_owned());
    let run = |descriptors: &str, what: &str| {
        let mut worker = Worker::start("open_many", &[&locks, &files, descriptors, what]);
        worker.hear()
    };
    let assert_all = |contents: &str| {
        for n in 0..MANY {
            assert_eq!(place.raw(&format!("{}/{n}", n % 7)).as_deref(), Some(contents));
        }
        place.assert_nothing_left();
    };
    assert_eq!(run("8192", "write first"), "done");
    assert_all("first");
    let error = run("256", "write second");
    assert!(error.contains(&std::io::Error::from_raw_os_error(libc::EMFILE).to_string()), "{error}");
    assert!(error.contains(&*place.above.to_string_lossy()), "{error}");
    assert_all("first");
    assert_eq!(run("8192", "die"), "");
    assert_eq!(place.intents().len(), 1);
    // A process that cannot take all the locks gets an error, and leaves the change to another process.
    let error = run("256", "read");
    assert!(error.contains(&std::io::Error::from_raw_os_error(libc::EMFILE).to_string()), "{error}");
    assert!(error.contains(place.intents()[0].to_str().unwrap()), "{error}");
    assert_eq!(run("8192", "read"), "done");
    assert_all("dead");
}

/// The old files, changed by a worker that prints when it is done.
fn changed_by(worker: &str) -> Place {
    let place = Place::quick();
    place.make(&OLD);
    let [locks, files] = [place.locks(), &place.files].map(|path| path.to_str().unwrap().to_owned());
    let mut worker = Worker::start(worker, &[&locks, &files]);
    worker.expect("Ok(())");
    worker.finish();
    place
}

/// The worker, which has one thread. The change itself forks a child, which returns from it, too.
pub(crate) fn fork_in_a_change(args: &[String]) {
    let files = Path::new(&args[1]);
    let adapter = adapter(Path::new(&args[0]), Durability::None);
    let mut in_child = false;
    let result = adapter.update_many(CHANGES.map(|(name, _)| files.join(name)), |_| {
        // SAFETY: the process has one thread.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => in_child = true,
            ForkResult::Parent { child } => {
                assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0), "the child failed");
                for (name, contents) in OLD {
                    assert_eq!(fs::read_to_string(files.join(name)).ok().as_deref(), contents, "the child has done it");
                }
            }
        }
        CHANGES.map(|(_, contents)| contents.map(|contents| contents.as_bytes().to_vec())).into()
    });
    if in_child {
        let is_forked = matches!(result, Err(Error::Forked { .. }));
        // SAFETY: no code of the parent may run here.
        unsafe { libc::_exit(i32::from(!is_forked)) }
    }
    tell(&format!("{result:?}"));
}

pub(crate) fn a_change_in_a_child_made_by_fork() {
    let place = changed_by("fork_in_a_change");
    place.assert_is(&CHANGES);
    place.assert_nothing_left();
}

/// Removals need no temporary files, whose names would collide first.
const REMOVALS: [Change<'static>; 2] = [("replaced", None), ("deleted", None)];

/// The worker, which has one thread. It forks a child, which is killed before it has decided anything. Then the parent
/// makes the same change with the same random numbers.
pub(crate) fn die_in_a_child(args: &[String]) {
    let files = Path::new(&args[1]);
    let adapter = adapter(Path::new(&args[0]), Durability::None);
    let die = |call: &Call<'_>| {
        let decides = call.new_path.is_some_and(|name| name.extension().is_some_and(|end| end == "intent"));
        if call.syscall == Syscall::Renameat && decides { Action::Kill } else { Action::Proceed }
    };
    // Now this thread has its seed from the system, and the child will have a copy.
    let _ = std::hash::RandomState::new();
    // SAFETY: the process has one thread.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let _ = inject(die, || batch(&adapter, files, &REMOVALS));
            // SAFETY: no code of the parent may run here.
            unsafe { libc::_exit(1) }
        }
        ForkResult::Parent { child } => {
            assert!(matches!(waitpid(child, None).unwrap(), WaitStatus::Signaled(_, Signal::SIGKILL, _)));
        }
    }
    tell(&format!("{:?}", batch(&adapter, files, &REMOVALS)));
}

pub(crate) fn a_child_leaves_the_names_of_its_parent() {
    let place = changed_by("die_in_a_child");
    place.assert_is(&REMOVALS);
    place.adapter.sweep(&place.files).unwrap();
    place.assert_nothing_left();
}
