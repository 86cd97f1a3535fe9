//! Long and odd names.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;

use crate::{Scratch, contents, errors, os_error};

/// Write, the name of the temporary file, read, update, delete.
fn goes_through_its_life(scratch: &Scratch, name: &OsStr) {
    let (adapter, path) = (&scratch.adapter, scratch.path(name));
    let only_entry = || {
        let entries: Vec<OsString> = scratch.dir.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        <[OsString; 1]>::try_from(entries).unwrap()[0].clone()
    };
    {
        let file = adapter.file(&path).unwrap();
        let guard = file.lock().unwrap();
        let _writer = guard.writer().unwrap();
        let temporary = only_entry();
        assert!(temporary.len() <= 255, "{temporary:?} for {name:?}");
        // Some file systems refuse a name that is not UTF-8.
        assert!(temporary.to_str().is_some() || name.to_str().is_none(), "{temporary:?} for {name:?}");
    }
    scratch.holds_only(&[]);
    adapter.write_atomic(&path, "one").unwrap();
    assert_eq!(only_entry(), name);
    assert_eq!(adapter.read_with_lock(&path).unwrap().unwrap(), b"one", "{name:?}");
    adapter.update(&path, |old| [old.unwrap(), b", two"].concat()).unwrap();
    assert_eq!(contents(&path), "one, two");
    assert_eq!(only_entry(), name);
    assert!(adapter.delete_with_lock(&path).unwrap());
    scratch.holds_only(&[]);
}

#[test]
fn names_of_every_length_up_to_255_bytes_work() {
    let scratch = Scratch::new();
    for length in (1..=6).chain(230..=255) {
        goes_through_its_life(&scratch, "n".repeat(length).as_ref());
        // Characters of two, three and four bytes, at every offset.
        for character in ["é", "書", "🦀"] {
            let many = character.repeat(length / character.len());
            let padded = "x".repeat(length - many.len()) + &many;
            goes_through_its_life(&scratch, padded.as_ref());
        }
    }
    let full = "é".repeat(127) + "x";
    assert_eq!(full.len(), 255);
    goes_through_its_life(&scratch, full.as_ref());
}

#[test]
fn names_of_256_bytes_are_too_long() {
    let scratch = Scratch::new();
    scratch.make("a");
    let mut long = vec!["n".repeat(256), format!("{}/x", "n".repeat(256))];
    if cfg!(target_os = "linux") {
        // Apple's file systems count characters.
        long.push("é".repeat(128));
    }
    for name in long {
        for (what, error) in errors(&scratch.adapter, &scratch.path(&name)) {
            assert_eq!(os_error(&error), Some(libc::ENAMETOOLONG), "{what}: {error:?}");
            // `InvalidFilename`, which Rust 1.85 does not let others name.
            assert_eq!(error.kind(), io::Error::from_raw_os_error(libc::ENAMETOOLONG).kind(), "{what}");
        }
        assert!(!scratch.adapter.exists(scratch.path(&name)));
        scratch.holds_only(&["a"]);
    }
}

#[test]
fn odd_names_work() {
    let scratch = Scratch::new();
    let names =
        [" ", "\n", "...", "..x", "-rf", "~", "*", "a\\b", ".tmp", ".a.aaaaaaantu.tmp", "a (deleted)", "\u{feff}"];
    for name in names {
        goes_through_its_life(&scratch, name.as_ref());
    }
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: Apple's file systems refuse such names")]
fn names_that_are_not_utf8_work() {
    let scratch = Scratch::new();
    for bytes in [&b"\xff"[..], b"latin-1 \xe9", &[0x80; 255], &[0xff; 250]] {
        goes_through_its_life(&scratch, OsStr::from_bytes(bytes));
    }
    // Two names that look the same when they are printed are two files.
    let [one, other] = [&b"\xfe"[..], b"\xff"].map(|name| scratch.path(OsStr::from_bytes(name)));
    assert_eq!(one.display().to_string(), other.display().to_string());
    assert_ne!(scratch.adapter.lock_path(&one).unwrap(), scratch.adapter.lock_path(&other).unwrap());
    scratch.adapter.write_atomic(&one, "one").unwrap();
    assert_eq!(scratch.adapter.read_with_lock(&other).unwrap(), None);
}
