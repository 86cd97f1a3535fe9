//! Threads of one process exclude each other, although the kernel sees only one process.

mod common;

use std::fs::{self, File};
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use atomic_file_adapter::{AtomicFile, AtomicFileAdapter, Error};

fn scratch() -> (tempfile::TempDir, AtomicFileAdapter) {
    let dir = tempfile::tempdir().unwrap();
    let adapter = AtomicFileAdapter::with_lock_dir(dir.path().join("locks")).unwrap();
    (dir, adapter)
}

/// The answer that another process would get: `None` if the exclusive lock is free, or how it is held. It is asked with
/// an open file description lock, which has another owner than this process's record locks. Closing the lock file here
/// would drop the locks on it, so it stays open.
fn kernel_lock(file: &AtomicFile) -> Option<String> {
    let lock_file = ManuallyDrop::new(File::options().read(true).write(true).open(file.lock_path()).unwrap());
    let mut asked = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the call gets an open descriptor and a pointer to a flock of this function. (nix has F_OFD_GETLK on Linux
    // only.)
    let answer = unsafe { libc::fcntl(lock_file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut asked) };
    assert_eq!(answer, 0, "{}", io::Error::last_os_error());
    match asked.l_type {
        free if free == libc::F_UNLCK as libc::c_short => None,
        exclusive if exclusive == libc::F_WRLCK as libc::c_short => Some("exclusive".into()),
        _ => Some("shared".into()),
    }
}

#[test]
fn no_increment_of_eight_threads_is_lost() {
    const EACH: usize = 100;
    let (dir, adapter) = scratch();
    let path = dir.path().join("counter");
    let handle = adapter.file(&path).unwrap();
    let next = |old: Option<&[u8]>| -> Vec<u8> {
        let old: u64 = old.map_or(0, |old| std::str::from_utf8(old).unwrap().parse().unwrap());
        (old + 1).to_string().into()
    };
    thread::scope(|scope| {
        for thread in 0..8 {
            let (adapter, handle, path) = (&adapter, &handle, &path);
            scope.spawn(move || {
                for _ in 0..EACH {
                    // Half of them by path, which opens and closes the lock file every time.
                    if thread % 2 == 0 { adapter.update(path, next) } else { handle.update(next) }.unwrap();
                }
            });
        }
    });
    assert_eq!(adapter.read_to_string_with_lock(&path).unwrap().unwrap(), (8 * EACH).to_string());
}

#[test]
fn readers_are_inside_together_and_writers_alone() {
    let (dir, adapter) = scratch();
    let file = adapter.file(dir.path().join("file")).unwrap();
    let (together, go) = (Barrier::new(3), Barrier::new(5));
    let (readers, writers) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let guard = file.lock_shared().unwrap();
                // Returns only when all three hold the lock.
                together.wait();
                drop(guard);
                go.wait();
                for _ in 0..200 {
                    let guard = file.lock_shared().unwrap();
                    readers.fetch_add(1, SeqCst);
                    assert_eq!(writers.load(SeqCst), 0, "a reader and a writer hold the lock together");
                    readers.fetch_sub(1, SeqCst);
                    drop(guard);
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                go.wait();
                for _ in 0..200 {
                    let guard = file.lock().unwrap();
                    assert_eq!(writers.fetch_add(1, SeqCst), 0, "two writers hold the lock");
                    assert_eq!(readers.load(SeqCst), 0, "a writer and a reader hold the lock together");
                    writers.fetch_sub(1, SeqCst);
                    drop(guard);
                }
            });
        }
    });
}

#[test]
fn one_more_user_of_a_lock_file_does_not_drop_the_lock() {
    // Trap 1: opening a lock file to see which one it is, and closing it again, would drop the lock.
    let (dir, adapter) = scratch();
    let path = dir.path().join("file");
    let file = adapter.file(&path).unwrap();
    let guard = file.lock().unwrap();
    assert_eq!(kernel_lock(&file).as_deref(), Some("exclusive"));
    thread::scope(|scope| {
        scope.spawn(|| {
            let second = AtomicFileAdapter::with_lock_dir(dir.path().join("./locks")).unwrap();
            assert!(matches!(second.file(&path).unwrap().try_lock(), Err(Error::WouldBlock { .. })));
            let refused = adapter.file(&path).unwrap().try_lock_shared().unwrap_err();
            assert!(matches!(refused, Error::WouldBlock { .. }));
            let (path, lock) = (file.path().display(), file.lock_path().display());
            assert_eq!(
                refused.to_string(),
                format!("the lock of {path} is taken ({lock}); try again later, or wait for it (lock)")
            );
            let timeout = second.file(file.path()).unwrap().lock_timeout(Duration::from_millis(1)).unwrap_err();
            assert!(timeout.to_string().contains("another thread of this process"), "{timeout}");
            assert_eq!(adapter.locks().unwrap()[0].holder.unwrap().pid, Some(std::process::id()));
        });
    });
    assert_eq!(kernel_lock(&file).as_deref(), Some("exclusive"), "the lock was dropped on the way");
    drop(guard);
    assert_eq!(kernel_lock(&file), None);
}

#[test]
fn a_hard_link_of_a_lock_file_does_not_drop_the_lock() {
    // One lock file with two names. The table sees by its inode number that both are the same.
    let (dir, adapter) = scratch();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let file = adapter.file(&one).unwrap();
    let guard = file.lock().unwrap();
    fs::hard_link(file.lock_path(), adapter.lock_path(&two).unwrap()).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| assert!(matches!(adapter.file(&two).unwrap().try_lock(), Err(Error::WouldBlock { .. }))));
    });
    assert_eq!(kernel_lock(&file).as_deref(), Some("exclusive"));
    drop(guard);
}

#[test]
fn a_hard_link_of_a_lock_file_in_the_place_of_a_file_used_lately_does_not_drop_the_lock() {
    let (dir, adapter) = scratch();
    let path = dir.path().join("used");
    let file = adapter.file(dir.path().join("file")).unwrap();
    let guard = file.lock().unwrap();
    for _ in 0..2 {
        adapter.write_atomic(&path, "contents").unwrap();
    }
    fs::remove_file(&path).unwrap();
    fs::hard_link(file.lock_path(), &path).unwrap();
    let calls = [
        adapter.read_with_lock(&path).map(drop),
        adapter.write_atomic(&path, "new"),
        adapter.update(&path, |_| b"new".to_vec()),
        adapter.delete_with_lock(&path).map(drop),
        adapter.read_unlocked(&path).map(drop),
    ];
    for refused in calls {
        assert!(matches!(refused, Err(Error::InvalidPath { .. })), "{refused:?}");
    }
    assert_eq!(kernel_lock(&file).as_deref(), Some("exclusive"));
    drop(guard);
}

#[test]
fn the_kernels_lock_lasts_until_the_last_reader_leaves() {
    let (dir, adapter) = scratch();
    let file = adapter.file(dir.path().join("file")).unwrap();
    let (inside, is_inside) = channel();
    let (leave, may_leave) = channel::<()>();
    thread::scope(|scope| {
        let first = file.lock_shared().unwrap();
        let file = &file;
        scope.spawn(move || {
            let _second = file.lock_shared().unwrap();
            inside.send(()).unwrap();
            // An error if the test has failed.
            let _ = may_leave.recv();
        });
        is_inside.recv().unwrap();
        drop(first);
        assert_eq!(kernel_lock(file).as_deref(), Some("shared"));
        leave.send(()).unwrap();
    });
    assert_eq!(kernel_lock(&file), None);
}

#[test]
fn a_panic_releases_the_lock_and_changes_nothing() {
    let (dir, adapter) = scratch();
    let file = adapter.file(dir.path().join("file")).unwrap();
    file.write("old").unwrap();
    let other = file.clone();
    let panicked = thread::spawn(move || other.update(|_| panic!("in the middle of an update"))).join();
    assert!(panicked.is_err());
    assert_eq!(file.try_lock().unwrap().read().unwrap().unwrap(), b"old");
    let other = file.clone();
    let panicked = thread::spawn(move || {
        let guard = other.lock().unwrap();
        let mut writer = guard.writer().unwrap();
        writer.write_all(b"half").unwrap();
        panic!("in the middle of a write");
    })
    .join();
    assert!(panicked.is_err());
    assert_eq!(file.try_lock().unwrap().read().unwrap().unwrap(), b"old");
    assert_eq!(common::names(dir.path()), ["file", "locks"]);
}

#[test]
fn a_writer_that_waits_is_woken() {
    let (dir, adapter) = scratch();
    let file = adapter.file(dir.path().join("file")).unwrap();
    for round in 0..50 {
        let guard = file.lock().unwrap();
        thread::scope(|scope| {
            let writer = scope.spawn(|| file.write(round.to_string()));
            let reader = scope.spawn(|| file.read());
            drop(guard);
            writer.join().unwrap().unwrap();
            reader.join().unwrap().unwrap();
        });
        assert_eq!(file.read().unwrap().unwrap(), round.to_string().as_bytes());
    }
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: /proc tells where a descriptor leads")]
fn a_descriptor_is_closed_when_nobody_uses_the_lock_file() {
    let (dir, adapter) = scratch();
    let lock_dir = fs::canonicalize(dir.path()).unwrap().join("locks");
    let open = || {
        let fds = fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
        fds.filter(|path| path.starts_with(&lock_dir)).count()
    };
    let files: Vec<_> = (0..20).map(|n| adapter.file(dir.path().join(n.to_string())).unwrap()).collect();
    files.iter().for_each(|file| file.write("").unwrap());
    assert_eq!(open(), 20, "a handle keeps its lock file open");
    drop(files);
    assert_eq!(open(), 0);
    let by_path = AtomicFileAdapter::with_lock_dir(&lock_dir).unwrap();
    for (n, expected) in [(0, 1), (1, 2), (0, 2), (2, 3)].into_iter().chain((3..20).map(|n| (n, 16.min(n + 1)))) {
        by_path.write_atomic(dir.path().join(n.to_string()), "by path").unwrap();
        assert_eq!(open(), expected, "the last few are kept open");
    }
    drop(by_path);
    assert_eq!(open(), 0);
    // The kernel agrees that the lock files are locked.
    let file = adapter.file(dir.path().join("0")).unwrap();
    let guard = file.lock_shared().unwrap();
    let raw = guard.open().unwrap().unwrap();
    assert!(raw.as_raw_fd() >= 0 && open() == 1);
    assert_eq!(kernel_lock(&file).as_deref(), Some("shared"));
}
