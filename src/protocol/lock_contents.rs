//! The contents of a lock file. It is a public protocol: see `src/docs/protocol.md`.
//!
//! Bytes 0 to 2047 are for people: the path that the lock is named after, and a newline. An empty lock file works as
//! well. A longer lock file is *marked*: from byte 2048 on it contains the name of an intent. Its next holder has to
//! finish a change before it uses the file (`intent.rs`).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::protocol::lock_name::lock_name;

/// The offset of the mark. It is in the first block of the file, together with the text. A block of its own would have
/// to be allocated and freed for every change.
pub(crate) const MARK: u64 = 2048;

/// Whether a lock file of this size is marked.
pub(crate) fn is_marked(size: u64) -> bool {
    size > MARK
}

/// The text of the lock file with this name. `None`: the path has another lock file, does not fit, or contains a
/// newline.
pub(crate) fn text(named_after: &Path, lock_file: &[u8]) -> Option<Vec<u8>> {
    let path = named_after.as_os_str().as_bytes();
    let fits = (path.len() as u64) < MARK && !path.contains(&b'\n');
    (fits && is_of(named_after, lock_file)).then(|| [path, b"\n"].concat())
}

/// The path in the text before the mark. `None`: there is none, or the path has another lock file. Somebody who may
/// write to this lock file has invented such a path.
pub(crate) fn guarded<'a>(before: &'a [u8], lock_file: &[u8]) -> Option<&'a Path> {
    let newline = before.iter().position(|byte| *byte == b'\n')?;
    let path = Path::new(OsStr::from_bytes(&before[..newline]));
    is_of(path, lock_file).then_some(path)
}

fn is_of(named_after: &Path, lock_file: &[u8]) -> bool {
    lock_name(named_after).as_bytes() == lock_file
}

/// The length of the text before the mark. It is kept when the mark is removed.
pub(crate) fn text_len(before: &[u8]) -> u64 {
    before.iter().position(|byte| *byte == b'\n').map_or(0, |newline| newline as u64 + 1)
}
