//! A mounted file system, or an overlay on one.

use std::fs::{self, File};
use std::io;
use std::mem::{self, ManuallyDrop};
use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::syncfs;

use crate::file_system::FileSystem;

/// The mounted file system.
pub struct Mounted {
    root: PathBuf,
    /// The file system with the layers of an overlay. It is unmounted after the overlay.
    layers: Option<Box<Mounted>>,
}

impl Mounted {
    /// These options are flags of mount(2): `dirsync`, `lazytime`, `noatime`, `nodiratime`, `relatime`, `strictatime`
    /// and `sync`. All others go to the file system.
    pub(crate) fn on(device: &Path, file_system: FileSystem, root: &Path) -> io::Result<Self> {
        file_system.recover(device)?;
        if file_system.overlay {
            return Self::over(device, file_system, root);
        }
        let (mut flags, mut own) = (MsFlags::empty(), Vec::new());
        for option in file_system.options.split(',') {
            match option {
                "dirsync" => flags |= MsFlags::MS_DIRSYNC,
                "lazytime" => flags |= MsFlags::MS_LAZYTIME,
                "noatime" => flags |= MsFlags::MS_NOATIME,
                "nodiratime" => flags |= MsFlags::MS_NODIRATIME,
                "relatime" => flags |= MsFlags::MS_RELATIME,
                "strictatime" => flags |= MsFlags::MS_STRICTATIME,
                "sync" => flags |= MsFlags::MS_SYNCHRONOUS,
                own_option => own.push(own_option),
            }
        }
        mount(Some(device), root, Some(file_system.kind), flags, Some(own.join(",").as_str()))?;
        Ok(Mounted { root: root.to_owned(), layers: None })
    }

    fn over(device: &Path, file_system: FileSystem, root: &Path) -> io::Result<Self> {
        let place = root.with_file_name("layers");
        fs::create_dir_all(&place)?;
        let below = FileSystem { overlay: false, recover: &[], ..file_system };
        let layers = Mounted::on(device, below, &place)?;
        let layer = |name: &str| {
            let layer = place.join(name);
            fs::create_dir_all(&layer)?;
            Ok::<_, io::Error>(format!("{name}dir={}", layer.display()))
        };
        let options = [layer("lower")?, layer("upper")?, layer("work")?].join(",");
        mount(Some("overlay"), root, Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
        Ok(Mounted { root: root.to_owned(), layers: Some(Box::new(layers)) })
    }

    /// The file system with the layers, if this is an overlay.
    pub(crate) fn take_layers(&mut self) -> Option<Box<Mounted>> {
        self.layers.take()
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn sync(&self) -> io::Result<()> {
        Ok(syncfs(&File::open(&self.root)?)?)
    }

    /// The same as dropping it, but without a panic if the file system is still in use.
    pub fn unmount(self) -> nix::Result<()> {
        let mut mounted = ManuallyDrop::new(self);
        let (root, _layers) = (mem::take(&mut mounted.root), mounted.layers.take());
        let unmounted = umount2(&root, MntFlags::empty());
        if unmounted.is_err() {
            let _ = umount2(&root, MntFlags::MNT_DETACH);
        }
        unmounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let Err(error) = umount2(&self.root, MntFlags::empty()) else { return };
        // A failed test may have left a file open. The end of the disk ends the file system, too.
        let _ = umount2(&self.root, MntFlags::MNT_DETACH);
        assert!(thread::panicking(), "{}: {error}", self.root.display());
    }
}
