//! Together with programs that are not ours: Python's record locks and its xxh3, and git.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use atomic_file_adapter::{AtomicFile, AtomicFileAdapter, Error};
use tempfile::TempDir;

use common::{Worker, names, no_program, test_if, until_it_waits_for_a_lock};

/// The command line tool, if it was built.
const TOOL: Option<&str> = option_env!("CARGO_BIN_EXE_atomic-file");

fn main() -> ExitCode {
    let xxhash = no_program("python3", &["-c", "import xxhash"], "needs python3 with xxhash");
    let python = no_program("python3", &["--version"], "needs python3");
    let reader = xxhash.or(TOOL.is_none().then_some("needs the feature cli"));
    let git = no_program("git", &["--version"], "needs git");
    let tests = vec![
        test_if(xxhash, "lock_names_are_those_of_another_xxh3", lock_names_are_those_of_another_xxh3),
        test_if(
            xxhash,
            "python_finds_the_lock_of_any_spelling_by_realpath",
            python_finds_the_lock_of_any_spelling_by_realpath,
        ),
        test_if(python, "pythons_exclusive_lock_keeps_us_out", pythons_exclusive_lock_keeps_us_out),
        test_if(
            python,
            "a_write_waits_for_python_and_goes_on_when_it_is_done",
            a_write_waits_for_python_and_goes_on_when_it_is_done,
        ),
        test_if(python, "pythons_shared_lock_lets_our_readers_in_only", pythons_shared_lock_lets_our_readers_in_only),
        test_if(python, "our_write_guard_keeps_python_out", our_write_guard_keeps_python_out),
        test_if(python, "our_read_guard_lets_pythons_readers_in_only", our_read_guard_lets_pythons_readers_in_only),
        test_if(python, "a_killed_python_leaves_no_lock_behind", a_killed_python_leaves_no_lock_behind),
        test_if(python, "no_update_is_lost_between_python_and_us", no_update_is_lost_between_python_and_us),
        test_if(
            reader,
            "the_readmes_reader_reads_what_the_command_writes",
            the_readmes_reader_reads_what_the_command_writes,
        ),
        test_if(reader, "the_readmes_reader_waits_for_the_command", the_readmes_reader_waits_for_the_command),
        test_if(
            reader,
            "the_readmes_reader_keeps_the_commands_writers_out",
            the_readmes_reader_keeps_the_commands_writers_out,
        ),
        test_if(
            reader,
            "the_readmes_reader_notices_that_its_lock_file_was_removed",
            the_readmes_reader_notices_that_its_lock_file_was_removed,
        ),
        test_if(git, "git_sees_the_users_file_only", git_sees_the_users_file_only),
        test_if(git, "a_gitignore_of_the_users_own_stays_as_it_is", a_gitignore_of_the_users_own_stays_as_it_is),
        test_if(git, "nothing_of_somebody_elses_is_hidden_from_git", nothing_of_somebody_elses_is_hidden_from_git),
    ];
    common::main(tests, &[])
}

/// An empty directory, with an adapter whose lock files are in `.jerry/local/locks` there.
struct Scratch {
    _dir: TempDir,
    path: PathBuf,
    adapter: AtomicFileAdapter,
}

impl Scratch {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let adapter = AtomicFileAdapter::with_lock_dir(path.join(AtomicFileAdapter::DEFAULT_LOCK_DIR)).unwrap();
        Scratch { _dir: dir, path, adapter }
    }

    fn lock_dir(&self) -> &Path {
        self.adapter.lock_dir()
    }

    /// A file in it.
    fn file(&self) -> AtomicFile {
        self.adapter.file(self.path.join("file")).unwrap()
    }
}

// Names

/// The names that Python computes for the lock files of `paths`; `path` is its expression for the bytes to hash,
/// with `given` for those that it was given.
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

/// A path of `len` bytes that does not exist, with any bytes that a name may have, or ASCII only.
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
            // A slash at the end would make it a directory's.
            _ if name >= LONG_NAME && bytes.len() + 1 < len => b'/',
            // `.` so that no name is `.` or `..`.
            0 | b'/' | b'.' => b' ',
            byte => byte,
        });
    }
    OsStr::from_bytes(&bytes).into()
}

fn lock_names_are_those_of_another_xxh3() {
    // xxh3 takes another way for up to 16, 128, 240 and more bytes, and once more beyond each block of 1024.
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
        // Else this would say nothing about the bytes that were hashed.
        assert_eq!(scratch.adapter.file(path).unwrap().path(), path, "not canonical");
    }
    let pythons = names_by_python("os.fsencode(os.fsdecode(given))", &paths);
    assert_same_names(&paths, &names_by_us(&scratch.adapter, &paths), &pythons);
    assert!(names(&scratch.path).iter().all(|name| name != ".jerry"), "asking has made something");
}

fn python_finds_the_lock_of_any_spelling_by_realpath() {
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
        // Back out of where the link leads to, not of where it is.
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

// Record locks

/// Python with the lock file of `file` open. It is told operations of `fcntl.lockf`, and answers each.
fn python(file: &AtomicFile) -> Worker {
    const SCRIPT: &str = "
import fcntl, os, sys
os.makedirs(os.path.dirname(sys.argv[1]), exist_ok=True)
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o666)
for line in sys.stdin:
    try:
        fcntl.lockf(lock, eval(line, vars(fcntl)))
        print('done', flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
";
    Worker::spawn(Command::new("python3").args(["-c", SCRIPT]).arg(file.lock_path()))
}

#[track_caller]
fn granted(python: &mut Worker, operation: &str) {
    python.tell(operation);
    python.expect("done");
}

#[track_caller]
fn refused(python: &mut Worker, operation: &str) {
    python.tell(operation);
    let answer = python.hear();
    // POSIX allows EAGAIN and EACCES.
    assert!(["BlockingIOError", "PermissionError"].contains(&&*answer), "{operation}: {answer}");
}

fn would_block<T: std::fmt::Debug>(result: Result<T, Error>, file: &AtomicFile) {
    let error = result.unwrap_err();
    assert!(
        matches!(&error, Error::WouldBlock { path, lock, .. } if path == file.path() && lock == file.lock_path()),
        "{error:?}"
    );
}

fn times_out<T: std::fmt::Debug>(result: Result<T, Error>, file: &AtomicFile, held_by: &Worker) {
    let error = result.unwrap_err();
    let Error::Timeout { path, lock, waited, holder, .. } = error else { panic!("{error:?}") };
    assert_eq!((&*path, &*lock), (file.path(), file.lock_path()));
    assert_eq!((waited, holder), (SHORT, Some(held_by.pid())));
}

/// For waits that are to end without success.
const SHORT: Duration = Duration::from_millis(50);

/// Of waits that are to end with success, the end is only there for those that do not.
const LONG: Duration = Duration::from_secs(60);

fn pythons_exclusive_lock_keeps_us_out() {
    let scratch = Scratch::new();
    let file = scratch.file();
    let mut python = python(&file);
    granted(&mut python, "LOCK_EX");
    would_block(file.try_lock(), &file);
    would_block(file.try_lock_shared(), &file);
    times_out(file.lock_timeout(SHORT), &file, &python);
    times_out(file.lock_shared_timeout(SHORT), &file, &python);
    granted(&mut python, "LOCK_UN");
    drop(file.try_lock_shared().unwrap());
    drop(file.try_lock().unwrap());
}

fn a_write_waits_for_python_and_goes_on_when_it_is_done() {
    let scratch = Scratch::new();
    let file = scratch.file();
    file.write("old").unwrap();
    let mut python = python(&file);
    granted(&mut python, "LOCK_EX");
    let (done, is_done) = mpsc::channel();
    let writer = std::thread::spawn({
        let file = file.clone();
        move || {
            file.write("new").unwrap();
            done.send(()).unwrap();
        }
    });
    // There is no event to wait for when nothing is to happen.
    assert_eq!(is_done.recv_timeout(2 * SHORT), Err(RecvTimeoutError::Timeout));
    assert_eq!(fs::read(file.path()).unwrap(), b"old");
    granted(&mut python, "LOCK_UN");
    is_done.recv_timeout(LONG).unwrap();
    writer.join().unwrap();
    assert_eq!(fs::read(file.path()).unwrap(), b"new");
}

fn pythons_shared_lock_lets_our_readers_in_only() {
    let scratch = Scratch::new();
    let file = scratch.file();
    file.write("x").unwrap();
    let mut python = python(&file);
    granted(&mut python, "LOCK_SH");
    assert_eq!(file.try_lock_shared().unwrap().read().unwrap().as_deref(), Some(&b"x"[..]));
    would_block(file.try_lock(), &file);
    times_out(file.lock_timeout(SHORT), &file, &python);
    // Now that ours are gone again, Python's must still be there, and be the only one.
    granted(&mut python, "LOCK_EX | LOCK_NB");
    would_block(file.try_lock_shared(), &file);
}

fn our_write_guard_keeps_python_out() {
    let scratch = Scratch::new();
    let file = scratch.file();
    let mut python = python(&file);
    let guard = file.lock().unwrap();
    refused(&mut python, "LOCK_EX | LOCK_NB");
    refused(&mut python, "LOCK_SH | LOCK_NB");
    guard.write("x").unwrap();
    refused(&mut python, "LOCK_SH | LOCK_NB");
    drop(guard);
    granted(&mut python, "LOCK_EX | LOCK_NB");
}

fn our_read_guard_lets_pythons_readers_in_only() {
    let scratch = Scratch::new();
    let file = scratch.file();
    let mut python = python(&file);
    let guard = file.lock_shared().unwrap();
    // The kernel knows one lock for all our threads, which must outlive a reader that comes and goes.
    std::thread::scope(|scope| {
        scope.spawn(|| drop(file.lock_shared().unwrap()));
    });
    granted(&mut python, "LOCK_SH | LOCK_NB");
    refused(&mut python, "LOCK_EX | LOCK_NB");
    drop(guard);
    granted(&mut python, "LOCK_EX | LOCK_NB");
}

fn a_killed_python_leaves_no_lock_behind() {
    let scratch = Scratch::new();
    let file = scratch.file();
    let mut python = python(&file);
    granted(&mut python, "LOCK_EX");
    would_block(file.try_lock_shared(), &file);
    python.kill();
    drop(file.try_lock().unwrap());
}

fn no_update_is_lost_between_python_and_us() {
    const EACH: u32 = 200;
    // The protocol, as somebody who only knows its description would write it.
    const SCRIPT: &str = "
import fcntl, os, sys
lock, path, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
temporary = f'{path}.{os.getpid()}'
print('ready', flush=True)
sys.stdin.readline()
for _ in range(times):
    with open(lock, 'r+b') as held:
        fcntl.lockf(held, fcntl.LOCK_EX)
        with open(path) as old:
            n = int(old.read())
        with open(temporary, 'w') as new:
            new.write(str(n + 1))
            new.flush()
            os.fsync(new.fileno())
        os.replace(temporary, path)
";
    let scratch = Scratch::new();
    let file = scratch.file();
    file.write("0").unwrap();
    let start = |_| {
        let mut python = Command::new("python3");
        python.args(["-c", SCRIPT]).arg(file.lock_path()).arg(file.path()).arg(EACH.to_string());
        let mut python = Worker::spawn(&mut python);
        python.expect("ready");
        python
    };
    let mut pythons = [0, 1].map(start);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..EACH {
                    file.update(|old| {
                        let n: u32 = std::str::from_utf8(old.unwrap()).unwrap().parse().unwrap();
                        (n + 1).to_string().into_bytes()
                    })
                    .unwrap();
                }
            });
        }
        pythons.iter_mut().for_each(|python| python.tell("go"));
    });
    pythons.into_iter().for_each(Worker::finish);
    assert_eq!(fs::read_to_string(file.path()).unwrap(), (4 * EACH).to_string());
    assert_eq!(names(&scratch.path), [".jerry", "file"]);
}

// The reader in the README, and the command

/// Writes the README's Python to `reader.py`.
fn reader_of_the_readme(scratch: &Scratch) {
    let blocks: Vec<&str> = include_str!("../README.md").split("\n```python\n").skip(1).collect();
    let [block] = blocks[..] else { panic!("{} blocks of Python in the README", blocks.len()) };
    let (program, _) = block.split_once("\n```\n").unwrap();
    fs::write(scratch.path.join("reader.py"), program).unwrap();
}

fn in_scratch(scratch: &Scratch, program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.current_dir(&scratch.path).args(args);
    command
}

/// The command with the lock of `file`, until it is told a line, which it then makes the contents.
fn holder(scratch: &Scratch) -> Worker {
    let args = ["run", "file", "--", "sh", "-c", "echo held; read new; echo $new >file"];
    let mut holder = Worker::spawn(&mut in_scratch(scratch, TOOL.unwrap(), &args));
    holder.expect("held");
    holder
}

fn the_readmes_reader_reads_what_the_command_writes() {
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
    // They all have had one lock file, that of the command.
    assert_eq!(names(scratch.lock_dir()).iter().filter(|name| name.ends_with(".lock")).count(), 1);
}

fn the_readmes_reader_waits_for_the_command() {
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

fn the_readmes_reader_keeps_the_commands_writers_out() {
    // Its own locking, held a while longer: what it opens under the lock is a FIFO that somebody has to write to.
    let scratch = Scratch::new();
    reader_of_the_readme(&scratch);
    nix::unistd::mkfifo(&scratch.path.join("file"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut reader = Worker::spawn(&mut in_scratch(&scratch, "python3", &["reader.py", "file"]));
    // Opens when the reader opens it.
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

fn the_readmes_reader_notices_that_its_lock_file_was_removed() {
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
    // It has got the lock that it waited for, and now has to wait for another.
    until_it_waits_for_a_lock(&reader);
    second.tell("new");
    second.finish();
    reader.expect("new");
    reader.finish();
}

// git

/// A repository, with nothing of the user's or the system's settings and of a hook that may have started us.
fn git(dir: &Path, args: &[&str]) -> String {
    let mut git = assert_cmd::Command::new("git");
    git.current_dir(dir).args(["-c", "core.excludesFile=/dev/null"]).args(args);
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        git.env_remove(name);
    }
    String::from_utf8(git.assert().success().get_output().stdout.clone()).unwrap()
}

fn repository() -> Scratch {
    let scratch = Scratch::new();
    git(&scratch.path, &["init", "-q"]);
    scratch
}

fn status(scratch: &Scratch) -> String {
    git(&scratch.path, &["status", "--porcelain", "--ignored=no", "--untracked-files=all"])
}

/// Every verb once; one file is there in the end.
fn use_it(scratch: &Scratch) {
    let file = scratch.file();
    file.write("x").unwrap();
    file.update(|old| [old.unwrap(), b"y"].concat()).unwrap();
    let other = scratch.adapter.file(scratch.path.join("other")).unwrap();
    other.write("x").unwrap();
    assert!(other.delete().unwrap());
    assert_eq!(file.read().unwrap().as_deref(), Some(&b"xy"[..]));
    assert!(file.lock_path().is_file() && other.lock_path().is_file());
}

fn git_sees_the_users_file_only() {
    let scratch = repository();
    use_it(&scratch);
    assert_eq!(status(&scratch), "?? file\n");
}

fn a_gitignore_of_the_users_own_stays_as_it_is() {
    let scratch = repository();
    let ignore = scratch.lock_dir().join(".gitignore");
    fs::create_dir_all(scratch.lock_dir()).unwrap();
    fs::write(&ignore, "# mine\n*.lock\n").unwrap();
    use_it(&scratch);
    assert_eq!(fs::read(&ignore).unwrap(), b"# mine\n*.lock\n");
    assert_eq!(status(&scratch), "?? .jerry/local/locks/.gitignore\n?? file\n");
}

fn nothing_of_somebody_elses_is_hidden_from_git() {
    let scratch = repository();
    fs::create_dir_all(scratch.lock_dir()).unwrap();
    fs::write(scratch.lock_dir().join("theirs"), "precious").unwrap();
    use_it(&scratch);
    assert!(!scratch.lock_dir().join(".gitignore").exists());
    assert!(status(&scratch).lines().any(|line| line == "?? .jerry/local/locks/theirs"));
}
