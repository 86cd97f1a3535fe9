//! The names of lock files and of temporary files are a public protocol: the same on every machine and in every release.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use atomic_file_adapter::AtomicFileAdapter;

#[test]
fn lock_names_are_the_golden_ones() {
    let x200 = format!("/{}", "x".repeat(200));
    let y100 = format!("/{0}/{0}/{0}", "y".repeat(100));
    // Made with Python: `xxhash.xxh3_64_hexdigest(path)`. The lengths go through every branch of XXH3. `tests/interop`
    // asks Python itself for many more.
    let golden: &[(&[u8], &str)] = &[
        (b"/a", "e292ab48a6b06805.lock"),
        (b"/etc/hosts", "4b997af520936073.lock"),
        (b"/srv/data/settings.toml", "c6090d074b7f2d75.lock"),
        ("/srv/données/é.toml".as_bytes(), "8022d11289d3a008.lock"),
        (b"/srv/\xff\xfe/raw", "1e9d76f32872c7b5.lock"),
        (x200.as_bytes(), "5f9b6af9e82029cd.lock"),
        (y100.as_bytes(), "b04a6714b3915b85.lock"),
    ];
    let adapter = AtomicFileAdapter::with_lock_dir("/no/such/locks").unwrap();
    for (path, name) in golden {
        let path = Path::new(OsStr::from_bytes(path));
        assert_eq!(adapter.lock_path(path).unwrap(), Path::new("/no/such/locks").join(name), "{path:?}");
    }
}

#[test]
fn lock_names_below_a_root_are_the_golden_ones() {
    let x200 = "x".repeat(200);
    let y100 = format!("{0}/{0}", "y".repeat(100));
    // Made as those above, of the path below the root.
    let golden: &[(&[u8], &str)] = &[
        (b"a", "e6c632b61e964e1f.lock"),
        (b"etc/hosts", "b3b2e534c7fbfd31.lock"),
        (b"settings.toml", "a195da629e455694.lock"),
        (b"data/settings.toml", "e7a1f1e083b6b017.lock"),
        ("données/é.toml".as_bytes(), "eea476f8917b432a.lock"),
        (b"\xff\xfe/raw", "57ca21377136896a.lock"),
        (x200.as_bytes(), "50ef124fb1e4de53.lock"),
        (y100.as_bytes(), "6c1e2a3ac36a6c6a.lock"),
    ];
    for root in ["/", "/srv", "/no/such/root", "/no/such/root/"] {
        let adapter = AtomicFileAdapter::builder().lock_dir("/no/such/locks").lock_root(root).build().unwrap();
        for (below, name) in golden {
            let path = Path::new(root).join(OsStr::from_bytes(below));
            // The path of a real file may have links in it.
            if root == "/" && path.exists() {
                continue;
            }
            assert_eq!(adapter.lock_path(&path).unwrap(), Path::new("/no/such/locks").join(name), "{path:?}");
        }
    }
}

#[test]
fn names_of_temporary_files_are_the_golden_ones() {
    let x200 = format!(".{}.abcdefgzkp.tmp", "x".repeat(200));
    // The longest name that is not cut, and one that is: with the hash of its path.
    let x239 = format!(".{}.abcdefgjun.tmp", "x".repeat(239));
    let cut = format!(".{}~5f9b6af9e82029cd.abcdefggod.tmp", "y".repeat(222));
    // Made with Python: `before = b".a.aaaaaaa"; hash = xxhash.xxh3_64_intdigest(before)`, and
    // `"".join("abcdefghijklmnopqrstuvwxyz234567"[hash >> shift & 31] for shift in (10, 5, 0))` are the last three digits.
    let golden: &[&[u8]] = &[
        b".a.aaaaaaantu.tmp",
        b".settings.toml.a2b3c4du3a.tmp",
        ".é.toml.zzzzzzzu3l.tmp".as_bytes(),
        b".\xff\xferaw.2345672bn2.tmp",
        x200.as_bytes(),
        x239.as_bytes(),
        cut.as_bytes(),
    ];
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
    for name in golden {
        // Apple's file systems refuse names that are not UTF-8.
        if !cfg!(target_os = "linux") && std::str::from_utf8(name).is_err() {
            continue;
        }
        let text = String::from_utf8_lossy(name);
        assert!(is_swept(name), "{text}");
        // The check is over every byte before it.
        for at in 0..name.len() - ".tmp".len() {
            let mut other = name.to_vec();
            other[at] = if other[at] == b'b' { b'c' } else { b'b' };
            // In a character of more than one byte.
            if at > 0 && std::str::from_utf8(name).is_ok() == std::str::from_utf8(&other).is_ok() {
                assert!(!is_swept(&other), "{text}, with another byte at {at}");
                fs::remove_file(files.join(OsStr::from_bytes(&other))).unwrap();
            }
        }
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
        // Each is opened when its turn has come.
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
