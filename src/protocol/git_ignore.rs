//! The `.gitignore` of a lock directory, and the names under which it is made.

/// In the lock directory.
pub(crate) const NAME: &str = ".gitignore";
/// Hides everything in the directory, the file itself too.
pub(crate) const CONTENTS: &[u8] = b"*\n";

const TEMPORARY: &str = ".gitignore.tmp.";

/// Under this name the process of this number makes it.
pub(crate) fn temporary_name(pid: u32) -> String {
    format!("{TEMPORARY}{pid}")
}

/// Whether a process may have left a file of this name when it was killed.
pub(crate) fn is_temporary_name(name: &[u8]) -> bool {
    name.strip_prefix(TEMPORARY.as_bytes()).is_some_and(|pid| !pid.is_empty() && pid.iter().all(u8::is_ascii_digit))
}
