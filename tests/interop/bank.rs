//! A bank whose tellers are processes of the library and of `atomic_file.py`. Some of them are killed at any moment.
//! The next process finishes what they had decided, whichever of the two implementations it uses.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, TryRecvError};
use std::time::{Duration, Instant};
use std::{fs, thread};

use atomic_file_adapter::Durability;
use atomic_file_adapter::fault::{Action, Call, Syscall, inject};
use xxhash_rust::xxh3::xxh3_64;

use crate::common::bank::{self, Refusal, SUM, amount, next, transfer};
use crate::common::{Worker, hear, tell};
use crate::python::{Place, Python, adapter};

const COUNTER: &str = "transfers-of-";

/// The same accounts as in `driver.py`.
fn accounts(files: &Path) -> Vec<PathBuf> {
    bank::accounts(files, ["0", "1", "branch/2", "branch/3"])
}

/// The process that has decided an intent: the intent changes its counter.
fn decided_by(intent: &Path) -> Option<String> {
    let bytes = fs::read(intent).ok()?;
    let name = bytes.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(COUNTER.as_bytes()))?;
    Some(String::from_utf8_lossy(name).into_owned())
}

/// Reports who decided a change that this process finishes for another one. This happens when it removes the intent.
fn on_finishing(own: &str, told: impl Fn(String) + 'static) -> impl FnMut(&Call<'_>) -> Action + 'static {
    let own = own.to_owned();
    let mut locks = PathBuf::new();
    move |call| {
        if let Some(path) = call.path.filter(|path| path.extension().is_some_and(|it| it == "intent")) {
            match call.syscall {
                Syscall::Openat => locks = path.parent().unwrap().to_owned(),
                Syscall::Unlinkat => {
                    let by = decided_by(&locks.join(path.file_name().unwrap()));
                    by.filter(|by| *by != own).into_iter().for_each(&told);
                }
                _ => {}
            }
        }
        Action::Proceed
    }
}

/// Whether the process has to die now: so many calls after it has decided a change. `lives` tells how many.
fn die_in_a_change(lives: Arc<AtomicUsize>) -> impl FnMut(&Call<'_>) -> bool + 'static {
    let mut since = None;
    move |call| {
        let decides = call.new_path.is_some_and(|path| path.extension().is_some_and(|it| it == "intent"));
        since =
            if decides && call.syscall == Syscall::Renameat { Some(0) } else { since.map(|calls: usize| calls + 1) };
        since.is_some_and(|calls| calls > 0 && calls - 1 == lives.load(Relaxed))
    }
}

/// A process of the library. Arguments: the directory, the durability, its name, and a number that differs in each
/// life.
pub(crate) fn teller(args: &[String]) {
    let [above, durability, name, life] = args else { panic!("{args:?}") };
    let above = Path::new(above);
    let adapter = adapter(above, if durability == "Full" { Durability::Full } else { Durability::None });
    let (accounts, counter) = (accounts(&above.join("files")), above.join("files").join(COUNTER.to_owned() + name));
    let (stop, is_stopped) = mpsc::channel::<()>();
    let lives = Arc::new(AtomicUsize::new(usize::MAX));
    let mut dies = die_in_a_change(lives.clone());
    thread::spawn(move || {
        while let Some(("die", calls)) = hear().split_once(' ') {
            lives.store(calls.parse().unwrap(), Relaxed);
        }
        drop(stop);
    });
    let mut finishing = on_finishing(name, |by| tell(&format!("finished {by}")));
    let watch = move |call: &Call<'_>| if dies(call) { Action::Kill } else { finishing(call) };
    inject(watch, || {
        let mut random = xxh3_64(format!("{name} {life}").as_bytes());
        let mut made = amount(adapter.read_with_lock(&counter).unwrap().as_deref());
        while is_stopped.try_recv() == Err(TryRecvError::Empty) {
            match transfer(&adapter, &accounts, 1, &counter, &mut random) {
                Ok(()) => {
                    made += 1;
                    tell(&format!("made {made}"));
                }
                Err(Refusal::Short) => {}
                Err(Refusal::Failed(error)) => tell(&format!("failed: {error}")),
            }
            if random % 4 == 0 {
                match bank::sum(&adapter, &accounts).unwrap() {
                    SUM => {}
                    wrong => tell(&format!("failed: the sum is {wrong}")),
                }
            }
        }
    });
    tell("stopped");
}

/// The tellers. The first ones use Python.
const NAMES: [&str; 4] = ["python-0", "python-1", "rust-0", "rust-1"];
const PYTHONS: usize = 2;

struct Business {
    place: Place,
    accounts: Vec<PathBuf>,
    /// A Python process that reads the accounts in between.
    python: Python,
    tellers: Vec<Worker>,
    /// How many transfers each teller has reported as made.
    acknowledged: [u64; NAMES.len()],
    /// How often a change that one kind had decided was finished by the other or by the same kind: (decided by Python,
    /// finished by Python).
    finished: BTreeMap<(bool, bool), u32>,
    lives: u64,
}

impl Business {
    fn open(above: &Path, durability: Durability) -> Self {
        let place = Place::within(above, durability);
        let (accounts, python) = (accounts(&place.files), Python::start(&place.above));
        place.adapter.write_atomic(&accounts[0], SUM.to_string()).unwrap();
        let mut business = Business {
            place,
            accounts,
            python,
            tellers: Vec::new(),
            acknowledged: [0; NAMES.len()],
            finished: BTreeMap::new(),
            lives: 0,
        };
        business.tellers = (0..NAMES.len()).map(|number| business.start(number)).collect();
        business
    }

    fn start(&mut self, number: usize) -> Worker {
        self.lives += 1;
        if number < PYTHONS {
            let mut python = Python::start(&self.place.above);
            python.tell("teller", &[NAMES[number]]);
            return python.0;
        }
        let (above, durability) = (self.place.above.to_str().unwrap(), format!("{:?}", self.place.durability));
        Worker::start("teller", &[above, &durability, NAMES[number], &self.lives.to_string()])
    }

    fn note_finished(&mut self, by_python: bool, whose: &str) {
        let decided_by_python = whose.contains("python");
        *self.finished.entry((decided_by_python, by_python)).or_default() += 1;
    }

    /// How often one kind has finished a change of the other kind.
    fn finished_for_other(&self, by_python: bool) -> u32 {
        self.finished.get(&(!by_python, by_python)).copied().unwrap_or(0)
    }

    /// Waits for the next transfer of a teller. False: the teller has ended.
    fn hear(&mut self, number: usize) -> bool {
        loop {
            let line = self.tellers[number].hear();
            match line.split_once(' ') {
                Some(("made", made)) => {
                    self.acknowledged[number] = made.parse().unwrap();
                    return true;
                }
                Some(("finished", whose)) => self.note_finished(number < PYTHONS, whose),
                _ if line.is_empty() || line == "stopped" => return false,
                _ => panic!("{}: {line}", NAMES[number]),
            }
        }
    }

    /// The sum of all accounts, read by one of the two kinds. It may have to finish a change first.
    fn sum(&mut self, by_python: bool) -> u64 {
        if by_python {
            self.python.tell("bank", &[]);
            loop {
                let line = self.python.0.hear();
                match line.split_once(' ') {
                    Some(("finished", whose)) => self.note_finished(true, whose),
                    _ => return line.parse().unwrap(),
                }
            }
        }
        let finished = Rc::new(RefCell::new(Vec::new()));
        let note = finished.clone();
        let watch = on_finishing("", move |by| note.borrow_mut().push(by));
        let (sum, _) = inject(watch, || bank::sum(&self.place.adapter, &self.accounts).unwrap());
        finished.take().iter().for_each(|whose| self.note_finished(false, whose));
        sum
    }

    /// Waits until this teller has decided a change and not finished it. Our own process dies after so many calls. For
    /// Python this is recognized as well as possible.
    fn until_it_has_decided(&mut self, number: usize, calls: u64) {
        if number >= PYTHONS {
            self.tellers[number].tell(&format!("die {calls}"));
            while self.hear(number) {}
            return;
        }
        let end = Instant::now() + Duration::from_millis(500);
        let locks = self.place.adapter.lock_dir();
        let has = |name: &String| decided_by(&locks.join(name)).is_some_and(|by| by == NAMES[number]);
        while Instant::now() < end && !self.place.intents().iter().any(has) {}
    }

    /// Every transfer that was reported as made is there, and at most one more.
    fn check(&mut self, number: usize) {
        // Read by the other kind.
        assert_eq!(self.sum(number >= PYTHONS), SUM);
        let counter = self.place.files.join(COUNTER.to_owned() + NAMES[number]);
        let made = amount(self.place.adapter.read_with_lock(counter).unwrap().as_deref());
        let acknowledged = self.acknowledged[number];
        assert!(
            (acknowledged..=acknowledged + 1).contains(&made),
            "{} was told of {acknowledged} transfers, and there were {made}",
            NAMES[number]
        );
        self.acknowledged[number] = made;
    }

    fn close(mut self) {
        self.tellers.iter_mut().for_each(|teller| teller.tell("stop"));
        for number in 0..NAMES.len() {
            while self.hear(number) {}
        }
        self.tellers.drain(..).for_each(Worker::finish);
        (0..NAMES.len()).for_each(|number| self.check(number));
        assert_eq!((self.sum(false), self.sum(true)), (SUM, SUM));
        self.python.0.finish();
        self.place.assert_nothing_left("the bank");
    }
}

/// How often each kind has to finish a change of the other.
const EACH: u32 = 2;
/// Much more than is needed for that.
const MOST_KILLS: usize = 2000;

fn survives(above: &Path, durability: Durability, kills: usize) {
    let kills = if std::env::var("INTEROP").is_ok_and(|form| form == "full") { kills * 20 } else { kills };
    let (began, mut random) = (Instant::now(), 1);
    let mut business = Business::open(above, durability);
    let mut done = 0;
    while done < kills || business.finished_for_other(true) < EACH || business.finished_for_other(false) < EACH {
        assert!(done < MOST_KILLS.max(kills), "{:?} after {done} kills", business.finished);
        let number = done % NAMES.len();
        assert!(business.hear(number), "{} has ended", NAMES[number]);
        // It is in the middle of a change now. Every third time the place is random. Otherwise others have to finish
        // the change.
        if next(&mut random, 3) == 0 {
            thread::sleep(Duration::from_micros(next(&mut random, 3000)));
        } else {
            business.until_it_has_decided(number, next(&mut random, 5));
        }
        business.tellers[number].kill();
        while business.hear(number) {}
        business.check(number);
        business.tellers[number] = business.start(number);
        done += 1;
    }
    eprintln!(
        "{done} kills, {:?} transfers, {} of Python's finished by us, {} of ours by Python, {:.1?}",
        business.acknowledged,
        business.finished_for_other(false),
        business.finished_for_other(true),
        began.elapsed()
    );
    business.close();
}

pub(crate) fn it_survives_kills() {
    survives(Path::new("/dev/shm"), Durability::None, 16);
}

pub(crate) fn it_survives_kills_durably() {
    survives(&std::env::temp_dir(), Durability::Full, 8);
}
