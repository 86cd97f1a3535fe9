//! Intents. An intent says what has to be done to several files as one. It is written before the change, so that the
//! next holder of one of the locks can finish what a dead process began. It is a public protocol: see
//! `src/docs/protocol.md`.
//!
//! An intent is a file in the lock directory, `{hash}.{random}.intent`, with the hash of the first lock file's name and
//! ten random digits. It is made under a temporary name. The rename to its final name decides the change. Its contents
//! are fields, each of which ends with a zero byte, and a check:
//!
//! ```text
//! "atomic-file-adapter intent 1"
//! the inode number of the intent itself: a copy does not count
//! "full" (survives a power cut) or "crash" (survives the death of a process only)
//! a file to be replaced:  "R"  directory  its id  name  temporary name  its inode number  id of the old version, or ""
//! a file to be removed:   "D"  directory  its id  name  id of the old version
//! ...
//! xxh3_64 (seed 0) of all before, 16 lower-case hexadecimal digits, with no zero byte behind them
//! ```
//!
//! A directory is its real path. If programs have agreed upon a lock root, it is the part below the root (empty for the
//! root itself). An id is an inode number. If the file system tells the time of birth, a colon follows, its seconds, a
//! dot and its nanoseconds, all decimal. An inode number alone is not enough, because file systems use inode numbers
//! again at once. When a change is finished, its intent is removed, and that is synced before a lock is released. So
//! the files of an existing intent have not been changed since.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::protocol::lock_name::{PATH_HASH_LEN, is_path_hash, path_hash};
use crate::protocol::temporary_name::{Owner, are_digits, random_digits};

const SUFFIX: &[u8] = b".intent";
const RANDOM_LEN: usize = 10;
/// The length of every intent's name.
pub(crate) const NAME_LEN: usize = PATH_HASH_LEN + 1 + RANDOM_LEN + SUFFIX.len();

/// No intent is larger: a process cannot hold locks for so many files. A larger file could be a trap, and the whole of
/// it would be read into memory.
pub(crate) const LARGEST: u64 = 1 << 28;

const KIND: &[u8] = b"atomic-file-adapter intent ";
const VERSION: &[u8] = b"1";
const FULL: &[u8] = b"full";
const CRASH: &[u8] = b"crash";
const CHECK_LEN: usize = 16;

/// A new name that nobody has used before.
pub(crate) fn new_name(lock_hash: &[u8]) -> Vec<u8> {
    [lock_hash, b".", &random_digits::<RANDOM_LEN>(), SUFFIX].concat()
}

/// Whether a name can be that of an intent. Such a name has no slash.
pub(crate) fn is_intent_name(name: &[u8]) -> bool {
    let Some((hash, random)) = name.strip_suffix(SUFFIX).and_then(|it| it.split_at_checked(PATH_HASH_LEN)) else {
        return false;
    };
    let random = random.strip_prefix(b".").filter(|random| random.len() == RANDOM_LEN);
    is_path_hash(hash) && random.is_some_and(are_digits)
}

/// The hash in an intent's name.
pub(crate) fn lock_hash_in(intent_name: &[u8]) -> &[u8] {
    &intent_name[..intent_name.len().min(PATH_HASH_LEN)]
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Intent {
    /// The inode number of the intent's own file.
    pub(crate) inode: u64,
    /// Whether the change has to survive a power cut.
    pub(crate) full: bool,
    pub(crate) changes: Vec<Change>,
}

/// The identity of a file or directory. It stays unique when its inode number is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    pub(crate) inode: u64,
    /// The time of birth: seconds and nanoseconds. `None`: the file system does not tell.
    pub(crate) born: Option<(i64, u32)>,
}

impl From<(u64, Option<(i64, u32)>)> for FileId {
    fn from((inode, born): (u64, Option<(i64, u32)>)) -> Self {
        FileId { inode, born }
    }
}

impl FileId {
    /// Whether both are the same file, as far as can be told.
    pub(crate) fn is(self, other: FileId) -> bool {
        let same_birth = self.born.is_none() || other.born.is_none() || self.born == other.born;
        self.inode == other.inode && same_birth
    }

    fn to_field(self) -> Vec<u8> {
        let born = self.born.map(|(seconds, nanoseconds)| format!(":{seconds}.{nanoseconds}"));
        format!("{}{}", self.inode, born.unwrap_or_default()).into_bytes()
    }

    fn parse(field: &[u8]) -> Option<Self> {
        let field = std::str::from_utf8(field).ok()?;
        let Some((inode, born)) = field.split_once(':') else {
            return Some(FileId { inode: field.parse().ok()?, born: None });
        };
        let (seconds, nanoseconds) = born.split_once('.')?;
        let born = Some((seconds.parse().ok()?, nanoseconds.parse().ok()?));
        Some(FileId { inode: inode.parse().ok()?, born })
    }
}

/// The change of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// The directory of the file: absolute, or below the lock root.
    pub(crate) dir: PathBuf,
    pub(crate) dir_id: FileId,
    pub(crate) name: CString,
    /// The version that existed when the change was decided.
    pub(crate) old: Option<FileId>,
    /// The new version. `None`: the file has to be removed.
    pub(crate) new: Option<New>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct New {
    pub(crate) temporary: CString,
    pub(crate) inode: u64,
}

impl Change {
    /// The path that the lock is named after.
    pub(crate) fn named(&self) -> PathBuf {
        self.dir.join(OsStr::from_bytes(self.name.to_bytes()))
    }
}

/// Why an intent cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// It is not complete, so the change was never decided.
    Torn,
    /// It is complete, but this program cannot read it: it has another version of the protocol, or a program with a fault
    /// has written it. The change may have been decided, so its files are refused. All versions have the same first field
    /// and the same check.
    Unknown,
}

impl Intent {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut field = |field: &[u8]| {
            bytes.extend_from_slice(field);
            bytes.push(0);
        };
        field(&[KIND, VERSION].concat());
        field(&number_field(self.inode));
        field(if self.full { FULL } else { CRASH });
        for change in &self.changes {
            let old = change.old.map(FileId::to_field).unwrap_or_default();
            field(if change.new.is_some() { b"R" } else { b"D" });
            field(change.dir.as_os_str().as_bytes());
            field(&change.dir_id.to_field());
            field(change.name.to_bytes());
            if let Some(new) = &change.new {
                field(new.temporary.to_bytes());
                field(&number_field(new.inode));
            }
            field(&old);
        }
        let check = format!("{:016x}", xxh3_64(&bytes));
        bytes.extend_from_slice(check.as_bytes());
        bytes
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Unreadable> {
        let (torn, unknown) = (Unreadable::Torn, Unreadable::Unknown);
        let (fields, check) = bytes.split_last_chunk::<CHECK_LEN>().ok_or(torn)?;
        if format!("{:016x}", xxh3_64(fields)).as_bytes() != check {
            return Err(torn);
        }
        if !fields.starts_with(KIND) {
            return Err(torn);
        }
        let mut fields = fields.strip_suffix(b"\0").ok_or(unknown)?.split(|byte| *byte == 0);
        let mut next = || fields.next().ok_or(unknown);
        if next()? != [KIND, VERSION].concat() {
            return Err(unknown);
        }
        let inode = number(next()?).ok_or(unknown)?;
        let full = match next()? {
            FULL => true,
            CRASH => false,
            _ => return Err(unknown),
        };
        let mut changes = Vec::new();
        while let Ok(kind) = next() {
            let dir = Path::new(OsStr::from_bytes(next()?)).to_owned();
            let dir_id = FileId::parse(next()?).ok_or(unknown)?;
            let name = file_name(next()?)?;
            let new = match kind {
                b"R" => {
                    let temporary = file_name(next()?)?;
                    if !is_temporary_of(&temporary, &dir, &name) {
                        return Err(unknown);
                    }
                    let inode = number(next()?).ok_or(unknown)?;
                    Some(New { temporary, inode })
                }
                b"D" => None,
                _ => return Err(unknown),
            };
            let old = match next()? {
                b"" => None,
                old => Some(FileId::parse(old).ok_or(unknown)?),
            };
            changes.push(Change { dir, dir_id, name, old, new });
        }
        let intent = Intent { inode, full, changes };
        // A number has only one spelling. Other programs might read `+1`, `01` or `1.50` differently.
        if intent.changes.is_empty() || intent.to_bytes() != bytes { Err(unknown) } else { Ok(intent) }
    }
}

fn number_field(number: u64) -> Vec<u8> {
    number.to_string().into_bytes()
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Whether `temporary` is the name of a temporary file of this file, and of no other.
fn is_temporary_of(temporary: &CStr, dir: &Path, name: &CStr) -> bool {
    let named = || path_hash(&dir.join(OsStr::from_bytes(name.to_bytes())));
    Owner::of(temporary.to_bytes())
        .is_some_and(|owner| owner.name == name.to_bytes() || owner.hash.is_some_and(|hash| hash == named().as_bytes()))
}

/// A name without a slash, which cannot lead out of its directory.
fn file_name(name: &[u8]) -> Result<CString, Unreadable> {
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
        return Err(Unreadable::Unknown);
    }
    CString::new(name).map_err(|_| Unreadable::Unknown)
}
