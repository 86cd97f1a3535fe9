//! The bench: a real file system on a loop device on the recording disk.

use std::fs;
use std::io;
use std::panic;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use crate::disk::{Disk, Image, own_descriptors};
use crate::file_system::{FileSystem, run};
use crate::loop_device::LoopDevice;
use crate::mounted::Mounted;
use crate::viewer::Viewer;

/// Runs `body` in a thread with its own mounts and descriptors. Its mounts end with it. A program that another thread
/// is starting at this moment gets no copy of an open file, which would keep a file system from being unmounted.
pub fn isolated<R: Send + 'static>(body: impl FnOnce() -> R + Send + 'static) -> R {
    let private = move || {
        own_descriptors().unwrap();
        take_own_mounts();
        body()
    };
    thread::spawn(private).join().unwrap_or_else(|panic| panic::resume_unwind(panic))
}

/// From now on, mounts that this thread makes are its own, and end with it.
fn take_own_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
}

/// Dropped in the order of its fields.
pub struct Lab {
    pub file_system: FileSystem,
    device: Mutex<Option<LoopDevice>>,
    pub disk: Disk,
    formatted: Image,
    dir: TempDir,
}

impl Lab {
    /// Must run in a thread that is [`isolated`]. Panics if the lab cannot be made.
    pub fn new(file_system: FileSystem) -> Self {
        Self::open(file_system).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Must run in a thread that is [`isolated`]. The error is a sentence.
    pub fn open(file_system: FileSystem) -> Result<Self, String> {
        let dir = TempDir::new().map_err(|error| format!("no temporary directory: {error}"))?;
        let (root, disk) = (dir.path().join("root"), dir.path().join("disk"));
        fs::create_dir(&root).map_err(|error| format!("{}: {error}", root.display()))?;
        let disk = Disk::serve(&disk, file_system.megabytes << 20)
            .map_err(|error| format!("cannot mount the recording disk {} by FUSE: {error}", disk.display()))?;
        // When the process is killed, the last thread with a mount unmounts it. That must not be the thread that serves
        // the disk, because it would wait for itself.
        unshare(CloneFlags::CLONE_NEWNS).map_err(|error| format!("no mounts of its own: {error}"))?;
        let device = LoopDevice::attach(disk.path()).map_err(|error| format!("no loop device: {error}"))?;
        let mut mkfs = Command::new(file_system.mkfs[0]);
        // With these three variables, mkfs.xfs makes file systems of less than 300 MB. They are meant for tests.
        mkfs.args(&file_system.mkfs[1..])
            .arg(device.path())
            .envs(["TEST_DIR", "TEST_DEV", "QA_CHECK_FS"].map(|name| (name, "1")));
        run(&mut mkfs)?;
        // After the close, the device has nothing left to write.
        drop(device);
        let formatted = disk.image();
        let lab = Lab { file_system, device: Mutex::default(), disk, formatted, dir };
        lab.format();
        Ok(lab)
    }

    /// Shows a disk with a new file system.
    pub fn format(&self) {
        self.show(self.formatted.clone());
    }

    /// Shows `image`, on a new device, because the kernel may have cached the contents of the old one.
    pub fn show(&self, image: Image) {
        let mut device = self.device.lock().unwrap();
        *device = None;
        self.disk.show(image);
        *device = Some(LoopDevice::attach(self.disk.path()).unwrap());
    }

    /// The block device of the image.
    pub fn device(&self) -> PathBuf {
        self.device.lock().unwrap().as_ref().expect("an image is shown").path().to_owned()
    }

    /// Mounts the disk. If the kernel does not recover it, recovers it first.
    pub fn mount(&self) -> io::Result<Mounted> {
        Mounted::on(&self.device(), self.file_system, &self.root())
    }

    /// Makes the contents of an overlay its lower layer, which later changes do not touch.
    pub fn lower(&self, mut mounted: Mounted) -> io::Result<Mounted> {
        let Some(layers) = mounted.take_layers() else { return Ok(mounted) };
        drop(mounted);
        let layer = |name: &str| layers.root().join(name);
        for entry in fs::read_dir(layer("upper"))? {
            let entry = entry?;
            fs::rename(entry.path(), layer("lower").join(entry.file_name()))?;
        }
        drop(layers);
        let mounted = self.mount()?;
        mounted.sync()?;
        Ok(mounted)
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// A faster device for disks that are only looked at. They are mounted at the same path, when nothing else is
    /// mounted there.
    pub fn viewer(&self) -> io::Result<Viewer> {
        Viewer::new(self.file_system, self.root())
    }

    /// Runs the file system's own check on a disk that is not mounted.
    pub fn check(&self) -> Result<(), String> {
        self.file_system.check(&self.device())
    }
}
