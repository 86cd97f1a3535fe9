//! Another program, stopped before each of its system calls that changes a file system.
//!
//! The kernel reports the calls (seccomp_unotify(2)). The program waits in its call until the tester lets it go on, and
//! the call is made then. So the tester acts between two calls, at the same place in every run.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, ExitStatus};
use std::sync::mpsc;
use std::thread;

use libc::{c_int, c_long, sock_filter, sock_fprog};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How a call shows the file system that it changes.
#[derive(Clone, Copy)]
enum Changes {
    /// The file system of the open file in this argument.
    Open(usize),
    /// The same, if this argument has flags of an open that can change it.
    IfFlags(usize),
    /// The call has paths, or changes all file systems. Programs seldom use it on another file system.
    Any,
}

use Changes::{Any, IfFlags, Open};

const CALLS: &[(c_long, Changes)] = &[
    (libc::SYS_write, Open(0)),
    (libc::SYS_writev, Open(0)),
    (libc::SYS_pwrite64, Open(0)),
    (libc::SYS_pwritev, Open(0)),
    (libc::SYS_pwritev2, Open(0)),
    (libc::SYS_ftruncate, Open(0)),
    (libc::SYS_fallocate, Open(0)),
    (libc::SYS_fsync, Open(0)),
    (libc::SYS_fdatasync, Open(0)),
    (libc::SYS_sync_file_range, Open(0)),
    (libc::SYS_syncfs, Open(0)),
    (libc::SYS_fchmod, Open(0)),
    (libc::SYS_fchown, Open(0)),
    (libc::SYS_fsetxattr, Open(0)),
    (libc::SYS_fremovexattr, Open(0)),
    (libc::SYS_ioctl, Open(0)),
    (libc::SYS_sendfile, Open(0)),
    (libc::SYS_copy_file_range, Open(2)),
    (libc::SYS_splice, Open(2)),
    (libc::SYS_openat, IfFlags(2)),
    (libc::SYS_openat2, Any),
    (libc::SYS_truncate, Any),
    (libc::SYS_renameat2, Any),
    (libc::SYS_linkat, Any),
    (libc::SYS_symlinkat, Any),
    (libc::SYS_unlinkat, Any),
    (libc::SYS_mkdirat, Any),
    (libc::SYS_mknodat, Any),
    (libc::SYS_fchmodat, Any),
    (libc::SYS_fchownat, Any),
    (libc::SYS_setxattr, Any),
    (libc::SYS_msync, Any),
    (libc::SYS_sync, Any),
    (libc::SYS_renameat, Any),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, Any),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, IfFlags(1)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_creat, Any),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_link, Any),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_symlink, Any),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, Any),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rmdir, Any),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, Any),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mknod, Any),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, Any),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chown, Any),
];

/// `AUDIT_ARCH_*` of linux/audit.h.
const ARCHITECTURE: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };

/// Runs `command` to its end. Calls `before` before each system call of the command and of its children that changes
/// the file system with this device number. It does not see changes of mapped memory, calls through io_uring, and
/// 32-bit programs. The standard streams of `command` must not be pipes to this thread.
pub fn run(mut command: Command, device: u64, mut before: impl FnMut()) -> io::Result<ExitStatus> {
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        let runner = scope.spawn(move || {
            // This thread has the filter from now on, and the command inherits it. Other threads do not have it.
            let listener = filter_this_thread();
            let runs = listener.is_ok();
            let _ = tell.send(listener);
            if runs { command.status().map(Some) } else { Ok(None) }
        });
        let listener = told.recv().map_err(io::Error::other)??;
        while !runner.is_finished() {
            // The listener hangs up when all processes with the filter have ended. A process in the background keeps
            // it.
            let mut polled = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled, PollTimeout::from(50u8)) {
                Ok(0) | Err(nix::Error::EINTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            let events = polled[0].revents().unwrap_or(PollFlags::empty());
            if events.contains(PollFlags::POLLIN) {
                answer(&listener, device, &mut before)?;
            } else if events.contains(PollFlags::POLLHUP) {
                break;
            }
        }
        let status = runner.join().map_err(|_| io::Error::other("the thread that runs the command panicked"))??;
        status.ok_or_else(|| io::Error::other("no filter"))
    })
}

/// If one call changes the file system, runs `before`. Then lets the call go on.
fn answer(listener: &OwnedFd, device: u64, before: &mut impl FnMut()) -> io::Result<()> {
    // SAFETY: the struct has numbers only, for which zero is a valid value. The kernel requires zeros.
    let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes a `seccomp_notif` to it, and it is one.
    if unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &mut call) } != 0 {
        return gone(io::Error::last_os_error());
    }
    if changes(&call, device) {
        before();
    }
    let answer = libc::seccomp_notif_resp {
        id: call.id,
        val: 0,
        error: 0,
        flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
    };
    // SAFETY: the kernel reads a `seccomp_notif_resp` from it, and it is one.
    if unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &answer) } != 0 {
        return gone(io::Error::last_os_error());
    }
    Ok(())
}

/// It is no error if the caller was killed meanwhile.
fn gone(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::EINTR) => Ok(()),
        _ => Err(error),
    }
}

fn changes(call: &libc::seccomp_notif, device: u64) -> bool {
    let how = CALLS.iter().find(|(number, _)| *number == c_long::from(call.data.nr)).map(|(_, how)| *how);
    match how {
        // The upper half of the register is undefined.
        Some(Open(argument)) => fs::metadata(format!("/proc/{}/fd/{}", call.pid, call.data.args[argument] as c_int))
            .is_ok_and(|file| file.dev() == device),
        Some(IfFlags(argument)) => {
            call.data.args[argument] as c_int & (libc::O_CREAT | libc::O_TRUNC | libc::O_TMPFILE & !libc::O_DIRECTORY)
                != 0
        }
        Some(Any) => true,
        None => false,
    }
}

/// Installs the filter that reports the calls.
fn filter_this_thread() -> io::Result<OwnedFd> {
    let statement = |code: u32, k: u32| sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let jump = |k: u32, jt: usize, jf: usize| sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: jt as u8,
        jf: jf as u8,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    // The offsets in `struct seccomp_data` of the call's number and of the architecture.
    let mut program = vec![statement(load, 4), jump(ARCHITECTURE, 0, CALLS.len() + 1), statement(load, 0)];
    for (place, (number, _)) in CALLS.iter().enumerate() {
        program.push(jump(*number as u32, CALLS.len() - place, 0));
    }
    program.push(statement(libc::BPF_RET, libc::SECCOMP_RET_ALLOW));
    program.push(statement(libc::BPF_RET, libc::SECCOMP_RET_USER_NOTIF));
    let program = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // The second flag: the call goes on waiting after a signal that does not kill (Linux 5.19).
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    // SAFETY: the kernel copies the program during the call.
    let listener = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &program) };
    if listener < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(listener as c_int) })
}
