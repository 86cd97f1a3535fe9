//! The formats on disk that other programs read. They are a public protocol: see `src/docs/protocol.md`.
//!
//! This is version 1, and it never changes: `tests/vectors` pins it. Only intents contain the version, because a look
//! at one more file would cost each acquisition a system call. That is enough: a later version marks lock files with
//! intents of its own version, and programs of version 1 then refuse those files.

pub(crate) mod git_ignore;
pub(crate) mod intent;
pub(crate) mod lock_contents;
pub(crate) mod lock_name;
pub(crate) mod temporary_name;
