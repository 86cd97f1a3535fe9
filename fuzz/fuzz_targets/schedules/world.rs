//! The tables of one execution, and the model, a readers-writer lock for threads.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::kernel::{File, Locks, Pid, Process};
use crate::sys::LockMode::{self, Exclusive, Shared};
use crate::table::{Errand, Files, Key, LockFile, Refusal, Request, Table, Wait, Waits};
use crate::{Input, Op, Patience, clock};

/// The key of a lock file that was removed.
const NO_FILE: Key = (7, u64::MAX);

pub(crate) struct World {
    locks: Arc<Locks>,
    /// One for each process.
    tables: Vec<Arc<Table<Process>>>,
    /// The threads that the tables have started.
    deputies: Mutex<Vec<shuttle::thread::JoinHandle<()>>>,
    label: Arc<Path>,
    /// The file that each of the two lock files' names leads to now.
    names: [Mutex<u64>; 2],
    model: Mutex<Model>,
    kernel_may_fail: bool,
    /// Some thread waits with a deadline.
    deadlines: bool,
}

/// The true state of the threads, whatever the tables say. It is checked between two steps of the schedule.
#[derive(Default)]
struct Model {
    /// The threads that hold a lock.
    inside: Vec<(usize, usize, LockMode)>,
    /// The threads that ask for a lock, hold it, or are releasing it.
    interest: Vec<Interest>,
}

struct Interest {
    thread: usize,
    name: usize,
    /// Another thread was interested in the same lock meanwhile.
    contended: bool,
}

impl Model {
    fn begin(&mut self, thread: usize, name: usize) {
        let mut contended = false;
        for other in self.interest.iter_mut().filter(|other| other.name == name) {
            other.contended = true;
            contended = true;
        }
        self.interest.push(Interest { thread, name, contended });
    }

    /// Ends the interest that began last.
    fn end(&mut self, thread: usize, name: usize) -> bool {
        let mine = self.interest.iter().rposition(|mine| (mine.thread, mine.name) == (thread, name));
        self.interest.remove(mine.expect("it has begun")).contended
    }

    fn enter(&mut self, thread: usize, name: usize, mode: LockMode) {
        for (other, _, held) in self.inside.iter().filter(|(_, other, _)| *other == name) {
            assert_eq!((*held, mode), (Shared, Shared), "threads {other} and {thread} hold {name} together");
        }
        self.inside.push((thread, name, mode));
    }

    fn leave(&mut self, thread: usize, name: usize) {
        let mine = self.inside.iter().position(|inside| (inside.0, inside.1) == (thread, name));
        self.inside.swap_remove(mine.expect("the thread holds the lock"));
    }

    /// Whether a thread that asks for a lock may wait for itself, if each thread waits for all that are interested in
    /// the same lock.
    fn may_wait_for_itself(&self, thread: usize, name: usize) -> bool {
        let (mut todo, mut seen) = (vec![name], vec![name]);
        while let Some(name) = todo.pop() {
            for other in self.interest.iter().filter(|other| other.name == name) {
                if other.thread == thread {
                    return true;
                }
                for next in self.interest.iter().filter(|next| next.thread == other.thread) {
                    if !seen.contains(&next.name) {
                        seen.push(next.name);
                        todo.push(next.name);
                    }
                }
            }
        }
        false
    }
}

impl World {
    pub(crate) fn new(input: &Input) -> Self {
        clock::start();
        let ops = || input.threads.iter().flatten().flatten();
        let limited = |op: &Op| matches!(op, Op::Lock { wait: Patience::Milliseconds(_), .. });
        let locks = Locks::new(input.failing_lock, input.failing_unlock, ops().any(limited));
        let table = |pid| {
            let (files, waits) = (crate::sync::Mutex::new(Files::new()), crate::sync::Mutex::new(Waits::new()));
            Arc::new(Table::new(Process { pid, locks: locks.clone() }, files, waits))
        };
        let tables = (0..1 + Pid::from(input.two_processes)).map(table).collect();
        let deadlines = ops().any(|op| matches!(op, Op::Lock { wait, .. } if *wait != Patience::Forever));
        World {
            locks: locks.clone(),
            tables,
            deputies: Mutex::default(),
            label: Path::new("label").into(),
            names: [Mutex::new(0), Mutex::new(1)],
            model: Mutex::default(),
            kernel_may_fail: input.failing_lock.is_some(),
            deadlines,
        }
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        // No step of the schedule begins while it is locked, so it is always free.
        self.model.try_lock().expect("the model is free")
    }

    fn named(&self, name: usize) -> Key {
        (7, *self.names[name].try_lock().expect("a name is free"))
    }

    fn start_deputy(&self, process: usize, errand: Errand<File>) -> bool {
        let table = self.tables[process].clone();
        let deputy = shuttle::thread::spawn(move || table.wait_as_deputy(errand));
        self.deputies.try_lock().expect("the list is free").push(deputy);
        true
    }

    /// Called after all threads have ended, and before the clock stops. A deputy comes back when the lock is free.
    pub(crate) fn await_deputies(&self) {
        let deputies = std::mem::take(&mut *self.deputies.try_lock().expect("the list is free"));
        deputies.into_iter().for_each(|deputy| deputy.join().unwrap());
    }

    /// Called after all threads have ended.
    pub(crate) fn assert_free(self: &Arc<Self>) {
        for process in 0..self.tables.len() {
            // The calls that have not failed so far may fail now.
            let mut thread = Thread { world: self.clone(), number: 100 + process, process, held: Vec::new() };
            for name in 0..2 {
                let result = thread.lock(name, Exclusive, Wait::Never);
                assert!(
                    result == Ok(()) || result == Err(Refusal::Kernel("ENOLCK")),
                    "lock {name} cannot be had any more: {result:?}"
                );
            }
            thread.unlock_all();
        }
        self.locks.assert_unused();
    }
}

pub(crate) struct Thread {
    world: Arc<World>,
    number: usize,
    process: usize,
    held: Vec<(usize, User)>,
}

type User = Arc<LockFile<File>>;

impl Thread {
    pub(crate) fn new(world: &Arc<World>, number: usize) -> Self {
        Thread { world: world.clone(), number, process: number % world.tables.len(), held: Vec::new() }
    }

    fn table(&self) -> &Table<Process> {
        &self.world.tables[self.process]
    }

    pub(crate) fn run(&mut self, op: Op) {
        match op {
            Op::Lock { b, exclusive, wait } => {
                let wait = match wait {
                    Patience::Never => Wait::Never,
                    Patience::Milliseconds(time) => Wait::Until(clock::now() + Duration::from_millis(time.into())),
                    Patience::Forever => Wait::Forever,
                };
                let _either = self.lock(b.into(), if exclusive { Exclusive } else { Shared }, wait);
            }
            Op::LockBoth => {
                if self.lock(0, Exclusive, Wait::Forever) == Ok(()) {
                    let _either = self.lock(1, Exclusive, Wait::Forever);
                }
            }
            Op::Unlock => self.unlock(),
            Op::Prune { b } => self.prune(b.into()),
            Op::Look { b, stale } => {
                let user = self.enter(b.into(), stale);
                self.table().leave(&user);
            }
        }
    }

    fn enter(&self, name: usize, stale: bool) -> User {
        let identify = || Ok(Some(if stale { NO_FILE } else { self.world.named(name) }));
        let open = || {
            let key = self.world.named(name);
            let process = Process { pid: self.process as Pid, locks: self.world.locks.clone() };
            Ok::<_, ()>((key, process.open(key)))
        };
        self.table().enter(identify, open).expect("it can be opened")
    }

    /// Takes a lock as the library does, and checks the answer.
    fn lock(&mut self, name: usize, mode: LockMode, wait: Wait) -> Result<(), Refusal<&'static str>> {
        self.world.model().begin(self.number, name);
        let result = self.ask(name, mode, wait);
        match &result {
            Ok(user) => {
                self.world.model().enter(self.number, name, mode);
                self.held.push((name, user.clone()));
                let held = self.world.locks.held_by(self.process as Pid, user.key());
                // A deputy may have been granted an exclusive lock for a moment.
                let more = self.world.deadlines && held == Some(Exclusive);
                assert!(held == Some(mode) || more, "the kernel's lock {held:?} is not what the thread was granted");
            }
            Err(refusal) => {
                let held = self.table().held_by(self.number as u64);
                let mut model = self.world.model();
                // The deputy of another process may have held it for a moment, after all threads of that process have
                // given up.
                let deputies = self.world.deadlines && self.world.tables.len() > 1;
                let contended = model.end(self.number, name) || deputies;
                match refusal {
                    Refusal::WouldBlock => {
                        assert_eq!(wait, Wait::Never);
                        assert!(contended, "a free lock would block");
                    }
                    Refusal::TimedOut(_) => {
                        let Wait::Until(deadline) = wait else { panic!("timed out without a deadline") };
                        assert!(clock::now() >= deadline, "timed out too early");
                        assert!(contended, "timed out waiting for a free lock");
                    }
                    Refusal::Deadlock => {
                        assert!(wait != Wait::Never);
                        assert_eq!(held.len(), self.held.len(), "the error names what the thread holds");
                        assert!(!held.is_empty(), "a deadlock of one that holds nothing");
                        if self.world.tables.len() == 1 && !self.world.deadlines {
                            let true_cycle = model.may_wait_for_itself(self.number, name);
                            assert!(true_cycle, "a deadlock without a cycle");
                        }
                    }
                    Refusal::Kernel(_) => assert!(self.world.kernel_may_fail),
                    Refusal::Gone => unreachable!("it was asked for again"),
                    Refusal::GaveUp | Refusal::Forked => unreachable!("there is no callback"),
                }
            }
        }
        result.map(|_| ())
    }

    fn ask(&self, name: usize, mode: LockMode, wait: Wait) -> Result<User, Refusal<&'static str>> {
        let (thread, label, holds) = (self.number as u64, &self.world.label, self.held.len());
        loop {
            let user = self.enter(name, false);
            let start_deputy = &|errand| self.world.start_deputy(self.process, errand);
            let request = Request { file: &user, mode, wait, thread, holds, label, on_wait: None, start_deputy };
            let result = self.table().acquire(&request);
            match result {
                Ok(()) if self.world.named(name) == user.key() => return Ok(user),
                // The lock file was pruned meanwhile.
                Ok(()) => self.table().release(&user, thread, label),
                Err(Refusal::Gone) => {}
                Err(refusal) => {
                    self.table().leave(&user);
                    return Err(refusal);
                }
            }
            self.table().leave(&user);
        }
    }

    fn unlock(&mut self) {
        let Some((name, user)) = self.held.pop() else { return };
        self.world.model().leave(self.number, name);
        self.table().release(&user, self.number as u64, &self.world.label);
        self.table().leave(&user);
        self.world.model().end(self.number, name);
    }

    pub(crate) fn unlock_all(&mut self) {
        while !self.held.is_empty() {
            self.unlock();
        }
    }

    fn prune(&mut self, name: usize) {
        if self.lock(name, Exclusive, Wait::Never) == Ok(()) {
            *self.world.names[name].try_lock().expect("a name is free") += 2;
            self.unlock();
        }
    }
}
