//! The table of locks under the model checker loom: every interleaving of a few threads (up to a bound of preemptions),
//! with a stand-in for the kernel that knows processes only and drops all locks at any close, as the real one does.
//! loom fails a model in which threads are left that nobody will wake.

#[allow(dead_code, reason = "the library uses the rest")]
#[path = "../src/lock/table.rs"]
mod table;

mod sync {
    pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
}

mod sys {
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum LockMode {
        Shared,
        Exclusive,
    }
}

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use sync::{Condvar, Mutex};
use sys::LockMode::{self, Exclusive, Shared};
use table::{Kernel, Key, Refusal, Request, State, Table, Wait};

/// The kernel as this process sees it, and another process that can hold locks.
#[derive(Debug)]
struct Stub {
    state: Arc<Mutex<StubState>>,
    changed: Arc<Condvar>,
    start: Instant,
}

#[derive(Debug, Default)]
struct StubState {
    /// What this process holds.
    mine: BTreeMap<Key, LockMode>,
    /// What the other process holds.
    theirs: BTreeMap<Key, LockMode>,
    /// How many of the calls to come fail.
    failing_locks: usize,
    failing_unlocks: usize,
    /// Time that has passed.
    clock: Duration,
}

/// An open lock file.
#[derive(Debug)]
struct File {
    key: Key,
    kernel: Arc<Mutex<StubState>>,
}

impl Drop for File {
    fn drop(&mut self) {
        let mut kernel = self.kernel.lock().unwrap();
        // A lock that could not be let go otherwise is meant to be dropped like this.
        let meant = std::mem::take(&mut kernel.failing_unlocks) > 0;
        let dropped = kernel.mine.remove(&self.key);
        assert!(meant || dropped.is_none(), "closing a descriptor dropped the {dropped:?} lock of {:?}", self.key);
    }
}

impl Stub {
    fn new(state: StubState) -> Self {
        let (state, changed) = (Arc::new(Mutex::new(state)), Arc::new(Condvar::new()));
        Stub { state, changed, start: Instant::now() }
    }
}

impl StubState {
    fn grant(&mut self, key: Key, mode: LockMode) -> bool {
        let free = match (self.theirs.get(&key), mode) {
            (None, _) | (Some(Shared), Shared) => true,
            (Some(_), _) => false,
        };
        if free {
            // The kernel would grant it all the same, and change the mode of what another thread relies on.
            assert_eq!(self.mine.insert(key, mode), None, "two threads have asked the kernel for one lock");
        }
        free
    }
}

impl Kernel for Stub {
    type File = File;
    type Error = &'static str;

    fn lock(&self, file: &File, mode: LockMode) -> Result<bool, &'static str> {
        let mut state = self.state.lock().unwrap();
        if state.failing_locks > 0 {
            state.failing_locks -= 1;
            return Err("ENOLCK");
        }
        while !state.grant(file.key, mode) {
            state = self.changed.wait(state).unwrap();
        }
        Ok(true)
    }

    fn try_lock(&self, file: &File, mode: LockMode) -> Result<bool, &'static str> {
        Ok(self.state.lock().unwrap().grant(file.key, mode))
    }

    fn unlock(&self, file: &File) -> Result<(), &'static str> {
        let mut state = self.state.lock().unwrap();
        if state.failing_unlocks > 0 {
            return Err("EIO");
        }
        assert!(state.mine.remove(&file.key).is_some(), "unlocked what was not locked");
        Ok(())
    }

    fn holder(&self, _: &File, _: LockMode) -> Option<u32> {
        None
    }

    fn now(&self) -> Instant {
        self.start + self.state.lock().unwrap().clock
    }

    fn sleep(&self, time: Duration) {
        self.state.lock().unwrap().clock += time;
        loom::thread::yield_now();
    }

    const LOOKS: u32 = 1;

    fn relax(&self) {
        loom::thread::yield_now();
    }
}

/// The world of one model: the table, and who is inside which lock.
struct World {
    table: Table<Stub>,
    kernel: Arc<Mutex<StubState>>,
    changed: Arc<Condvar>,
    start: Instant,
    readers: [AtomicUsize; 2],
    writers: [AtomicUsize; 2],
    /// Raised by one thread of a model for another.
    flag: (Mutex<bool>, Condvar),
}

const A: Key = (7, 0);
const B: Key = (7, 1);

impl World {
    fn new(state: StubState) -> Arc<Self> {
        let stub = Stub::new(state);
        let (kernel, changed, start) = (stub.state.clone(), stub.changed.clone(), stub.start);
        let table = Table::new(stub, Mutex::new(State::new()));
        let zero = || [AtomicUsize::new(0), AtomicUsize::new(0)];
        let flag = (Mutex::new(false), Condvar::new());
        Arc::new(World { table, kernel, changed, start, readers: zero(), writers: zero(), flag })
    }

    fn enter(&self, key: Key) {
        let open = || Ok((key, File { key, kernel: self.kernel.clone() }));
        let entered: Result<Key, ()> = self.table.enter(|| Ok(Some(key)), open);
        assert_eq!(entered, Ok(key));
    }

    /// Takes a lock as the library does: once more if the lock file went out of the table.
    fn lock(&self, thread: u64, key: Key, mode: LockMode, wait: Wait) -> Result<(), Refusal<&'static str>> {
        loop {
            self.enter(key);
            let result = self.acquire(thread, key, mode, wait);
            if result == Err(Refusal::Gone) {
                self.table.leave(key);
                continue;
            }
            if result.is_err() {
                self.table.leave(key);
            }
            return result;
        }
    }

    fn acquire(&self, thread: u64, key: Key, mode: LockMode, wait: Wait) -> Result<(), Refusal<&'static str>> {
        let label: Arc<Path> = Path::new("label").into();
        self.table.acquire(&Request { key, mode, wait, in_order: 0, thread, label: &label })
    }

    fn unlock(&self, thread: u64, key: Key) {
        self.table.release(key, thread);
        self.table.leave(key);
    }

    /// Takes a lock, is inside, and lets go.
    fn visit(&self, thread: u64, key: Key, mode: LockMode, wait: Wait) -> Result<(), Refusal<&'static str>> {
        self.lock(thread, key, mode, wait)?;
        self.inside(key, mode);
        self.unlock(thread, key);
        Ok(())
    }

    /// What must be true while a lock is held.
    fn inside(&self, key: Key, mode: LockMode) {
        let place = usize::try_from(key.1).unwrap();
        let (readers, writers) = (&self.readers[place], &self.writers[place]);
        match mode {
            Exclusive => assert_eq!(writers.fetch_add(1, SeqCst), 0, "two writers"),
            Shared => drop(readers.fetch_add(1, SeqCst)),
        }
        // Gives the others a chance to be in the wrong place, and asks the kernel.
        let kernel = self.kernel.lock().unwrap().mine.get(&key).copied();
        assert_eq!(kernel, Some(mode), "the kernel's lock is not what the thread was granted");
        match mode {
            Exclusive => {
                assert_eq!(readers.load(SeqCst), 0, "a reader beside a writer");
                writers.fetch_sub(1, SeqCst);
            }
            Shared => {
                assert_eq!(writers.load(SeqCst), 0, "a writer beside a reader");
                readers.fetch_sub(1, SeqCst);
            }
        }
    }

    fn raise_flag(&self) {
        *self.flag.0.lock().unwrap() = true;
        self.flag.1.notify_all();
    }

    fn await_flag(&self) {
        let mut raised = self.flag.0.lock().unwrap();
        while !*raised {
            raised = self.flag.1.wait(raised).unwrap();
        }
    }

    /// After all threads have ended.
    fn assert_free(&self) {
        assert!(self.kernel.lock().unwrap().mine.is_empty(), "a lock is left");
        for (thread, key) in [(90, A), (91, B)] {
            assert_eq!(self.visit(thread, key, Exclusive, Wait::Never), Ok(()), "a lock cannot be had any more");
        }
    }
}

type Part = fn(&World, u64);

/// Runs the parts as threads, in every order.
fn explore(preemptions: usize, state: fn() -> StubState, parts: &'static [Part]) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        let world = World::new(state());
        let threads: Vec<_> = (0..parts.len())
            .map(|n| {
                let world = world.clone();
                loom::thread::spawn(move || parts[n](&world, n as u64))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        world.assert_free();
    });
}

fn nothing_held() -> StubState {
    StubState::default()
}

fn held_elsewhere() -> StubState {
    StubState { theirs: [(A, Exclusive)].into(), ..StubState::default() }
}

fn write_a(world: &World, thread: u64) {
    assert_eq!(world.visit(thread, A, Exclusive, Wait::Forever), Ok(()));
}

fn read_a(world: &World, thread: u64) {
    assert_eq!(world.visit(thread, A, Shared, Wait::Forever), Ok(()));
}

fn try_a(world: &World, thread: u64) {
    for mode in [Shared, Exclusive] {
        match world.visit(thread, A, mode, Wait::Never) {
            Ok(()) | Err(Refusal::WouldBlock) => {}
            Err(refusal) => panic!("{refusal:?}"),
        }
    }
}

/// The other process lets go.
fn other_process_releases(world: &World, _: u64) {
    world.kernel.lock().unwrap().theirs.clear();
    world.changed.notify_all();
}

#[test]
fn two_writers() {
    explore(4, nothing_held, &[write_a, write_a]);
}

#[test]
fn a_reader_and_a_writer() {
    explore(4, nothing_held, &[read_a, write_a]);
}

#[test]
fn two_readers_and_a_writer() {
    explore(2, nothing_held, &[read_a, write_a, read_a]);
}

#[test]
fn three_writers() {
    explore(2, nothing_held, &[write_a, write_a, write_a]);
}

#[test]
fn somebody_tries_without_waiting() {
    explore(2, nothing_held, &[try_a, write_a, read_a]);
}

#[test]
fn another_process_holds_the_lock() {
    explore(2, held_elsewhere, &[write_a, read_a, other_process_releases]);
}

#[test]
fn the_kernel_refuses_one_of_two() {
    fn either(world: &World, thread: u64) {
        let result = world.visit(thread, A, Exclusive, Wait::Forever);
        assert!(matches!(result, Ok(()) | Err(Refusal::Kernel("ENOLCK"))), "{result:?}");
    }
    let one_fails = || StubState { failing_locks: 1, ..StubState::default() };
    explore(3, one_fails, &[either, either]);
    explore(2, one_fails, &[either, read_if_it_can, either]);
    fn read_if_it_can(world: &World, thread: u64) {
        let _either = world.visit(thread, A, Shared, Wait::Forever);
    }
}

#[test]
fn an_unlock_fails() {
    // Then the file is closed, which lets go as well, and opened anew.
    explore(3, || StubState { failing_unlocks: 1, ..StubState::default() }, &[write_a, write_a]);
    explore(2, || StubState { failing_unlocks: 1, ..StubState::default() }, &[write_a, read_a, read_a]);
}

#[test]
fn two_locks_in_one_order() {
    fn both(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, A, Exclusive, Wait::Forever), Ok(()));
        assert_eq!(world.visit(thread, B, Shared, Wait::Forever), Ok(()));
        world.inside(A, Exclusive);
        world.unlock(thread, A);
    }
    explore(3, nothing_held, &[both, both]);
}

#[test]
fn two_locks_in_two_orders() {
    // Whoever closes the circle is told, and the other gets on.
    fn take(world: &World, thread: u64, first: Key, second: Key) {
        assert_eq!(world.lock(thread, first, Exclusive, Wait::Forever), Ok(()));
        match world.visit(thread, second, Exclusive, Wait::Forever) {
            Ok(()) => {}
            Err(Refusal::Deadlock(held)) => assert_eq!(held.len(), 1),
            Err(refusal) => panic!("{refusal:?}"),
        }
        world.inside(first, Exclusive);
        world.unlock(thread, first);
    }
    explore(3, nothing_held, &[|world, thread| take(world, thread, A, B), |world, thread| take(world, thread, B, A)]);
}

#[test]
fn a_thread_asks_for_what_it_holds() {
    fn twice(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, A, Shared, Wait::Forever), Ok(()));
        for mode in [Shared, Exclusive] {
            let again = world.lock(thread, A, mode, Wait::Forever);
            assert!(matches!(&again, Err(Refusal::Deadlock(held)) if held.len() == 1), "{again:?}");
            assert_eq!(world.lock(thread, A, mode, Wait::Never), Err(Refusal::WouldBlock));
        }
        world.inside(A, Shared);
        world.unlock(thread, A);
    }
    explore(3, nothing_held, &[twice, write_a]);
}

#[test]
fn a_deadline_passes() {
    const DEADLINE: Duration = Duration::from_secs(5);
    fn with_a_deadline(world: &World, thread: u64) {
        let result = world.visit(thread, A, Exclusive, Wait::Until(world.start + DEADLINE));
        assert!(matches!(result, Ok(()) | Err(Refusal::TimedOut(_))), "{result:?}");
    }
    /// loom's condition variables do not time out by themselves.
    fn time_passes(world: &World, thread: u64) {
        world.kernel.lock().unwrap().clock += 2 * DEADLINE;
        try_a(world, thread);
    }
    explore(2, nothing_held, &[with_a_deadline, write_a, time_passes]);
    explore(2, nothing_held, &[with_a_deadline, read_a, time_passes]);
}

#[test]
fn a_deadline_passes_while_the_holder_stays() {
    fn held_until_the_flag(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, A, Exclusive, Wait::Forever), Ok(()));
        let impatient = world.lock(thread + 10, A, Shared, Wait::Until(world.start));
        assert_eq!(impatient, Err(Refusal::TimedOut(true)));
        world.await_flag();
        world.inside(A, Exclusive);
        world.unlock(thread, A);
    }
    /// It begins to wait, or is refused, at any moment; the holder waits for its refusal, which the clock must bring.
    fn refused(world: &World, thread: u64) {
        let deadline = world.start + Duration::from_secs(5);
        let result = world.visit(thread, A, Exclusive, Wait::Until(deadline));
        assert!(matches!(result, Ok(()) | Err(Refusal::TimedOut(_))), "{result:?}");
        world.raise_flag();
    }
    fn time_passes(world: &World, thread: u64) {
        world.kernel.lock().unwrap().clock += Duration::from_secs(10);
        try_a(world, thread);
    }
    explore(2, nothing_held, &[held_until_the_flag, refused, time_passes]);
}

#[test]
fn the_user_leaves_before_the_lock_is_released() {
    // As a handle that was inherited by a fork does.
    fn leave_first(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, A, Exclusive, Wait::Forever), Ok(()));
        world.table.leave(A);
        world.inside(A, Exclusive);
        world.table.release(A, thread);
    }
    explore(3, nothing_held, &[leave_first, leave_first]);
    explore(2, nothing_held, &[leave_first, read_a, write_a]);
}

#[test]
fn a_lock_file_is_opened_twice() {
    // Its name led to another file when it was looked at; the second descriptor must outlive the locks.
    fn opened_again(world: &World, thread: u64) {
        let open = || Ok((A, File { key: A, kernel: world.kernel.clone() }));
        let entered: Result<Key, ()> = world.table.enter(|| Ok(Some(B)), open);
        assert_eq!(entered, Ok(A));
        read_a(world, thread);
        world.table.leave(A);
    }
    explore(3, nothing_held, &[opened_again, write_a]);
    explore(2, nothing_held, &[opened_again, read_a, write_a]);
}

#[test]
fn the_last_user_leaves_while_another_thread_waits() {
    // Two threads share a handle, and one of them has found that the lock file was pruned.
    fn leaves(world: &World, thread: u64) {
        world.enter(A);
        world.raise_flag();
        let result = world.acquire(thread, A, Exclusive, Wait::Forever);
        world.table.leave(A);
        if result.is_ok() {
            world.inside(A, Exclusive);
            world.table.release(A, thread);
        }
    }
    fn waits(world: &World, thread: u64) {
        world.await_flag();
        match world.acquire(thread, A, Exclusive, Wait::Forever) {
            Ok(()) => {
                world.inside(A, Exclusive);
                world.table.release(A, thread);
            }
            Err(refusal) => assert_eq!(refusal, Refusal::Gone),
        }
    }
    explore(3, nothing_held, &[leaves, waits]);
    explore(2, nothing_held, &[leaves, waits, waits]);
}
