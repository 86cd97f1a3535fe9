//! Symbolic links, and hard ones.

use std::fs;
use std::os::unix::fs::MetadataExt;

use atomic_file_adapter::{Error, FileKind};

use crate::common::names;
use crate::{Scratch, contents, errors, os_error};

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
    // The path that is written, its canonical path, and the links on the way.
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
    // Also on the way to a file that does not exist yet.
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
