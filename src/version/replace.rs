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

use std::ffi::{CStr, CString};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;

use crate::error::{Error, Result, Step};
use crate::lock::Held;
use crate::path::{Dir, Place};
use crate::protocol::temporary_name::TemporaryName;
use crate::settings::{Durability, Options};
use crate::sys::{self, Errno, Fd, Meta};
use crate::version::metadata::{self, Old};
use crate::version::together::{Unsynced, What};
use crate::version::{check_syncable, failed_at, stat_regular, sync, sync_dir};

/// A new version of a file, while it is being written, from [`WriteGuard::writer`].
///
/// Writes go to a temporary file beside the target, in constant memory. [`commit`](Self::commit) puts it in the place
/// of the target. If it is dropped without a commit, the temporary file is removed and nothing has happened.
///
/// It has no buffer: every [`write`](Write::write) is a system call. Write in large pieces, or put a
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
    path: &'lock Path,
    name: &'lock CStr,
    options: Options,
    /// The version whose owner, mode and attributes the new one gets.
    old: Option<Old>,
    /// Declared before `file`, so that it is dropped first: the name is removed before the file is closed.
    temporary: Temporary<'lock>,
    file: Fd,
    written: u64,
    /// Up to this offset the kernel was told to start the write-back.
    sent: u64,
    /// A write has failed, so a part of the contents is missing.
    is_incomplete: bool,
}

/// The name of a temporary file. It is removed on drop, unless the file was renamed or somebody else will rename it.
#[derive(Debug)]
struct Temporary<'lock> {
    held: &'lock Held,
    dir: &'lock Dir,
    name: TemporaryName,
    is_kept: bool,
}

/// A new version that is completely written. Other code will rename it or remove it.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) file: Fd,
    pub(crate) temporary: CString,
    pub(crate) meta: Meta,
}

/// After so many bytes the kernel is told to start the write-back, while more is written. So a large file takes less
/// time on a disk (`BENCH_DIR=/some/dir cargo bench -- 'write 100 MB'`). A smaller file is left to its sync.
const PIECE: usize = 8 << 20;

/// The number of names that glibc's mkstemp tries (ATTEMPTS_MIN in sysdeps/posix/tempname.c). So many random names are
/// taken only if somebody makes all of them, or if the file system reports EEXIST for every name.
const NAMES_TRIED: u32 = 62 * 62 * 62;

fn all_taken(path: &Path) -> io::Error {
    let dir = path.parent().unwrap_or(path).display();
    let why = format!("{NAMES_TRIED} names were tried, and each is taken in {dir} (EEXIST)");
    io::Error::new(io::ErrorKind::AlreadyExists, why)
}

impl<'lock> Replacement<'lock> {
    /// The caller has checked that this process holds `held`. `temporary` contains the hash of the lock file's name.
    /// `anew`: the new version gets nothing from the old one, as if the old one had been removed first.
    pub(crate) fn begin(
        held: &'lock Held,
        place: &'lock Place,
        mut temporary: TemporaryName,
        options: Options,
        anew: bool,
    ) -> Result<Self> {
        let path: &Path = place.path();
        let full = options.durability == Durability::Full;
        let dir = place.make_dir(full)?;
        check_syncable(dir, path, full)?;
        let old = if anew {
            stat_regular(dir, place.name(), path)?;
            None
        } else {
            Old::look(dir, place.name(), path)?
        };
        let mode = metadata::mode_at_first(old.as_ref(), options);
        let mut taken = 0;
        let file = loop {
            match sys::create_new(dir.as_fd(), temporary.get(), mode) {
                Ok(file) => break file,
                // mkstemp(3) does the same. The file belongs to somebody else.
                Err(Errno::EXIST) => taken += 1,
                Err(error) => return Err(Error::io(path, Step::CreateTemporary, error)),
            }
            if taken == NAMES_TRIED {
                return Err(Error::io(path, Step::CreateTemporary, all_taken(path)));
            }
            temporary.change();
        };
        let name = place.name();
        let temporary = Temporary { held, dir, name: temporary, is_kept: false };
        let replacement =
            Replacement { path, name, options, old, temporary, file, written: 0, sent: 0, is_incomplete: false };
        if let Some(old) = &replacement.old {
            metadata::begin(&replacement.file, old, path)?;
        }
        Ok(replacement)
    }

    /// Whether this replaces a file. Otherwise it makes a new one.
    pub(crate) fn replaces(&self) -> bool {
        self.old.is_some()
    }

    /// The name of its temporary file.
    pub(crate) fn temporary(&self) -> &CStr {
        self.temporary.name.get()
    }

    /// Puts what was written in the place of the file. [`AtomicFile::write`] says what that promises.
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
    /// [`Error::NotDurable`]: the file was replaced, and the sync of its directory failed. [`Error::LockLost`], on NFS:
    /// it says whether the file was replaced. With every other error the file is unchanged. If a write has failed
    /// before, the commit fails, too, because a part of the contents is missing.
    ///
    /// [`AtomicFile::write`]: crate::AtomicFile::write
    pub fn commit(self) -> Result<()> {
        // After a fork, the child's copy would replace the file without the lock.
        self.temporary.held.check()?;
        if self.is_incomplete {
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
        let synced = sync_dir(self.temporary.dir, self.path, self.options);
        // A lost lock is worse than a failed sync, so it is reported first.
        self.temporary.held.check_kept(true).and(synced)
    }

    // The single steps, for a caller that commits many files.

    /// Writes all of `contents`.
    pub(crate) fn fill(&mut self, mut contents: &[u8]) -> Result<()> {
        while !contents.is_empty() {
            let taken = self.put(contents)?;
            contents = &contents[taken..];
        }
        Ok(())
    }

    /// Gives the temporary file the owner, group, access control list and mode of the file that it replaces.
    pub(crate) fn set_owner_and_mode(&self) -> Result<()> {
        metadata::finish(&self.file, self.old.as_ref(), self.options, self.path)
    }

    pub(crate) fn sync(&self) -> Result<()> {
        sync(&self.file, self.path, self.options)
    }

    /// The temporary file, to be synced together with others.
    pub(crate) fn unsynced(&self) -> Result<Unsynced<'_>> {
        let meta = sys::stat_open(&self.file).map_err(|error| self.failed(Step::Stat, error))?;
        Ok(Unsynced { device: meta.dev, what: What::File(&self.file), path: self.path })
    }

    /// Renames the temporary file over the target, unless the lock was lost. The caller checks the lock again
    /// afterwards.
    pub(crate) fn rename(&mut self) -> Result<()> {
        let Temporary { held, dir, ref name, .. } = self.temporary;
        held.check_kept(false)?;
        sys::rename(dir.as_fd(), name.get(), self.name)
            .map_err(|error| failed_at(dir, self.name, self.path, Step::Rename, error))?;
        self.temporary.is_kept = true;
        Ok(())
    }

    /// Leaves the temporary file to the caller, who renames or removes it.
    pub(crate) fn stage(self) -> Result<Staged> {
        let meta = sys::stat_open(&self.file).map_err(|error| self.failed(Step::Stat, error))?;
        let Replacement { mut temporary, file, .. } = self;
        temporary.is_kept = true;
        Ok(Staged { file, temporary: temporary.name.get().to_owned(), meta })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<usize> {
        if self.written - self.sent >= PIECE as u64 && self.options.durability != Durability::None {
            sys::start_write_back(&self.file, self.sent, self.written);
            self.sent = self.written;
        }
        let error: io::Error = match sys::write(&self.file, &bytes[..bytes.len().min(PIECE)]) {
            Ok(0) if !bytes.is_empty() => io::ErrorKind::WriteZero.into(),
            Ok(taken) => {
                self.written += taken as u64;
                return Ok(taken);
            }
            Err(error) => error.into(),
        };
        self.is_incomplete = true;
        Err(self.failed(Step::Write, error))
    }

    fn failed(&self, step: Step, error: impl Into<io::Error>) -> Error {
        Error::io(self.path, step, error)
    }
}

impl Write for Replacement<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // After a fork, both copies would write to one file.
        self.temporary.held.check()?;
        Ok(self.put(bytes)?)
    }

    /// Does nothing: there is no buffer, and [`commit`](Self::commit) syncs.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        // A child made by fork has a copy of this value. The temporary file belongs to its parent.
        if !self.is_kept && self.held.check().is_ok() {
            // Drop cannot return an error, and another error or a panic is reported already.
            let _ = sys::unlink(self.dir.as_fd(), self.name.get());
        }
    }
}
