//! Several files changed as one: all of them or none, even if a process dies at any point.
//!
//! This file does what comes before the change is decided, so after each error everything is as it was. `lock/draft.rs`
//! and `lock/work.rs` decide and make the change, and `lock/intents.rs` finishes it after a crash.

use std::collections::HashMap;
use std::io;
use std::mem;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use crate::batch::{Batch, Version, at_a_time};
use crate::error::{Error, Result, Step};
use crate::file::AtomicFile;
use crate::file::resolved::place_of;
use crate::lock::draft::{Draft, in_memory};
use crate::lock::work::Dirs;
use crate::lock::{self, Held, Lock};
use crate::path::Place;
use crate::protocol::intent::{Change, FileId, New};
use crate::protocol::temporary_name::TemporaryName;
use crate::settings::{Config, Durability};
use crate::sys::{self, Errno, FileKind, LockMode};
use crate::version::read;
use crate::version::remove::{check_alive, check_removable, remove, sync_absence};
use crate::version::replace::{Replacement, Staged};
use crate::version::together::{Unsynced, What, sync_together};

impl Batch {
    /// Makes all the changes as one: all of them or none. Then the batch is empty.
    ///
    /// A caller that takes the locks of several of these files together ([`lock_many_shared`]) sees all of them old or
    /// all of them new, even if a process dies. If it dies before the change is decided, nothing has changed. If it
    /// dies after that, the next caller that takes one of the locks finishes the change first. A caller that takes one
    /// lock at a time may see one file before the change and the next one after it. A reader without locks
    /// ([`read_unlocked`], other programs) may see half of the change.
    ///
    /// With [`Durability::Full`] the same holds across a power cut, and the change is durable when this returns. With
    /// [`Durability::Ordered`] each file is old or new after a power cut, but some may be old and some new. With
    /// [`Durability::None`] nothing is promised for a power cut. `Full` is refused if the lock directory or one of the
    /// files is in memory (tmpfs), unless all changes are of one file.
    ///
    /// [System calls](crate::docs::system_calls#several-files-as-one) says how it is done. All locks are held at the
    /// same time, so the process needs a descriptor for each file, and one for each of their directories (RLIMIT_NOFILE
    /// in [getrlimit(2)](https://man7.org/linux/man-pages/man2/getrlimit.2.html), which is 1024 for most). The new
    /// versions are all in memory, but not all open. If one file has several changes, the last one counts.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = tempfile::tempdir_in("/var/tmp")?;
    /// # let dir = scratch.path();
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(dir.join("locks"))?;
    /// let mut batch = files.batch();
    /// batch.write(dir.join("settings.toml"), "theme = 'dark'\n");
    /// batch.write(dir.join("settings.lock"), "theme 2.1\n");
    /// batch.delete(dir.join("settings.old")).commit_all()?;
    /// # assert_eq!(files.read_to_string_with_lock(dir.join("settings.lock"))?.as_deref(), Some("theme 2.1\n"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Unfinished`]: the change is decided, and the next caller that takes one of the locks tries to finish
    /// it. [`Error::NotDurable`]: the change is made, and a power cut may undo it or a part of it. [`Error::LockLost`],
    /// on NFS: it says whether the change was made. With every other error nothing has happened: it is an error of
    /// [`AtomicFile::write`] or [`AtomicFile::delete`], or the change could not be written down in the lock directory.
    ///
    /// [`lock_many_shared`]: crate::AtomicFileAdapter::lock_many_shared
    /// [`read_unlocked`]: crate::AtomicFileAdapter::read_unlocked
    pub fn commit_all(&mut self) -> Result<()> {
        let changes = mem::take(&mut self.changes);
        self.failed.take().map_or(Ok(()), Err)?;
        let (files, which) = Many::find(&self.config, changes.iter().map(|change| change.path.as_path()))?;
        let versions = which.into_iter().zip(changes.into_iter().map(|change| change.contents)).collect();
        let held = files.lock()?;
        files.replace(&held, versions)
    }
}

/// The files of a call that changes several as one. Their directories are not kept open, because each file would need
/// two descriptors, and the process may not have that many. They are opened again under the locks.
#[derive(Debug)]
pub(crate) struct Many<'a> {
    config: &'a Arc<Config>,
    files: Vec<(Arc<Path>, Arc<Lock>)>,
}

impl<'a> Many<'a> {
    /// Looks up each file once. Also returns, for each path, the number of its file.
    pub(crate) fn find<'p>(
        config: &'a Arc<Config>,
        paths: impl Iterator<Item = &'p Path>,
    ) -> Result<(Self, Vec<usize>)> {
        let mut files: Vec<(Arc<Path>, Arc<Lock>)> = Vec::new();
        let mut known: HashMap<Arc<Path>, usize> = HashMap::new();
        let mut which = Vec::new();
        for path in paths {
            let file = AtomicFile::new(config, path)?;
            let canonical: Arc<Path> = file.path().into();
            which.push(*known.entry(canonical.clone()).or_insert(files.len()));
            if known.len() > files.len() {
                files.push((canonical, file.0.lock.clone()));
            }
        }
        Ok((Many { config, files }, which))
    }

    /// Takes all of their locks.
    pub(crate) fn lock(&self) -> Result<Vec<Held>> {
        let locks: Vec<&Lock> = self.files.iter().map(|(_, lock)| &**lock).collect();
        lock::acquire_all(&locks, LockMode::Exclusive, &self.config.patience())
            .map_err(|error| error.for_files(self.files.len()))
    }

    /// Reads all of them.
    pub(crate) fn read(&self, held: &[Held]) -> Result<Vec<Option<Vec<u8>>>> {
        held.iter().enumerate().map(|(n, held)| read::read(&self.place(n, held)?)).collect()
    }

    /// The place of a file whose lock is held.
    fn place(&self, n: usize, held: &Held) -> Result<Place> {
        let (path, _) = &self.files[n];
        let place = place_of(self.config, path, |_| false)?;
        if place.path() != path {
            return Err(Error::NotRegularFile { path: path.to_path_buf(), kind: FileKind::Symlink });
        }
        place.freshen(held.home())?;
        Ok(place)
    }

    /// Makes all the changes or none of them. Each change has the number of its file. If one file has several changes,
    /// the last one counts.
    pub(crate) fn replace(&self, held: &[Held], changes: Vec<(usize, Option<Vec<u8>>)>) -> Result<()> {
        // The caller's code may have forked. From here on, no code of the caller runs.
        held.iter().try_for_each(Held::check)?;
        let mut versions: Vec<Option<Version>> = Vec::new();
        versions.resize_with(held.len(), || None);
        for (n, contents) in changes {
            match &mut versions[n] {
                Some(version) => version.then(contents),
                version => *version = Some(Version::new(contents)),
            }
        }
        let versions: Vec<Version> = versions.into_iter().flatten().collect();
        if let ([held], [version]) = (held, &versions[..]) {
            return self.replace_one(held, version);
        }
        let mut stage = Stage {
            many: self,
            dirs: Dirs::default(),
            changes: Vec::new(),
            which: Vec::new(),
            absent: Vec::new(),
            unsynced: Vec::new(),
            at_a_time: at_a_time(),
            is_decided: false,
        };
        let mut added = held.iter().zip(&versions).enumerate();
        added.try_for_each(|(n, (held, version))| stage.add(n, held, version)).and_then(|()| stage.commit(held))
    }

    fn replace_one(&self, held: &Held, version: &Version) -> Result<()> {
        let place = self.place(0, held)?;
        let options = self.config.replace;
        let Some(contents) = &version.contents else { return remove(held, &place, options).map(drop) };
        let temporary = TemporaryName::new(place.name(), self.files[0].1.hash());
        Replacement::begin(held, &place, temporary, options, version.anew)?.put_all(contents)
    }
}

/// New versions, written to temporary files. If this is dropped before the change is decided, they are removed.
struct Stage<'a> {
    many: &'a Many<'a>,
    dirs: Dirs,
    changes: Vec<Change>,
    /// For each change, the number of its file.
    which: Vec<usize>,
    /// With `Full`, the numbers of the files that must be removed but do not exist: see [`sync_absence`]. Their
    /// directories are opened last, because the directory of a change is checked when it is opened first.
    absent: Vec<usize>,
    /// The new versions that are still open, with the numbers of their files.
    unsynced: Vec<(usize, Staged)>,
    /// How many of them may be open at a time.
    at_a_time: usize,
    is_decided: bool,
}

impl Stage<'_> {
    fn add(&mut self, n: usize, held: &Held, version: &Version) -> Result<()> {
        let config = self.many.config;
        let options = config.replace;
        let full = options.durability == Durability::Full;
        let (path, lock) = &self.many.files[n];
        let place = self.many.place(n, held)?;
        match &version.contents {
            Some(_) => drop(place.make_dir(full)?),
            None if check_removable(&place, options)?.is_none() => {
                if !full || place.dir()?.is_none() {
                    return sync_absence(&place, options);
                }
                // With the directories of the changes.
                self.absent.push(n);
                return Ok(());
            }
            None => {}
        }
        let above = path.parent().unwrap_or(path);
        let is_new = self.dirs.get(above).is_none();
        let dir = self.dirs.open(above, path)?;
        // A decided change can only go forward, so everything that could stop it is checked now.
        let step = if version.contents.is_some() { Step::Rename } else { Step::Remove };
        if is_new {
            if full && sys::is_in_memory(dir.fd.as_fd()) {
                return Err(in_memory(path));
            }
            sys::check_changeable(dir.fd.as_fd()).map_err(|error| Error::io(path, step, error))?;
        }
        // The directory of the temporary file must be the directory that the intent names.
        let opened =
            place.dir()?.map(sys::stat_open).transpose().map_err(|error| Error::io(path, Step::Stat, error))?;
        if opened.map(|opened| opened.identity()) != Some(dir.meta.identity()) {
            let why = "its directory was moved this moment";
            return Err(Error::io(path, Step::Resolve, io::Error::other(why)));
        }
        let old = match sys::look_before_removal(dir.fd.as_fd(), &dir.meta, place.name()) {
            Ok((_, Some((error, why)))) => return Err(Error::io(path, step, io::Error::new(error.kind(), why))),
            Ok((found, None)) => Some(FileId::from(found)),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(Error::io(path, Step::Stat, error)),
        };
        let (dir_id, dir) = (dir.id, config.lock_dir.named_dir(above));
        let name = place.name().to_owned();
        let new = match &version.contents {
            None => None,
            Some(contents) => {
                // A new random name: recovery after a crash must not find another file under this name.
                let temporary = TemporaryName::fresh(place.name(), lock.hash());
                let mut replacement = Replacement::begin(held, &place, temporary, options, version.anew)?;
                replacement.fill(contents)?;
                replacement.set_owner_and_mode()?;
                let staged = replacement.stage()?;
                let new = New { temporary: staged.temporary.clone(), inode: staged.meta.ino };
                self.unsynced.push((n, staged));
                Some(new)
            }
        };
        self.changes.push(Change { dir, dir_id, name, old, new });
        self.which.push(n);
        if self.unsynced.len() >= self.at_a_time {
            sync_together(self.files(), options)?;
            self.unsynced.clear();
        }
        Ok(())
    }

    /// The new versions that are not synced yet.
    fn files(&self) -> impl Iterator<Item = Unsynced<'_>> {
        self.unsynced.iter().map(|(n, staged)| Unsynced {
            device: staged.meta.dev,
            what: What::File(&staged.file),
            path: &self.many.files[*n].0,
        })
    }

    fn dirs(&self) -> impl Iterator<Item = Unsynced<'_>> {
        self.dirs.all().map(|dir| Unsynced { device: dir.meta.dev, what: What::Dir(&dir.fd), path: &dir.path })
    }

    /// To be called after the directories were synced.
    fn check_absent(&self) -> Result<()> {
        if self.absent.is_empty() {
            return Ok(());
        }
        self.dirs.all().try_for_each(|dir| check_alive(&dir.fd, &dir.path))
    }

    /// Writes the intent, syncs everything, decides the change, and makes it.
    fn commit(mut self, held: &[Held]) -> Result<()> {
        let config = self.many.config;
        for n in &self.absent {
            let (path, _) = &self.many.files[*n];
            self.dirs.open(path.parent().unwrap_or(path), path)?;
        }
        let Some(first) = self.which.first() else {
            sync_together(self.dirs(), config.replace)?;
            return self.check_absent();
        };
        let full = config.replace.durability == Durability::Full;
        let held: Vec<&Held> = self.which.iter().map(|n| &held[*n]).collect();
        let hash = self.many.files[*first].1.hash();
        let mut draft = Draft::write(&config.lock_dir, &held, hash, full, self.changes.clone())?;
        if full {
            let (device, path) = (draft.device(), config.lock_dir.path());
            let intent = [What::File(draft.file()), What::Dir(draft.lock_dir())];
            let intent = intent.map(|what| Unsynced { device, what, path });
            let locks = held.iter().map(|held| Unsynced {
                device: held.home().device,
                what: What::LockFile(held),
                path: held.guarded(),
            });
            sync_together(self.files().chain(self.dirs()).chain(intent).chain(locks), config.replace)?;
            self.check_absent()?;
        } else {
            // Durability::Ordered: after a power cut each file must be one complete version, old or new.
            sync_together(self.files(), config.replace)?;
        }
        self.unsynced.clear();
        let decided = draft.decide(&self.dirs);
        self.is_decided = draft.is_decided();
        decided?;
        let finished = draft.finish(&mut self.dirs);
        // False again if the change was taken back.
        self.is_decided = draft.is_decided();
        finished
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if self.is_decided {
            return;
        }
        for (change, n) in self.changes.iter().zip(&self.which) {
            let dir = self.many.files[*n].0.parent().and_then(|dir| self.dirs.get(dir));
            if let (Some(dir), Some(new)) = (dir, &change.new) {
                // Drop cannot return an error.
                let _ = sys::unlink(dir.fd.as_fd(), &new.temporary);
            }
        }
    }
}
