//! The cases: what the two sides do, in which order, and the required results.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::guest::{LEASE, set_wire};
use crate::process::{How, Process, Without};
use crate::report::{Counts, Promise};
use crate::site::Site;

pub struct Case {
    pub name: &'static str,
    /// The promise that the case tests, if its parts do not say.
    promise: Promise,
    pub run: fn(&mut Bench),
    /// A control: something must go wrong.
    pub must_fail: bool,
    /// The short form runs it only over the newest version of NFS.
    pub newest: bool,
    pub place: Place,
}

/// The places where a case makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Everywhere,
    Nfs,
    NotNfs,
}

const fn case(name: &'static str, promise: Promise, run: fn(&mut Bench)) -> Case {
    Case { name, promise, run, must_fail: false, newest: false, place: Place::Everywhere }
}

const fn control(name: &'static str, run: fn(&mut Bench)) -> Case {
    Case { must_fail: true, newest: true, ..case(name, Promise::None, run) }.only(Place::Nfs)
}

impl Case {
    /// For cases that take long, or that depend least on the version.
    const fn on_newest(self) -> Self {
        Case { newest: true, ..self }
    }

    const fn only(self, place: Place) -> Self {
        Case { place, ..self }
    }
}

pub const CASES: &[Case] = &[
    case(
        "a holder keeps the other side out, and no longer when it is killed, by handle",
        Promise::Exclusion,
        |bench| exclusion(bench, How::Handle),
    ),
    case("a holder keeps the other side out, and no longer when it is killed, by path", Promise::Exclusion, |bench| {
        exclusion(bench, How::Path)
    }),
    case(
        "a holder keeps the other side out, and no longer when it is killed, by the command",
        Promise::Exclusion,
        |bench| exclusion(bench, How::Command),
    ),
    case("whatever one side does to a name the other one sees, by handle", Promise::FreshReads, |bench| {
        sequences(bench, How::Handle)
    }),
    case("whatever one side does to a name the other one sees, by path", Promise::FreshReads, |bench| {
        sequences(bench, How::Path)
    }),
    case("whatever one side does to a name the other one sees, by the command", Promise::FreshReads, |bench| {
        sequences(bench, How::Command)
    })
    .on_newest(),
    case("who has waited for a lock sees what its holder did, by handle", Promise::FreshReads, |bench| {
        waiting(bench, How::Handle)
    }),
    case("who has waited for a lock sees what its holder did, by path", Promise::FreshReads, |bench| {
        waiting(bench, How::Path)
    }),
    case("who has waited for a lock sees what its holder did, by the command", Promise::FreshReads, |bench| {
        waiting(bench, How::Command)
    }),
    case("no count is lost, by handle", Promise::NoLostUpdate, |bench| counting(bench, How::Handle)),
    case("no count is lost, by path", Promise::NoLostUpdate, |bench| counting(bench, How::Path)).on_newest(),
    case("no count is lost, by the command", Promise::NoLostUpdate, |bench| counting(bench, How::Command)).on_newest(),
    case("no count is lost in turns", Promise::NoLostUpdate, ping_pong),
    case("no count is lost while lock files are removed", Promise::Prune, prune_in_a_loop),
    case("a removed lock file lets nobody in beside its successor", Promise::Prune, pruned),
    case("a renamed lock directory lets nobody in beside its successor", Promise::Exclusion, renamed_lock_directory),
    case("the protocol's reader sees what the other side did", Promise::FreshReads, readme),
    case("a mode that one side has set the other one keeps", Promise::NoLostUpdate, modes),
    case("what a batch wrote is read together", Promise::FreshReads, batches),
    case("who has waited for one of several locks sees what its holder did", Promise::FreshReads, many_waiting),
    case("who has waited with locks elsewhere sees what the holder did", Promise::FreshReads, |bench| {
        let elsewhere = tempfile::tempdir().unwrap();
        bench.locks = elsewhere.path().join("locks");
        waiting(bench, How::Path);
    })
    .only(Place::Nfs),
    case("a guard finds the directories that the other side has made", Promise::FreshReads, missing_directories),
    case("a link that the other side has switched leads to its new file", Promise::FreshReads, switched_link),
    case("a lock that was lost is noticed", Promise::None, |bench| {
        for _ in 0..bench.times(1, 2, 2) {
            lost_lease(bench, &["write", "delete", "rename", "prune"]);
        }
    })
    .only(Place::Nfs),
    control("control: without the remedy a name is stale", |bench| {
        bench.without = Without::Remedy;
        sequences(bench, How::Handle);
    }),
    control("control: without the remedy a mode is forgotten", |bench| {
        bench.without = Without::Remedy;
        // A client caches it for a few seconds (`acregmin`). On a slow machine they may pass before the write.
        for _ in 0..10 {
            modes(bench);
            if !bench.violations.is_empty() {
                break;
            }
        }
    }),
    control("control: without the remedy who has waited misses something", |bench| {
        bench.without = Without::Remedy;
        waiting(bench, How::Path);
    }),
    control("control: without the remedy a removed lock file lets two in", |bench| {
        bench.without = Without::Remedy;
        pruned(bench);
    }),
    control("control: without the remedy a renamed lock directory lets two in", |bench| {
        bench.without = Without::Remedy;
        renamed_lock_directory(bench);
    }),
    control("control: without the remedy a lost lock is not noticed", |bench| {
        bench.without = Without::Remedy;
        lost_lease(bench, &["write"]);
    }),
    control("control: without the kernel's locks two are let in", |bench| {
        bench.without = Without::Locks;
        pruned(bench);
    })
    .only(Place::NotNfs),
];

/// A directory, and the results in it.
pub struct Bench {
    full: bool,
    without: Without,
    site: Site,
    /// The lock directory. It is in the directory of the files, or elsewhere on a file system that both sides share.
    locks: PathBuf,
    names: u32,
    promise: Promise,
    counts: Counts,
    violations: Vec<String>,
}

impl Bench {
    pub fn new(case: &Case, full: bool, site: Site) -> Self {
        // Not beside the lock directory: refreshing the lock directory would refresh the files' directory, too.
        fs::create_dir_all(site.on_server.join("files")).unwrap();
        let (without, locks, names) = (Without::Nothing, "locks".into(), 0);
        let (counts, violations) = (Counts::default(), Vec::new());
        Bench { full, without, site, locks, names, promise: case.promise, counts, violations }
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    pub fn verdict(&self, must_fail: bool) -> Result<(), String> {
        match (self.violations.is_empty(), must_fail) {
            (false, false) => {
                let some: Vec<&str> = self.violations.iter().take(8).map(String::as_str).collect();
                Err(format!("{} violations:\n{}", self.violations.len(), some.join("\n")))
            }
            (true, true) => Err("the test notices nothing".to_owned()),
            _ => Ok(()),
        }
    }

    /// How often: in the short form, in the long form between two machines, which are slow, and in the long form on
    /// this machine.
    fn times(&self, short: usize, machines: usize, here: usize) -> usize {
        match (self.full, self.site.sides[0].client) {
            (false, _) => short,
            (true, Some(_)) => machines,
            (true, None) => here,
        }
    }

    /// A process on a side, 0 or 1.
    fn process(&self, side: usize) -> Process {
        Process::start(&self.site.sides[side], &self.locks, self.without)
    }

    /// A new path in the directory.
    fn new_path(&mut self) -> String {
        self.names += 1;
        format!("files/{}", self.names)
    }

    /// The contents of a file, read on the server.
    fn contents(&self, path: &str) -> String {
        let path = self.site.on_server.join(path);
        fs::read_to_string(path).map_or("none".to_owned(), |contents| format!("={contents}"))
    }

    fn judge(&mut self, seen: &str, expected: &str, what: &str) {
        self.judge_of(self.promise, seen, expected, what);
    }

    fn judge_of(&mut self, promise: Promise, seen: &str, expected: &str, what: &str) {
        let wrong = seen != expected;
        self.counts.add(promise, wrong);
        if wrong {
            self.violations.push(format!("{what}: {seen}, not {expected}"));
        }
    }
}

/// One side is killed while it holds the lock, and the other one waits for it.
fn exclusion(bench: &mut Bench, how: How) {
    for _ in 0..bench.times(1, 15, 20) {
        let path = bench.new_path();
        let (mut a, mut b) = (bench.process(0), bench.process(1));
        let held = a.does(how, "hold", &path, "");
        bench.judge_of(Promise::None, &held, "done", "a lock");
        let tried = b.does(how, "try_append", &path, "b");
        bench.judge(&tried, "taken", "a try");
        b.begin(how, "append", &path, "b");
        if how != How::Command {
            b.until_it_waits_for_a_lock();
        }
        let meanwhile = bench.contents(&path);
        bench.judge(&meanwhile, "none", "beside the holder");
        a.kill();
        let done = b.end();
        bench.judge_of(Promise::KilledHolder, &done, "done", "after the death of the holder");
        let after = bench.contents(&path);
        bench.judge_of(Promise::KilledHolder, &after, "=b", "after the death of the holder");
    }
}

/// The changes of a file.
const VERBS: [&str; 4] = ["read", "write", "append", "delete"];

/// Applies one to the model. Returns the expected answer.
fn expected(model: &mut Option<String>, verb: &str, text: &str) -> String {
    match verb {
        "read" => model.as_ref().map_or("none".to_owned(), |contents| format!("={contents}")),
        "write" => {
            *model = Some(text.to_owned());
            "done".to_owned()
        }
        "append" => {
            model.get_or_insert_default().push_str(text);
            "done".to_owned()
        }
        _ => model.take().is_some().to_string(),
    }
}

/// Every sequence of three verbs on the two sides, beginning on the second side, and then a read on the first.
fn sequences(bench: &mut Bench, how: How) {
    let mut processes = [bench.process(0), bench.process(1)];
    let all: Vec<(usize, &str)> = [0, 1].iter().flat_map(|side| VERBS.map(|verb| (*side, verb))).collect();
    let mut sequences = Vec::new();
    for first in &all[4..] {
        for second in &all {
            for third in &all {
                sequences.push([*first, *second, *third]);
            }
        }
    }
    // After the first verb the second side must have something cached. The second verb must change it on the other
    // side.
    let short = |[first, second, third]: &[(usize, &str); 3]| {
        let tells = second.0 == 0 && second.1 != "read" && third.0 == 1;
        tells
            && (how == How::Handle && bench.without == Without::Nothing || first.1 == "read")
            && (how != How::Command || second.1 == "write")
    };
    // In a new process the command has nothing cached, and each process takes long.
    let long = |[_, second, third]: &[(usize, &str); 3]| how != How::Command || second.0 == 0 && third.0 == 1;
    sequences.retain(|sequence| if bench.full { long(sequence) } else { short(sequence) });
    for sequence in sequences {
        let path = bench.new_path();
        let mut model = None;
        for (step, (side, verb)) in sequence.iter().chain(&[(0, "read")]).enumerate() {
            let text = format!("{step}");
            let answer = processes[*side].does(how, verb, &path, &text);
            let expected = expected(&mut model, verb, &text);
            bench.judge(&answer, &expected, &format!("{sequence:?}, step {step}"));
        }
        let after = bench.contents(&path);
        bench.judge_of(Promise::NoLostUpdate, &after, &expected(&mut model, "read", ""), &format!("{sequence:?}"));
    }
}

/// The second side caches something about the file and waits for the lock. Meanwhile the first side changes the file.
fn waiting(bench: &mut Bench, how: How) {
    let mut processes = [bench.process(0), bench.process(1)];
    for before in ["missing", "present"] {
        for act in ["guard_write", "guard_delete"] {
            for verb in VERBS {
                let few = act == "guard_write" && verb == "append" || before == "present" && verb == "read";
                if !bench.full && !few {
                    continue;
                }
                let path = bench.new_path();
                let [a, b] = &mut processes;
                let mut model = None;
                if before == "present" {
                    expected(&mut model, "write", "old");
                    a.do_it("write", &path, "old");
                }
                let remembered = b.does(how, "read", &path, "");
                let what = format!("{before}, {act}, {verb}");
                bench.judge(&remembered, &expected(&mut model, "read", ""), &what);
                a.do_it("lock", &path, "");
                b.begin(how, verb, &path, "b");
                if how != How::Command {
                    b.until_it_waits_for_a_lock();
                }
                expected(&mut model, if act == "guard_write" { "write" } else { "delete" }, "a");
                a.do_it(act, &path, "a");
                a.do_it("unlock", &path, "");
                let answer = b.end();
                bench.judge(&answer, &expected(&mut model, verb, "b"), &what);
                let after = bench.contents(&path);
                bench.judge_of(Promise::NoLostUpdate, &after, &expected(&mut model, "read", ""), &what);
            }
        }
    }
}

fn counting(bench: &mut Bench, how: How) {
    let (each, rounds) = match how {
        How::Command => (bench.times(1, 5, 10), bench.times(1, 1, 2)),
        _ => (bench.times(5, 40, 100), bench.times(1, 1, 2)),
    };
    for _ in 0..rounds {
        // All at the same time, because a wait over NFSv4.0 sleeps between its attempts.
        let mut running = Vec::new();
        for start in ["missing", "present", "directory"] {
            let mut path = bench.new_path();
            let mut processes = [0, 1, 0, 1].map(|side| bench.process(side));
            if start == "directory" {
                path += "/missing/file";
            }
            for process in &mut processes {
                let remembered = process.does(how, "read", &path, "");
                bench.judge(&remembered, "none", start);
            }
            if start == "present" {
                processes[0].do_it("write", &path, "0");
            }
            for process in &mut processes {
                process.begin(how, "count", &path, &each.to_string());
            }
            running.push((start, path, processes));
        }
        for (start, path, mut processes) in running {
            for process in &mut processes {
                let answer = process.end();
                bench.judge(&answer, "done", start);
            }
            let after = bench.contents(&path);
            bench.judge(&after, &format!("={}", 4 * each), start);
        }
    }
}

fn ping_pong(bench: &mut Bench) {
    for how in [How::Handle, How::Path, How::Command] {
        let path = bench.new_path();
        let mut processes = [bench.process(0), bench.process(1)];
        let turns = if how == How::Command { bench.times(2, 30, 50) } else { bench.times(10, 150, 500) };
        for turn in 0..turns {
            let answer = processes[turn % 2].does(how, "count", &path, "1");
            bench.judge(&answer, "done", "a turn");
            let answer = processes[(turn + 1) % 2].does(how, "read", &path, "");
            bench.judge(&answer, &format!("={}", turn + 1), "a look");
        }
    }
}

fn prune_in_a_loop(bench: &mut Bench) {
    let (each, by_the_command) = (bench.times(10, 40, 200), bench.times(1, 8, 20));
    for pruner in if bench.full { &[0, 1][..] } else { &[1] } {
        let path = bench.new_path();
        let mut counters = [0, 1, 0].map(|side| bench.process(side));
        let mut pruner = bench.process(*pruner);
        pruner.begin(How::Handle, "prune_in_a_loop", "", "");
        let ways = [(How::Handle, each), (How::Path, each), (How::Command, by_the_command)];
        for (counter, (how, times)) in counters.iter_mut().zip(ways) {
            counter.begin(how, "count", &path, &times.to_string());
        }
        for counter in &mut counters {
            let answer = counter.end();
            bench.judge(&answer, "done", "a counter");
        }
        let pruned = pruner.do_it("", "", "");
        bench.judge(&pruned.parse::<u32>().is_ok_and(|pruned| pruned > 0).to_string(), "true", &pruned);
        let after = bench.contents(&path);
        bench.judge(&after, &format!("={}", 2 * each + by_the_command), "the count");
    }
}

/// The ways in turn. Faults cannot be injected into the command, which runs in other processes.
fn ways(bench: &Bench) -> &'static [How] {
    match bench.without {
        Without::Nothing => &[How::Handle, How::Path, How::Command],
        _ => &[How::Handle, How::Path],
    }
}

/// The second side caches the lock file, and has it open if it can. The first side removes it and locks its successor.
fn pruned(bench: &mut Bench) {
    for how in ways(bench).iter().cycle().take(bench.times(3, 25, 50)) {
        let path = bench.new_path();
        let (mut a, mut b) = (bench.process(0), bench.process(1));
        b.does(*how, "append", &path, "b");
        a.do_it("prune", "", "");
        a.does(*how, "hold", &path, "");
        let tried = b.does(*how, "try_append", &path, "b");
        bench.judge(&tried, "taken", &format!("beside the holder of the new lock file, {how:?}"));
    }
}

fn renamed_lock_directory(bench: &mut Bench) {
    for (n, how) in ways(bench).iter().cycle().take(bench.times(3, 25, 50)).enumerate() {
        let path = bench.new_path();
        let (mut a, mut b) = (bench.process(0), bench.process(1));
        b.does(*how, "append", &path, "b");
        a.do_it("rename", "locks", &format!("locks{n}"));
        a.does(*how, "hold", &path, "");
        let tried = b.does(*how, "try_append", &path, "b");
        bench.judge(&tried, "taken", &format!("beside the holder in the new lock directory, {how:?}"));
    }
}

/// The second side caches that there is no file, or no directory. Then the reader in Python looks.
fn readme(bench: &mut Bench) {
    let (mut a, mut b) = (bench.process(0), bench.process(1));
    for below in ["", "/missing/directory/file"] {
        let path = bench.new_path() + below;
        let remembered = b.do_it("read", &path, "");
        bench.judge(&remembered, "none", "before");
        a.do_it("write", &path, "new");
        let read = b.do_it("reader", &path, "");
        bench.judge(&read, "=new", "the reader");
    }
    // It also caches the old lock file.
    let path = bench.new_path();
    b.do_it("lock", &path, "");
    b.do_it("unlock", &path, "");
    a.do_it("prune", "", "");
    a.do_it("lock", &path, "");
    b.begin(How::Handle, "reader", &path, "");
    a.do_it("guard_write", &path, "whole");
    a.do_it("unlock", &path, "");
    let read = b.end();
    bench.judge(&read, "=whole", "the reader beside a writer");
}

/// The second side caches the mode, and writes after the first side has removed rights.
fn modes(bench: &mut Bench) {
    let mut processes = [bench.process(0), bench.process(1)];
    for how in [How::Handle, How::Path] {
        for verb in ["write", "append"] {
            let path = bench.new_path();
            let [a, b] = &mut processes;
            a.do_it("write", &path, "old");
            b.does(how, "append", &path, "b");
            // For a version that it has just made, a client may have to ask.
            b.does(how, "read", &path, "");
            let set = a.do_it("set_mode", &path, "600");
            bench.judge(&set, "true", "setting a mode");
            let written = b.does(how, verb, &path, "secret");
            bench.judge(&written, "done", "a write");
            let mode = fs::metadata(bench.site.on_server.join(&path)).unwrap().permissions().mode();
            bench.judge(&format!("{:o}", mode & 0o777), "600", &format!("the mode after a {verb} {how:?}"));
        }
    }
}

fn batches(bench: &mut Bench) {
    let mut processes = [bench.process(0), bench.process(1)];
    for n in 0..bench.times(6, 60, 100) {
        let text = n.to_string();
        let [a, b] = if n % 2 == 0 { [0, 1] } else { [1, 0] };
        let done = processes[a].do_it("batch", "files", &text);
        bench.judge(&done, "done", "a batch");
        let read = processes[b].do_it("read_many", "files", "");
        bench.judge(&read, &format!("={text} ={text}"), "after a batch");
        if n % 3 == 2 {
            processes[a].do_it("batch_delete", "files", "");
            let read = processes[b].do_it("read_many", "files", "");
            bench.judge(&read, "none none", "after a batch that removes");
        }
    }
}

/// The second side caches that two files are missing, and waits for their locks while the first side writes both.
fn many_waiting(bench: &mut Bench) {
    let (mut a, mut b) = (bench.process(0), bench.process(1));
    for _ in 0..bench.times(2, 20, 20) {
        let dir = bench.new_path();
        let names = ["one", "two"].map(|name| format!("{dir}/{name}"));
        a.do_it("write", &format!("{dir}/other"), "");
        let remembered = b.do_it("read_many", &dir, "");
        bench.judge(&remembered, "none none", "before");
        names.iter().for_each(|name| drop(a.do_it("lock", name, "")));
        b.begin(How::Handle, "read_many", &dir, "");
        b.until_it_waits_for_a_lock();
        names.iter().for_each(|name| drop(a.do_it("guard_write", name, "a")));
        names.iter().for_each(|name| drop(a.do_it("unlock", name, "")));
        let read = b.end();
        bench.judge(&read, "=a =a", "after waiting");
    }
}

/// The second side caches that the directory is missing, and waits for the lock while the first side makes it.
fn missing_directories(bench: &mut Bench) {
    let (mut a, mut b) = (bench.process(0), bench.process(1));
    for _ in 0..bench.times(2, 20, 20) {
        let path = bench.new_path() + "/missing/directory/file";
        let remembered = b.do_it("read", &path, "");
        bench.judge(&remembered, "none", "before");
        a.do_it("lock", &path, "");
        b.begin(How::Handle, "lock", &path, "");
        b.until_it_waits_for_a_lock();
        a.do_it("guard_write", &path, "a");
        a.do_it("unlock", &path, "");
        let taken = b.end();
        bench.judge(&taken, "done", "the lock");
        let read = b.do_it("guard_read", &path, "");
        bench.judge(&read, "=a", "a read by the guard");
        let deleted = b.do_it("guard_delete", &path, "");
        bench.judge(&deleted, "true", "a removal by the guard");
        b.do_it("unlock", &path, "");
        let after = bench.contents(&path);
        bench.judge(&after, "none", "after the removal");
    }
}

/// The second side caches a link's target, or that there is a file, and the first side puts another link there. Then
/// the second side uses the path in a way that it has not used before. (An earlier handle would stay with the old
/// file.)
fn switched_link(bench: &mut Bench) {
    let (mut a, mut b) = (bench.process(0), bench.process(1));
    // With the dot, the directory is opened in a way that does not ask the server. No lock covers a link's target, so
    // such a path may lead to the old target.
    for (other, how, before, spelled) in [
        (How::Path, How::Handle, "link", ""),
        (How::Path, How::Handle, "file", ""),
        (How::Path, How::Handle, "link", "./"),
        (How::Path, How::Handle, "file", "./"),
        (How::Handle, How::Path, "link", ""),
        (How::Handle, How::Path, "file", ""),
        (How::Handle, How::Path, "file", "./"),
    ] {
        let [one, two, link] = [(); 3].map(|()| bench.new_path());
        let link = link.replace("files/", &format!("files/{spelled}"));
        a.do_it("write", &one, "old");
        a.do_it("write", &two, "new");
        match before {
            "link" => a.do_it("link", &link, &one),
            _ => a.do_it("write", &link, "old"),
        };
        let what = format!("{how:?}, a {before} before, {link}");
        let remembered = b.does(other, "read", &link, "");
        bench.judge(&remembered, "=old", &what);
        a.do_it("link", &link, &two);
        let appended = b.does(how, "append", &link, "b");
        bench.judge(&appended, "done", &what);
        let after = [&one, &two].map(|path| bench.contents(path)).join(" ");
        bench.judge(&after, "=old =newb", &what);
    }
}

/// The first side is cut off for longer than its lease while processes there hold locks, and the second side gets the
/// locks. One process is about to write, and one to remove the file. One has made its last check and is at the rename,
/// so it can only report the loss. One is removing lock files: if it removed the new holder's, a third process could
/// take the lock, too.
fn lost_lease(bench: &mut Bench, losers: &[&'static str]) {
    let mut losing = Vec::new();
    for loser in losers {
        let (path, mut a) = (bench.new_path(), bench.process(0));
        a.do_it("write", &path, "old");
        if *loser != "prune" {
            a.do_it("lock", &path, "");
        }
        let (verb, expected) = match *loser {
            "rename" => ("guard_write_slowly", "about to rename"),
            // The other locks are taken now.
            "prune" => ("prune_slowly", "about to remove"),
            _ => ("guard_read", "=old"),
        };
        let stopped = a.do_it(verb, &path, "a");
        bench.judge(&stopped, expected, loser);
        losing.push((*loser, path, a));
    }
    let mut b = bench.process(1);
    set_wire(0, false);
    for (loser, path, _) in &losing {
        let taken = b.do_it("lock", path, "");
        bench.judge(&taken, "done", &format!("{loser}, after {LEASE} seconds"));
        b.do_it("guard_write", path, "b");
    }
    set_wire(0, true);
    for (loser, path, a) in &mut losing {
        let answer = match *loser {
            "write" => a.do_it("guard_write", path, "a"),
            "delete" => a.do_it("guard_delete", path, ""),
            _ => a.do_it("", "", ""),
        };
        bench.judge(&answer.contains("LockLost").to_string(), "true", &answer);
        let was_late = *loser == "rename";
        bench.judge(&answer.contains("replaced: true").to_string(), &was_late.to_string(), &answer);
        let after = bench.contents(path);
        bench.judge(&after, if was_late { "=a" } else { "=b" }, &format!("{loser}, what is there then"));
        let tried = bench.process(0).do_it("try", path, "");
        bench.judge(&tried, "taken", &format!("{loser}, beside the new holder"));
        // The new holder goes on.
        b.do_it("unlock", path, "");
        a.do_it("unlock", path, "");
        let answer = a.do_it("append", path, "a");
        bench.judge(&answer, "done", &format!("{loser}, afterwards"));
        let appended = bench.contents(path);
        bench.judge(&appended, &format!("{after}a"), &format!("{loser}, afterwards"));
    }
}
