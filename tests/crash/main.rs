//! Crash consistency, on real file systems: files are written on a disk that records what it is told, and then each
//! disk that a power cut could have left is mounted, looked at, and checked.
//!
//! A case makes a disk that records, a loop device on it, and a real file system on that, and runs a workload
//! (`workloads.rs`). From the record come the crash states: at every flush and after every acknowledgement, what was
//! flushed before, with any subset of what was written since. All of this is the crate `crash-lab` beside this one. Each
//! state must hold whole versions only, and none that had been superseded when the power went (`judge.rs`). In most
//! recordings the journal is also committed between the steps of the writer, as it may be at any time. Controls leave a
//! sync out, and fail if that is not noticed. Changes of several files as one have workloads and a judge of their own
//! (`together/`), which reads each state through the crate, and lets the crash come again while it was recovered from.
//!
//! It needs root, `/dev/fuse`, loop devices, and the programs of the file systems (Debian: e2fsprogs, xfsprogs,
//! btrfs-progs); what is missing is in the names of the ignored cases. A test that is killed leaves nothing but files
//! in the temporary directory behind.
//!
//! | variable | |
//! |---|---|
//! | `CRASH_STATES` | how many states of each recording are judged (12; 5 of several files as one), or `full`: all (100 of several files as one) |
//! | `CRASH_FAILURES` | how many requests of each program fail in turn (5), or `full`: all (see `failing/`) |
//! | `CRASH_SEED` | a number; other random subsets, samples and commits |
//! | `CRASH_OTHERS` | judges other file systems and options, a little (`others.rs`): overlayfs, ext4 without a journal, f2fs, nilfs2, jfs and more |
//! | `CRASH_VM` | does the same in a virtual machine (`virtual_machine.rs`), and so under another kernel, which has more of them; 4 states of each recording |
//!
//! # Other file systems, and another kernel
//!
//! ```sh
//! CRASH_OTHERS=1 CRASH_STATES=12 cargo test --all-features --test crash -- overlayfs
//! CRASH_VM=1 cargo test --all-features --test crash -- f2fs
//! ```
//!
//! What cannot be made is in the names of the ignored cases (Debian: f2fs-tools, nilfs-tools, jfsutils). The virtual machine needs what
//! that of `tests/network` needs, the kernel in `target/network-kernel` (or `NETWORK_KERNEL`) included. It has two processors, which
//! are emulated: a state takes a second there, and a file system some minutes. CI runs none of this.
//!
//! Another program is judged by the command `crash-lab`, which is in the crate of that name: `cargo run -p crash-lab -- --help`.

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

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    if virtual_machine::asked() {
        return virtual_machine::run();
    }
    let conclusion = libtest_mimic::run(&libtest_mimic::Arguments::from_args(), cases::all());
    report::publish();
    conclusion.exit_code()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    common::main(vec![common::test_if(Some("needs Linux"), "crash_states", || ())], &[])
}
