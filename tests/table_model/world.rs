//! The world of one model: the actions of its threads, which run in every order.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use crate::common::{say_what_is_left_out, thorough_or};
use crate::kernel::{File, Stub, StubState};
use crate::sync::{Condvar, Mutex};
use crate::sys::LockMode::{self, Exclusive, Shared};
use crate::table::{Errand, Files, Key, LockFile, OnWait, Refusal, Request, Table, Wait, Waits};

/// The world of one model: the table, and the threads that hold each lock.
pub(crate) struct World {
    pub(crate) table: Arc<Table<Stub>>,
    /// The locks that each thread has taken.
    held: std::sync::Mutex<Vec<(u64, User)>>,
    label: Arc<Path>,
    deputies: Deputies,
    pub(crate) kernel: Arc<Mutex<StubState>>,
    pub(crate) changed: Arc<Condvar>,
    pub(crate) start: Instant,
    readers: [AtomicUsize; 3],
    writers: [AtomicUsize; 3],
    /// One thread of a model sets it for another.
    flag: (Mutex<bool>, Condvar),
}

/// A user of a lock file.
pub(crate) type User = Arc<LockFile<File>>;

/// The threads that the table starts, up to a limit, because loom has few threads.
#[derive(Default)]
pub(crate) struct Deputies {
    started: std::sync::Mutex<Vec<loom::thread::JoinHandle<()>>>,
    refused: bool,
}

pub(crate) const A: Key = (7, 0);
pub(crate) const B: Key = (7, 1);
pub(crate) const C: Key = (7, 2);

impl World {
    fn new(state: StubState) -> Arc<Self> {
        let deputies = Deputies { started: std::sync::Mutex::default(), refused: state.no_deputies };
        let stub = Stub::new(state);
        let (kernel, changed, start) = (stub.state.clone(), stub.changed.clone(), stub.start);
        let table = Arc::new(Table::new(stub, Mutex::new(Files::new()), Mutex::new(Waits::new())));
        let zero = || [0; 3].map(AtomicUsize::new);
        let flag = (Mutex::new(false), Condvar::new());
        let (held, label) = (std::sync::Mutex::default(), Path::new("label").into());
        Arc::new(World { table, held, label, deputies, kernel, changed, start, readers: zero(), writers: zero(), flag })
    }

    pub(crate) fn enter(&self, key: Key) -> User {
        let open = || Ok((key, File { key, kernel: self.kernel.clone() }));
        let entered: Result<User, ()> = self.table.enter(|| Ok(Some(key)), open);
        assert_eq!(entered.as_ref().unwrap().key(), key);
        entered.unwrap()
    }

    /// Takes a lock as the library does: again if the lock file was removed from the table.
    pub(crate) fn lock(&self, thread: u64, key: Key, mode: LockMode, wait: Wait) -> Result<(), Refusal<&'static str>> {
        loop {
            let user = self.enter(key);
            match self.acquire(thread, &user, mode, wait) {
                Ok(()) => self.held.lock().unwrap().push((thread, user)),
                Err(refusal) => {
                    self.table.leave(&user);
                    if refusal == Refusal::Gone {
                        continue;
                    }
                    return Err(refusal);
                }
            }
            return Ok(());
        }
    }

    pub(crate) fn acquire(
        &self,
        thread: u64,
        file: &User,
        mode: LockMode,
        wait: Wait,
    ) -> Result<(), Refusal<&'static str>> {
        self.acquire_and_tell(thread, file, mode, wait, None)
    }

    pub(crate) fn acquire_and_tell(
        &self,
        thread: u64,
        file: &User,
        mode: LockMode,
        wait: Wait,
        on_wait: Option<OnWait<'_>>,
    ) -> Result<(), Refusal<&'static str>> {
        let holds = self.held.lock().unwrap().iter().filter(|(holder, _)| *holder == thread).count();
        let start_deputy = |errand| self.start_deputy(errand);
        let request =
            Request { file, mode, wait, thread, holds, label: &self.label, on_wait, start_deputy: &start_deputy };
        self.table.acquire(&request)
    }

    fn start_deputy(&self, errand: Errand<File>) -> bool {
        if self.deputies.refused {
            return false;
        }
        let table = self.table.clone();
        let deputy = loom::thread::spawn(move || table.wait_as_deputy(errand));
        self.deputies.started.lock().unwrap().push(deputy);
        true
    }

    pub(crate) fn deputies(&self) -> usize {
        self.deputies.started.lock().unwrap().len()
    }

    pub(crate) fn release(&self, thread: u64, user: &User) {
        self.table.release(user, thread, &self.label);
    }

    pub(crate) fn unlock(&self, thread: u64, key: Key) {
        let mut held = self.held.lock().unwrap();
        let mine = held.iter().rposition(|(holder, user)| *holder == thread && user.key() == key);
        let (_, user) = held.swap_remove(mine.expect("it is held"));
        drop(held);
        self.release(thread, &user);
        self.table.leave(&user);
    }

    /// Takes a lock, holds it, and releases it.
    pub(crate) fn visit(&self, thread: u64, key: Key, mode: LockMode, wait: Wait) -> Result<(), Refusal<&'static str>> {
        self.lock(thread, key, mode, wait)?;
        self.inside(key, mode);
        self.unlock(thread, key);
        Ok(())
    }

    /// Checks what must be true while a lock is held.
    pub(crate) fn inside(&self, key: Key, mode: LockMode) {
        let place = usize::try_from(key.1).unwrap();
        let (readers, writers) = (&self.readers[place], &self.writers[place]);
        match mode {
            Exclusive => assert_eq!(writers.fetch_add(1, SeqCst), 0, "two writers"),
            Shared => drop(readers.fetch_add(1, SeqCst)),
        }
        // Lets other threads run, which might take the lock wrongly, and asks the kernel.
        let kernel = self.kernel.lock().unwrap();
        assert!(kernel.is_free(key, mode), "another process holds the lock, too");
        let mine = kernel.mine.get(&key).copied();
        let more = kernel.disowned && mine == Some(Exclusive);
        assert!(mine == Some(mode) || more, "the kernel's lock {mine:?} is not what the thread was granted");
        drop(kernel);
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

    /// The other process takes the lock, unless this process holds it.
    pub(crate) fn other_process_goes_in(&self, key: Key) {
        let mut kernel = self.kernel.lock().unwrap();
        if !kernel.mine.contains_key(&key) {
            kernel.theirs.insert(key, Exclusive);
        }
    }

    pub(crate) fn await_flag(&self) {
        let mut raised = self.flag.0.lock().unwrap();
        while !*raised {
            raised = self.flag.1.wait(raised).unwrap();
        }
    }

    /// Called after all threads have ended.
    fn assert_free(&self) {
        assert!(self.kernel.lock().unwrap().mine.is_empty(), "a lock is left");
        for (thread, key) in [(90, A), (91, B), (92, C)] {
            assert_eq!(self.visit(thread, key, Exclusive, Wait::Never), Ok(()), "the lock can no longer be taken");
        }
    }
}

type Part = fn(&World, u64);

/// Runs the parts as threads, in every order.
pub(crate) fn explore(preemptions: usize, state: fn() -> StubState, parts: &'static [Part]) {
    let mut builder = loom::model::Builder::new();
    // One more preemption makes several times as many orders.
    static SAID: Once = Once::new();
    SAID.call_once(|| say_what_is_left_out("orders of threads with three preemptions"));
    builder.preemption_bound = Some(preemptions.min(thorough_or(3, 2)));
    // Polling for half a minute takes many branches.
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
        let deputies = std::mem::take(&mut *world.deputies.started.lock().unwrap());
        deputies.into_iter().for_each(|deputy| deputy.join().unwrap());
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

/// The other process releases its lock.
pub(crate) fn other_process_releases(world: &World, _: u64) {
    world.kernel.lock().unwrap().theirs.clear();
    world.changed.notify_all();
}
