//! A loop device on a file in memory, for looking at many disks one after the other. It records nothing, so a mount
//! need not wait for a server in user space at each block that it reads.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::disk::Image;
use crate::file_system::FileSystem;
use crate::loop_device::LoopDevice;
use crate::mounted::Mounted;

/// Dropped in the order of its fields.
pub struct Viewer {
    file_system: FileSystem,
    device: Option<LoopDevice>,
    file: File,
    place: PathBuf,
    _dir: TempDir,
    root: PathBuf,
}

impl Viewer {
    /// A viewer that mounts at `root`.
    pub(crate) fn new(file_system: FileSystem, root: PathBuf) -> io::Result<Self> {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { TempDir::new_in(memory)? } else { TempDir::new()? };
        let place = dir.path().join("disk");
        Ok(Viewer { file_system, device: None, file: File::create_new(&place)?, place, _dir: dir, root })
    }

    /// Shows `image`, on a new device, because the kernel may have cached the contents of the old one.
    pub fn show(&mut self, image: &Image) -> io::Result<()> {
        self.device = None;
        // Missing parts read as zeros.
        self.file.set_len(0)?;
        self.file.set_len(self.file_system.megabytes << 20)?;
        for (offset, page) in image.pages() {
            self.file.write_all_at(page, offset)?;
        }
        self.device = Some(LoopDevice::attach(&self.place)?);
        Ok(())
    }

    pub fn file_system(&self) -> FileSystem {
        self.file_system
    }

    fn device(&self) -> &LoopDevice {
        self.device.as_ref().expect("an image is shown")
    }

    pub fn mount(&self) -> io::Result<Mounted> {
        Mounted::on(self.device().path(), self.file_system, &self.root)
    }

    /// Shows `image`, mounts it, which replays the journal, lets `read` look at what is below the root, and unmounts it. If
    /// `check`, also runs the file system's own check. The error says what is wrong with the file system.
    pub fn look(
        &mut self,
        image: &Image,
        check: bool,
        read: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<(), String> {
        self.show(image).expect("a loop device");
        let mounted = self.mount().map_err(|error| format!("cannot be mounted: {error}"))?;
        read(mounted.root()).map_err(|error| format!("cannot be read: {error}"))?;
        drop(mounted);
        if check { self.check() } else { Ok(()) }
    }

    /// Runs the file system's own check on a disk that is not mounted.
    pub fn check(&self) -> Result<(), String> {
        self.file_system.check(self.device().path())
    }
}
