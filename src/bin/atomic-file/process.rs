//! What the system tells about other processes.

/// `process 4711 (vim)`
pub fn described(pid: u32) -> String {
    match program(pid) {
        Some(program) => format!("process {pid} ({program})"),
        None => format!("process {pid}"),
    }
}

/// The name of the program that a process runs, as ps(1) shows it: up to 15 bytes (proc_pid_comm(5)). None: the process is gone,
/// or there is no /proc.
pub fn program(pid: u32) -> Option<String> {
    let name = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(name.strip_suffix(b"\n").unwrap_or(&name)).into_owned())
}
