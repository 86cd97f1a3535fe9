//! Files that are not regular.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use atomic_file_adapter::{Error, FileKind};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::common::names;
use crate::{Scratch, errors, promptly};

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

// The links in /proc/self/fd lead to open files, and not to the path in their text.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: /proc")]
fn a_pipe_behind_a_descriptor_is_a_fifo_and_not_a_missing_file() {
    let scratch = Scratch::new();
    let (reader, _writer) = nix::unistd::pipe().unwrap();
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
