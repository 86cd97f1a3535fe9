//! The change itself. Its calls fail, are interrupted, or are the last one of a process.

use atomic_file_adapter::{AtomicFileAdapter, Durability, Error, Result};

use crate::common::{is_thorough, one_of_each};
use crate::together::place::{CHANGED, Ground, Place, new, old};
use crate::together::{
    End, calls_of, die_at, durability_in, errors_to_try, fail_at, in_a_child, interrupt, not_for_ever, with,
};

pub(super) type Change = fn(&AtomicFileAdapter, &Place) -> Result<()>;

pub(super) const CHANGES: [(&str, Change); 2] = [("commit_all", commit_all), ("update_many", update_many)];

fn commit_all(adapter: &AtomicFileAdapter, place: &Place) -> Result<()> {
    let mut batch = adapter.batch();
    for name in CHANGED {
        match &new()[name] {
            Some(contents) => batch.write(place.path(name), contents.as_bytes()),
            None => batch.delete(place.path(name)),
        };
    }
    batch.commit_all()
}

fn update_many(adapter: &AtomicFileAdapter, place: &Place) -> Result<()> {
    adapter.update_many(place.changed(), |seen| {
        let expected = CHANGED.map(|name| old()[name].clone().map(String::into_bytes));
        assert_eq!(seen, expected);
        CHANGED.map(|name| new()[name].clone().map(String::into_bytes)).into()
    })
}

pub(super) fn each_call_fails(args: &[String]) {
    let durability = durability_in(args);
    let mut ground = Ground::new(durability);
    let few = if durability == Durability::None && is_thorough() { 2 } else { 1 };
    for (name, change) in CHANGES {
        let place = ground.place();
        let calls = calls_of(|| change(&place.adapter(), &place));
        place.check(&new(), name);
        drop(place);
        let mut said = Said::default();
        for (at, (syscall, text)) in calls.iter().enumerate() {
            for errno in errors_to_try(at, *syscall, few) {
                let place = ground.place();
                let what = format!("{name}: call {at}, {text}, fails with {errno}");
                not_for_ever(&what, || said.judge(&place, change, at, errno, &what));
            }
        }
        assert!(said.nothing_was_done > 20 && said.unfinished > 0, "{name}: {said:?}");
    }
}

/// The results of changes in which a call failed, with their numbers.
#[derive(Debug, Default)]
struct Said {
    done: usize,
    nothing_was_done: usize,
    unfinished: usize,
}

impl Said {
    fn judge(&mut self, place: &Place, change: Change, at: usize, errno: i32, what: &str) {
        let adapter = place.adapter();
        let (result, calls) = with(fail_at(at, errno), || change(&adapter, place));
        assert!(calls > at, "{what}");
        match result {
            Ok(()) => {
                self.done += 1;
                place.check(&new(), what);
            }
            Err(error @ (Error::Unfinished { .. } | Error::NotDurable { .. })) => {
                self.unfinished += 1;
                if let Error::Unfinished { path, intent, source, .. } = &error {
                    assert!(
                        place.changed().contains(path) && intent.parent() == Some(&*place.locks),
                        "{what}: {error}"
                    );
                    assert!(std::fs::exists(intent).unwrap(), "{what}: {error}");
                    is_clear(source, errno, what);
                }
                place.check(&new(), &format!("{what}: {error}"));
            }
            Err(error) => {
                self.nothing_was_done += 1;
                is_clear(&error, errno, what);
                let what = format!("{what}: {error}");
                assert_eq!(place.raw(), old(), "{what}");
                assert_eq!(place.left(), [""; 0], "{what}");
                place.check(&old(), &what);
            }
        }
    }
}

/// The error contains the error of the system, and names a path.
pub(super) fn is_clear(error: &Error, errno: i32, what: &str) {
    let text = error.to_string();
    assert!(text.contains("/files") || text.contains("/locks"), "{what}: {text}");
    // If an open directory cannot be identified, it counts as another one.
    let says_why = text.contains(&std::io::Error::from_raw_os_error(errno).to_string());
    assert!(says_why || text.contains("was moved this moment"), "{what}: {text}");
}

/// At one call of so many a process dies in the short form.
const ONE_OF: usize = 3;

pub(super) fn the_process_dies_at_each_call(args: &[String]) {
    let mut ground = Ground::new(durability_in(args));
    for (name, change) in CHANGES {
        let mut decided_at = None;
        for at in one_of_each(ONE_OF, &format!("{name} dies")) {
            let place = ground.place();
            let what = format!("{name}: dies at call {at}");
            let end = in_a_child(&what, || {
                let (result, _) = with(die_at(at), || change(&place.adapter(), &place));
                result.unwrap_or_else(|error| panic!("{what}: {error}"));
            });
            let expected = not_for_ever(&what, || place.look(&place.adapter())).unwrap();
            assert!(expected == new() || expected == old() && decided_at.is_none(), "{what}: {expected:?}");
            if expected == new() {
                decided_at.get_or_insert(at);
            }
            not_for_ever(&what, || place.check(&expected, &what));
            if end == End::Done {
                // An acknowledged change is there.
                assert_eq!(expected, new(), "{what}");
                let decided_at = decided_at.unwrap();
                assert!(decided_at > 20 && decided_at + 8 < at, "{what}: decided at {decided_at}");
                break;
            }
        }
    }
}

pub(super) fn interruptions_change_nothing(args: &[String]) {
    let mut ground = Ground::new(durability_in(args));
    for (name, change) in CHANGES {
        let place = ground.place();
        not_for_ever(name, || {
            let (result, _) = with(interrupt(), || change(&place.adapter(), &place));
            result.unwrap_or_else(|error| panic!("{name}: {error}"));
            place.check(&new(), name);
        });
    }
}
