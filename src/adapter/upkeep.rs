//! The verbs that look after the lock directory, and after what killed processes have left.

use std::path::{Path, PathBuf};

use crate::adapter::AtomicFileAdapter;
use crate::error::Result;
use crate::lock::intents;
use crate::lock::upkeep::{self, Seen};
use crate::sys::{Holder, LockMode};
use crate::version::sweep;

impl AtomicFileAdapter {
    /// Removes the lock files that nobody holds at this moment, and returns their paths. This is safe at any time: a
    /// caller that is about to lock one of them notices, and makes it again; on NFS also on another machine.
    ///
    /// A lock file contains a path at most, and costs next to nothing. Prune only if new paths keep coming.
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
    /// The lock directory cannot be listed; nothing was done. [`Error::Partial`](crate::Error::Partial): something has
    /// the name of a lock file but is none (a directory, for example), or cannot be opened or removed (another user's).
    /// The others are removed all the same, and the error says which.
    pub fn prune(&self) -> Result<Vec<PathBuf>> {
        upkeep::prune(&self.config.lock_dir)
    }

    /// Removes the temporary files that killed writers of the file `path` have left beside it. If `path` is a
    /// directory, it removes those of all files in it, but not of files in directories below. Returns their paths.
    ///
    /// It is seldom needed: the first write to an existing file, by a handle or by a path, removes what killed writers
    /// of that file have left. That write looks at the first 1000 names of the directory, and an adapter does this for
    /// its first 100 files only, so that programs that write many files do not become slower. It removes only files
    /// that nobody has written to for an hour. `sweep` has none of these limits. Batches, changes of several files and
    /// the guards of several locks do not look. Nothing is removed while there is an [intent](Self::intents), nor for
    /// a name so long that the temporary file's was cut, nor by a write of a new file.
    ///
    /// A writer holds its lock as long as it has a temporary file, so a file whose lock is held at this moment is left
    /// alone. Temporary files are named `.{name}.{ten of a-z and 2-7}.tmp`, where three of the ten are a check over
    /// everything before them ([the protocol](crate::docs::protocol#the-temporary-file)). A user's own file with such a
    /// name, for example `.notes.javascript.tmp`, has the right check once in 32,768 times. Temporary files do no harm,
    /// they only take up space. A killed write leaves at most one. A killed change of several files leaves at most one
    /// for each file, and one in the lock directory.
    ///
    /// It also removes what a process left that was killed while it made the lock directory or a lock file.
    ///
    /// It looks at the locks of this adapter's lock directory, and at the paths as they are now; so does a first write.
    /// So neither sees a writer that uses another lock directory or another [lock root](crate::Builder::lock_root), whose
    /// directory was renamed since it began, or that uses another path to the file (a bind mount) without a lock root. If
    /// the temporary file of such a writer is removed, its write fails. A change of several files that is decided then
    /// cannot be finished ([`Error::Unfinished`](crate::Error::Unfinished)).
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
    /// [`Error::Partial`](crate::Error::Partial): the directory or the lock directory cannot be listed, a lock file
    /// cannot be opened, or a temporary file (in the lock directory, too) cannot be looked at or removed, for example
    /// because it is another user's. The others are removed all the same, and the error says which.
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

    /// Finishes every change of several files that is decided and not finished, and returns the intents. You need not
    /// call this, because the next caller that takes one of the locks does the same. But a program may want to know at
    /// its start; and if lock files were removed by hand, nobody else would learn of it.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// for intent in files.recover()? {
    ///     println!("finished what {} says", intent.display());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The lock directory cannot be listed. [`Error::Partial`](crate::Error::Partial): some of them cannot be finished, each
    /// for the reason that its [`Error::Unfinished`](crate::Error::Unfinished) tells. The others are finished.
    pub fn recover(&self) -> Result<Vec<PathBuf>> {
        intents::recover(&self.config.lock_dir, || self.config.patience())
    }

    /// Finishes as much as possible of a change of several files, removes its intent, and returns the files that are
    /// not what the change would have made of them. Use it for a change that nobody can ever finish. Afterwards the
    /// files can be used, but do not fit together. [`sweep`](Self::sweep) removes their temporary files.
    ///
    /// ```no_run
    /// # let files = atomic_file_adapter::AtomicFileAdapter::new()?;
    /// for intent in files.intents()? {
    ///     for file in files.give_up(&intent.path)? {
    ///         println!("{} was not changed", file.display());
    ///     }
    /// }
    /// # Ok::<(), atomic_file_adapter::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The path is not that of an intent, one of the locks cannot be taken, or what was done cannot be synced: then the
    /// intent is still there. That there is no such intent is not an error.
    pub fn give_up(&self, intent: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
        intents::give_up(&self.config.lock_dir, intent.as_ref(), &self.config.patience())
    }

    /// The intents in the lock directory, sorted: changes of several files that are being made at this moment, or that
    /// are unfinished. [`recover`](Self::recover) tells the two apart, because it waits for the locks.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// for intent in files.intents()? {
    ///     println!("{}: {:?}", intent.path.display(), intent.files);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The lock directory cannot be listed.
    pub fn intents(&self) -> Result<Vec<Intent>> {
        let intents = intents::list(&self.config.lock_dir)?.into_iter().map(|(path, files)| match files {
            Ok(files) => Intent { path, files, problem: None },
            Err(error) => Intent { path, files: Vec::new(), problem: Some(error.to_string()) },
        });
        Ok(intents.collect())
    }

    /// All lock files of the lock directory, sorted by path, and the process that holds each at this moment.
    ///
    /// The list also has files with the name of a lock file that are none, or that may not be opened, each with its
    /// [`problem`](LockFile::problem).
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let file = files.file(scratch.path().join("settings.toml"))?;
    /// let guard = file.lock()?;
    /// for lock in files.locks()? {
    ///     let name = lock.guards.unwrap_or(lock.path);
    ///     match (lock.problem, lock.holder) {
    ///         (Some(problem), _) => println!("{problem}"), // it names the path
    ///         (None, Some(holder)) => println!("{}: process {:?}", name.display(), holder.pid),
    ///         (None, None) => println!("{}: free", name.display()),
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
        Ok(files.into_iter().map(LockFile::new).collect())
    }

    /// Which process holds the lock of `path` at this moment, and which processes wait for it. `None`: there is no lock
    /// file, so nobody holds it.
    ///
    /// It looks at one lock file; [`locks`](Self::locks) looks at all of them.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let path = scratch.path().join("settings.toml");
    /// # let file = files.file(&path)?;
    /// assert!(files.lock_of(&path)?.is_none());
    /// let guard = file.lock()?;
    /// let holder = files.lock_of(&path)?.and_then(|lock| lock.holder);
    /// assert_eq!(holder.and_then(|holder| holder.pid), Some(std::process::id()));
    /// # drop(guard);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The path cannot be resolved, or is outside the lock root. If the lock file cannot be looked at, that is no
    /// error, but its [`problem`](LockFile::problem).
    pub fn lock_of(&self, path: impl AsRef<Path>) -> Result<Option<LockFile>> {
        Ok(upkeep::list_one(&self.config.lock_dir, self.lock_path(path)?)?.map(LockFile::new))
    }
}

/// A change of several files that is decided and not finished, from [`AtomicFileAdapter::intents`].
///
/// ```
/// # let scratch = tempfile::tempdir()?;
/// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
/// assert!(files.intents()?.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Intent {
    /// The file in the lock directory that describes the change.
    pub path: PathBuf,
    /// The files of the change.
    pub files: Vec<PathBuf>,
    /// Why the files are not known.
    pub problem: Option<String>,
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
    /// The path that it guards: absolute, or below the [lock root](crate::Builder::lock_root) of the program that made
    /// it. `None`: the lock file does not say it, or its name does not confirm it. A lock file says it unless other
    /// users share the lock directory, the path is longer than 2047 bytes or has a newline in it, the disk was full, or
    /// another program made the file.
    pub guards: Option<PathBuf>,
    /// The holder of its lock. If several processes share it, one of them. `None`: nobody, unless there is a `problem`.
    pub holder: Option<LockHolder>,
    /// The processes that wait for it, sorted, each once, however many of its threads wait. `None`: the system does not
    /// tell, as on Apple's systems, or without /proc.
    ///
    /// Linux tells it in [/proc/locks](https://man7.org/linux/man-pages/man5/proc_locks.5.html), which is read after
    /// the holder was asked for. It does not have processes of another PID namespace or on another machine, processes
    /// that try again and again instead of waiting, and threads that wait for a thread of their own process. On btrfs,
    /// whose subvolumes have inode numbers of their own, processes that wait for a file of the same number in another
    /// subvolume are listed, too.
    pub waiters: Option<Vec<u32>>,
    /// The change of several files that the next caller has to finish, unless the holder is making it now; see
    /// [`recover`](AtomicFileAdapter::recover). The intent need not exist: then the change was given up before it was
    /// decided, or is finished, and the next caller notices.
    pub intent: Option<PathBuf>,
    /// Why the holder is not known: the message of an [`Error`](crate::Error), which names the path. This is not a lock
    /// file but, for example, a directory, or it may not be opened.
    pub problem: Option<String>,
}

impl LockFile {
    fn new((path, seen): (PathBuf, Result<Seen>)) -> Self {
        match seen {
            Ok(Seen { holder, guards, intent, waiters, .. }) => {
                let exclusive = |holder: &Holder| holder.mode == LockMode::Exclusive;
                let holder = holder.map(|holder| LockHolder { exclusive: exclusive(&holder), pid: holder.pid });
                LockFile { path, guards, holder, waiters, intent, problem: None }
            }
            Err(error) => LockFile {
                path,
                guards: None,
                holder: None,
                waiters: None,
                intent: None,
                problem: Some(error.to_string()),
            },
        }
    }
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
    /// The process. `None`: the kernel cannot name it here, because it is in another PID namespace, or it has an open
    /// file description lock, which belongs to no process.
    pub pid: Option<u32>,
}
