//! The table, in which the threads of this process take turns at lock files. It is a state machine without system calls
//! of its own.
//!
//! The kernel's record locks belong to processes ([fcntl_locking(2)], "Advisory record locking"). The kernel grants
//! every thread of a process what one of them holds, and drops all of the process's locks on a file when any descriptor
//! of that file is closed. So each process has one table. The table keeps one descriptor for each lock file. Its key is
//! the file's device and inode number, so two spellings of one lock directory meet here. Threads take a lock in the
//! order of their arrival, except that readers do not wait for readers. One thread at a time asks the kernel.
//!
//! Each lock file has a mutex for its state (`lock_file.rs`), and a caller with a handle needs no other. The table has
//! two more: one for the list of lock files, to open or leave one, and one for the threads that hold a lock and wait
//! for another (`cycles.rs`). A thread that has locked a lock file's mutex may lock the list's mutex. A thread that has
//! locked the mutex of `cycles.rs` may lock a lock file's mutex, but never the other way round.
//!
//! After its last user has left, a lock file is closed under its own mutex. Another thread may open the same file
//! meanwhile. It must not lock the file before it is closed, because closing it would drop the new lock.
//!
//! [fcntl_locking(2)]: https://man7.org/linux/man-pages/man2/fcntl_locking.2.html

// By their paths, because tests and fuzz targets include this file in crates of their own.
#[path = "cycles.rs"]
mod cycles;
#[path = "deputy.rs"]
mod deputy;
#[path = "kernel.rs"]
mod kernel;
#[path = "lock_file.rs"]
mod lock_file;
#[path = "queue.rs"]
mod queue;
#[path = "request.rs"]
mod request;
#[path = "turn.rs"]
mod turn;

use std::collections::BTreeMap;
use std::mem;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, PoisonError};

pub(super) use self::cycles::Waits;
pub(super) use self::kernel::Kernel;
use self::lock_file::Phase;
pub(crate) use self::lock_file::Wait;
pub(super) use self::lock_file::{Key, LockFile, Thread};
pub(super) use self::request::{Errand, OnWait, Refusal, Request, Told};
use self::turn::Turn;
use super::sync::{Mutex, MutexGuard};
use crate::sys::LockMode;

#[derive(Debug)]
pub(super) struct Table<K: Kernel> {
    kernel: K,
    files: Mutex<Files<K::File>>,
    waits: Mutex<Waits<K::File>>,
    deputies: AtomicUsize,
}

/// The lock files in use.
#[derive(Debug)]
pub(super) struct Files<F> {
    entered: BTreeMap<Key, Entry<F>>,
    /// The turns of lock files that were closed a moment ago. A process may make a new handle for each call. If its
    /// turns were forgotten when the handle is dropped, it would shut other processes out. The list is short, because a
    /// turn cannot go on for long after the release.
    left: Vec<(Key, Turn)>,
}

#[derive(Debug)]
struct Entry<F> {
    file: Arc<LockFile<F>>,
    /// The number of users: handles that will come back, guards, and a deputy.
    users: usize,
}

impl<F> Files<F> {
    pub(super) const fn new() -> Self {
        Files { entered: BTreeMap::new(), left: Vec::new() }
    }

    /// Adds a user of a lock file that has users.
    fn enter(&mut self, key: Key) -> Option<Arc<LockFile<F>>> {
        let entry = self.entered.get_mut(&key)?;
        entry.users += 1;
        Some(entry.file.clone())
    }

    fn enter_new(&mut self, key: Key) -> Arc<LockFile<F>> {
        let left = self.left.iter().position(|(left, _)| *left == key);
        let turn = left.map(|left| self.left.swap_remove(left).1);
        let entry =
            self.entered.entry(key).or_insert_with(|| Entry { file: Arc::new(LockFile::new(key, turn)), users: 0 });
        entry.users += 1;
        entry.file.clone()
    }

    /// True: that was the last user.
    fn leave(&mut self, key: Key) -> bool {
        self.entered.get_mut(&key).is_some_and(|entry| {
            entry.users -= 1;
            entry.users == 0
        })
    }

    fn is_unused(&self, file: &Arc<LockFile<F>>) -> bool {
        let entry = self.entered.get(&file.key());
        entry.is_some_and(|entry| entry.users == 0 && Arc::ptr_eq(&entry.file, file))
    }
}

impl<K: Kernel> Table<K> {
    /// The caller makes the mutexes, because they are made before `main` here, and at run time by the model checker.
    pub(super) const fn new(kernel: K, files: Mutex<Files<K::File>>, waits: Mutex<Waits<K::File>>) -> Self {
        Table { kernel, files, waits, deputies: AtomicUsize::new(0) }
    }

    pub(super) fn kernel(&self) -> &K {
        &self.kernel
    }

    fn files(&self) -> MutexGuard<'_, Files<K::File>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a user of a lock file; [`leave`](Self::leave) removes it. `identify` tells which file it is without opening
    /// it, so that the table does not open a file twice. It is called only if the table has a file that could be the
    /// same.
    pub(super) fn enter<E>(
        &self,
        identify: impl FnOnce() -> Result<Option<Key>, E>,
        open: impl FnOnce() -> Result<(Key, K::File), E>,
    ) -> Result<Arc<LockFile<K::File>>, E> {
        let known = if self.files().entered.is_empty() { None } else { identify()? };
        let entered = known.and_then(|key| self.files().enter(key));
        if let Some(file) = entered.as_ref().filter(|file| file.state().file.is_some()) {
            return Ok(file.clone());
        }
        let opened = open().map(|(key, file)| self.keep(key, Arc::new(file)));
        // The last user has closed it, or it was closed because an unlock failed.
        if let Some(closed) = entered {
            self.leave(&closed);
        }
        opened
    }

    /// Adds a user with a descriptor. If the file is open already, this descriptor must not be closed.
    fn keep(&self, key: Key, open: Arc<K::File>) -> Arc<LockFile<K::File>> {
        let file = self.files().enter_new(key);
        let mut state = file.state();
        match state.file {
            None => {
                state.file = Some(open);
                self.kernel.opened(key);
            }
            // The name led to another file a moment ago, or another thread was faster.
            Some(_) => state.spare.push(open),
        }
        drop(state);
        file
    }

    /// Replaces a descriptor that is open for reading only. The old one stays open. False: the name leads to another
    /// file by now, or to none.
    pub(super) fn reopen<E>(
        &self,
        file: &Arc<LockFile<K::File>>,
        open: impl FnOnce() -> Result<Option<(Key, K::File)>, E>,
    ) -> Result<bool, E> {
        let Some((key, opened)) = open()? else { return Ok(false) };
        let opened = Arc::new(opened);
        let kept = self.keep(key, opened.clone());
        let same = Arc::ptr_eq(&kept, file);
        let mut state = kept.state();
        if same {
            state.spare.retain(|spare| !Arc::ptr_eq(spare, &opened));
            let old = state.file.replace(opened.clone());
            state.give_back(old);
        }
        drop(opened);
        drop(state);
        self.leave(&kept);
        Ok(same)
    }

    /// Removes a user. The last one closes the lock file.
    pub(super) fn leave(&self, file: &Arc<LockFile<K::File>>) {
        let key = file.key();
        if !self.files().leave(key) {
            return;
        }
        // From here on nobody can take the lock. A new user waits for this mutex, and then finds the file closed.
        let mut state = file.state();
        if !self.files().is_unused(file) {
            return;
        }
        state.close();
        self.kernel.closed(key);
        let (turn, now) = (state.turn.filter(|turn| turn.was_released()), self.kernel.now());
        let mut files = self.files();
        if files.is_unused(file) {
            files.entered.remove(&key);
            files.left.retain(|(_, other)| other.goes_on(now));
            files.left.extend(turn.map(|turn| (key, turn)));
        }
    }

    /// The mode in which this process holds the lock.
    pub(super) fn held(&self, file: &LockFile<K::File>) -> Option<LockMode> {
        match file.state().phase {
            Phase::Held(mode) => Some(mode),
            _ => None,
        }
    }

    /// The locks of a thread, in the order in which it took them. This searches the whole table, so it is for errors
    /// only.
    pub(super) fn held_by(&self, thread: Thread) -> Vec<Arc<Path>> {
        let files: Vec<_> = self.files().entered.values().map(|entry| entry.file.clone()).collect();
        let mut held: Vec<_> = files.iter().flat_map(|file| file.state().held_by(thread).collect::<Vec<_>>()).collect();
        held.sort_by_key(|(before, _)| *before);
        held.into_iter().map(|(_, label)| label).collect()
    }

    /// Calls `ask` with the open lock file. The caller is a user of it.
    pub(super) fn with_file<T>(&self, file: &LockFile<K::File>, ask: impl FnOnce(&K::File) -> T) -> Option<T> {
        let open = file.state().file.clone()?;
        let answer = ask(&open);
        file.state().give_back(Some(open));
        Some(answer)
    }

    /// Closes every lock file, if no thread is using the table. For a child made by fork, which has inherited the
    /// table.
    ///
    /// The kernel copies the descriptors before the memory (`copy_process` in kernel/fork.c). So a descriptor that
    /// another thread of the parent opened in between is in this table, but not open in the child. Its number may be
    /// that of a file of the child by now, which must not be closed.
    pub(super) fn close_all_if_idle(&self) {
        let Ok(mut files) = self.files.try_lock() else { return };
        for (key, entry) in mem::take(&mut files.entered) {
            let Some(mut state) = entry.file.state_if_idle() else {
                // A thread of the parent was using it. It is not dropped, because that would close its descriptors.
                mem::forget(entry.file);
                continue;
            };
            let spare = mem::take(&mut state.spare);
            for open in state.file.take().into_iter().chain(spare) {
                if !self.kernel.is(&open, key) {
                    mem::forget(open);
                }
            }
        }
    }
}
