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
    /// How long a sleep takes at the least. loom counts no further than to 65535 in one run.
    least_sleep: Duration,
    /// When the other process lets go by itself.
    theirs_end: Option<Duration>,
    /// Whether it takes a wait for the other process for a deadlock.
    sees_deadlocks: bool,
    /// After so many such answers, the next takes so long.
    sleep_in_lock: Option<(u32, Duration)>,
    /// Whether it is another process every time.
    holders_change: bool,
    holder: u32,
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
        if self.theirs_end.is_some_and(|end| end <= self.clock) {
            self.theirs.clear();
        }
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
            if state.sees_deadlocks {
                match &mut state.sleep_in_lock {
                    Some((0, time)) => {
                        let time = std::mem::take(time);
                        state.clock += time;
                    }
                    Some((answers, _)) => *answers -= 1,
                    None => {}
                }
                return Ok(false);
            }
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
        let mut state = self.state.lock().unwrap();
        state.holder += u32::from(state.holders_change);
        Some(state.holder)
    }

    fn now(&self) -> Instant {
        self.start + self.state.lock().unwrap().clock
    }

    fn sleep(&self, time: Duration) {
        let mut state = self.state.lock().unwrap();
        let least = state.least_sleep;
        state.clock += time.max(least);
        drop(state);
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
        self.acquire_in_order(0, thread, key, mode, wait)
    }

    fn acquire_in_order(
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

    fn is_flag_raised(&self) -> bool {
        *self.flag.0.lock().unwrap()
    }

    fn lower_flag(&self) {
        *self.flag.0.lock().unwrap() = false;
    }

    fn clock(&self) -> Duration {
        self.kernel.lock().unwrap().clock
    }

    fn pass(&self, time: Duration) {
        self.kernel.lock().unwrap().clock += time;
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
fn somebody_who_waits_for_one_lock_is_not_in_the_way_of_another() {
    fn holds_one_and_asks_for_another(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, A, Exclusive, Wait::Forever), Ok(()));
        assert_eq!(world.visit(thread, B, Exclusive, Wait::Forever), Ok(()));
        world.unlock(thread, A);
    }
    fn write_b(world: &World, thread: u64) {
        assert_eq!(world.visit(thread, B, Exclusive, Wait::Forever), Ok(()));
    }
    explore(1, nothing_held, &[holds_one_and_asks_for_another, write_a, write_b]);
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
fn to_ask_about_a_lock_file_does_not_close_it() {
    fn asks(world: &World, thread: u64) {
        world.enter(A);
        assert_eq!(world.table.with_file(A, |file| file.key), Some(A));
        // `Gone` otherwise.
        assert_eq!(world.acquire(thread, A, Exclusive, Wait::Never), Ok(()));
        assert_eq!(world.table.with_file(A, |file| file.key), Some(A));
        world.inside(A, Exclusive);
        world.unlock(thread, A);
        assert_eq!(world.table.with_file(A, |file| file.key), None, "its last user has left");
    }
    explore(3, nothing_held, &[asks]);
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

// Deadlocks that the kernel sees.

const SECOND: Duration = Duration::from_secs(1);
/// What polling may take longer.
const SOON: Duration = Duration::from_millis(50);

fn deadlock_for_3_seconds() -> StubState {
    StubState { sees_deadlocks: true, theirs_end: Some(3 * SECOND), ..held_elsewhere() }
}

#[test]
fn a_deadlock_of_a_thread_that_holds_something_is_believed_when_it_lasts() {
    const C: Key = (7, 2);
    fn asks(world: &World, thread: u64) {
        let told_after = |in_order| {
            let before = world.clock();
            world.enter(A);
            let result = world.acquire_in_order(in_order, thread, A, Exclusive, Wait::Forever);
            assert!(matches!(result, Err(Refusal::Deadlock(_))), "{result:?}");
            world.table.leave(A);
            world.clock() - before
        };
        let assert_told = |in_order, least: Duration| {
            let after = told_after(in_order);
            assert!(least <= after && after < least + SOON, "{after:?} instead of {least:?}");
        };
        assert_eq!(world.lock(thread, B, Exclusive, Wait::Forever), Ok(()));
        assert_told(0, SECOND);
        // Whoever takes all in the common order is mostly in no cycle.
        assert_told(1, 30 * SECOND);
        assert_eq!(world.lock(thread, C, Exclusive, Wait::Forever), Ok(()));
        assert_told(1, SECOND);
        world.unlock(thread, B);
        world.unlock(thread, C);
        world.kernel.lock().unwrap().theirs.clear();
    }
    let for_ever = || StubState { sees_deadlocks: true, least_sleep: SOON / 5, ..held_elsewhere() };
    explore(0, for_ever, &[asks]);
}

#[test]
fn a_deadlock_with_another_process_each_time_is_none() {
    fn asks(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, B, Exclusive, Wait::Forever), Ok(()));
        assert_eq!(world.visit(thread, A, Exclusive, Wait::Forever), Ok(()));
        assert!((3 * SECOND..3 * SECOND + SOON).contains(&world.clock()), "{:?}", world.clock());
        world.unlock(thread, B);
    }
    explore(0, || StubState { holders_change: true, ..deadlock_for_3_seconds() }, &[asks]);
}

#[test]
fn a_deadlock_of_a_thread_that_holds_nothing_is_told_to_those_behind_it() {
    fn behind(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, B, Exclusive, Wait::Forever), Ok(()));
        let before = world.clock();
        let result = world.visit(thread, A, Exclusive, Wait::Forever);
        assert!(matches!(&result, Err(Refusal::Deadlock(held)) if held.len() == 1), "{result:?}");
        assert!(world.clock() - before < SECOND + 3 * SOON, "{:?}", world.clock() - before);
        world.unlock(thread, B);
    }
    explore(0, deadlock_for_3_seconds, &[write_a, behind]);
}

#[test]
fn two_deadlocks_far_apart_are_not_one_that_lasts() {
    fn asks(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, B, Exclusive, Wait::Forever), Ok(()));
        assert_eq!(world.visit(thread, A, Exclusive, Wait::Forever), Ok(()));
        world.unlock(thread, B);
    }
    let with_a_sleep_between = || StubState {
        sleep_in_lock: Some((2, 3 * SECOND)),
        theirs_end: Some(3 * SECOND + SECOND / 2),
        ..deadlock_for_3_seconds()
    };
    explore(0, with_a_sleep_between, &[asks]);
}

#[test]
fn who_has_a_deadline_waits_for_it_behind_a_thread_that_is_told_of_a_deadlock() {
    fn behind(world: &World, thread: u64) {
        assert_eq!(world.lock(thread, B, Exclusive, Wait::Forever), Ok(()));
        let deadline = world.start + 10 * SECOND;
        assert_eq!(world.visit(thread, A, Exclusive, Wait::Until(deadline)), Ok(()));
        world.unlock(thread, B);
    }
    explore(0, deadlock_for_3_seconds, &[write_a, behind]);
}

// Turns. Time passes only where a test or the table says so.

const TURN: Duration = Duration::from_millis(10);
const PAUSE: Duration = Duration::from_micros(200);
const MOMENT: Duration = Duration::from_micros(1);

#[test]
fn a_process_pauses_at_the_end_of_its_turn() {
    fn in_turns(world: &World, thread: u64) {
        // Returns the pause before it.
        let hold = |wait, time| {
            let before = world.clock();
            assert_eq!(world.lock(thread, A, Exclusive, wait), Ok(()));
            let pause = world.clock() - before;
            world.pass(time);
            world.unlock(thread, A);
            pause
        };
        let hold_for = |time| hold(Wait::Forever, time);
        assert_eq!(hold_for(TURN), Duration::ZERO);
        assert_eq!(hold_for(MOMENT), Duration::ZERO, "the turn is not over yet");
        assert_eq!(hold_for(MOMENT), PAUSE);
        assert_eq!(hold_for(TURN), Duration::ZERO, "another turn begins after the pause");
        // Others have had their chance meanwhile, and the turn to come has all its time.
        world.pass(PAUSE);
        assert_eq!(hold_for(MOMENT), Duration::ZERO);
        assert_eq!(hold_for(TURN + MOMENT), Duration::ZERO);
        world.pass(PAUSE - MOMENT);
        assert_eq!(hold_for(TURN + MOMENT), PAUSE);
        assert_eq!(hold(Wait::Never, MOMENT), Duration::ZERO, "who does not wait does not pause");
        assert_eq!(hold_for(TURN), Duration::ZERO);
        let before = world.clock();
        assert_eq!(world.visit(thread, B, Exclusive, Wait::Forever), Ok(()));
        assert_eq!(world.clock(), before, "of another lock the turn is not over");
    }
    explore(1, nothing_held, &[in_turns]);
}

#[test]
fn readers_give_way_at_the_end_of_a_turn_for_longer_each_time() {
    const MS: Duration = Duration::from_millis(1);
    const DRAINS: [Duration; 3] = [Duration::from_millis(2), Duration::from_millis(4), Duration::from_millis(8)];
    const TURN_PER_DRAIN: u32 = 5;
    fn stays_inside(world: &World, thread: u64) {
        // Other threads than this one to the table.
        let (joins, tries) = (thread + 10, thread + 20);
        assert_eq!(world.lock(thread, A, Shared, Wait::Forever), Ok(()));
        for drain in DRAINS {
            world.pass(drain * TURN_PER_DRAIN);
            // To wait here would be for ever.
            assert_eq!(world.visit(joins, A, Shared, Wait::Forever), Ok(()), "the turn is not over yet");
            world.pass(MOMENT);
            assert_eq!(world.visit(tries, A, Shared, Wait::Never), Ok(()), "nobody is in the way");
            world.raise_flag();
            while world.is_flag_raised() {
                world.pass(MS);
                // loom's condition variables do not time out by themselves; whoever gives up wakes the next.
                let _either = world.visit(tries, A, Shared, Wait::Never);
                loom::thread::yield_now();
            }
        }
        world.unlock(thread, A);
    }
    fn gives_way(world: &World, thread: u64) {
        for drain in DRAINS {
            world.await_flag();
            let before = world.clock();
            assert_eq!(world.visit(thread, A, Shared, Wait::Forever), Ok(()));
            assert!(world.clock() - before >= drain, "{:?} of {drain:?}", world.clock() - before);
            world.lower_flag();
        }
    }
    explore(0, nothing_held, &[stays_inside, gives_way]);
}
