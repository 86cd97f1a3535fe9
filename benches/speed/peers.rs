//! The peers' code, as their users write it.

use std::ffi::CStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use atomic_write_file::AtomicWriteFile;
use fs4::FileExt;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use tempfile::NamedTempFile;

/// The fewest calls that make a durable replacement: without a lock, a mode, and a random name.
pub fn bare_write(dir: &Path, name: &CStr, contents: &[u8]) {
    let temporary = c"bare.tmp";
    let dir = open_dir(dir);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&dir, temporary, flags, Mode::from_raw_mode(0o666)).unwrap();
    assert_eq!(rustix::io::write(&file, contents).unwrap(), contents.len());
    rustix::fs::fsync(&file).unwrap();
    rustix::fs::renameat(&dir, temporary, &dir, name).unwrap();
    rustix::fs::fsync(&dir).unwrap();
}

fn open_dir(dir: &Path) -> OwnedFd {
    rustix::fs::openat(CWD, dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// Two calls on a lock file that stays open.
pub fn between_fcntl_calls(lock: impl AsFd, between: impl FnOnce()) {
    rustix::fs::fcntl_lock(&lock, FlockOperation::LockExclusive).unwrap();
    between();
    rustix::fs::fcntl_lock(&lock, FlockOperation::Unlock).unwrap();
}

pub fn std_write(path: &Path, contents: &[u8]) {
    fs::write(path, contents).unwrap();
    File::open(path).unwrap().sync_all().unwrap();
}

pub fn tempfile_write(path: &Path, contents: &[u8]) {
    let dir = path.parent().unwrap();
    let mut temporary = NamedTempFile::new_in(dir).unwrap();
    temporary.write_all(contents).unwrap();
    temporary.as_file().sync_all().unwrap();
    temporary.persist(path).unwrap();
    File::open(dir).unwrap().sync_all().unwrap();
}

pub fn atomic_write_file(path: &Path, contents: &[u8]) {
    let mut file = AtomicWriteFile::open(path).unwrap();
    file.write_all(contents).unwrap();
    file.commit().unwrap();
}

pub fn atomicwrites_write(path: &Path, contents: &[u8]) {
    atomicwrites::AtomicFile::new(path, atomicwrites::AllowOverwrite).write(|file| file.write_all(contents)).unwrap();
}

pub fn fs4_write(path: &Path, lock: &Path, contents: &[u8]) {
    let _lock = fs4_lock(lock);
    tempfile_write(path, contents);
}

pub fn fs4_read(path: &Path, lock: &Path) -> Vec<u8> {
    let lock = open_lock(lock);
    FileExt::lock_shared(&lock).unwrap();
    fs::read(path).unwrap()
}

pub fn fs4_update(path: &Path, lock: &Path, change: impl FnOnce(&[u8]) -> Vec<u8>) {
    let _lock = fs4_lock(lock);
    tempfile_write(path, &change(&fs::read(path).unwrap()));
}

/// Closing the file unlocks it, which saves a call.
fn fs4_lock(path: &Path) -> File {
    let lock = open_lock(path);
    FileExt::lock(&lock).unwrap();
    lock
}

fn open_lock(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}
