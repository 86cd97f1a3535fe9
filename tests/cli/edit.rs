//! `edit`.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use assert_cmd::assert::Assert;

use crate::common::names;
use crate::{DONE, FAILED, Scratch, TIMED_OUT, TOOL, WRONG_USAGE, message, stdout};

/// These tests are not about syncs, so nothing is durable, and the directory for temporary files may be in memory.
const EDIT: [&str; 3] = ["--durability", "ordered", "edit"];

/// A directory for the copies. It must be empty before and afterwards.
const TEMPORARY: &str = "tmp";

fn scratch(files: &[(&str, &str)]) -> Scratch {
    let scratch = Scratch::new();
    fs::create_dir(scratch.at(TEMPORARY)).unwrap();
    for (name, contents) in files {
        fs::create_dir_all(scratch.at(name).parent().unwrap()).unwrap();
        fs::write(scratch.at(name), contents).unwrap();
    }
    scratch
}

#[track_caller]
fn edit(scratch: &Scratch, files: &[&str], command: &[&str]) -> Assert {
    let args = [&EDIT, files, &["--"], command].concat();
    let assert = scratch.tool(&args).env("TMPDIR", scratch.at(TEMPORARY)).assert();
    assert_eq!(names(&scratch.at(TEMPORARY)), [""; 0], "copies are left");
    assert
}

/// CMD is a script with the copies as $1, $2 and so on.
#[track_caller]
fn edit_sh(scratch: &Scratch, files: &[&str], script: &str) -> Assert {
    edit(scratch, files, &["sh", "-c", script, "sh"])
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: other sed take no -i without a suffix")]
fn sed_in_place_works_as_it_stands() {
    let scratch = scratch(&[("a.toml", "colour = 'red'\n"), ("sub/b.toml", "paper = 'red'\n"), ("c", "red")]);
    edit(&scratch, &["a.toml", "sub/b.toml"], &["sed", "-i", "s/red/blue/"]).code(DONE).stdout("").stderr("");
    assert_eq!(scratch.contents("a.toml"), b"colour = 'blue'\n");
    assert_eq!(scratch.contents("sub/b.toml"), b"paper = 'blue'\n");
    assert_eq!(scratch.contents("c"), b"red");
    assert_eq!(names(&scratch.path), [".jerry", "a.toml", "c", "sub", TEMPORARY]);
    assert_eq!(names(&scratch.at("sub")), ["b.toml"]);
}

#[test]
fn the_copies_have_the_names_of_their_files_and_are_private() {
    let scratch = scratch(&[("a.toml", "one"), ("sub/a.toml", "two")]);
    symlink("sub/a.toml", scratch.at("link")).unwrap();
    let script = r#"printf '%s\n' "$@"; cat "$1" "$2"; echo; for it in "$1" "${1%/*}" "${1%/*/*}"; do ls -ld "$it" | cut -c1-10; done"#;
    let said = stdout(&edit_sh(&scratch, &["a.toml", "link", "new.json"], script).code(DONE));
    let lines: Vec<_> = said.lines().collect();
    let [a, link, new, "onetwo", "-rw-------", "drwx------", "drwx------"] = lines[..] else { panic!("{said}") };
    let dir = Path::new(a).parent().unwrap().parent().unwrap();
    assert_eq!(dir.parent(), Some(&*scratch.at(TEMPORARY)));
    assert_eq!([a, link, new].map(Path::new), ["1/a.toml", "2/a.toml", "3/new.json"].map(|name| dir.join(name)));
    assert!(scratch.at("link").is_symlink() && !scratch.at("new.json").exists());
}

#[test]
fn what_the_command_makes_and_removes_is_made_and_removed() {
    let scratch = scratch(&[("changed", "old"), ("removed", "old"), ("same", "old")]);
    let script = r#"printf new >"$1"; rm "$2"; printf made >"$4""#;
    edit_sh(&scratch, &["changed", "removed", "same", "made", "not"], script).code(DONE).stdout("").stderr("");
    assert_eq!(scratch.names(), ["changed", "made", "same", TEMPORARY]);
    assert_eq!(["changed", "made", "same"].map(|name| scratch.contents(name)), [&b"new"[..], b"made", b"old"]);
    // Editors write a new file and rename it over the old one.
    edit_sh(&scratch, &["same"], r#"printf renamed >"$1~"; mv "$1~" "$1""#).code(DONE);
    assert_eq!(scratch.contents("same"), b"renamed");
}

#[test]
fn if_the_command_fails_nothing_changes_and_its_status_is_passed_on() {
    let scratch = scratch(&[("a", "old"), ("b", "old")]);
    for (end, status) in [("exit 7", 7), ("kill -KILL $$", 128 + 9), ("exit 3", 3)] {
        let script = format!(r#"printf new >"$1"; rm "$2"; printf new >"$3"; {end}"#);
        edit_sh(&scratch, &["a", "b", "c"], &script).code(status).stdout("").stderr("");
    }
    for (command, status) in [("./a", 126), ("./missing", 127)] {
        let assert = edit(&scratch, &["a", "b"], &[command]).code(status);
        assert!(message(&assert).starts_with(&format!("cannot run {command}: ")));
    }
    assert_eq!((scratch.names(), scratch.contents("a"), scratch.contents("b")), unchanged());
}

fn unchanged() -> (Vec<String>, Vec<u8>, Vec<u8>) {
    (["a", "b", TEMPORARY].map(String::from).to_vec(), b"old".to_vec(), b"old".to_vec())
}

#[test]
fn what_is_no_regular_file_is_not_taken_for_a_new_version() {
    let scratch = scratch(&[("a", "old"), ("b", "old"), ("tmp.d", "")]);
    for (make, what) in [("mkdir", "a directory"), ("ln -s /etc/passwd", "a link"), ("mkfifo", "a FIFO")] {
        let script = format!(r#"printf new >"$1"; rm "$2"; {make} "$2""#);
        let assert = edit_sh(&scratch, &["a", "b"], &script).code(FAILED);
        let message = message(&assert);
        assert!(
            message.starts_with("cannot read the copy ")
                && message.ends_with("/2/b: it is not a regular file any more, and nothing was changed"),
            "{message}"
        );
        assert_eq!((scratch.contents("a"), scratch.contents("b")), (b"old".to_vec(), b"old".to_vec()), "{what}");
    }
}

#[test]
fn if_nothing_was_changed_nothing_is_written() {
    let scratch = scratch(&[("a", "old"), ("b", "old")]);
    let inodes = || ["a", "b"].map(|name| fs::metadata(scratch.at(name)).unwrap().ino());
    let before = inodes();
    edit_sh(&scratch, &["a", "b", "missing"], r#"printf old >"$1"; echo "$#""#).code(DONE).stdout("3\n").stderr("");
    assert_eq!((inodes(), scratch.contents("a")), (before, b"old".to_vec()));
}

#[test]
fn a_file_that_is_given_twice_has_one_copy() {
    let scratch = scratch(&[("a", "1"), ("b", "2")]);
    symlink("a", scratch.at("link")).unwrap();
    let script = r#"for copy; do printf x >>"$copy"; done; [ "$1" = "$3" ] && [ "$1" = "$4" ] && [ "$1" != "$2" ]"#;
    edit_sh(&scratch, &["a", "b", "./a", "link"], script).code(DONE);
    assert_eq!((scratch.contents("a"), scratch.contents("b")), (b"1xxx".to_vec(), b"2x".to_vec()));
    assert!(scratch.at("link").is_symlink());
}

#[test]
fn the_locks_of_all_are_held_while_the_command_runs() {
    let scratch = scratch(&[("a", "old"), ("b", "old")]);
    for (file, status) in [("a", TIMED_OUT), ("b", TIMED_OUT), ("missing", TIMED_OUT), ("other", DONE)] {
        edit(&scratch, &["a", "b", "missing"], &["sh", "-c", "exec \"$0\" --timeout 0 read \"$1\"", TOOL, file])
            .code(status);
    }
    // The command waits for locks that others hold.
    let mut holder = scratch.hold("b");
    let args = [&["--timeout", "0"][..], &EDIT, &["a", "b", "--", "true"]].concat();
    assert!(message(&scratch.run(&args).code(TIMED_OUT)).contains("cannot lock b: "));
    holder.tell("end");
    holder.finish();
    scratch.run(&args).code(DONE);
}

#[test]
fn edit_without_a_file_or_a_command_is_wrong_usage() {
    let scratch = scratch(&[("a", "old")]);
    for args in [&["edit"][..], &["edit", "a"], &["edit", "--", "true"], &["edit", "a", "--"]] {
        scratch.run(args).code(WRONG_USAGE).stdout("");
    }
}

#[test]
fn where_no_copies_can_be_made_nothing_is_done() {
    let scratch = scratch(&[("a", "old")]);
    let args = [&EDIT[..], &["a", "--", "touch", "started"]].concat();
    let assert = scratch.tool(&args).env("TMPDIR", scratch.at("missing")).assert().code(FAILED);
    assert!(message(&assert).starts_with("cannot make copies for the command below TMPDIR or /tmp: "));
    assert_eq!(scratch.names(), ["a", TEMPORARY]);
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: /dev/shm")]
fn what_is_in_memory_is_not_promised_to_survive_a_power_cut() {
    let scratch = scratch(&[("a", "old")]);
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let file = memory.path().join("b");
    fs::write(&file, "old").unwrap();
    let both = ["a", file.to_str().unwrap()];
    let script = r#"printf new >"$1"; printf new >"$2""#;
    let args = [&["edit"], &both[..], &["--", "sh", "-c", script, "sh"]].concat();
    assert!(message(&scratch.run(&args).code(FAILED)).contains("memory"));
    assert_eq!((scratch.contents("a"), fs::read(&file).unwrap()), (b"old".to_vec(), b"old".to_vec()));
    edit_sh(&scratch, &both, script).code(DONE);
    assert_eq!((scratch.contents("a"), fs::read(&file).unwrap()), (b"new".to_vec(), b"new".to_vec()));
}
