//! Making an adapter, with its settings.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::adapter::AtomicFileAdapter;
use crate::error::{Error, Result, Step};
use crate::lock::{LockDir, OnWait, Recent, Waiting};
use crate::path::{current_dir, real_path_of_directory};
use crate::settings::{Config, Durability, LOOKS_FOR_LITTER, Options};
use crate::sys::Links;

impl AtomicFileAdapter {
    /// An adapter with the default settings: lock files in [`DEFAULT_LOCK_DIR`](Self::DEFAULT_LOCK_DIR) under the
    /// current directory, which is asked for now and not again; [`Durability::Full`](crate::Durability::Full); no time
    /// limit for locks.
    ///
    /// ```
    /// use atomic_file_adapter::AtomicFileAdapter;
    ///
    /// # let scratch = tempfile::tempdir()?;
    /// # std::env::set_current_dir(&scratch)?;
    /// let files = AtomicFileAdapter::new()?;
    /// assert_eq!(files.lock_dir(), std::env::current_dir()?.join(AtomicFileAdapter::DEFAULT_LOCK_DIR));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The current directory cannot be found.
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// As [`new`](Self::new), with the lock files in `dir`. The directory is made when it is first needed.
    ///
    /// ```
    /// use atomic_file_adapter::AtomicFileAdapter;
    ///
    /// # let scratch = tempfile::tempdir()?;
    /// # let dir = scratch.path();
    /// let files = AtomicFileAdapter::with_lock_dir(dir.join("locks"))?;
    /// files.write_atomic(dir.join("settings.toml"), "colour = 'red'\n")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `dir` is relative, and the current directory cannot be found.
    pub fn with_lock_dir(dir: impl AsRef<Path>) -> Result<Self> {
        Self::builder().lock_dir(dir).build()
    }

    /// An adapter with settings of its own.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use atomic_file_adapter::AtomicFileAdapter;
    ///
    /// let files = AtomicFileAdapter::builder().lock_timeout(Duration::from_secs(5)).build()?;
    /// # drop(files);
    /// # Ok::<(), atomic_file_adapter::Error>(())
    /// ```
    pub fn builder() -> Builder {
        Builder::default()
    }
}

/// The settings of a new [`AtomicFileAdapter`].
///
/// ```
/// use std::time::Duration;
/// use atomic_file_adapter::{AtomicFileAdapter, Durability};
///
/// # fn main() -> atomic_file_adapter::Result<()> {
/// let files = AtomicFileAdapter::builder()
///     .lock_dir("/var/lock/my-program")
///     .lock_timeout(Duration::from_secs(5))
///     .durability(Durability::Ordered)
///     .new_file_mode(0o600)
///     .build()?;
/// # let _ = files;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "a builder does nothing until `build`"]
pub struct Builder {
    lock_dir: Option<PathBuf>,
    durability: Durability,
    lock_timeout: Option<Duration>,
    new_file_mode: Option<u32>,
    refuse_links: bool,
    lock_file_mode: Option<u32>,
    on_wait: Option<OnWait>,
    on_wait_after: Option<Duration>,
    lock_root: Option<PathBuf>,
}

impl Builder {
    /// Where the lock files are. A relative path begins at the directory that is current when [`build`](Self::build) is
    /// called. Default: [`AtomicFileAdapter::DEFAULT_LOCK_DIR`] there, or below the [lock root](Self::lock_root) if
    /// there is one.
    ///
    /// It is made when it is first needed. If it then has nothing but lock files and no `.gitignore`, it gets one that
    /// hides everything in it.
    ///
    /// Everybody who can write to it, or to a directory above it, must be trusted. They can remove lock files, hold
    /// locks for ever, or put another directory in its place; then nobody excludes anybody. The system follows its path
    /// as any other path, links included, also with [`follow_links(false)`](Self::follow_links). If others can write to
    /// the current directory, as in `/tmp`, their link at `.jerry` or `.jerry/local` leads the default directory
    /// elsewhere, and a program of root makes a directory, lock files and a `.gitignore` there. Only the lock file
    /// itself is never a link. So a program with more rights than others should name a lock directory of its own.
    ///
    /// A lock file contains the path that it guards, so everybody who may read the lock file can learn the path. It
    /// does not contain the path if others may write to the lock directory, or if there is a
    /// [`lock_file_mode`](Self::lock_file_mode).
    ///
    /// ```
    /// use atomic_file_adapter::AtomicFileAdapter;
    ///
    /// let files = AtomicFileAdapter::builder().lock_dir("/run/lock/my-program").build()?;
    /// # drop(files);
    /// # Ok::<(), atomic_file_adapter::Error>(())
    /// ```
    pub fn lock_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.lock_dir = Some(dir.as_ref().to_owned());
        self
    }

    /// What writes and deletes promise about a power cut. Default: [`Durability::Full`].
    ///
    /// ```
    /// use atomic_file_adapter::{AtomicFileAdapter, Durability};
    ///
    /// // A cache: complete after a power cut, but maybe not the last version.
    /// let files = AtomicFileAdapter::builder().durability(Durability::Ordered).build()?;
    /// # drop(files);
    /// # Ok::<(), atomic_file_adapter::Error>(())
    /// ```
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// How long a call may wait for its locks. After that it fails with [`Error::Timeout`]. Zero tries once. A lock
    /// that the thread itself holds is [`Error::Deadlock`] all the same. Default: no limit.
    /// [`AtomicFile::lock_timeout`](crate::AtomicFile::lock_timeout) overrides it for one call.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use atomic_file_adapter::AtomicFileAdapter;
    ///
    /// let files = AtomicFileAdapter::builder().lock_timeout(Duration::from_secs(5)).build()?;
    /// # drop(files);
    /// # Ok::<(), atomic_file_adapter::Error>(())
    /// ```
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = Some(timeout);
        self
    }

    /// The exact mode of new files, whatever the umask: the twelve bits of
    /// [chmod(2)](https://man7.org/linux/man-pages/man2/chmod.2.html). Default: 0666 less the umask, as
    /// [`std::fs::write`] gives it. A file that is replaced keeps its mode.
    ///
    /// ```
    /// use std::os::unix::fs::PermissionsExt;
    ///
    /// use atomic_file_adapter::AtomicFileAdapter;
    ///
    /// # let scratch = tempfile::tempdir()?;
    /// # let path = scratch.path().join("token");
    /// # let locks = scratch.path().join("locks");
    /// let files = AtomicFileAdapter::builder().lock_dir(locks).new_file_mode(0o600).build()?;
    /// files.write_atomic(&path, "secret")?;
    /// assert_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o7777, 0o600);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new_file_mode(mut self, mode: u32) -> Self {
        self.new_file_mode = Some(mode);
        self
    }

    /// Whether a path may have symbolic links in it. Default: true.
    ///
    /// With `true`, every verb by path goes where the kernel would go. There is one exception: in a sticky directory
    /// that everybody may write to, another user's link in the last place is refused (as by `fs.protected_symlinks`,
    /// see [proc_sys_fs(5)](https://man7.org/linux/man-pages/man5/proc_sys_fs.5.html), even if that is off). So if a
    /// program handles paths in a directory that others can write to, their links decide what it does with its own
    /// rights: root replaces `/etc/passwd` if `/home/mallory/out` is a link to it.
    ///
    /// With `false`, a path with a link in it, in the last place or before, is [`Error::SymbolicLink`]. This holds for
    /// every verb by path, [`file`](AtomicFileAdapter::file), [`lock_path`](AtomicFileAdapter::lock_path), batches and
    /// [`sweep`](AtomicFileAdapter::sweep); [`exists`](AtomicFileAdapter::exists) returns `false`. The directory that
    /// was found stays open, and a link that later takes its place, or the file's, is not followed either. `..` is
    /// allowed, and missing directories are made.
    ///
    /// An absolute path takes no more system calls than otherwise, because of `RESOLVE_NO_SYMLINKS` of
    /// [openat2(2)](https://man7.org/linux/man-pages/man2/openat2.2.html). A relative path, a path with `.`, `..` or
    /// `//` in it, and any path before Linux 5.6 or on Apple's systems is looked up name by name, with O_NOFOLLOW. On
    /// macOS `/tmp`, `/var` and `/etc` are links themselves.
    ///
    /// It does not protect against other things that people can do who can write to a directory: rename directories,
    /// and put hard links or files of their own in place. Nor does it concern the [lock directory](Self::lock_dir).
    ///
    /// ```
    /// use atomic_file_adapter::{AtomicFileAdapter, Error};
    ///
    /// # let scratch = tempfile::tempdir()?;
    /// # let home = scratch.path().canonicalize()?;
    /// # let locks = home.join("locks");
    /// std::os::unix::fs::symlink("passwd", home.join("out"))?;
    /// let files = AtomicFileAdapter::builder().lock_dir(locks).follow_links(false).build()?;
    /// let error = files.write_atomic(home.join("out"), "report").unwrap_err();
    /// assert!(matches!(error, Error::SymbolicLink { link, .. } if link == home.join("out")));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn follow_links(mut self, follow: bool) -> Self {
        self.refuse_links = !follow;
        self
    }

    /// The exact mode of new lock files, whatever the umask: the nine permission bits of
    /// [chmod(2)](https://man7.org/linux/man-pages/man2/chmod.2.html). It is for files that several users share. The
    /// first user makes the lock file. Everybody who reads the file must be able to read the lock file, and everybody
    /// who writes the file must be able to read *and write* the lock file. Existing lock files are left as they are.
    ///
    /// Default: as the lock directory has it. If that is shared (its group or others may write to it, or it has the
    /// setgid bit), new lock files have its bits for reading and writing, as with git's `core.sharedRepository`: 0660
    /// in a directory of mode 2770 or 0770, 0664 in 2775, 0666 in 1777. Otherwise they have 0666 less the umask, which
    /// is 0644 for most users: the first user then keeps all others from writing.
    ///
    /// If the mode gives the group more than others, the lock file gets the group of the lock directory, as in a setgid
    /// directory ([inode(7)](https://man7.org/linux/man-pages/man7/inode.7.html)), if the process may do that (it is in
    /// that group, or root). If it may not, a mode that is set here stays as it is, and by default the group gets no
    /// more than others.
    ///
    /// A default access control list of the lock directory ([acl(5)](https://man7.org/linux/man-pages/man5/acl.5.html))
    /// decides by itself whom new lock files let in. A mode that is set here removes that list from them. If you share
    /// a directory by an access control list, give it a default list for the lock files.
    ///
    /// This does not concern the lock directory itself, which is made with 0777 less the umask. If you share it, make
    /// it before, for example with `install -d -m 2775 -g project /srv/project/locks`.
    ///
    /// ```
    /// use std::os::unix::fs::PermissionsExt;
    ///
    /// use atomic_file_adapter::AtomicFileAdapter;
    ///
    /// # let scratch = tempfile::tempdir()?;
    /// # let path = scratch.path().join("settings.toml");
    /// # let locks = scratch.path().join("locks");
    /// let files = AtomicFileAdapter::builder().lock_dir(locks).lock_file_mode(0o666).build()?;
    /// files.write_atomic(&path, "colour = 'red'\n")?;
    /// assert_eq!(std::fs::metadata(files.lock_path(&path)?)?.permissions().mode() & 0o777, 0o666);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the file system cannot keep the mode, every call that needs a new lock file fails. Without this setting the
    /// lock file is made all the same.
    pub fn lock_file_mode(mut self, mode: u32) -> Self {
        self.lock_file_mode = Some(mode);
        self
    }

    /// A function that is called when a call has waited for a lock for 100 ms, or for as long as
    /// [`on_wait_after`](Self::on_wait_after) says. Use it to tell a user why nothing happens, or to write that into a
    /// log. Default: none.
    ///
    /// It is called by the thread that waits. If a call takes several locks, it is called again when the call waits for
    /// another file, but not before that time has passed once more. When the function returns, the thread goes on
    /// waiting, in its old place among the threads of this process. So it should be short: while it runs, others get the lock,
    /// and the time limit is not checked. It may use this crate as any other code may, but it is not called for locks
    /// that it waits for itself. If it panics, the call ends with that panic and has not taken the lock. If it forks,
    /// the call ends with [`Error::Forked`] in the child.
    ///
    /// Calls that only try ([`AtomicFile::try_lock`](crate::AtomicFile::try_lock)) do not wait and do not call it. With
    /// this function, all other calls wait as [`AtomicFile::lock_timeout`](crate::AtomicFile::lock_timeout) does. This
    /// costs a thread while they wait for another process, and nothing otherwise.
    ///
    /// ```
    /// use atomic_file_adapter::AtomicFileAdapter;
    ///
    /// # let scratch = tempfile::tempdir()?;
    /// let files = AtomicFileAdapter::builder()
    ///     .lock_dir(scratch.path().join("locks"))
    ///     .on_wait(|waiting| match waiting.holder() {
    ///         Some(pid) => eprintln!("waiting for {}, which process {pid} uses", waiting.path().display()),
    ///         None => eprintln!("waiting for {}", waiting.path().display()),
    ///     })
    ///     .build()?;
    /// # files.write_atomic(scratch.path().join("settings.toml"), "")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_wait(mut self, call: impl Fn(&Waiting) + Send + Sync + 'static) -> Self {
        self.on_wait = Some(OnWait::new(call));
        self
    }

    /// How long a call waits before it calls [`on_wait`](Self::on_wait). Default: 100 ms. The time begins when the call
    /// begins to take its locks, and again when the function was called. With zero, the function is called as soon as
    /// the call has to wait.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use atomic_file_adapter::AtomicFileAdapter;
    ///
    /// let files = AtomicFileAdapter::builder()
    ///     .on_wait(|waiting| eprintln!("still waiting for {}", waiting.path().display()))
    ///     .on_wait_after(Duration::from_secs(1))
    ///     .build()?;
    /// # drop(files);
    /// # Ok::<(), atomic_file_adapter::Error>(())
    /// ```
    pub fn on_wait_after(mut self, wait: Duration) -> Self {
        self.on_wait_after = Some(wait);
        self
    }

    /// A directory below which locks are named. It gives the same locks to programs that see the same files by
    /// different paths: a container and its host (`/data` here, `/srv/data` there), or two machines that mount one
    /// export in different places. Default: none. Then a lock is named after the whole canonical path, and such
    /// programs do not exclude each other, and get no warning.
    ///
    /// With the root `/srv/data`, the lock of `/srv/data/a/b` is named after `a/b`;
    /// [the protocol](crate::docs::protocol#the-lock-file) has the rule. It requires:
    ///
    /// * **The same directory as the root of all programs**, each by its own path. Nobody checks that. With roots at
    ///   different depths the names differ. With roots in different trees two files may share a lock, which costs
    ///   waiting.
    /// * **A lock directory that all of them share.** If [`lock_dir`](Self::lock_dir) sets none, it is
    ///   [`DEFAULT_LOCK_DIR`](AtomicFileAdapter::DEFAULT_LOCK_DIR) below the root, and not below the current directory.
    /// * **All or none.** An adapter with a root and one without do not exclude each other, even for the same path,
    ///   because the names differ.
    /// * **Every file below the root**, by its canonical path. A path that leads elsewhere, by `..` or by a symbolic
    ///   link, and the root itself, are [`Error::OutsideLockRoot`], also in batches and for directories in
    ///   [`sweep`](AtomicFileAdapter::sweep). [`exists`](AtomicFileAdapter::exists) and
    ///   [`read_unlocked`](AtomicFileAdapter::read_unlocked), which take no lock, are not restricted. A link with an
    ///   absolute target leads out of the root for programs that have the target by another path.
    ///
    /// [`build`](Self::build) looks up the root's own real path once, and follows links in it; a relative root begins
    /// at the directory that is current then. It need not exist yet. Below the root, a second path to a file is still a
    /// second lock: a bind mount inside it, or a hard link.
    ///
    /// [`prune`](AtomicFileAdapter::prune) and [`locks`](AtomicFileAdapter::locks) go through all lock files, whatever
    /// they are named after. Errors name files by their paths here.
    ///
    /// ```
    /// use atomic_file_adapter::{AtomicFileAdapter, Error};
    ///
    /// # let scratch = tempfile::tempdir()?;
    /// # let data = scratch.path().canonicalize()?.join("data");
    /// # let elsewhere = scratch.path().join("elsewhere");
    /// # let seen_elsewhere = elsewhere.join("data");
    /// // On the host, data is "/srv/data"; its container would say lock_root("/data").
    /// let files = AtomicFileAdapter::builder().lock_root(&data).build()?;
    /// files.write_atomic(data.join("settings.toml"), "colour = 'red'\n")?;
    /// assert!(files.lock_dir().starts_with(&data));
    /// let there = AtomicFileAdapter::builder().lock_root(&seen_elsewhere).build()?;
    /// assert_eq!(
    ///     files.lock_path(data.join("settings.toml"))?.strip_prefix(&data)?,
    ///     there.lock_path(seen_elsewhere.join("settings.toml"))?.strip_prefix(&seen_elsewhere)?
    /// );
    /// let error = files.write_atomic(&elsewhere, "").unwrap_err();
    /// assert!(matches!(error, Error::OutsideLockRoot { .. }), "{error}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lock_root(mut self, dir: impl AsRef<Path>) -> Self {
        self.lock_root = Some(dir.as_ref().to_owned());
        self
    }

    /// The adapter. This makes nothing on the disk.
    ///
    /// ```
    /// use atomic_file_adapter::AtomicFileAdapter;
    ///
    /// let files = AtomicFileAdapter::builder().build()?; // as AtomicFileAdapter::new()
    /// # drop(files);
    /// # Ok::<(), atomic_file_adapter::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The lock directory is relative, and the current directory cannot be found. The lock root cannot be looked up.
    pub fn build(self) -> Result<AtomicFileAdapter> {
        let root = self.lock_root.as_deref().map(real_root).transpose()?;
        let dir = match (self.lock_dir, &root) {
            (Some(dir), _) => dir,
            (None, Some(root)) => root.join(AtomicFileAdapter::DEFAULT_LOCK_DIR),
            (None, None) => AtomicFileAdapter::DEFAULT_LOCK_DIR.into(),
        };
        if dir.as_os_str().is_empty() {
            return Err(Error::InvalidPath { path: dir, reason: "the lock directory's path is empty" });
        }
        let dir = if dir.is_absolute() {
            dir
        } else {
            current_dir().map_err(|error| Error::io(&dir, Step::CurrentDirectory, error))?.join(&dir)
        };
        let replace = Options { durability: self.durability, new_file_mode: self.new_file_mode };
        let lock_dir = Arc::new(LockDir::new(dir, self.lock_file_mode, root));
        let links = if self.refuse_links { Links::Refuse } else { Links::Follow };
        let on_wait = match self.on_wait_after {
            Some(wait) => self.on_wait.map(|on_wait| on_wait.after(wait)),
            None => self.on_wait,
        };
        let lock_timeout = self.lock_timeout;
        let looks = LOOKS_FOR_LITTER.into();
        let config = Config { lock_dir, recent: Recent::default(), lock_timeout, on_wait, links, replace, looks };
        Ok(AtomicFileAdapter { config: Arc::new(config) })
    }
}

fn real_root(root: &Path) -> Result<PathBuf> {
    if root.as_os_str().is_empty() {
        return Err(Error::InvalidPath { path: root.to_owned(), reason: "the lock root's path is empty" });
    }
    real_path_of_directory(root)
}
