//! Locked reads and durable atomic writes of files that several processes share.
//!
//! # Why
//!
//! Two processes edit one settings file. With `std::fs` alone, each of these can happen:
//!
//! - **A reader gets half a file.** [`std::fs::write`] empties the file first and then fills it. A reader, or a crash in
//!   between, finds what was written so far.
//! - **The file is empty after a power cut.** A temporary file and a rename keep readers safe. But without an `fsync` before
//!   the rename, the name may reach the disk before the contents do.
//! - **A write that has returned is gone after a power cut**, because nobody has synced the directory.
//! - **An update is lost.** Two processes read the same version, and both replace it. The second replaces the first.
//! - **A lock locks nothing.** A lock of the file itself is a lock of the version that the rename has just replaced. A POSIX lock
//!   does not exclude the threads of one process, and closing any descriptor of the locked file drops it.
//! - **The permissions are wrong.** A temporary file has its own mode, owner and access control list.
//!
//! [How often the first three happen][crash] on ext4, xfs and btrfs was measured. This crate does the whole sequence: the lock
//! (`fcntl`, of a separate lock file), the temporary file, `fsync`, `rename`, and `fsync` of the directory.
//!
//! # The promise
//!
//! 1. Readers always get one complete version of a file: never a part, never a mix of two.
//! 2. When a durable write has returned, the new version survives a power cut. If the power goes before that, the file is
//!    the old or the new version, complete.
//! 3. No [update](AtomicFileAdapter::update) is lost, whether the writers are threads, processes or forks.
//! 4. When a process dies, at any instruction, its locks are free, and the next caller carries on.
//!
//! ```
//! use atomic_file_adapter::AtomicFileAdapter;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let scratch = tempfile::tempdir()?;
//! # let dir = scratch.path();
//! # let locks = dir.join("locks");
//! let files = AtomicFileAdapter::with_lock_dir(locks)?; // the same directory in every process
//! let path = dir.join("visitors");
//!
//! files.update(&path, |old| {
//!     let old = old.map_or(0, |old| String::from_utf8_lossy(old).parse().unwrap_or(0));
//!     (old + 1).to_string().into_bytes()
//! })?;
//! assert_eq!(files.read_to_string_with_lock(&path)?.as_deref(), Some("1"));
//! # Ok(())
//! # }
//! ```
//!
//! # What is not promised
//!
//! | situation | promised | not promised |
//! |---|---|---|
//! | [one machine][who] | programs with the same lock directory exclude each other | that programs without locks wait; that hard links share a lock |
//! | [several users][users] | a new version lets in nobody whom the old one kept out | anything, if people whom you do not trust can write to the lock directory; safe paths in other people's directories without [`Builder::follow_links`] |
//! | [threads][threads] | threads take turns; a deadlock in one process is reported at once | that each deadlock between processes is reported |
//! | [fork][fork] | a child has no locks, and its guards do nothing | that this is noticed in a new PID namespace, where the child may have its parent's number |
//! | [the power goes][power] | with [`Durability::Full`] a write that has returned survives, if the device does what it reports | that anything survives in memory, with overlayfs' `volatile` or with ext4's `fast_commit` and e2fsck |
//! | [network][network] | the same between clients of an NFSv4 server | the same on NFSv3, SMB and CephFS, and on GlusterFS with its caches |
//! | [containers][containers] | the same on a shared volume, with [`Builder::lock_root`] if its paths differ | that a single file can be replaced that was mounted into a container |
//!
//! [Limits](docs::limits) says more about each situation, with the source of each statement.
//!
//! # Where to go on
//!
//! | type | what it is |
//! |---|---|
//! | [`AtomicFileAdapter`] | every verb by path; its [`Builder`] has the settings, [`Durability`] among them |
//! | [`AtomicFile`] | one file, looked up once: `read`, `write`, `update`, `delete`, faster, and the locks |
//! | [`ReadGuard`], [`WriteGuard`] | a lock while it is held, for several steps under it |
//! | [`Replacement`] | a new version that is written piece by piece |
//! | [`Batch`] | writes and deletes of many files, which share their syncs, or are one change |
//! | [`LockFile`], [`LockHolder`], [`Waiting`] | who holds a lock, and who waits for it |
//! | [`Intent`] | a change of several files that is not finished |
//! | [`Error`] | what went wrong, at which [`Step`] and on which path; [`FileKind`] if it is not a regular file |
//!
//! The pages of [`docs`]: [recipes](docs::recipes) for async code, watchers, containers, several users and NFS;
//! [limits](docs::limits); [system calls](docs::system_calls); the [protocol](docs::protocol) for other languages;
//! [proofs](docs::proofs); [speed](docs::speed); a [comparison](docs::comparison) with other crates.
//!
//! Whole programs: a [counter](AtomicFileAdapter::update) that processes share, [settings](AtomicFileAdapter::lock_many_shared)
//! in layers and how to [edit](AtomicFileAdapter::try_update) them, and a [cron job](AtomicFile::try_lock) that must not run
//! twice.
//!
//! # All or nothing
//!
//! [`update_many`](AtomicFileAdapter::update_many) and [`Batch::commit_all`] change several files as one. A caller that takes the
//! locks of several of these files together sees all of them old or all of them new, whichever process dies when, and, with
//! [`Durability::Full`], also after a power cut. The [order of the calls](docs::system_calls#several-files-as-one), and
//! [what is not promised](docs::limits#several-files-as-one).
//!
//! # Features
//!
//! None is on by default.
//!
//! * `fault-injection`: the module `fault`. With it a test can watch each system call of this crate, make it fail, or make it
//!   the last one of the process. For your own tests only: `cargo add --dev atomic-file-adapter --features
//!   fault-injection`, beside the entry without it.
//! * `cli`: the command `atomic-file`.
//!
//! [containers]: docs::limits#containers-fuse
//! [crash]: docs::proofs#every-crash-state
//! [fork]: docs::limits#processes-closing-forking
//! [network]: docs::limits#several-machines
//! [power]: docs::limits#the-power-goes
//! [threads]: docs::limits#threads-deadlocks-limits-on-waiting
//! [users]: docs::limits#several-users-and-people-you-do-not-trust
//! [who]: docs::limits#who-is-excluded
// On docs.rs, what needs a feature says so.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![doc(test(attr(deny(warnings))))]

mod adapter;
mod batch;
pub mod docs;
mod error;
mod file;
mod lock;
mod path;
mod protocol;
mod settings;
mod sys;
mod version;

pub use crate::adapter::AtomicFileAdapter;
pub use crate::adapter::builder::Builder;
pub use crate::adapter::upkeep::{Intent, LockFile, LockHolder};
pub use crate::batch::Batch;
pub use crate::error::{Error, Result, Step};
pub use crate::file::AtomicFile;
pub use crate::file::guard::{ReadGuard, WriteGuard};
pub use crate::lock::Waiting;
pub use crate::settings::Durability;
pub use crate::sys::FileKind;
#[cfg(feature = "fault-injection")]
pub use crate::sys::fault;
pub use crate::version::replace::Replacement;

/// The README's examples compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
