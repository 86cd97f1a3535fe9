//! Crash consistency, on real file systems: the adapter works on a disk that records what is written to it, and then each
//! disk that a power cut could have left is mounted, looked at, and checked.

#[path = "../common/mod.rs"]
mod common;

#[cfg(target_os = "linux")]
mod cases;
#[cfg(target_os = "linux")]
mod disk;
#[cfg(target_os = "linux")]
mod judge;
#[cfg(target_os = "linux")]
mod lab;
#[cfg(target_os = "linux")]
mod random;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod states;
#[cfg(target_os = "linux")]
mod workloads;

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    let conclusion = libtest_mimic::run(&libtest_mimic::Arguments::from_args(), cases::all());
    report::publish();
    if cases::command().is_some() && conclusion.has_failed() { ExitCode::FAILURE } else { conclusion.exit_code() }
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    common::main(vec![common::test_if(Some("needs Linux"), "crash_states", || ())], &[])
}
