//! Errors, with the path, the step, and the error of the operating system.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::sys::{self, Errno, FileKind};

/// The result of every fallible call in this crate.
///
/// ```
/// use atomic_file_adapter::{AtomicFileAdapter, Result};
///
/// fn save(files: &AtomicFileAdapter, settings: &str) -> Result<()> {
///     files.write_atomic("settings.toml", settings)
/// }
/// # let _ = save;
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. Every variant names the file or directory that it is about.
///
/// After an error up to and including the rename, the file is unchanged, and no temporary file is left (unless removing
/// it fails, too). These errors can come after a rename: [`Error::NotDurable`], [`Error::LockLost`] if it says so,
/// [`Error::Unfinished`], and, for the files that it lists as replaced, [`Error::Batch`].
///
/// `From<Error> for io::Error` keeps the [`io::ErrorKind`], so a function that returns `io::Result` can use `?`.
///
/// ```
/// # let scratch = tempfile::tempdir()?;
/// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
/// # let path = scratch.path().join("settings.toml");
/// use atomic_file_adapter::Error;
///
/// match files.write_atomic(&path, "colour = 'red'\n") {
///     Ok(()) => {}
///     // Every process sees the new version; only a power cut can still undo it.
///     Err(Error::NotDurable { source, .. }) => eprintln!("kept for now: {source}"),
///     // On NFS: the server had let others in before.
///     Err(Error::LockLost { replaced: true, source, .. }) => eprintln!("written without the lock: {source}"),
///     // Nothing has happened. The message names the path, what was being done, and what the system said.
///     Err(error) => eprintln!("{error}"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[non_exhaustive]
    Io {
        /// The file or directory that the step was about.
        path: PathBuf,
        /// The step that failed.
        step: Step,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file was replaced (or removed), but the sync of its directory failed: every process sees the new state
    /// now, and a power cut may still bring the old one back.
    ///
    /// Calling again writes the file anew, or makes sure that it stays removed, which is safe. Syncing the same directory
    /// again proves nothing, because a file system may report a failed write-back only once.
    #[non_exhaustive]
    NotDurable {
        /// The file that was replaced or removed.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The lock did not become free in time.
    #[non_exhaustive]
    Timeout {
        /// The file whose lock was wanted.
        path: PathBuf,
        /// Its lock file.
        lock: PathBuf,
        /// How long the call was allowed to wait.
        waited: Duration,
        /// A process that held the lock when the time was up, where the system can tell; this process's own number
        /// if another of its threads held it.
        holder: Option<u32>,
        /// Another thread of this process held it.
        by_thread: bool,
    },
    /// From `try_lock` or `try_lock_shared`: another thread or process holds the lock, or already waits for it.
    #[non_exhaustive]
    WouldBlock {
        /// The file whose lock was wanted.
        path: PathBuf,
        /// Its lock file.
        lock: PathBuf,
    },
    /// The lock file exists and may not be opened, or not for writing, which an exclusive lock needs; or it does not
    /// exist and this process may not make it. Lock files are shared: everybody who uses the file must be able to read
    /// and write them.
    ///
    /// What helps: the owner of the lock file gives others access (`chmod`), or removes it while nobody uses it. So
    /// that it does not happen again, use a shared lock directory or [`lock_file_mode`]. A caller that may read the
    /// file but not use its lock file can use [`read_unlocked`].
    ///
    /// [`lock_file_mode`]: crate::Builder::lock_file_mode
    /// [`read_unlocked`]: crate::AtomicFile::read_unlocked
    #[non_exhaustive]
    LockFileDenied {
        /// The file whose lock was wanted.
        path: PathBuf,
        /// Its lock file.
        lock: PathBuf,
        /// The owner of the lock file. `None`: there is none, or it cannot be looked at.
        owner: Option<u32>,
        /// The lock file's mode.
        mode: Option<u32>,
        /// What the operating system said.
        source: io::Error,
    },
    /// Waiting would never have ended: this thread already holds the lock, or it holds a lock that the holder of the
    /// wanted one waits for.
    ///
    /// Between threads of one process this is certain, and reported at once. Between processes the kernel reports it
    /// (EDEADLK). The kernel sees processes and not threads, so it also reports cycles in which no thread waits for
    /// itself. This crate believes the report only if the thread holds another lock, and only after the same process
    /// has been in the way for 30 seconds. [Limits](crate::docs::limits#threads-deadlocks-limits-on-waiting) has the
    /// details.
    #[non_exhaustive]
    Deadlock {
        /// The file whose lock was wanted.
        path: PathBuf,
        /// The files whose locks the calling thread holds.
        held: Vec<PathBuf>,
    },
    /// The lock was lost while it was held. The server of a network file system has not heard from this machine for
    /// longer than its lease, and has given the lock to others; or it cannot be asked, because the mount option `soft`
    /// lets requests fail. This happens only on NFS, where the lock is checked right before a file is replaced or
    /// removed, and after that. [Limits](crate::docs::limits#several-machines) says what can happen in between.
    ///
    /// Release the lock, and begin again. On a `soft` mount ([nfs(5)]) a server that does not answer in time looks the
    /// same.
    ///
    /// [nfs(5)]: https://man7.org/linux/man-pages/man5/nfs.5.html
    #[non_exhaustive]
    LockLost {
        /// The file whose lock it was.
        path: PathBuf,
        /// `false`: nothing was done. `true`: the file was replaced or removed, maybe without the lock, and what others
        /// have written meanwhile may be lost.
        replaced: bool,
        /// What the operating system said.
        source: io::Error,
    },
    /// A guard was used in a child made by `fork(2)`. Record locks are not inherited, so the guard protects nothing
    /// there.
    #[non_exhaustive]
    Forked {
        /// The file that the guard was taken for.
        path: PathBuf,
    },
    /// There is something else than a regular file at this path.
    #[non_exhaustive]
    NotRegularFile {
        /// The path.
        path: PathBuf,
        /// What is there instead.
        kind: FileKind,
    },
    /// The path cannot be used: it is empty, for example, or leads to a lock file, or to a hard link of one that this
    /// process is using.
    #[non_exhaustive]
    InvalidPath {
        /// The path, as it was given.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// There is a symbolic link in the path, and the adapter follows none
    /// ([`Builder::follow_links`](crate::Builder::follow_links)). As an [`io::Error`] it has the kind of ELOOP, as from
    /// the kernel.
    #[non_exhaustive]
    SymbolicLink {
        /// The path, as it was given.
        path: PathBuf,
        /// The first link in it.
        link: PathBuf,
    },
    /// The path does not lead below the adapter's lock root ([`Builder::lock_root`](crate::Builder::lock_root)), so its
    /// lock has no name. A file outside the root needs another adapter, or a root further up that is the same directory
    /// for all programs.
    #[non_exhaustive]
    OutsideLockRoot {
        /// The path, as it was given.
        path: PathBuf,
        /// Where it leads: the canonical path.
        real: PathBuf,
        /// The lock root, a real path.
        root: PathBuf,
    },
    /// A batch was not committed as a whole.
    #[non_exhaustive]
    Batch {
        /// The canonical paths of the files that were replaced or removed before it failed. A power cut may undo that.
        replaced: Vec<PathBuf>,
        /// Why it failed.
        source: Box<Error>,
    },
    /// A change of several files as one is decided, and could not be finished. Some of the files may be new and some
    /// old, and none of them may be used. The caller that makes such a change gets this error. If that caller dies,
    /// every caller that takes the lock of one of these files tries to finish the change first, and gets this error if
    /// it cannot.
    ///
    /// What helps: remove what its source says is in the way. Or call [`give_up`](crate::AtomicFileAdapter::give_up),
    /// which finishes as much as possible and forgets the rest.
    #[non_exhaustive]
    Unfinished {
        /// The file whose lock was wanted, or the first of those that were to be changed.
        path: PathBuf,
        /// The intent: the file in the lock directory that says what is to be done.
        intent: PathBuf,
        /// What was in the way.
        source: Box<Error>,
    },
    /// From [`update_many`](crate::AtomicFileAdapter::update_many): the change has returned another number of new
    /// versions than there are files. Nothing was done.
    #[non_exhaustive]
    NewVersions {
        /// The first file.
        path: PathBuf,
        /// How many files there are.
        files: usize,
        /// How many new versions were given.
        given: usize,
    },
    /// From [`prune`](crate::AtomicFileAdapter::prune), [`sweep`](crate::AtomicFileAdapter::sweep) or
    /// [`recover`](crate::AtomicFileAdapter::recover): something could not be removed, finished, or looked at. The call
    /// has gone on with the rest.
    ///
    /// Its message has a line for each failure. As an [`io::Error`] it has the kind of the first.
    #[non_exhaustive]
    Partial {
        /// What was removed or finished, sorted.
        done: Vec<PathBuf>,
        /// One error for each failure; never empty.
        failed: Vec<Error>,
    },
    /// The contents are not UTF-8. Only from [`read_to_string_with_lock`].
    ///
    /// [`read_to_string_with_lock`]: crate::AtomicFileAdapter::read_to_string_with_lock
    #[non_exhaustive]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// How many bytes from its beginning are valid UTF-8.
        valid_up_to: usize,
    },
}

/// The steps of a call, as [`Error::Io`] names them.
///
/// ```
/// # let scratch = tempfile::tempdir()?;
/// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
/// use atomic_file_adapter::{Error, Step};
///
/// # std::fs::write(scratch.path().join("a-file"), "")?;
/// let error = files.write_atomic(scratch.path().join("a-file/settings.toml"), "").unwrap_err();
/// assert!(matches!(error, Error::Io { step: Step::Resolve, .. }), "{error}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// Asking for the current directory, to make a relative path absolute.
    CurrentDirectory,
    /// Finding the directory and the name that a path stands for.
    Resolve,
    /// Making a missing directory above the file, or syncing the directory above that.
    CreateDirectory,
    /// Making the directory for the lock files.
    CreateLockDirectory,
    /// Opening or making the lock file.
    OpenLock,
    /// Taking the lock.
    Lock,
    /// Listing the lock directory.
    ListLocks,
    /// Removing a lock file that nobody holds.
    RemoveLock,
    /// Asking for a file's type, mode and owner.
    Stat,
    /// Opening a file to read it.
    Open,
    /// Reading.
    Read,
    /// Making the temporary file beside the target. [`AlreadyExists`](io::ErrorKind::AlreadyExists): as many names as
    /// [mkstemp(3)](https://man7.org/linux/man-pages/man3/mkstemp.3.html) of glibc tries, 238,328, were all taken.
    CreateTemporary,
    /// Writing the temporary file.
    Write,
    /// Giving the temporary file the owner of the file that it replaces.
    SetOwner,
    /// Giving a file, or the temporary file beside it, its mode.
    SetMode,
    /// Asking for the extended attributes of the file, its access control list among them.
    ReadAttributes,
    /// Giving the temporary file the extended attributes of the file that it replaces, or taking away what it got from the
    /// directory's default access control list.
    SetAttributes,
    /// Syncing the temporary file, or a file whose mode was changed.
    Sync,
    /// Renaming the temporary file over the target. [`ResourceBusy`](io::ErrorKind::ResourceBusy): most likely the file
    /// itself is a mount point, and the message says so. Mount its directory instead.
    Rename,
    /// Removing the file. [`ResourceBusy`](io::ErrorKind::ResourceBusy): as [`Rename`](Self::Rename).
    Remove,
    /// Syncing the directory is impossible, because it cannot be opened for reading, or proves nothing, because its file
    /// system takes no more changes. Nothing has happened to the file. If the sync itself fails, that is
    /// [`Error::NotDurable`].
    SyncDirectory,
    /// Looking for temporary files that killed writers have left.
    ListDirectory,
    /// Marking a lock file with the name of an intent.
    MarkLock,
    /// Writing an intent, which says what is to be done to several files, and syncing it and the lock directory.
    WriteIntent,
    /// Opening or syncing the lock directory, before a change of several files is finished, or before a file is written
    /// that was part of one.
    SyncLocks,
    /// Reading or removing an intent.
    ReadIntent,
    /// Doing what an intent says to a file.
    FinishChange,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::CurrentDirectory => "find the current directory for",
            Step::Resolve => "resolve the path",
            Step::CreateDirectory => "create the missing directories of",
            Step::CreateLockDirectory => "create the lock directory",
            Step::OpenLock => "open the lock file",
            Step::Lock => "take the lock of",
            Step::ListLocks => "list the lock directory",
            Step::RemoveLock => "remove the lock file",
            Step::Stat => "look at",
            Step::Open => "open",
            Step::Read => "read",
            Step::CreateTemporary => "create a temporary file beside",
            Step::Write => "write the temporary file for",
            Step::SetOwner => "keep the owner of",
            Step::SetMode => "set the mode of",
            Step::ReadAttributes => "read the attributes and the access control list of",
            Step::SetAttributes => "set the attributes and the access control list of the temporary file for",
            Step::Sync => "sync",
            Step::Rename => "rename the temporary file over",
            Step::Remove => "remove",
            Step::SyncDirectory => "sync the directory of",
            Step::ListDirectory => "look for temporary files in",
            Step::MarkLock => "mark the lock file of",
            Step::WriteIntent => "write down the change of several files in",
            Step::SyncLocks => "sync the lock directory",
            Step::ReadIntent => "read or remove the intent",
            Step::FinishChange => "finish the change of",
        })
    }
}

impl Error {
    pub(crate) fn io(path: &Path, step: Step, source: impl Into<io::Error>) -> Self {
        Error::Io { path: path.to_owned(), step, source: source.into() }
    }

    /// If the process has too few descriptors, says in the error how many the call needs.
    pub(crate) fn for_files(self, files: usize) -> Self {
        match self {
            Error::Io { path, step, source } if source.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => {
                let limit = sys::descriptor_limit();
                let why = format!(
                    "{files} files are changed as one, which takes a descriptor for the lock of each, one for each of their \
                     directories, and some more, and this process may have {limit} (RLIMIT_NOFILE, `ulimit -n`): {source}"
                );
                Error::Io { path, step, source: io::Error::new(source.kind(), why) }
            }
            error => error,
        }
    }

    /// Whether a server has reported that a file or directory no longer exists (ESTALE). The name may have a new file
    /// by now.
    pub(crate) fn is_stale(&self) -> bool {
        matches!(self, Error::Io { source, .. } if source.raw_os_error() == Some(Errno::STALE.raw_os_error()))
    }

    /// The file or directory that the error is about: that of the call, or its lock file, or the lock directory.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// let error = files.read_with_lock(scratch.path()).unwrap_err();
    /// assert_eq!(error.path(), scratch.path().canonicalize()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn path(&self) -> &Path {
        match self {
            Error::Io { path, .. }
            | Error::NotDurable { path, .. }
            | Error::Timeout { path, .. }
            | Error::WouldBlock { path, .. }
            | Error::LockFileDenied { path, .. }
            | Error::Deadlock { path, .. }
            | Error::LockLost { path, .. }
            | Error::Forked { path }
            | Error::NotRegularFile { path, .. }
            | Error::InvalidPath { path, .. }
            | Error::SymbolicLink { path, .. }
            | Error::OutsideLockRoot { path, .. }
            | Error::Unfinished { path, .. }
            | Error::NewVersions { path, .. }
            | Error::NotUtf8 { path, .. } => path,
            Error::Batch { source, .. } => source.path(),
            Error::Partial { failed, .. } => failed.first().map_or(Path::new(""), Error::path),
        }
    }

    /// The kind that this error has as an [`io::Error`].
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// use std::io;
    ///
    /// fn read(files: &atomic_file_adapter::AtomicFileAdapter, path: &std::path::Path) -> io::Result<Option<Vec<u8>>> {
    ///     Ok(files.read_with_lock(path)?) // an Error becomes an io::Error of that kind
    /// }
    /// assert_eq!(read(&files, scratch.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Error::Io { source, .. }
            | Error::NotDurable { source, .. }
            | Error::LockLost { source, .. }
            | Error::LockFileDenied { source, .. } => source.kind(),
            Error::Timeout { .. } => io::ErrorKind::TimedOut,
            Error::WouldBlock { .. } => io::ErrorKind::WouldBlock,
            Error::Deadlock { .. } => io::ErrorKind::Deadlock,
            Error::NotRegularFile { kind: FileKind::Directory, .. } => io::ErrorKind::IsADirectory,
            Error::Forked { .. }
            | Error::NotRegularFile { .. }
            | Error::InvalidPath { .. }
            | Error::NewVersions { .. }
            | Error::OutsideLockRoot { .. } => io::ErrorKind::InvalidInput,
            Error::SymbolicLink { .. } => Errno::LOOP.kind(),
            Error::NotUtf8 { .. } => io::ErrorKind::InvalidData,
            Error::Batch { source, .. } | Error::Unfinished { source, .. } => source.kind(),
            Error::Partial { failed, .. } => failed.first().map_or(io::ErrorKind::Other, Error::kind),
        }
    }
}

/// The result of a call that removes many files and goes on after errors.
#[derive(Debug, Default)]
pub(crate) struct Removed {
    pub(crate) done: Vec<PathBuf>,
    pub(crate) failed: Vec<Error>,
}

impl Removed {
    /// `Ok(false)`: it is gone already, or need not be removed.
    pub(crate) fn note(&mut self, path: PathBuf, removed: Result<bool>) {
        match removed {
            Ok(true) => self.done.push(path),
            Ok(false) => {}
            Err(error) => self.failed.push(error),
        }
    }

    pub(crate) fn into_result(self) -> Result<Vec<PathBuf>> {
        let Removed { mut done, failed } = self;
        done.sort();
        if failed.is_empty() { Ok(done) } else { Err(Error::Partial { done, failed }) }
    }
}

/// Advice for the user, if the message of the system does not suffice.
fn advice(step: Step, source: &io::Error) -> Option<&'static str> {
    use Step::*;
    let is_about_locks = matches!(
        step,
        CreateLockDirectory | OpenLock | Lock | ListLocks | RemoveLock | MarkLock | WriteIntent | SyncLocks
    );
    // Errors that this crate makes contain their advice.
    Some(match Errno::from_raw_os_error(source.raw_os_error()?) {
        Errno::NOSPC | Errno::DQUOT if is_about_locks => {
            "make room there, or use another lock directory, the same for all programs (lock_dir, --lock-dir)"
        }
        Errno::NOSPC | Errno::DQUOT => "the file is what it was; make room and try again",
        Errno::FBIG => "the file is what it was; the file system or RLIMIT_FSIZE (ulimit -f) allows no larger one",
        Errno::ROFS if is_about_locks => {
            "use a lock directory that can be written, the same for all programs (lock_dir, --lock-dir), or read without a \
             lock (read_unlocked)"
        }
        Errno::ROFS => "mount it for writing",
        Errno::MFILE => "this process has too many files open: close some, or allow more (ulimit -n)",
        Errno::NOLCK => {
            "the file system of the lock directory has no record locks, or no room for more: use a lock directory on a \
             local disk, the same for all programs (lock_dir, --lock-dir)"
        }
        Errno::IO => "the device or the server fails, and the kernel's log (dmesg) may say why",
        Errno::STALE => "the server knows it no more: try again",
        Errno::NOENT if step == CurrentDirectory => "it was removed: change to another directory",
        Errno::ACCESS | Errno::PERM => match step {
            CreateTemporary | Rename => {
                "a new version is a new file, so this user must be allowed to write to the directory"
            }
            Remove | FinishChange => "this user must be allowed to write to the directory that it is in",
            CreateDirectory => "this user must be allowed to write to the directory above them",
            Stat | Resolve => "this user must be allowed to search every directory of the path",
            Open | Read => "this user must be allowed to read it",
            SyncDirectory => {
                "a durable write needs permission to read the directory; one that is only ordered does without \
                 (Durability::Ordered, --durability ordered)"
            }
            ListDirectory | ListLocks => "this user must be allowed to read the directory",
            CreateLockDirectory => {
                "its owner can make it for this user; or use another one, the same for all programs (lock_dir, --lock-dir)"
            }
            OpenLock | RemoveLock | MarkLock | WriteIntent | SyncLocks | ReadIntent => {
                "this user must be allowed to write to the lock directory and to what is in it"
            }
            SetMode => "only the owner of a file may change its mode",
            _ => return None,
        },
        _ => return None,
    })
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path().display();
        match self {
            Error::Io { step, source, .. } => {
                write!(f, "cannot {step} {path}: {source}")?;
                advice(*step, source).map_or(Ok(()), |advice| write!(f, "; {advice}"))
            }
            Error::NotDurable { source, .. } => write!(
                f,
                "{path} was replaced or removed, but its directory could not be synced, so a power cut may undo that: \
                 {source}; to be sure, write it again"
            ),
            Error::Timeout { lock, waited, holder, by_thread, .. } => {
                match waited.is_zero() {
                    true => write!(f, "the lock of {path} is taken ({})", lock.display())?,
                    false => {
                        write!(f, "gave up after {waited:?} waiting for the lock of {path} ({})", lock.display())?;
                    }
                }
                match holder {
                    _ if *by_thread => write!(f, ", held by another thread of this process")?,
                    Some(pid) => write!(f, ", held by process {pid}")?,
                    None => {}
                }
                write!(f, "; try again later, or wait longer")
            }
            Error::WouldBlock { lock, .. } => {
                write!(f, "the lock of {path} is taken ({}); try again later, or wait for it (lock)", lock.display())
            }
            Error::LockFileDenied { path: guarded, lock, owner: Some(owner), mode: Some(mode), source } => {
                // Prune and sweep know only the lock file.
                if guarded != lock {
                    write!(f, "cannot take the lock of {path}: ")?;
                }
                write!(
                    f,
                    "cannot open the lock file {}, which belongs to user {owner} and has mode {mode:04o}: {source}; every \
                     user of the file must be allowed to use its lock file: the owner can chmod or prune it, and a shared lock \
                     directory, lock_file_mode or --lock-mode lets others use new ones",
                    lock.display()
                )
            }
            Error::LockFileDenied { lock, source, .. } => write!(
                f,
                "cannot take the lock of {path}: its lock file {} may not be made or looked at: {source}; the owner of the lock \
                 directory can let this user write there",
                lock.display()
            ),
            Error::Deadlock { held, .. } => {
                write!(f, "waiting for the lock of {path} would never end: this thread holds the lock of ")?;
                for (n, held) in held.iter().enumerate() {
                    let comma = if n > 0 { ", " } else { "" };
                    write!(f, "{comma}{}", held.display())?;
                }
                write!(f, "; let go of that first, or take all the locks at once (lock_many)")
            }
            Error::LockLost { replaced, source, .. } => {
                let done = match replaced {
                    true => {
                        "it was replaced or removed all the same, and what others have written meanwhile may be lost"
                    }
                    false => "nothing was done; begin anew",
                };
                write!(f, "the server has taken away the lock of {path} while it was held ({source}): {done}")
            }
            Error::Forked { .. } => write!(
                f,
                "the guard of {path} was inherited by fork(2) and holds no lock in this process: take the lock anew"
            ),
            Error::NotRegularFile { kind, .. } => write!(f, "{path} is not a regular file but {kind}"),
            Error::InvalidPath { reason, .. } => write!(f, "{path:?} cannot be used: {reason}"),
            Error::SymbolicLink { link, .. } => write!(
                f,
                "{path} leads through the symbolic link {}, and links are not to be followed; give the path without a link, or \
                 allow links (follow_links; no --no-follow)",
                link.display()
            ),
            Error::OutsideLockRoot { path: given, real, root } => {
                write!(f, "{path} ")?;
                if given != real {
                    write!(f, "leads to {}, which ", real.display())?;
                }
                write!(
                    f,
                    "is not below the lock root {}, and only what is below it has a lock: use a path below it, or another root \
                     (lock_root, --lock-root)",
                    root.display()
                )
            }
            Error::Batch { replaced, source } if replaced.is_empty() => {
                write!(f, "the batch failed before any of its files was replaced or removed: {source}")
            }
            Error::Batch { replaced, source } => write!(
                f,
                "the batch failed after {} of its files were replaced or removed; the others are as they were, and commit_all \
                 changes all or none: {source}",
                replaced.len()
            ),
            Error::Unfinished { intent, source, .. } => write!(
                f,
                "{path} belongs to a change of several files that is decided and not finished, and cannot be used until it is: \
                 {source}; mend that, and the next use of the file finishes the change, or give up what is left of it \
                 (give_up, recover --give-up): {}",
                intent.display()
            ),
            Error::NewVersions { files, given, .. } => write!(
                f,
                "a change of {files} files, {path} the first, has given {given} new versions; nothing was done: give one for each \
                 file, in the same order"
            ),
            Error::Partial { done, failed } => {
                let (removed, failures) = (done.len(), failed.len());
                write!(f, "not everything could be done (done: {removed}, failed: {failures}):")?;
                failed.iter().try_for_each(|error| write!(f, "\n{error}"))
            }
            Error::NotUtf8 { valid_up_to, .. } => {
                write!(
                    f,
                    "the contents of {path} are not UTF-8 from byte {valid_up_to} on; read them as bytes (read_with_lock)"
                )
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. }
            | Error::NotDurable { source, .. }
            | Error::LockLost { source, .. }
            | Error::LockFileDenied { source, .. } => Some(source),
            Error::Batch { source, .. } | Error::Unfinished { source, .. } => Some(source),
            Error::Partial { failed, .. } => failed.first().map(|error| error as _),
            _ => None,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::new(error.kind(), error)
    }
}
