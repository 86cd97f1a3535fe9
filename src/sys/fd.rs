//! An open file.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::way;

/// An open file. Fault injection can watch its close, too.
#[derive(Debug)]
pub(crate) struct Fd {
    /// Declared before `fd`, so that it is dropped first.
    pub(super) closing: way::Closing,
    pub(super) fd: OwnedFd,
}

impl From<OwnedFd> for Fd {
    fn from(fd: OwnedFd) -> Self {
        Fd { closing: way::Closing, fd }
    }
}

impl From<Fd> for File {
    fn from(Fd { closing, fd }: Fd) -> Self {
        closing.never();
        fd.into()
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
