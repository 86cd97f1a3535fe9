//! The names of lock files and of temporary files are a public protocol: the same on every machine and in every release.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use atomic_file_adapter::{AtomicFileAdapter, Error};
use common::vectors::{bytes, path, some_bytes, vectors};

#[test]
fn lock_names_are_those_of_the_vectors() {
    for vector in vectors("lock_names", "path") {
        let (path, root) = (path(&vector["path"]), vector["lock_root"].as_str());
        // The path of an existing file may have links, and a directory has no lock.
        if path.exists() {
            continue;
        }
        let builder = AtomicFileAdapter::builder().lock_dir("/no/such/locks");
        let adapter = match root {
            Some(root) => builder.lock_root(root).build().unwrap(),
            None => builder.build().unwrap(),
        };
        let expected = vector["lock_file"].as_str().map(|name| Path::new("/no/such/locks").join(name));
        match adapter.lock_path(&path) {
            Ok(lock) => assert_eq!(Some(lock), expected, "{vector}"),
            Err(error) => {
                assert!(matches!(error, Error::OutsideLockRoot { .. }) && expected.is_none(), "{vector}: {error}");
            }
        }
    }
}

#[test]
fn below_another_root_lock_names_are_the_same() {
    for root in ["/", "/srv", "/no/such/root", "/no/such/root/"] {
        let adapter = AtomicFileAdapter::builder().lock_dir("/no/such/locks").lock_root(root).build().unwrap();
        for vector in vectors("lock_names", "path") {
            let (Some(below), false) = (bytes(&vector["named_after"]), vector["lock_root"].is_null()) else { continue };
            let path = Path::new(root).join(OsStr::from_bytes(&below));
            if path.exists() {
                continue;
            }
            let expected = Path::new("/no/such/locks").join(vector["lock_file"].as_str().unwrap());
            assert_eq!(adapter.lock_path(&path).unwrap(), expected, "{path:?}");
        }
    }
}

#[test]
fn names_of_temporary_files_are_those_of_the_vectors() {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().canonicalize().unwrap().join("files");
    fs::create_dir(&files).unwrap();
    let adapter = AtomicFileAdapter::with_lock_dir(dir.path().join("locks")).unwrap();
    let is_swept = |name: &[u8]| {
        let path = files.join(OsStr::from_bytes(name));
        fs::write(&path, "").unwrap();
        let swept = adapter.sweep(&files).unwrap();
        assert!(swept.is_empty() && path.exists() || swept == [&*path] && !path.exists());
        !path.exists()
    };
    for vector in vectors("temporary_names", "temporary") {
        let name = &some_bytes(&vector["temporary"])[..];
        // Apple's file systems refuse names that are not UTF-8.
        if !cfg!(target_os = "linux") && std::str::from_utf8(name).is_err() {
            continue;
        }
        let text = String::from_utf8_lossy(name);
        assert!(is_swept(name), "{text}");
        // The check covers every byte before it.
        for at in 0..name.len() - ".tmp".len() {
            let mut other = name.to_vec();
            other[at] = if other[at] == b'b' { b'c' } else { b'b' };
            // Inside a character of more than one byte.
            if at > 0 && std::str::from_utf8(name).is_ok() == std::str::from_utf8(&other).is_ok() {
                assert!(!is_swept(&other), "{text}, with another byte at {at}");
                fs::remove_file(files.join(OsStr::from_bytes(&other))).unwrap();
            }
        }
    }
    for vector in vectors("temporary_names", "not_temporary") {
        let name = some_bytes(&vector["not_temporary"]);
        assert!(name.is_empty() || !is_swept(&name), "{vector}");
    }
}

#[cfg(feature = "fault-injection")]
#[test]
fn several_locks_are_taken_in_the_order_of_their_names() {
    use std::cell::RefCell;
    use std::rc::Rc;

    use atomic_file_adapter::fault::{Action, Call, Syscall, inject};

    let dir = tempfile::tempdir().unwrap();
    let adapter = AtomicFileAdapter::with_lock_dir(dir.path().join("locks")).unwrap();
    let paths: Vec<_> = (0..16).map(|n| dir.path().join(n.to_string())).collect();
    let mut expected: Vec<_> = paths.iter().map(|path| adapter.lock_path(path).unwrap()).collect();
    expected.sort();
    let opened = Rc::new(RefCell::new(Vec::new()));
    let seen = opened.clone();
    let watch = move |call: &Call<'_>| {
        // Each lock file is opened when it is needed.
        let lock =
            call.path.filter(|path| call.syscall == Syscall::Openat && path.extension().is_some_and(|e| e == "lock"));
        seen.borrow_mut().extend(lock.map(Path::to_owned));
        Action::Proceed
    };
    inject(watch, || drop(adapter.lock_many(&paths).unwrap()));
    let mut opened = opened.take();
    opened.dedup();
    assert_eq!(opened, expected);
}
