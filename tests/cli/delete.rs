//! `delete`.

use crate::{DONE, MISSING, Scratch};

#[test]
fn delete_says_whether_there_was_a_file() {
    let scratch = Scratch::with("file", "x");
    scratch.run(&["delete", "file"]).code(DONE).stdout("").stderr("");
    assert!(scratch.names().is_empty());
    scratch.run(&["delete", "file"]).code(MISSING).stdout("").stderr("");
}
