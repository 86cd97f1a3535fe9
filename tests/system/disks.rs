//! Disks that are full or read-only, and mount points.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use atomic_file_adapter::{AtomicFileAdapter, Error, Step};

use crate::common::{Worker, names, tell, until_it_waits_for_a_lock};
use crate::{Scratch, WRITING, assert_fails, utf8};

/// A mount, until it is dropped.
pub(crate) struct Mount(PathBuf);

impl Mount {
    pub(crate) fn new(on: &Path, args: &[&str]) -> Self {
        run("mount", &[args, &[utf8(on)]].concat());
        Mount(on.to_owned())
    }

    fn tmpfs(scratch: &Scratch, options: &str) -> Self {
        let on = scratch.make_dir("disk", 0, 0o755);
        Mount::new(&on, &["-t", "tmpfs", "-o", options, "tmpfs"])
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily, because a failed test has files open there.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[track_caller]
fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn on_a_full_disk_the_old_version_stays() {
    let scratch = Scratch::new();
    let disk = Mount::tmpfs(&scratch, "size=1m");
    let path = disk.0.join("file");
    let old = b"0123456789".repeat(10_000);
    let too_much = vec![b'x'; 2_000_000];
    scratch.adapter.write_atomic(&path, &old).unwrap();
    for (verb, write) in WRITING {
        for (path, present) in [(&path, vec!["file"]), (&disk.0.join("other"), vec!["file"])] {
            let result = write(&scratch.adapter, path, &too_much);
            // The earlier write has reported the error.
            let kind = if verb == "writer" { io::ErrorKind::Other } else { io::ErrorKind::StorageFull };
            assert_fails(result, kind, Step::Write, path, verb);
            assert_eq!(names(&disk.0), present, "{verb}");
        }
        assert!(scratch.adapter.read_with_lock(&path).unwrap().unwrap() == old, "{verb}");
    }

    let file = scratch.adapter.file(&path).unwrap();
    let guard = file.lock().unwrap();
    let mut writer = guard.writer().unwrap();
    assert_eq!(writer.write_all(&too_much).unwrap_err().kind(), io::ErrorKind::StorageFull);
    // A later write that fits does not replace the lost one.
    fs::remove_file(&path).unwrap();
    writer.write_all(b"small").unwrap();
    assert_fails(writer.commit(), io::ErrorKind::Other, Step::Write, &path, "commit");
    assert_eq!(names(&disk.0), [""; 0]);
}

pub(crate) fn on_a_full_disk_deleting_makes_room() {
    let scratch = Scratch::new();
    let disk = Mount::tmpfs(&scratch, "size=1m");
    let (path, filler) = (disk.0.join("file"), disk.0.join("filler"));
    scratch.adapter.write_atomic(&path, b"0123456789".repeat(10_000)).unwrap();
    assert_eq!(fs::write(&filler, vec![b'x'; 2_000_000]).unwrap_err().kind(), io::ErrorKind::StorageFull);
    let small = b"9876543210".repeat(5_000);
    for (verb, write) in &WRITING[..2] {
        assert_fails(write(&scratch.adapter, &path, &small), io::ErrorKind::StorageFull, Step::Write, &path, verb);
        assert_eq!(names(&disk.0), ["file", "filler"], "{verb}");
    }
    assert!(scratch.adapter.delete_with_lock(&path).unwrap());
    assert_eq!(names(&disk.0), ["filler"]);
    write_when_there_is_room(&scratch.adapter, &path, &small);
    assert_eq!(fs::read(&path).unwrap(), small);
    assert_eq!(names(&disk.0), ["file", "filler"]);
}

/// A process that another test is starting has copies of all descriptors until its exec. That long it keeps the space
/// of a deleted file.
fn write_when_there_is_room(adapter: &AtomicFileAdapter, path: &Path, contents: &[u8]) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = adapter.write_atomic(path, contents) {
        assert!(error.kind() == io::ErrorKind::StorageFull && Instant::now() < deadline, "{error}");
        std::thread::yield_now();
    }
}

pub(crate) fn without_an_inode_the_old_version_stays() {
    let scratch = Scratch::new();
    // One inode for the root of the file system, one for the file.
    let disk = Mount::tmpfs(&scratch, "nr_inodes=2");
    let path = disk.0.join("file");
    scratch.adapter.write_atomic(&path, "old").unwrap();
    for (verb, write) in WRITING {
        let result = write(&scratch.adapter, &path, b"new");
        assert_fails(result, io::ErrorKind::StorageFull, Step::CreateTemporary, &path, verb);
        let (below, at) = (disk.0.join("dir/file"), Step::CreateDirectory);
        assert_fails(write(&scratch.adapter, &below, b"new"), io::ErrorKind::StorageFull, at, &below, verb);
        assert_eq!(names(&disk.0), ["file"], "{verb}");
        assert_eq!(fs::read(&path).unwrap(), b"old", "{verb}");
    }
    assert!(scratch.adapter.delete_with_lock(&path).unwrap());
    write_when_there_is_room(&scratch.adapter, &path, b"new");
    assert_eq!(fs::read(&path).unwrap(), b"new");
}

pub(crate) fn a_read_only_file_system_can_be_read() {
    let scratch = Scratch::new();
    let disk = Mount::tmpfs(&scratch, "size=1m");
    let (path, below) = (disk.0.join("file"), disk.0.join("missing/file"));
    fs::write(&path, "old").unwrap();
    let locks_there = || AtomicFileAdapter::with_lock_dir(disk.0.join("locks")).unwrap();
    locks_there().read_with_lock(&path).unwrap();
    run("mount", &["-o", "remount,ro", utf8(&disk.0)]);

    let read_only = io::ErrorKind::ReadOnlyFilesystem;
    for (verb, write) in WRITING {
        assert_fails(write(&scratch.adapter, &path, b"new"), read_only, Step::CreateTemporary, &path, verb);
        assert_fails(write(&scratch.adapter, &below, b"new"), read_only, Step::CreateDirectory, &below, verb);
    }
    assert_fails(scratch.adapter.delete_with_lock(&path).map(drop), read_only, Step::Remove, &path, "delete");
    // It may have become read-only because its device has failed, with a removal lost.
    assert_fails(scratch.adapter.delete_with_lock(&below).map(drop), read_only, Step::SyncDirectory, &below, "delete");
    assert_eq!(names(&disk.0), ["file", "locks"]);
    assert_eq!(scratch.adapter.read_with_lock(&path).unwrap().unwrap(), b"old");
    // A lock file on it is enough for readers, but not for writers.
    let locks = locks_there();
    assert_eq!(locks.read_with_lock(&path).unwrap().unwrap(), b"old");
    for adapter in [locks, locks_there()] {
        let lock = adapter.lock_path(&path).unwrap();
        for (verb, write) in WRITING {
            assert_fails(write(&adapter, &path, b"new"), read_only, Step::OpenLock, &lock, verb);
        }
        let lock = adapter.lock_path(&below).unwrap();
        assert_fails(adapter.read_with_lock(&below).map(drop), read_only, Step::OpenLock, &lock, "no lock file");
    }
}

/// As with a container's `/etc/hosts`.
pub(crate) fn a_mount_point_cannot_be_replaced() {
    let scratch = Scratch::new();
    let (path, other) = (scratch.make("file", 0, 0o644), scratch.make("other", 0, 0o644));
    fs::write(&other, "mounted").unwrap();
    let _mount = Mount::new(&path, &["--bind", utf8(&other)]);
    let advice = "it is a mount point, for example a single file that was mounted into a container; a mount point cannot be \
                  replaced or removed (EBUSY): mount its directory instead";
    let is_told = |error: &Error| assert!(error.to_string().ends_with(advice), "{error}");
    for (verb, write) in WRITING {
        let result = write(&scratch.adapter, &path, b"new");
        is_told(result.as_ref().unwrap_err());
        assert_fails(result, io::ErrorKind::ResourceBusy, Step::Rename, &path, verb);
        assert_eq!(names(&scratch.dir), ["file", "other"], "{verb}");
    }
    let deleted = scratch.adapter.delete_with_lock(&path).map(drop);
    is_told(deleted.as_ref().unwrap_err());
    assert_fails(deleted, io::ErrorKind::ResourceBusy, Step::Remove, &path, "delete");
    let batch = scratch.adapter.batch().write(&path, "new").commit().unwrap_err();
    is_told(&batch);
    assert!(matches!(&batch, Error::Batch { replaced, .. } if replaced.is_empty()), "{batch:?}");
    assert_eq!(scratch.adapter.read_with_lock(&path).unwrap().unwrap(), b"mounted");

    // The source of the mount: after its file was replaced, the mount still has the old version.
    scratch.adapter.write_atomic(&other, "new").unwrap();
    assert_eq!(scratch.adapter.read_with_lock(&path).unwrap().unwrap(), b"mounted");
}

/// The kernel refuses this, too, but nothing is mounted at this path.
pub(crate) fn a_mount_point_of_another_path_is_busy() {
    let scratch = Scratch::new();
    let (path, other) = (scratch.make("file", 0, 0o644), scratch.make("other", 0, 0o644));
    let elsewhere = scratch.make_dir("elsewhere", 0, 0o755);
    let _directory = Mount::new(&elsewhere, &["--bind", utf8(&scratch.dir)]);
    let _file = Mount::new(&path, &["--bind", utf8(&other)]);
    let by_another = elsewhere.join("file");
    for (verb, write) in WRITING {
        let result = write(&scratch.adapter, &by_another, b"new");
        let error = result.as_ref().unwrap_err().to_string();
        assert!(error.contains(&io::Error::from_raw_os_error(libc::EBUSY).to_string()), "{verb}: {error}");
        assert_fails(result, io::ErrorKind::ResourceBusy, Step::Rename, &by_another, verb);
    }
    assert_eq!(fs::read(&by_another).unwrap(), b"old");
}

/// In /proc/locks it has another device number than `stat` reports.
pub(crate) fn on_a_subvolume_of_btrfs_waiters_are_listed() {
    let scratch = Scratch::new();
    let image = scratch.dir.join("image");
    fs::File::create(&image).unwrap().set_len(128 << 20).unwrap();
    run("mkfs.btrfs", &["-q", utf8(&image)]);
    let disk = Mount::new(&scratch.make_dir("disk", 0, 0o755), &["-o", "loop", utf8(&image)]);
    let subvolume = disk.0.join("subvolume");
    run("btrfs", &["subvolume", "create", utf8(&subvolume)]);
    let adapter = AtomicFileAdapter::with_lock_dir(subvolume.join("locks")).unwrap();
    let file = adapter.file(subvolume.join("file")).unwrap();
    let guard = file.lock().unwrap();
    let args = [adapter.lock_dir(), file.path()].map(utf8);
    let mut waiter = Worker::start("wait_on_disk", &args);
    until_it_waits_for_a_lock(&waiter);
    assert_eq!(adapter.lock_of(file.path()).unwrap().unwrap().waiters, Some(vec![waiter.pid()]));
    drop(guard);
    waiter.expect("locked");
    waiter.finish();
}

pub(crate) fn wait_on_disk(args: &[String]) {
    let adapter = AtomicFileAdapter::with_lock_dir(&args[0]).unwrap();
    drop(adapter.file(&args[1]).unwrap().lock().unwrap());
    tell("locked");
}
