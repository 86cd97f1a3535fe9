//! The place where a case runs: one directory, and two sides whose processes use it.

use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Instant;

use libtest_mimic::Failed;

use crate::cases::{Bench, CASES};
use crate::common::{Worker, hear, tell};
use crate::report;

/// One of the two sides.
#[derive(Debug, Clone, Default)]
pub struct Side {
    /// The path of the directory.
    pub dir: PathBuf,
    /// The lock root, if the two sides have it at different paths.
    pub root: Option<PathBuf>,
    /// The process whose namespaces it uses, if it has its own.
    pub client: Option<u32>,
}

/// A directory.
#[derive(Debug, Clone)]
pub struct Site {
    pub sides: [Side; 2],
    /// The directory on the server, which caches nothing of it.
    pub on_server: PathBuf,
}

impl Site {
    /// The same place, one directory below.
    fn below(mut self, name: &str) -> Self {
        self.sides.iter_mut().for_each(|side| side.dir.push(name));
        self.on_server.push(name);
        self
    }
}

pub fn is_full() -> bool {
    env::var("NETWORK").is_ok_and(|how| how == "full")
}

/// Runs in the process that has made the sites: reports that it is ready, and runs the requested cases, each in a new
/// directory.
pub fn serve(full: bool, site: impl Fn(&str) -> Site) {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    tell(&format!("ready {}", kernel.trim()));
    for number in 0.. {
        let asked = hear();
        let Some((at, name)) = asked.split_once(' ') else { return };
        let case = CASES.iter().find(|case| case.name == name).expect("a case");
        let site = site(at).below(&format!("case{number}"));
        // A side may have the directory already, in a lower layer.
        fs::create_dir_all(&site.on_server).unwrap();
        let begun = Instant::now();
        let mut bench = Bench::new(case, full, site);
        let ended = catch_unwind(AssertUnwindSafe(|| (case.run)(&mut bench)));
        tell(&format!("took {:.1} s", begun.elapsed().as_secs_f32()));
        tell(&format!("saw {}", report::to_line(bench.counts())));
        match ended.map_err(|panic| message(&*panic)).and_then(|()| bench.verdict(case.must_fail)) {
            Ok(()) => tell("ok"),
            Err(why) => tell(&format!("failed {}", why.replace('\n', "\t"))),
        }
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
}

/// Starts a program in a thread that lives as long as this process, because the program gets its signal when that
/// thread dies (PR_SET_PDEATHSIG(2const)).
fn spawn_for_ever(mut command: Command) -> Worker {
    let (sender, spawned) = channel();
    thread::spawn(move || {
        sender.send(Worker::spawn(&mut command)).unwrap();
        loop {
            thread::park();
        }
    });
    spawned.recv().unwrap()
}

/// In the test: the process that runs the cases, or the connection to it.
pub struct Station {
    process: Worker,
    kernel: String,
}

impl Station {
    /// Returns when it is ready. `None`: it has ended instead.
    pub fn start(command: Command, mut says: impl FnMut(&str, &mut Worker)) -> Option<Self> {
        let mut process = spawn_for_ever(command);
        loop {
            let line = process.hear();
            match line.split_once(' ').unwrap_or((&line, "")) {
                ("ready", kernel) => return Some(Station { kernel: kernel.to_owned(), process }),
                ("", _) => return None,
                _ => says(&line, &mut process),
            }
        }
    }

    /// Runs a case. `row` is the place's name in the report.
    pub fn run(&mut self, row: &str, at: &str, case: &str, last_words: impl FnOnce() -> String) -> Result<(), Failed> {
        self.process.tell(&format!("{at} {case}"));
        let mut took = String::new();
        loop {
            let line = self.process.hear();
            match line.split_once(' ').unwrap_or((&line, "")) {
                ("ok", _) => return Ok(()),
                ("failed", _) => return Err(line.replace('\t', "\n").into()),
                ("took", time) => took = time.to_owned(),
                ("saw", counts) => {
                    println!("{row}: {case}: {counts}, {took}");
                    report::add(row, &self.kernel, case, counts);
                }
                ("", _) => return Err(format!("it has ended:\n{}", last_words()).into()),
                _ => println!("{line}"),
            }
        }
    }
}
