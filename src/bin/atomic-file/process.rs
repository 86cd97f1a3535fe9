//! What the system tells about other processes.

use std::fs;

use nix::unistd::{Uid, User};

/// `process 4711 (vim)`, or `process 4711 (atomic-file, running vim)`
pub fn described(pid: u32) -> String {
    match (program(pid), running(pid)) {
        (Some(program), Some(command)) => format!("process {pid} ({program}, running {command})"),
        (Some(program), None) => format!("process {pid} ({program})"),
        (None, _) => format!("process {pid}"),
    }
}

/// The program that a process of this command runs under a lock. It is the name that people look for, the editor for
/// example.
pub fn running(pid: u32) -> Option<String> {
    let tool = program(pid).filter(|program| program == env!("CARGO_BIN_NAME"))?;
    // The children of the process's first thread, which starts them (proc_tid_children(5)).
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    let command = program(children.split_whitespace().next()?.parse().ok()?)?;
    // Not a child that has not executed CMD yet.
    (command != tool).then_some(command)
}

/// The name of a process's program, as ps(1) shows it: up to 15 bytes (proc_pid_comm(5)). `None`: the process has
/// ended, or there is no /proc.
pub fn program(pid: u32) -> Option<String> {
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(name.strip_suffix(b"\n").unwrap_or(&name)).into_owned())
}

/// The effective user of a process: the login name, or the number if there is none. `None`: as for the program, and if
/// /proc hides the processes of other users (hidepid in proc(5)).
pub fn user(pid: u32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    // The real, effective, saved and file system uid (proc_pid_status(5)).
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)?.parse().ok()?;
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    Some(user.map_or(uid.to_string(), |user| user.name))
}
