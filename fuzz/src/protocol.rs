//! The names of lock files and of temporary files, by the lock protocol and without the crate.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

/// The name of this canonical path's lock file.
pub fn lock_name(path: &Path) -> String {
    format!("{:016x}.lock", xxh3_64(path.as_os_str().as_bytes()))
}

/// Whether this can be the name of a lock file.
pub fn is_lock_name(name: &str) -> bool {
    let is_digit = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    name.strip_suffix(".lock").is_some_and(|digits| digits.len() == 16 && digits.bytes().all(is_digit))
}

/// The part of a temporary file's name before the random part, without the first dot. `None`: it is not such a name, or
/// its check is wrong.
pub fn owner_in_temporary_name(name: &str) -> Option<&str> {
    const DIGITS: &str = "abcdefghijklmnopqrstuvwxyz234567";
    let (before, check) = name.strip_suffix(".tmp")?.split_at_checked(name.len().checked_sub(".tmp".len() + 3)?)?;
    let (owner, random) = before.strip_prefix('.')?.rsplit_once('.')?;
    let number = |digits: &str| digits.chars().try_fold(0, |sum, digit| Some(sum * 32 + DIGITS.find(digit)? as u64));
    number(random).filter(|_| random.len() == 7)?;
    (number(check)? == xxh3_64(before.as_bytes()) % (1 << 15)).then_some(owner)
}
