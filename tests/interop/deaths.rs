//! One of the two implementations dies at each of its steps, and the other one finishes the decided change.

use std::fs;
use std::path::Path;

use atomic_file_adapter::fault::{Action, inject};
use atomic_file_adapter::{AtomicFileAdapter, Durability};

use crate::common::{Worker, one_of_each, tell};
use crate::python::{Place, Python, adapter};

/// The names of the files, before and after.
const NAMES: [&str; 3] = ["replaced", "branch/made", "branch/deleted"];
const OLD: [Option<&str>; 3] = [Some("old"), None, Some("old")];
const NEW: [Option<&str>; 3] = [Some("new"), Some("made"), None];
/// The same as arguments, with the new contents, or without if the file has to be removed.
const CHANGES: [&str; 3] = ["replaced=new", "branch/made=made", "branch/deleted"];

/// No change makes more system calls than this.
const MOST_CALLS: usize = 1000;

/// In the short form who finishes a change dies at one of so many calls.
const ONE_OF: usize = 3;

fn is_full() -> bool {
    std::env::var("INTEROP").is_ok_and(|form| form == "full")
}

fn places(test: impl Fn(&dyn Fn() -> Place)) {
    test(&Place::quick);
    if is_full() {
        test(&|| Place::within(&std::env::temp_dir(), Durability::Full));
    }
}

fn ready(place: impl Fn() -> Place) -> Place {
    let place = place();
    for (name, contents) in NAMES.iter().zip(OLD) {
        contents.into_iter().for_each(|contents| fs::write(place.path(name), contents).unwrap());
    }
    place
}

fn read(place: &Place) -> Vec<Option<String>> {
    let paths = NAMES.map(|name| place.path(name));
    let guards = place.adapter.lock_many_shared(&paths).unwrap();
    let text = |contents| String::from_utf8(contents).unwrap();
    guards.iter().map(|guard| guard.read().unwrap().map(text)).collect()
}

/// The change is made as a whole or not at all, as the intent says, and nothing else is left.
#[track_caller]
fn assert_whole(place: &Place, seen: &[Option<String>], decided: bool, what: &str) {
    let seen: Vec<_> = seen.iter().map(Option::as_deref).collect();
    assert_eq!(seen, if decided { NEW } else { OLD }, "{what}, decided: {decided}");
    place.assert_nothing_left(what);
}

/// The end of a process that has to die at some step.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Killed,
    /// It had made the whole change before.
    Ended,
}

/// Python changes the files, or recovers them, and is killed before its call of this number.
fn python_dies(python: &mut Python, lives: usize, recovers: bool) -> End {
    let lives = lives.to_string();
    let answer = match recovers {
        true => python.ask("recover", &[&lives]),
        false => python.ask("change", &[&[&*lives], &CHANGES[..]].concat()),
    };
    match &*answer {
        "killed" => End::Killed,
        "ended" => End::Ended,
        answer => panic!("{answer}"),
    }
}

/// The library does the same, in another process.
fn we_die(place: &Place, lives: usize, recovers: bool) -> End {
    let durability = format!("{:?}", place.durability);
    let verb = if recovers { "recover" } else { "change" };
    let args = [place.above.to_str().unwrap(), &durability, &lives.to_string(), verb];
    let mut worker = Worker::start("die", &args);
    let answer = worker.hear();
    match (worker.signal(), &*answer) {
        (Some(libc::SIGKILL), "") => End::Killed,
        (None, "ended") => End::Ended,
        answer => panic!("{answer:?}"),
    }
}

/// The other process. Arguments: the directory, the durability, the number of calls that it makes, and the operation.
pub(crate) fn die(args: &[String]) {
    let [above, durability, lives, verb] = args else { panic!("{args:?}") };
    let durability = if durability == "Full" { Durability::Full } else { Durability::None };
    let (above, lives): (_, usize) = (Path::new(above), lives.parse().unwrap());
    let adapter = adapter(above, durability);
    let work = || match &**verb {
        "recover" => drop(adapter.recover().unwrap()),
        _ => change(&adapter, &above.join("files")),
    };
    inject(move |call| if call.number == lives { Action::Kill } else { Action::Proceed }, work);
    tell("ended");
}

fn change(adapter: &AtomicFileAdapter, files: &Path) {
    let mut batch = adapter.batch();
    for (name, contents) in NAMES.iter().zip(NEW) {
        match contents {
            Some(contents) => batch.write(files.join(name), contents),
            None => batch.delete(files.join(name)),
        };
    }
    batch.commit_all().unwrap();
}

/// The implementation that dies first, and the one that comes after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Python,
    We,
}

impl Who {
    fn dies(self, place: &Place, python: &mut Python, lives: usize, recovers: bool) -> End {
        match self {
            Who::Python => python_dies(python, lives, recovers),
            Who::We => we_die(place, lives, recovers),
        }
    }

    fn reads(self, place: &Place, python: &mut Python) -> Vec<Option<String>> {
        match self {
            Who::Python => {
                let seen = python.read(&NAMES);
                // A reader may leave a mark without an intent. A writer removes it.
                if place.has_marks() {
                    assert_eq!(python.ask("touch", &NAMES), "touched");
                }
                seen
            }
            Who::We => read(place),
        }
    }

    fn other(self) -> Who {
        if self == Who::Python { Who::We } else { Who::Python }
    }
}

/// Dies at each step of a change. The other implementation finishes it.
fn at_each_step(first: Who) {
    places(|new_place| {
        let mut python = Python::start(Path::new("/nowhere"));
        let (mut undecided, mut decided) = (0, 0);
        for lives in 0..MOST_CALLS {
            let place = ready(new_place);
            python.go_to(&place);
            let end = first.dies(&place, &mut python, lives, false);
            let is_decided = !place.intents().is_empty();
            let done = is_decided || fs::read_to_string(place.path(NAMES[0])).unwrap() == "new";
            *(if is_decided { &mut decided } else { &mut undecided }) += 1;
            let what = format!("{first:?} killed before call {lives}");
            let seen = first.other().reads(&place, &mut python);
            assert_whole(&place, &seen, done, &what);
            if end == End::Ended {
                assert!(done && !is_decided, "{what}");
                assert!(undecided > 5 && decided > 2, "{undecided} deaths before it was decided, {decided} after");
                eprintln!("{first:?}: {undecided} deaths before it was decided or when it was done, {decided} between");
                return python.0.finish();
            }
        }
        panic!("{MOST_CALLS} calls");
    });
}

pub(crate) fn python_dies_at_each_step_and_we_finish() {
    at_each_step(Who::Python);
}

pub(crate) fn we_die_at_each_step_and_python_finishes() {
    at_each_step(Who::We);
}

/// The second implementation dies at each step while it finishes the change of the first, and the first one finishes
/// it.
fn at_each_step_of_finishing(first: Who) {
    places(|new_place| {
        let mut python = Python::start(Path::new("/nowhere"));
        let second = first.other();
        // The moments at which an intent exists: just decided, and with some of the files changed.
        let mut moments = Vec::new();
        for lives in 0..MOST_CALLS {
            let place = ready(new_place);
            python.go_to(&place);
            let end = first.dies(&place, &mut python, lives, false);
            let is_new = |n: usize| fs::read_to_string(place.path(NAMES[n])).ok().as_deref() == NEW[n];
            let done = (0..NAMES.len()).filter(|n| is_new(*n)).count();
            if !place.intents().is_empty() && moments.last().is_none_or(|(_, last)| *last != done) {
                moments.push((lives, done));
            }
            if end == End::Ended {
                break;
            }
        }
        assert_eq!(moments.iter().map(|(_, done)| *done).collect::<Vec<_>>(), [0, 1, 2, 3]);
        let mut deaths = 0;
        for (moment, done) in moments.into_iter().filter(|(_, done)| is_full() || done % 2 == 0) {
            let some = one_of_each(ONE_OF, &format!("{first:?} {done}"));
            for lives in some.take_while(|lives| *lives < MOST_CALLS) {
                let place = ready(new_place);
                python.go_to(&place);
                assert_eq!(first.dies(&place, &mut python, moment, false), End::Killed);
                let end = second.dies(&place, &mut python, lives, true);
                let seen = first.reads(&place, &mut python);
                let what = format!("{first:?} killed with {done} done, {second:?} before call {lives} of finishing");
                assert_whole(&place, &seen, true, &what);
                deaths += 1;
                if end == End::Ended {
                    break;
                }
            }
        }
        eprintln!("{first:?} and then {second:?}: {deaths} deaths");
        python.0.finish();
    });
}

pub(crate) fn python_dies_then_we_and_python_finishes() {
    at_each_step_of_finishing(Who::Python);
}

pub(crate) fn we_die_then_python_and_we_finish() {
    at_each_step_of_finishing(Who::We);
}
