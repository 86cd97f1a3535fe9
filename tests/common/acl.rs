//! POSIX ACLs and extended attributes, in the kernel's format.

use std::ffi::{CStr, CString, c_void};
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::null_mut;

pub const ACCESS: &CStr = c"system.posix_acl_access";
pub const DEFAULT: &CStr = c"system.posix_acl_default";

/// `POSIX_ACL_XATTR_VERSION` in include/uapi/linux/posix_acl_xattr.h.
const VERSION: u32 = 2;
/// The id of an entry that has none.
const NO_ID: u32 = u32::MAX;

pub const READ: u32 = 4;
pub const WRITE: u32 = 2;

/// The kind of an entry (acl(5)), in the kernel's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tag {
    UserObj,
    User(u32),
    GroupObj,
    Group(u32),
    Mask,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl(Vec<(Tag, u32)>);

impl Acl {
    pub fn new(entries: &[(Tag, u32)]) -> Self {
        let mut entries = entries.to_vec();
        entries.sort();
        Acl(entries)
    }

    /// The permissions of the entry with this tag.
    pub fn get(&self, tag: Tag) -> Option<u32> {
        self.0.iter().find(|(known, _)| *known == tag).map(|(_, permissions)| *permissions)
    }

    /// The named groups and their permissions.
    pub fn groups(&self) -> impl Iterator<Item = (u32, u32)> {
        self.0.iter().filter_map(|(tag, permissions)| match tag {
            Tag::Group(id) => Some((*id, *permissions)),
            _ => None,
        })
    }

    /// The value of the attribute: a header and then eight bytes an entry, all little-endian.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for (tag, permissions) in &self.0 {
            let (tag, id): (u16, u32) = match tag {
                Tag::UserObj => (0x01, NO_ID),
                Tag::User(id) => (0x02, *id),
                Tag::GroupObj => (0x04, NO_ID),
                Tag::Group(id) => (0x08, *id),
                Tag::Mask => (0x10, NO_ID),
                Tag::Other => (0x20, NO_ID),
            };
            bytes.extend(tag.to_le_bytes());
            bytes.extend(u16::try_from(*permissions).unwrap().to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Self {
        let (header, entries) = bytes.split_at(4);
        assert_eq!(header, VERSION.to_le_bytes());
        assert_eq!(entries.len() % 8, 0);
        let decode = |entry: &[u8]| {
            let half = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
            let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
            let tag = match half(0) {
                0x01 => Tag::UserObj,
                0x02 => Tag::User(id),
                0x04 => Tag::GroupObj,
                0x08 => Tag::Group(id),
                0x10 => Tag::Mask,
                0x20 => Tag::Other,
                other => panic!("no tag: {other:#x}"),
            };
            (tag, u32::from(half(2)))
        };
        Acl(entries.chunks(8).map(decode).collect())
    }
}

/// The short form of acl(5): `u::rw-,u:7004:rw-,g::---,m::rw-,o::---`.
impl fmt::Display for Acl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (tag, permissions)) in self.0.iter().enumerate() {
            let tag = match tag {
                Tag::UserObj => "u:".to_owned(),
                Tag::User(id) => format!("u:{id}"),
                Tag::GroupObj => "g:".to_owned(),
                Tag::Group(id) => format!("g:{id}"),
                Tag::Mask => "m:".to_owned(),
                Tag::Other => "o:".to_owned(),
            };
            let comma = if number == 0 { "" } else { "," };
            write!(f, "{comma}{tag}:{}", letters(*permissions))?;
        }
        Ok(())
    }
}

fn letters(permissions: u32) -> String {
    [(4, 'r'), (2, 'w'), (1, 'x')]
        .map(|(bit, letter)| if permissions & bit != 0 { letter } else { '-' })
        .iter()
        .collect()
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

/// The result of a system call, or its error.
fn answer(answer: isize) -> io::Result<usize> {
    usize::try_from(answer).map_err(|_| io::Error::last_os_error())
}

pub fn set_attribute(path: &Path, name: &CStr, value: &[u8]) -> io::Result<()> {
    let path = c_path(path);
    // SAFETY: the strings end with a zero byte, and the value has this length.
    let set = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    answer(set as isize).map(drop)
}

/// `None`: there is no such attribute, or the file system has none.
pub fn attribute(path: &Path, name: &CStr) -> Option<Vec<u8>> {
    try_attribute(path, name).unwrap_or_else(|error| panic!("{name:?} of {path:?}: {error}"))
}

fn try_attribute(path: &Path, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let path = c_path(path);
    // SAFETY: the strings end with a zero byte, and the buffer has this length.
    let get = |buffer: *mut c_void, len| unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), buffer, len) };
    let got = answer(get(null_mut(), 0)).and_then(|len| {
        let mut value = vec![0; len];
        let got = answer(get(value.as_mut_ptr().cast(), len))?;
        value.truncate(got);
        Ok(value)
    });
    match got {
        Err(error) if [Some(libc::ENODATA), Some(libc::ENOTSUP)].contains(&error.raw_os_error()) => Ok(None),
        got => got.map(Some),
    }
}

/// All attributes that this process may see, sorted by name.
pub fn attributes(path: &Path) -> Vec<(CString, Vec<u8>)> {
    try_attributes(path).unwrap()
}

/// The same where the file system may be broken.
pub fn try_attributes(path: &Path) -> io::Result<Vec<(CString, Vec<u8>)>> {
    let c_path = c_path(path);
    // SAFETY: the string ends with a zero byte, and the buffer has this length.
    let list = |buffer: *mut libc::c_char, len| answer(unsafe { libc::listxattr(c_path.as_ptr(), buffer, len) });
    let mut names = vec![0u8; list(null_mut(), 0)?];
    let got = list(names.as_mut_ptr().cast(), names.len())?;
    names.truncate(got);
    let names = names.split_inclusive(|byte| *byte == 0).map(|name| CStr::from_bytes_with_nul(name).unwrap());
    let mut all = Vec::new();
    for name in names {
        all.extend(try_attribute(path, name)?.map(|value| (name.to_owned(), value)));
    }
    all.sort();
    Ok(all)
}

/// Sets a file's access ACL, or a directory's default ACL. `None` removes it.
pub fn set_acl(path: &Path, name: &CStr, acl: Option<&Acl>) {
    if let Some(acl) = acl {
        return set_attribute(path, name, &acl.encode()).unwrap();
    }
    let path = c_path(path);
    // SAFETY: both strings end with a zero byte.
    let removed = answer(unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) } as isize);
    assert!(removed.is_ok() || io::Error::last_os_error().raw_os_error() == Some(libc::ENODATA), "{removed:?}");
}
