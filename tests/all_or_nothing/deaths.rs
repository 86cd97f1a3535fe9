//! A process has died during a change, and another one comes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use atomic_file_adapter::{AtomicFileAdapter, Durability};

use crate::common::{Worker, hear, names, tell};
use crate::place::{CHANGES, COLLIDES, OLD, Place, died};

pub(crate) fn the_dead_are_survived() {
    // It dies before the first step, after each step, or after the last one. In the last case it makes the whole
    // change.
    for done in 0..3 {
        let place = Place::quick();
        let intent = place.after_death(done);
        let halves = [place.raw("replaced"), place.raw("made"), place.raw("deleted")];
        assert_eq!(
            halves.iter().flatten().filter(|it| *it == "old").count(),
            if done == 0 { 2 } else { 1 },
            "{halves:?}"
        );
        // A reader without the lock sees the present state.
        assert_eq!(place.adapter.read_unlocked(place.path("deleted")).unwrap(), Some(b"old".to_vec()));
        assert!(place.adapter.exists(place.path("deleted")));
        assert_eq!(place.seen("deleted"), None);
        assert!(!intent.exists());
        place.assert_nothing_left();
        place.assert_is(&CHANGES);
    }
}

pub(crate) fn what_was_not_decided_is_swept() {
    use atomic_file_adapter::fault::{Action, Syscall, inject};
    let place = Place::quick();
    place.make(&OLD);
    // A thread that ends would be noticed by its own process. So the caller panics during the change; a fork would do
    // as well.
    let adapter = AtomicFileAdapter::builder().lock_dir(place.locks()).durability(Durability::None).build().unwrap();
    let before_the_decision = |call: &atomic_file_adapter::fault::Call<'_>| {
        let decides = call.syscall == Syscall::Renameat
            && call.new_path.is_some_and(|name| name.extension().is_some_and(|it| it == "intent"));
        if decides { Action::Kill } else { Action::Proceed }
    };
    // SAFETY: the child uses this crate and the allocator, which glibc keeps usable across a fork.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            let _ = inject(before_the_decision, || crate::place::batch(&adapter, &place.files, &CHANGES));
            // SAFETY: no code of the parent may run here.
            unsafe { libc::_exit(0) }
        }
        nix::unistd::ForkResult::Parent { child } => {
            let status = nix::sys::wait::waitpid(child, None).unwrap();
            assert!(matches!(status, nix::sys::wait::WaitStatus::Signaled(..)), "{status:?}");
        }
    }
    // Two temporary files, three marks, and the intent without its name.
    assert_eq!(place.left().len(), 6, "{:?}", place.left());
    assert!(place.intents().is_empty() && place.adapter.intents().unwrap().is_empty());
    place.assert_is(&OLD);
    let left = place.left();
    assert!(left.len() == 3 && left.iter().all(|name| name.contains(".tmp")), "{left:?}");
    assert_eq!(place.adapter.sweep(&place.files).unwrap().len(), 3);
    place.assert_nothing_left();
    place.assert_is(&OLD);
}

pub(crate) fn lists_show_what_is_unfinished() {
    let place = Place::quick();
    let intent = place.after_death(1);
    let intents = place.adapter.intents().unwrap();
    assert_eq!(intents.len(), 1);
    assert_eq!((&intents[0].path, &intents[0].problem), (&intent, &None));
    let mut files = intents[0].files.clone();
    files.sort();
    let mut expected = place.paths(&["deleted", "made", "replaced"]);
    expected.sort();
    assert_eq!(files, expected);
    let locks = place.adapter.locks().unwrap();
    assert_eq!(locks.len(), 3);
    for lock in &locks {
        assert_eq!(lock.intent.as_ref(), Some(&intent), "{lock:?}");
        let guards = lock.guards.as_ref().unwrap();
        assert!(expected.contains(guards), "{lock:?}");
        assert_eq!(place.adapter.lock_path(guards).unwrap(), lock.path);
        assert!(lock.holder.is_none() && lock.problem.is_none(), "{lock:?}");
    }
    // Looking has finished nothing.
    assert!(intent.exists() && place.raw("deleted").is_some());
    place.assert_is(&CHANGES);
    assert!(place.adapter.locks().unwrap().iter().all(|lock| lock.intent.is_none() && lock.guards.is_some()));
    assert!(place.adapter.intents().unwrap().is_empty());
}

pub(crate) fn recover_finishes_all() {
    let place = Place::quick();
    assert!(place.adapter.recover().unwrap().is_empty());
    let mut intents = vec![place.after_death(2)];
    // A second intent, with other files.
    place.make(&[("other", Some("old")), ("another", Some("old"))]);
    let [locks, files] = [place.locks(), &place.files].map(|path| path.to_str().unwrap().to_owned());
    died("die", &[&locks, &files, "0", "", "other=new", "another"]);
    assert_eq!(place.intents().len(), 2);
    intents.extend(place.intents());
    intents.sort();
    intents.dedup();
    assert_eq!(place.adapter.recover().unwrap(), intents);
    place.assert_nothing_left();
    for (name, contents) in CHANGES.into_iter().chain([("other", Some("new")), ("another", None)]) {
        assert_eq!(place.raw(name).as_deref(), contents, "{name}");
    }
    assert!(place.adapter.recover().unwrap().is_empty());
}

pub(crate) fn prune_and_sweep_know_intents() {
    for how in ["prune", "sweep a directory", "sweep a file"] {
        let place = Place::quick();
        place.after_death(1);
        match how {
            "prune" => drop(place.adapter.prune().unwrap()),
            "sweep a directory" => drop(place.adapter.sweep(&place.files).unwrap()),
            _ => drop(place.adapter.sweep(place.path("made")).unwrap()),
        }
        place.assert_is(&CHANGES);
        place.assert_nothing_left();
        assert_eq!(names(&place.files), ["made", "replaced"], "{how}");
        // The lock files of the finished change can be pruned as usual.
        place.adapter.prune().unwrap();
        assert_eq!(names(place.locks()), [".gitignore"], "{how}");
    }
}

pub(crate) fn two_files_with_one_lock() {
    let place = Place::quick();
    let [one, two] = [1, 2].map(|n| format!("{COLLIDES}{n}"));
    for first in [&one, &two] {
        place.make(&[(&one, Some("old")), (&two, Some("old"))]);
        place.dies(&place.adapter, 1, &[(&one, Some("new")), ("beside", Some("x")), (&two, None)]);
        assert_eq!(place.seen(first).as_deref(), if *first == one { Some("new") } else { None });
        place.assert_is(&[(&one, Some("new")), ("beside", Some("x")), (&two, None)]);
        place.assert_nothing_left();
    }
}

pub(crate) fn a_caller_that_holds_other_locks() {
    for how in ["alone", "beside others who do"] {
        let place = Place::quick();
        place.make(&[("mine", Some("x"))]);
        place.after_death(1);
        let mine = place.adapter.file(place.path("mine")).unwrap();
        let guard = mine.lock().unwrap();
        let [locks, files] = [place.locks(), &place.files].map(|path| path.to_str().unwrap().to_owned());
        let others = if how == "alone" { 0 } else { 3 };
        let mut others: Vec<Worker> =
            (0..others).map(|n| Worker::start("come_by", &[&locks, &files, &n.to_string()])).collect();
        others.iter_mut().for_each(|other| other.expect("ready"));
        others.iter_mut().for_each(|other| other.tell("go"));
        for (name, contents) in CHANGES {
            assert_eq!(place.seen(name).as_deref(), contents, "{how}");
        }
        guard.write("y").unwrap();
        others.iter_mut().for_each(|other| other.expect("done"));
        place.assert_nothing_left();
    }
}

/// The worker: holds a lock of its own and reads all three files, in its own order.
pub(crate) fn come_by(args: &[String]) {
    let [locks, files, number] = args else { panic!("{args:?}") };
    let adapter = AtomicFileAdapter::builder().lock_dir(locks).durability(Durability::None).build().unwrap();
    let mine = adapter.file(Path::new(files).join(format!("mine-{number}"))).unwrap();
    let guard = mine.lock().unwrap();
    tell("ready");
    hear();
    let mut changes = CHANGES;
    changes.rotate_left(number.parse().unwrap());
    for (name, contents) in changes {
        let read = adapter.read_to_string_with_lock(Path::new(files).join(name)).unwrap();
        assert_eq!(read.as_deref(), contents, "{name}");
    }
    drop(guard);
    tell("done");
    hear();
}

pub(crate) fn many_callers_come_at_once() {
    for _ in 0..10 {
        let place = Place::quick();
        place.after_death(1);
        std::thread::scope(|scope| {
            for n in 0..12 {
                let place = &place;
                scope.spawn(move || {
                    let (name, contents) = CHANGES[n % 3];
                    if n % 2 == 0 {
                        assert_eq!(place.seen(name).as_deref(), contents);
                    } else {
                        let guards =
                            place.adapter.lock_many_shared(place.paths(&["deleted", "made", "replaced"])).unwrap();
                        let read: Vec<_> = guards.iter().map(|guard| guard.read().unwrap()).collect();
                        assert_eq!(read, [None, Some(b"made".to_vec()), Some(b"new".to_vec())]);
                    }
                });
            }
        });
        place.assert_nothing_left();
    }
}

pub(crate) fn below_a_lock_root_that_was_moved() {
    let place = Place::quick();
    let rooted = |root: &Path| {
        let builder = AtomicFileAdapter::builder().lock_dir(root.join("locks")).durability(Durability::None);
        builder.lock_root(root).build().unwrap()
    };
    let here = place.above.join("here");
    fs::create_dir_all(here.join("files/sub")).unwrap();
    fs::write(here.join("files/sub/one"), "old").unwrap();
    fs::write(here.join("top"), "old").unwrap();
    let [locks, root] = [here.join("locks"), here.clone()].map(|path| path.to_str().unwrap().to_owned());
    died("die", &[&locks, &root, "1", &root, "files/sub/one=new", "top=new", "made=new"]);
    // As if the directory were mounted at another place.
    let there = place.above.join("there");
    fs::rename(&here, &there).unwrap();
    let adapter = rooted(&there);
    let intents = adapter.intents().unwrap();
    let mut files: Vec<PathBuf> = intents[0].files.clone();
    files.sort();
    assert_eq!(files, ["files/sub/one", "made", "top"].map(|name| there.join(name)));
    for name in ["top", "files/sub/one", "made"] {
        assert_eq!(adapter.read_to_string_with_lock(there.join(name)).unwrap().as_deref(), Some("new"), "{name}");
    }
    assert!(names(&there.join("locks")).iter().all(|name| !name.ends_with(".intent")));
}

/// A process has made the whole change and dies before it removes the intent. Later changes of others must not be
/// undone, whatever inode numbers the files have. ext4 uses inode numbers again at once.
pub(crate) fn later_changes_are_not_undone() {
    use atomic_file_adapter::fault::{Action, Syscall, inject};
    let place = Place::within(&std::env::temp_dir(), Durability::None);
    // Dies at each call after the last step.
    for late in 1.. {
        place.adapter.recover().unwrap();
        for (name, contents) in OLD {
            match contents {
                Some(contents) => place.adapter.write_atomic(place.path(name), contents).unwrap(),
                None => drop(place.adapter.delete_with_lock(place.path(name)).unwrap()),
            }
        }
        let adapter =
            AtomicFileAdapter::builder().lock_dir(place.locks()).durability(Durability::None).build().unwrap();
        let deleted = place.path("deleted");
        let old_inode = deleted.metadata().unwrap().ino();
        // SAFETY: the child uses this crate and the allocator, which glibc keeps usable across a fork.
        let child = match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => {
                let (mut steps, mut after) = (0, 0);
                let late_enough = move |call: &atomic_file_adapter::fault::Call<'_>| {
                    let target = match call.syscall {
                        Syscall::Renameat => call.new_path,
                        Syscall::Unlinkat => call.path,
                        _ => None,
                    };
                    let is_step = |name: &Path| CHANGES.iter().any(|(changed, _)| name == Path::new(changed));
                    steps += usize::from(target.is_some_and(is_step));
                    after += usize::from(steps == CHANGES.len());
                    if after > late { Action::Kill } else { Action::Proceed }
                };
                let _ = inject(late_enough, || crate::place::batch(&adapter, &place.files, &CHANGES));
                // SAFETY: no code of the parent may run here.
                unsafe { libc::_exit(0) }
            }
            nix::unistd::ForkResult::Parent { child } => child,
        };
        let status = nix::sys::wait::waitpid(child, None).unwrap();
        place.adapter.write_atomic(&deleted, "later").unwrap();
        // The new version may get the inode number of the removed one by chance. Here it has to.
        let others = (0..200).map(|n| place.path(&format!("other-{n}")));
        let others: Vec<PathBuf> = others
            .take_while(|other| {
                fs::write(other, "later").unwrap();
                let is_it = other.metadata().unwrap().ino() == old_inode;
                if is_it {
                    fs::rename(other, &deleted).unwrap();
                }
                !is_it
            })
            .collect();
        for name in ["made", "replaced"] {
            place.adapter.write_atomic(place.path(name), "later").unwrap();
        }
        others.iter().for_each(|other| fs::remove_file(other).unwrap());
        place.adapter.recover().unwrap();
        place.assert_is(&["deleted", "made", "replaced"].map(|name| (name, Some("later"))));
        place.assert_nothing_left();
        if matches!(status, nix::sys::wait::WaitStatus::Exited(..)) {
            assert!(late > 3, "hardly any calls after the last step");
            break;
        }
    }
}
