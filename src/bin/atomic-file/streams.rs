//! Standard input and output.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use crate::Failure;

/// Standard input without a buffer, so that whoever waits for it knows that there is nothing to read.
pub fn input() -> io::Result<File> {
    Ok(io::stdin().as_fd().try_clone_to_owned()?.into())
}

/// A plain descriptor, which lets the kernel copy from file to file.
pub fn output() -> Result<File, Failure> {
    let output = io::stdout().as_fd().try_clone_to_owned().map_err(cannot_write)?;
    Ok(output.into())
}

pub fn cannot_write(error: io::Error) -> Failure {
    Failure::Io("cannot write to standard output".into(), error)
}
