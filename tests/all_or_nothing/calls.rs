//! The calls if no process dies.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use atomic_file_adapter::{AtomicFileAdapter, Durability, Error};

use crate::common::names;
use crate::place::{CHANGES, COLLIDES, OLD, Place};

fn bytes(contents: &str) -> Option<Vec<u8>> {
    Some(contents.as_bytes().to_vec())
}

pub(crate) fn a_batch_and_an_update_do_the_same() {
    for durability in [Durability::Full, Durability::Ordered, Durability::None] {
        let [batch, update] = [(); 2].map(|()| Place::within(&std::env::temp_dir(), durability));
        for place in [&batch, &update] {
            place.make(&OLD);
        }
        batch.batch(&CHANGES).unwrap();
        update
            .adapter
            .update_many(update.paths(&["replaced", "made", "deleted"]), |old| {
                assert_eq!(old, [bytes("old"), None, bytes("old")]);
                vec![bytes("new"), bytes("made"), None]
            })
            .unwrap();
        for place in [&batch, &update] {
            place.assert_is(&CHANGES);
            place.assert_nothing_left();
            assert_eq!(names(&place.files), ["made", "replaced"], "{durability:?}");
            assert_eq!(place.adapter.recover().unwrap(), [""; 0].map(PathBuf::from));
        }
    }
}

pub(crate) fn the_last_change_counts() {
    let place = Place::new();
    symlink("one", place.path("link")).unwrap();
    place.make(&[("one", Some("old"))]);
    let mut batch = place.adapter.batch();
    batch.write(place.path("one"), "first").delete(place.path("two")).delete(place.path("one"));
    batch.write(place.path("link"), "through the link").write(place.path("two"), "written");
    batch.write(place.path("three"), "x").delete(place.path("../files/three"));
    batch.commit_all().unwrap();
    place.assert_is(&[("one", Some("through the link")), ("two", Some("written")), ("three", None)]);
    batch.commit_all().expect("it is empty now");
    let paths = [place.path("one"), place.path("two"), place.path("link"), place.path("../files/one")];
    place
        .adapter
        .update_many(&paths, |old| {
            let one = bytes("through the link");
            assert_eq!(old, [one.clone(), bytes("written"), one.clone(), one]);
            vec![None, bytes("two"), bytes("not the last"), bytes("the last")]
        })
        .unwrap();
    place.assert_is(&[("one", Some("the last")), ("two", Some("two"))]);
    place.assert_nothing_left();
    assert_eq!(names(&place.files), ["link", "one", "two"]);
}

pub(crate) fn links_are_followed_and_stay() {
    let place = Place::new();
    fs::create_dir(place.path("sub")).unwrap();
    symlink("../target", place.path("sub/link")).unwrap();
    symlink("sub/nothing", place.path("dangling")).unwrap();
    place.make(&[("target", Some("old"))]);
    place
        .adapter
        .update_many(place.paths(&["sub/link", "dangling"]), |old| {
            assert_eq!(old, [bytes("old"), None]);
            vec![bytes("new"), bytes("made")]
        })
        .unwrap();
    assert!(place.path("sub/link").is_symlink() && place.path("dangling").is_symlink());
    place.assert_is(&[("target", Some("new")), ("sub/nothing", Some("made"))]);
    place.batch(&[("sub/link", None), ("dangling", Some("again"))]).unwrap();
    assert!(place.path("sub/link").is_symlink() && place.path("dangling").is_symlink());
    place.assert_is(&[("target", None), ("sub/nothing", Some("again"))]);
    place.assert_nothing_left();
}

pub(crate) fn two_files_with_one_lock() {
    let place = Place::new();
    let [one, two] = [1, 2].map(|n| place.path(&format!("{COLLIDES}{n}")));
    assert_eq!(place.adapter.lock_path(&one).unwrap(), place.adapter.lock_path(&two).unwrap());
    place.adapter.batch().write(&one, "1").write(&two, "2").write(place.path("three"), "3").commit_all().unwrap();
    place
        .adapter
        .update_many([&two, &one], |old| {
            assert_eq!(old, [bytes("2"), bytes("1")]);
            vec![bytes("22"), None]
        })
        .unwrap();
    assert_eq!(place.adapter.read_with_lock(&one).unwrap(), None);
    assert_eq!(place.adapter.read_with_lock(&two).unwrap(), bytes("22"));
    place.assert_nothing_left();
}

pub(crate) fn missing_directories() {
    let place = Place::new();
    place
        .batch(&[("a/b/c", Some("deep")), ("a/d", Some("less deep")), ("no/such", None), ("top", Some("top"))])
        .unwrap();
    place.assert_is(&[("a/b/c", Some("deep")), ("a/d", Some("less deep")), ("no/such", None), ("top", Some("top"))]);
    place
        .adapter
        .update_many(place.paths(&["x/y", "no/such"]), |old| {
            assert_eq!(old, [None, None]);
            vec![bytes("made"), None]
        })
        .unwrap();
    place.assert_is(&[("x/y", Some("made")), ("no/such", None)]);
    assert!(!place.path("no").exists(), "a directory was made, but no file");
    place.assert_nothing_left();
}

pub(crate) fn one_file_and_none() {
    let place = Place::new();
    place.adapter.batch().commit_all().unwrap();
    let mut called = false;
    place
        .adapter
        .update_many::<&Path>([], |old| {
            called = old.is_empty();
            vec![]
        })
        .unwrap();
    assert!(called && !place.locks().exists());
    place.batch(&[("one", Some("1"))]).unwrap();
    place
        .adapter
        .update_many([place.path("one")], |old| vec![Some([old[0].clone().unwrap(), b"1".into()].concat())])
        .unwrap();
    place.assert_is(&[("one", Some("11"))]);
    place.batch(&[("one", None)]).unwrap();
    place.batch(&[("one", None)]).expect("a missing file must not be an error");
    place.assert_is(&[("one", None)]);
    place.assert_nothing_left();
}

pub(crate) fn a_wrong_number_of_versions() {
    let place = Place::new();
    place.make(&OLD);
    for given in [0, 1, 3, 4] {
        let error =
            place.adapter.update_many(place.paths(&["replaced", "deleted"]), |_| vec![None; given]).unwrap_err();
        assert!(
            matches!(&error, Error::NewVersions { path, files: 2, given: it, .. } if *it == given && *path == place.path("replaced")),
            "{error}"
        );
        let text = error.to_string();
        assert!(text.contains(&format!("{given} new versions")) && text.contains("nothing was done"), "{text}");
        place.assert_is(&OLD);
        place.assert_nothing_left();
    }
    let error = place.adapter.update_many::<&Path>([], |_| vec![None]).unwrap_err();
    assert!(matches!(error, Error::NewVersions { files: 0, given: 1, .. }), "{error}");
}

pub(crate) fn a_change_that_fails_or_panics() {
    #[derive(Debug)]
    enum Mine {
        No,
        Theirs(Error),
    }
    impl From<Error> for Mine {
        fn from(error: Error) -> Self {
            Mine::Theirs(error)
        }
    }
    let place = Place::new();
    place.make(&OLD);
    let paths = place.paths(&["replaced", "deleted"]);
    let refused = place.adapter.try_update_many(&paths, |_| Err(Mine::No));
    assert!(matches!(refused, Err(Mine::No)), "{refused:?}");
    let wrong = place.adapter.try_update_many(&paths, |_| Ok::<_, Mine>(vec![]));
    assert!(matches!(wrong, Err(Mine::Theirs(Error::NewVersions { .. }))), "{wrong:?}");
    let panicked = catch_unwind(AssertUnwindSafe(|| place.adapter.update_many(&paths, |_| panic!("for the test"))));
    assert!(panicked.is_err());
    place.assert_is(&OLD);
    place.assert_nothing_left();
    // Under one of the locks, this thread would wait for itself.
    let file = place.adapter.file(&paths[0]).unwrap();
    let guard = file.lock().unwrap();
    let error = place.adapter.update_many(&paths, |_| unreachable!()).unwrap_err();
    assert!(matches!(&error, Error::Deadlock { .. }), "{error}");
    drop(guard);
    let inside = place.adapter.update_many(&paths, |old| {
        let again = place.adapter.read_with_lock(&paths[1]);
        assert!(matches!(again, Err(Error::Deadlock { .. })), "{again:?}");
        old.to_vec()
    });
    inside.unwrap();
    place.assert_is(&OLD);
}

pub(crate) fn an_obstacle_means_that_nothing_is_done() {
    let place = Place::new();
    place.make(&OLD);
    fs::create_dir(place.path("directory")).unwrap();
    symlink("loop", place.path("loop")).unwrap();
    let long = "x".repeat(256);
    for obstacle in ["directory", "loop", &long, "replaced/below", "directory/", ""] {
        for contents in [Some("new"), None] {
            let mut batch = place.adapter.batch();
            batch.write(place.path("replaced"), "new").delete(place.path("deleted"));
            let path = if obstacle.is_empty() { PathBuf::new() } else { place.path(obstacle) };
            match contents {
                Some(contents) => batch.write(path, contents),
                None => batch.delete(path),
            };
            batch.write(place.path("made"), "made");
            let Err(error) = batch.commit_all() else { panic!("{obstacle}, {contents:?}: it was committed") };
            assert!(!matches!(error, Error::Unfinished { .. } | Error::Batch { .. }), "{obstacle}: {error}");
            place.assert_is(&OLD);
            place.assert_nothing_left();
            batch.commit_all().expect("it is empty now");
        }
    }
    let paths = place.paths(&["replaced", "directory"]);
    place.adapter.update_many(&paths, |_| unreachable!()).unwrap_err();
    place.assert_is(&OLD);
}

pub(crate) fn a_lock_that_cannot_be_taken() {
    let place = Place::new();
    place.make(&OLD);
    let impatient = AtomicFileAdapter::builder().lock_dir(place.locks()).lock_timeout(Duration::ZERO).build().unwrap();
    for held in ["replaced", "made", "deleted"] {
        let file = place.adapter.file(place.path(held)).unwrap();
        let _guard = file.lock_shared().unwrap();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| crate::place::batch(&impatient, &place.files, &CHANGES));
            let error = other.join().unwrap().unwrap_err();
            assert!(matches!(&error, Error::Timeout { path, .. } if *path == place.path(held)), "{error}");
        });
        place.assert_nothing_left();
    }
    place.assert_is(&OLD);
    crate::place::batch(&impatient, &place.files, &CHANGES).unwrap();
    place.assert_is(&CHANGES);
}

pub(crate) fn modes_are_kept() {
    let place = Place::new();
    let builder = AtomicFileAdapter::builder().lock_dir(place.locks()).new_file_mode(0o640);
    let adapter = builder.build().unwrap();
    let mode = |name: &str| place.path(name).metadata().unwrap().mode() & 0o7777;
    place.make(&[("kept", Some("old")), ("anew", Some("old"))]);
    for name in ["kept", "anew"] {
        fs::set_permissions(place.path(name), Permissions::from_mode(0o751)).unwrap();
    }
    let mut batch = adapter.batch();
    batch.write(place.path("kept"), "new").write(place.path("made"), "new");
    batch.delete(place.path("anew")).write(place.path("anew"), "new");
    batch.commit_all().unwrap();
    assert_eq!([mode("kept"), mode("made"), mode("anew")], [0o751, 0o640, 0o640]);
    // Also if another process has to finish the change.
    place.dies(&adapter, 1, &[("kept", Some("newer")), ("more", Some("x"))]);
    place.assert_is(&[("kept", Some("newer")), ("more", Some("x"))]);
    assert_eq!(mode("kept"), 0o751);
}
