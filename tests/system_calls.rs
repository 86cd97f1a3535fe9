//! The exact number of system calls, syncs and allocations of each verb, so that a change is noticed.
#![cfg(feature = "fault-injection")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;

use atomic_file_adapter::fault::{Action, Call, Syscall, inject};
use atomic_file_adapter::{AtomicFileAdapter, Durability};

/// The system's allocator, with a counter for each thread.
struct Counting;

thread_local!(static ALLOCATIONS: Cell<usize> = const { Cell::new(0) });

// SAFETY: `System` does everything.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // At the end of a thread its counter is gone.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn scratch() -> (tempfile::TempDir, AtomicFileAdapter) {
    common::usual_umask();
    let dir = tempfile::tempdir().unwrap();
    let adapter = AtomicFileAdapter::with_lock_dir(dir.path().join("locks")).unwrap();
    (dir, adapter)
}

/// The system calls that `body` makes. A sync is `Fsync` here, whatever the system's name for a durable one.
fn calls(body: impl FnOnce()) -> Vec<Syscall> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let watched = seen.clone();
    inject(
        move |call| {
            let durable_sync = call.syscall == Syscall::FcntlFullfsync;
            watched.borrow_mut().push(if durable_sync { Syscall::Fsync } else { call.syscall });
            Action::Proceed
        },
        body,
    );
    seen.take()
}

fn allocations(body: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    body();
    ALLOCATIONS.get() - before
}

mod counts {
    use Syscall::*;

    use super::*;

    #[test]
    fn a_write_through_a_handle() {
        let (dir, adapter) = scratch();
        let file = adapter.file(dir.path().join("file")).unwrap();
        file.write("old").unwrap();
        // On Apple's systems no path leads to a name in an open directory.
        let attributes = if cfg!(target_os = "linux") { &[Llistxattr][..] } else { &[Openat, Flistxattr, Close] };
        let before = [Getpid, FcntlSetlkw, Fstatat, Fstatat];
        let after = [Openat, Flistxattr, Write, Fstat, Fsync, Renameat, Fsync, Close, FcntlUnlock];
        assert_eq!(calls(|| file.write("new").unwrap()), [&before, attributes, &after].concat());
    }

    #[test]
    fn an_update_through_a_handle() {
        let (dir, adapter) = scratch();
        let file = adapter.file(dir.path().join("file")).unwrap();
        file.write("old").unwrap();
        let reading = [Getpid, FcntlSetlkw, Fstatat, Fstatat, Openat, Read, Close];
        // The caller's code has run. It may have forked, and have changed the file's mode or replaced the file.
        let looking = [Getpid, Fstatat];
        let attributes = if cfg!(target_os = "linux") { &[Llistxattr][..] } else { &[Openat, Flistxattr, Close] };
        let writing = [Openat, Flistxattr, Write, Fstat, Fsync, Renameat, Fsync, Close, FcntlUnlock];
        let expected = [&reading[..], &looking, attributes, &writing].concat();
        assert_eq!(calls(|| file.update(|_| b"new".to_vec()).unwrap()), expected);
    }

    #[test]
    fn the_first_write_to_a_file_looks_for_litter_and_no_other_does() {
        let (dir, adapter) = scratch();
        let path = dir.path().join("file");
        std::fs::write(&path, "old").unwrap();
        let file = adapter.file(&path).unwrap();
        drop(file.lock().unwrap());
        let [first, second, third] = [(); 3].map(|()| calls(|| file.write("new").unwrap()));
        assert_eq!(second, third);
        let is_looking = |call: &&Syscall| **call == Readdir;
        // One call for each name in the directory, and one for the end.
        assert_eq!(first.iter().filter(is_looking).count(), 4 + 2);
        let looking: Vec<_> = first.iter().filter(|call| **call != Readdir).copied().collect();
        let open = first.iter().position(|call| *call == Readdir).unwrap() - 1;
        let without = [&looking[..open], &looking[open + 2..]].concat();
        assert_eq!((looking[open], looking[open + 1]), (Openat, Close));
        assert_eq!(without, second);
    }

    #[test]
    fn a_new_file_has_no_attributes_to_look_for() {
        let (dir, adapter) = scratch();
        let file = adapter.file(dir.path().join("file")).unwrap();
        drop(file.lock().unwrap());
        let expected =
            [Getpid, FcntlSetlkw, Fstatat, Fstatat, Openat, Write, Fsync, Renameat, Fsync, Close, FcntlUnlock];
        assert_eq!(calls(|| file.write("new").unwrap()), expected);
    }

    #[test]
    fn a_mode_is_changed_in_the_open_file() {
        let (dir, adapter) = scratch();
        let file = adapter.file(dir.path().join("file")).unwrap();
        file.write("contents").unwrap();
        let guard = file.lock().unwrap();
        let expected = [Getpid, Fstatat, Openat, Fchmod, Fsync, Close];
        assert_eq!(calls(|| assert!(guard.set_mode(0o600).unwrap())), expected);
    }

    #[test]
    #[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: elsewhere a path is looked up by other calls")]
    fn to_follow_no_links_costs_nothing() {
        let (dir, adapter) = scratch();
        let dir = dir.path().canonicalize().unwrap();
        let builder = AtomicFileAdapter::builder().lock_dir(adapter.lock_dir());
        let strict = builder.follow_links(false).build().unwrap();
        let warm_calls = |adapter: &AtomicFileAdapter| {
            let path = dir.join("file");
            adapter.write_atomic(&path, "old").unwrap();
            let (write, read) =
                (|| adapter.write_atomic(&path, "new").unwrap(), || drop(adapter.read_with_lock(&path)));
            (calls(write), calls(read))
        };
        assert_eq!(warm_calls(&strict), warm_calls(&adapter));
    }

    #[test]
    fn a_lock_file_that_is_open_is_not_opened_again() {
        let (dir, adapter) = scratch();
        let file = adapter.file(dir.path().join("file")).unwrap();
        file.write("contents").unwrap();
        let other = AtomicFileAdapter::with_lock_dir(adapter.lock_dir()).unwrap().file(file.path()).unwrap();
        let expected = [Getpid, Fstatat, FcntlSetlkw, Fstatat, Getpid, FcntlUnlock];
        assert_eq!(calls(|| drop(other.lock().unwrap())), expected);
    }

    #[test]
    #[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: elsewhere a path is looked up by other calls")]
    fn two_files_changed_as_one() {
        // Not in memory, where it is refused.
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let adapter = AtomicFileAdapter::with_lock_dir(dir.path().join("locks")).unwrap();
        let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
        adapter.batch().write(&one, "old").write(&two, "old").commit().unwrap();
        // If no lock file is open, the look at the first one's name is left out. So that this does not depend on other
        // tests, one is open.
        let kept = adapter.file(dir.path().join("other")).unwrap();
        drop(kept.lock().unwrap());
        let mut batch = adapter.batch();
        batch.write(&one, "new").write(&two, "new");
        let seen = calls(|| batch.commit_all().unwrap());
        let count = |call| seen.iter().filter(|seen| **seen == call).count();
        // Two new versions, their directory, the intent, two marks, and the lock directory. Then the lock directory
        // twice more, and the directory once more.
        assert_eq!((count(Fsync), count(Syncfs)), (10, 0));
        assert_eq!((count(Renameat), count(Unlinkat), count(Pwrite), count(Ftruncate)), (3, 1, 2, 2));
        assert_eq!((count(FcntlSetlkw), count(FcntlUnlock), count(Fstatat), seen.len()), (2, 2, 11, 90));
        // The marks are written before the intent's rename, and removed after its removal.
        let order = [Pwrite, Fsync, Renameat, Fsync, Renameat, Fsync, Unlinkat, Fsync, Ftruncate, FcntlUnlock];
        let mut essential: Vec<_> = seen.into_iter().filter(|call| order.contains(call)).collect();
        essential.dedup();
        assert_eq!(essential, order);
    }

    #[test]
    fn a_new_lock_file_costs_one_write_more() {
        let (dir, adapter) = scratch();
        std::fs::create_dir(adapter.lock_dir()).unwrap();
        let first_lock = |name: String| {
            let file = adapter.file(dir.path().join(name)).unwrap();
            calls(|| drop(file.lock().unwrap()))
        };
        // The first lock makes the lock directory.
        drop(first_lock("one".into()));
        let writes = |mode| {
            let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(adapter.lock_dir(), permissions).unwrap();
            let seen = first_lock(format!("{mode:o}"));
            seen.into_iter().filter(|call| [Pwrite, Write, Ftruncate].contains(call)).collect::<Vec<_>>()
        };
        assert_eq!((writes(0o755), writes(0o777)), (vec![Pwrite], vec![]));
    }

    #[test]
    fn the_lock_directory_is_made_once() {
        let (dir, adapter) = scratch();
        let makes_it = |name| calls(|| adapter.write_atomic(dir.path().join(name), "").unwrap()).contains(&Mkdirat);
        assert!(makes_it("one"));
        assert!(!makes_it("two"));
    }

    #[test]
    fn a_read_through_a_handle() {
        let (dir, adapter) = scratch();
        let file = adapter.file(dir.path().join("file")).unwrap();
        file.write("contents").unwrap();
        let expected = [Getpid, FcntlSetlkw, Fstatat, Fstatat, Openat, Read, Close, FcntlUnlock];
        assert_eq!(calls(|| drop(file.read().unwrap())), expected);
    }

    #[test]
    fn a_read_without_the_lock() {
        let (dir, adapter) = scratch();
        let file = adapter.file(dir.path().join("file")).unwrap();
        std::fs::write(file.path(), "contents").unwrap();
        assert_eq!(calls(|| drop(file.read_unlocked().unwrap())), [Fstatat, Openat, Read, Close]);
    }

    #[test]
    #[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: elsewhere a path is looked up by other calls")]
    fn a_read_by_path_without_the_lock() {
        let (dir, adapter) = scratch();
        let path = dir.path().canonicalize().unwrap().join("file");
        std::fs::write(&path, "contents").unwrap();
        let read = || assert_eq!(adapter.read_unlocked(&path).unwrap().unwrap(), b"contents");
        assert_eq!(calls(read), [Fstatat, Openat2, Read, Close]);
        // A missing file, or a link, is resolved again.
        std::fs::rename(&path, path.with_file_name("other")).unwrap();
        assert_eq!(
            calls(|| assert_eq!(adapter.read_unlocked(&path).unwrap(), None)),
            [Fstatat, Openat2, Fstatat, Fstatat, Close]
        );
        std::os::unix::fs::symlink(path.with_file_name("other"), &path).unwrap();
        assert_eq!(calls(read)[..2], [Fstatat, Openat2]);
    }

    #[test]
    #[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: elsewhere a path is looked up by other calls")]
    fn a_write_by_path() {
        let (dir, adapter) = scratch();
        let path = dir.path().canonicalize().unwrap().join("file");
        adapter.write_atomic(&path, "old").unwrap();
        let expected = [
            Openat2,
            Getpid,
            FcntlSetlkw,
            Fstatat,
            Fstatat,
            Llistxattr,
            Openat,
            Flistxattr,
            Write,
            Fstat,
            Fsync,
            Renameat,
            Fsync,
            Close,
            FcntlUnlock,
            Close,
        ];
        assert_eq!(calls(|| adapter.write_atomic(&path, "new").unwrap()), expected);
    }

    #[test]
    #[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: elsewhere a path is looked up by other calls")]
    fn a_read_by_path() {
        let (dir, adapter) = scratch();
        let path = dir.path().canonicalize().unwrap().join("file");
        adapter.write_atomic(&path, "contents").unwrap();
        let lock = [Getpid, FcntlSetlkw, Fstatat];
        let expected = [&lock[..], &[Fstatat, Openat2, Read, Close, FcntlUnlock]].concat();
        assert_eq!(calls(|| drop(adapter.read_with_lock(&path).unwrap())), expected);
        assert_eq!(calls(|| drop(adapter.read_to_string_with_lock(&path).unwrap())), expected);
        // Another spelling. Only the kernel knows where it leads.
        let spelled = dir.path().canonicalize().unwrap().join("./file");
        let looking = [Openat, Readlinkat];
        let expected = [&looking[..], &lock, &[Fstatat, Openat, Read, Close, FcntlUnlock, Close]].concat();
        assert_eq!(calls(|| drop(adapter.read_with_lock(&spelled).unwrap())), expected);
        // The missing file may be behind a link by now, or another machine may have made it. Without a file there is no
        // device number.
        adapter.delete_with_lock(&path).unwrap();
        let expected = [&lock[..], &[Fstatat, Openat2, Fstatat, Fstatfs, Close, FcntlUnlock]].concat();
        assert_eq!(calls(|| assert_eq!(adapter.read_with_lock(&path).unwrap(), None)), expected);
    }

    #[test]
    fn a_lock_root_costs_no_call_and_no_allocation() {
        let (dir, without) = scratch();
        let path = dir.path().canonicalize().unwrap().join("file");
        let with = AtomicFileAdapter::builder().lock_dir(without.lock_dir()).lock_root(dir.path()).build().unwrap();
        let [with, without] = [with, without].map(|adapter| {
            let file = adapter.file(&path).unwrap();
            file.write("old").unwrap();
            adapter.write_atomic(&path, "old").unwrap();
            (
                calls(|| file.write("new").unwrap()),
                calls(|| adapter.write_atomic(&path, "new").unwrap()),
                allocations(|| file.write("new").unwrap()),
                allocations(|| adapter.write_atomic(&path, "new").unwrap()),
            )
        });
        assert_eq!(with, without);
    }

    #[test]
    #[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: elsewhere a path is looked up by other calls")]
    fn a_path_that_has_become_a_link_is_looked_at_first_again() {
        let (dir, adapter) = scratch();
        let path = dir.path().canonicalize().unwrap().join("file");
        let read = || drop(adapter.read_with_lock(&path).unwrap());
        let under_lock = [Getpid, FcntlSetlkw, Fstatat, Fstatat];
        let reads = [Openat, Read, Close, FcntlUnlock, Close];
        adapter.write_atomic(&path, "contents").unwrap();
        std::fs::rename(&path, path.with_file_name("other")).unwrap();
        std::os::unix::fs::symlink("other", &path).unwrap();
        adapter.write_atomic(path.with_file_name("other"), "contents").unwrap();
        // The path is opened as a whole, and then by its directory, which shows whether it is a link.
        let met = [&under_lock[..], &[Openat2, Fstatat, Close, FcntlUnlock]].concat();
        assert_eq!(calls(read)[..8], met);
        // The link, and its target, which was used lately.
        let followed = [Openat2, Fstatat, Fstat, Fstatat, Readlinkat, Openat, Readlinkat, Close];
        assert_eq!(calls(read), [&followed[..], &under_lock, &reads].concat());
    }

    #[test]
    fn of_a_large_file_one_piece_is_written_back_while_the_next_is_written() {
        const PIECE: usize = 8 << 20;
        let (dir, adapter) = scratch();
        let file = adapter.file(dir.path().join("file")).unwrap();
        file.write("old").unwrap();
        let writing = |durability, size| {
            let adapter =
                AtomicFileAdapter::builder().lock_dir(adapter.lock_dir()).durability(durability).build().unwrap();
            let (file, contents) = (adapter.file(file.path()).unwrap(), vec![b'x'; size]);
            let mut seen = calls(|| file.write(&contents).unwrap());
            assert!(file.read().unwrap() == Some(contents), "{size}");
            seen.retain(|call| [Write, PosixFadvise, Fsync].contains(call));
            seen
        };
        assert_eq!(writing(Durability::Ordered, PIECE), [Write, Fsync]);
        // There is no wait for the write-back later, so it is not started.
        assert_eq!(writing(Durability::None, 2 * PIECE), [Write; 2]);
        let mut in_pieces = vec![Write, PosixFadvise, Write, PosixFadvise, Write, Fsync];
        in_pieces.retain(|call| cfg!(target_os = "linux") || *call != PosixFadvise);
        assert_eq!(writing(Durability::Ordered, 2 * PIECE + 1), in_pieces);
    }

    #[test]
    fn a_batch_shares_its_syncs() {
        let (dir, adapter) = scratch();
        // Into an existing directory, and into one that has to be made. The latter is synced in its parent directory.
        for (files, makes) in [(dir.path().to_owned(), 0), (dir.path().join("missing"), 1)] {
            let write_100 = || {
                let mut batch = adapter.batch();
                for n in 0..100 {
                    batch.write(files.join(n.to_string()), "new");
                }
                batch.commit().unwrap();
            };
            let seen = calls(write_100);
            let count = |syscall| seen.iter().filter(|call| **call == syscall).count();
            // Up to 128 at a time, if the process may have 1024 descriptors.
            if common::syncs_whole_file_systems(dir.path()) {
                assert_eq!((count(Syncfs), count(Fsync)), (1, 1 + makes));
            } else {
                assert_eq!((count(Syncfs), count(Fsync)), (0, 100 + 1 + makes));
            }
            assert_eq!(count(Renameat), 100);
        }
    }

    #[test]
    #[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: elsewhere there is no syncfs")]
    fn a_batch_on_two_file_systems_syncs_both() {
        const EACH: usize = 20;
        let (_dir, adapter) = scratch();
        // A disk if there is one, because syncfs is not used in memory.
        let places = [std::env::temp_dir(), "/var/tmp".into()];
        let disk = places.iter().find(|place| common::syncs_whole_file_systems(place)).unwrap_or(&places[0]);
        let [disk, memory] = [disk, Path::new("/dev/shm")].map(|place| tempfile::tempdir_in(place).unwrap());
        for order in [[&disk, &memory], [&memory, &disk]] {
            let files: Vec<_> = (0..2 * EACH).map(|n| order[n / EACH].path().join(n.to_string())).collect();
            let (mut batch, synced) = (adapter.batch(), Rc::new(RefCell::new(Vec::new())));
            for file in &files {
                batch.write(file, "new");
            }
            let watched = synced.clone();
            let watch = move |call: &Call<'_>| {
                if matches!(call.syscall, Fsync | Syncfs) {
                    let file: std::fs::File = call.fd.unwrap().try_clone_to_owned().unwrap().into();
                    let meta = file.metadata().unwrap();
                    watched.borrow_mut().push((meta.dev(), (call.syscall == Fsync).then_some(meta.ino())));
                }
                Action::Proceed
            };
            inject(watch, || batch.commit()).0.unwrap();
            let all_at_once = synced.borrow().iter().filter(|(_, file)| file.is_none()).count();
            assert_eq!(all_at_once, usize::from(common::syncs_whole_file_systems(disk.path())));
            for file in &files {
                let meta = file.metadata().unwrap();
                let ways = [(meta.dev(), Some(meta.ino())), (meta.dev(), None)];
                assert!(ways.iter().any(|way| synced.borrow().contains(way)), "{file:?} was not synced");
            }
        }
    }

    #[test]
    fn syncs() {
        let (dir, adapter) = scratch();
        let syncs = |body: &dyn Fn()| calls(body).iter().filter(|call| **call == Fsync).count();
        for (durability, expected) in [(Durability::Full, 2), (Durability::Ordered, 1), (Durability::None, 0)] {
            let adapter =
                AtomicFileAdapter::builder().lock_dir(adapter.lock_dir()).durability(durability).build().unwrap();
            let file = adapter.file(dir.path().join("file")).unwrap();
            assert_eq!(syncs(&|| file.write("new").unwrap()), expected, "{durability:?}");
            assert_eq!(syncs(&|| file.update(|_| b"newer".to_vec()).unwrap()), expected, "{durability:?}");
            let deleting = usize::from(durability == Durability::Full);
            assert_eq!(syncs(&|| assert!(file.delete().unwrap())), deleting, "{durability:?}");
            // Another process may have removed the file and died before its sync.
            assert_eq!(syncs(&|| assert!(!file.delete().unwrap())), deleting, "{durability:?}");
            let path = file.path();
            assert_eq!(syncs(&|| adapter.batch().delete(path).commit().unwrap()), deleting, "{durability:?}");
            assert_eq!(syncs(&|| adapter.batch().delete(path).commit_all().unwrap()), deleting, "{durability:?}");
            let two = [path.to_owned(), path.with_file_name("other")];
            let removed = |_: &[Option<Vec<u8>>]| vec![None, None];
            assert_eq!(syncs(&|| adapter.update_many(&two, removed).unwrap()), deleting, "{durability:?}");
            assert_eq!(syncs(&|| drop(file.read().unwrap())), 0);
        }
    }
}

#[test]
fn a_warm_write_and_a_warm_read_allocate_nothing() {
    let (dir, adapter) = scratch();
    let file = adapter.file(dir.path().join("file")).unwrap();
    let contents = vec![7; 4096];
    let mut buf = Vec::with_capacity(contents.len() + 1);
    for _ in 0..3 {
        file.write(&contents).unwrap();
        file.read_into(&mut buf).unwrap();
    }
    assert_eq!(allocations(|| file.write(&contents).unwrap()), 0);
    assert_eq!(allocations(|| assert!(file.read_into(&mut buf).unwrap().is_some())), 0);
    assert_eq!(buf, contents);
    assert!(allocations(|| drop(file.read().unwrap())) > 0, "the counter counts");
    assert!(Path::new(file.path()).exists());
}
