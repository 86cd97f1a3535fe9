//! Processes that die at a system call.

use std::path::Path;

use atomic_file_adapter::fault::{Action, Call};

use crate::common::{Worker, tell};
use crate::laboratory::{EACH_DURABILITY, Laboratory, Scratch, run};
use crate::operations::{OPERATIONS, Operation};

pub(crate) fn the_process_dies_at_each_call(operation: &Operation) {
    for durability in EACH_DURABILITY {
        let mut laboratory = Laboratory::new(operation, durability);
        for at in 0.. {
            let scratch = laboratory.scratch(at);
            let had = scratch.temporaries().len();
            let dir = scratch.files.parent().unwrap().to_str().unwrap();
            let mut worker = Worker::start("die", &[operation.name, &format!("{durability:?}"), &at.to_string(), dir]);
            let end = worker.hear();
            if !end.is_empty() {
                assert_eq!(end, "done");
                worker.finish();
                assert!(at > 3, "hardly any calls");
                scratch.assert_protection_is_kept(operation.name);
                laboratory.check_afterwards(&scratch, &[operation.new], 0, operation.name);
                break;
            }
            assert_eq!(worker.signal(), Some(libc::SIGKILL));
            let what = format!("{}, {durability:?}: dies at call {at}", operation.name);
            scratch.assert_protection_is_kept(&what);
            laboratory.check_afterwards(&scratch, &[operation.old, operation.new], had + operation.temporaries, &what);
        }
    }
}

/// The worker: one operation, which dies at a call.
pub(crate) fn die(args: &[String]) {
    let [name, durability, at, dir] = args else { panic!("{args:?}") };
    let operation = OPERATIONS.iter().find(|operation| operation.name == name).unwrap();
    let durability = EACH_DURABILITY.into_iter().find(|known| format!("{known:?}") == *durability).unwrap();
    let at: usize = at.parse().unwrap();
    let scratch = Scratch::at(Path::new(dir), operation);
    let decide = move |call: &Call<'_>| if call.number == at { Action::Kill } else { Action::Proceed };
    let (result, _) = run(operation, durability, &scratch, decide);
    result.unwrap();
    tell("done");
}
