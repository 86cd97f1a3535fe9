//! What `fstat` and `fstatat` tell about a file, in the same types on every system.

use std::fmt;

use rustix::fs::{FileType, Stat};

use super::backend;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    /// `None`: a regular file.
    pub(crate) special: Option<FileKind>,
    /// Permission, setuid, setgid and sticky bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    /// The time of the last change of its contents, in seconds since 1970, by the clock of its file system.
    pub(crate) modified: i64,
}

impl Meta {
    pub(super) fn new(stat: &Stat) -> Self {
        let special = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => None,
            FileType::Directory => Some(FileKind::Directory),
            FileType::Symlink => Some(FileKind::Symlink),
            FileType::Fifo => Some(FileKind::Fifo),
            FileType::Socket => Some(FileKind::Socket),
            FileType::CharacterDevice | FileType::BlockDevice => Some(FileKind::Device),
            _ => Some(FileKind::Other),
        };
        Meta {
            dev: backend::device(stat),
            ino: stat.st_ino,
            special,
            mode: backend::mode_bits(stat),
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: stat.st_mtime,
        }
    }

    /// Whether a directory has the sticky bit: only the owner of a file, or of the directory, may remove the file.
    pub(crate) fn is_sticky(&self) -> bool {
        self.mode & 0o1000 != 0
    }

    /// The device and the inode number, which identify the file.
    pub(crate) fn identity(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }
}

/// What a path leads to, if not to a regular file.
///
/// ```
/// # let scratch = tempfile::tempdir()?;
/// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
/// use atomic_file_adapter::{Error, FileKind};
///
/// let error = files.read_with_lock(scratch.path()).unwrap_err();
/// assert!(matches!(error, Error::NotRegularFile { kind: FileKind::Directory, .. }), "{error}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A symbolic link in the place of a lock file, or one that appeared after the path had been resolved.
    Symlink,
    /// A FIFO (named pipe).
    Fifo,
    /// A socket.
    Socket,
    /// A block or character device.
    Device,
    /// Something else.
    Other,
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FileKind::Directory => "a directory",
            FileKind::Symlink => "a symbolic link",
            FileKind::Fifo => "a FIFO",
            FileKind::Socket => "a socket",
            FileKind::Device => "a device",
            FileKind::Other => "neither a file nor a directory",
        })
    }
}
