//! From the caller's path to an open parent directory, a final name, and the canonical path that the lock is named
//! after.
//!
//! The path is looked up once. From then on every call goes through the open directory, so that renaming or
//! replacing a directory above cannot lead a write to one place and its lock to another.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::error::{Error, Result, Step};
use crate::lock::{Home, is_open_lock_file};
use crate::protocol::lock_name::is_like_lock_name;
use crate::sys::{self, Errno, Fd, FileKind, Links, Meta};

/// A file's place: its directory, held open, and its name there.
#[derive(Debug)]
pub(crate) struct Place {
    /// Empty until the directory exists.
    dir: OnceLock<Dir>,
    /// The deepest directory that exists, and the names of the missing ones below it.
    missing: Option<(Dir, Vec<CString>)>,
    name: CString,
    path: Arc<Path>,
    /// The home of the lock, for when the directory was missing.
    lock: OnceLock<Home>,
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct Dir {
    fd: Fd,
    /// False if the process may search the directory, but not read it.
    pub(crate) syncable: bool,
    /// Whether it is on NFS. Empty until this is needed.
    nfs: OnceLock<bool>,
    /// The home of the lock under which the directory was used first.
    lock: OnceLock<Home>,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dir {
    fn open<P: rustix::path::Arg + Copy>(at: BorrowedFd<'_>, path: P, links: Links) -> sys::Result<Self> {
        match sys::open_dir(at, path, links) {
            Ok(fd) => Ok(Dir::new(fd, true)),
            // No permission to read the directory. Search permission is enough to open a file in it.
            Err(Errno::ACCESS) => Ok(Dir::new(sys::open_search_only(at, path, links)?, false)),
            Err(error) => Err(error),
        }
    }

    fn new(fd: Fd, syncable: bool) -> Self {
        Dir { fd, syncable, nfs: OnceLock::new(), lock: OnceLock::new() }
    }

    /// Makes the changes of other machines in this directory visible. It is called after a lock was granted and before
    /// a name is looked at. A granted lock does not refresh the names that the kernel has cached. The kernel caches
    /// missing names, too.
    ///
    /// If the file system of the directory is not known yet, and the lock is not on NFS, [`stat`](Self::stat) does this
    /// instead, because its look tells the device at no cost.
    fn freshen(&self, lock: Home) -> sys::Result<()> {
        let lock = self.lock.get_or_init(|| lock);
        if *self.nfs.get().unwrap_or(&lock.nfs) { sys::refresh(self.as_fd(), c"", Links::Follow) } else { Ok(()) }
    }

    /// Looks at a name in it.
    pub(crate) fn stat(&self, name: &CStr) -> sys::Result<Meta> {
        let seen = sys::stat(self.as_fd(), name);
        // Before a lock is taken, a stale answer does no harm.
        let (None, Some(lock)) = (self.nfs.get(), self.lock.get()) else { return seen };
        let nfs = match &seen {
            // The lock file is open, so no other file system can have got its device number.
            Ok(meta) if lock.device == meta.dev => lock.nfs,
            Ok(meta) => sys::is_nfs(self.as_fd(), Some(meta.dev)),
            Err(Errno::NOENT) if !lock.nfs => sys::is_nfs(self.as_fd(), None),
            Err(_) => return seen,
        };
        // If the lock is on NFS, `freshen` has asked the server already.
        if !*self.nfs.get_or_init(|| nfs) || lock.nfs {
            return seen;
        }
        sys::refresh(self.as_fd(), c"", Links::Follow)?;
        sys::stat(self.as_fd(), name)
    }

    /// Makes changes of a file's mode and owner by other machines visible to the next look. False: this is not needed.
    pub(crate) fn freshen_file(&self, name: &CStr) -> sys::Result<bool> {
        let nfs = self.nfs.get() == Some(&true);
        if nfs { sys::refresh(self.as_fd(), name, Links::Refuse).map(|()| true) } else { Ok(false) }
    }

    fn is_on_nfs(&self) -> bool {
        *self.nfs.get_or_init(|| sys::is_nfs(self.as_fd(), None))
    }

    /// The device and inode number of the directory. `None`: they cannot be read.
    pub(crate) fn identity(&self) -> Option<(u64, u64)> {
        sys::stat_open(self).ok().map(|meta| meta.identity())
    }
}

impl Place {
    /// Finds the place of `path`. A symbolic link as the last name is followed, even if it leads to nothing yet. With
    /// [`Links::Refuse`], any symbolic link in the path is an error.
    pub(crate) fn resolve(path: &Path, links: Links) -> Result<Self> {
        Self::resolve_unless(path, links, |_| false)
    }

    /// The same. But if `is_known` is true for the canonical path, the name is not looked at, and may be a symbolic
    /// link.
    pub(crate) fn resolve_unless(path: &Path, links: Links, mut is_known: impl FnMut(&Path) -> bool) -> Result<Self> {
        let failed = |error: Errno| Error::io(path, Step::Resolve, error);
        let not_regular = |kind| Error::NotRegularFile { path: path.to_owned(), kind };
        let mut rest = path.as_os_str().as_bytes().to_vec();
        let mut start = None;
        for followed in 0..=sys::MAX_LINKS {
            let (above, name) = match split(&rest) {
                Ok(split) => split,
                // This text comes from a link, not from the caller.
                Err(_) if followed > 0 => return Err(not_regular(FileKind::Directory)),
                Err(reason) => return Err(Error::InvalidPath { path: path.to_owned(), reason }),
            };
            let found = Parent::find(start.as_ref(), above, path, links)?;
            if found.missing.is_empty() {
                // Not if the file's name may be stored in another spelling, because then the canonical path is known
                // only after the look. Not in a directory that cannot be synced either: a change would report that
                // before it looks at the file.
                let may_skip = cfg!(linux_backend) && found.dir.syncable;
                if may_skip && is_known(&found.real.join(OsStr::from_bytes(name.as_bytes()))) {
                    return Ok(found.into_place(name));
                }
                let seen = sys::stat(found.dir.as_fd(), &name);
                if seen.as_ref().is_ok_and(|meta| sys::is_on_disk(meta.dev)) {
                    let _ = found.dir.nfs.set(false);
                }
                match seen {
                    Ok(link) if link.special == Some(FileKind::Symlink) => {
                        if links == Links::Refuse {
                            return Err(refused(path, &found.real, &name));
                        }
                        may_follow(&found.dir, link.uid, path)?;
                        // Some links of /proc lead to things without a path, for example a pipe, whatever their text
                        // says (proc_pid_fd(5)). So the kernel is asked first.
                        let leads_to = sys::stat_follow(found.dir.as_fd(), &name);
                        if let Ok(Meta { special: Some(kind), .. }) = leads_to {
                            return Err(not_regular(kind));
                        }
                        rest = sys::read_link(found.dir.as_fd(), &name).map_err(failed)?.into_bytes();
                        if leads_to.is_ok() && rest.ends_with(sys::REMOVED) {
                            return Err(failed(Errno::NOENT));
                        }
                        start = Some(found);
                        continue;
                    }
                    // A lock file is left alone, whatever its name. Finding its stored name may open and close it, and
                    // the close would drop the locks on it.
                    Ok(meta @ Meta { special: None, .. })
                        if !is_like_lock_name(name.as_bytes()) && !is_open_lock_file(meta.identity()) =>
                    {
                        let stored = sys::stored_name(found.dir.as_fd(), &name);
                        return Ok(found.into_place(stored.unwrap_or(name)));
                    }
                    Ok(_) | Err(Errno::NOENT) => {}
                    Err(error) => return Err(failed(error)),
                }
            }
            return Ok(found.into_place(name));
        }
        Err(failed(Errno::LOOP))
    }

    /// The canonical path: absolute, without symbolic links.
    pub(crate) fn path(&self) -> &Arc<Path> {
        &self.path
    }

    pub(crate) fn name(&self) -> &CStr {
        &self.name
    }

    /// The directory, if it exists by now.
    pub(crate) fn dir(&self) -> Result<Option<&Dir>> {
        self.open_dir(|_, _| Ok(()))
    }

    /// Whether the directory exists and is on NFS. The answer is kept, so no later call has to find out.
    pub(crate) fn is_on_nfs(&self) -> bool {
        self.dir.get().is_some_and(Dir::is_on_nfs)
    }

    /// Must be called when a lock was granted, before anything else: see [`Dir::freshen`]. If the directory is missing,
    /// `open_dir` refreshes each level when it is needed.
    pub(crate) fn freshen(&self, lock: Home) -> Result<()> {
        let Some(dir) = self.dir.get() else {
            self.lock.get_or_init(|| lock);
            return Ok(());
        };
        dir.freshen(lock).map_err(|error| Error::io(&self.path, Step::Stat, error))
    }

    /// The directory, made if it is missing. `durable`: it survives a power cut, together with every directory that had
    /// to be made above it.
    pub(crate) fn make_dir(&self, durable: bool) -> Result<&Dir> {
        let made = self.open_dir(|above, name| {
            if durable && !above.syncable {
                return Err(Error::io(&self.path, Step::SyncDirectory, Errno::ACCESS));
            }
            match sys::make_dir(above.as_fd(), name) {
                // The process that made it may die before its sync, so it is synced here as well.
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(Error::io(&self.path, Step::CreateDirectory, error)),
            }
            if durable {
                sys::sync_dir(above).map_err(|error| Error::io(&self.path, Step::CreateDirectory, error))?;
            }
            Ok(())
        })?;
        made.ok_or_else(|| Error::io(&self.path, Step::CreateDirectory, Errno::NOENT))
    }

    /// Makes it durable that there is no file here, by a sync of its directory, or of the deepest directory above it that
    /// exists. Another process may have removed or moved the rest without a sync.
    pub(crate) fn sync_absence(&self) -> Result<()> {
        let failed = |error: Errno| Error::io(&self.path, Step::SyncDirectory, error);
        let not_durable = |error: Errno| Error::NotDurable { path: self.path.to_path_buf(), source: error.into() };
        let sync = |dir: &Dir| {
            if !dir.syncable {
                return Err(failed(Errno::ACCESS));
            }
            sys::sync_dir(dir).map_err(not_durable)?;
            sys::check_alive(dir).map_err(failed)
        };
        let dir = self.dir()?;
        if let Some(dir) = dir {
            sync(dir)?;
            // The directory may have been removed or moved while a handle has it open.
            if sys::real_path(dir.as_fd()).as_deref() == self.path.parent() {
                return Ok(());
            }
        }
        let gone = || Error::io(&self.path, Step::Resolve, Errno::NOENT);
        let now = match Self::resolve(&self.path, Links::Refuse) {
            // The link was put in the place of the directory.
            Err(Error::SymbolicLink { .. }) => return Err(gone()),
            now => now?,
        };
        match (&now.missing, dir) {
            (Some((deepest, _)), _) => sync(deepest),
            // No system tells the path of every directory.
            (None, Some(dir)) if now.dir()?.and_then(Dir::identity) == dir.identity() => Ok(()),
            // Another directory has the path. A file in it is not the one of this handle. If there is none, what must be
            // durable is that the old directory has gone.
            (None, _) => match now.dir()? {
                Some(new) if new.stat(&self.name) == Err(Errno::NOENT) => {
                    sync(&Dir::open(new.as_fd(), c"..", Links::Refuse).map_err(failed)?)
                }
                _ => Err(gone()),
            },
        }
    }

    /// Opens the missing directories one by one. `before` is called before each.
    fn open_dir(&self, before: impl Fn(&Dir, &CStr) -> Result<()>) -> Result<Option<&Dir>> {
        if let Some(dir) = self.dir.get() {
            return Ok(Some(dir));
        }
        let Some((base, names)) = &self.missing else { return Ok(None) };
        let mut reached: Option<Dir> = None;
        for name in names {
            let above = reached.as_ref().unwrap_or(base);
            before(above, name)?;
            // The same hazard as in `Dir::freshen`.
            let asked = match self.lock.get().is_some() && above.is_on_nfs() {
                true => sys::refresh(above.as_fd(), c"", Links::Follow),
                false => Ok(()),
            };
            // The lock was named after a directory, so a symbolic link in its place is refused.
            match asked.and_then(|()| Dir::open(above.as_fd(), name.as_c_str(), Links::Refuse)) {
                Ok(dir) => reached = Some(dir),
                Err(Errno::NOENT) => return Ok(None),
                Err(error) => return Err(Error::io(&self.path, Step::Resolve, error)),
            }
        }
        if let (Some(dir), Some(lock)) = (&reached, self.lock.get()) {
            dir.lock.get_or_init(|| *lock);
        }
        Ok(reached.map(|dir| self.dir.get_or_init(|| dir)))
    }
}

/// The part of a path above its final name, as far as it exists. Its real path has no symbolic links.
struct Parent {
    dir: Dir,
    /// The real path of `dir`.
    real: PathBuf,
    /// The names below `dir` that do not exist.
    missing: Vec<CString>,
}

impl Parent {
    /// Finds the directory `above`. If it is relative, it starts at `start` (`None`: the current directory). `path` is
    /// for error messages.
    fn find(start: Option<&Parent>, above: &[u8], path: &Path, links: Links) -> Result<Self> {
        // The usual case, in one call.
        if is_plain(above) {
            if let Some(fd) = sys::open_dir_without_links(above) {
                let real = PathBuf::from(OsStr::from_bytes(above));
                return Ok(Parent { dir: Dir::new(fd, true), real, missing: Vec::new() });
            }
        }
        if links == Links::Refuse {
            // Name by name, which also tells which name is the link.
            let found = Self::walk(start, above, path, links)?;
            // The real path as the file system stores it, so that callers that follow links get the same lock.
            let real = if found.missing.is_empty() { sys::real_path(found.dir.as_fd()) } else { None };
            return Ok(Parent { real: real.unwrap_or(found.real), ..found });
        }
        let at = start.map_or(sys::cwd(), |start| start.dir.as_fd());
        // The `/.` is needed: the kernel's rule for links in sticky directories applies to the last name of a path
        // only, and the last name of `above` is not the last name of `path`.
        match Dir::open(at, [above, b"/."].concat().as_slice(), Links::Follow) {
            Ok(dir) => match sys::real_path(dir.as_fd()) {
                Some(real) => Ok(Parent { dir, real, missing: Vec::new() }),
                None => match Self::walk(start, above, path, links)? {
                    found if found.missing.is_empty() => Ok(found),
                    // The directory exists, but not by this name: it was removed.
                    _ => Err(Error::io(path, Step::Resolve, Errno::NOENT)),
                },
            },
            Err(Errno::NOENT) => Self::walk(start, above, path, links),
            Err(error) => Err(Error::io(path, Step::Resolve, error)),
        }
    }

    /// The same name by name. It is needed if the path does not exist as a whole, if the kernel cannot tell the real
    /// path of an open directory, and if `links` are refused. Each directory is opened with O_NOFOLLOW, so that a link
    /// that takes its place after the look is not followed.
    fn walk(start: Option<&Parent>, above: &[u8], path: &Path, links: Links) -> Result<Self> {
        let failed = |error: Errno| Error::io(path, Step::Resolve, error);
        let root = || Dir::open(sys::cwd(), c"/", Links::Follow).map_err(failed);
        let mut followed = 0;
        let mut todo = Vec::new();
        push_names(&mut todo, above);
        let (mut dir, mut real) = if above.starts_with(b"/") {
            (root()?, PathBuf::from("/"))
        } else if let Some(start) = start {
            (Dir::open(start.dir.as_fd(), c".", Links::Follow).map_err(failed)?, start.real.clone())
        } else {
            let dir = Dir::open(sys::cwd(), c".", Links::Follow).map_err(failed)?;
            (dir, current_dir().map_err(|error| Error::io(path, Step::CurrentDirectory, error))?)
        };
        while let Some(name) = todo.pop() {
            if name == b".." {
                dir = Dir::open(dir.as_fd(), c"..", Links::Follow).map_err(failed)?;
                real.pop();
                continue;
            }
            let name = c_string(name, path)?;
            match sys::stat(dir.as_fd(), &name) {
                Ok(link) if link.special == Some(FileKind::Symlink) => {
                    if links == Links::Refuse {
                        return Err(refused(path, &real, &name));
                    }
                    followed += 1;
                    if followed > sys::MAX_LINKS {
                        return Err(failed(Errno::LOOP));
                    }
                    // The kernel is asked first, because a link of /proc may lead to another mount namespace.
                    match Dir::open(dir.as_fd(), name.as_c_str(), Links::Follow) {
                        Ok(found) => {
                            if let Some(found_real) = sys::real_path(found.as_fd()) {
                                (dir, real) = (found, found_real);
                                continue;
                            }
                        }
                        Err(Errno::NOENT) => {}
                        Err(error) => return Err(failed(error)),
                    }
                    let target = sys::read_link(dir.as_fd(), &name).map_err(failed)?.into_bytes();
                    if target.starts_with(b"/") {
                        (dir, real) = (root()?, PathBuf::from("/"));
                    }
                    push_names(&mut todo, &target);
                }
                Ok(_) => {
                    dir = Dir::open(dir.as_fd(), name.as_c_str(), Links::Refuse).map_err(failed)?;
                    real.push(OsStr::from_bytes(name.as_bytes()));
                }
                Err(Errno::NOENT) => {
                    let mut missing = vec![name];
                    while let Some(name) = todo.pop() {
                        if name == b".." {
                            let reason = "it has a `..` after a directory that does not exist; make that directory, or leave both out";
                            return Err(Error::InvalidPath { path: path.to_owned(), reason });
                        }
                        missing.push(c_string(name, path)?);
                    }
                    return Ok(Parent { dir, real, missing });
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(Parent { dir, real, missing: Vec::new() })
    }

    fn into_place(self, name: CString) -> Place {
        let mut path = self.real;
        for name in self.missing.iter().chain([&name]) {
            path.push(OsStr::from_bytes(name.as_bytes()));
        }
        let path = path.into();
        if self.missing.is_empty() {
            Place { dir: self.dir.into(), missing: None, name, path, lock: OnceLock::new() }
        } else {
            Place { dir: OnceLock::new(), missing: Some((self.dir, self.missing)), name, path, lock: OnceLock::new() }
        }
    }
}

/// An existing directory, and its real path. `None`: `path` is not a directory.
pub(crate) fn directory(path: &Path, links: Links) -> Result<Option<(Dir, PathBuf)>> {
    match sys::stat_follow(sys::cwd(), path) {
        Ok(Meta { special: Some(FileKind::Directory), .. }) => {
            let found = Parent::find(None, path.as_os_str().as_bytes(), path, links)?;
            Ok(found.missing.is_empty().then_some((found.dir, found.real)))
        }
        _ => Ok(None),
    }
}

/// The real path of a directory, which need not exist yet.
pub(crate) fn real_path_of_directory(path: &Path) -> Result<PathBuf> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.contains(&0) {
        return Err(Error::InvalidPath { path: path.to_owned(), reason: CONTAINS_NUL });
    }
    let Parent { mut real, missing, .. } = Parent::find(None, bytes, path, Links::Follow)?;
    real.extend(missing.iter().map(|name| OsStr::from_bytes(name.as_bytes())));
    Ok(real)
}

/// The current directory, absolute.
pub(crate) fn current_dir() -> io::Result<PathBuf> {
    let path = PathBuf::from(OsStr::from_bytes(sys::current_dir()?.as_bytes()));
    // Linux puts "(unreachable)" before a directory outside this process's root (getcwd(2)).
    if path.is_absolute() { Ok(path) } else { Err(Errno::NOENT.into()) }
}

/// Splits a path into its last name and the part above.
fn split(path: &[u8]) -> Result<(&[u8], CString), &'static str> {
    let (above, name): (&[u8], _) = match path.iter().rposition(|byte| *byte == b'/') {
        None => (b".", path),
        Some(0) => (b"/", &path[1..]),
        Some(slash) => (&path[..slash], &path[slash + 1..]),
    };
    if path.is_empty() {
        return Err("it is empty; give the path of a file");
    }
    if path.contains(&0) {
        return Err(CONTAINS_NUL);
    }
    if matches!(name, b"" | b"." | b"..") {
        return Err("it ends in `/`, `.` or `..`, which only a directory can; give the path of a file");
    }
    Ok((above, CString::new(name).map_err(|_| CONTAINS_NUL)?))
}

/// Whether a path is absolute and has no `.`, no `..` and no empty names.
fn is_plain(path: &[u8]) -> bool {
    let Some(names) = path.strip_prefix(b"/") else { return false };
    names.is_empty() || names.split(|byte| *byte == b'/').all(|name| !matches!(name, b"" | b"." | b".."))
}

const CONTAINS_NUL: &str = "it contains a zero byte";

fn c_string(name: Vec<u8>, path: &Path) -> Result<CString> {
    CString::new(name).map_err(|_| Error::InvalidPath { path: path.to_owned(), reason: CONTAINS_NUL })
}

/// Pushes the names of `path`, so that the first name is popped first.
fn push_names(stack: &mut Vec<Vec<u8>>, path: &[u8]) {
    let names = path.split(|byte| *byte == b'/').rev();
    stack.extend(names.filter(|name| !matches!(*name, b"" | b".")).map(<[u8]>::to_vec));
}

/// The error for a symbolic link in a path that must not have one.
fn refused(path: &Path, dir: &Path, name: &CStr) -> Error {
    Error::SymbolicLink { path: path.to_owned(), link: dir.join(OsStr::from_bytes(name.to_bytes())) }
}

/// The kernel's rule for symbolic links in sticky, world-writable directories such as /tmp (`may_follow_link` in
/// fs/namei.c, the sysctl fs.protected_symlinks): a link is followed only if it belongs to the caller or to the
/// directory's owner. A program that reads the link itself bypasses the kernel's check, so it has to make the same check.
///
/// XNU has no such rule (`lookup_handle_symlink` in bsd/vfs/vfs_lookup.c). The links are as dangerous there, so
/// the check is made there, too.
fn may_follow(dir: &Dir, link_owner: u32, path: &Path) -> Result<()> {
    const STICKY_AND_WORLD_WRITABLE: u32 = 0o1002;
    let dir = sys::stat_open(dir).map_err(|error| Error::io(path, Step::Resolve, error))?;
    if dir.mode & STICKY_AND_WORLD_WRITABLE != STICKY_AND_WORLD_WRITABLE
        || link_owner == dir.uid
        || link_owner == sys::effective_uid()
    {
        return Ok(());
    }
    let why = "a symbolic link in a sticky, world-writable directory belongs to another user";
    Err(Error::io(path, Step::Resolve, io::Error::new(io::ErrorKind::PermissionDenied, why)))
}
