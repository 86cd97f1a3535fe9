//! Every system call of every operation fails once with every error that its manual page lists, and the process dies
//! there once. After each, the file is complete, nothing is left behind, and the lock is free.
//!
//! In the short form each call fails with some of these errors, and a process dies at some of the calls. `SAMPLE_SEED` chooses others.

#[path = "../common/mod.rs"]
mod common;

mod deaths;
mod errors;
mod failures;
mod interruptions;
mod laboratory;
mod operations;
mod together;

use std::process::ExitCode;

use libtest_mimic::Trial;

use crate::common::Work;
use crate::operations::{OPERATIONS, Operation};

const WORKERS: &[(&str, Work)] = &[("witness", laboratory::witness), ("die", deaths::die)];

fn main() -> ExitCode {
    let mut tests = Vec::new();
    for operation in OPERATIONS {
        let mut add = |how: &str, body: fn(&Operation)| {
            let test = Trial::test(format!("{}::{how}", operation.name), move || {
                body(operation);
                Ok(())
            });
            // On other systems a thread has no current directory of its own.
            let missing = common::not_linux().filter(|_| operation.name == "relative_paths");
            tests.push(test.with_ignored_flag(missing.is_some()));
        };
        add("each_call_fails_in_each_way", failures::each_call_fails_in_each_way);
        if operation.on_disk {
            continue;
        }
        add("everything_fails_from_some_call_on", failures::everything_fails_from_some_call_on);
        add(
            "interruptions_and_short_pieces_change_nothing",
            interruptions::interruptions_and_short_pieces_change_nothing,
        );
        add("the_process_dies_at_each_call", deaths::the_process_dies_at_each_call);
    }
    tests.push(common::test(
        "the_operations_make_all_the_calls_there_are",
        operations::the_operations_make_all_the_calls_there_are,
    ));
    tests.extend(together::tests());
    let code = common::main(tests, &[WORKERS, together::WORKERS].concat());
    laboratory::say_how_much_was_tried();
    code
}
