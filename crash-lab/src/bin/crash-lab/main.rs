//! The program. It judges a command that replaces a file, or anything else that has one value at a time.

#[cfg(target_os = "linux")]
mod args;
#[cfg(target_os = "linux")]
mod commands;
#[cfg(target_os = "linux")]
mod judge;
mod judged;
#[cfg(target_os = "linux")]
mod keep;
#[cfg(target_os = "linux")]
mod record;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod workload;

use std::process::ExitCode;

/// The status if a state is bad.
#[cfg(target_os = "linux")]
const BAD: u8 = 1;
/// The status if the command could not be judged.
const COULD_NOT_RUN: u8 = 2;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    use clap::Parser;
    let args = std::sync::Arc::new(args::Args::parse());
    let report = args.file_systems().and_then(|file_systems| {
        keep::prepare(args.keep.as_deref())?;
        judge::all(&args, file_systems)
    });
    let good = match report.and_then(|report| report.publish(&args).map(|()| report.is_good())) {
        Ok(good) => good,
        Err(error) => {
            eprintln!("crash-lab: {error}");
            return COULD_NOT_RUN.into();
        }
    };
    if good { ExitCode::SUCCESS } else { BAD.into() }
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("crash-lab: needs Linux");
    COULD_NOT_RUN.into()
}
