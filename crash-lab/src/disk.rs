//! The recording disk: a FUSE file system that is one file, in sparse memory. The log has the writes, the flushes and
//! the marks of a test in one order.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, INodeNo, LockOwner, OpenFlags, ReplyAttr,
    ReplyData, ReplyEmpty, ReplyOpen, ReplyWrite, Request, Session, WriteFlags,
};
use nix::mount::{MntFlags, umount2};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::device::{Answer, Device, Request as Asked, Requests};

const PAGE: usize = 4096;
type Page = [u8; PAGE];
const ZEROS: Page = [0; PAGE];

/// So many pages are shared together. An image has thousands of pages, and each crash state has an image.
const TOGETHER: usize = 64;
/// A missing page is zero, and a page of zeros is left out.
type Pages = [Option<Arc<Page>>; TOGETHER];

/// The contents of a disk. Copies share their pages.
#[derive(Clone, Default)]
pub struct Image {
    pages: HashMap<u64, Arc<Pages>>,
    hash: u64,
}

impl Image {
    /// Equal for two images with the same contents.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn write(&mut self, mut offset: u64, mut data: &[u8]) {
        while !data.is_empty() {
            let (number, start) = (offset / PAGE as u64, (offset % PAGE as u64) as usize);
            let (now, later) = data.split_at(data.len().min(PAGE - start));
            let (chunk, index) = place(number);
            let chunk = self.pages.entry(chunk).or_insert_with(|| Arc::new([const { None }; TOGETHER]));
            let old = &mut Arc::make_mut(chunk)[index];
            self.hash ^= hash(number, old.as_ref());
            let mut page = old.take().unwrap_or_else(|| Arc::new(ZEROS));
            Arc::make_mut(&mut page)[start..start + now.len()].copy_from_slice(now);
            if *page != ZEROS {
                self.hash ^= hash(number, Some(&page));
                *old = Some(page);
            }
            offset += now.len() as u64;
            data = later;
        }
    }

    /// The pages that are not zero, with their offsets.
    pub fn pages(&self) -> Vec<(u64, &[u8])> {
        let mut found = Vec::new();
        for (chunk, pages) in &self.pages {
            for (number, page) in (chunk * TOGETHER as u64..).zip(pages.iter()) {
                found.extend(page.as_ref().map(|page| (number * PAGE as u64, &page[..])));
            }
        }
        found
    }

    fn read(&self, offset: u64, size: usize) -> Vec<u8> {
        let mut data = Vec::with_capacity(size);
        while data.len() < size {
            let at = offset + data.len() as u64;
            let (number, start) = (at / PAGE as u64, (at % PAGE as u64) as usize);
            let end = PAGE.min(start + size - data.len());
            let (chunk, index) = place(number);
            match self.pages.get(&chunk).and_then(|pages| pages[index].as_ref()) {
                Some(page) => data.extend_from_slice(&page[start..end]),
                None => data.resize(data.len() + end - start, 0),
            }
        }
        data
    }

    /// Writes a disk of `size` bytes to a new file, with holes where it is zero.
    pub fn save(&self, path: &Path, size: u64) -> io::Result<()> {
        let file = File::create_new(path)?;
        file.set_len(size)?;
        for (offset, page) in self.pages() {
            file.write_all_at(page, offset)?;
        }
        file.sync_all()
    }
}

/// The place of a page in an image.
fn place(number: u64) -> (u64, usize) {
    (number / TOGETHER as u64, (number % TOGETHER as u64) as usize)
}

fn hash(number: u64, page: Option<&Arc<Page>>) -> u64 {
    page.map_or(0, |page| xxh3_64_with_seed(&page[..], number))
}

/// An entry of the log.
pub enum Event {
    Write {
        offset: u64,
        data: Vec<u8>,
    },
    Flush,
    /// A write that failed with EIO. It is not on the disk, but a part of it may be there after a power cut.
    FailedWrite {
        offset: u64,
        data: Vec<u8>,
    },
    /// A flush that failed with EIO.
    FailedFlush,
    /// A flush that was reported as done, but was not.
    DroppedFlush,
    /// An operation of the workload begins.
    Begin(usize),
    /// The operation has returned with success.
    Acknowledged(usize),
    /// The operation has returned with an error.
    Failed(usize),
}

#[derive(Default)]
struct Contents {
    image: Image,
    log: Option<Vec<Event>>,
    requests: Requests,
}

/// Shared by the test and the thread that serves the disk.
#[derive(Clone)]
struct Shared(Arc<Mutex<Contents>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap()
    }

    fn log(&self, event: Event) {
        if let Some(log) = &mut self.lock().log {
            log.push(event);
        }
    }
}

pub struct Disk {
    path: PathBuf,
    shared: Shared,
    server: Option<JoinHandle<()>>,
}

impl Disk {
    /// Mounts a new disk of `size` bytes over the file at `path`. It makes that file.
    pub fn serve(path: &Path, size: u64) -> io::Result<Self> {
        File::create_new(path)?;
        let shared = Shared(Arc::new(Mutex::new(Contents::default())));
        let (ready, mounted) = mpsc::channel();
        let (place, file) = (path.to_owned(), DiskFile { size, shared: shared.clone() });
        let server = thread::spawn(move || {
            // When the process is killed, its other threads may hang in the kernel until the disk answers, and their
            // descriptors stay open. Closing the descriptor of the FUSE connection ends that wait, so these threads
            // must not have a copy of it.
            let session = own_descriptors().and_then(|()| Session::new(file, place, &Config::default()));
            match session {
                Ok(session) => {
                    ready.send(Ok(())).unwrap();
                    // This returns an error when the disk is unmounted.
                    let _ = session.run();
                }
                Err(error) => ready.send(Err(error)).unwrap(),
            }
        });
        mounted.recv().unwrap()?;
        Ok(Disk { path: path.to_owned(), shared, server: Some(server) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn image(&self) -> Image {
        self.shared.lock().image.clone()
    }

    /// Shows `image` from now on. A cache of the disk's contents has to be dropped.
    pub fn show(&self, image: Image) {
        self.shared.lock().image = image;
    }

    /// From now on the disk behaves like this device, and counts its requests from 0.
    pub fn become_device(&self, device: Device) {
        self.shared.lock().requests = Requests::of(device);
    }

    /// How many requests have failed on this device.
    pub fn failed(&self) -> usize {
        self.shared.lock().requests.failed
    }

    /// Starts the log. Returns the present contents of the disk.
    pub fn record(&self) -> Image {
        let mut contents = self.shared.lock();
        contents.log = Some(Vec::new());
        contents.image.clone()
    }

    pub fn mark(&self, event: Event) {
        self.shared.log(event);
    }

    /// Another handle for marks in the log.
    pub fn marker(&self) -> Marker {
        Marker(self.shared.clone())
    }

    /// Ends the recording.
    pub fn log(&self) -> Vec<Event> {
        self.shared.lock().log.take().expect("a recording")
    }
}

/// From [`Disk::marker`].
pub struct Marker(Shared);

impl Marker {
    pub fn mark(&self, event: Event) {
        self.0.log(event);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // By force, so that the server ends even if somebody still uses the disk.
        let _ = umount2(&self.path, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
        let _ = self.server.take().map(JoinHandle::join);
    }
}

/// Gives this thread its own table of descriptors, without those of the process.
pub fn own_descriptors() -> io::Result<()> {
    let (all, flags) = (libc::c_uint::MAX, libc::CLOSE_RANGE_UNSHARE);
    // SAFETY: this closes copies in a table that only this thread uses, and this thread owns none of them. (By its
    // number, because musl has no name for the call.)
    match unsafe { libc::syscall(libc::SYS_close_range, 3, all, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The root of the FUSE file system. It is a file, because it is mounted on a file.
struct DiskFile {
    size: u64,
    shared: Shared,
}

impl Filesystem for DiskFile {
    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let attributes = FileAttr {
            ino,
            size: self.size,
            blocks: self.size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: FileType::RegularFile,
            perm: 0o600,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: PAGE as u32,
            flags: 0,
        };
        reply.attr(&Duration::from_secs(3600), &attributes);
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let end = self.size.min(offset + u64::from(size));
        let data = self.shared.lock().image.read(offset, end.saturating_sub(offset) as usize);
        reply.data(&data);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut contents = self.shared.lock();
        let is_done = !matches!(contents.requests.answer(Asked::Write), Answer::Failed);
        if is_done {
            contents.image.write(offset, data);
        }
        if let Some(log) = &mut contents.log {
            let data = data.to_owned();
            log.push(if is_done { Event::Write { offset, data } } else { Event::FailedWrite { offset, data } });
        }
        drop(contents);
        if is_done { reply.written(data.len() as u32) } else { reply.error(Errno::EIO) }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let answer = self.shared.lock().requests.answer(Asked::Flush);
        match answer {
            Answer::Done => {
                self.shared.log(Event::Flush);
                reply.ok();
            }
            Answer::Dropped => {
                self.shared.log(Event::DroppedFlush);
                reply.ok();
            }
            Answer::Failed => {
                self.shared.log(Event::FailedFlush);
                reply.error(Errno::EIO);
            }
        }
    }

    /// Called at every close of a descriptor. It is no flush of the device.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        reply.error(Errno::EOPNOTSUPP);
    }
}
