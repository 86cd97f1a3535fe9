//! A bank. Threads of several processes move money between accounts, one file each. Some processes are killed at any
//! moment and started again. A thread that looks at all accounts always finds the same sum.
//!
//! `BANK=full cargo test --all-features --test bank` kills thousands.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use atomic_file_adapter::{AtomicFileAdapter, Durability, Error};
use common::bank::{self, Refusal, SUM, amount, next};
use common::{Worker, hear, names, tell, test};
use xxhash_rust::xxh3::xxh3_64;

fn main() -> ExitCode {
    common::main(
        vec![
            test("readers_beside_writers_find_the_same_sum", || {
                the_sum_is_the_same(Place::Memory, Durability::None, 300)
            }),
            test("readers_beside_durable_writers_find_the_same_sum", || {
                the_sum_is_the_same(Place::Disk, Durability::Full, 15);
            }),
            test("it_survives_kills_in_memory", || it_survives_kills(Place::Memory, Durability::Ordered, 200)),
            // On a disk, inode numbers are used again at once.
            test("it_survives_kills_on_a_disk", || it_survives_kills(Place::Disk, Durability::None, 200)),
            test("it_survives_kills_of_durable_writers", || it_survives_kills(Place::Disk, Durability::Full, 25)),
        ],
        &[("teller", teller)],
    )
}

#[derive(Clone, Copy)]
enum Place {
    Memory,
    Disk,
}

impl Place {
    fn scratch(self) -> tempfile::TempDir {
        match self {
            Place::Memory => tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap(),
            Place::Disk => tempfile::tempdir().unwrap(),
        }
    }
}

const PROCESSES: u64 = 3;
/// The writers of each process. Each process also has a thread that only looks.
const WRITERS: u64 = 2;
const ACCOUNTS: usize = 7;

/// A teller's message about a fault begins with this word.
const FAILED: &str = "failed";

struct Bank {
    adapter: AtomicFileAdapter,
    dir: PathBuf,
    accounts: Vec<PathBuf>,
}

impl Bank {
    fn at(dir: &Path, durability: Durability) -> Self {
        let adapter = AtomicFileAdapter::builder().lock_dir(dir.join("locks")).durability(durability).build().unwrap();
        // Some accounts are in a directory that does not exist at first.
        let accounts = bank::accounts(dir, ["0", "1", "2", "branch/3", "branch/4"]);
        assert_eq!(accounts.len(), ACCOUNTS);
        Bank { adapter, dir: dir.to_owned(), accounts }
    }

    /// The file with the number of this writer's transfers.
    fn counter(&self, writer: u64) -> PathBuf {
        self.dir.join(format!("transfers-of-{writer}"))
    }

    fn sum(&self) -> Result<u64, Error> {
        bank::sum(&self.adapter, &self.accounts)
    }

    /// In an order that is another one each time; the number of accounts is a prime.
    fn transfer(&self, writer: u64, random: &mut u64) -> Result<(), Refusal> {
        let apart = 1 + usize::try_from(next(random, ACCOUNTS as u64 - 1)).unwrap();
        bank::transfer(&self.adapter, &self.accounts, apart, &self.counter(writer), random)
    }
}

/// A process of the bank. After each transfer it prints the writer and the number of its transfers.
fn teller(args: &[String]) {
    let [dir, durability, number, life] = args else { panic!("{args:?}") };
    let durability = [Durability::Full, Durability::Ordered, Durability::None]
        .into_iter()
        .find(|known| format!("{known:?}") == *durability)
        .unwrap();
    let bank = Bank::at(Path::new(dir), durability);
    let number: u64 = number.parse().unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for writer in number * WRITERS..(number + 1) * WRITERS {
            let (bank, stop) = (&bank, &stop);
            scope.spawn(move || {
                let mut random = xxh3_64(format!("{writer} {life}").as_bytes());
                let mut made = amount(bank.adapter.read_with_lock(bank.counter(writer)).unwrap().as_deref());
                while !stop.load(Relaxed) {
                    match bank.transfer(writer, &mut random) {
                        Ok(()) => {
                            made += 1;
                            tell(&format!("{writer} {made}"));
                        }
                        Err(Refusal::Short) => {}
                        Err(Refusal::Failed(error)) => tell(&format!("{FAILED}: {error}")),
                    }
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                match bank.sum() {
                    Ok(SUM) => {}
                    // A panic of a thread would be lost if the process is killed.
                    wrong => tell(&format!("{FAILED}: the sum is {wrong:?}")),
                }
            }
        });
        hear();
        stop.store(true, Relaxed);
    });
}

/// The bank's processes, and their reports.
struct Business {
    bank: Bank,
    durability: Durability,
    tellers: Vec<Worker>,
    /// The last number of transfers that each writer has reported.
    acknowledged: BTreeMap<u64, u64>,
    lives: u64,
    _dir: tempfile::TempDir,
}

impl Business {
    fn open(place: Place, durability: Durability) -> Self {
        let dir = place.scratch();
        let bank = Bank::at(&dir.path().canonicalize().unwrap(), durability);
        bank.adapter.write_atomic(&bank.accounts[0], SUM.to_string()).unwrap();
        let mut business =
            Business { bank, durability, tellers: Vec::new(), acknowledged: BTreeMap::new(), lives: 0, _dir: dir };
        business.tellers = (0..PROCESSES).map(|number| business.start(number)).collect();
        business
    }

    fn start(&mut self, number: u64) -> Worker {
        self.lives += 1;
        let durability = format!("{:?}", self.durability);
        let dir = self.bank.dir.to_str().unwrap();
        Worker::start("teller", &[dir, &durability, &number.to_string(), &self.lives.to_string()])
    }

    /// Reads the next report of a teller. False: the teller has ended.
    fn hear(&mut self, number: usize) -> bool {
        let line = self.tellers[number].hear();
        assert!(!line.starts_with(FAILED), "{line}");
        let Some((writer, made)) = line.split_once(' ') else { return false };
        self.acknowledged.insert(writer.parse().unwrap(), made.parse().unwrap());
        true
    }

    /// Every reported transfer is there, and at most one more of each writer.
    fn check(&mut self, number: usize) {
        assert_eq!(self.bank.sum().unwrap(), SUM);
        for writer in number as u64 * WRITERS..(number as u64 + 1) * WRITERS {
            let made = amount(self.bank.adapter.read_with_lock(self.bank.counter(writer)).unwrap().as_deref());
            let acknowledged = self.acknowledged.get(&writer).copied().unwrap_or(0);
            assert!(
                (acknowledged..=acknowledged + 1).contains(&made),
                "writer {writer} was told of {acknowledged} transfers, and there were {made}"
            );
            // The next life goes on with this number.
            self.acknowledged.insert(writer, made);
        }
    }

    /// All processes end, and nothing is left except the accounts.
    fn close(mut self) {
        self.tellers.iter_mut().for_each(|teller| teller.tell("stop"));
        for number in 0..self.tellers.len() {
            while self.hear(number) {}
        }
        self.tellers.drain(..).for_each(Worker::finish);
        (0..usize::try_from(PROCESSES).unwrap()).for_each(|number| self.check(number));
        let adapter = &self.bank.adapter;
        let no_intents = adapter.intents().unwrap();
        assert!(no_intents.is_empty(), "{no_intents:?}");
        for lock in adapter.locks().unwrap() {
            assert!(lock.intent.is_none() && lock.problem.is_none() && lock.holder.is_none(), "{lock:?}");
            assert!(fs::metadata(&lock.path).unwrap().len() <= 2048, "{lock:?} is marked");
        }
        for dir in [&self.bank.dir, &self.bank.dir.join("branch")] {
            adapter.sweep(dir).unwrap();
            let left: Vec<_> = names(dir).into_iter().filter(|name| name.starts_with('.')).collect();
            assert!(left.is_empty(), "{left:?}");
        }
        adapter.prune().unwrap();
        assert_eq!(names(adapter.lock_dir()), [".gitignore"]);
        assert_eq!(self.bank.sum().unwrap(), SUM);
    }
}

fn the_sum_is_the_same(place: Place, durability: Durability, transfers: u64) {
    let mut business = Business::open(place, durability);
    for number in 0..business.tellers.len() {
        // Most of these reports are in the pipe already.
        for _ in 0..transfers {
            assert!(business.hear(number), "a teller has ended");
        }
    }
    business.close();
}

fn it_survives_kills(place: Place, durability: Durability, kills: u64) {
    let kills = if std::env::var("BANK").is_ok_and(|form| form == "full") { kills * 20 } else { kills };
    let began = Instant::now();
    let mut business = Business::open(place, durability);
    let mut random = 1;
    for kill in 0..kills {
        let number = usize::try_from(kill % PROCESSES).unwrap();
        // It is in the middle of a transfer now, at a random place.
        assert!(business.hear(number), "a teller has ended");
        thread::sleep(Duration::from_micros(next(&mut random, 3000)));
        business.tellers[number].kill();
        while business.hear(number) {}
        business.check(number);
        business.tellers[number] = business.start(number as u64);
    }
    let transfers: u64 = business.acknowledged.values().sum();
    eprintln!("{kills} kills, {transfers} transfers, {:.1?}", began.elapsed());
    business.close();
}
