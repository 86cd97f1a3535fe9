//! Several files changed as one. Each system call of the change fails once, and the process dies there once. The same
//! for each system call of the processes that find the dead one, and have to finish its change.
//!
//! A worker has no other thread that matters, so it forks the processes that die, which is faster than starting them.
//! `FAULTS=full` tries more deaths, more errors and more kinds of callers.

mod changes;
mod passers_by;
mod place;
mod recoveries;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use atomic_file_adapter::fault::{Action, Call, Syscall, inject};
use atomic_file_adapter::{Durability, Result};
use libc::{EACCES, EDQUOT, EINTR, EIO, EMFILE, ENOLCK, ENOSPC, EROFS};
use libtest_mimic::Trial;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use crate::common::{Work, Worker, end_after, test};
use crate::errors::errors_of;
use crate::laboratory::EACH_DURABILITY;

pub(crate) const WORKERS: &[(&str, Work)] = &[
    ("together::each_call_fails", changes::each_call_fails),
    ("together::the_process_dies_at_each_call", changes::the_process_dies_at_each_call),
    ("together::interruptions_change_nothing", changes::interruptions_change_nothing),
    ("together::each_call_of_a_recovery_fails", recoveries::each_call_fails),
    ("together::a_recovery_dies_at_each_call", recoveries::the_process_dies_at_each_call),
    ("together::interruptions_of_a_recovery_change_nothing", recoveries::interruptions_change_nothing),
];

pub(crate) fn tests() -> Vec<Trial> {
    let mut tests = Vec::new();
    for (worker, _) in WORKERS {
        for durability in EACH_DURABILITY {
            // After the decision, the steps differ only by the syncs.
            if worker.contains("recovery") && durability == Durability::Ordered && !full() {
                continue;
            }
            let durability = format!("{durability:?}");
            let name = format!("{worker}::{}", durability.to_lowercase());
            tests.push(test(&name, move || Worker::start(worker, &[&durability]).finish()));
        }
    }
    tests
}

fn full() -> bool {
    std::env::var("FAULTS").is_ok_and(|form| form == "full")
}

/// The first argument of a worker.
fn durability_in(args: &[String]) -> Durability {
    EACH_DURABILITY.into_iter().find(|known| format!("{known:?}") == args[0]).unwrap()
}

/// Ends the program with this description if `body` takes too long.
fn not_for_ever<T>(what: &str, body: impl FnOnce() -> T) -> T {
    let _done = end_after(Duration::from_secs(60), format!("it hangs: {what}"));
    body()
}

/// The end of a process.
#[derive(Debug, PartialEq)]
pub(crate) enum End {
    Done,
    /// It died at a call.
    Died,
}

/// Runs `body` in another process.
pub(crate) fn in_a_child(what: &str, body: impl FnOnce()) -> End {
    // SAFETY: the other threads only wait for a time to pass. The child uses this crate and the allocator, which glibc
    // keeps usable across a fork.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            // SAFETY: the call takes a number.
            unsafe { libc::alarm(60) };
            let panicked = catch_unwind(AssertUnwindSafe(body)).is_err();
            // SAFETY: no code of the parent may run here: no destructors, no exit handlers.
            unsafe { libc::_exit(panicked.into()) }
        }
        ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
            WaitStatus::Exited(_, 0) => End::Done,
            WaitStatus::Signaled(_, nix::sys::signal::Signal::SIGKILL, _) => End::Died,
            WaitStatus::Signaled(_, nix::sys::signal::Signal::SIGALRM, _) => panic!("it hangs: {what}"),
            status => panic!("{what}: {status:?}"),
        },
    }
}

/// Injects the faults of `decide`, and leaves out syncs, which only take time here.
fn with<T>(mut decide: impl FnMut(&Call<'_>) -> Action + 'static, body: impl FnOnce() -> T) -> (T, usize) {
    let sync = |call: &Call<'_>| matches!(call.syscall, Syscall::Fsync | Syscall::FcntlFullfsync | Syscall::Syncfs);
    inject(
        move |call| match decide(call) {
            Action::Proceed if sync(call) => Action::Skip,
            action => action,
        },
        body,
    )
}

fn fail_at(at: usize, errno: i32) -> impl FnMut(&Call<'_>) -> Action + 'static {
    move |call| if call.number == at { Action::Fail(errno) } else { Action::Proceed }
}

fn die_at(at: usize) -> impl FnMut(&Call<'_>) -> Action + 'static {
    move |call| if call.number == at { Action::Kill } else { Action::Proceed }
}

/// Interrupts each call once, if it can be interrupted.
fn interrupt() -> impl FnMut(&Call<'_>) -> Action + 'static {
    let mut again = false;
    move |call| {
        again = !again && !errors_of(call.syscall).is_empty();
        if again { Action::Fail(EINTR) } else { Action::Proceed }
    }
}

/// The calls that a piece of code makes if nothing fails.
fn calls_of(body: impl FnOnce() -> Result<()>) -> Vec<(Syscall, String)> {
    let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let mine = seen.clone();
    let (result, calls) = with(
        move |call| {
            mine.borrow_mut().push((call.syscall, call.to_string()));
            Action::Proceed
        },
        body,
    );
    result.unwrap();
    assert_eq!(calls, seen.borrow().len());
    seen.take()
}

/// The errors of a call that are tried: those of a disk, of a limit or of an administrator. The short form tries `few`
/// of each, not the same ones for each call.
fn errors_to_try(at: usize, syscall: Syscall, few: usize) -> Vec<i32> {
    // For a lock this error would mean that it is taken.
    let of_a_lock = matches!(syscall, Syscall::FcntlSetlk | Syscall::FcntlSetlkw | Syscall::FcntlGetlk);
    let possible = if of_a_lock { &[ENOLCK] } else { errors_of(syscall) };
    let mut errors: Vec<i32> = [EIO, ENOSPC, EACCES, EROFS, EMFILE, ENOLCK, EDQUOT]
        .into_iter()
        .filter(|errno| possible.contains(errno))
        .collect();
    if !full() && errors.len() > few {
        let turn = at % errors.len();
        errors.rotate_left(turn);
        errors.truncate(few);
    }
    errors
}
