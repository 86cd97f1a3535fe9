//! Extended attributes ([xattr(7)](https://man7.org/linux/man-pages/man7/xattr.7.html)), access control lists among them.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::buffer::spare_capacity;
use rustix::fs;

use super::{Errno, Result, Syscall, backend, way};

/// The longest list of names, and the longest value on Linux (XATTR_LIST_MAX and XATTR_SIZE_MAX in
/// include/uapi/linux/limits.h). On Apple's systems a value may be longer, which is ERANGE here.
const LONGEST: usize = 64 * 1024;

/// The attribute that contains a file's access control list
/// ([acl(5)](https://man7.org/linux/man-pages/man5/acl.5.html)).
pub(crate) const ACCESS_LIST: &CStr = c"system.posix_acl_access";

/// `llistxattr` of a name in an open directory: the names of the file's attributes, each followed by a zero byte.
/// Allocates nothing if there are none.
pub(crate) fn list_attributes(at: BorrowedFd<'_>, name: &CStr) -> Result<Vec<u8>> {
    backend::by_name(
        at,
        name,
        |path| {
            list(
                || way::on_name(Syscall::Llistxattr, at, name, || fs::llistxattr_query(path)),
                |buf| way::on_name(Syscall::Llistxattr, at, name, || fs::llistxattr(path, spare_capacity(buf))),
            )
        },
        |file| list_open_attributes(file),
    )
}

/// `lgetxattr` of a name in an open directory.
pub(crate) fn attribute(at: BorrowedFd<'_>, name: &CStr, attribute: &CStr) -> Result<Vec<u8>> {
    backend::by_name(
        at,
        name,
        |path| {
            filled(|buf| {
                way::on_name(Syscall::Lgetxattr, at, name, || fs::lgetxattr(path, attribute, spare_capacity(buf)))
            })
        },
        |file| open_attribute(file, attribute),
    )
}

/// `flistxattr`, as [`list_attributes`].
pub(crate) fn list_open_attributes(file: impl AsFd) -> Result<Vec<u8>> {
    list(
        || way::on_file(Syscall::Flistxattr, file.as_fd(), || fs::flistxattr_query(&file)),
        |buf| way::on_file(Syscall::Flistxattr, file.as_fd(), || fs::flistxattr(&file, spare_capacity(buf))),
    )
}

/// `fgetxattr`
pub(crate) fn open_attribute(file: impl AsFd, attribute: &CStr) -> Result<Vec<u8>> {
    filled(|buf| {
        way::on_file(Syscall::Fgetxattr, file.as_fd(), || fs::fgetxattr(&file, attribute, spare_capacity(buf)))
    })
}

/// `fsetxattr`
pub(crate) fn set_attribute(file: impl AsFd, attribute: &CStr, value: &[u8]) -> Result<()> {
    way::on_file(Syscall::Fsetxattr, file.as_fd(), || fs::fsetxattr(&file, attribute, value, fs::XattrFlags::empty()))
}

/// `fremovexattr`
pub(crate) fn remove_attribute(file: impl AsFd, attribute: &CStr) -> Result<()> {
    way::on_file(Syscall::Fremovexattr, file.as_fd(), || fs::fremovexattr(&file, attribute))
}

/// Asks for the length first, because it is usually 0.
fn list(length: impl FnOnce() -> Result<usize>, names: impl FnMut(&mut Vec<u8>) -> Result<usize>) -> Result<Vec<u8>> {
    if length()? == 0 { Ok(Vec::new()) } else { filled(names) }
}

fn filled(mut fill: impl FnMut(&mut Vec<u8>) -> Result<usize>) -> Result<Vec<u8>> {
    let mut buf = Vec::new();
    buf.try_reserve_exact(LONGEST).map_err(|_| Errno::NOMEM)?;
    fill(&mut buf)?;
    buf.shrink_to_fit();
    Ok(buf)
}
