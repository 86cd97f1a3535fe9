//! The crate uses few descriptors, however many paths there are.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::adapter;

pub(crate) fn ten_thousand_paths(args: &[String]) {
    let dir = Path::new(&args[0]);
    let limit = libc::rlimit { rlim_cur: 256, rlim_max: 256 };
    // SAFETY: the pointer is to an rlimit of this function.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    let open = || fs::read_dir("/dev/fd").unwrap().count();
    let adapter = adapter(dir);
    let before = open();
    for n in 0..10_000 {
        adapter.write_atomic(dir.join(n.to_string()), n.to_string()).unwrap();
    }
    assert_eq!(open(), before + 16, "those that were used last are kept open");
    // The limit is in force.
    let mut files = Vec::new();
    while let Ok(file) = fs::File::open("/dev/null") {
        assert!(file.as_raw_fd() < 256);
        files.push(file);
    }
    assert_eq!(files.len() + before + 16 - 1, 256, "one of those that were counted read the directory");
    drop(files);
    assert_eq!(adapter.read_with_lock(dir.join("9999")).unwrap().unwrap(), b"9999");
}
