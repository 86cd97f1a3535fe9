//! The contents of a lock file: the path that it guards, for people. The process that makes the file writes it once.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use atomic_file_adapter::{AtomicFileAdapter, LockFile};
use common::vectors::{self, some_bytes, vectors};
use common::{Scratch, temporary_name};

/// A lock directory that is not shared, whatever the umask.
fn private(scratch: &Scratch) -> &Path {
    let locks = scratch.adapter.lock_dir();
    fs::create_dir(locks).unwrap();
    set_mode(locks, 0o755);
    locks
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The contents of the lock file of `path`.
fn contents(adapter: &AtomicFileAdapter, path: &Path) -> String {
    String::from_utf8(fs::read(adapter.lock_path(path).unwrap()).unwrap()).unwrap()
}

fn line(path: &Path) -> String {
    format!("{}\n", path.display())
}

/// The only lock file in the list.
fn listed(adapter: &AtomicFileAdapter) -> LockFile {
    let mut locks = adapter.locks().unwrap();
    assert_eq!(locks.len(), 1, "{locks:?}");
    locks.remove(0)
}

#[test]
fn a_new_lock_file_contains_the_path_that_it_guards() {
    let scratch = Scratch::new();
    private(&scratch);
    let path = scratch.path("settings.toml");
    symlink(&path, scratch.path("link")).unwrap();
    fs::write(&path, "").unwrap();
    let spellings = [scratch.path("link"), scratch.path("../files/./settings.toml"), path.clone()];
    for spelling in spellings {
        drop(scratch.adapter.read_with_lock(spelling).unwrap());
        assert_eq!(contents(&scratch.adapter, &path), line(&path));
        assert_eq!(listed(&scratch.adapter).guards.as_deref(), Some(&*path));
        assert_eq!(scratch.adapter.prune().unwrap().len(), 1);
    }
}

#[test]
fn a_lock_file_that_is_there_is_never_changed() {
    let scratch = Scratch::new();
    private(&scratch);
    let path = scratch.path("file");
    let lock = scratch.adapter.lock_path(&path).unwrap();
    // Contents of a program that writes nothing, of a process that died while it wrote, and of one that wrote something
    // else.
    for there in ["", "/srv/fil", "x\n", "/etc/passwd\n"] {
        fs::write(&lock, there).unwrap();
        scratch.adapter.write_atomic(&path, "new").unwrap();
        assert_eq!(contents(&scratch.adapter, &path), there);
        // The lock file has another name than this path would have, so the path is not reported.
        assert_eq!(listed(&scratch.adapter).guards, None);
    }
    fs::write(&lock, line(&path) + "# and a remark").unwrap();
    assert_eq!(listed(&scratch.adapter).guards.as_deref(), Some(&*path));
}

#[test]
fn below_a_lock_root_the_contents_are_the_path_below_it() {
    let scratch = Scratch::new();
    let locks = private(&scratch);
    let adapter = AtomicFileAdapter::builder().lock_dir(locks).lock_root(&scratch.files).build().unwrap();
    adapter.write_atomic(scratch.path("sub/file"), "new").unwrap();
    assert_eq!(contents(&adapter, &scratch.path("sub/file")), "sub/file\n");
    assert_eq!(listed(&adapter).guards.as_deref(), Some(Path::new("sub/file")));
}

#[test]
fn in_a_directory_that_is_shared_lock_files_are_empty() {
    let scratch = Scratch::new();
    let locks = private(&scratch);
    let path = scratch.path("file");
    let exact = AtomicFileAdapter::builder().lock_dir(locks).lock_file_mode(0o640).build().unwrap();
    for (mode, adapter) in
        [(0o777, &scratch.adapter), (0o775, &scratch.adapter), (0o2755, &scratch.adapter), (0o755, &exact)]
    {
        set_mode(locks, mode);
        adapter.write_atomic(&path, "new").unwrap();
        assert_eq!(contents(adapter, &path), "", "{mode:o}");
        assert_eq!(listed(adapter).guards, None);
        assert_eq!(adapter.prune().unwrap().len(), 1);
    }
}

#[test]
fn a_path_that_is_not_one_line_is_left_out() {
    let scratch = Scratch::new();
    private(&scratch);
    let path = scratch.path("two\nlines");
    scratch.adapter.write_atomic(&path, "new").unwrap();
    assert_eq!(contents(&scratch.adapter, &path), "");
    assert_eq!(listed(&scratch.adapter).guards, None);
}

/// The lock of a file of which only the hash is known, because its temporary file's name was cut.
#[test]
fn only_the_path_that_the_lock_is_named_after_is_written() {
    let scratch = Scratch::new();
    let locks = private(&scratch);
    let hash = "5f9b6af9e82029cd";
    let left = temporary_name(&format!("{}~{hash}", "y".repeat(222)), "abcdefg");
    fs::write(scratch.path(&left), "").unwrap();
    assert_eq!(scratch.adapter.sweep(&scratch.files).unwrap(), [scratch.path(&left)]);
    assert_eq!(fs::read(locks.join(format!("{hash}.lock"))).unwrap(), b"");
}

#[test]
fn what_others_lock_is_listed_without_dropping_a_lock() {
    let scratch = Scratch::new();
    private(&scratch);
    let file = scratch.adapter.file(scratch.path("file")).unwrap();
    let guard = file.lock().unwrap();
    let seen = listed(&AtomicFileAdapter::with_lock_dir(scratch.adapter.lock_dir()).unwrap());
    assert_eq!(seen.guards.as_deref(), Some(file.path()));
    assert_eq!(seen.holder.unwrap().pid, Some(std::process::id()));
    // Another process asks with F_SETLK: the record lock still exists.
    let test = "import fcntl, sys\nf = open(sys.argv[1], 'r+')\ntry: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\n\
                except OSError: print('held')";
    if let Ok(python) = std::process::Command::new("python3").args(["-c", test]).arg(file.lock_path()).output() {
        assert_eq!(String::from_utf8_lossy(&python.stdout), "held\n");
    }
    drop(guard);
}

/// The vectors of the protocol: what is reported of a lock file, and its contents after the next holder.
#[test]
fn lock_files_are_those_of_the_vectors() {
    let scratch = Scratch::new();
    let locks = private(&scratch);
    let adapter = AtomicFileAdapter::builder().lock_dir(locks).lock_root(&scratch.files).build().unwrap();
    let path = scratch.path("settings.toml");
    let lock = adapter.lock_path(&path).unwrap();
    for vector in vectors("lock_files", "contents") {
        assert_eq!(lock, locks.join(vector["lock_file"].as_str().unwrap()), "{vector}");
        let contents = some_bytes(&vector["contents"]);
        fs::write(&lock, &contents).unwrap();
        let seen = listed(&adapter);
        assert_eq!(
            (seen.guards.as_deref(), seen.problem),
            (vector["guards"].as_str().map(Path::new), None),
            "{vector}"
        );
        assert_eq!(seen.intent, vector["mark"].as_str().map(|name| locks.join(name)), "{vector}");
        adapter.write_atomic(&path, "new").unwrap();
        let kept = usize::try_from(vector["kept"].as_u64().unwrap()).unwrap();
        assert_eq!(fs::read(&lock).unwrap(), contents[..kept], "{vector}");
        fs::remove_file(&lock).unwrap();
    }
    for vector in vectors("lock_files", "new") {
        let named_after = vectors::path(&vector["named_after"]);
        // Apple's file systems refuse names that are not UTF-8.
        if !cfg!(target_os = "linux") && named_after.to_str().is_none() {
            continue;
        }
        drop(adapter.read_with_lock(scratch.files.join(&named_after)).unwrap());
        let lock = locks.join(vector["lock_file"].as_str().unwrap());
        assert_eq!(fs::read(lock).unwrap(), some_bytes(&vector["new"]), "{vector}");
    }
}

#[cfg(feature = "fault-injection")]
#[test]
fn a_lock_file_without_its_path_is_as_good() {
    use atomic_file_adapter::fault::{Action, Syscall, inject};
    const ENOSPC: i32 = 28;
    for (action, left) in [(Action::Fail(ENOSPC), ""), (Action::Short(0), ""), (Action::Short(1), "/")] {
        let scratch = Scratch::new();
        private(&scratch);
        let path = scratch.path("file");
        let on_write = move |call: &atomic_file_adapter::fault::Call<'_>| match call.syscall {
            Syscall::Pwrite => action,
            _ => Action::Proceed,
        };
        inject(on_write, || scratch.adapter.write_atomic(&path, "new")).0.unwrap();
        assert_eq!(contents(&scratch.adapter, &path), left);
        assert_eq!(listed(&scratch.adapter).guards, None);
        assert_eq!(scratch.adapter.read_with_lock(&path).unwrap().unwrap(), b"new");
    }
}
