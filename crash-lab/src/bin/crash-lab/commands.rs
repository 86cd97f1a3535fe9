//! The commands that the user gave, run by sh.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crash_lab::calls;
use tempfile::tempfile;

/// The directory on the file system under test, and the file in it.
pub const DIR: &str = "dir";
pub const FILE: &str = "file";

/// Puts the quoted paths into a command.
pub fn fill_in(command: &str, dir: &Path) -> String {
    let quoted = |path: &Path| quote(&path.display().to_string());
    command.replace("{path}", &quoted(&dir.join(FILE))).replace("{dir}", &quoted(dir))
}

/// One word for sh.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_-.,=+:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// One of the user's commands.
pub struct Filled {
    text: String,
    command: Command,
    said: [File; 2],
}

impl Filled {
    /// Standard input and output are not pipes, because nobody reads or writes their other ends.
    pub fn new(command: &str, dir: &Path, timeout: u64, input: &[u8]) -> io::Result<Self> {
        let text = fill_in(command, dir);
        let (mut stdin, said) = (tempfile()?, [tempfile()?, tempfile()?]);
        stdin.write_all(input)?;
        stdin.rewind()?;
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", &timeout.to_string(), "sh", "-c", &text]).stdin(Stdio::from(stdin));
        command.stdout(said[0].try_clone()?).stderr(said[1].try_clone()?);
        Ok(Filled { text, command, said })
    }

    /// The output, if the status is 0.
    pub fn run(self) -> Result<Vec<u8>, String> {
        self.run_by(|mut command| command.status())
    }

    /// The same, and calls `before` before each system call that changes the file system of `dir`.
    pub fn run_in_steps(self, dir: &Path, before: impl FnMut()) -> Result<Vec<u8>, String> {
        self.run_by(|command| calls::run(command, fs::metadata(dir)?.dev(), before))
    }

    fn run_by(self, run: impl FnOnce(Command) -> io::Result<std::process::ExitStatus>) -> Result<Vec<u8>, String> {
        let Filled { text, command, said: [mut output, mut errors] } = self;
        let status = run(command).map_err(|error| format!("{text}: cannot be run: {error}"))?;
        let all = |file: &mut File| -> io::Result<Vec<u8>> {
            let mut all = Vec::new();
            file.rewind()?;
            file.read_to_end(&mut all)?;
            Ok(all)
        };
        let what = all(&mut output).and_then(|output| Ok((output, all(&mut errors)?)));
        let (output, errors) = what.map_err(|error| format!("{text}: what it said cannot be read: {error}"))?;
        match status.code() {
            Some(0) => Ok(output),
            // The statuses of timeout(1).
            Some(124 | 137) => Err(format!("{text}: did not end in time")),
            _ => Err(format!("{text}: {status}: {}", String::from_utf8_lossy(&errors).trim())),
        }
    }
}
