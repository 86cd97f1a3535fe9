//! Record locks, and Python's.

use std::fs;
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use atomic_file_adapter::{AtomicFile, Error};

use crate::Scratch;
use crate::common::{Worker, names};

/// Python with an open lock file. It gets operations of `fcntl.lockf`, and answers each.
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
    // POSIX allows both EAGAIN and EACCES.
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

/// For waits that must end without success.
const SHORT: Duration = Duration::from_millis(50);

/// For waits that must end with success. Only a failing test waits this long.
const LONG: Duration = Duration::from_secs(60);

pub(crate) fn pythons_exclusive_lock_keeps_us_out() {
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

pub(crate) fn a_write_waits_for_python_and_goes_on_when_it_is_done() {
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
    // No event shows that nothing happens.
    assert_eq!(is_done.recv_timeout(2 * SHORT), Err(RecvTimeoutError::Timeout));
    assert_eq!(fs::read(file.path()).unwrap(), b"old");
    granted(&mut python, "LOCK_UN");
    is_done.recv_timeout(LONG).unwrap();
    writer.join().unwrap();
    assert_eq!(fs::read(file.path()).unwrap(), b"new");
}

pub(crate) fn pythons_shared_lock_lets_our_readers_in_only() {
    let scratch = Scratch::new();
    let file = scratch.file();
    file.write("x").unwrap();
    let mut python = python(&file);
    granted(&mut python, "LOCK_SH");
    assert_eq!(file.try_lock_shared().unwrap().read().unwrap().as_deref(), Some(&b"x"[..]));
    would_block(file.try_lock(), &file);
    times_out(file.lock_timeout(SHORT), &file, &python);
    // Our locks are released. Python's lock must still exist, and must be the only one.
    granted(&mut python, "LOCK_EX | LOCK_NB");
    would_block(file.try_lock_shared(), &file);
}

pub(crate) fn our_write_guard_keeps_python_out() {
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

pub(crate) fn our_read_guard_lets_pythons_readers_in_only() {
    let scratch = Scratch::new();
    let file = scratch.file();
    let mut python = python(&file);
    let guard = file.lock_shared().unwrap();
    // The kernel has one lock for all our threads. It must survive a reader that comes and goes.
    std::thread::scope(|scope| {
        scope.spawn(|| drop(file.lock_shared().unwrap()));
    });
    granted(&mut python, "LOCK_SH | LOCK_NB");
    refused(&mut python, "LOCK_EX | LOCK_NB");
    drop(guard);
    granted(&mut python, "LOCK_EX | LOCK_NB");
}

pub(crate) fn a_killed_python_leaves_no_lock_behind() {
    let scratch = Scratch::new();
    let file = scratch.file();
    let mut python = python(&file);
    granted(&mut python, "LOCK_EX");
    would_block(file.try_lock_shared(), &file);
    python.kill();
    drop(file.try_lock().unwrap());
}

pub(crate) fn no_update_is_lost_between_python_and_us() {
    const EACH: u32 = 200;
    // The protocol, written from its description alone.
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
