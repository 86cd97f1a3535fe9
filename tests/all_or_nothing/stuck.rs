//! A decided change that cannot be finished, because programs without the locks have changed the files.

use std::fs;
use std::path::PathBuf;

use atomic_file_adapter::Error;

use crate::common::names;
use crate::hostile::{with_check, without_check};
use crate::place::{CHANGES, Place};

/// Every caller gets the error, every time, and nobody sees half of the change.
#[track_caller]
fn assert_unfinished(place: &Place, intent: &PathBuf, names: &[&str]) {
    for name in names {
        for _ in 0..2 {
            let error = place.adapter.read_with_lock(place.path(name)).unwrap_err();
            let text = error.to_string();
            let Error::Unfinished { path, intent: told, .. } = &error else { panic!("{name}: {text}") };
            assert_eq!((path, told), (&place.path(name), intent), "{text}");
            assert!(text.contains(intent.to_str().unwrap()), "{text}");
            assert!(intent.exists(), "{text}");
        }
        let file = place.adapter.file(place.path(name)).unwrap();
        assert!(matches!(file.try_lock(), Err(Error::Unfinished { .. })));
        assert!(matches!(file.write("x"), Err(Error::Unfinished { .. })));
        assert!(matches!(place.adapter.lock_many_shared([place.path(name)]), Err(Error::Unfinished { .. })));
    }
    let paths = place.paths(names);
    assert!(matches!(place.adapter.update_many(paths, |_| unreachable!()), Err(Error::Unfinished { .. })));
    assert!(place.adapter.recover().is_err(), "recover did not report the unfinished change");
    // The lock files are not pruned, because the marks would be lost. The temporary files are not swept, because the
    // change needs them.
    let _ = place.adapter.prune();
    let _ = place.adapter.sweep(&place.files);
    assert!(place.adapter.read_with_lock(place.path(names[0])).is_err());
    // The change does not affect other files.
    place.adapter.write_atomic(place.path("beside"), "x").unwrap();
    assert_eq!(place.seen("beside").as_deref(), Some("x"));
}

const SUB: [(&str, Option<&str>); 3] = [("sub/replaced", Some("new")), ("top", Some("new")), ("gone", None)];

fn with_a_directory(done: usize) -> (Place, PathBuf) {
    let place = Place::quick();
    fs::create_dir(place.path("sub")).unwrap();
    place.make(&[("sub/replaced", Some("old")), ("top", Some("old")), ("gone", Some("old"))]);
    let intent = place.dies(&place.adapter, done, &SUB);
    (place, intent)
}

pub(crate) fn a_directory_that_is_gone() {
    let (place, intent) = with_a_directory(0);
    fs::rename(place.path("sub"), place.path("elsewhere")).unwrap();
    assert_unfinished(&place, &intent, &["top", "gone"]);
    // The directory comes back, and the next caller finishes the change.
    fs::rename(place.path("elsewhere"), place.path("sub")).unwrap();
    place.assert_is(&SUB);
    place.assert_nothing_left();
}

pub(crate) fn a_directory_that_is_another_one() {
    let (place, intent) = with_a_directory(0);
    fs::rename(place.path("sub"), place.path("elsewhere")).unwrap();
    fs::create_dir(place.path("sub")).unwrap();
    fs::write(place.path("sub/replaced"), "of another directory").unwrap();
    assert_unfinished(&place, &intent, &["top", "sub/replaced"]);
    assert_eq!(place.raw("sub/replaced").as_deref(), Some("of another directory"));
    // A link to the directory is not the directory either.
    fs::remove_dir_all(place.path("sub")).unwrap();
    std::os::unix::fs::symlink("elsewhere", place.path("sub")).unwrap();
    assert!(matches!(place.adapter.read_with_lock(place.path("top")), Err(Error::Unfinished { .. })));
    fs::remove_file(place.path("sub")).unwrap();
    fs::rename(place.path("elsewhere"), place.path("sub")).unwrap();
    place.assert_is(&SUB);
    place.assert_nothing_left();
}

pub(crate) fn a_temporary_file_that_was_removed() {
    let place = Place::quick();
    let intent = place.after_death(0);
    let temporary = names(&place.files).into_iter().find(|name| name.starts_with(".made.")).unwrap();
    let aside = place.above.join("aside");
    fs::rename(place.path(&temporary), &aside).unwrap();
    assert_unfinished(&place, &intent, &["replaced", "made", "deleted"]);
    // Another file with the same name is not the temporary file.
    fs::write(place.path(&temporary), "foreign").unwrap();
    assert!(matches!(place.adapter.read_with_lock(place.path("made")), Err(Error::Unfinished { .. })));
    assert_eq!(place.raw("made"), None);
    fs::rename(&aside, place.path(&temporary)).unwrap();
    place.assert_is(&CHANGES);
    place.assert_nothing_left();
}

pub(crate) fn files_that_were_replaced_without_locks() {
    for done in 0..3 {
        let place = Place::quick();
        place.after_death(done);
        let foreign = |name: &str| {
            fs::write(place.path("foreign"), "foreign").unwrap();
            fs::rename(place.path("foreign"), place.path(name)).unwrap();
        };
        // A file that has to be removed: another file with its name must stay.
        foreign("deleted");
        assert_eq!(place.seen("replaced").as_deref(), Some("new"), "{done}");
        place.assert_is(&[("replaced", Some("new")), ("made", Some("made")), ("deleted", Some("foreign"))]);
        place.assert_nothing_left();
    }
    // A file that was replaced already, and one that has to be made and has lost its temporary file.
    let place = Place::quick();
    place.after_death(1);
    for (name, temporary) in [("replaced", None), ("made", Some(".made."))] {
        fs::write(place.path("foreign"), "foreign").unwrap();
        fs::rename(place.path("foreign"), place.path(name)).unwrap();
        if let Some(temporary) = temporary {
            let temporary = names(&place.files).into_iter().find(|name| name.starts_with(temporary)).unwrap();
            fs::remove_file(place.path(&temporary)).unwrap();
        }
    }
    place.assert_is(&[("replaced", Some("foreign")), ("made", Some("foreign")), ("deleted", None)]);
    place.assert_nothing_left();
}

pub(crate) fn it_is_given_up() {
    // The other files are finished.
    let place = Place::quick();
    let intent = place.after_death(1);
    assert_eq!(place.adapter.give_up(&intent).unwrap(), [""; 0].map(PathBuf::from));
    place.assert_nothing_left();
    place.assert_is(&CHANGES);

    let (place, intent) = with_a_directory(0);
    fs::rename(place.path("sub"), place.path("elsewhere")).unwrap();
    assert_unfinished(&place, &intent, &["top"]);
    assert_eq!(place.adapter.give_up(&intent).unwrap(), [place.path("sub/replaced")]);
    assert!(!intent.exists() && place.intents().is_empty());
    place.assert_is(&[("top", Some("new")), ("gone", None), ("sub/replaced", None)]);
    assert!(place.adapter.recover().unwrap().is_empty());
    let marks = place.left().into_iter().filter(|name| name.ends_with(".lock")).count();
    assert_eq!(marks, 0);

    // Only a later version can finish its own intent, or give it up.
    let place = Place::quick();
    let intent = place.after_death(1);
    let bytes = fs::read(&intent).unwrap();
    fs::write(&intent, with_check(&without_check(&bytes, b"intent 1", b"intent 2"))).unwrap();
    assert_unfinished(&place, &intent, &["deleted", "made"]);
    let listed = place.adapter.intents().unwrap();
    assert!(listed.len() == 1 && listed[0].path == intent && listed[0].problem.is_some(), "{listed:?}");
    let error = place.adapter.give_up(&intent).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("later version"), "{error}");
    // Removed by hand: then it is as if the change had never been decided, and the files stay as they are.
    fs::remove_file(&intent).unwrap();
    place.assert_is(&[("replaced", Some("new")), ("made", None), ("deleted", Some("old"))]);
}

pub(crate) fn what_is_no_intent_is_not_given_up() {
    let place = Place::quick();
    let intent = place.after_death(1);
    fs::write(place.path("victim"), "x").unwrap();
    let other = place.path(intent.file_name().unwrap().to_str().unwrap());
    fs::copy(&intent, &other).unwrap();
    let lock = place.adapter.lock_path(place.path("made")).unwrap();
    for path in [place.path("victim"), other, lock, place.locks().join(".gitignore"), place.locks().to_owned()] {
        let given_up = place.adapter.give_up(&path);
        assert!(given_up.is_err(), "{path:?}: {given_up:?}");
        assert!(path.exists());
    }
    let missing = place.locks().join("0123456789abcdef.aaaaaaaaaa.intent");
    let given_up = place.adapter.give_up(missing);
    assert!(
        given_up.as_ref().map_or_else(|error| error.kind() == std::io::ErrorKind::NotFound, Vec::is_empty),
        "{given_up:?}"
    );
    place.assert_is(&CHANGES);
}
