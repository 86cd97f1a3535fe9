//! The users who may read and write a new version of a file: those whom the old one let in, and nobody else, from the
//! creation of the temporary file on.
//!
//! `table.rs` writes generated files (`cases.rs`) as several users. At every system call, other users (`users.rs`) try
//! to open the files that exist then. `oracle.rs` says who may get in. Each of the other files is about one subject:
//! ACLs, attributes, user namespaces.
//!
//! | variable | |
//! |---|---|
//! | `ACCESS` | how many cases of each writer on each file system (50, and with `THOROUGH=1` 250), or `full`: all |
//! | `ACCESS_SEED` | other random cases |
//!
//! It needs Linux and root.

#[path = "../common/mod.rs"]
mod common;

#[cfg(target_os = "linux")]
mod attributes;
#[cfg(target_os = "linux")]
mod cases;
#[cfg(target_os = "linux")]
mod namespaces;
#[cfg(target_os = "linux")]
mod oracle;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod stories;
#[cfg(target_os = "linux")]
mod table;
#[cfg(target_os = "linux")]
mod trials;
#[cfg(target_os = "linux")]
mod users;

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    common::say_what_is_left_out(
        "200 of 250 cases of each writer on each file system, and 7 of 10 of each call that is refused",
    );
    let code = common::main(trials::all(), trials::WORKERS);
    report::publish();
    code
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    common::main(vec![common::test_if(Some("needs Linux"), "who_could_open_what", || ())], &[])
}
