//! `Builder::on_wait`: which waits are reported, when, what the report says, and what the callback may do.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, RefUnwindSafe, UnwindSafe, catch_unwind};
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use atomic_file_adapter::{AtomicFile, AtomicFileAdapter, Builder, Error, Result, Waiting, WriteGuard};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

use crate::common::Worker;
use crate::talk::{LOCK, LOCK_SHARED, LOCK_TIMEOUT, Ordered, TRY_LOCK, TRY_LOCK_SHARED, WAITING, said};
use crate::waits::{FOR_SHORT, ONCE, assert_gives_up};
use crate::watching::{PARKED, spawn_until_in};
use crate::{MINUTE, Scratch, adapter, settings, start};

const MOMENT: Duration = Duration::from_millis(100);

/// The reports of `on_wait`, each with its time.
struct Told(Receiver<(Waiting, Instant)>);

impl Told {
    #[track_caller]
    fn next(&self) -> (Waiting, Instant) {
        self.0.recv_timeout(Duration::from_secs(20)).expect("the callback was not called")
    }

    #[track_caller]
    fn nothing_more(&self) {
        let more: Vec<_> = self.0.try_iter().collect();
        assert!(more.is_empty(), "{more:?}");
    }
}

fn telling(settings: Builder) -> (AtomicFileAdapter, Told) {
    let (call, told) = channel();
    let adapter = settings
        .on_wait(move |waiting| {
            // If a test has failed, nobody listens any more.
            let _ = call.send((waiting.clone(), Instant::now()));
        })
        .build()
        .unwrap();
    (adapter, Told(told))
}

/// Checks the report of a wait that began after `begun`.
#[track_caller]
fn assert_told(told: &(Waiting, Instant), file: &AtomicFile, holder: u32, begun: Instant) {
    let (waiting, at) = told;
    assert_eq!(waiting.path(), file.path());
    assert_eq!(waiting.lock_path(), file.lock_path());
    assert_eq!(waiting.holder(), Some(holder));
    assert!(waiting.since() >= begun);
    assert!(*at >= waiting.since() + MOMENT, "reported after {:?}", at.saturating_duration_since(waiting.since()));
}

fn name(file: &AtomicFile) -> String {
    file.path().file_name().unwrap().to_str().unwrap().to_owned()
}

/// Two files in the order in which a call takes both.
fn in_the_order_of_locks(adapter: &AtomicFileAdapter, dir: &Path) -> [AtomicFile; 2] {
    let mut files = ["a", "b"].map(|name| adapter.file(dir.join(name)).unwrap());
    files.sort_by(|one, other| one.lock_path().cmp(other.lock_path()));
    files
}

type Verb = fn(&AtomicFileAdapter, &Path) -> Result<()>;

const VERBS: [(&str, Verb); 20] = [
    ("write_atomic", |adapter, path| adapter.write_atomic(path, "new")),
    ("read_with_lock", |adapter, path| adapter.read_with_lock(path).map(drop)),
    ("read_to_string_with_lock", |adapter, path| adapter.read_to_string_with_lock(path).map(drop)),
    ("update", |adapter, path| adapter.update(path, |_| b"new".into())),
    ("try_update", |adapter, path| adapter.try_update(path, |_| Ok::<_, Error>(b"new".into()))),
    ("delete_with_lock", |adapter, path| adapter.delete_with_lock(path).map(drop)),
    ("write", |adapter, path| adapter.file(path)?.write("new")),
    ("read", |adapter, path| adapter.file(path)?.read().map(drop)),
    ("read_into", |adapter, path| adapter.file(path)?.read_into(&mut Vec::new()).map(drop)),
    ("open", |adapter, path| adapter.file(path)?.open().map(drop)),
    ("update by handle", |adapter, path| adapter.file(path)?.update(|_| b"new".into())),
    ("try_update by handle", |adapter, path| adapter.file(path)?.try_update(|_| Ok::<_, Error>(b"new".into()))),
    ("delete", |adapter, path| adapter.file(path)?.delete().map(drop)),
    ("lock", |adapter, path| adapter.file(path)?.lock().map(drop)),
    ("lock_shared", |adapter, path| adapter.file(path)?.lock_shared().map(drop)),
    ("lock_timeout", |adapter, path| adapter.file(path)?.lock_timeout(MINUTE).map(drop)),
    ("lock_shared_timeout", |adapter, path| adapter.file(path)?.lock_shared_timeout(MINUTE).map(drop)),
    ("lock_many", |adapter, path| adapter.lock_many([path, &path.with_extension("2")]).map(drop)),
    ("lock_many_shared", |adapter, path| adapter.lock_many_shared([path, &path.with_extension("2")]).map(drop)),
    ("batch", |adapter, path| adapter.batch().write(path, "new").delete(path.with_extension("2")).commit()),
];

pub(crate) fn every_verb_that_waits_says_so_once() {
    let scratch = Scratch::new();
    let with_a_limit = || settings(scratch.dir.path()).lock_timeout(MINUTE);
    for settings in [settings(scratch.dir.path()), with_a_limit()] {
        let (adapter, told) = telling(settings);
        let mut holder = scratch.worker("talk", &[]);
        for (name, _) in VERBS {
            assert_eq!(holder.order(&format!("lock {name}")), "ok");
        }
        let begun = Instant::now();
        thread::scope(|scope| {
            // Moved in, so that it ends with this closure. Otherwise a failing test would wait for it.
            let mut holder = holder;
            let (scratch, adapter) = (&scratch, &adapter);
            let threads =
                VERBS.map(|(name, verb)| (name, scope.spawn(move || said(&verb(adapter, &scratch.path(name))))));
            let mut names = Vec::new();
            for _ in VERBS {
                let next = told.next();
                let name = next.0.path().file_name().unwrap().to_str().unwrap().to_owned();
                assert_told(&next, &scratch.file(&name), holder.pid(), begun);
                assert_eq!(holder.order(&format!("unlock {name}")), "ok");
                names.push(name);
            }
            for (name, thread) in threads {
                assert!(names.iter().any(|told| told == name), "{name} tells nothing");
                assert_eq!(thread.join().unwrap(), "ok", "{name}");
            }
        });
        told.nothing_more();
    }
}

pub(crate) fn a_wait_for_a_thread_names_this_process() {
    let scratch = Scratch::new();
    let (adapter, told) = telling(settings(scratch.dir.path()));
    let file = adapter.file(scratch.path("file")).unwrap();
    for (hold, verb) in [(LOCK, LOCK), (LOCK, LOCK_SHARED), (LOCK_SHARED, LOCK), (LOCK, LOCK_TIMEOUT)] {
        let (begun, held) = (Instant::now(), hold(&file).unwrap());
        thread::scope(|scope| {
            let held = held;
            let waiter = scope.spawn(|| said(&verb(&file)));
            assert_told(&told.next(), &file, process::id(), begun);
            drop(held);
            assert_eq!(waiter.join().unwrap(), "ok");
        });
    }
    told.nothing_more();
}

pub(crate) fn a_call_that_waits_for_several_files_says_so_once_for_each() {
    let scratch = Scratch::new();
    let (adapter, told) = telling(settings(scratch.dir.path()));
    let files = in_the_order_of_locks(&adapter, scratch.dir.path());
    let names = files.each_ref().map(name);
    let mut holder = scratch.worker("talk", &[]);
    names.iter().for_each(|name| assert_eq!(holder.order(&format!("lock {name}")), "ok"));
    let begun = Instant::now();
    thread::scope(|scope| {
        // Moved in, so that it ends with this closure. Otherwise a failing test would wait for it.
        let mut holder = holder;
        let waiter = scope.spawn(|| said(&adapter.lock_many(files.each_ref().map(AtomicFile::path))));
        let first = told.next();
        assert_told(&first, &files[0], holder.pid(), begun);
        assert_eq!(holder.order(&format!("unlock {}", names[0])), "ok");
        let second = told.next();
        assert_told(&second, &files[1], holder.pid(), begun);
        assert!(second.1 >= first.1 + MOMENT, "reported {:?} after the first file", second.1 - first.1);
        assert_eq!(holder.order(&format!("unlock {}", names[1])), "ok");
        assert_eq!(waiter.join().unwrap(), "ok");
    });
    told.nothing_more();
}

pub(crate) fn a_call_that_does_not_wait_is_not_reported() {
    let scratch = Scratch::new();
    let (adapter, told) = telling(settings(scratch.dir.path()));
    let (file, free) = (adapter.file(scratch.path("file")).unwrap(), scratch.path("free"));
    let mut holder = scratch.worker("talk", &[]);
    assert_eq!(holder.order("lock file"), "ok");
    for ask in [TRY_LOCK, TRY_LOCK_SHARED] {
        assert_eq!(said(&ask(&file)), "would block");
    }
    assert_gives_up(&file, ONCE);
    // A wait that ends before the callback is due.
    assert_gives_up(&file, FOR_SHORT);
    for (name, verb) in VERBS {
        assert_eq!(said(&verb(&adapter, &free)), "ok", "{name}");
    }
    let own = adapter.file(&free).unwrap();
    let _held = own.lock().unwrap();
    assert_eq!(said(&own.lock()), "free would deadlock with free");
    told.nothing_more();
}

pub(crate) fn the_builder_sets_the_wait_after_which_the_callback_is_called() {
    let scratch = Scratch::new();
    let mut holder = scratch.worker("talk", &[]);
    assert_eq!(holder.order("lock file"), "ok");
    for never in [MINUTE * 60, Duration::MAX] {
        let (adapter, told) = telling(settings(scratch.dir.path()).on_wait_after(never));
        let file = adapter.file(scratch.path("file")).unwrap();
        // Longer than the default time until a report.
        assert!(matches!(file.lock_timeout(2 * MOMENT), Err(Error::Timeout { .. })));
        told.nothing_more();
    }
    let (adapter, told) = telling(settings(scratch.dir.path()).on_wait_after(Duration::ZERO));
    let file = adapter.file(scratch.path("file")).unwrap();
    // There is no wait for a free lock.
    assert_eq!(said(&adapter.file(scratch.path("free")).unwrap().lock()), "ok");
    told.nothing_more();
    thread::scope(|scope| {
        // Moved in, so that it ends with this closure. Otherwise a failing test would wait for it.
        let mut holder = holder;
        let waiter = scope.spawn(|| said(&file.lock()));
        assert_eq!(told.next().0.holder(), Some(holder.pid()));
        assert_eq!(holder.order("unlock file"), "ok");
        assert_eq!(waiter.join().unwrap(), "ok");
    });
    told.nothing_more();
}

/// A callback that does this only at its first call.
fn first_time(settings: Builder, call: impl Fn(&Waiting) + Send + Sync + 'static) -> AtomicFileAdapter {
    let first = AtomicBool::new(true);
    settings
        .on_wait(move |waiting| {
            if first.swap(false, SeqCst) {
                call(waiting)
            }
        })
        .build()
        .unwrap()
}

pub(crate) fn a_panic_of_the_callback_ends_the_call() {
    let scratch = Scratch::new();
    let mut holder = scratch.worker("talk", &[]);
    for with_another in [false, true] {
        let (told, is_told) = channel();
        let (go_on, may_go_on) = channel::<()>();
        let (told, may_go_on) = (Mutex::new(told), Mutex::new(may_go_on));
        let adapter = first_time(settings(scratch.dir.path()), move |_| {
            told.lock().unwrap().send(()).unwrap();
            may_go_on.lock().unwrap().recv().unwrap();
            panic!("told");
        });
        let files = in_the_order_of_locks(&adapter, scratch.dir.path());
        let [first, file] = &files;
        let [first_name, name] = files.each_ref().map(name);
        assert_eq!(holder.order(&format!("lock {name}")), "ok");
        thread::scope(|scope| {
            let call = scope.spawn(|| {
                let call = || {
                    if with_another {
                        adapter.lock_many([first.path(), file.path()]).map(drop)
                    } else {
                        file.lock().map(drop)
                    }
                };
                let ended = catch_unwind(AssertUnwindSafe(call));
                // The thread neither holds the lock nor is in the queue. Otherwise this would be a deadlock.
                let next = said(&first.lock());
                (ended, next, said(&file.try_lock()))
            });
            is_told.recv().unwrap();
            // A thread of the same process, behind it in the queue.
            let behind = spawn_until_in(scope, PARKED, || said(&scratch.adapter.file(file.path()).unwrap().lock()));
            go_on.send(()).unwrap();
            let (ended, next, tried) = call.join().unwrap();
            let panic = ended.expect_err("no panic");
            assert_eq!(panic.downcast_ref::<&str>(), Some(&"told"));
            assert_eq!((&*next, &*tried), ("ok", "would block"));
            assert_eq!(holder.order(&format!("try_lock {first_name}")), "ok");
            assert_eq!(holder.order(&format!("unlock {first_name}")), "ok");
            assert!(!behind.is_finished());
            assert_eq!(holder.order(&format!("unlock {name}")), "ok");
            assert_eq!(behind.join().unwrap(), "ok");
        });
        assert_eq!(holder.order(&format!("lock {name}")), "ok");
        assert_eq!(holder.order(&format!("unlock {name}")), "ok");
        assert_eq!(said(&file.lock()), "ok");
    }
}

pub(crate) fn a_callback_may_use_other_files() {
    let scratch = Scratch::new();
    let itself = Arc::new(OnceLock::<AtomicFileAdapter>::new());
    let (tell, told) = channel();
    let (adapter, dir) = (itself.clone(), scratch.dir.path().to_owned());
    let adapter = first_time(settings(scratch.dir.path()), move |waiting| {
        let adapter = adapter.get().unwrap();
        let other = dir.join("other");
        adapter.write_atomic(&other, "new").unwrap();
        assert_eq!(adapter.read_with_lock(&other).unwrap().unwrap(), b"new");
        assert_eq!(adapter.lock_many([&other, &dir.join("third")]).unwrap().len(), 2);
        let same = adapter.file(waiting.path()).unwrap();
        for ask in [TRY_LOCK, TRY_LOCK_SHARED] {
            assert_eq!(said(&ask(&same)), "would block");
        }
        assert_gives_up(&same, FOR_SHORT);
        tell.send(()).unwrap();
    });
    let adapter = itself.get_or_init(|| adapter);
    let mut holder = scratch.worker("talk", &[]);
    assert_eq!(holder.order("lock file"), "ok");
    thread::scope(|scope| {
        // Moved in, so that it ends with this closure. Otherwise a failing test would wait for it.
        let mut holder = holder;
        let waiter = scope.spawn(|| said(&adapter.write_atomic(scratch.path("file"), "written")));
        told.recv_timeout(Duration::from_secs(20)).expect("it failed");
        assert!(!waiter.is_finished());
        assert_eq!(holder.order("unlock file"), "ok");
        assert_eq!(waiter.join().unwrap(), "ok");
    });
}

/// The process has one thread and its deputy.
pub(crate) fn on_wait_forks(args: &[String]) {
    let dir = Path::new(&args[0]);
    let holder = Arc::new(Mutex::new(start(dir, "talk", &[])));
    let order = |holder: &Mutex<Worker>, line: &str| holder.lock().unwrap().order(line);
    let own = adapter(dir);
    let files = in_the_order_of_locks(&own, dir);
    let [first, file] = &files;
    let free = own.file(dir.join("free")).unwrap();
    for with_another in [false, true] {
        assert_eq!(order(&holder, &format!("lock {}", name(file))), "ok");
        let (ours, theirs) = UnixStream::pair().unwrap();
        let to_child = ours.try_clone().unwrap();
        let child = Arc::new(AtomicI32::new(0));
        let (theirs_is_held, pid) = (holder.clone(), child.clone());
        let [first_name, file_name] = files.each_ref().map(name);
        let adapter = first_time(settings(dir), move |_| {
            // SAFETY: the only other thread is a deputy, which is in the kernel.
            if let ForkResult::Parent { child } = unsafe { nix::unistd::fork() }.unwrap() {
                pid.store(child.as_raw(), SeqCst);
                // This returns when the child's call has ended.
                let mut answer = String::new();
                BufReader::new(&ours).read_line(&mut answer).unwrap();
                assert_eq!(answer.trim_end(), "forked");
                if with_another {
                    assert_eq!(order(&theirs_is_held, &format!("try_lock {first_name}")), "would block");
                }
                assert_eq!(order(&theirs_is_held, &format!("unlock {file_name}")), "ok");
            }
        });
        let mut paths = vec![file.path()];
        paths.extend(with_another.then_some(first.path()));
        let asked = adapter.lock_many(paths);
        let child = Pid::from_raw(child.load(SeqCst));
        if child.as_raw() == 0 {
            let failed = catch_unwind(AssertUnwindSafe(|| {
                writeln!(&theirs, "{}", said(&asked)).unwrap();
                assert_eq!(said(&free.lock()), "ok");
                assert_eq!(said(&adapter.file(free.path()).unwrap().lock_timeout(MINUTE)), "ok");
                // The parent gets the lock at the end, and holds it until the child has ended.
                let mut answer = String::new();
                BufReader::new(&theirs).read_line(&mut answer).unwrap();
                assert_eq!(answer.trim_end(), "locked");
                assert_eq!(said(&file.try_lock()), "would block");
                assert_gives_up(file, FOR_SHORT);
            }));
            // SAFETY: no code of the parent may run here.
            unsafe { libc::_exit(failed.is_err().into()) }
        }
        let guards = asked.unwrap();
        writeln!(&to_child, "locked").unwrap();
        assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0), "the child failed");
        assert_eq!(order(&holder, &format!("try_lock {}", name(file))), "would block", "the parent's lock is gone");
        drop(guards);
    }
}

pub(crate) fn a_callback_that_takes_too_long() {
    const LIMIT: Duration = Duration::from_millis(200);
    let scratch = Scratch::new();
    for let_go in [false, true] {
        let holder = Arc::new(Mutex::new(scratch.worker("talk", &[])));
        assert_eq!(holder.lock().unwrap().order("lock file"), "ok");
        let theirs = holder.clone();
        let adapter = first_time(settings(scratch.dir.path()), move |waiting| {
            if let_go {
                assert_eq!(theirs.lock().unwrap().order("unlock file"), "ok");
            }
            // Not a wait for an event: the test is about a callback that returns too late.
            thread::sleep((waiting.since() + 2 * LIMIT).saturating_duration_since(Instant::now()));
        });
        let answer = said(&adapter.file(scratch.path("file")).unwrap().lock_timeout(LIMIT));
        if let_go {
            assert_eq!(answer, "ok");
        } else {
            assert!(answer.contains("200"), "{answer}");
            assert_eq!(holder.lock().unwrap().order("unlock file"), "ok");
        }
        assert_eq!(holder.lock().unwrap().order("lock file"), "ok");
    }
}

pub(crate) fn of_two_threads_with_callbacks_in_a_cycle_one_gets_an_error() {
    for (first, second) in [(LOCK, LOCK), (LOCK, LOCK_SHARED), (LOCK_SHARED, LOCK), (LOCK, LOCK_TIMEOUT)] {
        let scratch = Scratch::new();
        let (adapter, _told) = telling(settings(scratch.dir.path()));
        let file = |name: &str| adapter.file(scratch.path(name)).unwrap();
        let (a, b) = (file("a"), file("b"));
        thread::scope(|scope| {
            let held = first(&a).unwrap();
            let (holds, is_held) = channel();
            let (a, b) = (&a, &b);
            let other = spawn_until_in(scope, PARKED, move || {
                let held = first(b).unwrap();
                holds.send(()).unwrap();
                let answer = said(&second(a));
                drop(held);
                answer
            });
            is_held.recv().unwrap();
            assert_eq!(said(&second(b)), "b would deadlock with a");
            drop(held);
            assert_eq!(other.join().unwrap(), "ok");
        });
    }
}

/// This test only has to compile.
pub(crate) fn what_is_told_is_send_sync_and_unwind_safe() {
    fn is<T: Send + Sync + UnwindSafe + RefUnwindSafe>() {}
    is::<AtomicFileAdapter>();
    is::<AtomicFile>();
    is::<Builder>();
    is::<Waiting>();
}

/// A callback that reports its beginning, and ends when it is told to.
fn taking_long(settings: Builder) -> (AtomicFileAdapter, Receiver<()>, Sender<()>) {
    let (told, is_told) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let (told, may_go_on) = (Mutex::new(told), Mutex::new(may_go_on));
    let adapter = first_time(settings, move |_| {
        told.lock().unwrap().send(()).unwrap();
        let _ = may_go_on.lock().unwrap().recv();
    });
    (adapter, is_told, go_on)
}

pub(crate) fn during_the_callback_others_have_the_lock() {
    for limit in [None, Some(MINUTE)] {
        let scratch = Scratch::new();
        let settings = settings(scratch.dir.path());
        let settings = limit.into_iter().fold(settings, Builder::lock_timeout);
        let (adapter, is_told, go_on) = taking_long(settings);
        let (mut holder, mut third) = (scratch.worker("talk", &[]), scratch.worker("talk", &[]));
        assert_eq!(holder.order("lock file"), "ok");
        let (told, behind) = (adapter.file(scratch.path("file")).unwrap(), scratch.file("file"));
        thread::scope(|scope| {
            // Moved in, so that they end with this closure. Otherwise a failing test would wait for them.
            let (mut holder, go_on) = (holder, go_on);
            let waiter = scope.spawn(|| said(&told.lock_shared()));
            is_told.recv().unwrap();
            assert_eq!(holder.order("unlock file"), "ok");
            assert_eq!(third.order("lock file"), "ok");
            assert_eq!(third.order("unlock file"), "ok");
            for ask in WAITING {
                assert_eq!(said(&ask(&behind)), "ok");
            }
            assert!(!waiter.is_finished());
            drop(go_on);
            assert_eq!(waiter.join().unwrap(), "ok");
        });
    }
}

pub(crate) fn a_cycle_through_a_lock_of_the_callback_is_reported() {
    thread_local!(static KEPT: RefCell<Option<WriteGuard>> = const { RefCell::new(None) });
    let scratch = Scratch::new();
    let (first, second) = (scratch.file("first"), scratch.file("second"));
    let (told, is_told) = channel();
    let kept = second.clone();
    let adapter = first_time(settings(scratch.dir.path()), move |_| {
        KEPT.set(Some(kept.try_lock().unwrap()));
        told.send(()).unwrap();
    });
    let guard = first.lock().unwrap();
    thread::scope(|scope| {
        let guard = guard;
        let waiter = scope.spawn(|| {
            let answer = said(&adapter.write_atomic(first.path(), "new"));
            drop(KEPT.take());
            answer
        });
        is_told.recv().unwrap();
        let answer = said(&second.lock());
        drop(guard);
        let answers = [answer, waiter.join().unwrap()];
        let one = ["ok", "first would deadlock with second"];
        let other = ["second would deadlock with first", "ok"];
        assert!([one, other].map(|pair| pair.map(String::from)).contains(&answers), "{answers:?}");
    });
}

/// The callback forks, and the path leads to another file by then. The child must not do what its parent does.
pub(crate) fn on_wait_forks_and_links(args: &[String]) {
    let dir = Path::new(&args[0]);
    let (path, other) = (dir.join("path"), dir.join("other"));
    let mut holder = start(dir, "talk", &[]);
    let child = Arc::new(AtomicI32::new(0));
    let (pid, link, target) = (child.clone(), path.clone(), other.clone());
    let adapter = first_time(settings(dir).lock_timeout(Duration::from_millis(200)), move |_| {
        std::fs::rename(&link, &target).unwrap();
        std::os::unix::fs::symlink("other", &link).unwrap();
        // SAFETY: the only other thread is a deputy, which is in the kernel.
        if let ForkResult::Parent { child } = unsafe { nix::unistd::fork() }.unwrap() {
            pid.store(child.as_raw(), SeqCst);
        }
    });
    adapter.write_atomic(&path, "old").unwrap();
    assert_eq!(holder.order("lock path"), "ok");
    let answer = said(&adapter.write_atomic(&path, "new"));
    let child = Pid::from_raw(child.load(SeqCst));
    if child.as_raw() == 0 {
        // SAFETY: no code of the parent may run here.
        unsafe { libc::_exit((answer != "forked").into()) }
    }
    assert_eq!(answer, "ok");
    assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0), "the child has written, too");
}
