//! An adapter that follows no symbolic links.

use std::io;
use std::path::{Path, PathBuf};

use atomic_file_adapter::{AtomicFileAdapter, Error};

use crate::common::names;
use crate::spellings::relative;
use crate::{Scratch, contents, errors};

fn strict(scratch: &Scratch) -> AtomicFileAdapter {
    AtomicFileAdapter::builder().lock_dir(scratch.adapter.lock_dir()).follow_links(false).build().unwrap()
}

/// Links to a file, to directories and to nothing, and paths through them, each with the first link in it.
fn paths_with_links(scratch: &Scratch) -> Vec<(PathBuf, &'static str)> {
    let target = scratch.make("real/target");
    scratch.make("below/deep/file");
    scratch.link(&target, "absolute");
    scratch.link("real/target", "relative");
    scratch.link("relative", "chain");
    scratch.link("nowhere", "dangling");
    scratch.link("real", "dir");
    scratch.link("../../real", "below/deep/up");
    let dir = scratch.dir.to_str().unwrap();
    let cases = [
        ("absolute", "absolute"),
        ("relative", "relative"),
        ("chain", "chain"),
        ("dangling", "dangling"),
        ("dir", "dir"),
        ("dir/target", "dir"),
        ("dir/missing", "dir"),
        ("dir/missing/target", "dir"),
        ("dir/../real/target", "dir"),
        ("dir/./target", "dir"),
        ("dir//target", "dir"),
        ("dangling/target", "dangling"),
        ("below/deep/up/target", "below/deep/up"),
        ("below/../dir/target", "dir"),
        ("below/./deep/up/../real/target", "below/deep/up"),
    ];
    let mut paths: Vec<_> = cases.map(|(path, link)| (PathBuf::from(format!("{dir}/{path}")), link)).to_vec();
    paths.extend(cases.map(|(path, link)| (relative(&scratch.dir).join(path), link)));
    paths
}

#[track_caller]
fn assert_refused(error: &Error, path: &Path, expected: &Path) {
    let Error::SymbolicLink { path: told, link, .. } = error else { panic!("{path:?}: {error:?}") };
    assert_eq!((&**told, error.path(), &**link), (path, path, expected));
    let text = error.to_string();
    assert!(text.contains(path.to_str().unwrap()) && text.contains(expected.to_str().unwrap()), "{text}");
    assert_eq!(error.kind(), io::Error::from_raw_os_error(libc::ELOOP).kind());
}

fn all_are_refused(scratch: &Scratch, paths: &[(PathBuf, &str)]) {
    let strict = strict(scratch);
    let before = names(&scratch.dir);
    for (path, link) in paths {
        let link = scratch.path(link);
        for (_, error) in errors(&strict, path) {
            assert_refused(&error, path, &link);
        }
        assert_refused(&strict.file(path).unwrap_err(), path, &link);
        assert_refused(&strict.lock_path(path).unwrap_err(), path, &link);
        assert_refused(&strict.sweep(path).unwrap_err(), path, &link);
        assert_refused(&strict.lock_many([scratch.path("file"), path.clone()]).unwrap_err(), path, &link);
        let absolute = std::env::current_dir().unwrap().join(path);
        for batch in [strict.batch().write(path, "new"), strict.batch().delete(path)] {
            let Err(Error::Batch { replaced, source, .. }) = batch.commit() else { panic!("{path:?}") };
            assert!(replaced.is_empty());
            assert_refused(&source, &absolute, &link);
        }
        assert!(!strict.exists(path), "{path:?}");
    }
    assert_eq!(names(&scratch.dir), before);
    assert_eq!((contents(&scratch.path("real/target")), names(&scratch.path("real")).len()), ("real/target".into(), 1));
    assert!(scratch.adapter.locks().unwrap().is_empty(), "took a lock");
}

#[test]
fn a_link_is_refused_wherever_it_is() {
    let scratch = Scratch::new();
    let paths = paths_with_links(&scratch);
    all_are_refused(&scratch, &paths);
    // Otherwise this test would prove little.
    assert_eq!(paths.iter().filter(|(path, _)| scratch.adapter.exists(path)).count(), 2 * 10);
    // A directory that is swept. Its own name is not a link.
    strict(&scratch).sweep(scratch.path("below/deep/..")).unwrap();
    for directory in ["dir/", "below/deep/up/."] {
        let error = strict(&scratch).sweep(scratch.path(directory)).unwrap_err();
        assert!(matches!(error, Error::SymbolicLink { .. }), "{error:?}");
    }
}

#[test]
fn without_links_all_is_as_ever() {
    let scratch = Scratch::new();
    let strict = strict(&scratch);
    scratch.make("dir/sub/file");
    let missing = relative(&scratch.path("dir")).join("new/er/file");
    let spellings =
        ["file", "dir/sub/file", "dir/../file", "./dir//sub/./file", "missing/deep/file", "dir/sub/../sub/file"];
    for path in spellings.map(|path| scratch.path(path)).into_iter().chain([missing]) {
        let lock = scratch.adapter.lock_path(&path).unwrap();
        assert_eq!(strict.lock_path(&path).unwrap(), lock, "{path:?}");
        strict.write_atomic(&path, "new").unwrap();
        assert!(strict.exists(&path) && scratch.adapter.exists(&path), "{path:?}");
        assert_eq!(strict.read_to_string_with_lock(&path).unwrap().unwrap(), "new", "{path:?}");
        strict.update(&path, |old| [old.unwrap(), b"er"].concat()).unwrap();
        assert_eq!(contents(&path), "newer", "{path:?}");
        assert_eq!(strict.lock_path(&path).unwrap(), lock, "{path:?}");
        assert_eq!(strict.sweep(&path).unwrap(), [""; 0].map(PathBuf::from), "{path:?}");
        strict.batch().write(&path, "batch").commit().unwrap();
        assert_eq!(contents(&path), "batch", "{path:?}");
        assert!(strict.delete_with_lock(&path).unwrap() && !strict.exists(&path), "{path:?}");
    }
    assert!(!strict.exists(scratch.path("dir")) && !strict.exists(scratch.path("dir/missing/file")));
}

#[test]
fn a_lock_directory_behind_a_link_is_another_matter() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("locks")).unwrap();
    let link = scratch.link("locks", "link-to-locks");
    let adapter = AtomicFileAdapter::builder().lock_dir(link).follow_links(false).build().unwrap();
    adapter.write_atomic(scratch.path("file"), "new").unwrap();
    assert_eq!(contents(&scratch.path("file")), "new");
}

#[cfg(feature = "fault-injection")]
mod by_hand {
    use std::fs;
    use std::os::unix::fs::symlink;

    use atomic_file_adapter::fault::{Action, Call, Syscall, inject};

    use super::*;

    /// A kernel without openat2.
    fn old_kernel(call: &Call<'_>) -> Action {
        if call.syscall == Syscall::Openat2 { Action::Fail(libc::ENOSYS) } else { Action::Proceed }
    }

    #[test]
    fn a_link_is_refused_by_an_old_kernel() {
        let scratch = Scratch::new();
        let paths = paths_with_links(&scratch);
        inject(old_kernel, move || all_are_refused(&scratch, &paths));
    }

    #[test]
    fn a_link_that_appears_after_the_look_is_not_followed() {
        let scratch = Scratch::new();
        let victim = scratch.make("elsewhere/file");
        scratch.make("dir/file");
        let (dir, moved) = (scratch.path("dir"), scratch.path("moved"));
        let mut swapped = false;
        let swap = move |call: &Call<'_>| {
            if call.syscall == Syscall::Openat && call.path.is_some_and(|path| path.ends_with("dir")) && !swapped {
                swapped = true;
                fs::rename(&dir, &moved).unwrap();
                symlink("elsewhere", &dir).unwrap();
            }
            old_kernel(call)
        };
        let written = inject(swap, || strict(&scratch).write_atomic(scratch.path("dir/file"), "new")).0;
        assert!(scratch.path("dir").is_symlink(), "it was not opened");
        let error = written.unwrap_err();
        assert!([libc::ENOTDIR, libc::ELOOP].map(Some).contains(&crate::os_error(&error)), "{error:?}");
        assert_eq!(
            (contents(&victim), contents(&scratch.path("moved/file"))),
            ("elsewhere/file".into(), "dir/file".into())
        );
    }
}
