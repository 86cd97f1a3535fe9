//! File systems: how each is made, mounted and checked.

use std::env;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

/// A file system and how it is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystem {
    pub name: &'static str,
    /// The name in `/proc/filesystems`.
    pub kind: &'static str,
    /// The options as for mount(8). [`Mounted`](crate::mounted::Mounted) lists those that are flags of mount(2).
    pub options: &'static str,
    pub megabytes: u64,
    /// A program and its arguments. The device is added as the last argument.
    pub mkfs: &'static [&'static str],
    /// Likewise. It ends with 0 if nothing is wrong. Empty: nothing is checked.
    pub check: &'static [&'static str],
    /// Likewise, for file systems that the kernel does not recover by itself. It runs before each mount. It ends with
    /// 0, or with 1 if it has repaired something.
    pub recover: &'static [&'static str],
    /// An overlay is mounted, whose layers are directories on this file system.
    pub overlay: bool,
    /// Whether files have access control lists and extended attributes.
    pub attributes: bool,
}

pub const EXT4: FileSystem = FileSystem {
    name: "ext4 data=ordered",
    kind: "ext4",
    options: "data=ordered",
    megabytes: 32,
    mkfs: &["mkfs.ext4", "-qF", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"],
    check: &["e2fsck", "-fn"],
    recover: &[],
    overlay: false,
    attributes: true,
};

pub const FILE_SYSTEMS: [FileSystem; 5] = [
    EXT4,
    FileSystem { name: "ext4 data=journal", options: "data=journal", ..EXT4 },
    FileSystem { name: "ext4 data=writeback", options: "data=writeback", ..EXT4 },
    FileSystem {
        name: "xfs",
        kind: "xfs",
        options: "",
        megabytes: 32,
        mkfs: &["mkfs.xfs", "-qfK"],
        check: &["xfs_repair", "-n"],
        ..EXT4
    },
    FileSystem {
        name: "btrfs",
        kind: "btrfs",
        options: "",
        // The smallest that mkfs accepts is 109.
        megabytes: 128,
        mkfs: &["mkfs.btrfs", "-qfK"],
        check: &["btrfs", "check", "--readonly"],
        ..EXT4
    },
];

impl FileSystem {
    /// Runs the file system's own check on a device that is not mounted.
    pub(crate) fn check(&self, device: &Path) -> Result<(), String> {
        let [program, args @ ..] = self.check else { return Ok(()) };
        run(Command::new(program).args(args).arg(device)).map(|_| ())
    }

    /// Recovers a device that is not mounted, if the kernel does not.
    pub(crate) fn recover(&self, device: &Path) -> io::Result<()> {
        let [program, args @ ..] = self.recover else { return Ok(()) };
        let output = Command::new(program).args(args).arg(device).output()?;
        // 1: errors were corrected (fsck(8)).
        if output.status.code().is_none_or(|code| code > 1) {
            let said = String::from_utf8_lossy(&output.stdout);
            return Err(io::Error::other(format!("{program}: {}\n{said}", output.status)));
        }
        Ok(())
    }

    /// Whether it has commits that the sync of a file does not make: see [`commit_all`](crate::commit::commit_all).
    pub fn commits_apart(&self) -> bool {
        matches!(self.kind, "btrfs" | "f2fs")
    }

    /// The reason why this file system cannot be tested here.
    pub fn missing(&self) -> Option<String> {
        let found = |program: &str| {
            let paths = env::var_os("PATH").unwrap_or_default();
            env::split_paths(&paths).any(|dir| dir.join(program).exists())
        };
        let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        if !nix::unistd::geteuid().is_root() {
            Some("needs root".to_owned())
        } else if !Path::new("/dev/fuse").exists() || !Path::new("/dev/loop-control").exists() {
            Some("needs /dev/fuse and loop devices".to_owned())
        } else if !known.lines().any(|line| line.trim() == self.kind) {
            Some(format!("needs {} in the kernel", self.kind))
        } else {
            let programs = [self.mkfs, self.check, self.recover];
            let mut programs = programs.into_iter().filter_map(|command| command.first().copied());
            programs.find(|program| !found(program)).map(|program| format!("needs {program}"))
        }
    }
}

/// The output of the program if it succeeds. Otherwise all of its output as an error.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    Err(format!("{command:?}: {}\n{said}{}", output.status, String::from_utf8_lossy(&output.stderr)))
}
