//! The name of the lock file of a path. It is a public protocol: see "The lock protocol" in the README.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

/// How the name of every lock file ends.
pub(super) const SUFFIX: &str = ".lock";

/// `xxh3_64` (seed 0) of the canonical path's bytes, as 16 lower-case hexadecimal digits.
pub(crate) fn path_hash(canonical: &Path) -> String {
    format!("{:016x}", xxh3_64(canonical.as_os_str().as_bytes()))
}

/// [`path_hash`] and `.lock`.
pub(crate) fn lock_name(canonical: &Path) -> String {
    path_hash(canonical) + SUFFIX
}

/// Whether a path may be that of a lock file, by its name.
pub(crate) fn has_lock_name(path: &Path) -> bool {
    path.file_name().is_some_and(|name| is_lock_name(name.as_bytes()))
}

/// Whether a name in a lock directory is one of ours.
pub(super) fn is_lock_name(name: &[u8]) -> bool {
    let Some(digits) = name.strip_suffix(SUFFIX.as_bytes()) else { return false };
    digits.len() == 16 && digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}
