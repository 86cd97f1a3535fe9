//! Contents of any size, and writers that do not finish.

use std::fs;
use std::io::{self, Write};
use std::thread;

use atomic_file_adapter::Error;

use crate::common::names;
use crate::{Scratch, contents};

#[test]
fn an_empty_file_is_not_a_missing_one() {
    let scratch = Scratch::new();
    let path = scratch.path("file");
    scratch.adapter.write_atomic(&path, "").unwrap();
    assert_eq!(path.metadata().unwrap().len(), 0);
    assert_eq!(scratch.adapter.read_with_lock(&path).unwrap(), Some(Vec::new()));
    assert_eq!(scratch.adapter.read_to_string_with_lock(&path).unwrap(), Some(String::new()));
    scratch.adapter.update(&path, |old| old.expect("an empty file").to_vec()).unwrap();
    fs::write(&path, "not empty").unwrap();
    scratch.adapter.write_atomic(&path, "").unwrap();
    assert_eq!(contents(&path), "");
    fs::write(&path, "not empty").unwrap();
    let file = scratch.adapter.file(&path).unwrap();
    file.lock().unwrap().writer().unwrap().commit().unwrap();
    assert_eq!(contents(&path), "");
    // A write of 0 bytes is no error, unless there was something to write (`WriteZero`).
    let guard = file.lock().unwrap();
    let mut writer = guard.writer().unwrap();
    assert_eq!(writer.write(b"").unwrap(), 0);
    writer.flush().unwrap();
    writer.commit().unwrap();
    assert_eq!(contents(&path), "");
    drop(guard);
    assert!(scratch.adapter.exists(&path));
    scratch.holds_only(&["file"]);
}

/// 100 MB in which no two parts are the same.
fn large() -> Vec<u8> {
    let mut bytes = vec![0; 100_000_000];
    for (n, part) in bytes.chunks_exact_mut(8).enumerate() {
        part.copy_from_slice(&(n as u64).to_le_bytes());
    }
    bytes
}

#[test]
fn a_file_of_100_mb_is_written_and_read_whole() {
    let scratch = Scratch::new();
    let (path, large) = (scratch.path("file"), large());
    let mut read = vec![1, 2, 3];
    let file = scratch.adapter.file(&path).unwrap();
    file.write(&large).unwrap();
    assert_eq!(file.read_into(&mut read).unwrap(), Some(large.len()));
    // Not assert_eq, which would print the contents.
    assert!(read == large, "what was read is not what was written");

    // In pieces, none of them a whole number of pages.
    let guard = file.lock().unwrap();
    let mut writer = guard.writer().unwrap();
    for piece in large[1..].chunks(3_333_333) {
        writer.write_all(piece).unwrap();
    }
    writer.commit().unwrap();
    assert_eq!(guard.read_into(&mut read).unwrap(), Some(large.len() - 1));
    assert!(read == large[1..], "what was read is not what was written in pieces");
    scratch.holds_only(&["file"]);
}

// The kernel's own files change in size, or have a size of 0 and are not empty.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: /proc")]
fn a_file_is_read_to_its_end_whatever_its_size_is_said_to_be() {
    let scratch = Scratch::new();
    for path in ["/proc/version", "/proc/filesystems", "/sys/power/state"] {
        let Ok(expected) = fs::read(path) else {
            assert_ne!(path, "/proc/version");
            continue;
        };
        let size = fs::metadata(path).unwrap().len();
        assert_ne!(size, expected.len() as u64, "{path} tells its size and proves nothing");
        assert_eq!(scratch.adapter.read_with_lock(path).unwrap().unwrap().len(), expected.len(), "{path}");
    }
}

#[test]
fn text_that_is_not_utf8_is_an_error_that_says_where() {
    let scratch = Scratch::new();
    let path = scratch.path("file");
    for (bytes, expected) in [(&b"\xff"[..], 0), (b"ab\xffcd", 2), (b"abc\xc3", 3)] {
        scratch.adapter.write_atomic(&path, bytes).unwrap();
        let error = scratch.adapter.read_to_string_with_lock(&path).unwrap_err();
        let Error::NotUtf8 { path: named, valid_up_to, .. } = &error else { panic!("{error:?}") };
        assert_eq!((named, *valid_up_to), (&path, expected), "{bytes:?}");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let text = format!(
            "the contents of {} are not UTF-8 from byte {expected} on; read them as bytes (read_with_lock)",
            path.display()
        );
        assert_eq!(error.to_string(), text);
        // The error is only about the text.
        assert_eq!(scratch.adapter.read_with_lock(&path).unwrap().unwrap(), bytes);
        scratch.holds_only(&["file"]);
    }
    let text = "é\0\u{10ffff}";
    scratch.adapter.write_atomic(&path, text).unwrap();
    assert_eq!(scratch.adapter.read_to_string_with_lock(&path).unwrap().unwrap(), text);
}

#[test]
fn read_into_uses_the_buffer_again() {
    let scratch = Scratch::new();
    let path = scratch.path("file");
    let file = scratch.adapter.file(&path).unwrap();
    // Room for one byte more than the largest version, as documented.
    let mut buf = Vec::with_capacity(10_001);
    buf.extend_from_slice(b"left from before");
    let place = |buf: &Vec<u8>| (buf.as_ptr(), buf.capacity());
    let before = place(&buf);
    for version in [&b"a"[..], &[b'b'; 10_000], b"", b"cc"] {
        file.write(version).unwrap();
        assert_eq!(file.read_into(&mut buf).unwrap(), Some(version.len()));
        assert_eq!(buf, version);
        assert_eq!(file.lock_shared().unwrap().read_into(&mut buf).unwrap(), Some(version.len()));
        assert_eq!(buf, version);
        assert_eq!(place(&buf), before, "it was allocated anew");
    }
    file.delete().unwrap();
    assert_eq!(file.read_into(&mut buf).unwrap(), None);
    assert_eq!(buf, b"", "of a missing file");
    assert_eq!(place(&buf), before);
}

#[test]
fn a_writer_that_is_dropped_has_done_nothing() {
    let scratch = Scratch::new();
    for old in [None, Some("old")] {
        if let Some(old) = old {
            fs::write(scratch.path("file"), old).unwrap();
        }
        let before = names(&scratch.dir);
        let file = scratch.adapter.file(scratch.path("file")).unwrap();
        let guard = file.lock().unwrap();
        let mut writer = guard.writer().unwrap();
        writer.write_all(b"new").unwrap();
        assert_eq!(names(&scratch.dir).len(), before.len() + 1, "no temporary file beside the target");
        assert_eq!(guard.read().unwrap().as_deref(), old.map(str::as_bytes));
        drop(writer);
        assert_eq!(names(&scratch.dir), before);
        assert_eq!(guard.read().unwrap().as_deref(), old.map(str::as_bytes));
    }
}

#[test]
fn a_guard_deletes_under_its_lock() {
    let scratch = Scratch::new();
    let file = scratch.adapter.file(scratch.make("file")).unwrap();
    let guard = file.lock().unwrap();
    assert!(guard.delete().unwrap());
    scratch.holds_only(&[]);
    assert!(!guard.delete().unwrap());
    assert_eq!(guard.read().unwrap(), None);
    guard.write("new").unwrap();
    scratch.holds_only(&["file"]);
}

#[test]
fn a_panic_while_writing_leaves_nothing() {
    let scratch = Scratch::new();
    let path = scratch.make("file");
    let adapter = scratch.adapter.clone();
    let panicked = thread::spawn(move || {
        let file = adapter.file(path).unwrap();
        let guard = file.lock().unwrap();
        let mut writer = guard.writer().unwrap();
        writer.write_all(b"new").unwrap();
        std::panic::resume_unwind(Box::new("as if by a bug of the caller's"));
    });
    panicked.join().unwrap_err();
    scratch.holds_only(&["file"]);
    // The lock is free, too.
    let path = scratch.path("file");
    assert_eq!(scratch.adapter.file(&path).unwrap().try_lock().unwrap().read().unwrap().unwrap(), b"file");
}

#[test]
fn an_update_that_fails_has_done_nothing() {
    let scratch = Scratch::new();
    let path = scratch.make("file");
    for name in ["file", "missing"] {
        let error = scratch.adapter.try_update(scratch.path(name), |_| Err(io::Error::other("mine"))).unwrap_err();
        assert_eq!(error.to_string(), "mine");
        scratch.holds_only(&["file"]);
    }
    assert_eq!(contents(&path), "file");
}
