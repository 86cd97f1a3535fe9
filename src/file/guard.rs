//! The lock of a file while it is held, and the verbs under it.

use std::fs::File;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::error::Result;
use crate::file::resolved::Resolved;
use crate::lock::Held;
use crate::version::replace::Replacement;

/// A shared lock of a file, from [`AtomicFile::lock_shared`]. Its verbs work under this lock. Dropping it releases the
/// lock.
///
/// It stays with the thread that took it (it is not `Send`), because a deadlock is reported to that thread. In a child
/// made by [fork(2)] it does nothing: its verbs fail with [`Error::Forked`], and dropping it releases nothing.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let scratch = tempfile::tempdir()?;
/// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
/// # let path = scratch.path().join("settings.toml");
/// let file = files.file(&path)?;
/// file.write("colour = 'red'\n")?;
///
/// let guard = file.lock_shared()?; // others may read meanwhile, and nobody writes
/// assert_eq!(guard.read()?, guard.read()?);
/// # Ok(())
/// # }
/// ```
///
/// [`AtomicFile::lock_shared`]: crate::AtomicFile::lock_shared
/// [`Error::Forked`]: crate::Error::Forked
/// [fork(2)]: https://man7.org/linux/man-pages/man2/fork.2.html
#[derive(Debug)]
#[must_use = "dropping a guard releases the lock"]
pub struct ReadGuard(pub(crate) Guard);

/// The exclusive lock of a file, from [`AtomicFile::lock`]. Its verbs work under this lock. Dropping it releases the
/// lock.
///
/// It stays with the thread that took it (it is not `Send`), because a deadlock is reported to that thread. In a child
/// made by [fork(2)] it does nothing: its verbs fail with [`Error::Forked`], and dropping it releases nothing.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let scratch = tempfile::tempdir()?;
/// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
/// # let path = scratch.path().join("owner");
/// let file = files.file(&path)?;
///
/// let guard = file.lock()?; // nobody else reads or writes until it is dropped
/// if guard.read()?.is_none() {
///     guard.write("me")?;
/// }
/// drop(guard);
/// # Ok(())
/// # }
/// ```
///
/// [`AtomicFile::lock`]: crate::AtomicFile::lock
/// [`Error::Forked`]: crate::Error::Forked
/// [fork(2)]: https://man7.org/linux/man-pages/man2/fork.2.html
#[derive(Debug)]
#[must_use = "dropping a guard releases the lock"]
pub struct WriteGuard(pub(crate) Guard);

/// The parts that both guards share.
#[derive(Debug)]
pub(crate) struct Guard {
    // First, so that the lock is released before the guard leaves the lock file, whose last user closes it.
    held: Held,
    file: Arc<Resolved>,
    not_send: PhantomData<*const ()>,
}

impl Guard {
    pub(crate) fn new(held: Held, file: Arc<Resolved>) -> Self {
        Guard { held, file, not_send: PhantomData }
    }

    /// The file of the guard. An error in another process than the one that took the lock.
    fn checked(&self) -> Result<&Resolved> {
        self.held.check()?;
        Ok(&self.file)
    }
}

impl ReadGuard {
    /// Reads the whole file. `None`: there is no such file.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let [one, other] = ["one", "other"].map(|name| scratch.path().join(name));
    /// files.batch().write(&one, "1").write(&other, "2").commit()?;
    ///
    /// // Versions that were there at the same time.
    /// let guards = files.lock_many_shared([&one, &other])?;
    /// let versions = (guards[0].read()?, guards[1].read()?);
    /// # assert_eq!(versions, (Some(b"1".into()), Some(b"2".into())));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotRegularFile`], [`Error::Forked`], or a system call failed ([`Error::Io`]).
    ///
    /// [`Error::NotRegularFile`]: crate::Error::NotRegularFile
    /// [`Error::Forked`]: crate::Error::Forked
    /// [`Error::Io`]: crate::Error::Io
    pub fn read(&self) -> Result<Option<Vec<u8>>> {
        self.0.checked()?.read()
    }

    /// Reads the whole file into `buf`, replaces what is in `buf`, and returns the number of bytes. As
    /// [`AtomicFile::read_into`](crate::AtomicFile::read_into).
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// let file = files.file(scratch.path().join("file"))?;
    /// let mut buf = Vec::with_capacity(4096);
    /// let guard = file.lock_shared()?;
    /// if let Some(len) = guard.read_into(&mut buf)? {
    ///     assert_eq!(len, buf.len());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn read_into(&self, buf: &mut Vec<u8>) -> Result<Option<usize>> {
        self.0.checked()?.read_into(buf)
    }

    /// Opens the current version, to read it piece by piece. As [`AtomicFile::open`](crate::AtomicFile::open).
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// let file = files.file(scratch.path().join("file"))?;
    /// let guard = file.lock_shared()?;
    /// if let Some(version) = guard.open()? {
    ///     std::io::copy(&mut &version, &mut std::io::stdout())?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn open(&self) -> Result<Option<File>> {
        self.0.checked()?.open()
    }
}

impl WriteGuard {
    /// Reads the whole file. `None`: there is no such file.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// let file = files.file(scratch.path().join("file"))?;
    /// let guard = file.lock()?;
    /// assert_eq!(guard.read()?, None);
    /// guard.write("contents")?;
    /// assert_eq!(guard.read()?.as_deref(), Some(&b"contents"[..]));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`ReadGuard::read`].
    pub fn read(&self) -> Result<Option<Vec<u8>>> {
        self.0.checked()?.read()
    }

    /// Reads the whole file into `buf`, replaces what is in `buf`, and returns the number of bytes. As
    /// [`AtomicFile::read_into`](crate::AtomicFile::read_into).
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// let file = files.file(scratch.path().join("file"))?;
    /// let mut buf = Vec::with_capacity(4096);
    /// let guard = file.lock()?;
    /// if let Some(len) = guard.read_into(&mut buf)? {
    ///     assert_eq!(len, buf.len());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn read_into(&self, buf: &mut Vec<u8>) -> Result<Option<usize>> {
        self.0.checked()?.read_into(buf)
    }

    /// Opens the current version, to read it piece by piece. As [`AtomicFile::open`](crate::AtomicFile::open).
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// let file = files.file(scratch.path().join("file"))?;
    /// let guard = file.lock()?;
    /// if let Some(version) = guard.open()? {
    ///     std::io::copy(&mut &version, &mut std::io::stdout())?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn open(&self) -> Result<Option<File>> {
        self.0.checked()?.open()
    }

    /// Replaces the contents, or makes the file if there is none. [`AtomicFile::write`](crate::AtomicFile::write) says
    /// what that promises.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// let file = files.file(scratch.path().join("counter"))?;
    /// let guard = file.lock()?;
    /// let old: u64 = guard.read()?.map_or(Ok(0), |old| String::from_utf8_lossy(&old).parse())?;
    /// guard.write((old + 1).to_string())?;
    /// # assert_eq!(guard.read()?.as_deref(), Some(&b"1"[..]));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotRegularFile`], [`Error::Forked`], or a system call failed ([`Error::Io`]): the file is unchanged.
    /// [`Error::NotDurable`]: the file was replaced, and a power cut may undo that. [`Error::LockLost`], on NFS: it
    /// says whether the file was replaced.
    ///
    /// [`Error::NotRegularFile`]: crate::Error::NotRegularFile
    /// [`Error::Forked`]: crate::Error::Forked
    /// [`Error::Io`]: crate::Error::Io
    /// [`Error::NotDurable`]: crate::Error::NotDurable
    /// [`Error::LockLost`]: crate::Error::LockLost
    pub fn write(&self, contents: impl AsRef<[u8]>) -> Result<()> {
        self.writer()?.put_all(contents.as_ref())
    }

    /// Begins a new version that is written piece by piece, in constant memory. See [`Replacement`].
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// let file = files.file(scratch.path().join("file"))?;
    /// use std::io::Write;
    ///
    /// let guard = file.lock()?;
    /// let mut new = guard.writer()?;
    /// new.write_all(b"one piece, ")?;
    /// new.write_all(b"and another")?;
    /// new.commit()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn writer(&self) -> Result<Replacement<'_>> {
        self.0.checked()?.writer(&self.0.held, false)
    }

    /// The lock itself.
    pub(crate) fn held(&self) -> &Held {
        &self.0.held
    }

    /// The same, but the new version gets nothing from the old one, as if that had been removed.
    pub(crate) fn writer_anew(&self) -> Result<Replacement<'_>> {
        self.0.checked()?.writer(&self.0.held, true)
    }

    /// Changes the mode of the file, exactly, whatever the umask: permission, setuid, setgid and sticky bits, as
    /// [chmod(2)] has them. `false`: there is no such file. Later versions keep the mode.
    ///
    /// Before you write a secret, set the mode: whoever may open the old version may open the new one from the moment
    /// it is made. Other hard links of the file get the mode, too. If the file has an access control list, the group
    /// bits are its mask ([acl(5)]).
    ///
    /// The file is changed in place, which needs the permission to read it. It is synced as the builder's
    /// [`durability`](crate::Builder::durability) says for contents.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let path = scratch.path().join("token");
    /// # files.write_atomic(&path, "public")?;
    /// let file = files.file(&path)?;
    /// let guard = file.lock()?;
    /// guard.set_mode(0o600)?;
    /// guard.write("secret")?;
    /// # use std::os::unix::fs::PermissionsExt;
    /// # assert_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o7777, 0o600);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Forked`](crate::Error::Forked), [`Error::NotRegularFile`](crate::Error::NotRegularFile), or the file
    /// cannot be opened, changed or synced. If the sync fails, the mode has been changed.
    ///
    /// [acl(5)]: https://man7.org/linux/man-pages/man5/acl.5.html
    /// [chmod(2)]: https://man7.org/linux/man-pages/man2/chmod.2.html
    pub fn set_mode(&self, mode: u32) -> Result<bool> {
        self.0.checked()?.set_mode(mode)
    }

    /// Removes the file. `false`: there was no such file. See [`AtomicFile::delete`](crate::AtomicFile::delete).
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let path = scratch.path().join("job");
    /// # files.write_atomic(&path, "resize")?;
    /// // Takes a job: nobody else can get it, too.
    /// let file = files.file(&path)?;
    /// let guard = file.lock()?;
    /// let job = guard.read()?;
    /// guard.delete()?;
    /// # assert_eq!((job.as_deref(), files.exists(&path)), (Some(&b"resize"[..]), false));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn delete(&self) -> Result<bool> {
        self.0.checked()?.delete(&self.0.held)
    }
}
