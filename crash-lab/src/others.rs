//! More file systems: options that few people use, and file systems that few kernels have.

use crate::file_system::{EXT4, FileSystem};

const F2FS: FileSystem = FileSystem {
    name: "f2fs fsync_mode=posix",
    kind: "f2fs",
    options: "fsync_mode=posix",
    megabytes: 64,
    // Without discards.
    mkfs: &["mkfs.f2fs", "-q", "-f", "-t", "0"],
    check: &["fsck.f2fs", "--dry-run", "-f"],
    ..EXT4
};

pub const FAST_COMMIT: FileSystem = FileSystem {
    name: "ext4 fast_commit",
    mkfs: &["mkfs.ext4", "-qF", "-O", "fast_commit", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"],
    ..EXT4
};

pub const ASYNC_COMMIT: FileSystem = FileSystem {
    name: "ext4 journal_async_commit",
    // Not with data=ordered.
    options: "data=writeback,journal_async_commit",
    ..EXT4
};

/// As when a system starts: e2fsck recovers and mends, and then it is mounted.
pub const E2FSCK: FileSystem = FileSystem { name: "ext4, e2fsck first", recover: &["e2fsck", "-fy"], ..EXT4 };

pub const FAST_COMMIT_E2FSCK: FileSystem =
    FileSystem { name: "ext4 fast_commit, e2fsck first", recover: &["e2fsck", "-fy"], ..FAST_COMMIT };

pub const OTHERS: [FileSystem; 14] = [
    F2FS,
    FileSystem { name: "f2fs fsync_mode=strict", options: "fsync_mode=strict", ..F2FS },
    FileSystem { name: "f2fs fsync_mode=nobarrier", options: "fsync_mode=nobarrier", ..F2FS },
    FileSystem {
        name: "nilfs2",
        kind: "nilfs2",
        options: "",
        megabytes: 160,
        mkfs: &["mkfs.nilfs2", "-q", "-f", "-K"],
        check: &[],
        attributes: false,
        ..EXT4
    },
    FileSystem {
        name: "jfs",
        kind: "jfs",
        options: "",
        mkfs: &["mkfs.jfs", "-q"],
        check: &["fsck.jfs", "-n", "-f"],
        // The kernel does not mount a file system whose log has to be replayed.
        recover: &["fsck.jfs", "-p"],
        ..EXT4
    },
    FileSystem { name: "overlayfs on ext4", overlay: true, ..EXT4 },
    FAST_COMMIT,
    FAST_COMMIT_E2FSCK,
    E2FSCK,
    FileSystem {
        name: "ext4 without a journal, e2fsck first",
        options: "",
        mkfs: &["mkfs.ext4", "-qF", "-O", "^has_journal", "-E", "nodiscard,lazy_itable_init=0"],
        recover: &["e2fsck", "-fy"],
        ..EXT4
    },
    FileSystem { name: "ext4 nobarrier", options: "nobarrier", ..EXT4 },
    ASYNC_COMMIT,
    FileSystem { name: "ext4 nodelalloc", options: "nodelalloc", ..EXT4 },
    FileSystem {
        name: "ext4 blocks of 4096 bytes",
        mkfs: &["mkfs.ext4", "-qF", "-b", "4096", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"],
        ..EXT4
    },
];
