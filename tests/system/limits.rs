//! Limits, and leases.

use std::fs;
use std::io;
use std::path::Path;

use atomic_file_adapter::{AtomicFileAdapter, Step};

use crate::common::{Worker, names};
use crate::{Scratch, WRITING, assert_fails, utf8};

pub(crate) fn beyond_the_file_size_limit() {
    let scratch = Scratch::new();
    Worker::start("exceed_size_limit", &[scratch.locks(), utf8(&scratch.dir)]).finish();
}

pub(crate) fn exceed_size_limit(args: &[String]) {
    let [locks, dir] = args else { panic!("{args:?}") };
    const LIMIT: usize = 64 * 1024;
    // SAFETY: both calls get valid values and no handler.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        let limit = libc::rlimit { rlim_cur: LIMIT as libc::rlim_t, rlim_max: LIMIT as libc::rlim_t };
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
    }
    let adapter = AtomicFileAdapter::with_lock_dir(locks).unwrap();
    let path = Path::new(dir).join("file");
    let old = vec![b'o'; LIMIT];
    adapter.write_atomic(&path, &old).unwrap();
    for (verb, write) in WRITING {
        let kind = if verb == "writer" { io::ErrorKind::Other } else { io::ErrorKind::FileTooLarge };
        assert_fails(write(&adapter, &path, &vec![b'n'; LIMIT + 1]), kind, Step::Write, &path, verb);
        assert_eq!(names(Path::new(dir)), ["file"], "{verb}");
        assert_eq!(fs::read(&path).unwrap(), old, "{verb}");
    }
}

pub(crate) fn a_file_with_a_lease_can_be_read() {
    let scratch = Scratch::new();
    let path = scratch.dir.join("leased");
    scratch.adapter.write_atomic(&path, "contents").unwrap();
    let mut holder = Worker::start("lease", &[path.to_str().unwrap()]);
    holder.expect("leased");
    // The holder gives up its lease when the kernel asks for it.
    assert_eq!(scratch.adapter.read_with_lock(&path).unwrap().unwrap(), b"contents");
    holder.expect("asked for it");
    holder.finish();
}

#[cfg(target_os = "linux")]
pub(crate) fn lease(args: &[String]) {
    use std::os::fd::AsRawFd;

    use crate::common::tell;

    let mut told = nix::sys::signal::SigSet::empty();
    told.add(nix::sys::signal::Signal::SIGIO);
    told.thread_block().unwrap();
    let file = fs::File::open(&args[0]).unwrap();
    let set = |what: libc::c_int| {
        // SAFETY: the call gets an open descriptor and a number.
        while unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, what) } != 0 {
            // A process that another test is starting may have a copy of the writer's descriptor until its exec.
            assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EAGAIN));
            std::thread::yield_now();
        }
    };
    // A reader does not break a read lease.
    set(libc::F_WRLCK);
    tell("leased");
    told.wait().unwrap();
    set(libc::F_UNLCK);
    tell("asked for it");
}
