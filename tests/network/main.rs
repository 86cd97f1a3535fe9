//! One directory and two sides that use it: two processes, two mounts, or two machines, each with a kernel of its own. And the
//! table of file systems in `src/docs/proofs.md`, which is what was seen here.
//!
//! The cases (`cases.rs`) say what the two sides do, in which order, and what must come of it. They do it by processes (`process.rs`)
//! that have an adapter, and do what they are told, one verb at a time. A process that has made the file system (`site.rs`) runs a case
//! when it is asked for, and says what it saw; `report.rs` adds that up.
//!
//! Where it is this machine's kernel (`here.rs`), that is a process with mounts, processes and a network of its own: ext4, xfs and
//! btrfs on loop devices, tmpfs, overlayfs, bindfs for what FUSE does, and GlusterFS, whose two sides have a mount each. GlusterFS breaks
//! promises with the options that one gets without asking. So it has others here, and the long form also counts how often it does.
//!
//! NFS needs a virtual machine (`machine.rs`): QEMU, without KVM, boots Debian's kernel with the root of this machine, read-only,
//! below a layer in memory; so this test program is there, too. In the machine it is the guest (`guest.rs`), which makes a server
//! (ext4 behind knfsd) and two clients, each with a network, a host name and mounts of its own, for the server takes clients of
//! one name for one client. Each case runs over NFSv4.2 and over NFSv4.0, with the mount options that one gets without asking.
//!
//! Controls run with the remedy for NFS, or the kernel's locks, left out, by fault injection, and fail if that is not noticed.
//!
//! It needs root, and Python with the package `xxhash`; for this machine's file systems the programs that make them, bindfs and
//! GlusterFS (Debian: e2fsprogs, xfsprogs, btrfs-progs, bindfs, glusterfs-server, iproute2); for the virtual machine QEMU, busybox, the
//! programs of the NFS server and iproute2 (Debian: qemu-system-x86, busybox-static, nfs-kernel-server, iproute2, kmod, e2fsprogs); and
//! a kernel with its modules, which need not be installed:
//!
//! ```sh
//! apt-get download "$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image/ { print $2 }')"
//! dpkg -x linux-image-*.deb target/network-kernel
//! ```
//!
//! | variable | |
//! |---|---|
//! | `NETWORK` | `full`: every case as long as it is written here, not a short form of it; and the table at the end |
//! | `NETWORK_KERNEL` | where the kernel is (`target/network-kernel`, else that of this machine) |
//!
//! A word behind `--` chooses the cases whose names have it: `-- GlusterFS`, `-- NFSv4.2`, `-- xfs:`.

#[path = "../common/mod.rs"]
mod common;

#[cfg(target_os = "linux")]
mod cases;
#[cfg(target_os = "linux")]
mod guest;
#[cfg(target_os = "linux")]
mod here;
#[cfg(target_os = "linux")]
mod machine;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod site;

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    let trials = || here::trials().into_iter().chain(machine::trials()).collect();
    let code = common::main(
        if common::is_worker() { Vec::new() } else { trials() },
        &[("guest", guest::run), ("client", guest::be_a_client), ("here", here::be_here), ("process", process::run)],
    );
    here::stop();
    machine::stop();
    report::publish();
    code
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    common::main(vec![common::test_if(Some("needs Linux"), "network", || ())], &[])
}
