//! Marks and intents that no program with the protocol would write.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use atomic_file_adapter::Error;
use xxhash_rust::xxh3::xxh3_64;

use crate::place::{CHANGES, OLD, Place};

/// Where a mark begins in a lock file.
const MARK: usize = 2048;

/// Marks the lock file of `name` with these bytes, as the lock protocol says.
pub(crate) fn mark(place: &Place, name: &str, bytes: &[u8]) -> PathBuf {
    let lock = place.adapter.lock_path(place.path(name)).unwrap();
    let mut contents = fs::read(&lock).unwrap_or_default();
    contents.resize(MARK, 0);
    contents.extend_from_slice(bytes);
    // Nobody holds the lock.
    fs::write(&lock, contents).unwrap();
    lock
}

/// The fields of an intent, followed by their check.
pub(crate) fn with_check(fields: &[u8]) -> Vec<u8> {
    [fields, format!("{:016x}", xxh3_64(fields)).as_bytes()].concat()
}

/// The fields of an intent without the check, with `from` replaced by `to`.
pub(crate) fn without_check(intent: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let fields = &intent[..intent.len() - 16];
    let at = fields.windows(from.len()).position(|window| window == from).expect("it is in there");
    [&fields[..at], to, &fields[at + from.len()..]].concat()
}

/// An intent made by hand, and the marks of its files.
pub(crate) fn plant(place: &Place, fields: &[&str], names: &[&str]) -> PathBuf {
    let first = place.adapter.lock_path(place.path(names[0])).unwrap();
    let hash = first.file_stem().unwrap().to_str().unwrap();
    let name = format!("{hash}.abcdefg234.intent");
    names.iter().for_each(|it| drop(mark(place, it, name.as_bytes())));
    let intent = place.locks().join(&name);
    fs::write(&intent, "").unwrap();
    let mut bytes = format!("atomic-file-adapter intent 1\0{}\0crash\0", inode(&intent)).into_bytes();
    fields.iter().for_each(|field| bytes.extend_from_slice(&[field.as_bytes(), b"\0"].concat()));
    fs::write(&intent, with_check(&bytes)).unwrap();
    intent
}

pub(crate) fn inode(path: &Path) -> String {
    path.symlink_metadata().unwrap().ino().to_string()
}

/// The old files. Each was read once, so that its lock file exists.
fn ready() -> Place {
    let place = Place::quick();
    place.make(&OLD);
    OLD.iter().for_each(|(name, _)| drop(place.seen(name)));
    place
}

pub(crate) fn a_mark_without_an_intent() {
    let place = ready();
    let lock = mark(&place, "replaced", b"0123456789abcdef.abcdefghij.intent");
    assert_eq!(place.seen("replaced").as_deref(), Some("old"));
    let path = format!("{}\n", place.path("replaced").display());
    assert_eq!(fs::read_to_string(&lock).unwrap(), path, "the mark is gone, and the path is not");
    mark(&place, "replaced", b"0123456789abcdef.abcdefghij.intent");
    place.batch(&CHANGES).unwrap();
    place.assert_is(&CHANGES);
    place.assert_nothing_left();
}

pub(crate) fn a_mark_that_leads_elsewhere() {
    let place = ready();
    // A real intent. The only fault is that it is not in the lock directory.
    let real = place.after_death(0);
    let name = real.file_name().unwrap().to_str().unwrap().to_owned();
    let elsewhere = place.path(&name);
    fs::rename(&real, &elsewhere).unwrap();
    fs::hard_link(&elsewhere, place.above.join("x")).unwrap();
    let in_another = [format!("../files/{name}"), format!("./../files/{name}"), elsewhere.to_str().unwrap().to_owned()];
    let mut marks: Vec<Vec<u8>> = in_another.into_iter().map(String::into_bytes).collect();
    let others: [&[u8]; 7] =
        [b"../x", b"..", b".gitignore", b"\0\0\0\0", b"\xff\xfe", name.as_bytes(), &[b'x'; 100_000]];
    marks.extend(others.map(<[u8]>::to_vec));
    for bytes in marks {
        let what = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        for (changed, _) in CHANGES {
            mark(&place, changed, &bytes);
        }
        for (changed, old) in OLD {
            assert_eq!(place.seen(changed).as_deref(), old, "{what}");
        }
        place.adapter.recover().unwrap();
        place.adapter.prune().unwrap();
        place.assert_is(&OLD);
        assert!(elsewhere.exists() && place.locks().join(".gitignore").exists(), "{what}");
    }
    // The name exists, but it is a link, a directory or a FIFO. Nobody has renamed an intent to it.
    for what in ["link", "directory", "fifo"] {
        match what {
            "link" => std::os::unix::fs::symlink(&elsewhere, &real).unwrap(),
            "directory" => fs::create_dir(&real).unwrap(),
            _ => nix::unistd::mkfifo(&real, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        }
        mark(&place, "replaced", name.as_bytes());
        match place.adapter.read_with_lock(place.path("replaced")) {
            Ok(contents) => assert_eq!(contents.as_deref(), Some(&b"old"[..])),
            Err(error) => {
                assert!(matches!(&error, Error::Unfinished { intent, .. } if *intent == real), "{what}: {error}")
            }
        }
        let _ = place.adapter.intents();
        let _ = place.adapter.recover();
        // `recover` may have removed it.
        let _ = if what == "directory" { fs::remove_dir(&real) } else { fs::remove_file(&real) };
        place.assert_is(&OLD);
    }
}

/// Somebody has written the name of an intent into the lock file of a file that the intent does not name.
pub(crate) fn a_mark_of_an_intent_for_other_files() {
    let place = Place::quick();
    fs::create_dir(place.path("sub")).unwrap();
    place.make(&[("beside", Some("x"))]);
    place.assert_is(&[("beside", Some("x"))]);
    let intent = place.dies(&place.adapter, 0, &[("sub/one", Some("1")), ("two", Some("2"))]);
    // Now the change cannot be finished, and nobody can use its files.
    fs::rename(place.path("sub"), place.path("elsewhere")).unwrap();
    assert!(place.adapter.read_with_lock(place.path("two")).is_err());
    mark(&place, "beside", intent.file_name().unwrap().as_encoded_bytes());
    place.assert_is(&[("beside", Some("x"))]);
    place.adapter.write_atomic(place.path("beside"), "y").unwrap();
    assert!(intent.exists());
}

pub(crate) fn an_intent_that_is_torn_or_foreign() {
    let place = ready();
    let intent = place.after_death(0);
    let bytes = fs::read(&intent).unwrap();
    let untouched = |why: &str| {
        // If the change was never decided, or the intent cannot be read, the file is as it was or there is an error.
        // Nothing else may happen.
        for (name, old) in OLD {
            match place.adapter.read_to_string_with_lock(place.path(name)) {
                Ok(contents) => assert_eq!(contents.as_deref(), old, "{why}"),
                Err(error) => assert!(
                    matches!(&error, Error::Unfinished { intent: told, .. } if *told == intent),
                    "{why}: {error}"
                ),
            }
            assert_eq!(place.raw(name).as_deref(), old, "{why}");
        }
    };
    for len in [0, 1, 20, 29, 40, bytes.len() - 17, bytes.len() - 1] {
        for name in ["replaced", "made", "deleted"] {
            mark(&place, name, intent.file_name().unwrap().as_encoded_bytes());
        }
        fs::write(&intent, &bytes[..len]).unwrap();
        untouched(&format!("{len} bytes"));
    }
    let dir = place.files.to_str().unwrap();
    let [dir_inode, old] = [inode(&place.files), inode(&place.path("deleted"))];
    let temporary = crate::common::names(&place.files).into_iter().find(|name| name.starts_with(".made.")).unwrap();
    let temporary_inode = inode(&place.path(&temporary));
    fs::write(place.above.join("victim"), "x").unwrap();
    let victim = inode(&place.above.join("victim"));
    let above = inode(&place.above);
    let hostile: &[&[&str]] = &[
        &["D", dir, &dir_inode, "../victim", &victim],
        &["D", dir, &dir_inode, "..", &above],
        &["D", dir, &dir_inode, "", &dir_inode],
        &["D", dir, &dir_inode, "deleted", "not a number"],
        &["D", dir, &dir_inode, "deleted", "18446744073709551616"],
        &["D", dir, &dir_inode, "deleted"],
        &["X", dir, &dir_inode, "deleted", &old],
        &["R", dir, &dir_inode, "made", "../victim", &victim, ""],
        &["R", dir, &dir_inode, "made", "deleted", &old, ""],
        &["R", dir, &dir_inode, "../made", &temporary, &temporary_inode, ""],
        // The file is in another directory than the intent says.
        &["D", dir, "1", "deleted", &old],
        &["D", "files", &dir_inode, "deleted", &old],
        &["D", "", &dir_inode, "deleted", &old],
    ];
    for fields in hostile {
        for name in ["replaced", "made", "deleted"] {
            fs::remove_file(place.adapter.lock_path(place.path(name)).unwrap()).unwrap();
        }
        let _ = fs::remove_file(&intent);
        let planted = plant(&place, fields, &["deleted", "made", "replaced"]);
        // The mark is also in the lock file that the change would have if it were believed.
        let hash = xxh3_64(format!("{}/{}", fields[1], fields[3]).as_bytes());
        let name = planted.file_name().unwrap().as_encoded_bytes();
        fs::write(place.locks().join(format!("{hash:016x}.lock")), [&[0; MARK], name].concat()).unwrap();
        for (name, old) in OLD {
            match place.adapter.read_to_string_with_lock(place.path(name)) {
                Ok(contents) => assert_eq!(contents.as_deref(), old, "{fields:?}"),
                Err(error) => {
                    assert!(
                        matches!(&error, Error::Unfinished { intent: told, .. } if *told == planted),
                        "{fields:?}: {error}"
                    );
                }
            }
            assert_eq!(place.raw(name).as_deref(), old, "{fields:?}");
        }
        let _ = place.adapter.recover();
        let _ = place.adapter.give_up(&planted);
        assert!(place.above.join("victim").exists() && place.files.exists(), "{fields:?}");
        for (name, old) in OLD {
            assert_eq!(place.raw(name).as_deref(), old, "{fields:?}");
        }
        let _ = fs::remove_file(planted);
        place.assert_is(&OLD);
    }
}

/// Another program can make an intent from `src/docs/protocol.md` alone.
pub(crate) fn an_intent_is_what_the_protocol_says() {
    let place = ready();
    let dir = place.files.to_str().unwrap();
    let temporary = crate::common::temporary_name("replaced", "abcdefg");
    fs::write(place.path(&temporary), "new").unwrap();
    let inodes = ["", "replaced", "deleted", &temporary].map(|name| inode(&place.path(name)));
    let [dir_inode, replaced, deleted, new] = &inodes;
    let fields = ["R", dir, dir_inode, "replaced", &temporary, new, replaced, "D", dir, dir_inode, "deleted", deleted];
    let mut in_order = [
        ("replaced", place.adapter.lock_path(place.path("replaced")).unwrap()),
        ("deleted", place.adapter.lock_path(place.path("deleted")).unwrap()),
    ];
    in_order.sort_by_key(|(_, lock)| lock.clone());
    let intent = plant(&place, &fields, &in_order.map(|(name, _)| name));
    assert_eq!(place.adapter.intents().unwrap()[0].path, intent);
    place.assert_is(&[("replaced", Some("new")), ("deleted", None), ("made", None)]);
    place.assert_nothing_left();
    // It can also read an intent that the crate makes.
    let place = Place::quick();
    let intent = place.after_death(0);
    let bytes = fs::read(&intent).unwrap();
    let fields: Vec<&str> = std::str::from_utf8(&bytes).unwrap().split('\0').collect();
    assert_eq!(with_check(&bytes[..bytes.len() - 16]), bytes);
    assert_eq!(fields[..3], ["atomic-file-adapter intent 1", &inode(&intent), "crash"]);
    assert_eq!(fields.len(), 3 + 2 * 7 + 5 + 1);
    for lock in place.adapter.locks().unwrap() {
        let contents = fs::read(&lock.path).unwrap();
        assert_eq!(&contents[MARK..], intent.file_name().unwrap().as_encoded_bytes());
        let text = format!("{}\n", lock.guards.unwrap().display());
        assert!(contents.starts_with(text.as_bytes()));
    }
    // A copy does not count, and none of its changes is made.
    let copy = place.path("copy");
    fs::copy(&intent, &copy).unwrap();
    fs::rename(&copy, &intent).unwrap();
    let error = place.adapter.read_with_lock(place.path("replaced")).unwrap_err();
    assert!(matches!(&error, Error::Unfinished { intent: told, .. } if *told == intent), "{error}");
    assert_eq!(place.adapter.give_up(&intent).unwrap().len(), CHANGES.len());
    place.assert_is(&OLD);
}
