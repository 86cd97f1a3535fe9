//! System calls without the feature `fault-injection`: makes the call, and makes it again if a signal interrupted it.
//! `fault.rs` has the same functions.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::io::retry_on_intr;
use rustix::path::Arg;

use super::{Result, Syscall};

pub(super) fn infallible<T>(_: Syscall, make: impl FnOnce() -> T) -> T {
    make()
}

pub(super) fn on_nothing<T>(_: Syscall, make: impl FnMut() -> Result<T>) -> Result<T> {
    retry_on_intr(make)
}

pub(super) fn on_file<T>(_: Syscall, _: BorrowedFd<'_>, make: impl FnMut() -> Result<T>) -> Result<T> {
    retry_on_intr(make)
}

/// The argument of `make` is the number of bytes that it may move.
pub(super) fn on_bytes(
    _: Syscall,
    _: BorrowedFd<'_>,
    len: usize,
    mut make: impl FnMut(usize) -> Result<usize>,
) -> Result<usize> {
    retry_on_intr(|| make(len))
}

pub(super) fn on_name<T>(_: Syscall, _: BorrowedFd<'_>, _: impl Arg, make: impl FnMut() -> Result<T>) -> Result<T> {
    retry_on_intr(make)
}

pub(super) fn on_names(
    _: Syscall,
    _: BorrowedFd<'_>,
    _: &CStr,
    _: &CStr,
    make: impl FnMut() -> Result<()>,
) -> Result<()> {
    retry_on_intr(make)
}

/// Part of an [`Fd`](super::Fd): dropped before the descriptor is closed.
#[derive(Debug)]
pub(super) struct Closing;

impl Closing {
    /// The caller passes the descriptor to other code, which will close it.
    pub(super) fn never(self) {}
}
