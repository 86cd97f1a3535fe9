//! Reading the current version.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Error, Result, Step};
use crate::lock::is_open_lock_file;
use crate::path::Place;
use crate::sys::{self, Errno, Fd};
use crate::version::{check_regular, stat_regular};

/// Reads the whole file. `None`: there is no such file.
pub(crate) fn read(place: &Place) -> Result<Option<Vec<u8>>> {
    let mut contents = Vec::new();
    Ok(read_into(place, &mut contents)?.map(|_| contents))
}

/// Reads the whole file into `buf`, and replaces what `buf` contains. `None`: there is no such file.
pub(crate) fn read_into(place: &Place, buf: &mut Vec<u8>) -> Result<Option<usize>> {
    buf.clear();
    let Some((file, size)) = open_current(place)? else { return Ok(None) };
    read_open(&file, size, buf, place.path()).map(Some)
}

/// Reads the file at `path` without resolving the path. `None`: the path has to be resolved, because the file cannot be
/// read this way, or because `may_be` refuses its device.
///
/// The open follows no link of the path, so that nobody can put a link to a device there after the look.
pub(crate) fn read_at_once(path: &Path, may_be: impl FnOnce(u64) -> bool) -> Option<Result<Vec<u8>>> {
    // macOS has no such call, so the look would be wasted.
    if !cfg!(linux_backend) {
        return None;
    }
    let name = CString::new(path.as_os_str().as_bytes()).ok()?;
    let meta = sys::stat(sys::cwd(), &name).ok()?;
    if meta.special.is_some() || is_open_lock_file(meta.identity()) || !may_be(meta.dev) {
        return None;
    }
    let file = sys::open_read_without_links(&name)?;
    let mut contents = Vec::new();
    Some(read_open(&file, meta.size, &mut contents, path).map(|_| contents))
}

/// Reads an open file to its end. `size` is only a hint.
fn read_open(file: &Fd, size: u64, buf: &mut Vec<u8>, path: &Path) -> Result<usize> {
    let failed = |error: std::io::Error| Error::io(path, Step::Read, error);
    // One byte more than the size, so that the read that reaches the end shows it, and the buffer need not grow.
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    buf.try_reserve(size.saturating_add(1)).map_err(|e| failed(e.into()))?;
    loop {
        if buf.len() == buf.capacity() {
            buf.try_reserve(32).map_err(|e| failed(e.into()))?;
        }
        let read = sys::read(file, buf).map_err(|e| failed(e.into()))?;
        // A read that stops exactly at the size, with room left, has met the end. A size of 0 means nothing: files of
        // /proc have it.
        let at_the_end = buf.len() == size && size > 0 && buf.len() < buf.capacity();
        if read == 0 || at_the_end {
            return Ok(buf.len());
        }
    }
}

/// Opens the file for a caller. `None`: there is no such file.
pub(crate) fn open(place: &Place) -> Result<Option<File>> {
    let Some((file, _)) = open_current(place)? else { return Ok(None) };
    // The caller expects a regular file, and another file may have been put there after the look.
    let meta = sys::stat_open(&file).map_err(|error| Error::io(place.path(), Step::Stat, error))?;
    check_regular(meta, place.path())?;
    Ok(Some(file.into()))
}

/// Opens the file, and returns its size as well.
pub(crate) fn open_current(place: &Place) -> Result<Option<(Fd, u64)>> {
    let path: &Path = place.path();
    let Some(dir) = place.dir()? else { return Ok(None) };
    // This look comes before the open, because opening a device can have an effect. A file that takes its place in
    // between was not made by this crate. The open neither follows a link nor waits for a FIFO.
    let Some(meta) = stat_regular(dir, place.name(), path)? else { return Ok(None) };
    let opened = match sys::open_read(dir.as_fd(), place.name()) {
        // EAGAIN for a regular file: another process has a lease on it.
        Err(Errno::AGAIN) => sys::open_read_waiting(dir.as_fd(), place.name()),
        opened => opened,
    };
    match opened {
        Ok(file) => Ok(Some((file, meta.size))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(Error::io(path, Step::Open, error)),
    }
}
