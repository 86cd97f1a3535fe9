//! A loop device: a block device whose blocks are those of a file.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

/// How often another number is tried if another program takes the free one first.
const ATTEMPTS: usize = 100;

const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
struct Info {
    lo_device: u64,
    lo_inode: u64,
    lo_rdevice: u64,
    lo_offset: u64,
    lo_sizelimit: u64,
    lo_number: u32,
    lo_encrypt_type: u32,
    lo_encrypt_key_size: u32,
    lo_flags: u32,
    lo_file_name: [u8; 64],
    lo_crypt_name: [u8; 64],
    lo_encrypt_key: [u8; 32],
    lo_init: [u64; 2],
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

mod calls {
    use super::LoopConfig;

    nix::ioctl_none_bad!(get_free, 0x4C82);
    nix::ioctl_write_ptr_bad!(configure, 0x4C0A, LoopConfig);
}

/// It is detached at its last close, even if this process is killed. Then the kernel also drops everything that it has
/// cached of it. Nothing less does that: BLKFLSBUF keeps pages that are marked dirty.
pub struct LoopDevice {
    path: PathBuf,
    _open: File,
}

impl LoopDevice {
    pub fn attach(file: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(file)?;
        // Linux 6.1 uses the cached size of the file. It has none for a FUSE file that nobody has looked at.
        file.metadata()?;
        let control = File::options().read(true).write(true).open("/dev/loop-control")?;
        for _ in 0..ATTEMPTS {
            // SAFETY: the call takes only the descriptor, which is open.
            let number = unsafe { calls::get_free(control.as_raw_fd()) }?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let open = File::options().read(true).write(true).open(&path)?;
            match configure(&open, file.as_raw_fd()) {
                // Not kept open for writing, because some kernels refuse to mount a device that is open for writing.
                Ok(()) => return Ok(LoopDevice { _open: File::open(&path)?, path }),
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "others have taken every free loop device"))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn configure(device: &File, file: RawFd) -> io::Result<()> {
    let info = Info {
        lo_device: 0,
        lo_inode: 0,
        lo_rdevice: 0,
        lo_offset: 0,
        lo_sizelimit: 0,
        lo_number: 0,
        lo_encrypt_type: 0,
        lo_encrypt_key_size: 0,
        lo_flags: LO_FLAGS_AUTOCLEAR,
        lo_file_name: [0; 64],
        lo_crypt_name: [0; 64],
        lo_encrypt_key: [0; 32],
        lo_init: [0; 2],
    };
    let config = LoopConfig { fd: file.unsigned_abs(), block_size: 0, info, reserved: [0; 8] };
    // SAFETY: `config` is what LOOP_CONFIGURE reads, and both descriptors are open.
    unsafe { calls::configure(device.as_raw_fd(), &raw const config) }?;
    Ok(())
}
