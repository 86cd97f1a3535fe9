//! All spellings of a path have the same lock.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::names;
use crate::{Scratch, contents};

/// The path from the current directory to `path`. It goes up first.
pub fn relative(path: &Path) -> PathBuf {
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
    // The same name does not make the same file.
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

/// Mac volumes ignore case unless they were made otherwise. Most of Linux's file systems do not.
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
    // Each of them has its own name, whatever the system reports of the other.
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
fn a_path_that_is_too_long_for_one_call_has_one_lock() {
    let scratch = Scratch::new();
    // Each is as long as a path may be, and starts at the end of the one before.
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
