//! The judge: compares the result of a call with the model, and the model with the disk and the kernel.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use atomic_file_adapter::{Error, Result};
use nix::fcntl::{FcntlArg, fcntl};

use super::language::FILES;
use super::model::{Version, lock_files, next_version};
use super::world::{Guard, World};
use crate::protocol::owner_in_temporary_name;

impl World {
    pub(super) fn holds(&self, file: usize) -> bool {
        self.held.iter().any(|held| held.file == file)
    }

    /// Whether the thread holds a lock that keeps itself out. It may hold a shared lock twice.
    pub(super) fn keeps_itself_out(&self, file: usize, shared: bool) -> bool {
        let excludes = |guard: &Guard| !(shared && matches!(guard, Guard::Read(_)));
        self.held.iter().any(|held| held.file == file && excludes(&held.guard))
    }

    pub(super) fn next_version(&self, file: usize, contents: Vec<u8>, new_mode: u32) -> Version {
        next_version(&self.files[file], contents, new_mode)
    }

    pub(super) fn judge_read(&self, read: Result<Option<Vec<u8>>>, file: usize, would_deadlock: bool) {
        let expected = self.files[file].as_ref().map(|version| &version.contents);
        match read {
            Ok(read) => {
                assert!(!would_deadlock);
                assert!(read.as_ref() == expected, "read {:?} bytes of {file}", read.map(|read| read.len()));
            }
            Err(Error::Deadlock { .. }) => assert!(would_deadlock),
            Err(Error::NotUtf8 { .. }) => {
                assert!(expected.is_some_and(|contents| std::str::from_utf8(contents).is_err()))
            }
            Err(error) => assert!(self.hit.any, "{error}"),
        }
    }

    pub(super) fn judge_change(&mut self, changed: Result<()>, file: usize, new: Option<Version>, takes_lock: bool) {
        let would_deadlock = takes_lock && self.holds(file);
        match changed {
            Ok(()) => {
                assert!(!would_deadlock);
                assert!(!self.unsynced, "a durable change has left its directory unsynced");
                self.files[file] = new;
            }
            Err(Error::NotDurable { .. }) => {
                assert!(self.hit.any && !would_deadlock);
                self.files[file] = new;
            }
            Err(Error::Deadlock { .. }) => assert!(would_deadlock),
            Err(error) => assert!(self.hit.any, "{error}"),
        }
    }

    pub(super) fn judge_delete(&mut self, deleted: Result<bool>, file: usize, takes_lock: bool) {
        if let Ok(deleted) = deleted {
            assert_eq!(deleted, self.files[file].is_some());
        }
        self.judge_change(deleted.map(drop), file, None, takes_lock);
    }

    /// The file of this temporary file. A long name is cut.
    fn owner(&self, temporary: &Path) -> Option<usize> {
        let name = owner_in_temporary_name(temporary.file_name()?.to_str()?)?;
        (0..FILES.len()).find(|file| {
            let place = self.tree.join(FILES[*file]);
            let own_name = place.file_name().unwrap().to_str().unwrap();
            let is_cut = own_name.len() > 200 && name.starts_with(&own_name[..200]);
            place.parent() == temporary.parent() && (name == own_name || is_cut)
        })
    }

    /// The files, and the temporary files with their files, as they are on disk.
    pub(super) fn look(&self) -> ([Option<Version>; FILES.len()], BTreeMap<PathBuf, usize>) {
        let mut found = [const { None }; FILES.len()];
        let mut left = BTreeMap::new();
        for dir in ["", "d", "new"] {
            let Ok(entries) = fs::read_dir(self.tree.join(dir)) else { continue };
            for entry in entries {
                let entry = entry.unwrap();
                let path = entry.path();
                let kind = entry.file_type().unwrap();
                if let Some(file) = (0..FILES.len()).find(|file| self.tree.join(FILES[*file]) == path) {
                    let mode = entry.metadata().unwrap().mode() & 0o7777;
                    found[file] = Some(Version { contents: fs::read(&path).unwrap(), mode });
                } else if kind.is_file() {
                    let owner = self.owner(&path).expect("a temporary file");
                    left.insert(path, owner);
                } else {
                    assert!(kind.is_dir() || kind.is_symlink());
                }
            }
        }
        (found, left)
    }

    pub(super) fn compare(&mut self) {
        let (found, left) = self.look();
        assert!(found == self.files, "the disk has {found:?}, the model {:?}", self.files);
        // A temporary file that could not be removed stays until a sweep.
        if self.hit.unlink {
            self.left.extend(left.clone());
        }
        assert_eq!(left, self.left, "what is left behind");
        self.compare_locks();
    }

    /// Asks the kernel who holds which lock.
    ///
    /// It uses descriptors that stay open until the end, because a close would drop the lock. It asks with F_OFD_GETLK,
    /// for which this process's record locks belong to another owner.
    fn compare_locks(&mut self) {
        for path in lock_files(&self.locks) {
            let inode = fs::metadata(&path).unwrap().ino();
            self.witnesses.entry(inode).or_insert_with(|| File::options().read(true).write(true).open(path).unwrap());
        }
        let mut held: BTreeMap<u64, libc::c_int> = BTreeMap::new();
        for one in &self.held {
            let mode = if matches!(one.guard, Guard::Write(_)) { libc::F_WRLCK } else { libc::F_RDLCK };
            held.insert(fs::metadata(&one.lock_path).unwrap().ino(), mode);
        }
        for (inode, witness) in &self.witnesses {
            let mut lock = libc::flock {
                l_type: libc::F_WRLCK as libc::c_short,
                l_whence: libc::SEEK_SET as libc::c_short,
                l_start: 0,
                l_len: 0,
                l_pid: 0,
            };
            fcntl(witness, FcntlArg::F_OFD_GETLK(&mut lock)).unwrap();
            let found = (lock.l_type != libc::F_UNLCK as libc::c_short).then_some(libc::c_int::from(lock.l_type));
            assert_eq!(found, held.remove(inode), "the kernel's lock is not the guards'");
        }
        assert!(held.is_empty(), "a guard's lock file is not in the lock directory");
    }
}
