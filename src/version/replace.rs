//! Replacing a file: temporary file, write, owner and mode, sync, rename over the target, sync of the directory.
//!
//! The order is the promise:
//!
//! 1. A temporary file beside the target, because a rename works within one file system only.
//! 2. All data, then the owner, then the mode: a write by anybody but root clears the setuid and setgid bits, and so
//!    does a change of owner ([chown(2)]).
//! 3. A sync of the file *before* the rename. A file system may otherwise make the rename durable first, and a power
//!    cut leaves an empty or torn file under the target's name.
//! 4. The rename. From here on every process sees the new version.
//! 5. A sync of the directory. Until then a power cut may bring the old version back; [fsync(2)]: "Calling fsync()
//!    does not necessarily ensure that the entry in the directory containing the file has also reached disk. For
//!    that an explicit fsync() on a file descriptor for the directory is also needed."
//!
//! A failed sync is not repeated on the same file: the kernel marks the pages clean when a write-back has failed, so
//! that a second sync succeeds with the data lost.
//!
//! [chown(2)]: https://man7.org/linux/man-pages/man2/chown.2.html
//! [fsync(2)]: https://man7.org/linux/man-pages/man2/fsync.2.html

use std::ffi::CStr;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;

use crate::error::{Error, Result, Step};
use crate::lock::Held;
use crate::path::{Dir, Place};
use crate::sys::{self, Errno, Fd, Meta};
use crate::temporary::TemporaryName;

/// What a write promises about a crash of the whole machine (power cut, kernel panic). About crashes of processes
/// all three promise the same: a reader sees the old version or the new one, whole.
///
/// ```
/// use atomic_file_adapter::{AtomicFileAdapter, Durability};
///
/// let cache = AtomicFileAdapter::builder().durability(Durability::Ordered).build()?;
/// # drop(cache);
/// # Ok::<(), atomic_file_adapter::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Durability {
    /// The new version is on the device when the call returns. The file is synced ([fsync(2)](https://man7.org/linux/man-pages/man2/fsync.2.html)) before the
    /// rename and its directory after it. On Apple's systems a sync is `fcntl(F_FULLFSYNC)`, because `fsync` only hands the data to the
    /// drive there; on a file system that does not have it (a network volume, for example) `fsync` is the best to be had.
    #[default]
    Full,
    /// After a crash the file is the old or the new version, whole; which one is not promised. The file is synced
    /// before the rename, the directory is not.
    ///
    /// On Apple's systems that holds for a crash of the system, but for a power cut only if the drive keeps the order of
    /// its writes. The sync is `fsync` there, of which the manual page says that "the drive itself may not physically
    /// write the data to the platters for quite some time and it may be written in an out-of-order sequence". What would
    /// be right, `fcntl(F_BARRIERFSYNC)`, cannot be had without unsafe code; take [`Full`](Self::Full) where it matters.
    Ordered,
    /// Nothing is synced: atomic for other processes only. A crash may leave anything, an empty file for example.
    None,
}

/// How files are replaced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) durability: Durability,
    /// The exact mode of a new file; `None`: 0666 less the umask.
    pub(crate) new_file_mode: Option<u32>,
}

/// A new version of a file, while it is being written: from [`WriteGuard::writer`].
///
/// What is written goes to a temporary file beside the target, in constant memory. [`commit`](Self::commit) puts it
/// in the target's place. Dropped without that, the temporary file is removed and nothing has happened.
///
/// There is no buffer in between: every [`write`](Write::write) is a system call, so write in large pieces or put a
/// [`BufWriter`](io::BufWriter) around `&mut replacement`.
///
/// ```
/// use std::io::Write;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let scratch = tempfile::tempdir()?;
/// # let path = scratch.path().join("report.txt");
/// # let adapter = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
/// let file = adapter.file(&path)?;
/// let guard = file.lock()?;
/// let mut report = guard.writer()?;
/// for line in 0..3 {
///     writeln!(report, "line {line}")?;
/// }
/// report.commit()?;
/// # assert_eq!(guard.read()?.as_deref(), Some(&b"line 0\nline 1\nline 2\n"[..]));
/// # Ok(())
/// # }
/// ```
///
/// [`WriteGuard::writer`]: crate::WriteGuard::writer
#[derive(Debug)]
pub struct Replacement<'lock> {
    held: &'lock Held,
    path: &'lock Path,
    dir: &'lock Dir,
    name: &'lock CStr,
    options: Options,
    /// The file whose owner and mode the new version gets.
    old: Option<Meta>,
    file: Fd,
    temporary: TemporaryName,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Writing,
    /// A write has failed, so the contents are not what the caller meant them to be.
    Failed,
    Renamed,
}

impl<'lock> Replacement<'lock> {
    /// Whoever calls has seen that `held` is held by this process. `anew`: as if the file had been removed before.
    pub(crate) fn begin(held: &'lock Held, place: &'lock Place, options: Options, anew: bool) -> Result<Self> {
        let path: &Path = place.path();
        let full = options.durability == Durability::Full;
        let dir = place.make_dir(full)?;
        check_syncable(dir, path, full)?;
        let old = stat_regular(dir, place.name(), path)?.filter(|_| !anew);
        let mode =
            old.map_or(options.new_file_mode.unwrap_or(0o666) & 0o777, |old| for_another_group(old.mode) & 0o777);
        let mut temporary = TemporaryName::new(place.name(), path);
        let file = loop {
            match sys::create_new(dir.as_fd(), temporary.get(), mode) {
                Ok(file) => break file,
                // mkstemp(3) does the same. Whose file it is does not matter; it is not ours.
                Err(Errno::EXIST) => temporary.change(),
                Err(error) => return Err(Error::io(path, Step::CreateTemporary, error)),
            }
        };
        Ok(Replacement { held, path, dir, name: place.name(), options, old, file, temporary, state: State::Writing })
    }

    /// Puts what was written in the place of the file. See [`AtomicFile::write`] for what that promises.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let path = scratch.path().join("settings.toml");
    /// use std::io::Write;
    ///
    /// let file = files.file(&path)?;
    /// let guard = file.lock()?;
    /// let mut abandoned = guard.writer()?;
    /// abandoned.write_all(b"half of")?;
    /// drop(abandoned);
    /// assert!(!files.exists(&path));
    ///
    /// let mut new = guard.writer()?;
    /// new.write_all(b"all of it")?;
    /// new.commit()?;
    /// assert!(files.exists(&path));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotDurable`] if the file was replaced and the sync of its directory failed; with every other error
    /// the file is what it was. If a write has failed before, so does the commit: part of the contents is missing.
    ///
    /// [`AtomicFile::write`]: crate::AtomicFile::write
    pub fn commit(self) -> Result<()> {
        // After a fork, the child's copy would replace the file without the lock.
        self.held.check()?;
        if self.state == State::Failed {
            let why = io::Error::other("an earlier write to it failed, so it is not complete");
            return Err(self.failed(Step::Write, why));
        }
        self.finish()
    }

    /// Writes `contents` and commits.
    pub(crate) fn put_all(mut self, contents: &[u8]) -> Result<()> {
        self.fill(contents)?;
        self.finish()
    }

    fn finish(mut self) -> Result<()> {
        self.set_owner_and_mode()?;
        self.sync()?;
        self.rename()?;
        sync_dir(self.dir, self.path, self.options)
    }

    // The steps one by one, for those who commit many.

    /// Writes all of `contents`.
    pub(crate) fn fill(&mut self, mut contents: &[u8]) -> Result<()> {
        while !contents.is_empty() {
            let taken = self.put(contents)?;
            contents = &contents[taken..];
        }
        Ok(())
    }

    pub(crate) fn sync(&self) -> Result<()> {
        match self.options.durability {
            Durability::Full => sys::sync(&self.file),
            Durability::Ordered => sys::sync_ordered(&self.file),
            Durability::None => Ok(()),
        }
        .map_err(|error| self.failed(Step::Sync, error))
    }

    /// A number of the file system that the file is in.
    pub(crate) fn device(&self) -> Result<u64> {
        let meta = sys::stat_open(&self.file).map_err(|error| self.failed(Step::Stat, error))?;
        Ok(meta.dev)
    }

    /// Syncs everything in that file system; false where only a sync of the file itself will do.
    pub(crate) fn sync_file_system(&self) -> Result<bool> {
        sys::sync_file_system(self.file.as_fd()).map_err(|error| self.failed(Step::Sync, error))
    }

    pub(crate) fn rename(&mut self) -> Result<()> {
        sys::rename(self.dir.as_fd(), self.temporary.get(), self.name)
            .map_err(|error| self.failed(Step::Rename, error))?;
        self.state = State::Renamed;
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<usize> {
        let error: io::Error = match sys::write(&self.file, bytes) {
            Ok(0) if !bytes.is_empty() => io::ErrorKind::WriteZero.into(),
            Ok(taken) => return Ok(taken),
            Err(error) => error.into(),
        };
        self.state = State::Failed;
        Err(self.failed(Step::Write, error))
    }

    /// Gives the temporary file the owner, the group and the mode of the file that it replaces.
    pub(crate) fn set_owner_and_mode(&self) -> Result<()> {
        let Some(old) = self.old else {
            return match self.options.new_file_mode {
                Some(mode) => self.set_mode(mode),
                None => Ok(()),
            };
        };
        let new = sys::stat_open(&self.file).map_err(|error| self.failed(Step::Stat, error))?;
        let uid = (old.uid != new.uid).then_some(old.uid);
        let gid = (old.gid != new.gid).then_some(old.gid);
        let mut mode = old.mode;
        // Only root may give a file away, but an owner may hand it to a group that he is in. Where that is not
        // allowed the file is the writer's, and must not run with the rights of an owner that it does not have.
        if (uid.is_some() || gid.is_some()) && !self.allowed(uid, gid)? {
            if uid.is_some() {
                mode &= !SET_USER_ID;
            }
            if gid.is_some() && !self.allowed(None, gid)? {
                mode = for_another_group(mode) & !SET_GROUP_ID;
            }
        }
        // A change of owner may have cleared bits.
        if mode != new.mode || uid.is_some() || gid.is_some() { self.set_mode(mode) } else { Ok(()) }
    }

    /// Changes the owner, if that is allowed.
    fn allowed(&self, uid: Option<u32>, gid: Option<u32>) -> Result<bool> {
        match sys::set_owner(&self.file, uid, gid) {
            Ok(()) => Ok(true),
            // EINVAL: an id that does not exist in this user namespace (chown(2)). The others: a file system
            // without owners.
            Err(Errno::PERM | Errno::INVAL | Errno::NOTSUP | Errno::NOSYS) => Ok(false),
            Err(error) => Err(self.failed(Step::SetOwner, error)),
        }
    }

    fn set_mode(&self, mode: u32) -> Result<()> {
        sys::set_mode(&self.file, mode).map_err(|error| self.failed(Step::SetMode, error))
    }

    fn failed(&self, step: Step, error: impl Into<io::Error>) -> Error {
        Error::io(self.path, step, error)
    }
}

impl Write for Replacement<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // After a fork, both copies would write to one file.
        self.held.check()?;
        Ok(self.put(bytes)?)
    }

    /// Does nothing: there is no buffer, and [`commit`](Self::commit) syncs.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Replacement<'_> {
    fn drop(&mut self) {
        // A child made by fork has a copy of this; the temporary file is its parent's.
        if self.state != State::Renamed && self.held.check().is_ok() {
            // There is nobody to tell, and an error to come or a panic under way to be told already.
            let _ = sys::unlink(self.dir.as_fd(), self.temporary.get());
        }
    }
}

/// Removes a file. False: there is none.
pub(crate) fn remove(place: &Place, options: Options) -> Result<bool> {
    match unlink(place, options)? {
        Some(dir) => sync_dir(dir, place.path(), options).map(|()| true),
        None => Ok(false),
    }
}

/// The same without the sync of the directory, which is returned. `None`: there is no such file.
pub(crate) fn unlink(place: &Place, options: Options) -> Result<Option<&Dir>> {
    let path: &Path = place.path();
    let Some(dir) = place.dir()? else { return Ok(None) };
    if !check_removable(place, options)? {
        return Ok(None);
    }
    match sys::unlink(dir.as_fd(), place.name()) {
        Ok(()) => Ok(Some(dir)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(Error::io(path, Step::Remove, error)),
    }
}

/// Whether there is a file to remove, and its removal can be made durable; an error if it cannot.
pub(crate) fn check_removable(place: &Place, options: Options) -> Result<bool> {
    let Some(dir) = place.dir()? else { return Ok(false) };
    check_syncable(dir, place.path(), options.durability == Durability::Full)?;
    Ok(stat_regular(dir, place.name(), place.path())?.is_some())
}

/// Looks at what has this name; an error if it is not a regular file.
pub(crate) fn stat_regular(dir: &Dir, name: &CStr, path: &Path) -> Result<Option<Meta>> {
    match sys::stat(dir.as_fd(), name) {
        Ok(meta) => check_regular(meta, path).map(Some),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(Error::io(path, Step::Stat, error)),
    }
}

pub(crate) fn check_regular(meta: Meta, path: &Path) -> Result<Meta> {
    match meta.special {
        None => Ok(meta),
        Some(kind) => Err(Error::NotRegularFile { path: path.to_owned(), kind }),
    }
}

/// A directory that may be searched and written but not read cannot be opened for syncing. Better to know before
/// the rename than after.
fn check_syncable(dir: &Dir, path: &Path, full: bool) -> Result<()> {
    if full && !dir.syncable { Err(Error::io(path, Step::SyncDirectory, Errno::ACCESS)) } else { Ok(()) }
}

/// The last step of a change in a directory.
pub(crate) fn sync_dir(dir: &Dir, path: &Path, options: Options) -> Result<()> {
    match options.durability {
        Durability::Full => {
            sys::sync(dir).map_err(|error| Error::NotDurable { path: path.to_owned(), source: error.into() })
        }
        Durability::Ordered | Durability::None => Ok(()),
    }
}

const SET_USER_ID: u32 = 0o4000;
const SET_GROUP_ID: u32 = 0o2000;

/// A file's mode for a file that has another group, for the time being or for good: nobody in that group may do what
/// all others may not.
fn for_another_group(mode: u32) -> u32 {
    let for_others = mode & 0o007;
    mode & !(0o070 & !(for_others << 3))
}
