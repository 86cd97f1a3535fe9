//! An adapter, and the verbs by path. `builder.rs` makes one.

pub(crate) mod builder;
mod many;
pub(crate) mod upkeep;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::file::{AtomicFile, by_path};
use crate::path::Place;
use crate::settings::Config;
use crate::sys::{self, Links, LockMode};
use crate::version::stat_regular;

/// Reads, writes, updates and deletes files that several processes share. The [crate's page](crate) says what it
/// promises.
///
/// It is cheap to clone, and threads can share it. All processes must use the same lock directory; its spelling does
/// not matter.
///
/// The verbs by path look the path up at every call. For a file that is used often, [`file`](Self::file) does that
/// once. The lock files of the last 16 paths stay open for as long as the adapter and its clones live. Until then the
/// file system of the lock directory cannot be unmounted.
///
/// ```
/// use atomic_file_adapter::AtomicFileAdapter;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let scratch = tempfile::tempdir()?;
/// # std::env::set_current_dir(&scratch)?;
/// let files = AtomicFileAdapter::new()?;
/// files.write_atomic("settings.toml", "colour = 'red'\n")?;
/// files.update("settings.toml", |old| {
///     let mut new = old.unwrap_or_default().to_vec();
///     new.extend_from_slice(b"size = 3\n");
///     new
/// })?;
/// let settings = files.read_to_string_with_lock("settings.toml")?;
/// assert_eq!(settings.as_deref(), Some("colour = 'red'\nsize = 3\n"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct AtomicFileAdapter {
    pub(crate) config: Arc<Config>,
}

impl AtomicFileAdapter {
    /// Where the lock files are, unless the builder says otherwise: a path relative to the directory that is current
    /// when the adapter is built, or to its [lock root](crate::Builder::lock_root).
    ///
    /// ```
    /// use atomic_file_adapter::AtomicFileAdapter;
    ///
    /// let dir = std::env::current_dir()?.join(AtomicFileAdapter::DEFAULT_LOCK_DIR);
    /// assert_eq!(AtomicFileAdapter::new()?.lock_dir(), dir);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const DEFAULT_LOCK_DIR: &'static str = ".jerry/local/locks";

    /// The directory of the lock files, absolute.
    ///
    /// ```
    /// use std::path::Path;
    ///
    /// use atomic_file_adapter::AtomicFileAdapter;
    ///
    /// let files = AtomicFileAdapter::with_lock_dir("/run/lock/my-program")?;
    /// assert_eq!(files.lock_dir(), Path::new("/run/lock/my-program"));
    /// # Ok::<(), atomic_file_adapter::Error>(())
    /// ```
    pub fn lock_dir(&self) -> &Path {
        self.config.lock_dir.path()
    }

    /// The lock file that guards `path`. It is the same in every process, for every spelling of the path, and before
    /// and after the file and its directory exist. This call makes nothing on the disk.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let path = scratch.path().join("settings.toml");
    /// let lock = files.lock_path(&path)?;
    /// assert_eq!(files.lock_path(scratch.path().join(".//settings.toml"))?, lock);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The path cannot be resolved: [`Error::InvalidPath`], [`Error::OutsideLockRoot`], or a system call failed.
    pub fn lock_path(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        Ok(self.file(path)?.lock_path().to_owned())
    }

    /// Reads the whole file under a shared lock. `None`: there is no such file. See [`AtomicFile::read`].
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let path = scratch.path().join("settings.toml");
    /// assert_eq!(files.read_with_lock(&path)?, None);
    /// files.write_atomic(&path, [0xff, 0x00])?;
    /// assert_eq!(files.read_with_lock(&path)?.as_deref(), Some(&[0xff, 0x00][..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`AtomicFile::read`], or the path cannot be resolved.
    pub fn read_with_lock(&self, path: impl AsRef<Path>) -> Result<Option<Vec<u8>>> {
        Ok(by_path::read(&self.config, path.as_ref())?.0)
    }

    /// As [`read_with_lock`](Self::read_with_lock), for text.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let path = scratch.path().join("settings.toml");
    /// let settings = files.read_to_string_with_lock(&path)?;
    /// println!("{}", settings.as_deref().unwrap_or("colour = 'red'"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotUtf8`]; otherwise as [`read_with_lock`](Self::read_with_lock).
    pub fn read_to_string_with_lock(&self, path: impl AsRef<Path>) -> Result<Option<String>> {
        let (contents, canonical) = by_path::read(&self.config, path.as_ref())?;
        let Some(contents) = contents else { return Ok(None) };
        String::from_utf8(contents).map(Some).map_err(|error| Error::NotUtf8 {
            path: canonical.to_path_buf(),
            valid_up_to: error.utf8_error().valid_up_to(),
        })
    }

    /// Reads the whole file without the lock: it makes and opens no lock file, and needs no lock directory.
    /// [`AtomicFile::read_unlocked`] says what the lock would add.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let path = scratch.path().join("settings.toml");
    /// assert_eq!(files.read_unlocked(&path)?, None);
    /// assert!(!files.lock_dir().exists());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`AtomicFile::read_unlocked`], or the path cannot be resolved.
    pub fn read_unlocked(&self, path: impl AsRef<Path>) -> Result<Option<Vec<u8>>> {
        by_path::read_unlocked(&self.config, path.as_ref())
    }

    /// Replaces the contents of the file under an exclusive lock. See [`AtomicFile::write`].
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let path = scratch.path().join("settings.toml");
    /// files.write_atomic(&path, "colour = 'red'\n")?; // on the device when this returns
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`AtomicFile::write`], or the path cannot be resolved.
    pub fn write_atomic(&self, path: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> Result<()> {
        let contents = contents.as_ref();
        by_path::under_lock(&self.config, path.as_ref(), LockMode::Exclusive, |file, held| file.write(held, contents))
    }

    /// Reads, changes and replaces the contents under one exclusive lock. See [`AtomicFile::update`].
    ///
    /// A counter that any number of processes share. Each call gets a number of its own, also if other processes are
    /// killed.
    ///
    /// ```
    /// use std::error::Error;
    ///
    /// use atomic_file_adapter::AtomicFileAdapter;
    ///
    /// fn next_number(files: &AtomicFileAdapter, counter: &str) -> Result<u64, Box<dyn Error>> {
    ///     let mut next = 0;
    ///     files.try_update(counter, |old| {
    ///         let old: u64 = old.map_or(Ok(0), |old| String::from_utf8_lossy(old).parse())?;
    ///         next = old.checked_add(1).ok_or("the counter is at its end")?;
    ///         Ok::<_, Box<dyn Error>>(next.to_string().into_bytes())
    ///     })?;
    ///     Ok(next)
    /// }
    ///
    /// fn main() -> Result<(), Box<dyn Error>> {
    ///     # let scratch = tempfile::tempdir()?;
    ///     # std::env::set_current_dir(&scratch)?;
    ///     let files = AtomicFileAdapter::new()?;
    ///     println!("order {}", next_number(&files, "orders")?);
    ///     # assert_eq!(next_number(&files, "orders")?, 2);
    ///     # files.update("orders", |old| old.unwrap_or_default().to_vec())?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`AtomicFile::update`], or the path cannot be resolved.
    pub fn update(&self, path: impl AsRef<Path>, change: impl FnOnce(Option<&[u8]>) -> Vec<u8>) -> Result<()> {
        self.try_update(path, |old| Ok(change(old)))
    }

    /// As [`update`](Self::update), with a `change` that can fail. If it fails, the file is unchanged.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let path = scratch.path().join("settings.toml");
    /// use toml_edit::DocumentMut;
    ///
    /// files.write_atomic(&path, "colour = 'red' # not blue\n")?;
    /// // What others have written stays, comments included. A file that is not TOML is an error, and is not overwritten.
    /// files.try_update(&path, |old| {
    ///     let mut settings: DocumentMut = String::from_utf8(old.unwrap_or_default().to_vec())?.parse()?;
    ///     settings["size"] = toml_edit::value("3");
    ///     Ok::<_, Box<dyn std::error::Error>>(settings.to_string().into_bytes())
    /// })?;
    /// # assert_eq!(files.read_to_string_with_lock(&path)?.unwrap(), "colour = 'red' # not blue\nsize = \"3\"\n");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What `change` returns; otherwise as [`update`](Self::update).
    pub fn try_update<E: From<Error>>(
        &self,
        path: impl AsRef<Path>,
        change: impl FnOnce(Option<&[u8]>) -> Result<Vec<u8>, E>,
    ) -> Result<(), E> {
        let (file, held, old) =
            by_path::locked(&self.config, path.as_ref(), LockMode::Exclusive, |file, _| file.read())?;
        file.update(held, old, change)
    }

    /// Removes the file under an exclusive lock. `false`: there was no such file. See [`AtomicFile::delete`].
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let path = scratch.path().join("settings.toml");
    /// # files.write_atomic(&path, "colour = 'red'\n")?;
    /// assert!(files.delete_with_lock(&path)?);
    /// assert!(!files.delete_with_lock(&path)?); // there was none any more
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`AtomicFile::delete`], or the path cannot be resolved.
    pub fn delete_with_lock(&self, path: impl AsRef<Path>) -> Result<bool> {
        by_path::under_lock(&self.config, path.as_ref(), LockMode::Exclusive, |file, held| file.delete(held))
    }

    /// Whether there is a regular file at `path`, after following symbolic links. It takes no lock, so the answer may
    /// be out of date when it comes. It is also `false` if the path cannot be looked at, or has a link in it that must
    /// not be followed ([`Builder::follow_links`](crate::Builder::follow_links)). On NFS the answer may be a minute
    /// old.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let path = scratch.path().join("settings.toml");
    /// assert!(!files.exists(&path));
    /// files.write_atomic(&path, "")?;
    /// assert!(files.exists(&path));
    /// assert!(!files.exists(scratch.path())); // a directory
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        let path = path.as_ref();
        match self.config.links {
            Links::Follow => sys::stat_follow(sys::cwd(), path).is_ok_and(|meta| meta.special.is_none()),
            Links::Refuse => Place::resolve(path, Links::Refuse).is_ok_and(|place| {
                let dir = place.dir().ok().flatten();
                dir.is_some_and(|dir| matches!(stat_regular(dir, place.name(), path), Ok(Some(_))))
            }),
        }
    }

    /// Looks up `path` once, for a file that is used often.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let path = scratch.path().join("settings.toml");
    /// let file = files.file(&path)?;
    /// for n in 0..3 {
    ///     file.write(n.to_string())?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidPath`], [`Error::OutsideLockRoot`], or a system call failed.
    pub fn file(&self, path: impl AsRef<Path>) -> Result<AtomicFile> {
        AtomicFile::new(&self.config, path.as_ref())
    }

    /// A new, empty batch of writes and deletes, which share their syncs. See [`Batch`].
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let dir = scratch.path();
    /// files.batch().write(dir.join("one"), "1").write(dir.join("two"), "2").delete(dir.join("three")).commit()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn batch(&self) -> Batch {
        Batch::new(&self.config)
    }
}
