//! `lock-path`, `locks`, and what tidies up: `prune` and `sweep`.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use nix::pty::openpty;
use serde_json::Value;

use crate::common::{names, temporary_name};
use crate::{DONE, FAILED, Scratch, TIMED_OUT, line, stdout};

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
    // Made by another program, which has not written what it is for.
    fs::write(scratch.lock_path("foreign"), "").unwrap();
    let [exclusive, shared] = holders.each_ref().map(|holder| holder.pid().to_string());
    let row = |name, state, pid| (scratch.lock_path(name), Some(scratch.at(name)), state, pid);
    let mut rows = [
        row("free", "free", "-"),
        row("exclusive", "exclusive", &exclusive),
        row("shared", "shared", &shared),
        (scratch.lock_path("foreign"), None, "free", "-"),
    ];
    rows.sort();
    let width = exclusive.len().max(shared.len()).max(3);
    let mut table = format!("STATE      {:>width$}  FILE\n", "PID");
    for (lock, file, state, pid) in &rows {
        table += &format!("{state:9}  {pid:>width$}  {}\n", file.as_ref().unwrap_or(lock).display());
    }
    scratch.run(&["locks"]).success().stdout(table).stderr("");

    let json: Value = serde_json::from_str(&stdout(&scratch.run(&["locks", "--json"]).success().stderr(""))).unwrap();
    let object = |(path, file, state, pid): &(PathBuf, Option<PathBuf>, &str, &str)| {
        let pid = pid.parse::<u32>().ok();
        let (held, exclusive) = (*state != "free", *state == "exclusive");
        serde_json::json!({"path": path, "file": file, "held": held, "exclusive": exclusive, "pid": pid, "intent": null, "problem": null})
    };
    assert_eq!(json, rows.iter().map(object).collect::<Value>());
}

#[test]
fn locks_are_one_line_and_json_is_valid_whatever_is_in_the_path() {
    let scratch = Scratch::new();
    let dir = "a\"b\\c\n\t\u{1b}[31m\u{7f}\u{9b}é🦀";
    let args = |verb: &[&'static str]| [&["--lock-dir", dir], verb].concat();
    // Of a path with a newline in it the lock file says nothing, so it is listed itself.
    let files = ["file", "fi\n\"le", "\"\\\t\u{1b}[31m\u{202e}"];
    files.iter().for_each(|file| drop(scratch.run(&[&["--lock-dir", dir, "read"], &[*file][..]].concat()).success()));
    let lock = |file| scratch.adapter(dir).lock_path(scratch.at(file)).unwrap();
    let table = stdout(&scratch.run(&args(&["locks"])).success());
    let listed = table.lines().filter(|line| {
        [r#"/a"b\\c\n\t\u{1b}[31m\u{7f}\u{9b}é🦀/"#, "/file", r#"/"\\\t\u{1b}[31m\u{202e}"#]
            .iter()
            .any(|part| line.contains(part))
    });
    assert_eq!((listed.count(), table.lines().count()), (3, 4), "{table}");
    let json = stdout(&scratch.run(&args(&["locks", "--json"])).success());
    assert!(json.chars().all(|c| c == '\n' || !c.is_control()), "{json:?}");
    let json: Value = serde_json::from_str(&json).unwrap();
    for file in files {
        let listed = json.as_array().unwrap().iter().find(|it| it["path"] == lock(file).to_str().unwrap()).unwrap();
        assert_eq!(
            listed["file"].as_str(),
            Some(scratch.at(file).to_str().unwrap()).filter(|file| !file.contains('\n'))
        );
    }
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
        [format!("free         -  {}", scratch.at("file").display())]
    );
}

#[test]
fn prune_goes_on_past_what_it_cannot_remove_and_says_so_at_the_end() {
    let scratch = Scratch::new();
    let lock = |number: usize| scratch.at(&format!(".jerry/local/locks/{number:016x}.lock"));
    fs::create_dir_all(lock(0)).unwrap();
    symlink("nowhere", lock(2)).unwrap();
    for free in [1, 3] {
        fs::write(lock(free), "").unwrap();
    }
    let is_not =
        |number, kind: &str| format!("atomic-file: {} is not a regular file but {kind}\n", lock(number).display());
    let failures = is_not(0, "a directory") + &is_not(2, "a symbolic link");

    let table = scratch.run(&["locks"]).code(FAILED).stderr(failures.clone());
    let states: Vec<_> =
        stdout(&table).lines().skip(1).map(|row| row.split_whitespace().next().unwrap().to_owned()).collect();
    assert_eq!(states, ["unknown", "free", "unknown", "free"]);
    let json = scratch.run(&["locks", "--json"]).code(FAILED).stderr(failures.clone());
    let json: Value = serde_json::from_str(&stdout(&json)).unwrap();
    let problem = format!("{} is not a regular file but a directory", lock(0).display());
    let unknown = serde_json::json!({"path": lock(0), "file": null, "held": null, "exclusive": null, "pid": null, "intent": null, "problem": problem});
    assert_eq!((&json[0], json.as_array().unwrap().len()), (&unknown, 4));
    assert_eq!(json[1]["held"], false);

    scratch.run(&["prune"]).code(FAILED).stdout(line(&lock(1)) + &line(&lock(3))).stderr(failures.clone());
    scratch.run(&["prune"]).code(FAILED).stdout("").stderr(failures);
    assert!(lock(0).is_dir() && lock(2).is_symlink());
}

#[test]
fn sweep_goes_on_past_what_it_cannot_remove_and_says_so_at_the_end() {
    let scratch = Scratch::new();
    let left = ["one", "two"].map(|name| scratch.at(&temporary_name(name, "abcdefg")));
    left.iter().for_each(|path| fs::write(path, "").unwrap());
    let in_the_way = scratch.lock_path("one");
    fs::create_dir_all(&in_the_way).unwrap();
    let failure = format!("atomic-file: {} is not a regular file but a directory\n", in_the_way.display());
    scratch.run(&["sweep", "."]).code(FAILED).stdout(line(&left[1])).stderr(failure);
    assert_eq!(left.map(|path| path.exists()), [true, false]);
}

/// What the tool prints on a terminal.
fn on_a_terminal(scratch: &Scratch, args: &[&str]) -> String {
    let terminal = openpty(None, None).unwrap();
    let mut tool = scratch.command(args);
    let mut running = tool.stdout(terminal.slave).spawn().unwrap();
    // It has another copy of the terminal, which must be closed for the output to end.
    drop(tool);
    let mut shown = Vec::new();
    let mut master = File::from(terminal.master);
    // The end is EIO on Linux (pty(7) has HUP only), and no error elsewhere.
    let _ = master.read_to_end(&mut shown);
    assert!(running.wait().unwrap().success());
    String::from_utf8(shown).unwrap().replace("\r\n", "\n")
}

const ODD: &str = "a\\ b'c\"\n\t\u{1b}[31m\u{7f}\u{9b}é🦀\u{202e}";
const ODD_ESCAPED: &str = r#"a\\ b'c"\n\t\u{1b}[31m\u{7f}\u{9b}é🦀\u{202e}"#;

#[test]
fn a_path_on_a_terminal_has_no_commands_to_it() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.at(ODD)).unwrap();
    let left = scratch.at(ODD).join(temporary_name("file", "abcdefg"));
    let leave = || fs::write(&left, "").unwrap();
    leave();
    let shown = on_a_terminal(&scratch, &["sweep", ODD]);
    let escaped = scratch.path.to_str().unwrap().to_owned() + "/" + ODD_ESCAPED + "/";
    assert_eq!(shown, escaped + left.file_name().unwrap().to_str().unwrap() + "\n");
    // Raw where nobody looks on, or where a program has asked for it.
    leave();
    scratch.run(&["sweep", ODD]).success().stdout(line(&left));
    for null in ["-0", "--null"] {
        leave();
        scratch.run(&["sweep", null, ODD]).success().stdout(left.to_str().unwrap().to_owned() + "\0");
    }
    // The names of lock files are harmless; their directory need not be.
    for verb in [&["lock-path", "file"][..], &["prune"]] {
        scratch.run(&["--lock-dir", ODD, "read", "file"]).success();
        let args = [&["--lock-dir", ODD], verb].concat();
        let shown = on_a_terminal(&scratch, &args);
        assert!(shown.contains(ODD_ESCAPED) && shown.lines().count() == 1, "{shown}");
        scratch.run(&["--lock-dir", ODD, "read", "file"]).success();
        let raw = stdout(&scratch.run(&[&args[..], &["-0"]].concat()).success());
        assert!(raw.contains(ODD) && raw.ends_with(".lock\0"), "{raw:?}");
    }
    assert_eq!(on_a_terminal(&scratch, &["sweep", "."]), "");
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: Apple's file systems refuse such names")]
fn a_path_on_a_terminal_is_utf_8_even_if_its_bytes_are_not() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let scratch = Scratch::new();
    let dir = scratch.path.join(OsStr::from_bytes(b"\xff\xfex\x9b\xe2\x82"));
    fs::create_dir(&dir).unwrap();
    let left = temporary_name("file", "abcdefg");
    fs::write(dir.join(&left), "").unwrap();
    symlink(&dir, scratch.at("link")).unwrap();
    let shown = on_a_terminal(&scratch, &["sweep", "link"]);
    assert_eq!(shown, format!("{}/\\xff\\xfex\\x9b\\xe2\\x82/{left}\n", scratch.path.display()));
}
