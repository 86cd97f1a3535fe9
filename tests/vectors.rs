//! The test vectors of the lock protocol, and the code that reads and writes the formats on disk. `tests/lock_names.rs`
//! and `tests/lock_contents.rs` test them through the public calls, `tests/interop` with a program in Python.

mod common;

#[allow(dead_code, reason = "the library uses the rest")]
#[path = "../src/protocol/mod.rs"]
mod protocol;

use std::ffi::{CString, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use common::vectors::{bytes, path, some_bytes, vectors};
use protocol::intent::{Change, FileId, Intent, New, Unreadable, is_intent_name};
use protocol::lock_contents::{MARK, guarded, is_marked, text, text_len};
use protocol::lock_name::{lock_name, named_after};
use protocol::temporary_name::{Owner, TemporaryName};
use serde_json::Value;

#[test]
fn lock_names() {
    for vector in vectors("lock_names", "path") {
        let (canonical, root) = (path(&vector["path"]), bytes(&vector["lock_root"]));
        let root = root.as_ref().map(|root| Path::new(OsStr::from_bytes(root)));
        let named = named_after(&canonical, root);
        assert_eq!(named.map(|it| it.as_os_str().as_bytes().to_vec()), bytes(&vector["named_after"]), "{vector}");
        assert_eq!(named.map(lock_name).as_deref(), vector["lock_file"].as_str(), "{vector}");
    }
}

#[test]
fn temporary_names() {
    const DIGITS: usize = "abcdefgabc.tmp".len();
    for vector in vectors("temporary_names", "temporary") {
        let (name, hash) = (some_bytes(&vector["name"]), some_bytes(&vector["lock_hash"]));
        let temporary = some_bytes(&vector["temporary"]);
        let new = TemporaryName::fresh(&c_string(&name), &hash);
        let new = new.get().to_bytes();
        assert_eq!(new[..new.len() - DIGITS], temporary[..temporary.len() - DIGITS], "{vector}");
        assert!(new.len() <= 255 && temporary.len() == new.len(), "{vector}");
        for temporary in [&temporary[..], new] {
            let owner = Owner::of(temporary).unwrap_or_else(|| panic!("{vector}"));
            assert!(owner.name == name || owner.hash == Some(&hash), "{vector}: {owner:?}");
        }
    }
    for vector in vectors("temporary_names", "not_temporary") {
        assert_eq!(Owner::of(&some_bytes(&vector["not_temporary"])), None, "{vector}");
    }
}

#[test]
fn lock_files() {
    for vector in vectors("lock_files", "contents") {
        let (lock_file, contents) = (some_bytes(&vector["lock_file"]), some_bytes(&vector["contents"]));
        let mark = usize::try_from(MARK).unwrap();
        let (before, after) = contents.split_at(contents.len().min(mark));
        let guards = guarded(before, &lock_file).map(|path| path.as_os_str().as_bytes().to_vec());
        assert_eq!(guards, bytes(&vector["guards"]), "{vector}");
        let mark = Some(after).filter(|mark| is_intent_name(mark)).map(<[u8]>::to_vec);
        assert_eq!(mark, bytes(&vector["mark"]), "{vector}");
        let size = contents.len() as u64;
        let kept = if is_marked(size) { text_len(before) } else { size };
        assert_eq!(Some(kept), vector["kept"].as_u64(), "{vector}");
    }
    for vector in vectors("lock_files", "new") {
        let (named_after, lock_file) = (path(&vector["named_after"]), some_bytes(&vector["lock_file"]));
        let new = text(&named_after, &lock_file).unwrap_or_default();
        assert_eq!(new, some_bytes(&vector["new"]), "{vector}");
        assert_eq!(guarded(&new, &lock_file).is_some(), !new.is_empty(), "{vector}");
    }
}

#[test]
fn intents() {
    for vector in vectors("intents", "changes") {
        let contents = some_bytes(&vector["intent"]);
        let intent = Intent::parse(&contents).unwrap_or_else(|error| panic!("{error:?}: {vector}"));
        let changes = vector["changes"].as_array().unwrap().iter().map(change).collect();
        let expected = Intent { inode: number(&vector["inode"]), full: vector["synced"] == "full", changes };
        assert_eq!(intent, expected, "{vector}");
        assert_eq!(expected.to_bytes(), contents, "{vector}");
    }
}

#[test]
fn intents_that_are_refused() {
    for vector in vectors("intents", "refused") {
        let expected = match vector["refused"].as_str() {
            Some("broken") => Unreadable::Torn,
            Some("unknown") => Unreadable::Unknown,
            _ => panic!("{vector}"),
        };
        assert_eq!(Intent::parse(&some_bytes(&vector["intent"])), Err(expected), "{vector}");
    }
}

#[test]
fn ids() {
    for vector in vectors("intents", "ids") {
        let [one, other] = [0, 1].map(|n| id(&vector["ids"][n]));
        assert_eq!(Some(one.is(other)), vector["same"].as_bool(), "{vector}");
        assert_eq!(one.is(other), other.is(one), "{vector}");
    }
}

fn c_string(bytes: &[u8]) -> CString {
    CString::new(bytes).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_str().unwrap().parse().unwrap()
}

fn id(value: &Value) -> FileId {
    let parts: Vec<&str> = value.as_str().unwrap().split([':', '.']).collect();
    match parts[..] {
        [inode] => FileId { inode: inode.parse().unwrap(), born: None },
        [inode, seconds, nanoseconds] => {
            let born = (seconds.parse().unwrap(), nanoseconds.parse().unwrap());
            FileId { inode: inode.parse().unwrap(), born: Some(born) }
        }
        _ => panic!("{value}"),
    }
}

fn change(vector: &Value) -> Change {
    let new = (vector["kind"] == "R")
        .then(|| New { temporary: c_string(&some_bytes(&vector["temporary"])), inode: number(&vector["inode"]) });
    Change {
        dir: path(&vector["directory"]),
        dir_id: id(&vector["id"]),
        name: c_string(&some_bytes(&vector["name"])),
        old: Some(&vector["old"]).filter(|old| *old != "").map(id),
        new,
    }
}

/// The specification shows some of the vectors.
#[test]
fn the_tables_of_the_specification_are_vectors() {
    let specification = include_str!("../src/docs/protocol.md");
    let known = |file, field| -> Vec<(String, Value)> {
        vectors(file, field).into_iter().filter_map(|it| Some((it[field].as_str()?.to_owned(), it))).collect()
    };
    let locks = known("lock_names", "lock_file");
    let temporaries = vectors("temporary_names", "temporary");
    let temporaries: Vec<Vec<u8>> = temporaries.iter().map(|it| some_bytes(&it["temporary"])).collect();
    let (mut lock_rows, mut temporary_rows) = (0, 0);
    for row in specification.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let last = cells[cells.len() - 1].trim_matches('`');
        if last.ends_with(".lock") && last.len() == 21 {
            lock_rows += 1;
            let of_this_name = locks.iter().filter(|(name, _)| name == last);
            // If the cell contains only the path.
            let cell = cells[cells.len() - 2];
            let plain = cell.strip_prefix('`').and_then(|cell| cell.strip_suffix('`')).filter(|it| !it.contains('`'));
            let mut matching = of_this_name.filter(|(_, it)| plain.is_none_or(|plain| it["named_after"] == plain));
            assert!(matching.next().is_some(), "{row}");
        } else if last.ends_with(".tmp") && cells.len() == 2 && !last.contains('`') {
            temporary_rows += 1;
            assert!(temporaries.iter().any(|it| it == last.as_bytes()), "{row}");
        }
    }
    assert!(lock_rows >= 14 && temporary_rows >= 2, "{lock_rows} and {temporary_rows}");
}

#[test]
fn each_file_is_read_by_some_test() {
    let names = common::names(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors"));
    let expected = ["README.md", "intents.jsonl", "lock_files.jsonl", "lock_names.jsonl", "temporary_names.jsonl"];
    assert_eq!(names, expected);
    // Each line has one of the fields that these tests use.
    let fields = ["path", "temporary", "not_temporary", "contents", "new", "changes", "refused", "ids"];
    for name in expected.iter().filter(|name| name.ends_with(".jsonl")) {
        let lines = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)).unwrap();
        for line in lines.lines() {
            let vector: Value = serde_json::from_str(line).unwrap();
            assert_eq!(fields.iter().filter(|field| vector.get(**field).is_some()).count(), 1, "{line}");
        }
    }
}
