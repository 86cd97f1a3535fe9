//! The lock directory and the lock files on disk.
//!
//! Every use names the directory by its absolute path. It is not kept open: if somebody replaces it, running processes
//! must not go on with the old directory.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::table::Key;
use crate::error::{Error, Result, Step};
use crate::protocol::intent::is_intent_name;
use crate::protocol::lock_name::{hash_in, is_lock_name, named_after};
use crate::protocol::temporary_name::{Owner, TemporaryName};
use crate::protocol::{git_ignore, lock_contents};
use crate::sys::{self, Errno, Fd, FileKind, Links, Meta};

/// How often a lock file is opened again after it was removed between two steps. The limit is for a program that
/// removes lock files in a loop, and for a file system that contradicts itself: neither must hang the caller.
const ATTEMPTS: usize = 1000;

const SET_GROUP_ID: u32 = 0o2000;
const PERMISSIONS: u32 = 0o777;
const READ_WRITE: u32 = 0o666;
const OWNER_READ_WRITE: u32 = 0o600;
pub(super) const GROUP_OR_OTHERS_WRITE: u32 = 0o022;

/// The directory of the lock files.
#[derive(Debug)]
pub(crate) struct LockDir {
    path: PathBuf,
    /// The exact mode of new lock files, if the builder has set one.
    file_mode: Option<u32>,
    /// The lock root, a real path: locks are named after the part of a path below it.
    root: Option<PathBuf>,
    prepared: AtomicBool,
    /// The directory survives a power cut.
    durable: AtomicBool,
}

/// Who may use a new lock file.
#[derive(Debug, Clone, Copy)]
struct Sharing {
    mode: u32,
    /// The group that the mode is meant for.
    group: u32,
    /// The mode was set with the builder, and does not come from the directory.
    exact: bool,
}

impl LockDir {
    /// `path` must be absolute, `root` a real path.
    pub(crate) fn new(path: PathBuf, file_mode: Option<u32>, root: Option<PathBuf>) -> Self {
        LockDir {
            path,
            file_mode: file_mode.map(|mode| mode & PERMISSIONS),
            root,
            prepared: AtomicBool::new(false),
            durable: AtomicBool::new(false),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path that a lock is named after. `given` is the caller's spelling, for error messages.
    pub(crate) fn named_after<'a>(&self, canonical: &'a Path, given: &Path) -> Result<&'a Path> {
        named_after(canonical, self.root.as_deref()).ok_or_else(|| self.outside(canonical, given))
    }

    /// The name of a directory in an intent: its real path, or the part below the lock root.
    pub(crate) fn named_dir(&self, real: &Path) -> PathBuf {
        self.root.as_deref().and_then(|root| real.strip_prefix(root).ok()).unwrap_or(real).to_owned()
    }

    /// The opposite of [`named_dir`](Self::named_dir) and [`named_after`](Self::named_after). `None`: the name is below
    /// a lock root and this directory has none, or the other way round.
    pub(crate) fn real(&self, named: &Path) -> Option<PathBuf> {
        match &self.root {
            Some(root) if named.is_relative() => Some(root.join(named)),
            None if named.is_absolute() => Some(named.to_owned()),
            _ => None,
        }
    }

    /// The same, with an error that says why.
    pub(super) fn real_path(&self, named: &Path) -> Result<PathBuf> {
        self.real(named).ok_or_else(|| {
            let why = "the process that decided the change names locks below another lock root, or below none";
            Error::io(named, Step::FinishChange, io::Error::new(io::ErrorKind::InvalidInput, why))
        })
    }

    /// The path of an intent in this directory.
    pub(super) fn path_of(&self, intent: &CStr) -> PathBuf {
        self.path.join(OsStr::from_bytes(intent.to_bytes()))
    }

    /// Opens the directory, to be synced.
    pub(super) fn open_itself(&self) -> Result<Fd> {
        let failed = |error| Error::io(&self.path, Step::SyncLocks, error);
        sys::open_dir(sys::cwd(), &self.path, Links::Follow).map_err(failed)
    }

    /// Syncs what other processes have changed in it. They may have failed to sync that, so the file system must be alive.
    pub(super) fn sync(&self, open: &Fd) -> Result<()> {
        let synced = sys::sync_dir(open).and_then(|()| sys::prove_alive(open));
        synced.map_err(|error| Error::io(&self.path, Step::SyncLocks, error))
    }

    /// The error for an intent that could not be finished. `path` is one of its files.
    pub(super) fn unfinished(&self, path: &Path, intent: &CStr, source: Error) -> Error {
        Error::Unfinished { path: path.to_owned(), intent: self.path_of(intent), source: Box::new(source) }
    }

    /// Whether the files in a directory can have locks.
    pub(crate) fn check_directory(&self, real: &Path, given: &Path) -> Result<()> {
        let is_below = self.root.as_deref().is_none_or(|root| real.starts_with(root));
        if is_below { Ok(()) } else { Err(self.outside(real, given)) }
    }

    fn outside(&self, canonical: &Path, given: &Path) -> Error {
        let root = self.root.clone().unwrap_or_default();
        Error::OutsideLockRoot { path: given.to_owned(), real: canonical.to_owned(), root }
    }

    /// Whether an open directory is this one. A lock file in it must not be used as data: to open and close it would
    /// drop the locks on it, and to replace it would split them.
    pub(crate) fn is(&self, dir: BorrowedFd<'_>) -> bool {
        sys::stat_open(dir).is_ok_and(|dir| self.is_that(&dir))
    }

    /// The same for a directory that was looked at.
    pub(crate) fn is_that(&self, dir: &Meta) -> bool {
        sys::stat_follow(sys::cwd(), &self.path).is_ok_and(|own| own.identity() == dir.identity())
    }

    /// Opens the lock file of the canonical path `guarded`. It makes the file and the directory if they are missing.
    ///
    /// It opens for writing, because an exclusive record lock needs that. If that is not allowed, it opens for reading,
    /// which is enough for a shared lock.
    pub(super) fn open(&self, file: &CStr, guarded: &Path) -> Result<(Key, OpenLock)> {
        for _ in 0..ATTEMPTS {
            match self.open_existing(file)? {
                Some(found) => return Ok(found),
                None if self.prepared.load(Relaxed) => {}
                None => self.prepare()?,
            }
            match self.make_lock_file(file, guarded) {
                Ok(fd) => return OpenLock::new(path_of(file), fd),
                Err(Errno::EXIST) => {}
                Err(Errno::NOENT | Errno::STALE) => self.prepare()?,
                Err(error) => return Err(Error::io(path_of(file), Step::OpenLock, error)),
            }
        }
        Err(Error::io(path_of(file), Step::OpenLock, Errno::NOENT))
    }

    /// Opens a lock file, if it exists.
    pub(super) fn open_existing(&self, file: &CStr) -> Result<Option<(Key, OpenLock)>> {
        let opened = match sys::open_read_write(sys::cwd(), file) {
            Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => sys::open_read(sys::cwd(), file),
            opened => opened,
        };
        match opened {
            Ok(fd) => OpenLock::new(path_of(file), fd).map(Some),
            Err(Errno::NOENT | Errno::STALE) => Ok(None),
            Err(error) => match sys::stat(sys::cwd(), file) {
                // A clearer error than ELOOP, EISDIR or ENXIO.
                Ok(Meta { special: Some(kind), .. }) => Err(Error::NotRegularFile { path: path_of(file).into(), kind }),
                _ => Err(Error::io(path_of(file), Step::OpenLock, error)),
            },
        }
    }

    /// Opens an existing lock file for reading and writing.
    pub(super) fn open_for_writing(&self, file: &CStr) -> Result<Option<(Key, OpenLock)>> {
        match sys::open_read_write(sys::cwd(), file) {
            Ok(fd) => OpenLock::new(path_of(file), fd).map(Some),
            Err(Errno::NOENT | Errno::STALE) => Ok(None),
            Err(error) => Err(Error::io(path_of(file), Step::OpenLock, error)),
        }
    }

    /// ENOENT: the lock directory is missing, or somebody has just swept the temporary file.
    fn make_lock_file(&self, file: &CStr, guarded: &Path) -> sys::Result<Fd> {
        // O_EXCL, because with O_CREAT alone, fs.protected_regular refuses another user's existing file in a sticky
        // directory (`may_create_in_sticky` in fs/namei.c).
        let Some(sharing) = self.sharing()? else {
            let fd = sys::create_new(sys::cwd(), file, 0o666)?;
            self.label(&fd, file, guarded);
            return Ok(fd);
        };
        // A lock file must have its final rights when it gets its name.
        let temporary = self.temporary_of(file)?;
        match make_whole(&temporary, sharing.mode, file, |fd| sharing.apply(fd))? {
            Some(fd) => Ok(fd),
            None => {
                let fd = sys::create_new(sys::cwd(), file, sharing.mode)?;
                sharing.apply(&fd).map(|()| fd)
            }
        }
    }

    /// Writes the guarded path into a new lock file. The text helps people only, and an empty lock file works as well,
    /// so errors are ignored. A path that was written in part has another hash, so it is not taken for the path.
    /// Another process may have locked and marked the file by now, but the mark is behind this text.
    fn label(&self, new: &Fd, file: &CStr, guarded: &Path) {
        let name = path_of(file).file_name().unwrap_or_default();
        let text =
            named_after(guarded, self.root.as_deref()).and_then(|path| lock_contents::text(path, name.as_bytes()));
        // Checked first: a write past the limit would end the process with SIGXFSZ.
        if let Some(text) = text.filter(|text| text.len() as u64 <= sys::file_size_limit()) {
            let _ = sys::write_at(new, &text, 0);
        }
    }

    /// Who may use new lock files. `None`: the umask decides.
    fn sharing(&self) -> sys::Result<Option<Sharing>> {
        let dir = sys::stat_follow(sys::cwd(), &self.path)?;
        let shared = dir.mode & (SET_GROUP_ID | GROUP_OR_OTHERS_WRITE) != 0;
        let (mode, exact) = match self.file_mode {
            Some(mode) => (mode, true),
            None if shared => (dir.mode & READ_WRITE | OWNER_READ_WRITE, false),
            None => return Ok(None),
        };
        Ok(Some(Sharing { mode, group: dir.gid, exact }))
    }

    /// Makes an intent in the open lock directory. All users of the lock files may read it. Only its owner may write to
    /// it, because a process that finds the intent carries it out with its own rights if it trusts the owner.
    pub(super) fn make_intent(&self, at: BorrowedFd<'_>, name: &CStr) -> sys::Result<Fd> {
        let Some(sharing) = self.sharing()? else { return sys::create_new(at, name, 0o644) };
        let sharing = Sharing { mode: sharing.mode & !GROUP_OR_OTHERS_WRITE, ..sharing };
        let file = sys::create_new(at, name, sharing.mode)?;
        // Exact, to remove write permission that comes from the directory's default access control list.
        let sharing = Sharing { exact: true, ..sharing };
        match sharing.apply(&file) {
            Ok(()) => Ok(file),
            Err(error) => {
                let _ = sys::unlink(at, name);
                Err(error)
            }
        }
    }

    /// Makes the lock directory survive a power cut, once. It and the directories above may be new, and nobody may have
    /// synced them into their parent directories. A parent that this process may not open was made by others.
    pub(super) fn make_durable(&self) -> Result<()> {
        if self.durable.load(Relaxed) {
            return Ok(());
        }
        for above in self.path.ancestors().skip(1) {
            let synced = match sys::open_dir(sys::cwd(), above, Links::Follow) {
                Ok(above) => sys::sync_dir(&above),
                Err(Errno::ACCESS | Errno::PERM) => Ok(()),
                Err(error) => Err(error),
            };
            synced.map_err(|error| Error::io(above, Step::SyncLocks, error))?;
        }
        self.durable.store(true, Relaxed);
        Ok(())
    }

    fn temporary_of(&self, file: &CStr) -> sys::Result<CString> {
        let name = path_of(file).file_name().unwrap_or_default().as_bytes();
        let c_name = CString::new(name).map_err(|_| Errno::INVAL)?;
        let temporary = TemporaryName::new(&c_name, hash_in(name));
        let temporary = self.path.join(OsStr::from_bytes(temporary.get().to_bytes()));
        CString::new(temporary.into_os_string().into_vec()).map_err(|_| Errno::INVAL)
    }

    /// Looks which file has this name now.
    pub(super) fn identify(&self, file: &CStr) -> Result<Option<Meta>> {
        match sys::stat(sys::cwd(), file) {
            Ok(meta) => Ok(Some(meta)),
            Err(Errno::NOENT | Errno::STALE) => Ok(None),
            Err(error) => Err(Error::io(path_of(file), Step::OpenLock, error)),
        }
    }

    pub(super) fn key_of(&self, file: &CStr) -> Result<Option<Key>> {
        Ok(self.identify(file)?.map(|meta| meta.identity()))
    }

    /// The same for a lock directory on NFS, from the server. The lock directory's name is in its parent directory, and
    /// may lead to another directory by now, so both are refreshed. A change of names further above is seen when the
    /// client's cache expires.
    pub(super) fn identify_anew(&self, file: &CStr) -> Result<Option<Meta>> {
        for dir in self.path.parent().into_iter().chain([&*self.path]) {
            match sys::refresh(sys::cwd(), &c_path(dir)?, Links::Follow) {
                Ok(()) => {}
                Err(Errno::NOENT | Errno::STALE) => return Ok(None),
                Err(error) => return Err(Error::io(dir, Step::OpenLock, error)),
            }
        }
        self.identify(file)
    }

    /// Removes a lock file. The caller holds its exclusive lock.
    pub(super) fn remove(&self, file: &CStr) -> Result<()> {
        match sys::unlink(sys::cwd(), file) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(Error::io(path_of(file), Step::RemoveLock, error)),
        }
    }

    /// The paths of all lock files, sorted. Empty if there is no lock directory.
    pub(super) fn list(&self) -> Result<Vec<PathBuf>> {
        self.list_names(is_lock_name)
    }

    /// The paths of temporary files from processes that were killed while they made a lock file or the `.gitignore`. If
    /// such a process is alive and its file is removed, it makes the lock file again. A missing `.gitignore` is made by
    /// the next process.
    pub(crate) fn left_behind(&self) -> Result<Vec<PathBuf>> {
        self.list_names(|name| git_ignore::is_temporary_name(name) || is_temporary_lock(name))
    }

    /// The paths of all intents, sorted.
    pub(crate) fn intents(&self) -> Result<Vec<PathBuf>> {
        self.list_names(is_intent_name)
    }

    fn list_names(&self, wanted: impl Fn(&[u8]) -> bool) -> Result<Vec<PathBuf>> {
        let failed = |error| Error::io(&self.path, Step::ListLocks, error);
        let dir = match sys::open_dir(sys::cwd(), &self.path, Links::Follow) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut files = Vec::new();
        for name in sys::list(dir).map_err(failed)? {
            let name = name.map_err(failed)?;
            if wanted(name.as_bytes()) {
                files.push(self.path.join(OsStr::from_bytes(name.as_bytes())));
            }
        }
        files.sort();
        Ok(files)
    }

    /// Makes the directory, and puts a `.gitignore` into it that hides everything there, itself too.
    ///
    /// A directory with other files than lock files belongs to somebody else, who may not want all of it hidden.
    fn prepare(&self) -> Result<()> {
        self.make_dir(&self.path)?;
        // The `.gitignore` is a convenience, so an error must not refuse the lock. The next process tries again.
        let _ = self.hide_from_git();
        self.prepared.store(true, Relaxed);
        Ok(())
    }

    fn hide_from_git(&self) -> Result<()> {
        let failed = |error| Error::io(&self.path, Step::CreateLockDirectory, error);
        let ignore = c_path(&self.path.join(git_ignore::NAME))?;
        let is_foreign = |name: &[u8]| {
            !is_lock_name(name)
                && !is_intent_name(name)
                && !is_temporary_lock(name)
                && !name.starts_with(git_ignore::NAME.as_bytes())
        };
        if sys::stat(sys::cwd(), &ignore) != Err(Errno::NOENT) || !self.list_names(is_foreign)?.is_empty() {
            return Ok(());
        }
        let temporary = c_path(&self.path.join(git_ignore::temporary_name(sys::pid())))?;
        let write = |file: &Fd| match sys::write(file, git_ignore::CONTENTS)? {
            written if written == git_ignore::CONTENTS.len() => Ok(()),
            _ => Err(Errno::NOSPC),
        };
        make_whole(&temporary, 0o666, &ignore, write).map(drop).map_err(failed)
    }

    fn make_dir(&self, path: &Path) -> Result<()> {
        let name = c_path(path)?;
        match (sys::make_dir(sys::cwd(), &name), path.parent()) {
            (Err(Errno::NOENT), Some(above)) => {
                self.make_dir(above)?;
                match sys::make_dir(sys::cwd(), &name) {
                    Ok(()) | Err(Errno::EXIST) => Ok(()),
                    Err(error) => Err(Error::io(&self.path, Step::CreateLockDirectory, error)),
                }
            }
            (Ok(()) | Err(Errno::EXIST), _) => Ok(()),
            // For an existing directory on a read-only file system, mkdir reports EROFS.
            (Err(error), _) => match sys::stat_follow(sys::cwd(), path) {
                Ok(meta) if meta.special == Some(FileKind::Directory) => Ok(()),
                _ => Err(Error::io(&self.path, Step::CreateLockDirectory, error)),
            },
        }
    }
}

impl Sharing {
    /// The group is set before the mode. Otherwise the mode's group bits would apply to the wrong group for a moment.
    fn apply(self, file: &Fd) -> sys::Result<()> {
        // A default access control list of the directory says what its owner wants for lock files. It applies, unless
        // the mode has to be exact.
        let listed = sys::open_attribute(file, sys::ACCESS_LIST).is_ok();
        match listed {
            true if self.exact => sys::remove_attribute(file, sys::ACCESS_LIST)?,
            true => return Ok(()),
            false => {}
        }
        let new = sys::stat_open(file)?;
        let mut mode = self.mode;
        let others = mode & 0o007;
        // The bits that the group has and others do not.
        let groups = mode & 0o070 & !(others << 3);
        if groups != 0 && new.gid != self.group {
            match sys::set_owner(file, None, Some(self.group)) {
                Ok(()) => {}
                Err(error) if !is_refused(error) => return Err(error),
                Err(_) if self.exact => {}
                // The file's group is the writer's own, not the one that the directory is shared with.
                Err(_) => mode &= !groups,
            }
        }
        if mode == new.mode {
            return Ok(());
        }
        match sys::set_mode(file, mode) {
            // For example, the file system has no modes.
            Err(error) if is_refused(error) && !self.exact => Ok(()),
            result => result,
        }
    }
}

/// Makes a file under a temporary name, and gives it its final name with a link, so that nobody sees it incomplete. A
/// link never replaces an existing file (EEXIST). `None`: the file system has no hard links (link(2)).
fn make_whole(
    temporary: &CStr,
    mode: u32,
    name: &CStr,
    finish: impl FnOnce(&Fd) -> sys::Result<()>,
) -> sys::Result<Option<Fd>> {
    let file = sys::create_new(sys::cwd(), temporary, mode)?;
    let made = finish(&file).and_then(|()| match sys::link(sys::cwd(), temporary, name) {
        Ok(()) => Ok(Some(file)),
        // EACCES: a security module forbids links.
        Err(Errno::PERM | Errno::ACCESS | Errno::NOTSUP | Errno::NOSYS | Errno::MLINK) => Ok(None),
        Err(error) => Err(error),
    });
    // If this fails, a later sweep removes the file.
    let _ = sys::unlink(sys::cwd(), temporary);
    made
}

/// Whether the caller may not do this, or the file system cannot (chown(2), chmod(2)).
fn is_refused(error: Errno) -> bool {
    matches!(error, Errno::PERM | Errno::INVAL | Errno::NOTSUP | Errno::NOSYS)
}

/// Whether this is the temporary name of a lock file or an intent.
fn is_temporary_lock(name: &[u8]) -> bool {
    Owner::of(name).is_some_and(|owner| is_lock_name(owner.name) || is_intent_name(owner.name))
}

/// An open lock file.
#[derive(Debug)]
pub(super) struct OpenLock {
    fd: Fd,
    pub(super) home: Home,
}

/// The file system of a lock file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Home {
    pub(crate) device: u64,
    pub(crate) nfs: bool,
}

impl Home {
    /// Whether a file on this device is known to be in a local file system, without a system call.
    pub(crate) fn is_local(self, device: u64) -> bool {
        if device == self.device { !self.nfs } else { sys::is_on_disk(device) }
    }
}

impl OpenLock {
    /// Also returns the identity. An error if it is not a regular file.
    fn new(path: &Path, fd: Fd) -> Result<(Key, Self)> {
        let meta = sys::stat_open(&fd).map_err(|error| Error::io(path, Step::OpenLock, error))?;
        if let Some(kind) = meta.special {
            return Err(Error::NotRegularFile { path: path.to_owned(), kind });
        }
        let home = Home { device: meta.dev, nfs: sys::is_nfs(fd.as_fd(), Some(meta.dev)) };
        if home.nfs {
            // O_DIRECT makes each read ask the server whether the lock still exists. Without it, nobody notices a lost
            // lock.
            let _ = sys::read_directly(fd.as_fd());
        }
        Ok((meta.identity(), OpenLock { fd, home }))
    }
}

impl AsFd for OpenLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A path for system calls.
pub(crate) fn c_path(path: &Path) -> Result<CString> {
    let reason = "it contains a zero byte";
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::InvalidPath { path: path.to_owned(), reason })
}

fn path_of(file: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(file.to_bytes()))
}
