//! What a path leads to: links, spellings, missing directories, long and odd names, things that are not files.

mod common;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use atomic_file_adapter::{AtomicFileAdapter, Error, FileKind, Result};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use crate::common::names;

/// A directory for the files of a test, and an adapter whose lock files are outside it.
struct Scratch {
    dir: PathBuf,
    adapter: AtomicFileAdapter,
    _above: TempDir,
}

impl Scratch {
    fn new() -> Self {
        let above = tempfile::tempdir().unwrap();
        // Where the temporary directory itself is behind a symbolic link.
        let real = above.path().canonicalize().unwrap();
        let adapter = AtomicFileAdapter::with_lock_dir(real.join("locks")).unwrap();
        fs::create_dir(real.join("files")).unwrap();
        Scratch { dir: real.join("files"), adapter, _above: above }
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// A file with its own name as its contents.
    fn make(&self, name: &str) -> PathBuf {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), name).unwrap();
        self.path(name)
    }

    fn link(&self, target: impl AsRef<Path>, name: &str) -> PathBuf {
        symlink(target, self.path(name)).unwrap();
        self.path(name)
    }

    /// Fails if anything else is in the directory: a temporary file, for example.
    #[track_caller]
    fn holds_only(&self, expected: &[&str]) {
        assert_eq!(names(&self.dir), expected);
    }
}

#[track_caller]
fn contents(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// An operation on a path, without what it answers.
type Verb = fn(&AtomicFileAdapter, &Path) -> Result<()>;

const VERBS: [(&str, Verb); 6] = [
    ("read", |adapter, path| adapter.read_with_lock(path).map(drop)),
    ("read_into", |adapter, path| adapter.file(path)?.read_into(&mut Vec::new()).map(drop)),
    ("write", |adapter, path| adapter.write_atomic(path, "new")),
    ("writer", |adapter, path| adapter.file(path)?.lock()?.writer()?.commit()),
    ("update", |adapter, path| adapter.update(path, |_| b"new".to_vec())),
    ("delete", |adapter, path| adapter.delete_with_lock(path).map(drop)),
];

/// The error of every verb; no verb may succeed.
#[track_caller]
fn errors(adapter: &AtomicFileAdapter, path: &Path) -> Vec<(String, Error)> {
    let failed = |(verb, call): (&str, Verb)| {
        let what = format!("{verb} of {path:?}");
        match call(adapter, path) {
            Ok(()) => panic!("{what} succeeded"),
            Err(error) => (what, error),
        }
    };
    VERBS.into_iter().map(failed).collect()
}

fn os_error(error: &Error) -> Option<i32> {
    if let Error::Io { source, .. } = error { source.raw_os_error() } else { None }
}

/// What `call` returns; a failure, not a test that hangs, if it blocks.
#[track_caller]
fn promptly<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    let caller = thread::spawn(move || done.send(call()));
    match result.recv_timeout(Duration::from_secs(30)) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => panic!("the call blocks"),
        Err(RecvTimeoutError::Disconnected) => std::panic::resume_unwind(caller.join().unwrap_err()),
    }
}

// Symbolic links.

#[test]
fn every_kind_of_link_is_followed_and_left_in_place() {
    // The name through which the file is written.
    for through in ["absolute", "relative", "chain", "from-below/up", "below/../relative", "parent/target"] {
        let scratch = Scratch::new();
        let target = scratch.make("real/target");
        fs::create_dir(scratch.path("below")).unwrap();
        fs::create_dir(scratch.path("from-below")).unwrap();
        scratch.link(&target, "absolute");
        scratch.link("real/target", "relative");
        scratch.link("relative", "chain-2");
        scratch.link(scratch.path("chain-2"), "chain-1");
        scratch.link("./below/../chain-1", "chain");
        scratch.link("../real/target", "from-below/up");
        scratch.link("real", "parent");
        let before = names(&scratch.dir);
        let inode = target.metadata().unwrap().ino();

        let path = scratch.path(through);
        assert_eq!(scratch.adapter.read_to_string_with_lock(&path).unwrap().unwrap(), "real/target", "{through}");
        scratch.adapter.write_atomic(&path, "new").unwrap();
        assert_eq!(contents(&target), "new", "{through}");
        assert_ne!(target.metadata().unwrap().ino(), inode, "{through}: not replaced but written in place");
        scratch.adapter.update(&path, |old| [old.unwrap(), b"er"].concat()).unwrap();
        assert_eq!(contents(&target), "newer", "{through}");
        assert!(scratch.adapter.exists(&path), "{through}");

        assert!(scratch.adapter.delete_with_lock(&path).unwrap(), "{through}");
        assert_eq!(names(&scratch.path("real")), [""; 0], "{through}");
        assert_eq!(names(&scratch.dir), before, "{through}");
        for link in ["absolute", "relative", "chain", "chain-1", "chain-2", "from-below/up", "parent"] {
            assert!(scratch.path(link).is_symlink(), "{through}: {link} was replaced");
        }
    }
}

#[test]
fn the_target_of_a_dangling_link_is_created() {
    type Links = &'static [(&'static str, &'static str)];
    // The path that is written, what that really is, and the links on the way.
    let cases: [(&str, &str, Links); 5] = [
        ("link", "target", &[("link", "target")]),
        ("link", "missing/deep/target", &[("link", "missing/deep/target")]),
        ("chain", "missing/deep/target", &[("chain", "link"), ("link", "missing/deep/target")]),
        ("dir/target", "missing/target", &[("dir", "missing")]),
        ("dir/sub/target", "missing/sub/target", &[("dir", "chain"), ("chain", "missing")]),
    ];
    for (path, real, links) in cases {
        let scratch = Scratch::new();
        for (link, target) in links {
            scratch.link(target, link);
        }
        let before = names(&scratch.dir);
        let (path, real) = (scratch.path(path), scratch.path(real));
        let lock = scratch.adapter.lock_path(&path).unwrap();
        assert_eq!(lock, scratch.adapter.lock_path(&real).unwrap(), "{path:?}");
        assert_eq!(scratch.adapter.read_with_lock(&path).unwrap(), None, "{path:?}");
        assert!(!scratch.adapter.delete_with_lock(&path).unwrap(), "{path:?}");
        assert!(!scratch.adapter.exists(&path), "{path:?}");
        assert_eq!(names(&scratch.dir), before, "{path:?}: made something by looking");

        scratch.adapter.write_atomic(&path, "new").unwrap();
        assert_eq!(contents(&real), "new", "{path:?}");
        assert!(links.iter().all(|(link, _)| scratch.path(link).is_symlink()), "{path:?}: a link was replaced");
        let made = if real.parent() == Some(&scratch.dir) { "target" } else { "missing" };
        assert_eq!(names(&scratch.dir).into_iter().filter(|name| !before.contains(name)).collect::<Vec<_>>(), [made]);
        assert_eq!(names(real.parent().unwrap()).last().unwrap(), "target", "{path:?}");
        assert_eq!(scratch.adapter.lock_path(&path).unwrap(), lock, "{path:?}");
    }
}

#[test]
fn as_many_links_are_followed_as_the_kernel_follows() {
    let scratch = Scratch::new();
    let most = if cfg!(target_os = "linux") { 40 } else { 32 };
    scratch.make("0");
    for n in 1..=most + 1 {
        scratch.link((n - 1).to_string(), &n.to_string());
    }
    let before = names(&scratch.dir);
    let [enough, too_many] = [most, most + 1].map(|n| scratch.path(n.to_string()));
    assert_eq!(fs::read_to_string(&enough).unwrap(), "0");
    assert_eq!(scratch.adapter.read_to_string_with_lock(&enough).unwrap().unwrap(), "0");
    assert_eq!(fs::read(&too_many).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    for (what, error) in errors(&scratch.adapter, &too_many) {
        assert_eq!(os_error(&error), Some(libc::ELOOP), "{what}: {error:?}");
    }
    assert_eq!(names(&scratch.dir), before);
    // On the way to what does not exist yet, too.
    scratch.link(".", "here");
    let [enough, too_many] = [most, most + 1].map(|n| scratch.path("here/".repeat(n) + "missing/file"));
    assert_eq!(scratch.adapter.file(enough).unwrap().path(), scratch.path("missing/file"));
    let error = scratch.adapter.file(too_many).unwrap_err();
    assert_eq!(os_error(&error), Some(libc::ELOOP), "{error:?}");
}

#[test]
fn a_loop_of_links_is_eloop() {
    let scratch = Scratch::new();
    scratch.link("b", "a");
    scratch.link("a", "b");
    scratch.link("self", "self");
    for name in ["a", "self", "a/file", "self/missing/file"] {
        for (what, error) in errors(&scratch.adapter, &scratch.path(name)) {
            assert_eq!(os_error(&error), Some(libc::ELOOP), "{what}: {error:?}");
            assert!(error.to_string().contains(scratch.path(name).to_str().unwrap()), "{what}: {error}");
        }
        assert!(!scratch.adapter.exists(scratch.path(name)));
        scratch.holds_only(&["a", "b", "self"]);
    }
}

#[test]
fn a_link_that_appears_under_a_handle_is_not_followed() {
    let scratch = Scratch::new();
    let file = scratch.adapter.file(scratch.path("file")).unwrap();
    scratch.make("other");
    scratch.link("other", "file");
    let failures =
        [file.read().map(drop), file.write("new"), file.update(|_| b"new".to_vec()), file.delete().map(drop)];
    for failure in failures {
        let error = failure.unwrap_err();
        assert!(matches!(error, Error::NotRegularFile { kind: FileKind::Symlink, .. }), "{error:?}");
    }
    assert_eq!(contents(&scratch.path("other")), "other");
    scratch.holds_only(&["file", "other"]);
}

#[test]
fn another_hard_link_keeps_the_old_version() {
    let scratch = Scratch::new();
    let file = scratch.make("file");
    fs::hard_link(&file, scratch.path("other-name")).unwrap();
    scratch.adapter.write_atomic(&file, "new").unwrap();
    assert_eq!(contents(&file), "new");
    assert_eq!(contents(&scratch.path("other-name")), "file");
    scratch.holds_only(&["file", "other-name"]);
}

// Spellings and lock names.

/// From the current directory to `path`, upwards first.
fn relative(path: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap().canonicalize().unwrap();
    let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
    up.join(path.strip_prefix("/").unwrap())
}

#[test]
fn all_spellings_of_a_file_have_one_lock() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.path("dir/sub")).unwrap();
    let file = scratch.path("dir/file");
    scratch.link("dir", "link-to-dir");
    scratch.link("link-to-dir", "link-to-link");
    scratch.link(&file, "link-to-file");
    scratch.link("../dir/./sub/../file", "dir/odd-link");
    let dir = scratch.dir.to_str().unwrap();
    let spellings = [
        format!("{dir}/./dir/file"),
        format!("{dir}/dir/sub/../file"),
        format!("{dir}//dir///file"),
        format!("/{dir}/dir/file"),
        format!("/../..{dir}/dir/./file"),
        format!("{dir}/link-to-dir/file"),
        format!("{dir}/link-to-dir/sub/../file"),
        format!("{dir}/link-to-link/.//file"),
        format!("{dir}/link-to-file"),
        format!("{dir}/link-to-dir/odd-link"),
        relative(&file).to_str().unwrap().to_owned(),
        format!("./{}", relative(&scratch.path("link-to-dir/file")).display()),
    ];
    let lock = scratch.adapter.lock_path(&file).unwrap();
    assert_eq!(lock.parent().unwrap(), scratch.adapter.lock_dir());
    // A name is not enough to be the same file.
    for other in ["dir/sub/file", "file", "dir/File", "dir/file2"] {
        assert_ne!(scratch.adapter.lock_path(scratch.path(other)).unwrap(), lock, "{other}");
    }
    let all_agree = || {
        for spelling in &spellings {
            assert_eq!(scratch.adapter.lock_path(spelling).unwrap(), lock, "{spelling}");
            let handle = scratch.adapter.file(spelling).unwrap();
            assert_eq!((handle.path(), handle.lock_path()), (&*file, &*lock), "{spelling}");
        }
    };
    all_agree();
    assert!(!scratch.adapter.lock_dir().exists(), "asking for a lock's path made something");
    for spelling in &spellings {
        scratch.adapter.write_atomic(spelling, spelling).unwrap();
        assert_eq!(contents(&file), *spelling);
        all_agree();
    }
    assert_eq!(names(scratch.adapter.lock_dir()), [".gitignore", lock.file_name().unwrap().to_str().unwrap()]);
    assert_eq!(names(&scratch.path("dir")), ["file", "odd-link", "sub"]);
}

/// A Mac's volumes ignore case, unless they were made not to; most file systems of Linux do not.
#[test]
fn another_case_of_a_name_is_the_same_file_where_the_file_system_says_so() {
    let scratch = Scratch::new();
    let file = scratch.make("Directory/Name");
    for other in ["Directory/name", "Directory/NAME", "directory/Name", "DIRECTORY/nAME"].map(|name| scratch.path(name))
    {
        let same = other.exists();
        let handle = scratch.adapter.file(&other).unwrap();
        assert_eq!(handle.lock_path() == scratch.adapter.lock_path(&file).unwrap(), same, "{other:?}");
        assert_eq!(handle.path() == file, same, "{other:?}");
        if same {
            handle.write("new").unwrap();
            assert_eq!(contents(&file), "new");
            assert_eq!(
                (names(&scratch.dir), names(&scratch.path("Directory"))),
                (vec!["Directory".into()], vec!["Name".into()])
            );
        }
    }
    // A name of its own for each of them, whatever the system says of either.
    let link = scratch.path("Directory/Other");
    fs::hard_link(&file, &link).unwrap();
    for path in [&file, &link] {
        assert_eq!(scratch.adapter.file(path).unwrap().path(), path);
    }
}

#[test]
fn a_bare_name_is_a_file_of_the_current_directory() {
    let scratch = Scratch::new();
    let here = std::env::current_dir().unwrap();
    let lock = scratch.adapter.lock_path(here.join("Cargo.toml")).unwrap();
    assert_eq!(scratch.adapter.lock_path("Cargo.toml").unwrap(), lock);
    assert_eq!(scratch.adapter.lock_path("./src/../Cargo.toml").unwrap(), lock);
    let contents = scratch.adapter.read_with_lock("Cargo.toml").unwrap();
    assert_eq!(contents.unwrap(), fs::read(here.join("Cargo.toml")).unwrap());
}

#[test]
fn a_lock_keeps_its_name_when_the_missing_directories_appear() {
    let scratch = Scratch::new();
    scratch.link("x", "link");
    let file = scratch.path("x/y/z/file");
    let spellings = ["x/y/z/file", "x/./y//z/file", "link/y/z/file"];
    let locks = || spellings.map(|spelling| scratch.adapter.lock_path(scratch.path(spelling)).unwrap());
    let lock = scratch.adapter.lock_path(&file).unwrap();
    for dir in ["", "x", "x/y", "x/y/z"] {
        fs::create_dir_all(scratch.path(dir)).unwrap();
        assert_eq!(locks(), [&lock; 3].map(Clone::clone), "{dir:?} exists");
    }
    fs::write(&file, "").unwrap();
    assert_eq!(locks(), [&lock; 3].map(Clone::clone));
    assert_ne!(lock, scratch.adapter.lock_path(scratch.path("x/z/y/file")).unwrap());
}

#[test]
fn a_directory_with_the_kernels_mark_of_a_removed_one_in_its_name_works() {
    let scratch = Scratch::new();
    let file = scratch.make("a (deleted)/file");
    scratch.link("a (deleted)", "link");
    let lock = scratch.adapter.lock_path(&file).unwrap();
    for spelling in ["a (deleted)/../a (deleted)/file", "link/file", "link/../a (deleted)/./file"] {
        assert_eq!(scratch.adapter.lock_path(scratch.path(spelling)).unwrap(), lock, "{spelling}");
        scratch.adapter.write_atomic(scratch.path(spelling), spelling).unwrap();
        assert_eq!(contents(&file), spelling);
    }
    assert_eq!(scratch.adapter.file(&file).unwrap().path(), file);
    assert_eq!(scratch.adapter.lock_path(relative(&file)).unwrap(), lock);
    assert_ne!(scratch.adapter.lock_path(scratch.path("a/file")).unwrap(), lock);
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: XNU does not follow a link into so long a path")]
fn a_path_that_is_too_long_to_be_said_at_once_has_one_lock() {
    let scratch = Scratch::new();
    // Each is as long as a path may be, and starts where the one before it ends.
    let part = "deeply-nested/".repeat(200);
    for n in 0..2 {
        let start = if n == 0 { scratch.dir.clone() } else { scratch.path(format!("link-{}", n - 1)) };
        fs::create_dir_all(start.join(&part)).unwrap();
        scratch.link(start.join(&part).to_str().unwrap().trim_end_matches('/'), &format!("link-{n}"));
    }
    let file = scratch.path("link-1/file");
    let handle = scratch.adapter.file(&file).unwrap();
    assert_eq!(handle.path(), scratch.path(&part).join(&part).join("file"));
    assert!(handle.path().as_os_str().len() > 4096, "no longer than the kernel takes");
    let other_way = scratch.path("link-0").join(&part).join("../deeply-nested/file");
    assert_eq!(handle.lock_path(), scratch.adapter.lock_path(&other_way).unwrap());
    scratch.adapter.write_atomic(&file, "new").unwrap();
    assert_eq!(scratch.adapter.read_to_string_with_lock(&other_way).unwrap().unwrap(), "new");
    assert_eq!(names(file.parent().unwrap()), ["file"]);
}

// Missing files and directories.

#[test]
fn without_a_file_reading_and_deleting_find_nothing_and_make_nothing() {
    let scratch = Scratch::new();
    for name in ["file", "missing/file", "missing/deeper/still/file"] {
        let path = scratch.path(name);
        assert_eq!(scratch.adapter.read_with_lock(&path).unwrap(), None, "{name}");
        assert_eq!(scratch.adapter.read_to_string_with_lock(&path).unwrap(), None, "{name}");
        assert!(!scratch.adapter.delete_with_lock(&path).unwrap(), "{name}");
        assert!(!scratch.adapter.exists(&path), "{name}");
        scratch.holds_only(&[]);
    }
}

#[test]
fn writing_makes_the_missing_directories() {
    let verbs: [(&str, Verb); 3] = [
        ("write", |adapter, path| adapter.write_atomic(path, "new")),
        ("update", |adapter, path| {
            adapter.update(path, |old| {
                assert_eq!(old, None);
                b"new".to_vec()
            })
        }),
        ("writer", |adapter, path| {
            let file = adapter.file(path)?;
            let guard = file.lock()?;
            let mut writer = guard.writer()?;
            writer.write_all(b"new").unwrap();
            writer.commit()
        }),
    ];
    for (verb, call) in verbs {
        let scratch = Scratch::new();
        let path = scratch.path("one/two/three/file");
        call(&scratch.adapter, &path).unwrap_or_else(|error| panic!("{verb}: {error}"));
        assert_eq!(contents(&path), "new", "{verb}");
        for (dir, expected) in [("", "one"), ("one", "two"), ("one/two", "three"), ("one/two/three", "file")] {
            assert_eq!(names(&scratch.path(dir)), [expected], "{verb}");
        }
        assert!(scratch.adapter.delete_with_lock(&path).unwrap());
        assert_eq!(names(path.parent().unwrap()), [""; 0], "{verb}");
    }
}

#[test]
fn a_handle_finds_a_directory_that_somebody_else_makes_later() {
    let scratch = Scratch::new();
    let path = scratch.path("later/and/deeper/file");
    let file = scratch.adapter.file(&path).unwrap();
    for dir in ["", "later", "later/and", "later/and/deeper"] {
        fs::create_dir_all(scratch.path(dir)).unwrap();
        assert_eq!(file.read().unwrap(), None, "{dir:?}");
        assert!(!file.delete().unwrap(), "{dir:?}");
    }
    fs::write(&path, "theirs").unwrap();
    assert_eq!(file.read().unwrap().unwrap(), b"theirs");
    file.write("mine").unwrap();
    assert_eq!(contents(&path), "mine");
    assert!(file.delete().unwrap());
    assert_eq!(names(&scratch.path("later/and/deeper")), [""; 0]);
}

#[test]
fn a_handle_makes_the_directories_when_it_writes() {
    let scratch = Scratch::new();
    let path = scratch.path("later/and/deeper/file");
    let (file, other) = (scratch.adapter.file(&path).unwrap(), scratch.adapter.file(&path).unwrap());
    assert_eq!(other.read().unwrap(), None);
    scratch.holds_only(&[]);
    file.write("new").unwrap();
    assert_eq!(contents(&path), "new");
    // It was resolved when nothing was there.
    assert_eq!(other.read().unwrap().unwrap(), b"new");
    other.update(|old| [old.unwrap(), b"er"].concat()).unwrap();
    assert_eq!(file.read().unwrap().unwrap(), b"newer");
    assert_eq!(names(path.parent().unwrap()), ["file"]);
}

#[test]
fn a_handle_does_not_follow_a_link_in_the_place_of_a_missing_directory() {
    let scratch = Scratch::new();
    let file = scratch.adapter.file(scratch.path("missing/file")).unwrap();
    fs::create_dir(scratch.path("elsewhere")).unwrap();
    scratch.link("elsewhere", "missing");
    for failure in [file.write("new"), file.read().map(drop), file.delete().map(drop)] {
        assert!(matches!(failure.unwrap_err(), Error::Io { .. }));
    }
    assert_eq!(names(&scratch.path("elsewhere")), [""; 0]);
}

#[test]
fn a_handle_stays_with_its_directory_when_that_is_renamed() {
    let scratch = Scratch::new();
    let file = scratch.adapter.file(scratch.make("before/file")).unwrap();
    fs::rename(scratch.path("before"), scratch.path("after")).unwrap();
    assert_eq!(file.read().unwrap().unwrap(), b"before/file");
    file.write("new").unwrap();
    scratch.holds_only(&["after"]);

    // Not even another directory of the old name takes its place.
    let decoy = scratch.make("before/file");
    file.update(|old| [old.unwrap(), b"er"].concat()).unwrap();
    assert_eq!(contents(&scratch.path("after/file")), "newer");
    assert_eq!(contents(&decoy), "before/file");
    assert!(file.delete().unwrap());
    assert_eq!((names(&scratch.path("after")), names(&scratch.path("before"))), (vec![], vec!["file".to_owned()]));
}

#[test]
fn a_handle_whose_directory_was_removed_fails_to_write_and_makes_nothing() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("dir")).unwrap();
    let file = scratch.adapter.file(scratch.path("dir/file")).unwrap();
    fs::remove_dir(scratch.path("dir")).unwrap();
    assert_eq!(file.read().unwrap(), None);
    assert!(!file.delete().unwrap());
    assert_eq!(file.write("new").unwrap_err().kind(), io::ErrorKind::NotFound);
    scratch.holds_only(&[]);
}

// Paths that cannot name a file.

#[test]
fn a_path_that_cannot_name_a_file_is_invalid() {
    let scratch = Scratch::new();
    scratch.make("a");
    fs::create_dir(scratch.path("dir")).unwrap();
    scratch.link("missing", "dangling");
    let below =
        ["a/", "a/.", "a/..", "dir/", "dir/.", "dir/..", "x/", "x/.", "missing/../x", "x/y/../../a", "dangling/../x"];
    let with_nul = ["a\0", "\0", "a\0b", "di\0r/a", "missing\0/a"];
    let mut paths: Vec<PathBuf> = ["", "/", "//", "/.", "/..", ".", "..", "./", "../", "a/", "a/.", "\0", "a\0/b"]
        .into_iter()
        .map(PathBuf::from)
        .collect();
    paths.extend(below.into_iter().chain(with_nul).map(|name| scratch.path(name)));
    for path in paths {
        let mut failures = errors(&scratch.adapter, &path);
        failures.push((format!("lock_path of {path:?}"), scratch.adapter.lock_path(&path).unwrap_err()));
        for (what, error) in failures {
            let Error::InvalidPath { path: named, reason, .. } = &error else { panic!("{what}: {error:?}") };
            assert_eq!(*named, path, "{what}");
            assert!(!reason.is_empty() && error.to_string().contains(reason), "{what}");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{what}");
        }
        assert!(!scratch.adapter.exists(&path), "{path:?}");
        scratch.holds_only(&["a", "dangling", "dir"]);
    }
    assert_eq!(contents(&scratch.path("a")), "a");
    assert_eq!(names(&scratch.path("dir")), [""; 0]);
}

#[test]
fn a_file_as_a_directory_is_not_a_directory() {
    let scratch = Scratch::new();
    scratch.make("a");
    scratch.link("a", "link");
    for name in ["a/b", "a/b/c", "a/../b", "link/b", "a/missing/../b"] {
        for (what, error) in errors(&scratch.adapter, &scratch.path(name)) {
            assert_eq!(error.kind(), io::ErrorKind::NotADirectory, "{what}: {error:?}");
            assert!(error.to_string().contains(scratch.path(name).to_str().unwrap()), "{what}: {error}");
        }
        assert!(!scratch.adapter.exists(scratch.path(name)), "{name}");
        scratch.holds_only(&["a", "link"]);
        assert_eq!(contents(&scratch.path("a")), "a");
    }
}

#[test]
fn a_file_that_takes_the_place_of_a_missing_directory_is_not_a_directory() {
    let scratch = Scratch::new();
    let file = scratch.adapter.file(scratch.path("a/b")).unwrap();
    scratch.make("a");
    for failure in [file.write("new"), file.read().map(drop), file.delete().map(drop)] {
        assert_eq!(failure.unwrap_err().kind(), io::ErrorKind::NotADirectory);
    }
    scratch.holds_only(&["a"]);
}

// Long and odd names.

/// Write, the name of the temporary file, read, update, delete.
fn goes_through_its_life(scratch: &Scratch, name: &OsStr) {
    let (adapter, path) = (&scratch.adapter, scratch.path(name));
    let only_entry = || {
        let entries: Vec<OsString> = scratch.dir.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        <[OsString; 1]>::try_from(entries).unwrap()[0].clone()
    };
    {
        let file = adapter.file(&path).unwrap();
        let guard = file.lock().unwrap();
        let _writer = guard.writer().unwrap();
        let temporary = only_entry();
        assert!(temporary.len() <= 255, "{temporary:?} for {name:?}");
        // Some file systems refuse a name that is not UTF-8.
        assert!(temporary.to_str().is_some() || name.to_str().is_none(), "{temporary:?} for {name:?}");
    }
    scratch.holds_only(&[]);
    adapter.write_atomic(&path, "one").unwrap();
    assert_eq!(only_entry(), name);
    assert_eq!(adapter.read_with_lock(&path).unwrap().unwrap(), b"one", "{name:?}");
    adapter.update(&path, |old| [old.unwrap(), b", two"].concat()).unwrap();
    assert_eq!(contents(&path), "one, two");
    assert_eq!(only_entry(), name);
    assert!(adapter.delete_with_lock(&path).unwrap());
    scratch.holds_only(&[]);
}

#[test]
fn names_of_every_length_up_to_255_bytes_work() {
    let scratch = Scratch::new();
    for length in (1..=6).chain(230..=255) {
        goes_through_its_life(&scratch, "n".repeat(length).as_ref());
        // Two, three and four bytes a character, at every offset.
        for character in ["é", "書", "🦀"] {
            let many = character.repeat(length / character.len());
            let padded = "x".repeat(length - many.len()) + &many;
            goes_through_its_life(&scratch, padded.as_ref());
        }
    }
    let full = "é".repeat(127) + "x";
    assert_eq!(full.len(), 255);
    goes_through_its_life(&scratch, full.as_ref());
}

#[test]
fn names_of_256_bytes_are_too_long() {
    let scratch = Scratch::new();
    scratch.make("a");
    let mut long = vec!["n".repeat(256), format!("{}/x", "n".repeat(256))];
    if cfg!(target_os = "linux") {
        // Apple's file systems count characters.
        long.push("é".repeat(128));
    }
    for name in long {
        for (what, error) in errors(&scratch.adapter, &scratch.path(&name)) {
            assert_eq!(os_error(&error), Some(libc::ENAMETOOLONG), "{what}: {error:?}");
            assert_eq!(error.kind(), io::ErrorKind::InvalidFilename, "{what}");
        }
        assert!(!scratch.adapter.exists(scratch.path(&name)));
        scratch.holds_only(&["a"]);
    }
}

#[test]
fn odd_names_work() {
    let scratch = Scratch::new();
    let names =
        [" ", "\n", "...", "..x", "-rf", "~", "*", "a\\b", ".tmp", ".a.abcdefghij.tmp", "a (deleted)", "\u{feff}"];
    for name in names {
        goes_through_its_life(&scratch, name.as_ref());
    }
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: Apple's file systems refuse such names")]
fn names_that_are_not_utf8_work() {
    let scratch = Scratch::new();
    for bytes in [&b"\xff"[..], b"latin-1 \xe9", &[0x80; 255], &[0xff; 250]] {
        goes_through_its_life(&scratch, OsStr::from_bytes(bytes));
    }
    // And two of them that look the same when printed are two files.
    let [one, other] = [&b"\xfe"[..], b"\xff"].map(|name| scratch.path(OsStr::from_bytes(name)));
    assert_eq!(one.display().to_string(), other.display().to_string());
    assert_ne!(scratch.adapter.lock_path(&one).unwrap(), scratch.adapter.lock_path(&other).unwrap());
    scratch.adapter.write_atomic(&one, "one").unwrap();
    assert_eq!(scratch.adapter.read_with_lock(&other).unwrap(), None);
}

// Contents.

#[test]
fn an_empty_file_is_not_a_missing_one() {
    let scratch = Scratch::new();
    let path = scratch.path("file");
    scratch.adapter.write_atomic(&path, "").unwrap();
    assert_eq!(path.metadata().unwrap().len(), 0);
    assert_eq!(scratch.adapter.read_with_lock(&path).unwrap(), Some(Vec::new()));
    assert_eq!(scratch.adapter.read_to_string_with_lock(&path).unwrap(), Some(String::new()));
    scratch.adapter.update(&path, |old| old.expect("an empty file").to_vec()).unwrap();
    fs::write(&path, "not empty").unwrap();
    scratch.adapter.write_atomic(&path, "").unwrap();
    assert_eq!(contents(&path), "");
    fs::write(&path, "not empty").unwrap();
    let file = scratch.adapter.file(&path).unwrap();
    file.lock().unwrap().writer().unwrap().commit().unwrap();
    assert_eq!(contents(&path), "");
    // To write nothing is no error; only where something could not be taken it is (`WriteZero`).
    let guard = file.lock().unwrap();
    let mut writer = guard.writer().unwrap();
    assert_eq!(writer.write(b"").unwrap(), 0);
    writer.flush().unwrap();
    writer.commit().unwrap();
    assert_eq!(contents(&path), "");
    drop(guard);
    assert!(scratch.adapter.exists(&path));
    scratch.holds_only(&["file"]);
}

/// 100 MB in which every part is another one.
fn large() -> Vec<u8> {
    let mut bytes = vec![0; 100_000_000];
    for (n, part) in bytes.chunks_exact_mut(8).enumerate() {
        part.copy_from_slice(&(n as u64).to_le_bytes());
    }
    bytes
}

#[test]
fn a_file_of_100_mb_is_written_and_read_whole() {
    let scratch = Scratch::new();
    let (path, large) = (scratch.path("file"), large());
    let mut read = vec![1, 2, 3];
    let file = scratch.adapter.file(&path).unwrap();
    file.write(&large).unwrap();
    assert_eq!(file.read_into(&mut read).unwrap(), Some(large.len()));
    // Not assert_eq, which would print them.
    assert!(read == large, "what was read is not what was written");

    // In pieces, none of them a whole number of pages.
    let guard = file.lock().unwrap();
    let mut writer = guard.writer().unwrap();
    for piece in large[1..].chunks(3_333_333) {
        writer.write_all(piece).unwrap();
    }
    writer.commit().unwrap();
    assert_eq!(guard.read_into(&mut read).unwrap(), Some(large.len() - 1));
    assert!(read == large[1..], "what was read is not what was written in pieces");
    scratch.holds_only(&["file"]);
}

// The kernel's own files change in size, or have one of 0, and are not empty.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: /proc")]
fn a_file_is_read_to_its_end_whatever_its_size_is_said_to_be() {
    let scratch = Scratch::new();
    for path in ["/proc/version", "/proc/filesystems", "/sys/power/state"] {
        let Ok(expected) = fs::read(path) else {
            assert_ne!(path, "/proc/version");
            continue;
        };
        let size = fs::metadata(path).unwrap().len();
        assert_ne!(size, expected.len() as u64, "{path} tells its size and proves nothing");
        assert_eq!(scratch.adapter.read_with_lock(path).unwrap().unwrap().len(), expected.len(), "{path}");
    }
}

#[test]
fn text_that_is_not_utf8_is_an_error_that_says_where() {
    let scratch = Scratch::new();
    let path = scratch.path("file");
    for (bytes, expected) in [(&b"\xff"[..], 0), (b"ab\xffcd", 2), (b"abc\xc3", 3)] {
        scratch.adapter.write_atomic(&path, bytes).unwrap();
        let error = scratch.adapter.read_to_string_with_lock(&path).unwrap_err();
        let Error::NotUtf8 { path: named, valid_up_to, .. } = &error else { panic!("{error:?}") };
        assert_eq!((named, *valid_up_to), (&path, expected), "{bytes:?}");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let text = format!("the contents of {} are not UTF-8 from byte {expected} on", path.display());
        assert_eq!(error.to_string(), text);
        // It is an error about the text alone.
        assert_eq!(scratch.adapter.read_with_lock(&path).unwrap().unwrap(), bytes);
        scratch.holds_only(&["file"]);
    }
    let text = "é\0\u{10ffff}";
    scratch.adapter.write_atomic(&path, text).unwrap();
    assert_eq!(scratch.adapter.read_to_string_with_lock(&path).unwrap().unwrap(), text);
}

#[test]
fn read_into_uses_the_buffer_again() {
    let scratch = Scratch::new();
    let path = scratch.path("file");
    let file = scratch.adapter.file(&path).unwrap();
    // Room for one byte more than the largest version, as documented.
    let mut buf = Vec::with_capacity(10_001);
    buf.extend_from_slice(b"left from before");
    let place = |buf: &Vec<u8>| (buf.as_ptr(), buf.capacity());
    let before = place(&buf);
    for version in [&b"a"[..], &[b'b'; 10_000], b"", b"cc"] {
        file.write(version).unwrap();
        assert_eq!(file.read_into(&mut buf).unwrap(), Some(version.len()));
        assert_eq!(buf, version);
        assert_eq!(file.lock_shared().unwrap().read_into(&mut buf).unwrap(), Some(version.len()));
        assert_eq!(buf, version);
        assert_eq!(place(&buf), before, "it was allocated anew");
    }
    file.delete().unwrap();
    assert_eq!(file.read_into(&mut buf).unwrap(), None);
    assert_eq!(buf, b"", "of a missing file");
    assert_eq!(place(&buf), before);
}

#[test]
fn a_writer_that_is_dropped_has_done_nothing() {
    let scratch = Scratch::new();
    for old in [None, Some("old")] {
        if let Some(old) = old {
            fs::write(scratch.path("file"), old).unwrap();
        }
        let before = names(&scratch.dir);
        let file = scratch.adapter.file(scratch.path("file")).unwrap();
        let guard = file.lock().unwrap();
        let mut writer = guard.writer().unwrap();
        writer.write_all(b"new").unwrap();
        assert_eq!(names(&scratch.dir).len(), before.len() + 1, "no temporary file beside the target");
        assert_eq!(guard.read().unwrap().as_deref(), old.map(str::as_bytes));
        drop(writer);
        assert_eq!(names(&scratch.dir), before);
        assert_eq!(guard.read().unwrap().as_deref(), old.map(str::as_bytes));
    }
}

#[test]
fn a_guard_deletes_under_its_lock() {
    let scratch = Scratch::new();
    let file = scratch.adapter.file(scratch.make("file")).unwrap();
    let guard = file.lock().unwrap();
    assert!(guard.delete().unwrap());
    scratch.holds_only(&[]);
    assert!(!guard.delete().unwrap());
    assert_eq!(guard.read().unwrap(), None);
    guard.write("new").unwrap();
    scratch.holds_only(&["file"]);
}

#[test]
fn a_panic_while_writing_leaves_nothing() {
    let scratch = Scratch::new();
    let path = scratch.make("file");
    let adapter = scratch.adapter.clone();
    let panicked = thread::spawn(move || {
        let file = adapter.file(path).unwrap();
        let guard = file.lock().unwrap();
        let mut writer = guard.writer().unwrap();
        writer.write_all(b"new").unwrap();
        std::panic::resume_unwind(Box::new("as if by a bug of the caller's"));
    });
    panicked.join().unwrap_err();
    scratch.holds_only(&["file"]);
    // The lock is free, too.
    let path = scratch.path("file");
    assert_eq!(scratch.adapter.file(&path).unwrap().try_lock().unwrap().read().unwrap().unwrap(), b"file");
}

#[test]
fn an_update_that_fails_has_done_nothing() {
    let scratch = Scratch::new();
    let path = scratch.make("file");
    for name in ["file", "missing"] {
        let error = scratch.adapter.try_update(scratch.path(name), |_| Err(io::Error::other("mine"))).unwrap_err();
        assert_eq!(error.to_string(), "mine");
        scratch.holds_only(&["file"]);
    }
    assert_eq!(contents(&path), "file");
}

// What is not a regular file.

#[test]
fn what_is_not_a_regular_file_is_refused_without_blocking_and_left_alone() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("dir")).unwrap();
    mkfifo(&scratch.path("fifo"), Mode::S_IRWXU).unwrap();
    let _listener = UnixListener::bind(scratch.path("socket")).unwrap();
    scratch.link("dir", "link-to-dir");
    scratch.link("fifo", "link-to-fifo");
    let entries = ["dir", "fifo", "link-to-dir", "link-to-fifo", "socket"];
    let cases = [
        (scratch.path("dir"), FileKind::Directory, "a directory"),
        (scratch.path("link-to-dir"), FileKind::Directory, "a directory"),
        (scratch.path("fifo"), FileKind::Fifo, "a FIFO"),
        (scratch.path("link-to-fifo"), FileKind::Fifo, "a FIFO"),
        (scratch.path("socket"), FileKind::Socket, "a socket"),
        (PathBuf::from("/dev/null"), FileKind::Device, "a device"),
    ];
    for (path, expected, text) in cases {
        let identity = |path: &Path| path.metadata().map(|meta| (meta.dev(), meta.ino(), meta.mode())).unwrap();
        let before = identity(&path);
        let (adapter, theirs) = (scratch.adapter.clone(), path.clone());
        for (what, error) in promptly(move || errors(&adapter, &theirs)) {
            let Error::NotRegularFile { path: named, kind, .. } = &error else { panic!("{what}: {error:?}") };
            assert_eq!((*kind, named.canonicalize().unwrap()), (expected, path.canonicalize().unwrap()), "{what}");
            assert_eq!(error.to_string(), format!("{} is not a regular file but {text}", named.display()));
            let is_directory = error.kind() == io::ErrorKind::IsADirectory;
            assert_eq!(is_directory, expected == FileKind::Directory, "{what}: {error:?}");
        }
        assert!(!scratch.adapter.exists(&path), "{path:?}");
        assert_eq!(identity(&path), before, "{path:?}");
        scratch.holds_only(&entries);
    }
    assert_eq!(names(&scratch.path("dir")), [""; 0]);
    assert!(Path::new("/dev/null").metadata().unwrap().file_type().is_char_device());
    assert_eq!(names(Path::new("/dev")).into_iter().find(|name| name.starts_with(".null.")), None);
}

#[test]
fn a_link_to_a_directory_is_refused_as_one_however_it_is_written() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("dir")).unwrap();
    let missing = ["missing/", "missing/.", "missing/.."];
    for target in ["dir", "dir/", "dir/.", "dir/..", ".", "./", "..", "/"].into_iter().chain(missing) {
        let link = scratch.link(target, "link");
        for (what, error) in errors(&scratch.adapter, &link) {
            let is_directory = matches!(error, Error::NotRegularFile { kind: FileKind::Directory, .. });
            assert!(is_directory, "{what}, a link to {target:?}: {error:?}");
        }
        scratch.holds_only(&["dir", "link"]);
        fs::remove_file(link).unwrap();
    }
}

// The links in /proc/self/fd lead to open files, not to what their text says.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: /proc")]
fn a_pipe_behind_a_descriptor_is_a_fifo_and_not_a_missing_file() {
    let scratch = Scratch::new();
    let (reader, _writer) = io::pipe().unwrap();
    let link = scratch.link(format!("/proc/self/fd/{}", reader.as_raw_fd()), "link");
    for path in [&link, &fs::read_link(&link).unwrap(), Path::new(&format!("/dev/fd/{}", reader.as_raw_fd()))] {
        for (what, error) in errors(&scratch.adapter, path) {
            assert!(matches!(error, Error::NotRegularFile { kind: FileKind::Fifo, .. }), "{what}: {error:?}");
        }
        scratch.holds_only(&["link"]);
    }
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: /proc")]
fn a_removed_directory_behind_a_descriptor_is_not_made_under_another_name() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("dir")).unwrap();
    let dir = fs::File::open(scratch.path("dir")).unwrap();
    fs::remove_dir(scratch.path("dir")).unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}/file", dir.as_raw_fd()));
    assert_eq!(fs::write(&path, "").unwrap_err().kind(), io::ErrorKind::NotFound);
    let written = scratch.adapter.write_atomic(&path, "new");
    scratch.holds_only(&[]);
    assert_eq!(written.unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_fifo_that_takes_the_place_of_a_file_does_not_block() {
    let scratch = Scratch::new();
    let path = scratch.make("file");
    let file = scratch.adapter.file(&path).unwrap();
    fs::remove_file(&path).unwrap();
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    let failures =
        promptly(move || [file.read().map(drop), file.open().map(drop), file.write("new"), file.delete().map(drop)]);
    for failure in failures {
        let error = failure.unwrap_err();
        assert!(matches!(error, Error::NotRegularFile { kind: FileKind::Fifo, .. }), "{error:?}");
    }
    assert!(path.symlink_metadata().unwrap().file_type().is_fifo());
    scratch.holds_only(&["file"]);
}

#[test]
fn only_a_regular_file_exists() {
    let scratch = Scratch::new();
    let file = scratch.make("file");
    assert!(scratch.adapter.exists(&file));
    assert!(scratch.adapter.exists(scratch.link("file", "link")));
    assert!(!scratch.adapter.exists(&scratch.dir));
    assert!(!scratch.adapter.exists(scratch.link("nothing", "dangling")));
    assert!(!scratch.adapter.exists("/dev/null"));
    fs::remove_file(&file).unwrap();
    assert!(!scratch.adapter.exists(&file));
    assert!(!scratch.adapter.exists(scratch.path("link")));
}
