//! `recover`, and the output of `locks` for unfinished changes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use crate::common::{names, temporary_name};
use crate::{DONE, FAILED, Scratch, line, message, stdout};

/// Two files, and a decided change that replaces both by `new` after its process died. It was made by hand with the
/// lock protocol, not by the crate.
struct Left {
    scratch: Scratch,
    intent: PathBuf,
}

impl Left {
    fn new() -> Self {
        let scratch = Scratch::with("a", "old");
        fs::write(scratch.at("b"), "old").unwrap();
        scratch.run(&["run", "a", "b", "--", "true"]).code(DONE);
        let inode = |path: &Path| fs::metadata(path).unwrap().ino().to_string();
        let locks = ["a", "b"].map(|name| scratch.lock_path(name));
        let first = locks.iter().min().unwrap();
        let intent = first.with_extension("abcdefg234.intent");
        fs::write(&intent, "").unwrap();
        let mut fields = vec!["atomic-file-adapter intent 1".to_owned(), inode(&intent), "crash".into()];
        for name in ["a", "b"] {
            let temporary = temporary_name(name, "abcdefg");
            fs::write(scratch.at(&temporary), "new").unwrap();
            let dir = [scratch.path.to_str().unwrap().to_owned(), inode(&scratch.path)];
            let new = inode(&scratch.at(&temporary));
            fields.extend(["R".to_owned()].into_iter().chain(dir).chain([
                name.into(),
                temporary,
                new,
                inode(&scratch.at(name)),
            ]));
        }
        let mut contents = fields.join("\0") + "\0";
        contents += &format!("{:016x}", xxh3_64(contents.as_bytes()));
        fs::write(&intent, contents).unwrap();
        for lock in &locks {
            let mut marked = fs::read(lock).unwrap();
            marked.resize(2048, 0);
            marked.extend(intent.file_name().unwrap().as_encoded_bytes());
            fs::write(lock, marked).unwrap();
        }
        Left { scratch, intent }
    }

    /// This change cannot be finished: the new version of `b` is missing.
    fn without_b() -> Self {
        let left = Self::new();
        fs::remove_file(left.scratch.at(&temporary_name("b", "abcdefg"))).unwrap();
        left
    }

    fn contents(&self) -> [Vec<u8>; 2] {
        ["a", "b"].map(|name| self.scratch.contents(name))
    }

    /// Only the files are left.
    #[track_caller]
    fn is_gone(&self) {
        assert_eq!(self.scratch.names(), ["a", "b"]);
        let locks = names(self.intent.parent().unwrap());
        assert!(locks.iter().all(|name| name.ends_with(".lock") || name == ".gitignore"), "{locks:?}");
        self.scratch.run(&["recover"]).code(DONE).stdout("").stderr("");
        self.scratch.run(&["run", "a", "b", "--", "true"]).code(DONE).stdout("").stderr("");
    }
}

#[test]
fn recover_finishes_what_was_decided_and_prints_it() {
    let left = Left::new();
    left.scratch.run(&["recover"]).code(DONE).stdout(line(&left.intent)).stderr("");
    assert_eq!(left.contents(), [b"new", b"new"]);
    left.is_gone();
    let left = Left::new();
    let expected = left.intent.to_str().unwrap().to_owned() + "\0";
    left.scratch.run(&["recover", "-0"]).code(DONE).stdout(expected).stderr("");
}

#[test]
fn taking_a_lock_finishes_it_too() {
    for verb in [&["read", "b"][..], &["run", "--shared", "a", "--", "cat", "b"]] {
        let left = Left::new();
        left.scratch.run(verb).code(DONE).stdout("new").stderr("");
        assert_eq!(left.contents(), [b"new", b"new"]);
        left.is_gone();
    }
}

#[test]
fn locks_lists_what_is_not_finished() {
    let left = Left::new();
    let Left { scratch, intent } = &left;
    let rows = ["a", "b"].map(|name| (scratch.lock_path(name), scratch.at(name)));
    let table = stdout(&scratch.run(&["locks"]).code(DONE).stderr(""));
    let mut expected = String::from("STATE  PID  PROGRAM  USER  FILE\n");
    expected.extend(rows.iter().map(|(_, file)| format!("free     -  -        -     {}\n", file.display())));
    expected += &format!("\nnot finished: {}\n", intent.display());
    expected.extend(["a", "b"].map(|name| format!("  {}\n", scratch.at(name).display())));
    assert_eq!(table, expected);
    let json: Value = serde_json::from_str(&stdout(&scratch.run(&["locks", "--json"]).code(DONE))).unwrap();
    for (n, (lock, file)) in rows.iter().enumerate() {
        assert_eq!(
            (&json[n]["path"], &json[n]["file"]),
            (&lock.to_str().unwrap().into(), &file.to_str().unwrap().into())
        );
        assert_eq!(json[n]["intent"], intent.to_str().unwrap());
    }
    // For one of the files, and for another file.
    assert!(stdout(&scratch.run(&["locks", "b"])).contains("not finished"));
    assert!(!stdout(&scratch.run(&["locks", "c"])).contains("not finished"));
    // Looking has changed nothing.
    assert_eq!(left.contents(), [b"old", b"old"]);
    // The mark of a change that was never decided.
    fs::remove_file(intent).unwrap();
    let json: Value = serde_json::from_str(&stdout(&scratch.run(&["locks", "--json"]).code(DONE))).unwrap();
    assert_eq!((&json[0]["intent"], &json[1]["intent"]), (&Value::Null, &Value::Null));
    assert!(!stdout(&scratch.run(&["locks"]).code(DONE)).contains("not finished"));
    scratch.run(&["read", "a"]).code(DONE).stdout("old");
}

#[test]
fn a_change_that_cannot_be_finished_is_reported_and_can_be_given_up() {
    let left = Left::without_b();
    let Left { scratch, intent } = &left;
    for verb in [&["read", "a"][..], &["read", "b"], &["recover"]] {
        let said = message(&scratch.run(verb).code(FAILED).stdout(""));
        assert!(said.contains(intent.to_str().unwrap()), "{said}");
    }
    let given_up = scratch.run(&["recover", "--give-up", intent.to_str().unwrap()]).code(FAILED);
    assert_eq!(stdout(&given_up), line(&scratch.at("b")));
    assert!(message(&given_up).contains("1 of its files"), "{}", message(&given_up));
    assert_eq!(left.contents(), [b"new", b"old"]);
    left.is_gone();
}

#[test]
fn what_can_be_finished_leaves_nothing_to_be_given_up() {
    let left = Left::new();
    let below = left.intent.strip_prefix(&left.scratch.path).unwrap();
    left.scratch.run(&["recover", "--give-up", below.to_str().unwrap()]).code(DONE).stdout("").stderr("");
    assert_eq!(left.contents(), [b"new", b"new"]);
    left.is_gone();
}

#[test]
fn nothing_but_an_intent_can_be_given_up() {
    let scratch = Scratch::with("a", "old");
    scratch.run(&["recover"]).code(DONE).stdout("").stderr("");
    scratch.run(&["read", "a"]).code(DONE);
    let missing = scratch.at(".jerry/local/locks/e292ab48a6b06805.abcdefg234.intent");
    // It is no error: another process may have finished the change a moment ago.
    scratch.run(&["recover", "--give-up", missing.to_str().unwrap()]).code(DONE).stdout("").stderr("");
    assert!(message(&scratch.run(&["recover", "--give-up", "a"]).code(FAILED)).contains("not the name of an intent"));
    // A file with the name of an intent in another directory.
    fs::write(scratch.at("e292ab48a6b06805.abcdefg234.intent"), "mine").unwrap();
    scratch.run(&["recover", "--give-up", "./e292ab48a6b06805.abcdefg234.intent"]).code(FAILED);
    assert_eq!(scratch.names(), ["a", "e292ab48a6b06805.abcdefg234.intent"]);
    assert_eq!(scratch.contents("a"), b"old");
}
