//! Locks that are named below a root. `tests/system/lock_roots.rs` has two mounts and several processes.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use atomic_file_adapter::{AtomicFileAdapter, Error, Result};
use common::names;

/// A directory with the root `data` in it.
struct Scratch {
    dir: PathBuf,
    _above: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().canonicalize().unwrap();
        fs::create_dir_all(dir.join("data/sub")).unwrap();
        Scratch { dir, _above: above }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn adapter(&self) -> AtomicFileAdapter {
        with_root(self.at("data")).unwrap()
    }
}

fn with_root(root: impl AsRef<Path>) -> Result<AtomicFileAdapter> {
    AtomicFileAdapter::builder().lock_root(root).build()
}

/// The name of the lock file of `path`.
fn name(adapter: &AtomicFileAdapter, path: impl AsRef<Path>) -> String {
    adapter.lock_path(path).unwrap().file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn without_another_the_lock_directory_is_below_the_root() {
    let scratch = Scratch::new();
    assert_eq!(scratch.adapter().lock_dir(), scratch.at("data/.jerry/local/locks"));
    let elsewhere = AtomicFileAdapter::builder().lock_root(scratch.at("data")).lock_dir(scratch.at("locks"));
    assert_eq!(elsewhere.build().unwrap().lock_dir(), scratch.at("locks"));
    scratch.adapter().write_atomic(scratch.at("data/file"), "new").unwrap();
    assert_eq!(names(&scratch.at("data")), [".jerry", "file", "sub"]);
    assert_eq!(scratch.adapter().prune().unwrap(), [scratch.adapter().lock_path(scratch.at("data/file")).unwrap()]);
}

#[test]
fn wherever_the_root_is_the_names_are_the_same() {
    let (here, there) = (Scratch::new(), Scratch::new());
    for below in ["file", "sub/file", "missing/deeper/file", "sub/../file", "sub//./file"] {
        let (here, there) = (here.at("data").join(below), there.at("data").join(below));
        let root = |path: &Path| path.ancestors().find(|above| above.ends_with("data")).unwrap().to_owned();
        let names = [&here, &there].map(|path| name(&with_root(root(path)).unwrap(), path));
        assert_eq!(names[0], names[1], "{below}");
        // Without the root, and with a root at another level, the names differ.
        let without = AtomicFileAdapter::with_lock_dir("/no/such/locks").unwrap();
        assert_ne!(names[0], name(&without, &here), "{below}");
        assert_ne!(names[0], name(&with_root(root(&here).parent().unwrap()).unwrap(), &here), "{below}");
    }
}

/// `a/b` below a root is another name than `/a/b`, even if the root is `/`.
#[test]
fn no_name_below_a_root_is_that_of_an_absolute_path() {
    let without = AtomicFileAdapter::with_lock_dir("/no/such/locks").unwrap();
    let with = AtomicFileAdapter::builder().lock_dir("/no/such/locks").lock_root("/").build().unwrap();
    for path in ["/a", "/no/such/file", "/x"] {
        assert_ne!(with.lock_path(path).unwrap(), without.lock_path(path).unwrap());
    }
    let deeper = AtomicFileAdapter::builder().lock_dir("/no/such/locks").lock_root("/no/such/root").build().unwrap();
    assert_eq!(deeper.lock_path("/no/such/root/x/y").unwrap(), with.lock_path("/x/y").unwrap());
}

#[test]
fn the_spelling_of_the_root_does_not_matter() {
    let scratch = Scratch::new();
    symlink(scratch.at("data"), scratch.at("link")).unwrap();
    symlink("link", scratch.at("link to link")).unwrap();
    let file = scratch.at("data/sub/file");
    let expected = scratch.adapter().lock_path(&file).unwrap();
    for root in ["data/", "data/.", "data//", "data/sub/..", "link", "link/", "link to link", "link/sub/../"] {
        let adapter = with_root(scratch.at(root)).unwrap();
        assert_eq!(adapter.lock_path(&file).unwrap(), expected, "{root}");
        assert_eq!(adapter.lock_path(scratch.at("link to link/sub/file")).unwrap(), expected, "{root}");
    }
}

#[test]
fn a_root_may_be_missing() {
    let scratch = Scratch::new();
    symlink("data/later", scratch.at("link")).unwrap();
    for root in ["later", "data/later/deeper", "link"] {
        let adapter = with_root(scratch.at(root)).unwrap();
        let file = scratch.at(root).join("file");
        let before = adapter.lock_path(&file).unwrap();
        adapter.write_atomic(&file, root).unwrap();
        assert_eq!(adapter.lock_path(&file).unwrap(), before, "{root}");
        assert_eq!(with_root(scratch.at(root)).unwrap().lock_path(&file).unwrap(), before, "{root}");
        assert_eq!(name(&adapter, &file), name(&scratch.adapter(), scratch.at("data/file")), "{root}");
    }
}

#[test]
fn a_root_that_is_none_is_refused_when_the_adapter_is_built() {
    let scratch = Scratch::new();
    fs::write(scratch.at("file"), "").unwrap();
    let with_zero: PathBuf = OsStr::from_bytes(b"/a\0b").into();
    for (root, expected) in [
        (PathBuf::new(), "the lock root's path is empty"),
        (with_zero, "zero byte"),
        (scratch.at("file"), "Not a directory"),
        (scratch.at("file/below"), "Not a directory"),
        (scratch.at("missing/../data"), "`..`"),
    ] {
        let error = with_root(&root).unwrap_err();
        assert!(error.path() == root && error.to_string().contains(expected), "{root:?}: {error}");
    }
}

/// Paths that lead out of the root `data`, and their canonical paths.
fn outside(scratch: &Scratch) -> Vec<(PathBuf, PathBuf)> {
    fs::create_dir_all(scratch.at("database/sub")).unwrap();
    fs::write(scratch.at("database/file"), "outside").unwrap();
    symlink("../database/file", scratch.at("data/link")).unwrap();
    symlink(scratch.at("database"), scratch.at("data/dir")).unwrap();
    symlink("../database/missing", scratch.at("data/dangling")).unwrap();
    [
        // The name only begins with the root's name.
        ("database/file", "database/file"),
        ("data/../database/file", "database/file"),
        ("data/../file", "file"),
        ("data/link", "database/file"),
        ("data/dir/file", "database/file"),
        ("data/dir/../other", "other"),
        ("data/dangling", "database/missing"),
        ("missing/deeper/file", "missing/deeper/file"),
        // The root itself.
        ("data", "data"),
        ("data/../data", "data"),
    ]
    .map(|(path, real)| (scratch.at(path), scratch.at(real)))
    .into()
}

#[track_caller]
fn assert_outside<T: std::fmt::Debug>(result: Result<T>, scratch: &Scratch, path: &Path, real: &Path, verb: &str) {
    let error = match result.expect_err(verb) {
        Error::Batch { source, replaced, .. } if replaced.is_empty() => *source,
        error => error,
    };
    let text = error.to_string();
    let Error::OutsideLockRoot { path: given, real: found, root, .. } = &error else {
        panic!("{verb} of {path:?}: {error}")
    };
    assert_eq!((&**given, &**found, &**root), (path, real, &*scratch.at("data")), "{verb}");
    assert_eq!((error.path(), error.kind()), (path, std::io::ErrorKind::InvalidInput), "{verb}");
    let begin = if path == real {
        format!("{} is not below the lock root", path.display())
    } else {
        format!("{} leads to {}, which is not below the lock root", path.display(), real.display())
    };
    let advice = "use a path below it, or another root (lock_root, --lock-root)";
    assert!(text.starts_with(&begin) && text.ends_with(advice), "{text}");
}

#[test]
fn what_leads_out_is_refused_by_all_that_lock() {
    let scratch = Scratch::new();
    let adapter = scratch.adapter();
    let inside = scratch.at("data/inside");
    for (path, real) in &outside(&scratch) {
        let results = [
            ("read", adapter.read_with_lock(path).map(drop)),
            ("read as text", adapter.read_to_string_with_lock(path).map(drop)),
            ("write", adapter.write_atomic(path, "new")),
            ("update", adapter.update(path, |_| unreachable!())),
            ("delete", adapter.delete_with_lock(path).map(drop)),
            ("file", adapter.file(path).map(drop)),
            ("lock_path", adapter.lock_path(path).map(drop)),
            ("lock_many", adapter.lock_many([&inside, path]).map(drop)),
            ("lock_many_shared", adapter.lock_many_shared([&inside, path]).map(drop)),
            ("batch", adapter.batch().write(&inside, "new").write(path, "new").commit()),
            ("batch with a delete", adapter.batch().write(&inside, "new").delete(path).commit()),
        ];
        for (verb, result) in results {
            assert_outside(result, &scratch, path, real, verb);
        }
    }
    assert_eq!(names(&scratch.dir), ["data", "database"]);
    assert_eq!(names(&scratch.at("data")), ["dangling", "dir", "link", "sub"], "not even a lock directory was made");
    assert_eq!(fs::read(scratch.at("database/file")).unwrap(), b"outside");
}

#[test]
fn calls_without_a_lock_are_allowed_outside() {
    let scratch = Scratch::new();
    let adapter = scratch.adapter();
    for (path, real) in outside(&scratch) {
        assert_eq!(adapter.exists(&path), real.is_file(), "{path:?}");
        if real.is_file() {
            assert_eq!(adapter.read_unlocked(&path).unwrap().unwrap(), b"outside", "{path:?}");
        }
    }
}

#[test]
fn sweep_goes_through_directories_below_the_root_only() {
    let scratch = Scratch::new();
    let adapter = scratch.adapter();
    symlink("../data/sub", scratch.at("data/inner")).unwrap();
    let left = |dir: &str| {
        let path = scratch.at(dir).join(common::temporary_name("file", "aaaaaaa"));
        fs::write(&path, "").unwrap();
        path
    };
    fs::create_dir(scratch.at("database")).unwrap();
    let (in_root, in_sub, in_other) = (left("data"), left("data/sub"), left("database"));
    for dir in ["", "database", "data/..", "data/../database"] {
        let dir = scratch.at(dir);
        let result = adapter.sweep(&dir);
        assert_outside(result, &scratch, &dir, &dir.canonicalize().unwrap(), "sweep");
    }
    let (path, real) = (scratch.at("data/../database/file"), scratch.at("database/file"));
    assert_outside(adapter.sweep(&path), &scratch, &path, &real, "sweep of a file");
    assert_eq!(adapter.sweep(scratch.at("data")).unwrap(), [in_root]);
    assert_eq!(adapter.sweep(scratch.at("data/inner")).unwrap(), [in_sub]);
    assert!(in_other.exists());
}

/// A name that was cut contains the hash of its lock, which is named below the root, too.
#[test]
fn a_temporary_file_with_a_long_name_is_that_of_its_lock() {
    let scratch = Scratch::new();
    let adapter = scratch.adapter();
    let path = scratch.at("data/sub").join("y".repeat(250));
    let file = adapter.file(&path).unwrap();
    let guard = file.lock().unwrap();
    let writer = guard.writer().unwrap();
    let temporary = names(&scratch.at("data/sub")).remove(0);
    let hash = name(&adapter, &path).replace(".lock", "");
    assert!(temporary.starts_with(&format!(".{}~{hash}.", "y".repeat(222))), "{temporary}, {hash}");
    drop(writer);
    drop(guard);
    fs::write(scratch.at("data/sub").join(&temporary), "").unwrap();
    assert_eq!(adapter.sweep(&path).unwrap(), [scratch.at("data/sub").join(temporary)]);
}

#[test]
fn what_stays_inside_is_not_refused() {
    let scratch = Scratch::new();
    let adapter = scratch.adapter();
    symlink("sub/file", scratch.at("data/link")).unwrap();
    symlink(scratch.at("data/sub"), scratch.at("into")).unwrap();
    let expected = adapter.lock_path(scratch.at("data/sub/file")).unwrap();
    for path in ["data/link", "into/file", "data/../data/sub/file", "data/sub/../link", "into/../link"] {
        assert_eq!(adapter.lock_path(scratch.at(path)).unwrap(), expected, "{path}");
        adapter.write_atomic(scratch.at(path), path).unwrap();
        assert_eq!(adapter.read_to_string_with_lock(scratch.at("data/sub/file")).unwrap().unwrap(), path);
    }
    // This path only looks as if it led out.
    adapter.write_atomic(scratch.at("data/..hidden"), "x").unwrap();
}

/// The root was resolved when the adapter was built. Another directory with its name is refused.
#[test]
fn a_root_that_moves_is_not_mixed_up_with_what_takes_its_place() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.at("other")).unwrap();
    symlink("data", scratch.at("link")).unwrap();
    let adapter = with_root(scratch.at("link")).unwrap();
    let file = adapter.file(scratch.at("link/file")).unwrap();
    fs::remove_file(scratch.at("link")).unwrap();
    symlink("other", scratch.at("link")).unwrap();
    let (path, real) = (scratch.at("link/file"), scratch.at("other/file"));
    assert_outside(adapter.write_atomic(&path, "new"), &scratch, &path, &real, "write");
    file.write("by the handle").unwrap();
    assert_eq!(names(&scratch.at("other")), [""; 0]);
    assert_eq!(fs::read(scratch.at("data/file")).unwrap(), b"by the handle");
}

#[test]
fn a_path_used_lately_that_leads_out_now_is_refused() {
    let scratch = Scratch::new();
    let adapter = scratch.adapter();
    let path = scratch.at("data/file");
    adapter.write_atomic(&path, "old").unwrap();
    fs::rename(&path, scratch.at("file")).unwrap();
    symlink("../file", &path).unwrap();
    assert_outside(adapter.write_atomic(&path, "new"), &scratch, &path, &scratch.at("file"), "write");
    assert_eq!(fs::read(scratch.at("file")).unwrap(), b"old");
}
