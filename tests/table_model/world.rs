//! The world of one model, what its threads do, and running them in every order.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::kernel::{File, Stub, StubState};
use crate::sync::{Condvar, Mutex};
use crate::sys::LockMode::{self, Exclusive, Shared};
use crate::table::{Key, Refusal, Request, State, Table, Wait};

/// The world of one model: the table, and who is inside which lock.
pub(crate) struct World {
    pub(crate) table: Table<Stub>,
    pub(crate) kernel: Arc<Mutex<StubState>>,
    changed: Arc<Condvar>,
    pub(crate) start: Instant,
    readers: [AtomicUsize; 2],
    writers: [AtomicUsize; 2],
    /// Raised by one thread of a model for another.
    flag: (Mutex<bool>, Condvar),
}

pub(crate) const A: Key = (7, 0);
pub(crate) const B: Key = (7, 1);

impl World {
    fn new(state: StubState) -> Arc<Self> {
        let stub = Stub::new(state);
        let (kernel, changed, start) = (stub.state.clone(), stub.changed.clone(), stub.start);
        let table = Table::new(stub, Mutex::new(State::new()));
        let zero = || [AtomicUsize::new(0), AtomicUsize::new(0)];
        let flag = (Mutex::new(false), Condvar::new());
        Arc::new(World { table, kernel, changed, start, readers: zero(), writers: zero(), flag })
    }

    pub(crate) fn enter(&self, key: Key) {
        let open = || Ok((key, File { key, kernel: self.kernel.clone() }));
        let entered: Result<Key, ()> = self.table.enter(|| Ok(Some(key)), open);
        assert_eq!(entered, Ok(key));
    }

    /// Takes a lock as the library does: once more if the lock file went out of the table.
    pub(crate) fn lock(&self, thread: u64, key: Key, mode: LockMode, wait: Wait) -> Result<(), Refusal<&'static str>> {
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

    pub(crate) fn acquire(
        &self,
        thread: u64,
        key: Key,
        mode: LockMode,
        wait: Wait,
    ) -> Result<(), Refusal<&'static str>> {
        self.acquire_in_order(0, thread, key, mode, wait)
    }

    pub(crate) fn acquire_in_order(
        &self,
        in_order: usize,
        thread: u64,
        key: Key,
        mode: LockMode,
        wait: Wait,
    ) -> Result<(), Refusal<&'static str>> {
        let label: Arc<Path> = Path::new("label").into();
        self.table.acquire(&Request { key, mode, wait, in_order, thread, label: &label })
    }

    pub(crate) fn unlock(&self, thread: u64, key: Key) {
        self.table.release(key, thread);
        self.table.leave(key);
    }

    /// Takes a lock, is inside, and lets go.
    pub(crate) fn visit(&self, thread: u64, key: Key, mode: LockMode, wait: Wait) -> Result<(), Refusal<&'static str>> {
        self.lock(thread, key, mode, wait)?;
        self.inside(key, mode);
        self.unlock(thread, key);
        Ok(())
    }

    /// What must be true while a lock is held.
    pub(crate) fn inside(&self, key: Key, mode: LockMode) {
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

    pub(crate) fn raise_flag(&self) {
        *self.flag.0.lock().unwrap() = true;
        self.flag.1.notify_all();
    }

    pub(crate) fn is_flag_raised(&self) -> bool {
        *self.flag.0.lock().unwrap()
    }

    pub(crate) fn lower_flag(&self) {
        *self.flag.0.lock().unwrap() = false;
    }

    pub(crate) fn clock(&self) -> Duration {
        self.kernel.lock().unwrap().clock
    }

    pub(crate) fn pass(&self, time: Duration) {
        self.kernel.lock().unwrap().clock += time;
    }

    pub(crate) fn await_flag(&self) {
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
pub(crate) fn explore(preemptions: usize, state: fn() -> StubState, parts: &'static [Part]) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    // Half a minute of polling takes a few.
    builder.max_branches = 100_000;
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

pub(crate) fn nothing_held() -> StubState {
    StubState::default()
}

pub(crate) fn held_elsewhere() -> StubState {
    StubState { theirs: [(A, Exclusive)].into(), ..StubState::default() }
}

pub(crate) fn write_a(world: &World, thread: u64) {
    assert_eq!(world.visit(thread, A, Exclusive, Wait::Forever), Ok(()));
}

pub(crate) fn read_a(world: &World, thread: u64) {
    assert_eq!(world.visit(thread, A, Shared, Wait::Forever), Ok(()));
}

pub(crate) fn try_a(world: &World, thread: u64) {
    for mode in [Shared, Exclusive] {
        match world.visit(thread, A, mode, Wait::Never) {
            Ok(()) | Err(Refusal::WouldBlock) => {}
            Err(refusal) => panic!("{refusal:?}"),
        }
    }
}

/// The other process lets go.
pub(crate) fn other_process_releases(world: &World, _: u64) {
    world.kernel.lock().unwrap().theirs.clear();
    world.changed.notify_all();
}
