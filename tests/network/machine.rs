//! The virtual machine from outside: the files that it needs to boot, and its cases as tests.

use std::env;
use std::fs::File;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use libtest_mimic::{Failed, Trial};
use tempfile::TempDir;

use crate::cases::{CASES, Place};
use crate::common::machine::{self, Setup, console, output};
use crate::common::{Worker, no_program};
use crate::guest::VERSIONS;
use crate::site::{Station, is_full};

/// Every case over every version of the protocol, as tests.
pub fn trials() -> Vec<Trial> {
    let missing = missing();
    let mut trials = Vec::new();
    for version in VERSIONS {
        for case in CASES {
            if case.place == Place::NotNfs || !is_full() && case.newest && version != VERSIONS[0] {
                continue;
            }
            let name = format!("NFSv{version}: {}", case.name);
            let name = missing.as_ref().map_or(name.clone(), |missing| format!("{name} [{missing}]"));
            let run = move || run(version, case.name);
            trials.push(Trial::test(name, run).with_ignored_flag(missing.is_some()));
        }
    }
    trials
}

/// The reason why this machine cannot be made.
fn missing() -> Option<String> {
    const PROGRAMS: [&str; 6] = ["ip", "mkfs.ext4", "exportfs", "rpc.nfsd", "nfsdcld", "mount.nfs4"];
    let python = no_program("python3", &["-c", "import xxhash"], "needs python3 with xxhash");
    machine::missing(&PROGRAMS).or_else(|| python.map(str::to_owned))
}

/// A running machine.
struct Machine {
    guest: Station,
    dir: TempDir,
}

static MACHINE: Mutex<Option<Machine>> = Mutex::new(None);

/// Runs a case in the machine, which the first case boots. One case at a time.
fn run(version: &str, case: &str) -> Result<(), Failed> {
    let mut machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let Machine { guest, dir } = machine.get_or_insert_with(Machine::boot);
    guest.run(&format!("NFSv{version}"), version, case, || console(dir.path()))
}

/// Ends the machine, if there is one.
pub fn stop() {
    drop(MACHINE.lock().unwrap_or_else(PoisonError::into_inner).take());
}

impl Machine {
    fn boot() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        File::create(&disk).unwrap().set_len(256 << 20).unwrap();
        output(Command::new("mkfs.ext4").args(["-qF", "-E", "nodiscard"]).arg(&disk));
        // The interpreter itself, and not a script that finds it by the environment, which differs in the machine.
        let python = output(Command::new("python3").args(["-c", "import sys; print(sys.executable)"]));
        let script = format!(
            "export ATOMIC_FILE_TEST_WORKER=guest PYTHON={}\n{} </dev/ttyS1 >/dev/ttyS1 2>/dev/ttyS0",
            python.trim(),
            env::current_exe().unwrap().display(),
        );
        let full = is_full();
        // With a second processor more happens at the same time, but it takes a third longer.
        let processors = if full { 2 } else { 1 };
        let setup = Setup { modules: &["virtio_blk"], script, processors, megabytes: 1024 };
        let mut qemu = setup.command(dir.path());
        qemu.arg("-drive").arg(format!("if=virtio,format=raw,cache=unsafe,file={}", disk.display()));
        let says = |line: &str, guest: &mut Worker| match line {
            // Earlier messages would be lost.
            "listening" => guest.tell(if full { "full" } else { "short" }),
            line => println!("{line}"),
        };
        match Station::start(qemu, says) {
            Some(guest) => Machine { guest, dir },
            None => panic!("the machine did not start:\n{}", console(dir.path())),
        }
    }
}
