//! Crash consistency on real file systems. Files are written on a disk that records all requests. Then each disk that a
//! power cut could have left is mounted, looked at, and checked.
//!
//! A case makes a recording disk, a loop device on it, and a real file system on that, and runs a workload
//! (`workloads.rs`). The crash states come from the record: at every flush and after every acknowledgement, everything
//! that was flushed, with any subset of the later writes. The crate `crash-lab` in this repository does this. Each
//! state must contain only complete versions, and none that a later acknowledged version has replaced (`judge.rs`). In
//! most recordings the journal is also committed between the steps of the writer, as it may be at any time. Controls
//! leave a sync out, and fail if that is not noticed. Changes of several files as one have their own workloads and
//! judge (`together/`). They read each state through the crate, and crash again during the recovery.
//!
//! It needs root, `/dev/fuse`, loop devices, and the programs of the file systems (Debian: e2fsprogs, xfsprogs,
//! btrfs-progs). The names of the ignored cases say what is missing. If a test is killed, only files in the temporary
//! directory are left.
//!
//! | variable | |
//! |---|---|
//! | `THOROUGH` | `1`: the thorough form, as in the gate; below, the second number |
//! | `CRASH_STATES` | how many states of each recording are judged (4, 12; 2, 5 of several files as one), or `full`: all (100 of several files as one) |
//! | `CRASH_FAILURES` | how many requests of each program fail in turn (1, 2), or `full`: all (see `failing/`) |
//! | `CRASH_SEED` | a number, for other random subsets, samples and commits |
//! | `CRASH_OTHERS` | judges a few states of other file systems and options (`others.rs`): overlayfs, ext4 without a journal, f2fs, nilfs2, jfs and more |
//! | `CRASH_VM` | does the same in a virtual machine (`virtual_machine.rs`) under another kernel, which has more file systems; 4 states of each recording |
//!
//! # Other file systems, and another kernel
//!
//! ```sh
//! CRASH_OTHERS=1 CRASH_STATES=12 cargo test --all-features --test crash -- overlayfs
//! CRASH_VM=1 cargo test --all-features --test crash -- f2fs
//! ```
//!
//! The names of the ignored cases say which file systems cannot be made (Debian: f2fs-tools, nilfs-tools, jfsutils).
//! The virtual machine needs what that of `tests/network` needs, including the kernel in `target/network-kernel` (or
//! `NETWORK_KERNEL`). It has two emulated processors: a state takes a second, and a file system some minutes. CI runs
//! none of this.
//!
//! The command `crash-lab`, in the crate of that name, judges other programs: `cargo run -p crash-lab -- --help`.

#[path = "../common/mod.rs"]
mod common;

#[cfg(target_os = "linux")]
mod cases;
#[cfg(target_os = "linux")]
mod commits;
#[cfg(target_os = "linux")]
mod failing;
#[cfg(target_os = "linux")]
mod fast_commit;
#[cfg(target_os = "linux")]
mod generated;
#[cfg(target_os = "linux")]
mod judge;
#[cfg(target_os = "linux")]
mod others;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod seed;
#[cfg(target_os = "linux")]
mod together;
#[cfg(target_os = "linux")]
mod virtual_machine;
#[cfg(target_os = "linux")]
mod workloads;

use std::process::ExitCode;

/// A mount, an unmount and the end of a loop device wait for the kernel, not for a processor.
#[cfg(target_os = "linux")]
const MORE_THREADS: usize = 2;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    if virtual_machine::asked() {
        return virtual_machine::run();
    }
    common::say_what_is_left_out(
        "two thirds of the states, half of the failures of a device, and 68 of 80 generated sequences",
    );
    let code = common::run(MORE_THREADS, cases::all());
    report::publish();
    code
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    common::main(vec![common::test_if(Some("needs Linux"), "crash_states", || ())], &[])
}
