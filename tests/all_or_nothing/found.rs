//! Faults that outsiders found when they were asked to break it. Each of these went wrong once.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use atomic_file_adapter::fault::{Action, Call, Syscall, inject};
use atomic_file_adapter::{Durability, Error};

use crate::hostile::{inode, mark, plant};
use crate::place::{CHANGES, OLD, Place};

/// An editor without locks replaces a file that a dead process had changed already. It makes another file again that
/// was still to be removed. The file system gives the new files the inode numbers of the old versions, which have just
/// become free.
pub(crate) fn inode_numbers_that_are_used_again() {
    let place = Place::within(&std::env::temp_dir(), Durability::Full);
    place.make(&OLD);
    let old = ["replaced", "deleted"].map(|name| inode(&place.path(name)));
    place.dies(&place.adapter, 2, &CHANGES);
    fs::remove_file(place.path("deleted")).unwrap();
    for (name, old) in ["replaced", "deleted"].into_iter().zip(old) {
        let candidates = (0..200).map(|n| {
            let new = place.above.join(format!("{name}{n}"));
            fs::write(&new, "edited").unwrap();
            new
        });
        let candidates: Vec<_> = candidates.collect();
        // If the file system does not use numbers again, any other number will do.
        let chosen = candidates.iter().find(|new| inode(new) == old).unwrap_or(&candidates[0]);
        fs::rename(chosen, place.path(name)).unwrap();
    }
    place.assert_is(&[("replaced", Some("edited")), ("made", Some("made")), ("deleted", Some("edited"))]);
    place.assert_nothing_left();
}

/// A lock file has lost its mark, for example by hand. Callers that lock all files together find the intent through the
/// others.
pub(crate) fn a_mark_that_is_gone() {
    for done in 0..3 {
        let place = Place::quick();
        place.after_death(done);
        let lock = place.adapter.lock_path(place.path("replaced")).unwrap();
        fs::File::options().write(true).open(lock).unwrap().set_len(0).unwrap();
        let start = Instant::now();
        let guards = place.adapter.lock_many_shared(place.paths(&["replaced", "made", "deleted"])).unwrap();
        assert!(start.elapsed() < Duration::from_secs(20));
        let seen: Vec<_> = guards.iter().map(|guard| guard.read().unwrap()).collect();
        drop(guards);
        assert_eq!(seen, [Some(b"new".to_vec()), Some(b"made".to_vec()), None], "{done} done");
        place.assert_nothing_left();
    }
}

/// A file has a new lock file without a mark. A caller that finds the intent through another lock file must not undo
/// what was written under the new lock.
pub(crate) fn a_lock_file_that_was_removed_by_hand() {
    let place = Place::quick();
    place.after_death(0);
    fs::remove_file(place.adapter.lock_path(place.path("replaced")).unwrap()).unwrap();
    place.adapter.write_atomic(place.path("replaced"), "written since").unwrap();
    assert_eq!(place.seen("made").as_deref(), Some("made"));
    assert_eq!(place.seen("replaced").as_deref(), Some("written since"));
    assert!(place.intents().is_empty());
}

/// A server executes a request and reports an error.
pub(crate) fn what_was_done_with_an_error() {
    for failing in ["replaced", "made", "deleted"] {
        let place = Place::quick();
        place.make(&OLD);
        let (files, failed) = (place.files.clone(), Cell::new(false));
        let fail = move |call: &Call<'_>| {
            let target = match call.syscall {
                Syscall::Renameat => call.new_path,
                Syscall::Unlinkat => call.path,
                _ => None,
            };
            if target.is_none_or(|target| target.as_os_str() != failing) || failed.replace(true) {
                return Action::Proceed;
            }
            match call.syscall {
                Syscall::Renameat => fs::rename(files.join(call.path.unwrap()), files.join(failing)).unwrap(),
                _ => fs::remove_file(files.join(failing)).unwrap(),
            }
            Action::Fail(libc::EIO)
        };
        inject(fail, || place.batch(&CHANGES)).0.unwrap();
        place.assert_is(&CHANGES);
        place.assert_nothing_left();
    }
}

/// If the first file cannot be changed, nothing has happened. If a later one cannot be changed, the change is decided.
pub(crate) fn a_file_that_cannot_be_changed() {
    for failing in ["replaced", "made", "deleted"] {
        let place = Place::quick();
        place.make(&OLD);
        let fail = move |call: &Call<'_>| {
            let target = if call.syscall == Syscall::Renameat { call.new_path } else { call.path };
            let is_it = target.is_some_and(|target| target.as_os_str() == failing);
            let changes = matches!(call.syscall, Syscall::Renameat | Syscall::Unlinkat);
            if is_it && changes { Action::Fail(libc::EIO) } else { Action::Proceed }
        };
        let error = inject(fail, || place.batch(&CHANGES)).0.unwrap_err();
        if failing == "replaced" {
            assert!(!matches!(error, Error::Unfinished { .. }), "{error}");
            assert_eq!(place.left(), [""; 0]);
            place.assert_is(&OLD);
        } else {
            assert!(matches!(error, Error::Unfinished { .. }), "{error}");
            place.assert_is(&CHANGES);
        }
        place.assert_nothing_left();
    }
}

/// In a shared lock directory, any user may write to a lock file that root has made, and give it another name.
pub(crate) fn an_intent_that_others_may_write_to() {
    for (mode, is_done) in [(0o644, true), (0o664, false), (0o646, false)] {
        let place = Place::quick();
        place.make(&[("victim", Some("here"))]);
        let _ = place.seen("victim");
        let (dir, id, old) = (place.files.to_str().unwrap(), inode(&place.files), inode(&place.path("victim")));
        let intent = plant(&place, &["D", dir, &id, "victim", &old], &["victim"]);
        fs::set_permissions(&intent, fs::Permissions::from_mode(mode)).unwrap();
        let read = place.adapter.read_with_lock(place.path("victim"));
        assert_eq!((place.path("victim").exists(), read.is_ok()), (!is_done, is_done), "{mode:o}: {read:?}");
    }
}

/// A copy of an intent, for example from a backup.
pub(crate) fn a_copy_of_an_intent() {
    let place = Place::quick();
    let intent = place.after_death(1);
    let copy = intent.with_extension("copy");
    fs::copy(&intent, &copy).unwrap();
    fs::rename(&copy, &intent).unwrap();
    let error = place.adapter.read_with_lock(place.path("made")).unwrap_err();
    assert!(matches!(error, Error::Unfinished { .. }), "{error}");
    assert_eq!(fs::metadata(place.path("deleted")).unwrap().len(), 3);
}

/// An intent whose changes are all made, for example one from a backup. It names a file that is part of another change
/// by now.
pub(crate) fn a_mark_of_another_intent() {
    let place = Place::quick();
    let decided = place.after_death(0);
    let (dir, id) = (place.files.to_str().unwrap(), inode(&place.files));
    let other = plant(&place, &["D", dir, &id, "replaced", "1"], &["replaced"]);
    mark(&place, "replaced", decided.file_name().unwrap().as_encoded_bytes());
    assert!(place.adapter.give_up(&other).unwrap().is_empty() && !other.exists());
    place.adapter.write_atomic(place.path("replaced"), "written since").unwrap();
    assert_eq!(place.raw("made").as_deref(), Some("made"), "the other change was to be finished first");
    place.assert_is(&[("replaced", Some("written since")), ("made", Some("made")), ("deleted", None)]);
    place.assert_nothing_left();
}
