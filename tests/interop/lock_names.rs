//! The names of lock files, and Python's xxh3.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use atomic_file_adapter::AtomicFileAdapter;

use crate::Scratch;
use crate::common::names;

/// The names that Python computes for the lock files of `paths`. `path` is a Python expression for the bytes to hash;
/// `given` are the bytes that it was given.
fn names_by_python(path: &str, paths: &[PathBuf]) -> Vec<String> {
    let script = format!(
        "import os, sys, xxhash\n\
         for given in sys.stdin.buffer.read().split(b'\\0'):\n\
        \x20   print(xxhash.xxh3_64_hexdigest({path}) + '.lock')"
    );
    let input: Vec<&[u8]> = paths.iter().map(|path| path.as_os_str().as_bytes()).collect();
    let mut python = assert_cmd::Command::new("python3");
    let assert = python.args(["-c", &script]).write_stdin(input.join(&0)).assert().success();
    let output = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
    let names: Vec<String> = output.lines().map(String::from).collect();
    assert_eq!(names.len(), paths.len());
    names
}

fn names_by_us(adapter: &AtomicFileAdapter, paths: &[PathBuf]) -> Vec<String> {
    let name = |path| {
        let lock = adapter.lock_path(path).unwrap();
        assert_eq!(lock.parent(), Some(adapter.lock_dir()));
        lock.file_name().unwrap().to_str().unwrap().to_owned()
    };
    paths.iter().map(name).collect()
}

#[track_caller]
fn assert_same_names(paths: &[PathBuf], ours: &[String], pythons: &[String]) {
    for ((path, ours), pythons) in paths.iter().zip(ours).zip(pythons) {
        assert_eq!(ours, pythons, "{} bytes: {path:?}", path.as_os_str().len());
    }
}

/// A path of `len` bytes that does not exist. Its names have any allowed bytes, or ASCII only.
fn path_of_len(len: usize, ascii: bool) -> PathBuf {
    // Less than NAME_MAX by one at least.
    const LONG_NAME: usize = 200;
    let mut state = len as u64;
    let mut bytes = b"/x".to_vec();
    while bytes.len() < len {
        // MMIX, Knuth
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let byte = (state >> 33) as u8;
        let name = bytes.rsplit(|byte| *byte == b'/').next().unwrap_or_default().len();
        bytes.push(match if ascii { byte & 0x7F } else { byte } {
            // A slash at the end would make it the path of a directory.
            _ if name >= LONG_NAME && bytes.len() + 1 < len => b'/',
            // `.` so that no name is `.` or `..`.
            0 | b'/' | b'.' => b' ',
            byte => byte,
        });
    }
    OsStr::from_bytes(&bytes).into()
}

pub(crate) fn lock_names_are_those_of_another_xxh3() {
    // xxh3 uses different code for up to 16, 128, 240 and more bytes, and beyond each block of 1024.
    let lengths = (2..=260).chain([300, 511, 512, 513, 1023, 1024, 1025, 1088, 2047, 2048, 2049, 3000, 4000]);
    let lengths = lengths.filter(|len| len + 16 < libc::PATH_MAX as usize);
    let mut paths: Vec<PathBuf> = lengths.clone().map(|len| path_of_len(len, true)).collect();
    if cfg!(target_os = "linux") {
        // Apple's file systems refuse names that are not UTF-8.
        paths.extend(lengths.map(|len| path_of_len(len, false)));
        paths.push(OsStr::from_bytes(b"/x\xFF\xFE/\x80").into());
    }
    paths.extend(
        ["/xä", "/x/日本語/ファイル", "/x with spaces/and more ", "/x\n\t\r/y\\z", "/x'\"$(*)", "/x🦀/🦀🦀🦀/🦀.txt"]
            .map(PathBuf::from),
    );
    let scratch = Scratch::new();
    for name in ["plain", "with space", "ünï", &"long".repeat(60)] {
        let path = scratch.path.join(name);
        fs::write(&path, "x").unwrap();
        paths.push(path);
    }
    for path in &paths {
        // Otherwise this would not show which bytes were hashed.
        assert_eq!(scratch.adapter.file(path).unwrap().path(), path, "not canonical");
    }
    let pythons = names_by_python("os.fsencode(os.fsdecode(given))", &paths);
    assert_same_names(&paths, &names_by_us(&scratch.adapter, &paths), &pythons);
    assert!(names(&scratch.path).iter().all(|name| name != ".jerry"), "asking has made something");
}

pub(crate) fn lock_names_below_a_root_are_those_of_another_xxh3() {
    let scratch = Scratch::new();
    let lengths = (1..=260).chain([511, 512, 513, 1023, 1024, 1025, 1088, 2047, 2048, 2049, 3000]);
    let below: Vec<PathBuf> = lengths.map(|len| path_of_len(len + 1, true).strip_prefix("/").unwrap().into()).collect();
    for root in [Path::new("/no/such/root"), Path::new("/"), &*scratch.path] {
        let builder = AtomicFileAdapter::builder().lock_root(root).lock_dir(scratch.lock_dir());
        let paths: Vec<PathBuf> = below.iter().map(|below| root.join(below)).collect();
        let ours = names_by_us(&builder.build().unwrap(), &paths);
        assert_same_names(&paths, &ours, &names_by_python("given", &below));
    }
}

pub(crate) fn temporary_names_are_those_of_another_xxh3() {
    let script = "import xxhash\n\
        digits = 'abcdefghijklmnopqrstuvwxyz234567'\n\
        for length in range(1, 240):\n\
        \x20   before = '.' + 'x' * length + '.' + ''.join(digits[(length * n) % 32] for n in range(3, 10))\n\
        \x20   hash = xxhash.xxh3_64_intdigest(before.encode())\n\
        \x20   check = ''.join(digits[hash >> shift & 31] for shift in (10, 5, 0))\n\
        \x20   open(before + check + '.tmp', 'w')";
    let scratch = Scratch::new();
    let mut python = assert_cmd::Command::new("python3");
    python.current_dir(&scratch.path).args(["-c", script]).assert().success();
    assert_eq!(names(&scratch.path).len(), 239);
    assert_eq!(scratch.adapter.sweep(&scratch.path).unwrap().len(), 239);
    assert_eq!(names(&scratch.path), [".jerry"]);
}

pub(crate) fn python_finds_the_lock_of_any_spelling_by_realpath() {
    let scratch = Scratch::new();
    let at = |name: &str| scratch.path.join(name);
    fs::create_dir_all(at("real/deep")).unwrap();
    fs::write(at("real/file"), "x").unwrap();
    symlink("real", at("dirlink")).unwrap();
    symlink(at("dirlink/deep"), at("deeplink")).unwrap();
    symlink("deeplink/../file", at("link")).unwrap();
    symlink("link", at("link to link")).unwrap();
    symlink("dirlink/missing", at("dangling")).unwrap();
    symlink("missing dir/missing", at("real/dangling")).unwrap();
    let paths = [
        "real/file",
        "real/../real/./file",
        "real//deep///../file",
        "dirlink/file",
        "dirlink/deep/../../real/file",
        // `..` leads out of the link's target, not out of the directory of the link.
        "deeplink/../file",
        "link",
        "link to link",
        "dangling",
        "dirlink/dangling",
        "deeplink/missing",
        "dirlink/missing dir/missing",
        "deeplink/../missing dir/a/b/c",
    ]
    .map(at);
    let ours = names_by_us(&scratch.adapter, &paths);
    assert_same_names(&paths, &ours, &names_by_python("os.path.realpath(given)", &paths));
    let file = &ours[0];
    assert_eq!(ours.iter().filter(|name| *name == file).count(), 8);
}
