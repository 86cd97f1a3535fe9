//! What is in a lock file: what it guards, and its mark, the name of an intent, at the end of it.

use std::ffi::CString;
use std::os::fd::AsFd;

use super::Held;
use super::dir::OpenLock;
use crate::error::{Error, Result, Step};
use crate::protocol::intent::{NAME_LEN, is_intent_name};
use crate::protocol::lock_contents::{MARK, is_marked, text_len};
use crate::sys::{self, Errno};

impl Held {
    /// The name of the intent that the lock file is marked with. `None`: nothing that could be one.
    pub(super) fn mark(&self) -> sys::Result<Option<CString>> {
        self.with_file(name_in)
    }

    /// Marks the lock file.
    pub(super) fn set_mark(&self, name: &[u8]) -> sys::Result<()> {
        self.with_file(|file| write_whole(file, name, MARK))
    }

    /// Takes the mark away. Should that fail, the next one to take the lock finds a mark of an intent that is gone.
    pub(super) fn clear_mark(&self) {
        let _ = self.with_file(|file| {
            let kept = match is_marked(self.size) {
                false => self.size,
                true => text_len(&text_in(file, MARK)?),
            };
            sys::truncate(file.as_fd(), kept)
        });
    }

    /// Whether the mark can be taken away: not through a descriptor that is for reading only.
    pub(super) fn may_clear_mark(&self) -> bool {
        self.with_file(|file| sys::truncate(file.as_fd(), self.size)).is_ok()
    }

    /// Syncs the lock file, mark and all.
    pub(crate) fn sync(&self) -> Result<()> {
        self.with_file(|file| sys::sync(file.as_fd())).map_err(|error| Error::io(&self.guarded, Step::MarkLock, error))
    }

    fn with_file<T>(&self, ask: impl FnOnce(&OpenLock) -> sys::Result<T>) -> sys::Result<T> {
        self.user.process.table.with_file(&self.user.file, ask).unwrap_or(Err(Errno::BADF))
    }
}

/// The name of the intent that a lock file is marked with. `None`: nothing that could be one.
pub(super) fn name_in(file: &OpenLock) -> sys::Result<Option<CString>> {
    let name = read_whole(file, NAME_LEN + 1, MARK)?;
    Ok(CString::new(name).ok().filter(|name| is_intent_name(name.to_bytes())))
}

/// What is before the mark of a lock file of this size.
pub(super) fn text_in(file: &OpenLock, size: u64) -> sys::Result<Vec<u8>> {
    read_whole(file, usize::try_from(size.min(MARK)).unwrap_or(0), 0)
}

/// As much as there is, up to `len` bytes.
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
