//! Reading the version that is there now.

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

/// Reads the whole file into `buf`, in place of what is in it. `None`: there is no such file.
pub(crate) fn read_into(place: &Place, buf: &mut Vec<u8>) -> Result<Option<usize>> {
    buf.clear();
    let Some((file, size)) = open_current(place)? else { return Ok(None) };
    read_open(&file, size, buf, place.path()).map(Some)
}

/// Reads what is at `path` without looking up where that is. `None`: it must be looked up, to read it or to tell why
/// that cannot be done, or because it is on a device that `may_be` does not take.
///
/// No link of the path is followed when it is opened, so that nobody can put one there after the look at it which leads
/// to a device.
pub(crate) fn read_at_once(path: &Path, may_be: impl FnOnce(u64) -> bool) -> Option<Result<Vec<u8>>> {
    // Elsewhere there is no such call, so that a look would be for nothing.
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

/// Reads an open file to its end, of a `size` that is a hint only.
fn read_open(file: &Fd, size: u64, buf: &mut Vec<u8>, path: &Path) -> Result<usize> {
    let failed = |error: std::io::Error| Error::io(path, Step::Read, error);
    // One byte more than the size lets the read that comes to the end show it, so that
    // the buffer need not grow to find out.
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    buf.try_reserve(size.saturating_add(1)).map_err(|e| failed(e.into()))?;
    loop {
        if buf.len() == buf.capacity() {
            buf.try_reserve(32).map_err(|e| failed(e.into()))?;
        }
        let read = sys::read(file, buf).map_err(|e| failed(e.into()))?;
        // A read that stops at the very size, with room left, has met the end. A size of 0 says nothing: files of
        // /proc have it.
        let at_the_end = buf.len() == size && size > 0 && buf.len() < buf.capacity();
        if read == 0 || at_the_end {
            return Ok(buf.len());
        }
    }
}

/// Opens it for a caller. `None`: there is no such file.
pub(crate) fn open(place: &Place) -> Result<Option<File>> {
    let Some((file, _)) = open_current(place)? else { return Ok(None) };
    // Whoever gets it would not expect anything else.
    let meta = sys::stat_open(&file).map_err(|error| Error::io(place.path(), Step::Stat, error))?;
    check_regular(meta, place.path())?;
    Ok(Some(file.into()))
}

/// Opens it; with its size.
pub(crate) fn open_current(place: &Place) -> Result<Option<(Fd, u64)>> {
    let path: &Path = place.path();
    let Some(dir) = place.dir()? else { return Ok(None) };
    // Before it is opened, because to open a device can do something. What comes between the two is not one of ours,
    // and the open neither follows a link nor waits for a FIFO.
    let Some(meta) = stat_regular(dir, place.name(), path)? else { return Ok(None) };
    let opened = match sys::open_read(dir.as_fd(), place.name()) {
        // A regular file is not ready only while somebody has a lease on it.
        Err(Errno::AGAIN) => sys::open_read_waiting(dir.as_fd(), place.name()),
        opened => opened,
    };
    match opened {
        Ok(file) => Ok(Some((file, meta.size))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(Error::io(path, Step::Open, error)),
    }
}
