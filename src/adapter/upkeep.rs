//! The verbs for whoever looks after the lock directory, and after what killed processes have left.

use std::path::{Path, PathBuf};

use crate::adapter::AtomicFileAdapter;
use crate::error::Result;
use crate::lock::upkeep;
use crate::sys::LockMode;
use crate::version::sweep;

impl AtomicFileAdapter {
    /// Removes the lock files that nobody holds at this moment, and returns their paths. Safe at any time: whoever is
    /// about to lock one of them notices, and makes it anew.
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
    /// The lock directory cannot be listed, or a lock file not opened or removed. The rest is left as it is.
    pub fn prune(&self) -> Result<Vec<PathBuf>> {
        upkeep::prune(&self.config.lock_dir)
    }

    /// Removes the temporary files that killed writers of the file `path` have left beside it; if `path` is a directory,
    /// those of all files in it, but not of files in directories below. Returns their paths.
    ///
    /// A writer holds its lock for as long as it has a temporary file, so one whose lock is taken at this moment is left
    /// alone. Such files are named `.{name}.{ten of a-z and 2-7}.tmp`. They never come in anybody's way; they take up
    /// space. A write that was killed leaves one at the most.
    ///
    /// What a process that was killed while it made the lock directory or a lock file has left there is removed, too.
    ///
    /// The locks are those of this adapter's lock directory and of the paths as they are now. A writer that uses another
    /// lock directory is not seen, nor one whose directory was renamed since it began, or that came to it by another path
    /// (a bind mount); its write fails if its temporary file is taken away.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # std::fs::write(scratch.path().join(".settings.toml.a2b3c4d5e6.tmp"), "")?;
    /// // Once at the start of a program, for example.
    /// for left in files.sweep(scratch.path())? {
    ///     println!("removed {}, which a killed writer had left", left.display());
    /// }
    /// # assert!(!scratch.path().join(".settings.toml.a2b3c4d5e6.tmp").exists());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The path cannot be resolved, the directory not listed, a lock file not opened, or a temporary file (in the lock
    /// directory, too) not looked at or not removed: another user's, for example. The others are removed all the same.
    pub fn sweep(&self, path: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
        sweep::sweep(&self.config.lock_dir, path.as_ref())
    }

    /// All lock files of the lock directory, sorted by path, and who holds them at this moment.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let file = files.file(scratch.path().join("settings.toml"))?;
    /// let guard = file.lock()?;
    /// for lock in files.locks()? {
    ///     match lock.holder {
    ///         Some(holder) => println!("{}: process {:?}", lock.path.display(), holder.pid),
    ///         None => println!("{}: free", lock.path.display()),
    ///     }
    /// }
    /// # drop(guard);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The lock directory or a lock file cannot be opened. A lock directory that does not exist has no lock files.
    pub fn locks(&self) -> Result<Vec<LockFile>> {
        let files = upkeep::list(&self.config.lock_dir)?;
        Ok(files
            .into_iter()
            .map(|(path, holder)| LockFile {
                path,
                holder: holder
                    .map(|holder| LockHolder { exclusive: holder.mode == LockMode::Exclusive, pid: holder.pid }),
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
    /// Who holds its lock. Of several processes that share it, one.
    pub holder: Option<LockHolder>,
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
