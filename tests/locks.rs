//! The lock layer: deadlocks are reported, deadlines kept, turns taken, and a fork or a removed lock file costs nobody
//! anything.

mod common;

use std::any::Any;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitCode, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use atomic_file_adapter::{AtomicFile, AtomicFileAdapter, Builder, Durability, Error, Replacement, Result, WriteGuard};
use common::{Worker, hear, tell};
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

fn main() -> ExitCode {
    common::main(
        vec![
            test("asking_again_for_a_held_lock_is_a_deadlock", asking_again_for_a_held_lock_is_a_deadlock),
            test("a_verb_inside_an_update_of_the_same_file_is_a_deadlock", a_verb_inside_an_update_is_a_deadlock),
            test("a_deadlock_names_every_lock_of_the_thread", a_deadlock_names_every_lock_of_the_thread),
            test("of_two_threads_in_a_cycle_one_is_told", of_two_threads_in_a_cycle_one_is_told),
            test("of_three_threads_in_a_ring_one_is_told", of_three_threads_in_a_ring_one_is_told),
            test("of_two_processes_in_a_cycle_one_is_told", of_two_processes_in_a_cycle_one_is_told),
            test("a_cycle_through_the_queue_of_threads_is_found", a_cycle_through_the_queue_is_found),
            #[cfg(feature = "fault-injection")]
            test("a_cycle_is_told_to_many_locks_behind_another_thread", a_cycle_is_told_to_many_locks),
            test("a_false_deadlock_of_a_thread_that_holds_nothing_is_not_reported", a_false_deadlock_here),
            test_on_linux(
                "a_false_deadlock_of_a_process_that_holds_something_is_not_reported",
                a_false_deadlock_elsewhere,
            ),
            test("a_deadline_is_kept_while_a_thread_holds_the_lock", a_deadline_is_kept_beside_a_thread),
            test("a_deadline_is_kept_while_a_process_holds_the_lock", a_deadline_is_kept_beside_a_process),
            test("the_builders_deadline_holds_for_every_verb", the_builders_deadline_holds_for_every_verb),
            test("a_lock_freed_early_is_taken", a_lock_freed_early_is_taken),
            test("a_deadline_beyond_the_clock_is_none", a_deadline_beyond_the_clock_is_none),
            test("a_deadline_of_zero_tries_once", a_deadline_of_zero_tries_once),
            test("waiting_burns_no_cpu", waiting_burns_no_cpu),
            test("a_guard_is_inert_in_a_forked_child", || in_a_process("inert_guard")),
            test("a_half_written_version_survives_a_forked_child", || in_a_process("half_written")),
            test("a_forked_child_takes_locks_of_its_own", || in_a_process("own_locks")),
            test("a_grandchild_inherits_nothing_either", || in_a_process("grandchild")),
            test_on_linux("a_forked_child_closes_the_lock_files_of_its_parent", || {
                in_a_process("inherited_descriptors")
            }),
            test("an_update_that_forks_changes_the_file_once", || in_a_process("update_that_forks")),
            test("forks_beside_busy_threads_do_not_hang", || in_a_process("fork_storm")),
            test_on_linux("a_command_inherits_no_lock_descriptor", a_command_inherits_no_lock_descriptor),
            test("a_command_keeps_no_lock", a_command_keeps_no_lock),
            test("a_writer_elsewhere_gets_in_between_readers", || a_writer_gets_in("forever", Duration::ZERO)),
            test("a_writer_elsewhere_with_a_deadline_gets_in", || a_writer_gets_in("deadline", Duration::ZERO)),
            test("a_writer_elsewhere_gets_in_between_slow_readers", || a_writer_gets_in("forever", SLOWLY)),
            test("a_writer_that_comes_back_at_once_lets_another_process_in", a_writer_that_comes_back_lets_others_in),
            test("two_processes_of_four_writers_share_a_lock", two_processes_of_four_writers_share_a_lock),
            test_on_linux("a_reader_does_not_overtake_a_writer_that_waits", a_reader_does_not_overtake_a_writer),
            test("a_reader_may_join_a_reader_that_waits_for_it", a_reader_may_join_a_reader_that_waits_for_it),
            test("a_reader_whom_nobody_is_in_the_way_of_is_never_refused", a_reader_is_never_refused_beside_readers),
            test("hundreds_of_waiting_threads_all_get_their_turn", hundreds_of_threads_get_their_turn),
            test("ten_thousand_paths_need_few_descriptors", || in_a_process("ten_thousand_paths")),
            test("a_removed_lock_file_is_noticed_by_processes", a_removed_lock_file_is_noticed_by_processes),
            test("a_removed_lock_file_is_noticed_by_threads", a_removed_lock_file_is_noticed_by_threads),
            test("a_lock_file_that_changes_while_it_is_opened_costs_no_lock", a_lock_file_that_changes_costs_no_lock),
            test("no_increment_is_lost_while_lock_files_are_removed", no_increment_is_lost_while_lock_files_go),
        ],
        &[
            ("talk", talk),
            ("inert_guard", inert_guard),
            ("half_written", half_written),
            ("own_locks", own_locks),
            ("grandchild", grandchild),
            ("inherited_descriptors", inherited_descriptors),
            ("update_that_forks", update_that_forks),
            ("fork_storm", fork_storm),
            ("write_often", write_often),
            ("share", share),
            ("ten_thousand_paths", ten_thousand_paths),
            ("increment", increment),
        ],
    )
}

const WATCHDOG: Duration = Duration::from_secs(60);
const MINUTE: Duration = Duration::from_secs(60);

/// A test that ends the program if it hangs, and says which one it was.
fn test(name: &'static str, body: fn()) -> Trial {
    Trial::test(name, move || {
        let (done, is_done) = channel::<()>();
        thread::spawn(move || {
            if is_done.recv_timeout(WATCHDOG) == Err(RecvTimeoutError::Timeout) {
                eprintln!("{name} hangs");
                process::exit(101);
            }
        });
        body();
        drop(done);
        Ok(())
    })
}

/// A test of what only Linux lets one see.
fn test_on_linux(name: &'static str, body: fn()) -> Trial {
    match common::not_linux() {
        None => test(name, body),
        missing => common::test_if(missing, name, body),
    }
}

/// A case that forks: in a process that has one thread.
fn in_a_process(case: &str) {
    Scratch::new().worker(case, &[]).finish();
}

struct Scratch {
    dir: tempfile::TempDir,
    adapter: AtomicFileAdapter,
}

impl Scratch {
    /// In memory if possible: nothing here is about disks.
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let adapter = adapter(dir.path());
        Scratch { dir, adapter }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str) -> AtomicFile {
        self.adapter.file(self.path(name)).unwrap()
    }

    fn worker(&self, name: &str, args: &[&str]) -> Worker {
        start(self.dir.path(), name, args)
    }
}

fn start(dir: &Path, name: &str, args: &[&str]) -> Worker {
    Worker::start(name, &[&[dir.to_str().unwrap()], args].concat())
}

fn settings(dir: &Path) -> Builder {
    AtomicFileAdapter::builder().lock_dir(dir.join("locks")).durability(Durability::None)
}

fn adapter(dir: &Path) -> AtomicFileAdapter {
    settings(dir).build().unwrap()
}

type Guard = Box<dyn Any>;
type Ask = fn(&AtomicFile) -> Result<Guard>;

fn boxed(guard: impl Any) -> Guard {
    Box::new(guard)
}

const LOCK: Ask = |file| file.lock().map(boxed);
const LOCK_SHARED: Ask = |file| file.lock_shared().map(boxed);
const LOCK_TIMEOUT: Ask = |file| file.lock_timeout(MINUTE).map(boxed);
const LOCK_SHARED_TIMEOUT: Ask = |file| file.lock_shared_timeout(MINUTE).map(boxed);
const TRY_LOCK: Ask = |file| file.try_lock().map(boxed);
const TRY_LOCK_SHARED: Ask = |file| file.try_lock_shared().map(boxed);
const WAITING: [Ask; 4] = [LOCK, LOCK_SHARED, LOCK_TIMEOUT, LOCK_SHARED_TIMEOUT];

/// A result in a line that two processes can exchange.
fn said<T>(result: &Result<T>) -> String {
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    match result {
        Ok(_) => "ok".into(),
        Err(Error::WouldBlock { .. }) => "would block".into(),
        Err(Error::Forked { .. }) => "forked".into(),
        Err(Error::Deadlock { path, held, .. }) => {
            let mut held: Vec<String> = held.iter().map(name).collect();
            held.sort();
            format!("{} would deadlock with {}", name(path), held.join(" "))
        }
        Err(error) => error.to_string(),
    }
}

/// A worker that does as it is told: `VERB NAME`, and answers with what came of it.
fn talk(args: &[String]) {
    let dir = Path::new(&args[0]);
    let adapter = adapter(dir);
    let mut held: Vec<(String, Guard)> = Vec::new();
    loop {
        let line = hear();
        let Some((verb, name)) = line.split_once(' ') else { return };
        let ask = match verb {
            "lock" => LOCK,
            "lock_shared" => LOCK_SHARED,
            "lock_timeout" => LOCK_TIMEOUT,
            "try_lock" => TRY_LOCK,
            "unlock" => {
                held.retain(|(held, _)| held != name);
                tell("ok");
                continue;
            }
            _ => panic!("{line}"),
        };
        let result = ask(&adapter.file(dir.join(name)).unwrap());
        tell(&said(&result));
        held.extend(result.ok().map(|guard| (name.to_owned(), guard)));
    }
}

trait Ordered {
    fn order(&mut self, line: &str) -> String;
}

impl Ordered for Worker {
    fn order(&mut self, line: &str) -> String {
        self.tell(line);
        self.hear()
    }
}

/// Waits for something that sends no event.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "in vain: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

use watching::{PARKED, PAUSED, is_in, this_task, until_blocked, until_in};

/// What other threads and processes are doing.
#[cfg(target_os = "linux")]
mod watching {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use atomic_file_adapter::AtomicFile;

    use super::until;

    /// Waits until a process sleeps in F_SETLKW for the lock of this file.
    #[track_caller]
    pub fn until_blocked(pid: u32, file: &AtomicFile) {
        let (pid, inode) = (pid.to_string(), format!(":{}", fs::metadata(file.lock_path()).unwrap().ino()));
        until("blocked in the kernel", || {
            fs::read_to_string("/proc/locks").unwrap().lines().any(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                fields[1] == "->" && fields[5] == pid && fields[6].ends_with(&inode)
            })
        });
    }

    /// A thread, as /proc names it.
    pub fn this_task() -> String {
        format!("/proc/self/task/{}", nix::unistd::gettid())
    }

    pub const PAUSED: &[libc::c_long] = &[libc::SYS_clock_nanosleep, libc::SYS_nanosleep];
    pub const PARKED: &[libc::c_long] = &[libc::SYS_futex];

    /// Whether a task sleeps in one of these system calls.
    pub fn is_in(task: &str, calls: &[libc::c_long]) -> bool {
        let call = fs::read_to_string(format!("{task}/syscall")).unwrap();
        call.split(' ').next().and_then(|number| number.parse().ok()).is_some_and(|number| calls.contains(&number))
    }

    #[track_caller]
    pub fn until_in(task: &str, calls: &[libc::c_long]) {
        until("asleep", || is_in(task, calls));
    }
}

/// Nobody can tell what other threads and processes are doing. They get time enough to do it.
#[cfg(not(target_os = "linux"))]
mod watching {
    use std::thread::sleep;
    use std::time::Duration;

    use atomic_file_adapter::AtomicFile;

    const ENOUGH: Duration = Duration::from_millis(300);

    pub fn until_blocked(_: u32, _: &AtomicFile) {
        sleep(ENOUGH);
    }

    pub fn this_task() -> String {
        String::new()
    }

    pub const PAUSED: &[libc::c_long] = &[];
    pub const PARKED: &[libc::c_long] = &[];

    pub fn is_in(_: &str, _: &[libc::c_long]) -> bool {
        false
    }

    pub fn until_in(_: &str, _: &[libc::c_long]) {
        sleep(ENOUGH);
    }
}

/// Sets a flag when dropped, so that the threads that watch it end when a test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

fn next(old: Option<&[u8]>) -> Vec<u8> {
    let old: u64 = old.map_or(0, |old| std::str::from_utf8(old).unwrap().parse().unwrap());
    (old + 1).to_string().into()
}

// Deadlocks.

fn asking_again_for_a_held_lock_is_a_deadlock() {
    let scratch = Scratch::new();
    let mut other = scratch.worker("talk", &[]);
    let file = scratch.file("file");
    // Another handle, with the lock directory spelled differently: it is the file that counts.
    symlink(scratch.dir.path(), scratch.path("link")).unwrap();
    let again = adapter(&scratch.path("link")).file(scratch.path("./file")).unwrap();
    assert_ne!(again.lock_path(), file.lock_path());
    for first in [LOCK, LOCK_SHARED] {
        let held = first(&file).unwrap();
        for second in WAITING {
            let error = second(&again).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::Deadlock);
            match error {
                Error::Deadlock { path, held, .. } => {
                    assert_eq!(path, file.path());
                    assert_eq!(held, [file.path()]);
                }
                error => panic!("{error}"),
            }
        }
        for attempt in [TRY_LOCK, TRY_LOCK_SHARED] {
            assert_eq!(said(&attempt(&again)), "would block");
        }
        assert_eq!(other.order("try_lock file"), "would block", "the first lock is gone");
        drop(held);
        assert_eq!(other.order("try_lock file"), "ok", "the first lock stays");
        assert_eq!(other.order("unlock file"), "ok");
    }
}

fn a_verb_inside_an_update_is_a_deadlock() {
    let scratch = Scratch::new();
    let (path, adapter) = (scratch.path("file"), &scratch.adapter);
    let told = "file would deadlock with file";
    adapter.write_atomic(&path, "old").unwrap();
    let mut asked = 0;
    adapter
        .update(&path, |old| {
            assert_eq!(said(&adapter.update(&path, |_| panic!("inside twice"))), told);
            assert_eq!(said(&adapter.write_atomic(&path, "lost")), told);
            assert_eq!(said(&adapter.read_with_lock(&path)), told);
            assert_eq!(said(&adapter.delete_with_lock(&path)), told);
            asked += 1;
            [old.unwrap(), b" and new"].concat()
        })
        .unwrap();
    assert_eq!(asked, 1);
    assert_eq!(adapter.read_with_lock(&path).unwrap().unwrap(), b"old and new");
}

fn a_deadlock_names_every_lock_of_the_thread() {
    let scratch = Scratch::new();
    let (a, b) = (scratch.file("a"), scratch.file("b"));
    let _c = scratch.file("c").lock_shared().unwrap();
    let (_a, _b) = (a.lock().unwrap(), b.lock_shared().unwrap());
    thread::scope(|scope| {
        // What another thread holds is not this one's.
        scope.spawn(|| {
            let _d = scratch.file("d").lock().unwrap();
            assert_eq!(said(&scratch.file("d").lock()), "d would deadlock with d");
        });
    });
    assert_eq!(said(&b.lock()), "b would deadlock with a b c");
    assert!(b.lock().unwrap_err().to_string().contains(a.path().to_str().unwrap()));
}

fn of_two_threads_in_a_cycle_one_is_told() {
    for (first, second) in [(LOCK, LOCK), (LOCK, LOCK_SHARED), (LOCK_SHARED, LOCK), (LOCK, LOCK_TIMEOUT)] {
        ring(2, first, second);
    }
}

fn of_three_threads_in_a_ring_one_is_told() {
    for (first, second) in [(LOCK, LOCK), (LOCK_SHARED, LOCK_TIMEOUT)] {
        ring(3, first, second);
    }
}

/// Thread N holds file N and asks for the next one. Whoever asks last closes the ring, and nobody lets go before.
fn ring(threads: usize, first: Ask, second: Ask) {
    let scratch = Scratch::new();
    let all_hold = Barrier::new(threads);
    let ring = |n: usize| {
        let (mine, wanted) = (scratch.file(&n.to_string()), scratch.file(&((n + 1) % threads).to_string()));
        let _held = first(&mine).unwrap();
        all_hold.wait();
        said(&second(&wanted))
    };
    let answers: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|n| scope.spawn(move || ring(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let told: Vec<usize> = (0..threads).filter(|n| answers[*n] != "ok").collect();
    assert_eq!(told.len(), 1, "{answers:?}");
    assert_eq!(answers[told[0]], format!("{} would deadlock with {}", (told[0] + 1) % threads, told[0]));
}

fn of_two_processes_in_a_cycle_one_is_told() {
    let scratch = Scratch::new();
    let (mut first, mut second) = (scratch.worker("talk", &[]), scratch.worker("talk", &[]));
    assert_eq!(first.order("lock a"), "ok");
    assert_eq!(second.order("lock b"), "ok");
    first.tell("lock b");
    until_blocked(first.pid(), &scratch.file("b"));
    let begun = Instant::now();
    assert_eq!(second.order("lock a"), "a would deadlock with b");
    eprintln!("two processes in a cycle: told after {:?}", begun.elapsed());
    assert_eq!(second.order("unlock b"), "ok");
    first.expect("ok");
}

/// This thread holds A, another process holds B and waits for A.
fn crosswise(scratch: &Scratch, a: &AtomicFile) -> (WriteGuard, Worker) {
    let mut other = scratch.worker("talk", &[]);
    let held = a.lock().unwrap();
    assert_eq!(other.order("lock b"), "ok");
    other.tell("lock a");
    until_blocked(other.pid(), a);
    (held, other)
}

fn a_cycle_through_the_queue_is_found() {
    // The kernel sees the thread at the head of the queue only, and that one holds nothing.
    let scratch = Scratch::new();
    let (a, b) = (scratch.file("a"), scratch.file("b"));
    let (held, other) = crosswise(&scratch, &a);
    thread::scope(|scope| {
        // Ends with this closure, so that nobody waits for it when the test fails.
        let mut other = other;
        let (task, tasks) = channel();
        let head = scope.spawn({
            let b = &b;
            move || {
                task.send(this_task()).unwrap();
                b.lock().map(drop)
            }
        });
        until_in(&tasks.recv().unwrap(), PAUSED);
        assert_eq!(said(&b.lock()), "b would deadlock with a");
        drop(held);
        other.expect("ok");
        assert!(!head.is_finished());
        assert_eq!(other.order("unlock b"), "ok");
        assert_eq!(said(&head.join().unwrap()), "ok");
    });
}

/// As above, but who waits behind the head of the queue takes its locks in the common order. Nobody else can end it: the
/// other process sleeps in the kernel, and the head holds nothing. It takes half a minute to be believed.
#[cfg(feature = "fault-injection")]
fn a_cycle_is_told_to_many_locks() {
    use atomic_file_adapter::fault::{Action, Syscall, inject};

    let scratch = Scratch::new();
    let mut files = [scratch.file("a"), scratch.file("b")];
    files.sort_by(|one, other| one.lock_path().cmp(other.lock_path()));
    let [first, second] = &files;
    let name = |file: &AtomicFile| file.path().file_name().unwrap().to_str().unwrap().to_owned();
    let mut other = scratch.worker("talk", &[]);
    assert_eq!(other.order(&format!("lock {}", name(second))), "ok");
    thread::scope(|scope| {
        // Ends with this closure, so that nobody waits for it when the test fails.
        let mut other = other;
        let (asks, is_asking) = channel();
        let (go, may_go) = channel::<()>();
        let head = scope.spawn(move || {
            let pause = move |call: &atomic_file_adapter::fault::Call<'_>| {
                if call.syscall == Syscall::FcntlSetlkw {
                    asks.send(()).unwrap();
                    // Only the first time; later there is nobody to say it.
                    let _ = may_go.recv();
                }
                Action::Proceed
            };
            said(&inject(pause, || second.lock()).0)
        });
        is_asking.recv().unwrap();
        let (task, tasks) = channel();
        let many = scope.spawn({
            let scratch = &scratch;
            move || {
                task.send(this_task()).unwrap();
                said(&scratch.adapter.lock_many(["a", "b"].map(|name| scratch.path(name))))
            }
        });
        until_in(&tasks.recv().unwrap(), PARKED);
        other.tell(&format!("lock {}", name(first)));
        until_blocked(other.pid(), first);
        drop(go);
        assert_eq!(many.join().unwrap(), format!("{} would deadlock with {}", name(second), name(first)));
        other.expect("ok");
        assert_eq!(other.order(&format!("unlock {}", name(second))), "ok");
        assert_eq!(head.join().unwrap(), "ok");
    });
}

fn a_false_deadlock_here() {
    // Trap 3: thread 1 holds A, another process holds B and waits for A, thread 2 waits for B.
    let scratch = Scratch::new();
    let (a, b) = (scratch.file("a"), scratch.file("b"));
    let (held, other) = crosswise(&scratch, &a);
    thread::scope(|scope| {
        // Ends with this closure, so that nobody waits for it when the test fails.
        let mut other = other;
        let (answer, answers) = channel();
        scope.spawn(move || answer.send(said(&b.lock())).unwrap());
        // Longer than the library believes the kernel less than its caller.
        assert_eq!(answers.recv_timeout(Duration::from_millis(1500)), Err(RecvTimeoutError::Timeout));
        drop(held);
        other.expect("ok");
        assert_eq!(other.order("unlock a"), "ok");
        assert_eq!(other.order("unlock b"), "ok");
        assert_eq!(answers.recv().unwrap(), "ok");
    });
}

fn a_false_deadlock_elsewhere() {
    // Trap 3 in the other order: thread 2 waits for B before the other process, which holds B, asks for A. It is the
    // other process that is told EDEADLK, and it holds something.
    let in_time = (0..20).find(|_| {
        let scratch = Scratch::new();
        let (a, b) = (scratch.file("a"), scratch.file("b"));
        let mut other = scratch.worker("talk", &[]);
        let held = a.lock().unwrap();
        assert_eq!(other.order("lock b"), "ok");
        thread::scope(|scope| {
            // Ends with this closure, so that nobody waits for it when the test fails.
            let mut other = other;
            let thread = scope.spawn(|| b.lock().map(drop));
            until_blocked(process::id(), &b);
            let asked = Instant::now();
            other.tell("lock a");
            // It does not sleep in F_SETLKW, so it was told EDEADLK.
            let polls = || is_in(&format!("/proc/{}", other.pid()), PAUSED);
            until("told EDEADLK", || polls() || asked.elapsed() > Duration::from_secs(1));
            drop(held);
            // A round in which this thread got no processor for so long proves nothing: the cycle did persist.
            let in_time = asked.elapsed() < Duration::from_millis(150);
            let answer = other.hear();
            assert!(answer == "ok" || !in_time, "{answer}");
            other.order("unlock a");
            assert_eq!(other.order("unlock b"), "ok");
            assert_eq!(said(&thread.join().unwrap()), "ok");
            in_time
        })
    });
    assert!(in_time.is_some(), "the machine is too slow for this test");
}

// Deadlines.

const SHORT: Duration = Duration::from_millis(100);

/// Both kinds of wait for a lock that nobody lets go: the error names the holder, the time is kept.
fn assert_times_out(file: &AtomicFile, holder: u32, asks: &[Ask]) {
    for ask in asks {
        let begun = Instant::now();
        let error = ask(file).unwrap_err();
        let elapsed = begun.elapsed();
        assert!(elapsed >= SHORT, "given up after {elapsed:?}");
        assert!(elapsed < Duration::from_secs(5), "given up after {elapsed:?}");
        eprintln!("past the deadline of {SHORT:?}: {:?}", elapsed - SHORT);
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        match error {
            Error::Timeout { path, lock, waited, holder: named, .. } => {
                assert_eq!(path, file.path());
                assert_eq!(lock, file.lock_path());
                assert_eq!(waited, SHORT);
                assert_eq!(named, Some(holder));
            }
            error => panic!("{error}"),
        }
    }
}

const EXCLUSIVE_FOR_SHORT: Ask = |file| file.lock_timeout(SHORT).map(boxed);
const SHARED_FOR_SHORT: Ask = |file| file.lock_shared_timeout(SHORT).map(boxed);

fn a_deadline_is_kept_beside_a_thread() {
    let scratch = Scratch::new();
    let file = scratch.file("file");
    for (hold, asks) in [(LOCK, &[EXCLUSIVE_FOR_SHORT, SHARED_FOR_SHORT][..]), (LOCK_SHARED, &[EXCLUSIVE_FOR_SHORT])] {
        let held = hold(&file).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| assert_times_out(&file, process::id(), asks));
        });
        drop(held);
        assert_eq!(said(&file.try_lock()), "ok", "a waiter that gave up is in the way");
    }
}

fn a_deadline_is_kept_beside_a_process() {
    let scratch = Scratch::new();
    let file = scratch.file("file");
    let mut holder = scratch.worker("talk", &[]);
    assert_eq!(holder.order("lock file"), "ok");
    assert_times_out(&file, holder.pid(), &[EXCLUSIVE_FOR_SHORT, SHARED_FOR_SHORT]);
    assert_eq!(holder.order("unlock file"), "ok");
    assert_eq!(holder.order("lock_shared file"), "ok");
    assert_times_out(&file, holder.pid(), &[EXCLUSIVE_FOR_SHORT]);
    assert_eq!(said(&file.lock_shared_timeout(SHORT)), "ok");
    assert_eq!(holder.order("unlock file"), "ok");
    assert_eq!(said(&file.try_lock()), "ok");
}

fn the_builders_deadline_holds_for_every_verb() {
    let scratch = Scratch::new();
    let path = scratch.path("file");
    scratch.adapter.write_atomic(&path, "old").unwrap();
    let adapter = settings(scratch.dir.path()).lock_timeout(SHORT).build().unwrap();
    let mut holder = scratch.worker("talk", &[]);
    assert_eq!(holder.order("lock file"), "ok");
    let verbs: [(&str, &dyn Fn() -> Result<()>); 7] = [
        ("write_atomic", &|| adapter.write_atomic(&path, "new")),
        ("read_with_lock", &|| adapter.read_with_lock(&path).map(drop)),
        ("update", &|| adapter.update(&path, |_| panic!("without the lock"))),
        ("delete_with_lock", &|| adapter.delete_with_lock(&path).map(drop)),
        ("lock", &|| adapter.file(&path)?.lock().map(drop)),
        ("lock_shared", &|| adapter.file(&path)?.lock_shared().map(drop)),
        // The call's own deadline comes before the builder's.
        ("lock_timeout", &|| adapter.file(&path)?.lock_timeout(SHORT * 2).map(drop)),
    ];
    for (verb, call) in verbs {
        let least = if verb == "lock_timeout" { SHORT * 2 } else { SHORT };
        let begun = Instant::now();
        match call() {
            Err(Error::Timeout { waited, holder: named, .. }) => {
                assert_eq!((waited, named), (least, Some(holder.pid())), "{verb}");
            }
            other => panic!("{verb}: {other:?}"),
        }
        assert!(begun.elapsed() >= least, "{verb}");
    }
    assert_eq!(holder.order("unlock file"), "ok");
    assert_eq!(adapter.read_with_lock(&path).unwrap().unwrap(), b"old");
}

/// Asks in a thread while the lock is held, lets go when the thread sleeps, and returns how long it took from there.
fn until_taken(file: &AtomicFile, ask: Ask, asleep: &[libc::c_long], release: impl FnOnce()) -> Duration {
    thread::scope(|scope| {
        let (task, tasks) = channel();
        let waiter = scope.spawn(move || {
            task.send(this_task()).unwrap();
            let answer = said(&ask(file));
            (answer, Instant::now())
        });
        until_in(&tasks.recv().unwrap(), asleep);
        let released = Instant::now();
        release();
        let (answer, taken) = waiter.join().unwrap();
        assert_eq!(answer, "ok");
        taken.saturating_duration_since(released)
    })
}

fn a_lock_freed_early_is_taken() {
    let scratch = Scratch::new();
    let file = scratch.file("file");
    let mut holder = scratch.worker("talk", &[]);
    for ask in [LOCK_TIMEOUT, LOCK_SHARED_TIMEOUT] {
        let held = file.lock().unwrap();
        let beside_thread = until_taken(&file, ask, PARKED, || drop(held));
        assert_eq!(holder.order("lock file"), "ok");
        let beside_process = until_taken(&file, ask, PAUSED, || assert_eq!(holder.order("unlock file"), "ok"));
        eprintln!("a lock freed early is taken after {beside_thread:?} (thread) and {beside_process:?} (process)");
        assert!(beside_thread < MINUTE / 2 && beside_process < MINUTE / 2);
    }
}

fn a_deadline_beyond_the_clock_is_none() {
    let scratch = Scratch::new();
    let file = scratch.file("file");
    let mut holder = scratch.worker("talk", &[]);
    let asks: [Ask; 2] =
        [|file| file.lock_timeout(Duration::MAX).map(boxed), |file| file.lock_shared_timeout(Duration::MAX).map(boxed)];
    for ask in asks {
        assert_eq!(said(&ask(&file)), "ok");
        let held = file.lock().unwrap();
        until_taken(&file, ask, PARKED, || drop(held));
        assert_eq!(holder.order("lock file"), "ok");
        thread::scope(|scope| {
            let waiter = scope.spawn(|| said(&ask(&file)));
            until_blocked(process::id(), &file);
            assert_eq!(holder.order("unlock file"), "ok");
            assert_eq!(waiter.join().unwrap(), "ok");
        });
    }
    let forever = settings(scratch.dir.path()).lock_timeout(Duration::MAX).build().unwrap();
    forever.write_atomic(file.path(), "written").unwrap();
}

fn a_deadline_of_zero_tries_once() {
    let scratch = Scratch::new();
    let file = scratch.file("file");
    let mut holder = scratch.worker("talk", &[]);
    assert_eq!(said(&file.lock_timeout(Duration::ZERO)), "ok");
    assert_eq!(said(&file.lock_shared_timeout(Duration::ZERO)), "ok");
    let adapter = settings(scratch.dir.path()).lock_timeout(Duration::ZERO).build().unwrap();
    adapter.write_atomic(file.path(), "written").unwrap();
    let timed_out = |holder| match file.lock_timeout(Duration::ZERO) {
        Err(Error::Timeout { waited: Duration::ZERO, holder: named, .. }) => assert_eq!(named, Some(holder)),
        other => panic!("{other:?}"),
    };
    assert_eq!(holder.order("lock file"), "ok");
    timed_out(holder.pid());
    assert_eq!(holder.order("unlock file"), "ok");
    let held = file.lock().unwrap();
    thread::scope(|scope| scope.spawn(|| timed_out(process::id())).join().unwrap());
    drop(held);
}

fn waiting_burns_no_cpu() {
    const SECOND: Duration = Duration::from_secs(1);
    let scratch = Scratch::new();
    let (here, elsewhere) = (scratch.file("here"), scratch.file("elsewhere"));
    let mut holder = scratch.worker("talk", &[]);
    assert_eq!(holder.order("lock elsewhere"), "ok");
    let _held = here.lock().unwrap();
    let waits = |name: &str, file: &AtomicFile| {
        let (begun, before) = (Instant::now(), thread_cpu_time());
        assert!(matches!(file.lock_timeout(SECOND), Err(Error::Timeout { .. })));
        let (waited, burnt) = (begun.elapsed(), thread_cpu_time() - before);
        eprintln!("waiting for {waited:?} for a {name} burns {burnt:?}");
        assert!(burnt < Duration::from_millis(200), "{burnt:?}");
    };
    thread::scope(|scope| {
        scope.spawn(|| waits("thread", &here));
        scope.spawn(|| waits("process", &elsewhere));
        scope.spawn(|| waits("process, behind a thread that does", &elsewhere));
    });
}

fn thread_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of our own.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) }, 0);
    Duration::new(u64::try_from(time.tv_sec).unwrap(), u32::try_from(time.tv_nsec).unwrap())
}

// Forks. These run in workers, which have one thread.

/// A child made by fork, and a line to it.
struct Forked {
    pid: Pid,
    pipe: Pipe,
}

struct Pipe(BufReader<UnixStream>);

impl Pipe {
    fn tell(&mut self, line: &str) {
        writeln!(self.0.get_mut(), "{line}").unwrap();
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Forked {
    fn start(body: impl FnOnce(&mut Pipe)) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let pipe = |stream| Pipe(BufReader::new(stream));
        // SAFETY: where there is one thread, the child may do whatever its parent may. Beside busy threads it uses
        // this crate and the allocator, and glibc keeps the latter usable across a fork.
        match unsafe { nix::unistd::fork() }.unwrap() {
            ForkResult::Parent { child } => Forked { pid: child, pipe: pipe(ours) },
            ForkResult::Child => {
                drop(ours);
                let panicked = catch_unwind(AssertUnwindSafe(|| body(&mut pipe(theirs)))).is_err();
                // SAFETY: nothing of the parent's may run here: no destructors, no exit handlers.
                unsafe { libc::_exit(panicked.into()) }
            }
        }
    }

    #[track_caller]
    fn expect(&mut self, line: &str) {
        assert_eq!(self.pipe.hear(), line);
    }

    #[track_caller]
    fn finish(self) {
        assert_eq!(waitpid(self.pid, None).unwrap(), WaitStatus::Exited(self.pid, 0), "the child failed");
    }
}

fn inert_guard(args: &[String]) {
    let dir = Path::new(&args[0]);
    let mut third = start(dir, "talk", &[]);
    let (file, read_only) =
        (adapter(dir).file(dir.join("file")).unwrap(), adapter(dir).file(dir.join("shared")).unwrap());
    file.write("old").unwrap();
    let (mut guard, mut shared) = (Some(file.lock().unwrap()), Some(read_only.lock_shared().unwrap()));
    for dropped in [false, true] {
        Forked::start(|_| {
            let (guard, shared) = (guard.take().unwrap(), shared.take().unwrap());
            assert_eq!(said(&guard.read()), "forked");
            assert_eq!(said(&guard.read_into(&mut Vec::new())), "forked");
            assert_eq!(said(&guard.open()), "forked");
            assert_eq!(said(&guard.write("from the child")), "forked");
            assert_eq!(said(&guard.writer()), "forked");
            assert_eq!(said(&guard.delete()), "forked");
            assert_eq!(said(&shared.read()), "forked");
            assert_eq!(said(&shared.open()), "forked");
            if dropped {
                drop((guard, shared));
                // The child's table is its own now, and the guards were not of it.
                assert_eq!(said(&file.try_lock()), "would block");
                assert_eq!(said(&read_only.try_lock()), "would block");
            } else {
                std::mem::forget((guard, shared));
            }
        })
        .finish();
        assert_eq!(third.order("try_lock file"), "would block", "the child has released its parent's lock");
        assert_eq!(third.order("try_lock shared"), "would block", "the child has released its parent's lock");
    }
    let guard = guard.unwrap();
    guard.write("new").unwrap();
    assert_eq!(guard.read().unwrap().unwrap(), b"new");
    assert_eq!(shared.unwrap().read().unwrap(), None);
    drop(guard);
    assert_eq!(third.order("try_lock file"), "ok");
    assert_eq!(third.order("try_lock shared"), "ok");
    third.finish();
}

type End = fn(Replacement<'_>);

fn half_written(args: &[String]) {
    let dir = Path::new(&args[0]);
    let mut third = start(dir, "talk", &[]);
    let file = adapter(dir).file(dir.join("file")).unwrap();
    file.write("old").unwrap();
    let guard = file.lock().unwrap();
    let mut writer = Some(guard.writer().unwrap());
    writer.as_mut().unwrap().write_all(b"half ").unwrap();
    let temporaries = || common::names(dir).iter().filter(|name| name.ends_with(".tmp")).count();
    assert_eq!(temporaries(), 1);
    let ends: [(&str, End); 3] = [
        ("dropped", |writer| drop(writer)),
        ("committed", |writer| assert_eq!(said(&writer.commit()), "forked")),
        ("written to", |mut writer| {
            let error = writer.write(b"of the child").unwrap_err();
            let inner = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
            assert!(matches!(inner, Some(Error::Forked { .. })), "{error}");
        }),
    ];
    for (what, end) in ends {
        Forked::start(|_| end(writer.take().unwrap())).finish();
        assert_eq!(temporaries(), 1, "{what} in the child, the temporary file is gone");
        assert_eq!(third.order("try_lock file"), "would block", "{what} in the child, the lock is gone");
        assert_eq!(fs::read(file.path()).unwrap(), b"old");
    }
    let mut writer = writer.unwrap();
    writer.write_all(b"and half").unwrap();
    writer.commit().unwrap();
    assert_eq!(guard.read().unwrap().unwrap(), b"half and half");
    assert_eq!(temporaries(), 0);
    drop(guard);
    assert_eq!(third.order("try_lock file"), "ok");
    third.finish();
}

fn own_locks(args: &[String]) {
    let dir = Path::new(&args[0]);
    let file = adapter(dir).file(dir.join("file")).unwrap();
    for inherited in [true, false] {
        let guard = file.lock().unwrap();
        let mut child = Forked::start(|pipe| {
            let own = if inherited { file.clone() } else { adapter(dir).file(dir.join("file")).unwrap() };
            assert_eq!(said(&own.try_lock()), "would block");
            assert_eq!(said(&own.try_lock_shared()), "would block");
            assert!(matches!(own.lock_timeout(Duration::from_millis(10)), Err(Error::Timeout { .. })));
            pipe.tell("asking");
            let held = own.lock().unwrap();
            held.write("from the child").unwrap();
            pipe.tell("held");
            assert_eq!(pipe.hear(), "let go");
        });
        child.expect("asking");
        until_blocked(child.pid.as_raw().unsigned_abs(), &file);
        assert_eq!(guard.read().unwrap().unwrap_or_default(), b"", "the child did not wait");
        drop(guard);
        child.expect("held");
        assert_eq!(said(&file.try_lock()), "would block");
        child.pipe.tell("let go");
        child.finish();
        assert_eq!(file.read().unwrap().unwrap(), b"from the child");
        assert!(file.delete().unwrap());
    }
}

fn grandchild(args: &[String]) {
    let dir = Path::new(&args[0]);
    let adapter = adapter(dir);
    let file = |name: &str| adapter.file(dir.join(name)).unwrap();
    let (of_parent, of_child, free) = (file("of parent"), file("of child"), file("free"));
    let mut third = start(dir, "talk", &[]);
    let mut parents = Some(of_parent.lock().unwrap());
    let mut child = Forked::start(|pipe| {
        let mut childs = Some(of_child.lock().unwrap());
        Forked::start(|_| {
            for guard in [parents.take().unwrap(), childs.take().unwrap()] {
                assert_eq!(said(&guard.write("from the grandchild")), "forked");
                drop(guard);
            }
            assert_eq!(said(&of_parent.try_lock()), "would block");
            assert_eq!(said(&of_child.try_lock()), "would block");
            free.update(next).unwrap();
            assert_eq!(said(&free.lock()), "ok");
        })
        .finish();
        childs.as_ref().unwrap().write("from the child").unwrap();
        pipe.tell("held");
        assert_eq!(pipe.hear(), "let go");
        drop(childs);
    });
    child.expect("held");
    assert_eq!(third.order("try_lock of parent"), "would block");
    assert_eq!(third.order("try_lock of child"), "would block");
    child.pipe.tell("let go");
    child.finish();
    parents.unwrap().write("from the parent").unwrap();
    assert_eq!(of_parent.read().unwrap().unwrap(), b"from the parent");
    assert_eq!(of_child.read().unwrap().unwrap(), b"from the child");
    assert_eq!(free.read().unwrap().unwrap(), b"1");
    third.finish();
}

fn inherited_descriptors(args: &[String]) {
    let dir = Path::new(&args[0]);
    let lock_dir = fs::canonicalize(dir).unwrap().join("locks");
    let open = || {
        let fds = fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
        fds.filter(|path| path.starts_with(&lock_dir)).count()
    };
    let files = ["a", "b", "c"].map(|name| adapter(dir).file(dir.join(name)).unwrap());
    files.iter().for_each(|file| file.write("").unwrap());
    assert_eq!(open(), 3);
    Forked::start(|_| {
        files[0].write("from the child").unwrap();
        // Opened anew, for this one call.
        assert_eq!(open(), 0);
    })
    .finish();
    assert_eq!(open(), 3);
}

fn update_that_forks(args: &[String]) {
    let dir = Path::new(&args[0]);
    let file = adapter(dir).file(dir.join("file")).unwrap();
    file.write("0").unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut child = None;
    let result = file.update(|old| {
        // SAFETY: there is one thread.
        match unsafe { nix::unistd::fork() }.unwrap() {
            ForkResult::Child => {}
            ForkResult::Parent { child: pid } => {
                // The child's update has ended when this goes on.
                let mut answer = String::new();
                BufReader::new(&ours).read_line(&mut answer).unwrap();
                assert_eq!(answer.trim_end(), "forked");
                assert_eq!(fs::read(file.path()).unwrap(), b"0", "changed by the child");
                child = Some(pid);
            }
        }
        next(old)
    });
    let Some(child) = child else {
        writeln!(&theirs, "{}", said(&result)).unwrap();
        // SAFETY: nothing of the parent's may run here.
        unsafe { libc::_exit(0) }
    };
    result.unwrap();
    assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
    assert_eq!(file.read().unwrap().unwrap(), b"1");
    assert_eq!(common::names(dir), ["file", "locks"]);
}

fn fork_storm(args: &[String]) {
    let dir = Path::new(&args[0]);
    let adapter = adapter(dir);
    let (busy, own) = (adapter.file(dir.join("busy")).unwrap(), adapter.file(dir.join("own")).unwrap());
    busy.write("").unwrap();
    let kept = adapter.file(dir.join("kept")).unwrap();
    let mut kept = Some((kept.lock().unwrap(), kept));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        for thread in 0..3 {
            let (stop, busy, adapter) = (&stop, &busy, &adapter);
            scope.spawn(move || {
                while !stop.load(SeqCst) {
                    if thread == 0 {
                        drop(busy.lock().unwrap());
                    } else {
                        adapter.read_with_lock(busy.path()).unwrap();
                    }
                }
            });
        }
        for n in 0..50 {
            let child = Forked::start(|_| {
                // The last users of what is in the parent's table, whose mutex may be locked for ever.
                drop(kept.take());
                drop(own.lock().unwrap());
                drop(adapter.file(dir.join(format!("{n}"))).unwrap().lock().unwrap());
                // Inherited while another thread may have been using it.
                drop(busy.lock().unwrap());
            });
            let begun = Instant::now();
            let status = loop {
                match waitpid(child.pid, Some(WaitPidFlag::WNOHANG)).unwrap() {
                    WaitStatus::StillAlive if begun.elapsed() > Duration::from_secs(10) => {
                        kill(child.pid, Signal::SIGKILL).unwrap();
                        panic!("child {n} hangs");
                    }
                    WaitStatus::StillAlive => thread::sleep(Duration::from_millis(1)),
                    status => break status,
                }
            };
            assert_eq!(status, WaitStatus::Exited(child.pid, 0));
        }
    });
    assert_eq!(start(dir, "talk", &[]).order("try_lock kept"), "would block");
}

// Commands.

fn a_command_inherits_no_lock_descriptor() {
    let scratch = Scratch::new();
    let lock_dir = fs::canonicalize(scratch.dir.path()).unwrap().join("locks");
    let (a, b) = (scratch.file("a"), scratch.file("b"));
    let mut other = scratch.worker("talk", &[]);
    let (_exclusive, _shared) = (a.lock().unwrap(), b.lock_shared().unwrap());
    let mut by_fork = Command::new("ls");
    // SAFETY: the closure does nothing. That there is one makes std use fork and exec instead of posix_spawn.
    unsafe { by_fork.pre_exec(|| Ok(())) };
    for mut command in [Command::new("ls"), by_fork] {
        let output = command.args(["-l", "/proc/self/fd"]).output().unwrap();
        let descriptors = String::from_utf8(output.stdout).unwrap();
        assert!(descriptors.contains(" 0 -> "), "{descriptors}");
        assert!(!descriptors.contains(lock_dir.to_str().unwrap()), "{descriptors}");
        assert_eq!(other.order("try_lock a"), "would block");
        assert_eq!(other.order("try_lock b"), "would block");
    }
}

fn a_command_keeps_no_lock() {
    let scratch = Scratch::new();
    let mut other = scratch.worker("talk", &[]);
    let file = scratch.file("file");
    let guard = file.lock().unwrap();
    let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(other.order("try_lock file"), "would block");
    drop(guard);
    assert_eq!(other.order("try_lock file"), "ok");
    assert_eq!(child.try_wait().unwrap(), None, "the child was to outlive the guard");
    drop(child.stdin.take());
    child.wait().unwrap();
}

// Turns.

/// So long that three are never all outside by chance.
const SLOWLY: Duration = Duration::from_millis(5);

/// Three readers, each of whom is inside for so long and comes back at once.
fn a_writer_gets_in(how: &str, inside: Duration) {
    let scratch = Scratch::new();
    let file = scratch.file("file");
    file.write("first").unwrap();
    let mut writer = scratch.worker("write_often", &[how]);
    writer.expect("ready");
    let (stop, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (time, during) = thread::scope(|scope| {
        let _stop = Stop(&stop);
        for n in 0..3 {
            let (file, stop, reads) = (&file, &stop, &reads);
            scope.spawn(move || {
                while !stop.load(SeqCst) {
                    let guard = file.lock_shared().unwrap();
                    guard.read().unwrap().unwrap();
                    // Not in step, or they would all be outside at once.
                    thread::sleep(inside + inside * n / 7);
                    drop(guard);
                    reads.fetch_add(1, SeqCst);
                }
            });
        }
        until("the readers read", || reads.load(SeqCst) > 20);
        let (begun, before) = (Instant::now(), reads.load(SeqCst));
        assert_eq!(writer.order("go"), "done");
        (begun.elapsed(), reads.load(SeqCst) - before)
    });
    eprintln!("20 writes ({how}) beside three readers of {inside:?}: {time:?}, with {during} reads");
    writer.finish();
}

/// Whoever waits with a deadline asks every 2 ms at the least, and a writer that comes back at once is outside for some
/// microseconds only.
fn a_writer_that_comes_back_lets_others_in() {
    let scratch = Scratch::new();
    let file = scratch.file("file");
    let mut writer = scratch.worker("write_often", &["deadline"]);
    writer.expect("ready");
    let (stop, mine) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (time, during) = thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                let guard = file.lock().unwrap();
                thread::sleep(SLOWLY);
                drop(guard);
                mine.fetch_add(1, SeqCst);
            }
        });
        until("the writer writes", || mine.load(SeqCst) > 20);
        let (begun, before) = (Instant::now(), mine.load(SeqCst));
        assert_eq!(writer.order("go"), "done");
        (begun.elapsed(), mine.load(SeqCst) - before)
    });
    eprintln!("20 writes beside a writer that comes back at once: {time:?}, with {during} of its own");
    writer.finish();
}

fn write_often(args: &[String]) {
    let dir = Path::new(&args[0]);
    let file = adapter(dir).file(dir.join("file")).unwrap();
    tell("ready");
    hear();
    for n in 0..20 {
        match args[1].as_str() {
            "forever" => file.write(n.to_string()).unwrap(),
            _ => file.lock_timeout(Duration::from_secs(30)).unwrap().write(n.to_string()).unwrap(),
        }
    }
    tell("done");
}

fn two_processes_of_four_writers_share_a_lock() {
    let scratch = Scratch::new();
    let mut processes = [scratch.worker("share", &[]), scratch.worker("share", &[])];
    processes.iter_mut().for_each(|process| process.expect("ready"));
    processes.iter_mut().for_each(|process| process.tell("go"));
    let counts = processes.each_mut().map(|process| process.hear().parse::<usize>().unwrap());
    let sum: usize = counts.iter().sum();
    eprintln!("two processes share a lock {counts:?}");
    assert_eq!(scratch.file("counter").read().unwrap().unwrap(), sum.to_string().as_bytes(), "increments are lost");
    assert!(counts.iter().all(|count| count * 10 >= sum * 3), "{counts:?}");
    processes.into_iter().for_each(Worker::finish);
}

fn share(args: &[String]) {
    let dir = Path::new(&args[0]);
    let file = adapter(dir).file(dir.join("counter")).unwrap();
    tell("ready");
    hear();
    let (begun, count) = (Instant::now(), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while begun.elapsed() < Duration::from_secs(3) {
                    file.update(next).unwrap();
                    count.fetch_add(1, SeqCst);
                }
            });
        }
    });
    tell(&count.into_inner().to_string());
}

fn a_reader_does_not_overtake_a_writer() {
    let scratch = Scratch::new();
    let file = scratch.file("file");
    let guard = file.lock_shared().unwrap();
    thread::scope(|scope| {
        let (task, tasks) = channel();
        let file = &file;
        let writer = scope.spawn(move || {
            task.send(this_task()).unwrap();
            file.lock().map(drop)
        });
        until_in(&tasks.recv().unwrap(), PARKED);
        let overtakes = scope.spawn(|| said(&file.try_lock_shared())).join().unwrap();
        drop(guard);
        writer.join().unwrap().unwrap();
        assert_eq!(overtakes, "would block");
    });
}

fn a_reader_may_join_a_reader_that_waits_for_it() {
    let scratch = Scratch::new();
    let file = scratch.file("file");
    file.write("contents").unwrap();
    let read_in_a_thread = || {
        let file = file.clone();
        let joined = thread::spawn(move || file.read()).join().unwrap();
        assert_eq!(joined.unwrap().unwrap(), b"contents");
    };
    let mut writer = scratch.worker("talk", &[]);
    let guard = file.lock_shared().unwrap();
    read_in_a_thread();
    // The process's turn ends by time alone.
    thread::sleep(Duration::from_millis(25));
    read_in_a_thread();
    writer.tell("lock file");
    until_blocked(writer.pid(), &file);
    for _ in 0..3 {
        read_in_a_thread();
        thread::sleep(Duration::from_millis(25));
    }
    drop(guard);
    writer.expect("ok");
}

fn a_reader_is_never_refused_beside_readers() {
    let scratch = Scratch::new();
    let (one, two) = (scratch.file("one"), scratch.file("two"));
    let guard = one.lock_shared().unwrap();
    let (holds, held) = channel();
    let waiter = thread::scope(|scope| {
        let (one, two) = (&one, &two);
        // At the end of a turn readers give way, for a while, to a writer whom they can't see.
        thread::sleep(Duration::from_millis(25));
        let reader = scope.spawn(move || {
            for micros in [0, 100, 1_000, 1_900] {
                drop(one.lock_shared_timeout(Duration::from_micros(micros)).unwrap());
                drop(one.try_lock_shared().unwrap());
            }
            // Nor is it a deadlock: whoever holds `one` waits for `two`, and whoever holds that can go in here.
            let _two = two.lock().unwrap();
            holds.send(()).unwrap();
            thread::sleep(Duration::from_millis(25));
            for _ in 0..3 {
                drop(one.lock_shared().unwrap());
            }
        });
        held.recv().unwrap();
        drop(two.lock().unwrap());
        reader.join()
    });
    waiter.unwrap();
    drop(guard);
}

fn hundreds_of_threads_get_their_turn() {
    const THREADS: usize = 400;
    let scratch = Scratch::new();
    let file = scratch.file("counter");
    let guard = file.lock().unwrap();
    let begun = thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| file.update(|old| (count(old) + 1).to_string().into()).unwrap());
        }
        let begun = Instant::now();
        drop(guard);
        begun
    });
    eprintln!("{THREADS} threads, one update each: {:?}", begun.elapsed());
    assert_eq!(count(file.read().unwrap().as_deref()), THREADS);
}

fn count(contents: Option<&[u8]>) -> usize {
    contents.map_or(0, |contents| std::str::from_utf8(contents).unwrap().parse().unwrap())
}

// Descriptors.

fn ten_thousand_paths(args: &[String]) {
    let dir = Path::new(&args[0]);
    let limit = libc::rlimit { rlim_cur: 256, rlim_max: 256 };
    // SAFETY: the pointer is to an rlimit of our own.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    let open = || fs::read_dir("/dev/fd").unwrap().count();
    let adapter = adapter(dir);
    let before = open();
    for n in 0..10_000 {
        adapter.write_atomic(dir.join(n.to_string()), n.to_string()).unwrap();
    }
    assert_eq!(open(), before + 16, "those that were used last are kept open");
    // The limit is in force.
    let mut files = Vec::new();
    while let Ok(file) = fs::File::open("/dev/null") {
        assert!(file.as_raw_fd() < 256);
        files.push(file);
    }
    assert_eq!(files.len() + before + 16 - 1, 256, "one of those that were counted read the directory");
    drop(files);
    assert_eq!(adapter.read_with_lock(dir.join("9999")).unwrap().unwrap(), b"9999");
}

// Lock files that are removed while somebody waits for them.

fn a_removed_lock_file_is_noticed_by_processes() {
    for ask in ["lock", "lock_shared", "lock_timeout"] {
        let scratch = Scratch::new();
        let file = scratch.file("file");
        let (mut holder, mut waiter) = (scratch.worker("talk", &[]), scratch.worker("talk", &[]));
        assert_eq!(holder.order("lock file"), "ok");
        waiter.tell(&format!("{ask} file"));
        if ask == "lock_timeout" {
            until_in(&format!("/proc/{}", waiter.pid()), PAUSED);
        } else {
            until_blocked(waiter.pid(), &file);
        }
        fs::remove_file(file.lock_path()).unwrap();
        assert_eq!(holder.order("unlock file"), "ok");
        waiter.expect("ok");
        assert_eq!(said(&file.try_lock()), "would block", "the waiter holds a file that has no name");
        assert_eq!(waiter.order("unlock file"), "ok");
        assert_eq!(said(&file.try_lock()), "ok");
    }
}

fn a_removed_lock_file_is_noticed_by_threads() {
    for ask in [LOCK, LOCK_TIMEOUT] {
        let scratch = Scratch::new();
        // One handle for both: it remembers the file that has gone.
        let file = scratch.file("file");
        let mut other = scratch.worker("talk", &[]);
        let held = file.lock().unwrap();
        thread::scope(|scope| {
            let ((task, tasks), (release, may_release)) = (channel(), channel::<()>());
            let (taken, is_taken) = channel();
            let file = &file;
            let waiter = scope.spawn(move || {
                task.send(this_task()).unwrap();
                let _guard = ask(file).unwrap();
                taken.send(()).unwrap();
                // An error when the test has failed.
                let _ = may_release.recv();
            });
            until_in(&tasks.recv().unwrap(), PARKED);
            fs::remove_file(file.lock_path()).unwrap();
            drop(held);
            is_taken.recv().unwrap();
            assert_eq!(other.order("try_lock file"), "would block", "the waiter holds a file that has no name");
            drop(release);
            waiter.join().unwrap();
        });
        assert_eq!(other.order("try_lock file"), "ok");
    }
}

fn a_lock_file_that_changes_costs_no_lock() {
    // Trap 1: the lock file of B becomes that of A between the look at it and its opening. Then there is a second
    // descriptor of A's, and closing it would drop A's lock.
    let scratch = Scratch::new();
    let a = scratch.file("a");
    let mut other = scratch.worker("talk", &[]);
    let _held = a.lock().unwrap();
    let (of_b, alternate) = (scratch.adapter.lock_path(scratch.path("b")).unwrap(), scratch.path("alternate"));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                fs::hard_link(a.lock_path(), &alternate).unwrap();
                fs::rename(&alternate, &of_b).unwrap();
                fs::write(&alternate, "").unwrap();
                fs::rename(&alternate, &of_b).unwrap();
            }
        });
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(500) {
            match scratch.adapter.file(scratch.path("b")).unwrap().try_lock() {
                Ok(_) | Err(Error::WouldBlock { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
    assert_eq!(other.order("try_lock a"), "would block", "the lock was dropped on the way");
}

fn no_increment_is_lost_while_lock_files_go() {
    const EACH: usize = 500;
    let scratch = Scratch::new();
    let each = EACH.to_string();
    let mut workers: Vec<Worker> =
        ["handle", "path", "handle", "path"].map(|how| scratch.worker("increment", &[how, &each])).into();
    workers.iter_mut().for_each(|worker| worker.expect("ready"));
    workers.iter_mut().for_each(|worker| worker.tell("go"));
    let (stop, removed) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            let file = scratch.file("counter");
            while !stop.load(SeqCst) {
                match file.try_lock() {
                    // Only under its own lock is a lock file safe to remove.
                    Ok(_guard) => {
                        fs::remove_file(file.lock_path()).unwrap();
                        removed.fetch_add(1, SeqCst);
                    }
                    Err(error) => assert!(matches!(error, Error::WouldBlock { .. }), "{error}"),
                }
            }
        });
        workers.iter_mut().for_each(|worker| worker.expect("done"));
    });
    workers.into_iter().for_each(Worker::finish);
    assert!(removed.load(SeqCst) > 0, "no lock file was removed");
    eprintln!("{} lock files were removed during {} increments", removed.into_inner(), 4 * EACH);
    assert_eq!(scratch.file("counter").read().unwrap().unwrap(), (4 * EACH).to_string().as_bytes());
}

fn increment(args: &[String]) {
    let dir = Path::new(&args[0]);
    let adapter = adapter(dir);
    let file = adapter.file(dir.join("counter")).unwrap();
    tell("ready");
    hear();
    for _ in 0..args[2].parse().unwrap() {
        if args[1] == "handle" { file.update(next) } else { adapter.update(file.path(), next) }.unwrap();
    }
    tell("done");
}
