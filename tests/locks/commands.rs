//! Commands, which inherit neither a lock nor the descriptor of a lock file.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::Scratch;
use crate::talk::Ordered;

pub(crate) fn a_command_inherits_no_lock_descriptor() {
    let scratch = Scratch::new();
    let lock_dir = fs::canonicalize(scratch.dir.path()).unwrap().join("locks");
    let (a, b) = (scratch.file("a"), scratch.file("b"));
    let mut other = scratch.worker("talk", &[]);
    let (_exclusive, _shared) = (a.lock().unwrap(), b.lock_shared().unwrap());
    let mut by_fork = Command::new("ls");
    // SAFETY: the closure does nothing. Because of it, std uses fork and exec instead of posix_spawn.
    unsafe { by_fork.pre_exec(|| Ok(())) };
    for mut command in [Command::new("ls"), by_fork] {
        let output = command.args(["-l", "/proc/self/fd"]).output().unwrap();
        let descriptors = String::from_utf8(output.stdout).unwrap();
        assert!(descriptors.contains(" 0 -> "), "{descriptors}");
        assert!(!descriptors.contains(lock_dir.to_str().unwrap()), "{descriptors}");
        assert_eq!(other.order("try_lock a"), "would block");
        assert_eq!(other.order("try_lock b"), "would block");
    }
}

pub(crate) fn a_command_keeps_no_lock() {
    let scratch = Scratch::new();
    let mut other = scratch.worker("talk", &[]);
    let file = scratch.file("file");
    let guard = file.lock().unwrap();
    let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(other.order("try_lock file"), "would block");
    drop(guard);
    assert_eq!(other.order("try_lock file"), "ok");
    assert_eq!(child.try_wait().unwrap(), None, "the child was to outlive the guard");
    drop(child.stdin.take());
    child.wait().unwrap();
}
