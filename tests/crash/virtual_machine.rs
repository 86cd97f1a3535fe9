//! The same test program in a virtual machine, under another kernel with more file systems.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{ExitCode, Stdio};

use crate::common::machine::{self, Setup, console};

/// The modules that Debian's kernel does not contain itself. If one is missing, its cases say so.
const MODULES: [&str; 8] = ["fuse", "loop", "ext4", "xfs", "btrfs", "f2fs", "nilfs2", "jfs"];

/// The variables that the cases use, too.
const VARIABLES: [&str; 2] = ["CRASH_STATES", "CRASH_SEED"];

/// How many states of each recording are judged. A state takes about a second.
const STATES: &str = "4";

pub fn asked() -> bool {
    env::var_os("CRASH_VM").is_some()
}

/// Boots the machine, runs the cases of `others.rs` in it, and returns their status.
pub fn run() -> ExitCode {
    if let Some(missing) = machine::missing(&[]) {
        eprintln!("there can be no virtual machine here: it {missing}");
        return ExitCode::FAILURE;
    }
    let mut script = format!("export CRASH_OTHERS=1 CRASH_STATES={STATES}\n");
    for (name, value) in VARIABLES.iter().filter_map(|name| Some((name, env::var(name).ok()?))) {
        script += &format!("export {name}={}\n", quoted(&value));
    }
    script += "mount -t tmpfs tmpfs /tmp\n";
    script.extend(MODULES.map(|module| format!("modprobe {module} 2>/dev/null\n")));
    let command: Vec<String> = env::args().map(|argument| quoted(&argument)).collect();
    script += &format!("cd {}\n", quoted(env::current_dir().unwrap().to_str().unwrap()));
    script += &format!("{} </dev/null >/dev/ttyS1 2>&1\necho ended with $? >/dev/ttyS1", command.join(" "));

    let dir = tempfile::tempdir().unwrap();
    let mut qemu = Setup { modules: &[], script, processors: 2, megabytes: 3072 }.command(dir.path());
    let mut qemu = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut status = None;
    for line in BufReader::new(qemu.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        match line.trim_end().strip_prefix("ended with ") {
            Some(code) => status = Some(code.to_owned()),
            None => println!("{line}"),
        }
    }
    qemu.wait().unwrap();
    match status.as_deref() {
        Some("0") => ExitCode::SUCCESS,
        Some(_) => ExitCode::FAILURE,
        None => {
            eprintln!("the machine did not get to the end:\n{}", console(dir.path()));
            ExitCode::FAILURE
        }
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
