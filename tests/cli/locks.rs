//! `lock-path`, `locks`, and what tidies up: `prune` and `sweep`.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::Value;

use crate::common::{names, temporary_name};
use crate::{DONE, Scratch, TIMED_OUT, line, stdout};

#[test]
fn lock_path_is_the_librarys_for_every_spelling_and_makes_nothing() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.at("real")).unwrap();
    fs::write(scratch.at("real/file"), "x").unwrap();
    symlink("real", scratch.at("dirlink")).unwrap();
    symlink("dirlink/../real/file", scratch.at("link")).unwrap();
    let absolute = scratch.at("real/file");
    let expected = line(&scratch.lock_path("real/file"));
    for spelling in ["real/file", "./real//../real/file", "dirlink/file", "link", absolute.to_str().unwrap()] {
        scratch.run(&["lock-path", spelling]).success().stdout(expected.clone()).stderr("");
    }
    let missing = line(&scratch.lock_path("not/yet/there"));
    assert_ne!(missing, expected);
    scratch.run(&["lock-path", "not/yet/there"]).success().stdout(missing);
    assert_eq!(names(&scratch.path), ["dirlink", "link", "real"]);
    assert_eq!(names(&scratch.at("real")), ["file"]);
}

#[test]
fn lock_path_names_the_file_that_is_locked() {
    let scratch = Scratch::new();
    scratch.tool(&["write", "file"]).write_stdin("x").assert().success();
    let lock = scratch.lock_path("file");
    assert_eq!(lock.parent(), Some(&*scratch.at(".jerry/local/locks")));
    assert!(lock.is_file());
}

#[test]
fn locks_says_who_holds_what() {
    let scratch = Scratch::new();
    scratch.run(&["read", "free"]).success();
    let holders = [scratch.hold("exclusive"), scratch.hold_shared("shared")];
    let path = |name| scratch.lock_path(name).into_os_string().into_string().unwrap();
    let [exclusive, shared] = holders.each_ref().map(|holder| holder.pid().to_string());
    let mut rows = [
        (path("free"), "free", "-"),
        (path("exclusive"), "exclusive", &exclusive),
        (path("shared"), "shared", &shared),
    ];
    rows.sort();
    let width = exclusive.len().max(shared.len()).max(3);
    let mut table = format!("STATE      {:>width$}  LOCK FILE\n", "PID");
    for (path, state, pid) in &rows {
        table += &format!("{state:9}  {pid:>width$}  {path}\n");
    }
    scratch.run(&["locks"]).success().stdout(table).stderr("");

    let json: Value = serde_json::from_str(&stdout(&scratch.run(&["locks", "--json"]).success().stderr(""))).unwrap();
    let object = |(path, state, pid): &(String, &str, &str)| {
        let pid = pid.parse::<u32>().ok();
        serde_json::json!({"path": path, "held": *state != "free", "exclusive": *state == "exclusive", "pid": pid})
    };
    assert_eq!(json, rows.iter().map(object).collect::<Value>());
}

#[test]
fn locks_are_one_line_and_json_is_valid_whatever_is_in_the_path() {
    let scratch = Scratch::new();
    let dir = "a\"b\\c\n\t\u{1b}[31m\u{7f}\u{9b}é🦀";
    let args = |verb: &[&'static str]| [&["--lock-dir", dir], verb].concat();
    scratch.run(&args(&["read", "file"])).success();
    let lock = scratch.adapter(dir).lock_path(scratch.at("file")).unwrap();
    let table = stdout(&scratch.run(&args(&["locks"])).success());
    assert!(table.lines().count() == 2 && table.contains(r#"a"b\c\n\t\u{1b}[31m\u{7f}\u{9b}é🦀/"#), "{table}");
    let json = stdout(&scratch.run(&args(&["locks", "--json"])).success());
    assert!(json.chars().all(|c| c == '\n' || !c.is_control()), "{json:?}");
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["path"], lock.to_str().unwrap());
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: Apple's file systems refuse such names")]
fn json_is_utf_8_even_if_the_path_is_not() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let scratch = Scratch::new();
    let tool = |args: &[&str]| {
        let mut tool = scratch.tool(args);
        tool.arg("--lock-dir").arg(OsStr::from_bytes(b"locks\xFF"));
        tool.assert().success()
    };
    tool(&["read", "file"]);
    let json: Value = serde_json::from_str(&stdout(&tool(&["locks", "--json"]))).unwrap();
    let dir = scratch.at("locks\u{FFFD}").into_os_string().into_string().unwrap();
    let name = json[0]["path"].as_str().unwrap().strip_prefix(&format!("{dir}/")).unwrap();
    assert!(scratch.path.join(OsStr::from_bytes(b"locks\xFF")).join(name).is_file());
}

#[test]
fn locks_without_a_lock_directory_says_nothing_and_makes_nothing() {
    let scratch = Scratch::new();
    scratch.run(&["locks"]).code(DONE).stdout("").stderr("");
    assert!(names(&scratch.path).is_empty());
}

#[test]
fn prune_removes_what_nobody_holds_and_prints_it() {
    let scratch = Scratch::new();
    scratch.run(&["prune"]).code(DONE).stdout("").stderr("");
    assert!(names(&scratch.path).is_empty());
    scratch.run(&["write", "file"]).success();
    let _holder = scratch.hold_shared("held");
    let line = format!("{}\n", scratch.lock_path("file").display());
    scratch.run(&["prune"]).success().stdout(line).stderr("");
    assert!(!scratch.lock_path("file").exists() && scratch.lock_path("held").exists());
    scratch.run(&["--timeout", "0", "write", "held"]).code(TIMED_OUT);
    scratch.run(&["--timeout", "0", "write", "file"]).success();
}

#[test]
fn sweep_removes_what_killed_writers_left_and_prints_it() {
    let scratch = Scratch::new();
    scratch.run(&["write", "file"]).success();
    let left = ["file", "held"].map(|name| scratch.path.canonicalize().unwrap().join(temporary_name(name, "abcdefg")));
    for left in &left {
        fs::write(left, "").unwrap();
    }
    let holder = scratch.hold("held");
    scratch.run(&["sweep", "."]).success().stdout(format!("{}\n", left[0].display())).stderr("");
    assert!(!left[0].exists() && left[1].exists());
    scratch.run(&["sweep", "held"]).code(DONE).stdout("").stderr("");
    drop(holder);
    scratch.run(&["sweep", "held"]).success().stdout(format!("{}\n", left[1].display())).stderr("");
    scratch.run(&["sweep", "missing/file"]).code(DONE).stdout("").stderr("");
}

#[test]
fn locks_lists_nothing_but_lock_files() {
    let scratch = Scratch::new();
    scratch.run(&["read", "file"]).success();
    fs::write(scratch.at(".jerry/local/locks/notes.lock"), "").unwrap();
    let table = stdout(&scratch.run(&["locks"]).success());
    assert_eq!(
        table.lines().skip(1).collect::<Vec<_>>(),
        [format!("free         -  {}", scratch.lock_path("file").display())]
    );
}
