//! The program's arguments and its help.

use std::path::PathBuf;
use std::thread;

use clap::Parser;
use crash_lab::device::{Device, Failure, Lasting, Request};
use crash_lab::file_system::{EXT4, FILE_SYSTEMS, FileSystem};
use crash_lab::others::{ASYNC_COMMIT, FAST_COMMIT};

use crate::workload::{Commits, Workload};

/// Judges what a power cut can leave of a file that COMMAND replaces.
///
/// sh runs COMMAND on a real file system, on a disk that records the writes. Then each disk that a power cut could have
/// left is mounted, read, and checked with the file system's own fsck: everything that was flushed, with any subset of
/// the later writes.
///
/// COMMAND gets the new contents on its standard input and replaces the file {path} with them. {path} and its directory
/// {dir} stand for quoted paths. Status 0 of COMMAND means that the new contents are durable.
///
/// A state is bad if it is torn (the file is not a version whose writing began), lost (a later version's writing had
/// ended), or broken (it cannot be mounted or read, or fsck finds an error).
#[derive(Parser)]
#[command(name = "crash-lab", version, max_term_width = 100, after_help = AFTER, after_long_help = AFTER_LONG)]
pub struct Args {
    /// The writer's command, as one argument for sh
    #[arg(value_name = "COMMAND")]
    pub command: String,

    /// Makes the first state if the value is not one file; gets the first value on its standard input
    ///
    /// Without it the first version is written to {path}. With it, there is always a first version, so the workload
    /// `create` is left out.
    #[arg(long, value_name = "COMMAND", help_heading = "What is judged")]
    pub prepare: Option<String>,
    /// Prints the value of a state; any status other than 0 is bad
    ///
    /// The state is mounted for writing, so that the command may recover. Without it the file {path} is read.
    #[arg(long, value_name = "COMMAND", requires = "prepare", help_heading = "What is judged")]
    pub read: Option<String>,
    /// What the writer does [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = "What is judged")]
    pub workload: Vec<Workload>,
    /// Where the file system has to commit its changes [default: all that differ on the file system]
    ///
    /// A file system may commit at any time, for example because another program syncs a file. COMMAND is stopped
    /// before each system call that changes the file system (by seccomp_unotify(2)), and a file beside {path} is
    /// changed and synced.
    #[arg(long, value_name = "WHERE", value_delimiter = ',', help_heading = "What is judged")]
    pub commits: Vec<Commits>,
    /// What the disk does while COMMAND runs: sound, lies, write:N, flush:N, write:N+, flush:N+
    ///
    /// A disk that lies reports each flush as done and does nothing. Otherwise the N-th write or flush of the recording
    /// fails with EIO. With +, all later ones of its kind fail, too, and what was in the disk's cache may be lost then.
    /// COMMAND may fail. If it ends with 0, what it wrote is durable.
    #[arg(long, value_name = "DEVICE", default_value = "sound", value_parser = device, help_heading = "What is judged")]
    pub device: Device,
    /// End a command that takes longer; then the writer cannot be judged, or the state counts as broken
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400), help_heading = "What is judged")]
    pub timeout: u64,

    /// A file system, or several [default: those of ext4, ext4-journal, ext4-writeback, xfs, btrfs that this system
    /// has]
    ///
    /// ext4-async-commit and ext4-fast-commit are known, too. Any other file system is a name in /proc/filesystems, and
    /// needs --mkfs.
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = "File systems")]
    pub fs: Vec<String>,
    /// Makes the one file system of --fs; the device is added as the last argument; sh does not run it
    #[arg(long, value_name = "COMMAND", help_heading = "File systems")]
    pub mkfs: Option<String>,
    /// Options of the file system, and dirsync, lazytime, noatime, nodiratime, relatime, strictatime, sync
    #[arg(long, value_name = "OPTIONS", help_heading = "File systems")]
    pub mount_options: Option<String>,
    /// Checks the device, which is added as the last argument, and ends with 0 if nothing is wrong; empty: nothing is
    /// checked
    #[arg(long, value_name = "COMMAND", help_heading = "File systems")]
    pub fsck: Option<String>,
    /// The size of the disk; only the parts that are not zero take memory
    #[arg(long, value_name = "MEGABYTES", value_parser = clap::value_parser!(u64).range(1..=65_536), help_heading = "File systems")]
    pub size: Option<u64>,

    /// How many states of each recording are judged, spread evenly over its flushes and ends of writes, or `full`: all
    ///
    /// There is a recording for each file system, workload and place of commits.
    #[arg(long, value_name = "N", default_value = "40", value_parser = states, help_heading = "How much")]
    pub states: States,
    /// Decides which states are judged, and where the commits are
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "How much")]
    pub seed: u64,
    /// How many file systems are tested at the same time [default: the number of processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256), help_heading = "How much")]
    jobs: Option<u16>,

    /// Write the report as JSON, too; to standard output, instead of the table, if FILE is -
    #[arg(long, value_name = "FILE", help_heading = "What is told")]
    pub json: Option<PathBuf>,
    /// Keep bad states in DIR, which must be new or empty: the first of each kind, file system and workload
    ///
    /// Each has the disk's image, the value that was found, the versions that were written, and the commands to look at
    /// the image and to judge it again.
    #[arg(long, value_name = "DIR", help_heading = "What is told")]
    pub keep: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy)]
pub enum States {
    Full,
    Some(usize),
}

const AFTER: &str = "Exit status: 0 no bad state found, 1 bad states found, 2 wrong usage, or it could not be judged.
It needs root, /dev/fuse, loop devices, and the programs of the file systems. --help tells more.";

const AFTER_LONG: &str = "\
Examples:
  A plain write, which tears and loses; a bad state of each kind is kept:
    crash-lab --keep bad 'cat > {path}'
  A rename with all syncs:
    crash-lab 'cat > {path}.new && sync {path}.new && mv {path}.new {path} && sync {dir}'
  One row of SQLite, on ext4 only, every state:
    crash-lab --fs ext4 --states full \\
        --prepare 'sqlite3 {dir}/db \"create table t (v);
            insert into t values (readfile('\\''/dev/stdin'\\''))\"' \\
        --read 'sqlite3 {dir}/db \"select cast(v as text) from t\" | head -c -1' \\
        'sqlite3 {dir}/db \"update t set v = readfile('\\''/dev/stdin'\\'')\"'
  A reference of git and its object, as it is synced by default:
    crash-lab --prepare 'git init -q {dir} && cd {dir} &&
            git update-ref refs/x $(git hash-object -w --stdin)' \\
        --read 'git -C {dir} cat-file blob refs/x' \\
        'cd {dir} && git update-ref refs/x $(git hash-object -w --stdin)'
  A disk whose second flush fails, and one that lies about its flushes:
    crash-lab --device flush:2 'cat > {path}.new && sync {path}.new && mv {path}.new {path}'
    crash-lab --device lies 'cat > {path}.new && sync {path}.new && mv {path}.new {path}'
  ext4 as it is not by default, and a file system that has no name here:
    crash-lab --fs ext4 --mkfs 'mkfs.ext4 -q -O ^has_journal' --mount-options sync 'cat > {path}'
    crash-lab --fs ext2 --mkfs 'mkfs.ext2 -q' --fsck 'e2fsck -fn' --size 64 'cat > {path}'

Exit status:
  0  no bad state was found
  1  bad states were found
  2  wrong usage, or it could not be judged: a file system or a program is missing, COMMAND
     failed, or its value could not be read back even without a power cut

Values are lines of text that end with a newline. With the same seed the same states are judged,
as long as COMMAND makes the same system calls and the file system sends the disk the same
requests. A kept image is the state itself. COMMAND is not stopped for a commit where it changes
mapped memory or uses io_uring.

It needs Linux 5.19 or later, root, /dev/fuse, loop devices, timeout(1), and the programs of the
file systems (Debian: fuse3, e2fsprogs, xfsprogs, btrfs-progs). Nobody else sees what it mounts,
and its mounts end with it.";

fn device(text: &str) -> Result<Device, String> {
    let failure = || {
        let (request, number) = text.split_once(':')?;
        let request = match request {
            "write" => Request::Write,
            "flush" => Request::Flush,
            _ => return None,
        };
        let (number, lasting) = match number.strip_suffix('+') {
            Some(number) => (number, Lasting::FromThenOn),
            None => (number, Lasting::Once),
        };
        let after = number.parse::<usize>().ok()?.checked_sub(1)?;
        Some(Device::Fails(Failure { request, after, lasting }))
    };
    match text {
        "sound" => Ok(Device::Sound),
        "lies" => Ok(Device::Lies),
        _ => failure().ok_or_else(|| "none of sound, lies, write:N, flush:N, write:N+, flush:N+".to_owned()),
    }
}

/// The name in `--device`.
pub fn name_of(device: Device) -> String {
    match device {
        Device::Sound => "sound".to_owned(),
        Device::Lies => "lies".to_owned(),
        Device::Fails(Failure { request, after, lasting }) => {
            let request = if request == Request::Write { "write" } else { "flush" };
            let on = if lasting == Lasting::FromThenOn { "+" } else { "" };
            format!("{request}:{}{on}", after + 1)
        }
    }
}

fn states(text: &str) -> Result<States, String> {
    match text {
        "full" => Ok(States::Full),
        number => match number.parse() {
            Ok(0) | Err(_) => Err("neither a number from 1 nor `full`".to_owned()),
            Ok(number) => Ok(States::Some(number)),
        },
    }
}

/// The file systems that have a name here.
fn known() -> impl Iterator<Item = (&'static str, FileSystem)> {
    let names = ["ext4", "ext4-journal", "ext4-writeback", "xfs", "btrfs", "ext4-async-commit", "ext4-fast-commit"];
    names.into_iter().zip(FILE_SYSTEMS.into_iter().chain([ASYNC_COMMIT, FAST_COMMIT]))
}

/// The file systems to judge, by their names in `--fs`, and those that are left out, with the reason.
pub struct Chosen {
    pub judged: Vec<(String, FileSystem)>,
    pub left_out: Vec<(String, String)>,
}

impl Args {
    pub fn workloads(&self) -> Result<Vec<Workload>, String> {
        use Workload::{Create, Larger, Replace, Several, Smaller};
        if self.prepare.is_some() && self.workload.contains(&Create) {
            return Err("with --prepare there is a first version, so that there is no workload `create`".to_owned());
        }
        Ok(match (&self.workload[..], &self.prepare) {
            ([], None) => vec![Create, Replace, Larger, Smaller, Several],
            ([], Some(_)) => vec![Replace, Larger, Smaller, Several],
            (some, _) => some.to_vec(),
        })
    }

    pub fn commits(&self, file_system: FileSystem) -> Result<Vec<Commits>, String> {
        let differ = Commits::all(file_system);
        match self.commits.iter().find(|commits| !differ.contains(commits)) {
            Some(other) => Err(format!("--commits {other} is for btrfs and f2fs")),
            None if self.commits.is_empty() => Ok(differ.to_vec()),
            None => Ok(self.commits.clone()),
        }
    }

    pub fn jobs(&self) -> usize {
        self.jobs.map_or_else(|| thread::available_parallelism().map_or(1, usize::from), usize::from)
    }

    pub fn file_systems(&self) -> Result<Chosen, String> {
        let mut chosen = Chosen { judged: Vec::new(), left_out: Vec::new() };
        if self.fs.is_empty() {
            if self.is_special() {
                return Err("--mkfs, --mount-options, --fsck and --size need one --fs".to_owned());
            }
            for (name, file_system) in known().take(FILE_SYSTEMS.len()) {
                match file_system.missing() {
                    None => chosen.judged.push((name.to_owned(), file_system)),
                    Some(why) => chosen.left_out.push((name.to_owned(), why)),
                }
            }
            return match &chosen.left_out[..] {
                [(_, why), ..] if chosen.judged.is_empty() => Err(why.clone()),
                _ => Ok(chosen),
            };
        }
        if self.is_special() && self.fs.len() != 1 {
            return Err("--mkfs, --mount-options, --fsck and --size are for one --fs, not several".to_owned());
        }
        for name in &self.fs {
            let file_system = self.special(name)?;
            if let Some(why) = file_system.missing() {
                return Err(format!("{name}: {why}"));
            }
            chosen.judged.push((name.clone(), file_system));
        }
        Ok(chosen)
    }

    fn is_special(&self) -> bool {
        self.mkfs.is_some() || self.mount_options.is_some() || self.fsck.is_some() || self.size.is_some()
    }

    /// The file system of this name, changed as the flags say. It lives as long as the program, as the built-in ones
    /// do.
    fn special(&self, name: &str) -> Result<FileSystem, String> {
        let words = |command: &str| -> &'static [&'static str] {
            let command: &'static str = command.to_owned().leak();
            command.split_whitespace().collect::<Vec<_>>().leak()
        };
        let mut file_system = match (known().find(|(known, _)| *known == name), &self.mkfs) {
            (Some((_, file_system)), _) => file_system,
            (None, None) => {
                let names: Vec<&str> = known().map(|(name, _)| name).collect();
                return Err(format!("{name} is none of {}, and so it needs --mkfs", names.join(", ")));
            }
            (None, Some(_)) => {
                let name: &'static str = name.to_owned().leak();
                FileSystem { name, kind: name, options: "", megabytes: 64, mkfs: &[], check: &[], ..EXT4 }
            }
        };
        if let Some(mkfs) = &self.mkfs {
            file_system.mkfs = words(mkfs);
            if file_system.mkfs.is_empty() {
                return Err("--mkfs is empty".to_owned());
            }
        }
        if let Some(options) = &self.mount_options {
            file_system.options = options.clone().leak();
        }
        if let Some(fsck) = &self.fsck {
            file_system.check = words(fsck);
        }
        if let Some(size) = self.size {
            file_system.megabytes = size;
        }
        Ok(file_system)
    }
}
