//! A bad state in a directory: its disk, the expected and the found value, and the commands to look at it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crash_lab::disk::Image;
use crash_lab::file_system::FileSystem;

use crate::args::{Args, States, name_of};
use crate::commands::{DIR, FILE, fill_in, quote};
use crate::judged::{Bad, Found, Judged, kind, what};
use crate::record::Recorded;

const MOUNT_POINT: &str = "/mnt";
const IMAGE: &str = "disk.img";
/// The copy that is mounted, because mounting changes an image.
const COPY: &str = "copy.img";

/// Makes the directory. An error if it contains anything.
pub fn prepare(dir: Option<&Path>) -> Result<(), String> {
    let Some(dir) = dir else { return Ok(()) };
    let failed = |error: io::Error| format!("{}: {error}", dir.display());
    fs::create_dir_all(dir).map_err(failed)?;
    match fs::read_dir(dir).map_err(failed)?.next() {
        None => Ok(()),
        Some(_) => Err(format!("--keep {}: there is something in it", dir.display())),
    }
}

/// A bad state, and everything that goes into its directory.
pub struct Keeping<'a> {
    pub args: &'a Args,
    pub file_system: FileSystem,
    pub recorded: &'a Recorded,
    pub image: &'a Image,
    pub found: &'a Found,
    pub judged: &'a Judged,
    pub bad: &'a Bad,
}

impl Keeping<'_> {
    /// Returns the new directory.
    pub fn keep(&self, parent: &Path) -> Result<PathBuf, String> {
        let Judged { file_system, workload, .. } = self.judged;
        let dir = parent.join(format!("{file_system}-{workload}-{}", kind(&self.bad.fault)));
        self.write(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        Ok(dir)
    }

    fn write(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir(dir)?;
        self.image.save(&dir.join(IMAGE), self.file_system.megabytes << 20)?;
        for (number, contents) in self.recorded.versions.0.iter().enumerate() {
            if let Some(contents) = contents {
                fs::write(dir.join(format!("version-{number}")), contents)?;
            }
        }
        if let Some(Some(value)) = &self.found.value {
            fs::write(dir.join("found"), value)?;
        }
        fs::write(dir.join("README.txt"), self.text())
    }

    fn text(&self) -> String {
        let Keeping { args, bad, judged, .. } = self;
        let mut text = format!("{}: {}\n\n", kind(&bad.fault), what(&bad.fault));
        text += &format!("COMMAND   {}\n", args.command);
        let file_system = self.file_system;
        text += &format!(
            "on        {}, made by `{}`, mounted with `{}`\n",
            file_system.kind,
            file_system.mkfs.join(" "),
            file_system.options
        );
        text += &format!("disk      {}\n", name_of(args.device));
        text += &format!("workload  {}, commits {}\nstate     {}\n", judged.workload, judged.commits, bad.state);
        text += "\nOperation N writes version N + 1 (`version-*` beside this file; there is no file for a version that is\n\
                 the absence of one). What was read is in `found`.\n";
        text += &format!(
            "\nTo look at the state; mounting it replays the journal, and changes the image:\n\n{}",
            self.look()
        );
        text += &format!("\nTo judge this file system and workload again:\n\n    {}\n", self.again());
        text
    }

    fn look(&self) -> String {
        let file_system = self.file_system;
        let options = ["loop", file_system.options].into_iter().filter(|option| !option.is_empty());
        let options = options.collect::<Vec<_>>().join(",");
        let read = match &self.args.read {
            Some(read) => fill_in(read, &Path::new(MOUNT_POINT).join(DIR)),
            None => format!("cat {MOUNT_POINT}/{DIR}/{FILE}"),
        };
        let mut lines = vec![
            format!("cp --sparse=always {IMAGE} {COPY}"),
            format!("mount -t {} -o {} {COPY} {MOUNT_POINT}", file_system.kind, quote(&options)),
            read,
            format!("umount {MOUNT_POINT}"),
        ];
        if !file_system.check.is_empty() {
            lines.push(format!("{} {COPY}", file_system.check.join(" ")));
        }
        lines.into_iter().map(|line| format!("    {line}\n")).collect()
    }

    /// The command line that judges the same recording again.
    fn again(&self) -> String {
        let Args { command, prepare, read, mkfs, mount_options, fsck, size, seed, timeout, device, .. } = self.args;
        let Judged { file_system, workload, .. } = self.judged;
        let states = match self.args.states {
            States::Full => "full".to_owned(),
            States::Some(number) => number.to_string(),
        };
        let commits: Vec<String> = self.args.commits.iter().map(ToString::to_string).collect();
        let mut words = vec!["crash-lab".to_owned()];
        let mut add = |flag: &str, value: Option<String>| {
            if let Some(value) = value {
                words.extend([flag.to_owned(), quote(&value)]);
            }
        };
        add("--fs", Some(file_system.clone()));
        add("--mkfs", mkfs.clone());
        add("--mount-options", mount_options.clone());
        add("--fsck", fsck.clone());
        add("--size", size.map(|size| size.to_string()));
        add("--workload", Some(workload.to_string()));
        add("--commits", (!commits.is_empty()).then(|| commits.join(",")));
        add("--states", Some(states));
        add("--seed", Some(seed.to_string()));
        add("--device", Some(name_of(*device)));
        add("--timeout", Some(timeout.to_string()));
        add("--prepare", prepare.clone());
        add("--read", read.clone());
        add("--", Some(command.clone()));
        words.join(" ")
    }
}
