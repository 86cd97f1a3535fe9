//! Many files at once, with shared syncs. All or nothing is in `all.rs`.

pub(crate) mod all;

use std::collections::HashMap;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result, Step};
use crate::file::AtomicFile;
use crate::file::guard::WriteGuard;
use crate::file::locking::lock_many;
use crate::path::{Dir, current_dir};
use crate::settings::{Config, Durability};
use crate::sys;
use crate::version::remove::{check_alive, check_removable, sync_absence, unlink};
use crate::version::replace::Replacement;
use crate::version::sync_dir;
use crate::version::together::sync_together;

/// The most files that are written at a time.
const AT_A_TIME: u64 = 128;

/// How many descriptors the process must be allowed for each file in work. A file needs three: its lock file, its
/// directory and its temporary file. It needs a fourth if its directory was missing. Half of the descriptors are left
/// to the rest of the program.
const DESCRIPTORS: u64 = 8;

/// Writes and deletes of any number of files, which share their syncs. From [`AtomicFileAdapter::batch`].
///
/// For each file, it does the same as [`write_atomic`](crate::AtomicFileAdapter::write_atomic) or
/// [`delete_with_lock`](crate::AtomicFileAdapter::delete_with_lock): the file is the old version or the new one, and
/// durable when [`commit`](Self::commit) returns. The files are not changed as one: others may see some of them
/// replaced before the rest, and after a crash some may be new and some old. [`commit_all`](Self::commit_all) changes
/// them as one, and takes longer.
///
/// It saves flushes of the device. It writes the new versions first, then syncs them together, then renames them, and
/// syncs each directory once. It does this for up to 128 files at a time, so that no lock is held for long and
/// descriptors do not run out: it uses at most half of those that the process may have (RLIMIT_NOFILE in
/// [getrlimit(2)](https://man7.org/linux/man-pages/man2/getrlimit.2.html)).
///
/// On Linux, 8 or more files on one file system of type ext4 (with a journal), xfs or btrfs are synced by
/// [syncfs(2)](https://man7.org/linux/man-pages/man2/syncfs.2.html). It writes out *everything* that is waiting there,
/// whoever wrote it. If others write much to that file system, this can take longer than it saves. And an error of
/// their writes is an error of the batch, because the system does not tell them apart.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let scratch = tempfile::tempdir()?;
/// # let dir = scratch.path();
/// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(dir.join("locks"))?;
/// let mut batch = files.batch();
/// for n in 0..100 {
///     batch.write(dir.join(format!("{n}.txt")), format!("{n}"));
/// }
/// batch.delete(dir.join("old.txt")).commit()?;
/// # assert_eq!(files.read_to_string_with_lock(dir.join("99.txt"))?.as_deref(), Some("99"));
/// # Ok(())
/// # }
/// ```
///
/// [`AtomicFileAdapter::batch`]: crate::AtomicFileAdapter::batch
#[derive(Debug)]
#[must_use = "a batch does nothing until `commit`"]
pub struct Batch {
    config: Arc<Config>,
    changes: Vec<Change>,
    /// A relative path could not be made absolute.
    failed: Option<Error>,
}

#[derive(Debug)]
struct Change {
    path: PathBuf,
    /// `None`: the file is to be removed.
    contents: Option<Vec<u8>>,
}

impl Batch {
    pub(crate) fn new(config: &Arc<Config>) -> Self {
        Batch { config: config.clone(), changes: Vec::new(), failed: None }
    }

    /// Adds a write. If one file has several changes, the last one counts. A write after a delete makes a new file,
    /// without the mode of the old one.
    ///
    /// A relative path begins at the directory that is current now. If that cannot be found, [`commit`](Self::commit)
    /// returns the error.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let dir = scratch.path();
    /// let mut batch = files.batch();
    /// batch.write(dir.join("one"), "1").write(dir.join("two"), vec![0, 1, 2]);
    /// batch.commit()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn write(&mut self, path: impl AsRef<Path>, contents: impl Into<Vec<u8>>) -> &mut Self {
        self.add(path.as_ref(), Some(contents.into()))
    }

    /// Adds a delete. It is no error if there is no such file. See [`write`](Self::write).
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let dir = scratch.path();
    /// let mut batch = files.batch();
    /// batch.delete(dir.join("old")).write(dir.join("new"), "2");
    /// batch.commit()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn delete(&mut self, path: impl AsRef<Path>) -> &mut Self {
        self.add(path.as_ref(), None)
    }

    fn add(&mut self, path: &Path, contents: Option<Vec<u8>>) -> &mut Self {
        // An empty path must not become that of the current directory. It is refused later.
        let absolute = if path.is_absolute() || path.as_os_str().is_empty() {
            Ok(path.to_owned())
        } else {
            current_dir().map(|dir| dir.join(path))
        };
        match absolute {
            Ok(path) => self.changes.push(Change { path, contents }),
            Err(error) => drop(self.failed.get_or_insert(Error::io(path, Step::CurrentDirectory, error))),
        }
        self
    }

    /// Makes all the changes. Then the batch is empty.
    ///
    /// It takes the locks of up to 128 files at a time, in the order that is common to all callers.
    ///
    /// ```
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// use atomic_file_adapter::Error;
    ///
    /// # let dir = scratch.path();
    /// # std::fs::create_dir(dir.join("a-directory"))?;
    /// let committed = files.batch().write(dir.join("file"), "1").write(dir.join("a-directory"), "2").commit();
    /// if let Err(Error::Batch { replaced, source, .. }) = committed {
    ///     println!("{source}; before that, {} files were replaced", replaced.len());
    /// # assert!(replaced.is_empty());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Batch`], which says which files were replaced or removed before the error. A power cut may undo any of
    /// these. The other files are unchanged, and no temporary file is left (unless removing it fails, too). The source
    /// of the error is that of [`AtomicFile::write`] or [`AtomicFile::delete`].
    pub fn commit(&mut self) -> Result<()> {
        let mut replaced = Vec::new();
        let failed = self.failed.take().map_or(Ok(()), Err);
        let mut changes = mem::take(&mut self.changes);
        let committed = failed.and_then(|()| {
            changes.chunks_mut(at_a_time()).try_for_each(|changes| commit(&self.config, changes, &mut replaced))
        });
        committed.map_err(|error| Error::Batch { replaced, source: Box::new(error) })
    }
}

fn at_a_time() -> usize {
    let files = (sys::descriptor_limit() / DESCRIPTORS).clamp(1, AT_A_TIME);
    usize::try_from(files).unwrap_or(1)
}

fn commit(config: &Arc<Config>, changes: &mut [Change], replaced: &mut Vec<PathBuf>) -> Result<()> {
    // Keyed by canonical path, so that a later change of a file replaces an earlier one.
    let mut latest: HashMap<Arc<Path>, usize> = HashMap::new();
    let mut files: Vec<AtomicFile> = Vec::new();
    let mut versions: Vec<Version> = Vec::new();
    for change in changes {
        let file = AtomicFile::new(config, &change.path)?;
        let new = mem::take(&mut change.contents);
        if new.is_some() {
            // The directory is made now, so that the next file in it finds it and does not make and sync it again.
            file.place().make_dir(config.replace.durability == Durability::Full)?;
        }
        match latest.get(file.path()) {
            Some(earlier) => versions[*earlier].then(new),
            None => {
                latest.insert(file.path().into(), files.len());
                files.push(file);
                versions.push(Version::new(new));
            }
        }
    }
    let guards = lock_many(config, &files)?;
    let mut new = Vec::with_capacity(files.len());
    for ((file, guard), version) in files.iter().zip(&guards).zip(&versions) {
        new.push(prepare(config, file, guard, version)?);
    }
    sync_new(config, &new)?;
    let mut dirs = Vec::new();
    let renamed = rename_all(config, &files, &guards, new, &mut dirs, replaced);
    // Also after a failed rename, because the files that were replaced must be durable.
    let synced = sync_dirs(config, &dirs);
    renamed.and(synced)?;
    guards.iter().try_for_each(|guard| guard.held().check_kept(true))
}

/// The result of all changes of one file.
struct Version {
    /// `None`: the file has to be removed.
    contents: Option<Vec<u8>>,
    /// An earlier change of the batch removes the file, so the new version does not get the old mode.
    anew: bool,
}

impl Version {
    fn new(contents: Option<Vec<u8>>) -> Self {
        Version { contents, anew: false }
    }

    fn then(&mut self, contents: Option<Vec<u8>>) {
        self.anew |= self.contents.is_none();
        self.contents = contents;
    }
}

/// Does everything that can fail before the first rename. If there is a new version, writes it.
fn prepare<'a>(
    config: &Config,
    file: &AtomicFile,
    guard: &'a WriteGuard,
    version: &Version,
) -> Result<Option<Replacement<'a>>> {
    let Some(contents) = &version.contents else {
        let found = check_removable(file.place(), config.replace)?;
        let is_absent = found.is_none() && config.replace.durability == Durability::Full;
        if let Some(dir) = file.place().dir()?.filter(|_| is_absent) {
            check_alive(dir, file.path())?;
        }
        return Ok(None);
    };
    let mut replacement = if version.anew { guard.writer_anew()? } else { guard.writer()? };
    replacement.fill(contents)?;
    replacement.set_owner_and_mode()?;
    Ok(Some(replacement))
}

/// Syncs the new versions.
fn sync_new(config: &Config, new: &[Option<Replacement<'_>>]) -> Result<()> {
    if config.replace.durability == Durability::None {
        return Ok(());
    }
    let unsynced = new.iter().flatten().map(Replacement::unsynced).collect::<Result<Vec<_>>>()?;
    sync_together(unsynced, config.replace)
}

/// A directory that has to be synced, because something in it was changed, or may have been changed without a sync.
struct ChangedDir<'a> {
    dir: &'a Dir,
    identity: Option<(u64, u64)>,
    /// A file in it.
    file: &'a AtomicFile,
    /// A file that was to be removed was not there.
    has_absent: bool,
}

/// Renames the new versions over the files, and removes the files that have to be removed.
fn rename_all<'a>(
    config: &Config,
    files: &'a [AtomicFile],
    guards: &[WriteGuard],
    new: Vec<Option<Replacement<'a>>>,
    dirs: &mut Vec<ChangedDir<'a>>,
    replaced: &mut Vec<PathBuf>,
) -> Result<()> {
    for ((file, guard), replacement) in files.iter().zip(guards).zip(new) {
        let place = file.place();
        let has_absent = match replacement {
            Some(mut replacement) => replacement.rename().map(|()| false)?,
            None => unlink(guard.held(), place, config.replace)?.is_none(),
        };
        if !has_absent {
            replaced.push(place.path().to_path_buf());
        }
        let Some(dir) = place.dir()? else {
            sync_absence(place, config.replace)?;
            continue;
        };
        let identity = dir.identity();
        match dirs.iter_mut().find(|other| identity.is_some() && other.identity == identity) {
            Some(known) => known.has_absent |= has_absent,
            None => dirs.push(ChangedDir { dir, identity, file, has_absent }),
        }
    }
    Ok(())
}

/// Syncs each directory. If one sync fails, it goes on with the others.
fn sync_dirs(config: &Config, dirs: &[ChangedDir<'_>]) -> Result<()> {
    let sync = |ChangedDir { dir, file, has_absent, .. }: &ChangedDir<'_>| match has_absent {
        true => sync_absence(file.place(), config.replace),
        false => sync_dir(dir, file.path(), config.replace),
    };
    dirs.iter().map(sync).fold(Ok(()), Result::and)
}
