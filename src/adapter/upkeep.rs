//! The verbs for whoever looks after the lock directory, and after what killed processes have left.

use std::path::{Path, PathBuf};

use crate::adapter::AtomicFileAdapter;
use crate::error::Result;
use crate::lock::upkeep;
use crate::sys::{Holder, LockMode};
use crate::version::sweep;

impl AtomicFileAdapter {
    /// Removes the lock files that nobody holds at this moment, and returns their paths. Safe at any time: whoever is
    /// about to lock one of them notices, and makes it anew; on NFS also on another machine.
    ///
    /// Lock files are empty, and one that is left costs nothing but its inode; there is no need to prune unless paths
    /// come and go for ever.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let path = scratch.path().join("settings.toml");
    /// files.write_atomic(&path, "colour = 'red'\n")?;
    /// # drop(files.file(&path)?);
    /// assert_eq!(files.prune()?, [files.lock_path(&path)?]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The lock directory cannot be listed; nothing was done. [`Error::Partial`](crate::Error::Partial): what has the name
    /// of a lock file is none (a directory, for example), or is one that cannot be opened or removed (another user's). The
    /// others are removed all the same, and the error tells which.
    pub fn prune(&self) -> Result<Vec<PathBuf>> {
        upkeep::prune(&self.config.lock_dir)
    }

    /// Removes the temporary files that killed writers of the file `path` have left beside it; if `path` is a directory,
    /// those of all files in it, but not of files in directories below. Returns their paths.
    ///
    /// A writer holds its lock for as long as it has a temporary file, so one whose lock is taken at this moment is
    /// left alone. Such files are named `.{name}.{ten of a-z and 2-7}.tmp`, where three of the ten are a check over
    /// what is before them (the README's lock protocol says which): a file that somebody else has named like that, such
    /// as `.notes.javascript.tmp`, is taken for one of them once in 32,768 times. They never come in anybody's way;
    /// they take up space. A write that was killed leaves one at the most.
    ///
    /// What a process that was killed while it made the lock directory or a lock file has left there is removed, too.
    ///
    /// The locks are those of this adapter's lock directory and of the paths as they are now. A writer that uses
    /// another lock directory or another [lock root](crate::Builder::lock_root) is not seen, nor one whose directory
    /// was renamed since it began, or that came to it by another path (a bind mount) without a lock root; its write
    /// fails if its temporary file is taken away.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # std::fs::write(scratch.path().join(".settings.toml.a2b3c4du3a.tmp"), "")?;
    /// // Once at the start of a program, for example.
    /// for left in files.sweep(scratch.path())? {
    ///     println!("removed {}, which a killed writer had left", left.display());
    /// }
    /// # assert!(!scratch.path().join(".settings.toml.a2b3c4du3a.tmp").exists());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The path cannot be resolved, or is outside the lock root; nothing was done.
    /// [`Error::Partial`](crate::Error::Partial): the directory, or the lock directory, cannot be listed, a lock file
    /// not opened, or a temporary file (in the lock directory, too) not looked at or not removed: another user's, for
    /// example. The others are removed all the same, and the error tells which.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// use atomic_file_adapter::Error;
    ///
    /// match files.sweep(scratch.path()) {
    ///     Ok(removed) => println!("removed {removed:?}"),
    ///     Err(Error::Partial { done, failed, .. }) => println!("removed {done:?}, but not all: {failed:?}"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn sweep(&self, path: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
        sweep::sweep(&self.config, path.as_ref())
    }

    /// All lock files of the lock directory, sorted by path, and who holds them at this moment.
    ///
    /// What has the name of a lock file and is none, or may not be opened, is in the list, too, with its
    /// [`problem`](LockFile::problem).
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let file = files.file(scratch.path().join("settings.toml"))?;
    /// let guard = file.lock()?;
    /// for lock in files.locks()? {
    ///     match (lock.problem, lock.holder) {
    ///         (Some(problem), _) => println!("{problem}"), // it names the path
    ///         (None, Some(holder)) => println!("{}: process {:?}", lock.path.display(), holder.pid),
    ///         (None, None) => println!("{}: free", lock.path.display()),
    ///     }
    /// }
    /// # drop(guard);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The lock directory cannot be listed. One that does not exist has no lock files.
    pub fn locks(&self) -> Result<Vec<LockFile>> {
        let files = upkeep::list(&self.config.lock_dir)?;
        Ok(files
            .into_iter()
            .map(|(path, holder)| {
                let (holder, problem) = match holder {
                    Ok(holder) => (holder, None),
                    Err(error) => (None, Some(error.to_string())),
                };
                let exclusive = |holder: &Holder| holder.mode == LockMode::Exclusive;
                let holder = holder.map(|holder| LockHolder { exclusive: exclusive(&holder), pid: holder.pid });
                LockFile { path, holder, problem }
            })
            .collect())
    }
}

/// A lock file, from [`AtomicFileAdapter::locks`].
///
/// ```
/// # let scratch = tempfile::tempdir()?;
/// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
/// # let file = files.file(scratch.path().join("settings.toml"))?;
/// # drop(file.lock()?);
/// for lock in files.locks()? {
///     println!("{} is {}", lock.path.display(), if lock.holder.is_some() { "taken" } else { "free" });
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockFile {
    /// Its path.
    pub path: PathBuf,
    /// Who holds its lock. Of several processes that share it, one. `None`: nobody, unless there is a `problem`.
    pub holder: Option<LockHolder>,
    /// Why nobody can tell who holds it: the message of an [`Error`](crate::Error), which names the path. It is something
    /// else than a lock file, a directory for example, or one that may not be opened.
    pub problem: Option<String>,
}

/// The holder of a lock, as `fcntl(F_GETLK)` tells it
/// ([fcntl_locking(2)](https://man7.org/linux/man-pages/man2/fcntl_locking.2.html)).
///
/// ```
/// # let scratch = tempfile::tempdir()?;
/// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
/// # let file = files.file(scratch.path().join("settings.toml"))?;
/// let guard = file.lock()?;
/// let holder = files.locks()?[0].holder;
/// assert!(holder.is_some_and(|it| it.exclusive && it.pid == Some(std::process::id())));
/// # drop(guard);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockHolder {
    /// Exclusive, or shared.
    pub exclusive: bool,
    /// The process; `None` if the kernel cannot name it here: one in another PID namespace, or an open file
    /// description lock, which belongs to no process.
    pub pid: Option<u32>,
}
