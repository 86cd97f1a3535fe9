//! What is on disk for others to read. It is a public protocol: see `src/docs/protocol.md`.
//!
//! This is version 1, and nothing of it ever changes: `tests/vectors` pins it. The version stands in intents only, because a
//! look at one more file would cost each acquisition a call. It is enough: a later version marks lock files with intents of its
//! own version, and programs of this one then refuse the files.

pub(crate) mod git_ignore;
pub(crate) mod intent;
pub(crate) mod lock_contents;
pub(crate) mod lock_name;
pub(crate) mod temporary_name;
