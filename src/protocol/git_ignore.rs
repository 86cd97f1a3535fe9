//! The `.gitignore` of a lock directory, and its temporary names.

/// In the lock directory.
pub(crate) const NAME: &str = ".gitignore";
/// Hides everything in the directory, the file itself too.
pub(crate) const CONTENTS: &[u8] = b"*\n";

const TEMPORARY: &str = ".gitignore.tmp.";

/// The temporary name that the process with this pid uses.
pub(crate) fn temporary_name(pid: u32) -> String {
    format!("{TEMPORARY}{pid}")
}

/// Whether a killed process may have left a file of this name.
pub(crate) fn is_temporary_name(name: &[u8]) -> bool {
    name.strip_prefix(TEMPORARY.as_bytes()).is_some_and(|pid| !pid.is_empty() && pid.iter().all(u8::is_ascii_digit))
}
