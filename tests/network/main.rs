//! Two machines and one file: the promises between two clients of an NFS server, with a kernel of their own.
//!
//! A case runs in a virtual machine (`machine.rs`): QEMU, without KVM, boots Debian's kernel with the root of this machine, read-only,
//! below a layer in memory; so this test program is there, too. In the machine it is the guest (`guest.rs`), which makes a server
//! (ext4 behind knfsd) and two clients, each with a network, a host name and mounts of its own, for the server takes clients of
//! one name for one client. It is also the processes on the clients (`process.rs`), which do with the adapter what the cases
//! (`cases.rs`) tell them, one verb at a time; so the cases say in which order things happen, and what must come of it.
//!
//! Each case runs over NFSv4.2 and over NFSv4.0, with the mount options that one gets without asking. Controls run with the remedy left
//! out, by fault injection, and fail if that is not noticed.
//!
//! It needs root; QEMU, busybox, the programs of the NFS server and iproute2 (Debian: qemu-system-x86, busybox-static,
//! nfs-kernel-server, iproute2, kmod, e2fsprogs); and a kernel with its modules, which need not be installed:
//!
//! ```sh
//! apt-get download "$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image/ { print $2 }')"
//! dpkg -x linux-image-*.deb target/network-kernel
//! ```
//!
//! | variable | |
//! |---|---|
//! | `NETWORK` | `full`: every case as long as it is written here, not a short form of it |
//! | `NETWORK_KERNEL` | where the kernel is (`target/network-kernel`, else that of this machine) |

#[path = "../common/mod.rs"]
mod common;

#[cfg(target_os = "linux")]
mod cases;
#[cfg(target_os = "linux")]
mod guest;
#[cfg(target_os = "linux")]
mod machine;
#[cfg(target_os = "linux")]
mod process;

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    let code = common::main(
        machine::trials(),
        &[("guest", guest::run), ("client", guest::be_a_client), ("process", process::run)],
    );
    machine::stop();
    code
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    common::main(vec![common::test_if(Some("needs Linux"), "network", || ())], &[])
}
