//! Waits with a deadline. A thread of the crate waits in the kernel for them, keeps no lock that nobody wants, and
//! keeps nobody out.

use std::fs::{self, DirEntry, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use atomic_file_adapter::{AtomicFile, Error, ReadGuard, Result};

use crate::common::{Worker, hear, tell};
use crate::forks::Forked;
use crate::talk::{
    Ask, LOCK_SHARED, LOCK_SHARED_TIMEOUT, LOCK_TIMEOUT, Ordered, TRY_LOCK, TRY_LOCK_SHARED, boxed, said,
};
use crate::watching::{until, until_blocked};
use crate::{MINUTE, Scratch, Stop, adapter, start};

const SHORT: Duration = Duration::from_millis(10);
pub(crate) const FOR_SHORT: Ask = |file| file.lock_timeout(SHORT).map(boxed);
const SHARED_FOR_SHORT: Ask = |file| file.lock_shared_timeout(SHORT).map(boxed);
pub(crate) const ONCE: Ask = |file| file.lock_timeout(Duration::ZERO).map(boxed);

#[track_caller]
pub(crate) fn assert_gives_up(file: &AtomicFile, ask: Ask) {
    let asked = ask(file);
    assert!(matches!(asked, Err(Error::Timeout { .. })), "{}", said(&asked));
}

/// The deputies of a process: its threads that wait in the kernel for others, by the beginning of their names.
fn deputies_of(pid: u32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap());
    // A thread may end meanwhile.
    let name = |task: &DirEntry| fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    let deputies = tasks.filter(|task| name(task).starts_with("atomic-file"));
    deputies.map(|task| task.file_name().to_str().unwrap().parse().unwrap()).collect()
}

fn deputies() -> usize {
    deputies_of(process::id()).len()
}

fn tasks() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

pub(crate) fn a_wait_with_a_deadline_is_in_the_kernels_queue() {
    let scratch = Scratch::new();
    let file = scratch.file("file");
    for ask in [LOCK_TIMEOUT, LOCK_SHARED_TIMEOUT] {
        let mut holder = scratch.worker("talk", &[]);
        assert_eq!(holder.order("lock file"), "ok");
        thread::scope(|scope| {
            // Moved in, so that it ends with this closure. Otherwise a failing test would wait for it.
            let mut holder = holder;
            let waiter = scope.spawn(|| ask(&file).map(drop));
            until_blocked(process::id(), &file);
            assert!(!waiter.is_finished());
            assert_eq!(holder.order("unlock file"), "ok");
            assert_eq!(said(&waiter.join().unwrap()), "ok");
        });
    }
}

/// The worker, in a process whose threads can be counted.
pub(crate) fn nobody_wants_it(args: &[String]) {
    let dir = Path::new(&args[0]);
    let file = adapter(dir).file(dir.join("file")).unwrap();
    let (mut holder, mut third) = (start(dir, "talk", &[]), start(dir, "talk", &[]));
    assert_eq!(tasks(), 1);
    for ask in [FOR_SHORT, SHARED_FOR_SHORT] {
        assert_eq!(holder.order("lock file"), "ok");
        assert_gives_up(&file, ask);
        until_blocked(process::id(), &file);
        assert_eq!(deputies(), 1);
        assert_gives_up(&file, ask);
        assert_eq!(deputies(), 1, "one is enough");
        assert_eq!(holder.order("unlock file"), "ok");
        for other in [&mut holder, &mut third] {
            assert_eq!(other.order("lock file"), "ok");
            assert_eq!(other.order("unlock file"), "ok");
        }
        until("its thread is gone", || tasks() == 1);
        assert_eq!(said(&file.try_lock()), "ok");
    }
}

/// A call that only tries gets a lock that nobody holds, although others have waited for it in vain.
fn one_who_tries_gets_it(ask: Ask) {
    const ROUNDS: usize = 100;
    let scratch = Scratch::new();
    let file = scratch.file("file");
    let mut holder = scratch.worker("talk", &[]);
    let mut refused = 0;
    for round in 0..ROUNDS {
        assert_eq!(holder.order("lock file"), "ok");
        let gives_up = [FOR_SHORT, SHARED_FOR_SHORT][round % 2];
        assert_gives_up(&file, gives_up);
        assert_ne!(said(&ask(&file)), "ok", "it is held elsewhere");
        assert_eq!(holder.order("unlock file"), "ok");
        // The deputy may need longer to wake up than the call waits.
        refused += usize::from(ask(&file).is_err());
    }
    // On a machine that is much too busy. Without that wait the call is refused nearly always.
    assert!(refused < ROUNDS / 2, "refused {refused} times of {ROUNDS}");
}

pub(crate) fn a_try_gets_a_lock_that_others_gave_up() {
    thread::scope(|scope| {
        for ask in [TRY_LOCK, TRY_LOCK_SHARED] {
            scope.spawn(move || one_who_tries_gets_it(ask));
        }
    });
}

pub(crate) fn a_timeout_of_zero_gets_a_lock_that_others_gave_up() {
    one_who_tries_gets_it(ONCE);
}

/// Readers of another process keep a writer out. The writer gives up, and its deputy stays in the kernel.
fn a_writer_gives_up_beside(readers: &mut Worker, file: &AtomicFile) {
    assert_eq!(readers.order("lock_shared file"), "ok");
    assert_gives_up(file, FOR_SHORT);
    until_blocked(process::id(), file);
}

pub(crate) fn a_reader_does_not_wait_for_the_deputy_of_a_writer() {
    let scratch = Scratch::new();
    let file = scratch.file("file");
    let (mut elsewhere, mut third) = (scratch.worker("talk", &[]), scratch.worker("talk", &[]));
    for _ in 0..20 {
        a_writer_gives_up_beside(&mut elsewhere, &file);
        for ask in [TRY_LOCK_SHARED, LOCK_SHARED_TIMEOUT, LOCK_SHARED] {
            assert_eq!(said(&ask(&file)), "ok");
        }
        // The deputy is granted the lock while a reader holds it.
        let reader = file.lock_shared().unwrap();
        assert_eq!(elsewhere.order("unlock file"), "ok");
        assert_eq!(third.order("try_lock file"), "would block", "beside a reader");
        // This call waits until the deputy has come back.
        assert_eq!(third.order("lock_shared file"), "ok");
        assert_eq!(third.order("unlock file"), "ok");
        drop(reader);
        assert_eq!(third.order("lock file"), "ok");
        assert_eq!(third.order("unlock file"), "ok");

        // The deputy is granted the lock when no reader holds it any more.
        a_writer_gives_up_beside(&mut elsewhere, &file);
        assert_eq!(said(&file.lock_shared()), "ok");
        assert_eq!(elsewhere.order("unlock file"), "ok");
        assert_eq!(third.order("lock file"), "ok");
        assert_eq!(third.order("unlock file"), "ok");

        // The deputy comes back while a writer holds the lock.
        a_writer_gives_up_beside(&mut elsewhere, &file);
        assert_eq!(said(&file.lock_shared()), "ok");
        assert_eq!(elsewhere.order("unlock file"), "ok");
        let writer = file.lock().unwrap();
        assert_eq!(third.order("try_lock_shared file"), "would block", "beside a writer");
        drop(writer);
        assert_eq!(third.order("lock file"), "ok");
        assert_eq!(third.order("unlock file"), "ok");
    }
}

/// The deputy is granted the lock beside a reader, which then releases everything. Another process takes the lock, and
/// a writer asks again.
#[cfg(target_os = "linux")]
pub(crate) fn a_late_deputy_does_not_bring_a_released_lock() {
    use crate::tracing::Traced;
    use crate::watching::{PARKED, until_in};

    let scratch = Scratch::new();
    let file = scratch.file("file");
    let (mut elsewhere, mut patient) = (scratch.worker("talk", &[]), scratch.worker("talk", &[]));
    assert_eq!(elsewhere.order("lock_shared file"), "ok");
    assert_ne!(patient.order("lock_for_short file"), "ok");
    until_blocked(patient.pid(), &file);
    let deputy = Traced::asleep(deputies_of(patient.pid())[0]);
    until_blocked(patient.pid(), &file);
    assert_eq!(patient.order("lock_shared file"), "ok");
    assert_eq!(elsewhere.order("unlock file"), "ok");
    deputy.until_returned();
    assert_eq!(patient.order("unlock file"), "ok");
    assert_eq!(elsewhere.order("lock file"), "ok");
    patient.tell("lock_timeout file");
    until_in(&format!("/proc/{}", patient.pid()), PARKED);
    drop(deputy);
    // If the writer got the lock instead, this would wait in vain.
    until_blocked(patient.pid(), &file);
    assert_eq!(elsewhere.order("unlock file"), "ok");
    patient.expect("ok");
    assert_eq!(elsewhere.order("try_lock file"), "would block");
}

/// Two numbers in a file, which are equal unless a writer holds the lock. They are changed in place, so that a reader
/// beside a writer sees different numbers.
struct Twins(File);

impl Twins {
    fn open(dir: &Path) -> Self {
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(dir.join("twins")).unwrap();
        Twins(file)
    }

    fn get(&self, which: u64) -> u64 {
        let mut bytes = [0; 8];
        match self.0.read_at(&mut bytes, which * 8).unwrap() {
            0 => 0,
            _ => u64::from_le_bytes(bytes),
        }
    }

    #[track_caller]
    fn read(&self) -> u64 {
        let first = self.get(0);
        thread::yield_now();
        let second = self.get(1);
        assert_eq!(first, second, "a thread holds the lock beside a writer");
        first
    }

    #[track_caller]
    fn change(&self) {
        let old = self.read();
        for which in 0..2 {
            self.0.write_all_at(&(old + 1).to_le_bytes(), which * 8).unwrap();
            thread::yield_now();
        }
    }
}

pub(crate) fn nobody_is_inside_beside_a_writer_that_had_given_up_before() {
    let scratch = Scratch::new();
    let others = [0, 1].map(|n: u32| scratch.worker("come_and_go", &[&n.to_string()]));
    let mut patient = scratch.worker("give_up_often", &[]);
    let others = others.map(|mut other| {
        other.expect("ready");
        other.tell("go");
        other
    });
    let mut changes: u64 = patient.order("go").parse().unwrap();
    for mut other in others {
        changes += other.order("stop").parse::<u64>().unwrap();
        other.finish();
    }
    // All deputies that still sleep in the kernel are woken now.
    assert_eq!(patient.order("alone"), "ok");
    patient.finish();
    assert_eq!(Twins::open(scratch.dir.path()).read(), changes, "changes are lost");
}

/// The worker: readers that overlap with those of another process, and write from time to time.
pub(crate) fn come_and_go(args: &[String]) {
    let (dir, odd) = (Path::new(&args[0]), args[1] == "1");
    let (file, twins) = (adapter(dir).file(dir.join("file")).unwrap(), Twins::open(dir));
    tell("ready");
    hear();
    let stop = AtomicBool::new(false);
    let changes = thread::scope(|scope| {
        scope.spawn(|| {
            hear();
            stop.store(true, SeqCst);
        });
        let mut changes = 0;
        for round in 0.. {
            if stop.load(SeqCst) {
                break;
            }
            if round % 4 == 0 {
                let guard = file.lock().unwrap();
                twins.change();
                changes += 1;
                drop(guard);
            } else {
                let guard = file.lock_shared().unwrap();
                twins.read();
                // To hold the lock for longer than a writer waits.
                thread::sleep(Duration::from_micros(if odd { 500 } else { 900 }));
                twins.read();
                drop(guard);
            }
        }
        changes
    });
    tell(&changes.to_string());
}

/// The worker: threads that read all the time, and two that want to write and wait only briefly.
pub(crate) fn give_up_often(args: &[String]) {
    const ROUNDS: usize = 1500;
    let dir = Path::new(&args[0]);
    let (file, twins) = (adapter(dir).file(dir.join("file")).unwrap(), Twins::open(dir));
    let (stop, reads, given_up, changes) =
        (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    hear();
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        for n in 0..2 {
            let (file, twins, stop, reads) = (&file, &twins, &stop, &reads);
            scope.spawn(move || {
                let few = Duration::from_micros(200);
                for round in n.. {
                    if stop.load(SeqCst) {
                        break;
                    }
                    let asked: Result<ReadGuard> = match round % 3 {
                        0 => file.lock_shared(),
                        1 => file.try_lock_shared(),
                        _ => file.lock_shared_timeout(few),
                    };
                    match asked {
                        Ok(guard) => {
                            twins.read();
                            reads.fetch_add(1, SeqCst);
                            drop(guard);
                        }
                        Err(Error::WouldBlock { .. } | Error::Timeout { .. }) => thread::yield_now(),
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        let writers = [150, 400].map(|limit| {
            let (file, twins, given_up, changes) = (&file, &twins, &given_up, &changes);
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    match file.lock_timeout(Duration::from_micros(limit)) {
                        Ok(guard) => {
                            twins.change();
                            changes.fetch_add(1, SeqCst);
                            drop(guard);
                        }
                        Err(Error::Timeout { .. }) => {
                            given_up.fetch_add(1, SeqCst);
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        });
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
    eprintln!("{given_up:?} times given up, {changes:?} changes, {reads:?} reads, {} deputies now", deputies());
    tell(&changes.into_inner().to_string());
    assert_eq!(hear(), "alone");
    until("all deputies have come back", || tasks() == 1);
    tell(&said(&file.try_lock()));
}

pub(crate) fn hundred_waits(args: &[String]) {
    const WAITS: usize = 100;
    const MOST: usize = 64;
    let dir = Path::new(&args[0]);
    let adapter = adapter(dir);
    let files: Vec<AtomicFile> = (0..WAITS).map(|n| adapter.file(dir.join(n.to_string())).unwrap()).collect();
    let one_more = adapter.file(dir.join("one more")).unwrap();
    let mut holder = start(dir, "talk", &[]);
    let names: Vec<String> = (0..WAITS).map(|n| n.to_string()).chain(["one more".into()]).collect();
    for name in &names {
        assert_eq!(holder.order(&format!("lock {name}")), "ok");
    }
    thread::scope(|scope| {
        for file in &files {
            let pid = holder.pid();
            scope.spawn(move || match file.lock_timeout(Duration::from_millis(300)) {
                Err(Error::Timeout { path, holder: Some(holder), .. }) => {
                    assert_eq!((&*path, holder), (file.path(), pid));
                }
                other => panic!("{}", said(&other)),
            });
        }
    });
    // None of them has come back, because the lock was not released.
    let deputies_left = deputies();
    eprintln!("{WAITS} waits have left {deputies_left} threads behind");
    assert!((1..=MOST).contains(&deputies_left), "{deputies_left}");
    thread::scope(|scope| {
        // Moved in, so that it ends with this closure. Otherwise a failing test would wait for it.
        let mut holder = holder;
        let waiter = scope.spawn(|| said(&one_more.lock_timeout(MINUTE)));
        for name in names.iter().rev() {
            assert_eq!(holder.order(&format!("unlock {name}")), "ok");
        }
        assert_eq!(waiter.join().unwrap(), "ok");
        for (file, name) in files.iter().zip(&names) {
            assert_eq!(said(&file.lock()), "ok");
            assert_eq!(holder.order(&format!("lock {name}")), "ok");
        }
    });
    until("their threads are gone", || tasks() == 1);
}

pub(crate) fn fork_beside_a_deputy(args: &[String]) {
    let dir = Path::new(&args[0]);
    let adapter = adapter(dir);
    let file = |name: &str| adapter.file(dir.join(name)).unwrap();
    let (waited_for, given_up, kept, free) = (file("file"), file("given up"), file("kept"), file("free"));
    let mut holder = start(dir, "talk", &[]);
    assert_eq!(holder.order("lock file"), "ok");
    assert_eq!(holder.order("lock_shared given up"), "ok");
    let mut guard = Some(kept.lock().unwrap());
    assert_gives_up(&given_up, FOR_SHORT);
    thread::scope(|scope| {
        // Moved in, so that it ends with this closure. Otherwise a failing test would wait for it.
        let mut holder = holder;
        let waiter = scope.spawn(|| waited_for.lock_timeout(MINUTE).map(|guard| assert!(guard.read().is_ok())));
        until_blocked(process::id(), &waited_for);
        until_blocked(process::id(), &given_up);
        Forked::start(|_| {
            let guard = guard.take().unwrap();
            assert_eq!(said(&guard.write("from the child")), "forked");
            drop(guard);
            assert_eq!(said(&kept.try_lock()), "would block");
            assert_eq!(said(&waited_for.try_lock()), "would block");
            assert_gives_up(&waited_for, FOR_SHORT);
            assert_eq!(said(&free.lock()), "ok");
            assert_eq!(said(&free.lock_timeout(MINUTE)), "ok");
            // The child does not have its parent's deputies.
            assert_gives_up(&given_up, FOR_SHORT);
            assert_eq!(said(&given_up.lock_shared()), "ok");
        })
        .finish();
        assert_eq!(holder.order("try_lock kept"), "would block", "the child has released its parent's lock");
        assert!(!waiter.is_finished());
        assert_eq!(holder.order("unlock file"), "ok");
        assert_eq!(said(&waiter.join().unwrap()), "ok");
        assert_eq!(holder.order("unlock given up"), "ok");
        assert_eq!(said(&given_up.lock()), "ok");
        guard.take().unwrap().write("from the parent").unwrap();
        for name in ["file", "given up", "kept", "free"] {
            assert_eq!(holder.order(&format!("lock {name}")), "ok");
        }
    });
}

/// Printed, not asserted, because the machine may be busy.
pub(crate) fn how_late_a_wait_ends() {
    let scratch = Scratch::new();
    let file = scratch.file("file");
    let mut holder = scratch.worker("talk", &[]);
    assert_eq!(holder.order("lock file"), "ok");
    for (name, ask) in [("exclusive", FOR_SHORT), ("shared", SHARED_FOR_SHORT)] {
        let mut late: Vec<Duration> = (0..50)
            .map(|_| {
                let begun = Instant::now();
                assert_gives_up(&file, ask);
                begun.elapsed().checked_sub(SHORT).expect("given up too early")
            })
            .collect();
        late.sort();
        eprintln!("past the deadline of {SHORT:?}, {name}: median {:?}, longest {:?}", late[25], late[49]);
    }
}

/// The worker: a caller that gives up again and again while another process holds the lock. It reads meanwhile if that
/// is possible.
pub(crate) fn few_deputies(args: &[String]) {
    let dir = Path::new(&args[0]);
    let file = adapter(dir).file(dir.join("file")).unwrap();
    for theirs in ["lock_shared file", "lock file"] {
        let mut holder = start(dir, "talk", &[]);
        assert_eq!(holder.order(theirs), "ok");
        for _ in 0..20 {
            assert_gives_up(&file, FOR_SHORT);
            let reads = file.try_lock_shared().is_ok();
            assert_eq!(reads, theirs == "lock_shared file");
            if !reads {
                assert_gives_up(&file, SHARED_FOR_SHORT);
            }
        }
        assert!(deputies() <= 2, "{} threads sleep in the kernel", deputies());
        assert_eq!(holder.order("unlock file"), "ok");
        until("its threads are gone", || tasks() == 1);
        assert_eq!(holder.order("lock file"), "ok");
    }
}

/// An unlock fails while a deputy has the lock file open. So the lock file is closed and opened again. The deputy comes
/// back when another thread holds the lock.
#[cfg(all(target_os = "linux", feature = "fault-injection"))]
pub(crate) fn a_deputy_beside_a_failed_unlock_costs_no_lock() {
    use atomic_file_adapter::fault::{Action, Syscall, inject};

    use crate::watching::has_lock;

    let scratch = Scratch::new();
    let (mut reader, mut third) = (scratch.worker("talk", &[]), scratch.worker("talk", &[]));
    for round in 0..20 {
        let file = scratch.file(&round.to_string());
        assert_eq!(reader.order(&format!("lock_shared {round}")), "ok");
        assert_gives_up(&file, FOR_SHORT);
        until_blocked(process::id(), &file);
        let guard = file.lock_shared().unwrap();
        let fails = |call: &atomic_file_adapter::fault::Call<'_>| match call.syscall {
            Syscall::FcntlUnlock => Action::Fail(libc::ENOLCK),
            _ => Action::Proceed,
        };
        assert!(has_lock(process::id(), &file));
        inject(fails, || drop(guard));
        assert!(!has_lock(process::id(), &file), "a lock that nobody holds is left");
        assert_eq!(reader.order(&format!("unlock {round}")), "ok");
        assert_eq!(third.order(&format!("lock {round}")), "ok", "a lock that nobody holds is left");
        assert_eq!(third.order(&format!("unlock {round}")), "ok");

        assert_eq!(reader.order(&format!("lock_shared {round}")), "ok");
        assert_gives_up(&file, FOR_SHORT);
        until_blocked(process::id(), &file);
        inject(fails, || drop(file.lock_shared().unwrap()));
        thread::scope(|scope| {
            let writer = scope.spawn(|| file.lock().unwrap().write("written").unwrap());
            assert_eq!(reader.order(&format!("unlock {round}")), "ok");
            writer.join().unwrap();
        });
        let guard = file.lock().unwrap();
        assert_eq!(third.order(&format!("try_lock {round}")), "would block", "the lock is gone");
        drop(guard);
    }
}
