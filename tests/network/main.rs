//! One directory and two sides that use it: two processes, two mounts, or two machines with their own kernels. The
//! table of file systems in `src/docs/proofs.md` comes from this test.
//!
//! The cases (`cases.rs`) say what the two sides do, in which order, and the required results. Each side has processes
//! (`process.rs`) with an adapter, which do one verb at a time. A process that has made the file system (`site.rs`)
//! runs a case on request and prints what it saw. `report.rs` adds the results up.
//!
//! For file systems of this machine's kernel (`here.rs`), that process has its own mounts, processes and network. They
//! are ext4, xfs and btrfs on loop devices, tmpfs, overlayfs, bindfs as an example of FUSE, and GlusterFS, whose two
//! sides have a mount each. With its default options GlusterFS breaks promises. So the cases use other options, and the
//! long form also counts how often it breaks them with the defaults.
//!
//! NFS needs a virtual machine (`machine.rs`). QEMU, without KVM, boots Debian's kernel with the root of this machine,
//! read-only, below a layer in memory, so this test program is there, too. In the machine it is the guest (`guest.rs`).
//! It makes a server (ext4 behind knfsd) and two clients. Each client has its own network, host name and mounts,
//! because the server takes clients with one name for one client. Each case runs over NFSv4.2 and over NFSv4.0, with
//! the default mount options.
//!
//! Controls leave out the remedy for NFS, or the kernel's locks, by fault injection. They fail if nothing goes wrong.
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
//! | `THOROUGH` | `1`: also NFS, in the virtual machine |
//! | `NETWORK` | `full`: the long form of every case, also with NFS, and the table at the end |
//! | `NETWORK_KERNEL` | the directory of the kernel (`target/network-kernel`, else that of this machine) |
//!
//! A word after `--` chooses the cases whose names contain it: `-- GlusterFS`, `-- NFSv4.2`, `-- xfs:`.

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

/// Most of what they do is to start processes and file systems, and to wait for them.
#[cfg(target_os = "linux")]
const MORE_THREADS: usize = 2;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    let with_machine = common::is_thorough() || site::is_full();
    if !with_machine {
        common::say_what_is_left_out("NFS, which needs a virtual machine that takes minutes");
    }
    let machine = || if with_machine { machine::trials() } else { Vec::new() };
    let trials = || here::trials().into_iter().chain(machine()).collect();
    let code = common::main_with(
        MORE_THREADS,
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
