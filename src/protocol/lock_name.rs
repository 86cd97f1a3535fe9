//! The name of the lock file of a path. It is a public protocol: see `src/docs/protocol.md`.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

/// The end of every lock file's name.
pub(crate) const SUFFIX: &str = ".lock";

/// The number of digits of a [`path_hash`].
pub(crate) const PATH_HASH_LEN: usize = 16;

/// The path that the lock of a canonical path is named after. It is the whole path. If programs have agreed upon a lock
/// root, it is the part below the root, without a slash at the start, so that it never equals an absolute path. `None`:
/// the path is not below the root.
pub(crate) fn named_after<'a>(canonical: &'a Path, root: Option<&Path>) -> Option<&'a Path> {
    match root {
        None => Some(canonical),
        Some(root) => canonical.strip_prefix(root).ok().filter(|below| !below.as_os_str().is_empty()),
    }
}

/// `xxh3_64` (seed 0) of these bytes, as 16 lower-case hexadecimal digits. `named_after`: see [`named_after`].
pub(crate) fn path_hash(named_after: &Path) -> String {
    format!("{:016x}", xxh3_64(named_after.as_os_str().as_bytes()))
}

/// [`path_hash`] and `.lock`.
pub(crate) fn lock_name(named_after: &Path) -> String {
    path_hash(named_after) + SUFFIX
}

/// The [`path_hash`] in a lock file's name.
pub(crate) fn hash_in(lock_name: &[u8]) -> &[u8] {
    lock_name.strip_suffix(SUFFIX.as_bytes()).unwrap_or(lock_name)
}

/// Whether a name may lead to a lock file, even on a file system that ignores case.
pub(crate) fn is_like_lock_name(name: &[u8]) -> bool {
    is_lock_name(&name.to_ascii_lowercase())
}

/// Whether a name in a lock directory is that of a lock file.
pub(crate) fn is_lock_name(name: &[u8]) -> bool {
    let Some(digits) = name.strip_suffix(SUFFIX.as_bytes()) else { return false };
    is_path_hash(digits)
}

/// Whether this can be a [`path_hash`].
pub(crate) fn is_path_hash(digits: &[u8]) -> bool {
    digits.len() == PATH_HASH_LEN && digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}
