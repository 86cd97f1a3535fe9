//! What is on disk for others to read. It is a public protocol: see `src/docs/protocol.md`.

pub(crate) mod git_ignore;
pub(crate) mod intent;
pub(crate) mod lock_contents;
pub(crate) mod lock_name;
pub(crate) mod temporary_name;
