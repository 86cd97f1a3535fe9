//! Processes that die at a system call.

use std::path::Path;

use atomic_file_adapter::fault::{Action, Call};

use crate::common::{Worker, hear, one_of_each, tell};
use crate::laboratory::{EACH_DURABILITY, Laboratory, Scratch, run};
use crate::operations::{OPERATIONS, Operation};
use crate::together::{End, in_a_child};

/// At one call of so many the process dies in the short form.
const ONE_OF: usize = 3;

pub(crate) fn the_process_dies_at_each_call(operation: &Operation) {
    for durability in EACH_DURABILITY {
        let mut laboratory = Laboratory::new(operation, durability);
        let mut mortals = Worker::start("die", &[operation.name, &format!("{durability:?}")]);
        for at in one_of_each(ONE_OF, &format!("{} {durability:?}", operation.name)) {
            let scratch = laboratory.scratch(at);
            let had = scratch.temporaries().len();
            mortals.tell(&format!("{at} {}", scratch.files.parent().unwrap().display()));
            let end = mortals.hear();
            if end == format!("{:?}", End::Done) {
                assert!(at > 3, "hardly any calls");
                scratch.assert_protection_is_kept(operation.name);
                laboratory.check_afterwards(&scratch, &[operation.new], 0, operation.name);
                break;
            }
            let what = format!("{}, {durability:?}: dies at call {at}", operation.name);
            assert_eq!(end, format!("{:?}", End::Died), "{what}");
            scratch.assert_protection_is_kept(&what);
            let allowed = [operation.old, operation.new];
            laboratory.check_afterwards(&scratch, &allowed, had + operation.temporaries, &what);
        }
        mortals.finish();
    }
}

/// The worker: makes processes that do one operation and die at a call. It forks, which is faster than starting a program. It has no
/// other thread, and uses no lock itself.
pub(crate) fn die(args: &[String]) {
    let [name, durability] = args else { panic!("{args:?}") };
    let operation = OPERATIONS.iter().find(|operation| operation.name == name).unwrap();
    let durability = EACH_DURABILITY.into_iter().find(|known| format!("{known:?}") == *durability).unwrap();
    loop {
        let line = hear();
        let Some((at, dir)) = line.split_once(' ') else { return };
        let at: usize = at.parse().unwrap();
        let scratch = Scratch::at(Path::new(dir), operation);
        let decide = move |call: &Call<'_>| if call.number == at { Action::Kill } else { Action::Proceed };
        let end = in_a_child(&line, || {
            let (result, _) = run(operation, durability, &scratch, decide);
            result.unwrap();
        });
        tell(&format!("{end:?}"));
    }
}
