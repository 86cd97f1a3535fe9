//! Calls that are interrupted, or that read and write less than they were asked to.

use atomic_file_adapter::fault::{Action, Call};
use libc::EINTR;

use crate::errors::errors_of;
use crate::laboratory::{EACH_DURABILITY, Laboratory, calls_of};
use crate::operations::{Did, Operation};

type Way = (&'static str, fn() -> Decide);
type Decide = Box<dyn FnMut(&Call<'_>) -> Action>;

pub(crate) fn interruptions_and_short_pieces_change_nothing(operation: &Operation) {
    for durability in EACH_DURABILITY {
        let mut laboratory = Laboratory::new(operation, durability);
        let mut number = 0;
        let expected = calls_of(&laboratory, &mut number).len();
        let ways: [Way; 3] = [
            ("each call is interrupted once", || {
                let mut again = false;
                Box::new(move |call| {
                    // Calls that cannot be interrupted are made all the same.
                    again = !again && !errors_of(call.syscall).is_empty();
                    if again { Action::Fail(EINTR) } else { Action::Proceed }
                })
            }),
            ("each call is interrupted three times and moves one byte", || {
                let mut times = 0;
                Box::new(move |call| {
                    times = if times < 3 && !errors_of(call.syscall).is_empty() { times + 1 } else { 0 };
                    if times > 0 { Action::Fail(EINTR) } else { Action::Short(1) }
                })
            }),
            ("each read and write moves five bytes", || Box::new(|_| Action::Short(5))),
        ];
        for (way, decide) in ways {
            number += 1;
            let scratch = laboratory.scratch(number);
            let what = format!("{}, {durability:?}: {way}", operation.name);
            let (result, calls) = laboratory.run(&scratch, decide());
            match result.unwrap_or_else(|error| panic!("{what}: {error}")) {
                Did::Read(read) => assert_eq!(read.as_deref(), operation.old.map(str::as_bytes), "{what}"),
                Did::It | Did::Nothing => assert!(calls >= expected, "{what}"),
            }
            scratch.assert_protection_is_kept(&what);
            laboratory.check_afterwards(&scratch, &[operation.new], 0, &what);
        }
    }
}
