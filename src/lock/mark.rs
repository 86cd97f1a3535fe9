//! The contents of a lock file: the path that it guards, and at its end the mark, which is the name of an intent.

use std::ffi::CString;
use std::os::fd::AsFd;

use super::Held;
use super::dir::OpenLock;
use crate::error::{Error, Result, Step};
use crate::protocol::intent::{NAME_LEN, is_intent_name};
use crate::protocol::lock_contents::{MARK, is_marked, text_len};
use crate::sys::{self, Errno};

impl Held {
    /// The intent's name in the mark. `None`: the mark is not the name of an intent.
    pub(super) fn mark(&self) -> sys::Result<Option<CString>> {
        self.with_file(name_in)
    }

    pub(super) fn set_mark(&self, name: &[u8]) -> sys::Result<()> {
        self.with_file(|file| write_whole(file, name, MARK))
    }

    /// Removes the mark. If that fails, the next holder finds the mark of an intent that does not exist.
    pub(super) fn clear_mark(&self) {
        // If the lock was lost, on NFS, another machine may have marked the file for a change of its own.
        if self.check_kept(false).is_err() {
            return;
        }
        let _ = self.with_file(|file| {
            let kept = match is_marked(self.size) {
                false => self.size,
                true => text_len(&text_in(file, MARK)?),
            };
            sys::truncate(file.as_fd(), kept)
        });
    }

    /// Whether the mark can be removed. It cannot if the descriptor is open for reading only.
    pub(super) fn may_clear_mark(&self) -> bool {
        self.with_file(|file| sys::truncate(file.as_fd(), self.size)).is_ok()
    }

    /// Syncs the lock file with its mark.
    pub(crate) fn sync(&self) -> Result<()> {
        self.with_file(|file| sys::sync(file.as_fd())).map_err(|error| Error::io(&self.guarded, Step::MarkLock, error))
    }

    fn with_file<T>(&self, ask: impl FnOnce(&OpenLock) -> sys::Result<T>) -> sys::Result<T> {
        self.user.process.table.with_file(&self.user.file, ask).unwrap_or(Err(Errno::BADF))
    }
}

/// The intent's name in the mark. `None`: the mark is not the name of an intent.
pub(super) fn name_in(file: &OpenLock) -> sys::Result<Option<CString>> {
    let name = read_whole(file, NAME_LEN + 1, MARK)?;
    Ok(CString::new(name).ok().filter(|name| is_intent_name(name.to_bytes())))
}

/// The contents before the mark, in a lock file of this size.
pub(super) fn text_in(file: &OpenLock, size: u64) -> sys::Result<Vec<u8>> {
    read_whole(file, usize::try_from(size.min(MARK)).unwrap_or(0), 0)
}

/// Reads up to `len` bytes; less if the file ends before.
fn read_whole(file: &OpenLock, len: usize, from: u64) -> sys::Result<Vec<u8>> {
    let (mut bytes, mut filled) = (vec![0; len], 0);
    while filled < len {
        match sys::read_at(file.as_fd(), &mut bytes[filled..], from + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn write_whole(file: &OpenLock, mut bytes: &[u8], mut at: u64) -> sys::Result<()> {
    while !bytes.is_empty() {
        match sys::write_at(file.as_fd(), bytes, at)? {
            0 => return Err(Errno::NOSPC),
            written => {
                bytes = &bytes[written..];
                at += written as u64;
            }
        }
    }
    Ok(())
}
