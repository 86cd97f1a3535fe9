//! Commits that some file systems make from time to time, and that the sync of a file does not make.
//!
//! On ext4 and xfs a sync of any file commits all earlier changes. On btrfs it writes a log of that file, and on f2fs
//! the file's nodes. The transaction of btrfs and the checkpoint of f2fs come later, by a timer or by a call.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::sys::statfs::{BTRFS_SUPER_MAGIC, FsType, fstatfs};

const F2FS_SUPER_MAGIC: FsType = FsType(0xF2F5_2010);

mod calls {
    // linux/btrfs.h, linux/f2fs.h
    nix::ioctl_read!(start_sync, 0x94, 24, u64);
    nix::ioctl_write_ptr!(wait_sync, 0x94, 22, u64);
    nix::ioctl_none!(write_checkpoint, 0xF5, 7);
}

/// Commits all changes of the file system of `path`, as its timer does, without writing the cached contents of files
/// first. `false`: this file system has no such call.
pub fn commit_all(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    let (kind, fd) = (fstatfs(&file)?.filesystem_type(), file.as_raw_fd());
    if kind == BTRFS_SUPER_MAGIC {
        let mut transaction = 0;
        // SAFETY: the descriptor is open, and both calls read or write one number.
        unsafe {
            calls::start_sync(fd, &raw mut transaction)?;
            calls::wait_sync(fd, &raw const transaction)?;
        }
    } else if kind == F2FS_SUPER_MAGIC {
        // SAFETY: the descriptor is open, and the call takes no other argument.
        unsafe { calls::write_checkpoint(fd)? };
    } else {
        return Ok(false);
    }
    Ok(true)
}
