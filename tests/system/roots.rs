//! Other root directories: one without `/proc`, and the root of another process.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use atomic_file_adapter::AtomicFileAdapter;

use crate::common::{Worker, hear, names, tell};
use crate::disks::Mount;
use crate::{Scratch, utf8};

pub(crate) fn without_proc_locks_have_the_same_names() {
    let scratch = Scratch::new();
    let proc = scratch.make_dir("proc", 0, 0o755);
    let mut worker = Worker::start("name_locks_in_chroot", &[utf8(&scratch.dir)]);
    worker.expect("without /proc");
    let _mount = Mount::new(&proc, &["-t", "proc", "proc"]);
    worker.tell("look again");
    worker.expect("with /proc");
    worker.finish();
}

/// The text of the link `/proc/PID/root` does not tell which directory it is, for example the root of a container.
pub(crate) fn the_root_of_another_process() {
    let scratch = Scratch::new();
    let mount = format!("mount -t tmpfs tmpfs {} && echo ready && read line", scratch.dir.display());
    let mut other = Worker::spawn(Command::new("unshare").args(["--mount", "sh", "-c", &mount]));
    other.expect("ready");
    let there = PathBuf::from(format!("/proc/{}/root{}", other.pid(), scratch.dir.display()));
    for name in ["file", "missing/file", "missing/deeper/file"] {
        scratch.adapter.write_atomic(there.join(name), name).unwrap();
        assert_eq!(names(&scratch.dir), [""; 0], "{name} was written to this process's root");
        assert_eq!(fs::read_to_string(there.join(name)).unwrap(), name);
        assert_eq!(scratch.adapter.read_to_string_with_lock(there.join(name)).unwrap().unwrap(), name);
    }
    other.tell("done");
    other.finish();
}

pub(crate) fn name_locks_in_chroot(args: &[String]) {
    nix::unistd::chroot(args[0].as_str()).unwrap();
    fs::create_dir_all("/dir/sub").unwrap();
    fs::write("/dir/sub/file", "old").unwrap();
    for (target, link) in [
        ("dir/sub", "/relative"),
        ("/relative/..", "/absolute"),
        ("/missing", "/dangling"),
        ("../absolute/sub/file", "/dir/link"),
    ] {
        symlink(target, link).unwrap();
    }
    std::env::set_current_dir("/dir").unwrap();
    let adapter = AtomicFileAdapter::with_lock_dir("/locks").unwrap();
    let files = [
        ("/dir/sub/file", ["sub/../../relative/file", "/dir/link", "//relative/./file", "../../dir/sub/file"]),
        ("/dir/file", ["file", "/relative/../file", "/absolute/file", "./file"]),
        ("/file", ["../file", "/../file", "/absolute/../file", "sub/../../file"]),
        ("/missing/file", ["/dangling/file", "../missing/file", "/dir/../dangling/./file", "/missing//file"]),
        ("/dir/a/b/file", ["/relative/../a/b/file", "a/./b/file", "/absolute/a//b/file", "../dir/a/b/file"]),
    ];
    let look = || {
        files.map(|(file, spellings)| {
            let handle = adapter.file(file).unwrap();
            assert_eq!(handle.path(), Path::new(file));
            for spelling in spellings {
                assert_eq!(adapter.lock_path(spelling).unwrap(), handle.lock_path(), "{spelling} for {file}");
            }
            handle.lock_path().to_owned()
        })
    };
    assert!(!Path::new("/proc/self").exists());
    let without = look();
    for spelling in files[0].1 {
        adapter.write_atomic(spelling, spelling).unwrap();
        assert_eq!(fs::read_to_string("/dir/sub/file").unwrap(), spelling);
    }
    tell("without /proc");
    assert_eq!(hear(), "look again");
    assert!(Path::new("/proc/self").exists());
    assert_eq!(look(), without);
    tell("with /proc");
}
