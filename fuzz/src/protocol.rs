//! The names of lock files, by the README's lock protocol and not by the crate.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

/// What the lock file of this canonical path is called.
pub fn lock_name(path: &Path) -> String {
    format!("{:016x}.lock", xxh3_64(path.as_os_str().as_bytes()))
}

/// Whether a lock file may be called so.
pub fn is_lock_name(name: &str) -> bool {
    let is_digit = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    name.strip_suffix(".lock").is_some_and(|digits| digits.len() == 16 && digits.bytes().all(is_digit))
}
