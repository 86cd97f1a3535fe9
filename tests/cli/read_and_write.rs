//! `read` and `write`.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use assert_cmd::assert::Assert;
use atomic_file_adapter::AtomicFileAdapter;

use crate::{DONE, FAILED, MISSING, MORE_THAN_A_PIPE, Scratch, TIMED_OUT, TOOL, message};

#[test]
fn read_gives_back_the_bytes_that_write_was_given() {
    let every_byte: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    // The last two are just at the limit up to which the input is kept in memory, and just over it.
    for contents in [vec![], b"one line\n".to_vec(), every_byte, vec![0; 1 << 20], vec![0xFF; (1 << 20) + 1]] {
        let scratch = Scratch::new();
        scratch.tool(&["write", "file"]).write_stdin(contents.clone()).assert().success().stdout("").stderr("");
        assert!(scratch.contents("file") == contents);
        let read = scratch.run(&["read", "file"]).success().stderr("");
        assert!(read.get_output().stdout == contents, "{} bytes", contents.len());
        assert_eq!(scratch.names(), ["file"]);
    }
}

#[test]
fn write_replaces_longer_contents_as_a_whole() {
    let scratch = Scratch::with("file", "something longer");
    scratch.tool(&["write", "file"]).write_stdin("new").assert().success();
    assert_eq!(scratch.contents("file"), b"new");
    scratch.run(&["write", "file"]).success();
    assert_eq!(scratch.contents("file"), b"");
}

#[test]
fn write_makes_the_directories_above_the_file() {
    let scratch = Scratch::new();
    scratch.tool(&["write", "new/deep/file"]).write_stdin("x").assert().success();
    assert_eq!(scratch.contents("new/deep/file"), b"x");
}

#[test]
fn write_through_a_symlink_keeps_the_link() {
    let scratch = Scratch::with("file", "old");
    symlink("file", scratch.at("link")).unwrap();
    scratch.tool(&["write", "link"]).write_stdin("new").assert().success();
    assert_eq!(scratch.at("link").read_link().unwrap(), Path::new("file"));
    assert_eq!(scratch.contents("file"), b"new");
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: Apple's file systems refuse such names")]
fn names_need_not_be_utf_8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let scratch = Scratch::new();
    let (name, lock_dir) = (OsStr::from_bytes(b"caf\xE9"), OsStr::from_bytes(b"locks\xFF"));
    let call = |verb: &str| {
        let mut tool = scratch.tool(&[verb]);
        tool.arg(name).arg("--lock-dir").arg(lock_dir);
        tool
    };
    call("write").write_stdin("x").assert().success();
    assert_eq!(fs::read(scratch.path.join(name)).unwrap(), b"x");
    call("read").assert().success().stdout("x");
    let lock = AtomicFileAdapter::with_lock_dir(scratch.path.join(lock_dir)).unwrap();
    let lock = lock.lock_path(scratch.path.join(name)).unwrap();
    call("lock-path").assert().success().stdout([lock.as_os_str().as_bytes(), b"\n"].concat());
}

#[test]
fn a_missing_file_reads_as_nothing() {
    let scratch = Scratch::new();
    scratch.run(&["read", "file"]).code(DONE).stdout("").stderr("");
    scratch.run(&["read", "no/such/directory/file"]).code(DONE).stdout("").stderr("");
    assert!(scratch.names().is_empty());
}

#[test]
fn read_must_exist_tells_a_missing_file_from_an_empty_one() {
    let scratch = Scratch::with("empty", "");
    scratch.run(&["read", "--must-exist", "file"]).code(MISSING).stdout("").stderr("");
    scratch.run(&["read", "--must-exist", "empty"]).code(DONE).stdout("").stderr("");
}

#[test]
fn read_ends_quietly_when_nobody_wants_the_rest() {
    // Much more than a pipe holds.
    let scratch = Scratch::with("file", vec![b'x'; 4 << 20]);
    let mut child = scratch.command(&["read", "file"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0];
    // The pipe is closed at the end of this statement.
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(DONE), String::new()));
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: /dev/full")]
fn output_that_cannot_be_written_is_an_error() {
    let scratch = Scratch::with("file", "x");
    scratch.run(&["run", "file", "--", "true"]).success();
    for args in [&["read", "file"][..], &["lock-path", "file"], &["locks"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let assert = scratch.command(args).stdout(full).output().map(Assert::new).unwrap().code(FAILED);
        assert!(message(&assert).starts_with("cannot write to standard output: No space left"), "{args:?}");
    }
}

/// Runs a shell script in which `AF` is the tool. A signal ends the tool if a file grows for ever.
fn sh(scratch: &Scratch, script: &str) -> Assert {
    let mut sh = assert_cmd::Command::new("sh");
    let af = format!("ulimit -f 2000; AF() {{ '{TOOL}' \"$@\"; }}; ");
    sh.args(["-c", &(af + script)]).current_dir(&scratch.path).timeout(Duration::from_secs(60)).assert()
}

#[test]
fn what_would_be_read_and_written_for_ever_is_refused() {
    for script in ["AF read file >>file", "{ echo x; AF read file; } >file", "{ echo x; AF read file; } 1<>file"] {
        let scratch = Scratch::with("file", "old\n");
        let assert = sh(&scratch, script).code(FAILED).stdout("");
        let name = scratch.at("file");
        assert_eq!(
            message(&assert),
            format!(
                "cannot read {}: it is also standard output, and would be read for ever; write to another file",
                name.display()
            ),
            "{script}"
        );
        assert!(scratch.contents("file").len() <= 4, "{script}");
    }
}

#[test]
fn output_into_the_file_itself_that_comes_to_an_end_is_allowed() {
    for (old, script, new) in [
        ("", "AF read file >>file", ""),
        // The shell has emptied the file.
        ("old", "AF read file >file", ""),
        ("old", "AF read file 1<>file", "old"),
        ("old", "cp file other; AF read file >>other; mv other file", "oldold"),
        // The new version is another file.
        ("old", "AF read file | AF write file", "old"),
        ("old", "AF write file <file", "old"),
    ] {
        let scratch = Scratch::with("file", old);
        sh(&scratch, script).success().stdout("").stderr("");
        assert_eq!(String::from_utf8(scratch.contents("file")).unwrap(), new, "{script}");
    }
}

#[test]
fn write_with_its_input_closed_is_refused() {
    for script in ["AF write file <&-", "AF write file <&- >&-"] {
        let scratch = Scratch::with("file", "old");
        let assert = sh(&scratch, script).code(FAILED);
        assert_eq!(
            message(&assert),
            "cannot read standard input: it is closed, or /dev/null that is open for writing, too (to empty the file: </dev/null)"
        );
        assert_eq!(scratch.contents("file"), b"old");
        assert_eq!(scratch.names(), ["file"]);
    }
    let scratch = Scratch::with("file", "old");
    // Open for writing only.
    let assert = sh(&scratch, "AF write file 0>/dev/null").code(FAILED);
    assert!(message(&assert).starts_with("cannot read standard input: Bad file descriptor"));
    assert_eq!(scratch.contents("file"), b"old");
    sh(&scratch, "AF write file </dev/null").success();
    assert_eq!(scratch.contents("file"), b"");
}

/// Other programs open /dev/null for reading and writing to throw the contents away.
#[test]
fn read_to_nowhere_is_no_error() {
    let scratch = Scratch::with("file", "old");
    for script in ["AF read file >/dev/null", "AF read file 1<>/dev/null", "AF read file <&- | grep -q old"] {
        sh(&scratch, script).success().stdout("").stderr("");
    }
    sh(&scratch, "AF read file 2>&- <&-").success().stdout("old");
}

#[test]
fn input_that_cannot_be_read_changes_nothing() {
    let scratch = Scratch::with("file", "old");
    let directory = fs::File::open(&scratch.path).unwrap();
    let assert = scratch.command(&["write", "file"]).stdin(directory).output().map(Assert::new).unwrap().code(FAILED);
    assert!(message(&assert).starts_with("cannot read standard input: Is a directory"));
    assert_eq!(scratch.contents("file"), b"old");
    assert_eq!(scratch.names(), ["file"]);
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "needs Linux: elsewhere a socket that is closed with unread data in it just ends"
)]
fn input_that_breaks_in_the_middle_changes_nothing() {
    use std::io::Write;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    let scratch = Scratch::with("file", "old");
    let (mut ours, mut its) = UnixStream::pair().unwrap();
    // If our end closes with unread data, the other end gets a reset instead of an end (unix_release_sock in
    // net/unix/af_unix.c).
    its.write_all(b"unread").unwrap();
    let mut command = scratch.command(&["write", "file"]);
    command.stdin(OwnedFd::from(its)).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    // The process has its own copy. The copy in `command` would keep the socket open.
    drop(command);
    ours.write_all(&vec![b'x'; 3 << 20]).unwrap();
    drop(ours);
    let assert = Assert::new(child.wait_with_output().unwrap()).code(FAILED);
    assert!(message(&assert).starts_with("cannot read standard input: Connection reset"));
    assert_eq!(scratch.contents("file"), b"old");
    assert_eq!(scratch.names(), ["file"]);
}

#[test]
fn a_write_that_waits_for_its_input_keeps_nobody_out() {
    let scratch = Scratch::with("file", "old");
    let mut slow = scratch.start(&["write", "file"]);
    let half = "x".repeat(MORE_THAN_A_PIPE);
    slow.tell(&half);
    scratch.run(&["--timeout", "0", "read", "file"]).code(DONE).stdout("old");
    scratch.tool(&["--timeout", "0", "write", "file"]).write_stdin("in between").assert().code(DONE);
    slow.tell("end");
    slow.finish();
    assert_eq!(String::from_utf8(scratch.contents("file")).unwrap(), half + "\nend\n");
}

#[test]
fn a_write_of_more_than_a_mebibyte_has_the_lock_while_it_streams() {
    let scratch = Scratch::with("file", "old");
    let mut slow = scratch.start(&["write", "file"]);
    let half = "x".repeat((1 << 20) + MORE_THAN_A_PIPE);
    slow.tell(&half);
    scratch.run(&["--timeout", "0", "read", "file"]).code(TIMED_OUT).stdout("");
    assert_eq!(scratch.contents("file"), b"old");
    slow.tell("end");
    slow.finish();
    assert!(scratch.contents("file") == (half + "\nend\n").into_bytes());
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: macOS does not enforce `ulimit -v`")]
fn contents_larger_than_the_memory_stream_through_write_read_and_update() {
    let scratch = Scratch::new();
    // Numbers, so that a piece that is lost, repeated or misplaced shows. 200 MB of address space for 300 MB of data.
    let data = "seq 100000000 | head -c 300000000";
    let limit = "ulimit -v 200000";
    let sh = |script: &str| {
        let mut sh = assert_cmd::Command::new("sh");
        sh.args(["-c", script, TOOL]).current_dir(&scratch.path).timeout(Duration::from_secs(300));
        sh.assert().success().stdout("").stderr("");
    };
    // Without syncs, because 600 MB of them would take long, and the test is not about durability.
    sh(&format!("{data} | ({limit}; \"$0\" --durability none write big)"));
    sh(&format!("{data} | cmp - big"));
    sh(&format!("({limit}; \"$0\" read big) | cmp - big"));
    sh(&format!("{limit}; \"$0\" --durability none update big -- tr 0-9 1-90"));
    sh(&format!("{data} | tr 0-9 1-90 | cmp - big"));
    assert_eq!(scratch.names(), ["big"]);
}

/// Appends as `sponge -a` does, under one lock.
#[test]
fn write_appends_if_it_is_asked_to() {
    let scratch = Scratch::new();
    let append = |option: &str, text: &str| {
        scratch.tool(&["write", option, "file"]).write_stdin(text.to_owned()).assert().success().stdout("").stderr("");
    };
    append("-a", "one\n");
    append("--append", "two\n");
    append("-a", "");
    assert_eq!(scratch.contents("file"), b"one\ntwo\n");
    // More than the tool reads before it takes the lock, appended to more than it copies at once.
    let much = "x".repeat(3 << 20);
    append("-a", &much);
    append("-a", &much);
    assert!(scratch.contents("file") == format!("one\ntwo\n{much}{much}").into_bytes());
    assert_eq!(scratch.names(), ["file"]);
    // No appended line is lost.
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| scratch.tool(&["write", "-a", "lines"]).write_stdin("line\n").assert().success());
        }
    });
    assert_eq!(scratch.contents("lines"), "line\n".repeat(8).as_bytes());
}
