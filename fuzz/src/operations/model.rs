//! The model of the files and of writes, and the look at the disk.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) contents: Vec<u8>,
    pub(super) mode: u32,
}

/// The beginning of the contents is enough to recognize a version.
impl std::fmt::Debug for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let beginning = &self.contents[..self.contents.len().min(8)];
        write!(f, "{} bytes {beginning:?}, mode {:o}", self.contents.len(), self.mode)
    }
}

/// A replaced file keeps its mode.
pub(super) fn next_version(old: &Option<Version>, contents: Vec<u8>, new_mode: u32) -> Version {
    Version { contents, mode: old.as_ref().map_or(new_mode, |old| old.mode) }
}

/// The existing lock files.
pub(super) fn lock_files(dir: &Path) -> BTreeSet<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return BTreeSet::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "lock")).collect()
}
