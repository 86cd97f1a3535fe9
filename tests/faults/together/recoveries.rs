//! A process has died during a change. The next callers finish it. Their calls fail, and they die, too.

use atomic_file_adapter::fault::Syscall;
use atomic_file_adapter::{Durability, Error};

use crate::common::one_of_each;
use crate::together::changes::{CHANGES, is_clear};
use crate::together::passers_by::{PASSERS_BY, PassBy};
use crate::together::place::{Ground, Place, Tree, new, old};
use crate::together::{
    End, calls_of, die_at, durability_in, errors_to_try, fail_at, full, in_a_child, interrupt, not_for_ever, with,
};

/// A place in which a process has died at this call of `commit_all`.
fn after_death(ground: &mut Ground, at: usize) -> (Place, End) {
    let place = ground.place();
    let end = in_a_child("the first death", || {
        let (result, _) = with(die_at(at), || CHANGES[0].1(&place.adapter(), &place));
        result.unwrap();
    });
    (place, end)
}

/// The call at which the first process died, and the contents at the end.
#[derive(Debug, Clone)]
struct First {
    at: usize,
    expected: Tree,
}

/// The short form tries one of so many calls, and one of so many first deaths.
const ONE_OF: usize = 6;
const ONE_FIRST_OF: usize = 3;

/// Deaths that leave a change to finish: just before and after the decision, in the middle, and near the end.
fn firsts(ground: &mut Ground) -> Vec<First> {
    let mut firsts = Vec::new();
    for at in one_of_each(ONE_FIRST_OF, "first deaths") {
        let (place, end) = after_death(ground, at);
        if end == End::Done {
            break;
        }
        // Whether the new version has to come, as seen on the disk: there is an intent.
        let left = place.left_but_temporaries();
        if !left.is_empty() {
            let expected = not_for_ever("the first look", || place.look(&place.adapter())).unwrap();
            firsts.push(First { at, expected });
        }
    }
    let decided = firsts.iter().position(|first| first.expected == new()).expect("a decision");
    assert!(firsts[..decided].iter().all(|first| first.expected == old()));
    assert!(firsts[decided..].iter().all(|first| first.expected == new()));
    let last = firsts.len() - 1;
    if full() {
        return firsts;
    }
    let mut chosen = vec![decided.saturating_sub(1), decided, decided + (last - decided) / 2, last];
    chosen.dedup();
    chosen.into_iter().map(|n| firsts[n].clone()).collect()
}

fn is_part_of(seen: &Tree, all: &Tree) -> bool {
    seen.iter().all(|(name, contents)| all[name] == *contents)
}

/// Every death with every kind of caller. In the short form, every kind of caller comes after one of the deaths, and a
/// caller that takes all locks comes after each of them. If only the syncs differ, there are fewer.
fn each(args: &[String], mut body: impl FnMut(&mut Ground, &First, &'static str, PassBy)) {
    let durability = durability_in(args);
    let mut ground = Ground::new(durability);
    for (n, first) in firsts(&mut ground).iter().enumerate() {
        for (m, (name, pass_by)) in PASSERS_BY.into_iter().enumerate() {
            let is_turn = (n + m) % 4 == 1 && (durability == Durability::None || m < 4);
            if full() || m == 0 || is_turn {
                body(&mut ground, first, name, pass_by);
            }
        }
    }
    eprintln!("{} places", ground.places());
}

pub(super) fn each_call_fails(args: &[String]) {
    each(args, |ground, first, name, pass_by| {
        let (place, _) = after_death(ground, first.at);
        let calls = calls_of(|| {
            let seen = pass_by(&place.adapter(), &place)?;
            assert!(is_part_of(&seen, &first.expected), "{name} after a death at call {}: {seen:?}", first.at);
            Ok(())
        });
        place.check(&first.expected, name);
        drop(place);
        let some = one_of_each(ONE_OF, &format!("{name} fails {}", first.at));
        for at in some.take_while(|at| *at < calls.len()) {
            let (syscall, text) = &calls[at];
            for errno in errors_to_try(at, *syscall, 1) {
                let (place, _) = after_death(ground, first.at);
                let what = format!("death at call {}, {name}: call {at}, {text}, fails with {errno}", first.at);
                place.keeps_intent.set(*syscall == Syscall::Unlinkat && errno == libc::EACCES);
                not_for_ever(&what, || fails(&place, &first.expected, pass_by, at, errno, &what));
            }
        }
    });
}

fn fails(place: &Place, expected: &Tree, pass_by: PassBy, at: usize, errno: i32, what: &str) {
    let (result, calls) = with(fail_at(at, errno), || pass_by(&place.adapter(), place));
    assert!(calls > at, "{what}");
    let what = &format!("{what}: {result:?}, {:?}", place.left());
    match result {
        Ok(seen) => assert!(is_part_of(&seen, expected), "{what}"),
        Err(error) => {
            if let Error::Unfinished { path, intent, .. } = &error {
                assert!(place.all().contains(path) && intent.parent() == Some(&*place.locks), "{what}: {error}");
            }
            is_clear(&error, errno, what);
        }
    }
    place.check(expected, what);
}

pub(super) fn the_process_dies_at_each_call(args: &[String]) {
    each(args, |ground, first, name, pass_by| {
        for at in one_of_each(ONE_OF, &format!("{name} dies {}", first.at)) {
            let (place, _) = after_death(ground, first.at);
            let what = format!("death at call {}, then {name} dies at call {at}", first.at);
            let end = in_a_child(&what, || {
                let (result, _) = with(die_at(at), || pass_by(&place.adapter(), &place));
                let seen = result.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(is_part_of(&seen, &first.expected), "{what}: {seen:?}");
            });
            not_for_ever(&what, || place.check(&first.expected, &what));
            if end == End::Done {
                break;
            }
        }
    });
}

pub(super) fn interruptions_change_nothing(args: &[String]) {
    each(args, |ground, first, name, pass_by| {
        let (place, _) = after_death(ground, first.at);
        let what = format!("death at call {}, then {name} is interrupted", first.at);
        not_for_ever(&what, || {
            let (result, _) = with(interrupt(), || pass_by(&place.adapter(), &place));
            let seen = result.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(is_part_of(&seen, &first.expected), "{what}: {seen:?}");
            place.check(&first.expected, &what);
        });
    });
}
