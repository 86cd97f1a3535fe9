//! Waiting until other threads and processes are where a test wants them.

use std::sync::mpsc::channel;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

#[cfg(all(target_os = "linux", feature = "fault-injection"))]
pub(crate) use self::tasks::has_lock;
pub(crate) use self::tasks::{PARKED, PAUSED, this_task, until_blocked, until_in};

/// Waits for a state that sends no event.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "in vain: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Spawns a thread, and waits until it sleeps in one of these system calls.
#[track_caller]
pub(crate) fn spawn_until_in<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    calls: &[libc::c_long],
    body: impl FnOnce() -> T + Send + 'scope,
) -> ScopedJoinHandle<'scope, T> {
    let (task, tasks) = channel();
    let thread = scope.spawn(move || {
        task.send(this_task()).unwrap();
        body()
    });
    until_in(&tasks.recv().unwrap(), calls);
    thread
}

/// What other threads and processes are doing.
#[cfg(target_os = "linux")]
mod tasks {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use atomic_file_adapter::AtomicFile;

    use super::until;

    /// Waits until a process sleeps in F_SETLKW for the lock of this file.
    #[track_caller]
    pub fn until_blocked(pid: u32, file: &AtomicFile) {
        let (pid, inode) = (pid.to_string(), format!(":{}", fs::metadata(file.lock_path()).unwrap().ino()));
        until("blocked in the kernel", || {
            fs::read_to_string("/proc/locks").unwrap().lines().any(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                fields[1] == "->" && fields[5] == pid && fields[6].ends_with(&inode)
            })
        });
    }

    /// Whether a process holds the lock of this file, according to the kernel.
    #[cfg(feature = "fault-injection")]
    pub fn has_lock(pid: u32, file: &AtomicFile) -> bool {
        let (pid, inode) = (pid.to_string(), format!(":{}", fs::metadata(file.lock_path()).unwrap().ino()));
        fs::read_to_string("/proc/locks").unwrap().lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields[1] == "POSIX" && fields[4] == pid && fields[5].ends_with(&inode)
        })
    }

    /// The calling thread, as /proc names it.
    pub fn this_task() -> String {
        format!("/proc/self/task/{}", nix::unistd::gettid())
    }

    pub const PAUSED: &[libc::c_long] = &[libc::SYS_clock_nanosleep, libc::SYS_nanosleep];
    pub const PARKED: &[libc::c_long] = &[libc::SYS_futex];

    /// Whether a task sleeps in one of these system calls.
    fn is_in(task: &str, calls: &[libc::c_long]) -> bool {
        let call = fs::read_to_string(format!("{task}/syscall")).unwrap();
        call.split(' ').next().and_then(|number| number.parse().ok()).is_some_and(|number| calls.contains(&number))
    }

    #[track_caller]
    pub fn until_in(task: &str, calls: &[libc::c_long]) {
        until("asleep", || is_in(task, calls));
    }
}

/// This system does not show what other threads and processes are doing. They get enough time.
#[cfg(not(target_os = "linux"))]
mod tasks {
    use std::thread::sleep;
    use std::time::Duration;

    use atomic_file_adapter::AtomicFile;

    const ENOUGH: Duration = Duration::from_millis(300);

    pub fn until_blocked(_: u32, _: &AtomicFile) {
        sleep(ENOUGH);
    }

    pub fn this_task() -> String {
        String::new()
    }

    pub const PAUSED: &[libc::c_long] = &[];
    pub const PARKED: &[libc::c_long] = &[];

    pub fn until_in(_: &str, _: &[libc::c_long]) {
        sleep(ENOUGH);
    }
}
