//! The reader in `src/docs/protocol.md`, and the command.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::common::{Worker, names, until_it_waits_for_a_lock};
use crate::{Scratch, TOOL};

/// Writes the protocol's Python to `reader.py`.
fn reader_of_the_readme(scratch: &Scratch) {
    let blocks: Vec<&str> = include_str!("../../src/docs/protocol.md").split("\n```python\n").skip(1).collect();
    let [block] = blocks[..] else { panic!("{} blocks of Python in the protocol", blocks.len()) };
    let (program, _) = block.split_once("\n```\n").unwrap();
    fs::write(scratch.path.join("reader.py"), program).unwrap();
}

fn in_scratch(scratch: &Scratch, program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.current_dir(&scratch.path).args(args);
    command
}

/// The command holds the lock of `file` until it gets a line, which becomes the contents.
fn holder(scratch: &Scratch) -> Worker {
    let args = ["run", "file", "--", "sh", "-c", "echo held; read new; echo $new >file"];
    let mut holder = Worker::spawn(&mut in_scratch(scratch, TOOL.unwrap(), &args));
    holder.expect("held");
    holder
}

pub(crate) fn the_readmes_reader_reads_what_the_command_writes() {
    let scratch = Scratch::new();
    reader_of_the_readme(&scratch);
    let every_byte: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    fs::create_dir(scratch.path.join("real")).unwrap();
    symlink("real", scratch.path.join("dir")).unwrap();
    symlink("dir/../real/ünï", scratch.path.join("link")).unwrap();
    let read = |path: &str| {
        let mut reader = assert_cmd::Command::from_std(in_scratch(&scratch, "python3", &["reader.py", path]));
        reader.assert().success().stderr("").get_output().stdout.clone()
    };
    assert_eq!(read("link"), b"");
    let mut write = assert_cmd::Command::from_std(in_scratch(&scratch, TOOL.unwrap(), &["write", "real/ünï"]));
    write.write_stdin(every_byte.clone()).assert().success();
    for spelling in ["real/ünï", "dir/ünï", "./link", scratch.path.join("real/../link").to_str().unwrap()] {
        assert!(read(spelling) == every_byte, "{spelling}");
    }
    // All of them have used one lock file, which is the command's.
    assert_eq!(names(scratch.lock_dir()).iter().filter(|name| name.ends_with(".lock")).count(), 1);
}

pub(crate) fn the_readmes_reader_waits_for_the_command() {
    let scratch = Scratch::new();
    reader_of_the_readme(&scratch);
    fs::write(scratch.path.join("file"), "old\n").unwrap();
    let mut holder = holder(&scratch);
    let mut reader = Worker::spawn(&mut in_scratch(&scratch, "python3", &["reader.py", "file"]));
    until_it_waits_for_a_lock(&reader);
    holder.tell("new");
    holder.finish();
    reader.expect("new");
    reader.finish();
}

pub(crate) fn the_readmes_reader_keeps_the_commands_writers_out() {
    // The reader holds its lock for a while: under the lock it opens a FIFO, and waits until somebody writes to it.
    let scratch = Scratch::new();
    reader_of_the_readme(&scratch);
    nix::unistd::mkfifo(&scratch.path.join("file"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut reader = Worker::spawn(&mut in_scratch(&scratch, "python3", &["reader.py", "file"]));
    // This open returns when the reader opens the FIFO.
    let mut fifo = fs::OpenOptions::new().write(true).open(scratch.path.join("file")).unwrap();
    let try_run = |how: &[&str]| {
        let args = [&["--timeout", "0", "run"], how, &["file", "--", "true"]].concat();
        in_scratch(&scratch, TOOL.unwrap(), &args).output().unwrap().status.code()
    };
    assert_eq!((try_run(&[]), try_run(&["--shared"])), (Some(4), Some(0)));
    fifo.write_all(b"contents\n").unwrap();
    drop(fifo);
    reader.expect("contents");
    reader.finish();
    assert_eq!(try_run(&[]), Some(0));
}

pub(crate) fn the_readmes_reader_notices_that_its_lock_file_was_removed() {
    let scratch = Scratch::new();
    reader_of_the_readme(&scratch);
    fs::write(scratch.path.join("file"), "old\n").unwrap();
    let mut first = holder(&scratch);
    let mut reader = Worker::spawn(&mut in_scratch(&scratch, "python3", &["reader.py", "file"]));
    until_it_waits_for_a_lock(&reader);
    fs::remove_file(scratch.file().lock_path()).unwrap();
    let mut second = holder(&scratch);
    first.tell("torn");
    first.finish();
    // It has got the first lock, and has to wait for another one now.
    until_it_waits_for_a_lock(&reader);
    second.tell("new");
    second.finish();
    reader.expect("new");
    reader.finish();
}

pub(crate) fn the_readmes_reader_has_the_commands_locks_below_a_root() {
    let scratch = Scratch::new();
    reader_of_the_readme(&scratch);
    fs::create_dir_all(scratch.path.join("data/sub")).unwrap();
    fs::write(scratch.path.join("data/sub/file"), "old\n").unwrap();
    // The place where the reader finds it.
    symlink("data", scratch.path.join("mount")).unwrap();
    let args = [
        "--lock-root",
        "data",
        "run",
        "data/sub/file",
        "--",
        "sh",
        "-c",
        "echo held; read new; echo $new >data/sub/file",
    ];
    let mut holder = Worker::spawn(&mut in_scratch(&scratch, TOOL.unwrap(), &args));
    holder.expect("held");
    let args = ["reader.py", "mount/sub/file", "mount/.jerry/local/locks", "mount/"];
    let mut reader = Worker::spawn(&mut in_scratch(&scratch, "python3", &args));
    until_it_waits_for_a_lock(&reader);
    holder.tell("new");
    holder.finish();
    reader.expect("new");
    reader.finish();
    let outside = ["reader.py", "data/../database", "locks", "data"];
    let refused = in_scratch(&scratch, "python3", &outside).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is not below the lock root"));
}
