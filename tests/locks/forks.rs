//! Forks. These run in workers, which have one thread.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use atomic_file_adapter::{Error, Replacement};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

use crate::common::names;
use crate::talk::{Ordered, said};
use crate::watching::until_blocked;
use crate::{Stop, adapter, next, start};

/// A child made by fork, and a connection to it.
pub(crate) struct Forked {
    pid: Pid,
    pipe: Pipe,
}

pub(crate) struct Pipe(BufReader<UnixStream>);

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
    pub(crate) fn start(body: impl FnOnce(&mut Pipe)) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let pipe = |stream| Pipe(BufReader::new(stream));
        // SAFETY: in a process with one thread, the child may do everything that its parent may. Beside busy threads it
        // uses only this crate and the allocator, which glibc keeps usable across a fork.
        match unsafe { nix::unistd::fork() }.unwrap() {
            ForkResult::Parent { child } => Forked { pid: child, pipe: pipe(ours) },
            ForkResult::Child => {
                drop(ours);
                let panicked = catch_unwind(AssertUnwindSafe(|| body(&mut pipe(theirs)))).is_err();
                // SAFETY: no code of the parent may run here: no destructors, no exit handlers.
                unsafe { libc::_exit(panicked.into()) }
            }
        }
    }

    #[track_caller]
    fn expect(&mut self, line: &str) {
        assert_eq!(self.pipe.hear(), line);
    }

    #[track_caller]
    pub(crate) fn finish(self) {
        assert_eq!(waitpid(self.pid, None).unwrap(), WaitStatus::Exited(self.pid, 0), "the child failed");
    }
}

pub(crate) fn inert_guard(args: &[String]) {
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
                // The child has its own table now, and the inherited guards do not belong to it.
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

pub(crate) fn half_written(args: &[String]) {
    let dir = Path::new(&args[0]);
    let mut third = start(dir, "talk", &[]);
    let file = adapter(dir).file(dir.join("file")).unwrap();
    file.write("old").unwrap();
    let guard = file.lock().unwrap();
    let mut writer = Some(guard.writer().unwrap());
    writer.as_mut().unwrap().write_all(b"half ").unwrap();
    let temporaries = || names(dir).iter().filter(|name| name.ends_with(".tmp")).count();
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

/// A hard link to a lock file of the parent. In the child it is a usual file, because the child holds no lock that it
/// could lose. This changes when the child takes that lock itself.
pub(crate) fn linked_lock_file(args: &[String]) {
    let dir = Path::new(&args[0]);
    let adapter = adapter(dir);
    let (file, linked) = (adapter.file(dir.join("file")).unwrap(), adapter.file(dir.join("linked")).unwrap());
    let mut other = start(dir, "talk", &[]);
    let guard = file.lock().unwrap();
    std::fs::hard_link(file.lock_path(), linked.path()).unwrap();
    let mut child = Forked::start(|pipe| {
        assert!(linked.read_unlocked().unwrap().is_some());
        pipe.tell("read");
        assert_eq!(pipe.hear(), "take it");
        let held = file.lock().unwrap();
        assert!(matches!(linked.read_unlocked(), Err(Error::InvalidPath { .. })));
        pipe.tell("held");
        assert_eq!(pipe.hear(), "let go");
        drop(held);
    });
    child.expect("read");
    assert_eq!(other.order("try_lock file"), "would block", "the child drops its parent's lock");
    child.pipe.tell("take it");
    drop(guard);
    child.expect("held");
    assert_eq!(other.order("try_lock file"), "would block", "the child has dropped its own lock");
    child.pipe.tell("let go");
    child.finish();
}

pub(crate) fn own_locks(args: &[String]) {
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

pub(crate) fn grandchild(args: &[String]) {
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

pub(crate) fn inherited_descriptors(args: &[String]) {
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
        // The lock file is opened for this one call.
        assert_eq!(open(), 0);
    })
    .finish();
    assert_eq!(open(), 3);
}

pub(crate) fn update_that_forks(args: &[String]) {
    let dir = Path::new(&args[0]);
    let file = adapter(dir).file(dir.join("file")).unwrap();
    file.write("0").unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut child = None;
    let result = file.update(|old| {
        // SAFETY: the process has one thread.
        match unsafe { nix::unistd::fork() }.unwrap() {
            ForkResult::Child => {}
            ForkResult::Parent { child: pid } => {
                // This returns when the child's update has ended.
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
        // SAFETY: no code of the parent may run here.
        unsafe { libc::_exit(0) }
    };
    result.unwrap();
    assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
    assert_eq!(file.read().unwrap().unwrap(), b"1");
    assert_eq!(names(dir), ["file", "locks"]);
}

pub(crate) fn fork_storm(args: &[String]) {
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
                // These are the last users of a lock file in the parent's table, whose mutex may be locked for ever.
                drop(kept.take());
                drop(own.lock().unwrap());
                drop(adapter.file(dir.join(format!("{n}"))).unwrap().lock().unwrap());
                // It was inherited while another thread may have been using it.
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

/// A thread of a child makes its first call and is closing the inherited descriptors. At that moment another thread
/// forks.
#[cfg(feature = "fault-injection")]
pub(crate) fn grandchild_of_a_first_call(args: &[String]) {
    use std::sync::mpsc::channel;

    use atomic_file_adapter::fault::{Action, Syscall, inject};

    let dir = Path::new(&args[0]);
    let adapter = adapter(dir);
    let file = |name: &str| adapter.file(dir.join(name)).unwrap();
    let (inherited, one, other) = (file("inherited"), file("one"), file("other"));
    let _held = inherited.lock().unwrap();
    drop([one.lock().unwrap(), other.lock().unwrap()]);
    Forked::start(|_| {
        let (closes, is_closing) = channel();
        let (go_on, may_go_on) = channel::<()>();
        thread::scope(|scope| {
            // Moved in, so that it ends with this closure. Otherwise a failing test would wait for it.
            let go_on = go_on;
            let first = scope.spawn(|| {
                let decide = move |call: &atomic_file_adapter::fault::Call<'_>| {
                    if call.syscall == Syscall::Close {
                        // Nobody waits for the second message.
                        let _ = closes.send(());
                        let _ = may_go_on.recv();
                    }
                    Action::Proceed
                };
                inject(decide, || said(&one.lock())).0
            });
            is_closing.recv().unwrap();
            let grandchild = Forked::start(|_| {
                // Ends the process if it hangs. Its parent notices that.
                nix::unistd::alarm::set(10);
                assert_eq!(said(&other.lock()), "ok");
                assert_eq!(said(&inherited.try_lock()), "would block");
            });
            grandchild.finish();
            drop(go_on);
            assert_eq!(first.join().unwrap(), "ok");
            assert_eq!(said(&other.lock()), "ok");
        });
    })
    .finish();
}
