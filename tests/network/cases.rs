//! The cases: what the two clients do, in which order, and what must come of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::guest::{LEASE, set_wire};
use crate::process::{How, Process};

pub struct Case {
    pub name: &'static str,
    pub run: fn(&mut Bench),
    /// A control: something must go wrong.
    pub must_fail: bool,
    /// The short form has it over the newest version of the protocol only.
    pub newest: bool,
}

const fn case(name: &'static str, run: fn(&mut Bench)) -> Case {
    Case { name, run, must_fail: false, newest: false }
}

const fn control(name: &'static str, run: fn(&mut Bench)) -> Case {
    Case { name, run, must_fail: true, newest: true }
}

impl Case {
    const fn on_newest(self) -> Self {
        Case { newest: true, ..self }
    }
}

pub const CASES: &[Case] = &[
    case("a holder keeps the other client out, and no longer when it is killed", exclusion),
    case("whatever one client does to a name the other one sees, by handle", |bench| sequences(bench, How::Handle)),
    case("whatever one client does to a name the other one sees, by path", |bench| sequences(bench, How::Path))
        .on_newest(),
    case("whatever one client does to a name the other one sees, by the command", |bench| {
        sequences(bench, How::Command)
    })
    .on_newest(),
    case("who has waited for a lock sees what its holder did, by handle", |bench| waiting(bench, How::Handle)),
    case("who has waited for a lock sees what its holder did, by path", |bench| waiting(bench, How::Path)).on_newest(),
    case("who has waited for a lock sees what its holder did, by the command", |bench| waiting(bench, How::Command))
        .on_newest(),
    case("no count is lost, by handle", |bench| counting(bench, How::Handle)),
    case("no count is lost, by path", |bench| counting(bench, How::Path)).on_newest(),
    case("no count is lost in turns", ping_pong).on_newest(),
    case("no count is lost while lock files are removed", prune_in_a_loop),
    case("a removed lock file lets nobody in beside its successor", pruned),
    case("a renamed lock directory lets nobody in beside its successor", renamed_lock_directory),
    case("the README's reader sees what the other client did", readme).on_newest(),
    case("a mode that one client has set the other one keeps", modes).on_newest(),
    case("what a batch wrote is read together", batches).on_newest(),
    case("a lock that was lost is noticed before the rename", lost_lease),
    case("a lock that was lost is noticed after the rename", lost_lease_at_the_rename).on_newest(),
    control("control: without the remedy a name is stale", |bench| {
        bench.remedy = false;
        sequences(bench, How::Handle);
    }),
    control("control: without the remedy a mode is forgotten", |bench| {
        bench.remedy = false;
        modes(bench);
    }),
    control("control: without the remedy who has waited misses something", |bench| {
        bench.remedy = false;
        waiting(bench, How::Path);
    }),
    control("control: without the remedy a removed lock file lets two in", |bench| {
        bench.remedy = false;
        pruned(bench);
    }),
    control("control: without the remedy a renamed lock directory lets two in", |bench| {
        bench.remedy = false;
        renamed_lock_directory(bench);
    }),
    control("control: without the remedy a lost lock is not noticed", |bench| {
        bench.remedy = false;
        lost_lease(bench);
    }),
];

/// A directory on the server, and what was seen in it.
pub struct Bench {
    full: bool,
    remedy: bool,
    clients: [u32; 2],
    /// As the server sees it.
    on_server: PathBuf,
    /// As the clients see it.
    dir: PathBuf,
    names: u32,
    runs: u32,
    violations: Vec<String>,
}

impl Bench {
    pub fn new(version: &str, full: bool, clients: [u32; 2], number: u32) -> Self {
        let name = format!("case{number}");
        let on_server = Path::new("/srv/export").join(&name);
        fs::create_dir(&on_server).unwrap();
        let dir = Path::new("/net").join(version).join(&name);
        Bench { full, remedy: true, clients, on_server, dir, names: 0, runs: 0, violations: Vec::new() }
    }

    /// What was seen, for the report.
    pub fn seen(&self) -> String {
        format!("{} runs, {} violations", self.runs, self.violations.len())
    }

    pub fn verdict(&self, must_fail: bool) -> Result<(), String> {
        match (self.violations.is_empty(), must_fail) {
            (false, false) => {
                let some: Vec<&str> = self.violations.iter().take(8).map(String::as_str).collect();
                Err(format!("{}:\n{}", self.seen(), some.join("\n")))
            }
            (true, true) => Err(format!("{}: the test notices nothing", self.seen())),
            _ => Ok(()),
        }
    }

    /// A process on a client, 0 or 1.
    fn process(&self, client: usize) -> Process {
        Process::start(self.clients[client], &self.dir.join("locks"), self.remedy)
    }

    /// A path that nobody has used yet.
    fn new_path(&mut self) -> String {
        self.names += 1;
        self.dir.join(self.names.to_string()).to_str().unwrap().to_owned()
    }

    /// The contents of a file of the clients, on the server.
    fn contents(&self, path: &str) -> String {
        let name = Path::new(path).strip_prefix(&self.dir).unwrap();
        fs::read_to_string(self.on_server.join(name)).map_or("none".to_owned(), |contents| format!("={contents}"))
    }

    fn judge(&mut self, seen: &str, expected: &str, what: &str) {
        self.runs += 1;
        if seen != expected {
            self.violations.push(format!("{what}: {seen}, not {expected}"));
        }
    }
}

fn exclusion(bench: &mut Bench) {
    for _ in 0..if bench.full { 20 } else { 2 } {
        let path = bench.new_path();
        let (mut a, mut b) = (bench.process(0), bench.process(1));
        a.do_it("lock", &path, "");
        let tried = b.do_it("try", &path, "");
        bench.judge(&tried, "taken", "a try");
        b.begin(How::Handle, "lock", &path, "");
        b.until_it_waits_for_a_lock();
        a.kill();
        let taken = b.end();
        bench.judge(&taken, "done", "after the death of the holder");
    }
}

/// What is done to a file, and what it should be then.
const VERBS: [&str; 4] = ["read", "write", "append", "delete"];

/// Does it, and says what it should have answered.
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

/// Every order of three verbs on the two clients, one after the other, beginning on the second one; and a read on both.
fn sequences(bench: &mut Bench, how: How) {
    let mut processes = [bench.process(0), bench.process(1)];
    let all: Vec<(usize, &str)> = [0, 1].iter().flat_map(|client| VERBS.map(|verb| (*client, verb))).collect();
    let mut sequences = Vec::new();
    for first in &all[4..] {
        for second in &all {
            for third in &all {
                sequences.push([*first, *second, *third]);
            }
        }
    }
    // The first has to make the second client remember something, and the second to change it elsewhere.
    let short = |sequence: &[(usize, &str); 3]| sequence[1].0 == 0 && sequence[1].1 != "read" && sequence[2].0 == 1;
    sequences.retain(|sequence| bench.full || short(sequence));
    if how == How::Command && !bench.full {
        sequences.retain(|sequence| sequence[0].1 == "read" && sequence[1].1 == "write");
    }
    for sequence in sequences {
        let path = bench.new_path();
        let mut model = None;
        let last = [(0, "read"), (1, "read")];
        for (step, (client, verb)) in sequence.iter().chain(&last).enumerate() {
            let text = format!("{step}");
            let answer = processes[*client].does(how, verb, &path, &text);
            let expected = expected(&mut model, verb, &text);
            bench.judge(&answer, &expected, &format!("{sequence:?}, step {step}"));
        }
    }
}

/// The second client remembers something of the file, waits for the lock, and meanwhile the first one changes it.
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
                bench.judge(&after, &expected(&mut model, "read", ""), &what);
            }
        }
    }
}

fn counting(bench: &mut Bench, how: How) {
    let (each, rounds) = if bench.full { (100, 5) } else { (10, 1) };
    for _ in 0..rounds {
        for start in ["missing", "present", "directory"] {
            let mut path = bench.new_path();
            let mut processes: Vec<Process> = [0, 1, 0, 1].map(|client| bench.process(client)).into();
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
    for how in [How::Handle, How::Path] {
        let path = bench.new_path();
        let mut processes = [bench.process(0), bench.process(1)];
        for turn in 0..if bench.full { 500 } else { 20 } {
            let answer = processes[turn % 2].does(how, "count", &path, "1");
            bench.judge(&answer, "done", "a turn");
            let answer = processes[(turn + 1) % 2].does(how, "read", &path, "");
            bench.judge(&answer, &format!("={}", turn + 1), "a look");
        }
    }
}

fn prune_in_a_loop(bench: &mut Bench) {
    let each = if bench.full { 200 } else { 15 };
    for pruner in [0, 1] {
        let (path, end) = (bench.new_path(), bench.new_path());
        let mut counters = [0, 1].map(|client| bench.process(client));
        let mut pruner = bench.process(pruner);
        pruner.begin(How::Handle, "prune_until", &end, "");
        for (counter, how) in counters.iter_mut().zip([How::Handle, How::Path]) {
            counter.begin(how, "count", &path, &each.to_string());
        }
        for counter in &mut counters {
            let answer = counter.end();
            bench.judge(&answer, "done", "a counter");
        }
        fs::write(bench.on_server.join(Path::new(&end).file_name().unwrap()), "").unwrap();
        let pruned: u32 = pruner.end().parse().unwrap();
        bench.judge(&(pruned > 0).to_string(), "true", "something was pruned");
        let after = bench.contents(&path);
        bench.judge(&after, &format!("={}", 2 * each), "the count");
    }
}

/// The second client remembers the lock file, and has it open; the first one removes it, and locks its successor.
fn pruned(bench: &mut Bench) {
    for _ in 0..if bench.full { 50 } else { 3 } {
        let path = bench.new_path();
        let (mut a, mut b) = (bench.process(0), bench.process(1));
        b.do_it("lock", &path, "");
        b.do_it("unlock", &path, "");
        a.do_it("prune", "", "");
        a.do_it("lock", &path, "");
        let tried = b.do_it("try", &path, "");
        bench.judge(&tried, "taken", "beside the holder of the new lock file");
    }
}

fn renamed_lock_directory(bench: &mut Bench) {
    for n in 0..if bench.full { 50 } else { 3 } {
        let path = bench.new_path();
        let (mut a, mut b) = (bench.process(0), bench.process(1));
        b.do_it("lock", &path, "");
        b.do_it("unlock", &path, "");
        let locks = bench.dir.join("locks");
        a.do_it("rename", locks.to_str().unwrap(), bench.dir.join(format!("locks{n}")).to_str().unwrap());
        a.do_it("lock", &path, "");
        let tried = b.do_it("try", &path, "");
        bench.judge(&tried, "taken", "beside the holder in the new lock directory");
    }
}

/// The second client remembers that there is nothing, or no directory, and then the reader in Python looks.
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
    // And what its lock file was.
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

/// The second client remembers the mode, and writes when the first one has made it narrower.
fn modes(bench: &mut Bench) {
    let mut processes = [bench.process(0), bench.process(1)];
    for how in [How::Handle, How::Path] {
        for verb in ["write", "append"] {
            let path = bench.new_path();
            let [a, b] = &mut processes;
            a.do_it("write", &path, "old");
            b.does(how, "append", &path, "b");
            // It is the second client that has made this version, and knows of it by itself.
            let set = a.do_it("set_mode", &path, "600");
            bench.judge(&set, "true", "setting a mode");
            let written = b.does(how, verb, &path, "secret");
            bench.judge(&written, "done", "a write");
            let name = Path::new(&path).file_name().unwrap();
            let mode = fs::metadata(bench.on_server.join(name)).unwrap().permissions().mode();
            bench.judge(&format!("{:o}", mode & 0o777), "600", &format!("the mode after a {verb} {how:?}"));
        }
    }
}

fn batches(bench: &mut Bench) {
    let dir = bench.dir.to_str().unwrap().to_owned();
    let mut processes = [bench.process(0), bench.process(1)];
    for n in 0..if bench.full { 100 } else { 6 } {
        let text = n.to_string();
        let [a, b] = if n % 2 == 0 { [0, 1] } else { [1, 0] };
        let done = processes[a].do_it("batch", &dir, &text);
        bench.judge(&done, "done", "a batch");
        let read = processes[b].do_it("read_many", &dir, "");
        bench.judge(&read, &format!("={text} ={text}"), "after a batch");
        if n % 3 == 2 {
            processes[a].do_it("batch_delete", &dir, "");
            let read = processes[b].do_it("read_many", &dir, "");
            bench.judge(&read, "none none", "after a batch that removes");
        }
    }
}

/// The first client is cut off for longer than its lease while it holds the lock, and another one gets it.
fn lost_lease(bench: &mut Bench) {
    for verb in if bench.full { &["guard_write", "guard_delete"][..] } else { &["guard_write"] } {
        let path = bench.new_path();
        let (mut a, mut b) = (bench.process(0), bench.process(1));
        a.do_it("write", &path, "old");
        a.do_it("lock", &path, "");
        set_wire(0, false);
        let taken = b.do_it("lock", &path, "");
        b.do_it("guard_write", &path, "b");
        set_wire(0, true);
        let answer = a.do_it(verb, &path, "a");
        bench.judge(&taken, "done", &format!("after {LEASE} seconds"));
        bench.judge(answer.split_whitespace().next().unwrap(), "LockLost", &answer);
        let after = bench.contents(&path);
        bench.judge(&after, "=b", "what the new holder wrote");
        b.do_it("unlock", &path, "");
        a.do_it("unlock", &path, "");
        // And it goes on.
        let answer = a.do_it("append", &path, "a");
        bench.judge(&answer, "done", "afterwards");
        let after = bench.contents(&path);
        bench.judge(&after, "=ba", "afterwards");
    }
}

/// The same between the last look at the lock and the rename, which is too late for more than to tell.
fn lost_lease_at_the_rename(bench: &mut Bench) {
    let path = bench.new_path();
    let (mut a, mut b) = (bench.process(0), bench.process(1));
    a.do_it("write", &path, "old");
    a.do_it("lock", &path, "");
    let stopped = a.do_it("guard_write_slowly", &path, "a");
    bench.judge(&stopped, "about to rename", "a write");
    set_wire(0, false);
    let taken = b.do_it("lock", &path, "");
    bench.judge(&taken, "done", "the lock");
    set_wire(0, true);
    let answer = a.do_it("", "", "");
    bench.judge(&answer.starts_with("LockLost").to_string(), "true", &answer);
    bench.judge(&answer.contains("replaced: true").to_string(), "true", &answer);
}
