//! A clock that only the schedule moves, because shuttle's condition variables do not time out by themselves.

use std::cell::RefCell;
use std::sync::{Arc, LockResult, PoisonError};
use std::time::{Duration, Instant};

use shuttle::sync::{Mutex, MutexGuard};

/// After so many steps the clock moves in large ones, because a true deadlock of two processes is polled for half a
/// minute.
const FINE_STEPS: u32 = 64;
/// Together with the pause of 20 ms between two polls it must be less than the table's DEADLOCK_FORGOTTEN, or no
/// deadlock would be confirmed.
const LARGE_STEP: Duration = Duration::from_millis(400);

struct Clock {
    start: Instant,
    passed: Duration,
    sleepers: Vec<Sleeper>,
    next: u64,
    steps: u32,
    stopped: bool,
    /// The clock waits here while no thread sleeps.
    idle: (Arc<Mutex<()>>, Arc<shuttle::sync::Condvar>),
}

struct Sleeper {
    number: u64,
    until: Duration,
    bell: Arc<shuttle::sync::Condvar>,
}

// One thread of the system runs all threads of an execution.
thread_local!(static CLOCK: RefCell<Option<Clock>> = const { RefCell::new(None) });

fn with<T>(body: impl FnOnce(&mut Clock) -> T) -> T {
    CLOCK.with_borrow_mut(|clock| body(clock.as_mut().expect("a clock")))
}

/// Begins an execution.
pub(crate) fn start() {
    CLOCK.set(Some(Clock {
        start: Instant::now(),
        passed: Duration::ZERO,
        sleepers: Vec::new(),
        next: 0,
        steps: 0,
        stopped: false,
        idle: (Arc::new(Mutex::new(())), Arc::new(shuttle::sync::Condvar::new())),
    }));
}

pub(crate) fn now() -> Instant {
    with(|clock| clock.start + clock.passed)
}

pub(crate) fn sleep(time: Duration) {
    let (mutex, bell) = (Mutex::new(()), Condvar::new());
    let end = now() + time;
    let mut guard = mutex.lock().unwrap();
    while now() < end {
        guard = bell.wait_timeout(guard, end - now()).unwrap().0;
    }
}

/// The thread of the clock. Whenever it runs, the time of the next sleeper comes.
pub(crate) fn run() {
    let (mutex, bell) = with(|clock| clock.idle.clone());
    loop {
        let mut guard = mutex.lock().unwrap();
        while with(|clock| clock.sleepers.is_empty() && !clock.stopped) {
            guard = bell.wait(guard).unwrap();
        }
        drop(guard);
        if with(|clock| clock.stopped) {
            return;
        }
        let due: Vec<_> = with(|clock| {
            let next = clock.sleepers.iter().map(|sleeper| sleeper.until).min();
            clock.passed = clock.passed.max(next.unwrap_or_default());
            clock.steps += 1;
            if clock.steps > FINE_STEPS {
                clock.passed += LARGE_STEP;
            }
            let due = clock.sleepers.iter().filter(|sleeper| sleeper.until <= clock.passed);
            due.map(|sleeper| sleeper.bell.clone()).collect()
        });
        // Repeated as long as they are due, because a thread that is about to sleep does not hear it.
        due.iter().for_each(|bell| bell.notify_one());
        shuttle::thread::yield_now();
    }
}

pub(crate) fn stop() {
    with(|clock| clock.stopped = true);
    wake_clock();
}

fn wake_clock() {
    let (mutex, bell) = with(|clock| clock.idle.clone());
    let _guard = mutex.lock().unwrap();
    bell.notify_all();
}

#[derive(Debug)]
pub(crate) struct Condvar(Arc<shuttle::sync::Condvar>);

impl Condvar {
    pub(crate) fn new() -> Self {
        Condvar(Arc::new(shuttle::sync::Condvar::new()))
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        self.0.wait(guard)
    }

    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        time: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, ())> {
        let number = with(|clock| {
            clock.next += 1;
            clock.sleepers.push(Sleeper { number: clock.next, until: clock.passed + time, bell: self.0.clone() });
            clock.next
        });
        wake_clock();
        let woken = self.0.wait(guard);
        with(|clock| clock.sleepers.retain(|sleeper| sleeper.number != number));
        // The result says nothing about the time, because the callers look at the clock.
        woken.map(|guard| (guard, ())).map_err(|error| PoisonError::new((error.into_inner(), ())))
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}
