//! The meaning of the input: the files, the adapters, the operations, and the faults.

use arbitrary::Arbitrary;
use atomic_file_adapter::Durability;
use libc::{
    EACCES, EAGAIN, EDQUOT, EEXIST, EINVAL, EIO, ELOOP, EMFILE, ENAMETOOLONG, ENOLCK, ENOMEM, ENOSPC, ENOTSUP, EPERM,
    EROFS,
};

/// The files, by their canonical paths in the tree. One has a directory that does not exist at first.
pub(super) const FILES: [&str; 6] = ["a", "b", "d/x", "d/z", "new/y", LONG];
const LONG: &str = "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn\
                    nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn\
                    nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn";

/// The spellings of the files' paths, each with the number of its file.
const SPELLINGS: [(&str, usize); 9] =
    [("a", 0), ("b", 1), ("link", 0), ("d/../a", 0), ("d/x", 2), ("ghost", 3), ("d/z", 3), ("new/y", 4), (LONG, 5)];

pub(super) const ADAPTERS: usize = 4;
pub(super) const DURABILITY: [Durability; ADAPTERS] =
    [Durability::None, Durability::Full, Durability::Ordered, Durability::None];
pub(super) const NEW_FILE_MODE: [u32; ADAPTERS] = [0o644, 0o644, 0o644, 0o600];

/// A file, in one of its spellings, through one of the adapters, by path or by a handle that is kept.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub struct Target {
    pub(super) spelling: u8,
    pub(super) adapter: u8,
    pub(super) handle: bool,
}

impl Target {
    pub(super) fn spelling(self) -> (&'static str, usize) {
        SPELLINGS[usize::from(self.spelling) % SPELLINGS.len()]
    }

    pub(super) fn file(self) -> usize {
        self.spelling().1
    }

    pub(super) fn adapter(self) -> usize {
        usize::from(self.adapter) % ADAPTERS
    }

    pub(super) fn new_mode(self) -> u32 {
        NEW_FILE_MODE[self.adapter()]
    }
}

#[derive(Debug, Clone, Copy, Arbitrary)]
pub struct Contents {
    byte: u8,
    len: u16,
}

impl Contents {
    pub(super) fn bytes(self) -> Vec<u8> {
        // Every byte depends on its place, so that a piece in the wrong place is noticed.
        (0..self.len % 9000).map(|place| self.byte ^ place.wrapping_mul(31) as u8 ^ (place >> 8) as u8).collect()
    }
}

#[derive(Debug, Clone, Arbitrary)]
pub enum Op {
    Read(Target, Reading),
    Exists(Target),
    Write(Target, Contents),
    Update {
        target: Target,
        more: Contents,
        fails: bool,
    },
    Delete(Target),
    Batch {
        adapter: u8,
        changes: Vec<(Target, Option<Contents>)>,
    },
    /// As one change: a batch, or an update that sees the old versions.
    Together {
        adapter: u8,
        update: bool,
        changes: Vec<(Target, Option<Contents>)>,
    },
    Lock(Target, How),
    LockMany {
        adapter: u8,
        files: [Option<Target>; 3],
        shared: bool,
    },
    Inside {
        guard: u8,
        act: Act,
    },
    Release {
        guard: u8,
    },
    Prune {
        adapter: u8,
    },
    Sweep {
        target: Target,
        directory: bool,
    },
    /// By another program.
    Chmod(Target, u8),
    Outsider(Target, Option<Contents>),
    /// Another process is killed in the middle of a write.
    KilledWriter(Target),
    /// Another process is killed before this call of a change of several files.
    KilledTogether {
        adapter: u8,
        changes: Vec<(Target, Option<Contents>)>,
        call: u8,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
pub enum Reading {
    Whole,
    Into,
    Text,
    Open,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
pub enum How {
    Lock,
    Shared,
    Try,
    TryShared,
    Timeout,
    SharedTimeout,
}

/// An operation under a guard. Under a shared one it is a read.
#[derive(Debug, Clone, Arbitrary)]
pub enum Act {
    Read,
    Write(Contents),
    Stream { pieces: Vec<Contents>, commit: bool },
    Delete,
}

/// The calls of one operation that fail. For each: how many calls succeed before it.
#[derive(Debug, Clone, Arbitrary)]
pub struct Faults(pub(super) Vec<(u8, Fault)>);

#[derive(Debug, Clone, Copy, Arbitrary)]
pub(super) enum Fault {
    Interrupted,
    Short(u16),
    Fails(u8),
}

/// Without ENOENT, which is an answer and not a failure, and without EDEADLK, which the table believes only after half
/// a minute.
pub(super) const ERRORS: [i32; 15] = [
    EIO,
    ENOSPC,
    EACCES,
    EPERM,
    EMFILE,
    ENOMEM,
    EROFS,
    EDQUOT,
    ENOLCK,
    EAGAIN,
    ELOOP,
    EINVAL,
    ENAMETOOLONG,
    ENOTSUP,
    EEXIST,
];
