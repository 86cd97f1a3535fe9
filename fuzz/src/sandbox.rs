//! A directory in memory that is removed when the fuzzer ends.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use atomic_file_adapter::fault::{Action, Call, Syscall, inject};

static SANDBOX: OnceLock<PathBuf> = OnceLock::new();

/// The directory, by a path without symbolic links. The first call makes it.
pub fn sandbox() -> &'static Path {
    SANDBOX.get_or_init(|| {
        let dir = tempfile::Builder::new()
            .prefix("atomic-file-fuzz.")
            .tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .expect("a scratch directory")
            .keep();
        // SAFETY: libFuzzer ends with exit(3), which runs no Rust destructor. `remove` does not panic and uses only the
        // path above.
        unsafe { libc::atexit(remove) };
        dir.canonicalize().expect("a real path")
    })
}

extern "C" fn remove() {
    if let Some(dir) = SANDBOX.get() {
        // The rest of the directory is of no use to anybody.
        let _ = fs::remove_dir_all(dir);
    }
}

/// Watches a call of the crate. Fails before a system call would change anything outside the sandbox. (It does not see
/// that an empty file is made outside, because an open that creates looks like any other.)
pub fn keep_inside<T>(body: impl FnOnce() -> T) -> T {
    let watch = |call: &Call<'_>| {
        assert_inside(call);
        Action::Proceed
    };
    inject(watch, body).0
}

pub(crate) fn assert_inside(call: &Call<'_>) {
    let changes = matches!(
        call.syscall,
        Syscall::Mkdirat
            | Syscall::Renameat
            | Syscall::Linkat
            | Syscall::Unlinkat
            | Syscall::Write
            | Syscall::Pwrite
            | Syscall::Ftruncate
            | Syscall::Fchmod
            | Syscall::Fchown
    );
    if !changes {
        return;
    }
    let absolute = call.path.filter(|path| path.is_absolute());
    let place = match (absolute, call.fd) {
        // The path of a lock file. Its parent is resolved, because the lock file need not exist.
        (Some(path), _) => real_parent(path),
        (None, Some(fd)) => {
            fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).expect("an open file has a path")
        }
        (None, None) => std::env::current_dir().expect("a current directory"),
    };
    assert!(place.starts_with(sandbox()), "{call} is outside: {place:?}");
    for name in [call.path, call.new_path].into_iter().flatten().filter(|path| !path.is_absolute()) {
        assert_eq!(name.components().count(), 1, "{call} goes on from its directory");
    }
}

fn real_parent(path: &Path) -> PathBuf {
    let mut above = path.parent();
    while let Some(dir) = above {
        match dir.canonicalize() {
            Ok(real) => return real,
            Err(_) => above = dir.parent(),
        }
    }
    PathBuf::new()
}
