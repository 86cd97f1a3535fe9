//! `lock-path`, `locks`, and the commands that clean up: `prune` and `sweep`.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::pty::openpty;
use nix::unistd::{User, geteuid};
use serde_json::Value;

use crate::common::{Worker, names, temporary_name, until_it_waits_for_a_lock};
use crate::{DONE, FAILED, MISSING, Scratch, TIMED_OUT, line, stderr, stdout};

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

/// The program and the user of a process of the tests, as the system reports them.
fn who(pid: u32) -> [String; 2] {
    if cfg!(not(target_os = "linux")) {
        return ["-", "-"].map(String::from);
    }
    let program = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim_end().to_owned();
    [program, User::from_uid(geteuid()).unwrap().unwrap().name]
}

/// A table as the tool prints it.
fn table(rows: &[[String; 5]]) -> String {
    let head = ["STATE", "PID", "PROGRAM", "USER", "FILE"].map(String::from);
    let rows: Vec<_> = [head].iter().chain(rows).cloned().collect();
    let width = |n: usize| rows.iter().map(|row| row[n].len()).max().unwrap();
    let line = |[state, pid, program, user, file]: &[String; 5]| {
        let (a, b, c, d) = (width(0), width(1), width(2), width(3));
        format!("{state:a$}  {pid:>b$}  {program:c$}  {user:d$}  {file}\n")
    };
    rows.iter().map(line).collect()
}

fn free(file: &Path) -> [String; 5] {
    ["free", "-", "-", "-", file.to_str().unwrap()].map(String::from)
}

fn taken(state: &str, by: &Worker, file: &Path) -> [String; 5] {
    let [mut program, user] = who(by.pid());
    if state != "waiting" && program == "atomic-file" {
        program += " (sh)";
    }
    [state.into(), by.pid().to_string(), program, user, file.to_str().unwrap().into()]
}

#[test]
fn locks_says_who_holds_what_and_what_is_held_comes_first() {
    let scratch = Scratch::new();
    // By their names, these files would be in another order.
    scratch.run(&["read", "a free one"]).success();
    let (exclusive, shared) = (scratch.hold("exclusive"), scratch.hold_shared("shared"));
    // A lock file of another program, which does not contain the path.
    let foreign = scratch.lock_path("foreign");
    fs::write(&foreign, "").unwrap();
    let rows = [
        taken("exclusive", &exclusive, &scratch.at("exclusive")),
        taken("shared", &shared, &scratch.at("shared")),
        free(&foreign),
        free(&scratch.at("a free one")),
    ];
    scratch.run(&["locks"]).success().stdout(table(&rows)).stderr("");
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: /proc/locks")]
fn locks_says_who_waits() {
    let scratch = Scratch::with("file", "x");
    let mut holder = scratch.hold("file");
    let mut waiters =
        [scratch.start(&["read", "file"]), scratch.start(&["--timeout", "3600", "run", "file", "--", "true"])];
    waiters.iter().for_each(until_it_waits_for_a_lock);
    waiters.sort_by_key(Worker::pid);
    let file = scratch.at("file");
    let held = [taken("exclusive", &holder, &file)];
    let waiting = waiters.each_ref().map(|waiter| taken("waiting", waiter, &file));
    scratch.run(&["locks"]).success().stdout(table(&[&held[..], &waiting].concat()));
    // At the end nobody waits.
    holder.tell("end");
    holder.finish();
    waiters.into_iter().for_each(Worker::finish);
    scratch.run(&["locks"]).success().stdout(table(&[free(&file)]));
}

#[test]
fn locks_of_paths_are_those_of_these_paths_however_they_are_spelled() {
    let scratch = Scratch::new();
    fs::write(scratch.at("held"), "x").unwrap();
    symlink("held", scratch.at("link")).unwrap();
    let holder = scratch.hold("held");
    let _other = scratch.hold("another");
    scratch.run(&["read", "free"]).success();
    let rows = [
        taken("exclusive", &holder, &scratch.at("held")),
        free(&scratch.at("free")),
        free(&scratch.at("missing/file")),
    ];
    let paths = ["missing/file", "free", "link", "./held"];
    scratch.run(&[&["locks"], &paths[..]].concat()).stdout(table(&rows)).stderr("");
    let json: Value =
        serde_json::from_str(&stdout(&scratch.run(&["locks", "--json", "missing/file", "link"]))).unwrap();
    assert_eq!(json[0]["file"].as_str(), scratch.at("held").to_str());
    assert_eq!(json[1]["path"].as_str(), scratch.lock_path("missing/file").to_str());
    assert_eq!(json.as_array().unwrap().len(), 2);
    // Asking for a file does not make it.
    assert!(!scratch.lock_path("missing/file").exists() && !scratch.at("missing").exists());
    // The path is known from the argument, even if the lock file does not contain it.
    fs::write(scratch.lock_path("foreign"), "").unwrap();
    scratch.run(&["locks", "foreign"]).stdout(table(&[free(&scratch.at("foreign"))]));
    scratch.run(&["locks", "held", "."]).code(FAILED).stdout("");
}

/// The same statuses as fuser(1), so that a script can say `if atomic-file locks settings.toml >/dev/null`.
#[test]
fn the_status_of_locks_of_paths_says_whether_one_is_held() {
    let scratch = Scratch::new();
    let mut holder = scratch.hold_shared("held");
    scratch.run(&["read", "free"]).success();
    fs::create_dir(scratch.lock_path("problem")).unwrap();
    for json in [&[][..], &["--json"]] {
        for (paths, status) in [
            (&["held"][..], DONE),
            (&["free", "held", "missing"], DONE),
            (&["free"], MISSING),
            (&["missing"], MISSING),
            (&["free", "missing"], MISSING),
            (&["problem"], FAILED),
            (&["held", "problem"], FAILED),
        ] {
            let assert = scratch.run(&[&["locks"], json, paths].concat()).code(status);
            assert_eq!(stderr(&assert).is_empty(), status != FAILED, "{paths:?}");
        }
    }
    holder.tell("end");
    holder.finish();
    scratch.run(&["locks", "held"]).code(MISSING);
    fs::remove_dir(scratch.lock_path("problem")).unwrap();
    // Without paths the status says nothing.
    scratch.run(&["locks"]).code(DONE);
}

/// The help documents the schema, and programs rely on it. Fields may be added, but none of these may change.
#[test]
fn the_schema_of_json_stays() {
    let scratch = Scratch::with("held", "x");
    let holder = scratch.hold("held");
    let waiter = scratch.start(&["read", "held"]);
    until_it_waits_for_a_lock(&waiter);
    scratch.run(&["read", "free"]).success();
    fs::create_dir(scratch.lock_path("problem")).unwrap();
    let lines = |args: &[&str], status| {
        let json = stdout(&scratch.run(&[&["locks", "--json"], args].concat()).code(status));
        // Each object has a line, and so has each bracket.
        assert_eq!(json.lines().count(), 2 + serde_json::from_str::<Vec<Value>>(&json).unwrap().len());
        let objects = json.lines().filter(|line| line.len() > 1);
        objects.map(|line| line.trim_start().trim_end_matches(',').to_owned()).collect::<Vec<_>>()
    };
    let or_null = |text: &str| if text == "-" { "null".into() } else { format!("\"{text}\"") };
    let process = |of: &Worker| {
        let [program, user] = who(of.pid()).map(|it| or_null(&it));
        format!(r#""pid": {}, "program": {program}, "user": {user}"#, of.pid())
    };
    const NOBODY: &str = r#""pid": null, "program": null, "user": null"#;
    let (waiting, nobody_waits) = match cfg!(target_os = "linux") {
        true => (format!("[{{{}}}]", process(&waiter)), "[]"),
        false => ("null".into(), "null"),
    };
    let of = |name: &str| format!(r#"{{"path": {:?}, "file": {:?}"#, scratch.lock_path(name), scratch.at(name));
    let held = of("held")
        + &format!(
            r#", "held": true, "exclusive": true, {}, "waiters": {waiting}, "intent": null, "problem": null}}"#,
            process(&holder)
        );
    let problem = format!("{} is not a regular file but a directory", scratch.lock_path("problem").display());
    let problem = format!(
        r#", "held": null, "exclusive": null, {NOBODY}, "waiters": null, "intent": null, "problem": {problem:?}}}"#
    );
    let unknown = format!(r#"{{"path": {:?}, "file": null"#, scratch.lock_path("problem"));
    let free = |waiters: &str| {
        format!(
            r#", "held": false, "exclusive": false, {NOBODY}, "waiters": {waiters}, "intent": null, "problem": null}}"#
        )
    };
    let all = [held.clone(), unknown + &problem, of("free") + &free(nobody_waits)];
    assert_eq!(lines(&[], FAILED), all);
    let paths = [held, of("problem") + &problem, of("free") + &free(nobody_waits), of("missing") + &free("[]")];
    assert_eq!(lines(&["missing", "problem", "held", "free"], FAILED), paths);
    // The help names these fields, in this order.
    let help = stdout(&scratch.run(&["--help"]));
    let documented: Vec<_> = help
        .lines()
        .skip_while(|line| *line != "Output of locks --json:")
        .skip(1)
        .take_while(|line| line.starts_with("  ") && line.contains("String") || line.contains(" or null: "))
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    let fields = ["path", "file", "held", "exclusive", "pid", "program", "user", "waiters", "intent", "problem"];
    assert_eq!(documented, fields);
}

#[test]
fn locks_are_one_line_and_json_is_valid_whatever_is_in_the_path() {
    let scratch = Scratch::new();
    let dir = "a\"b\\c\n\t\u{1b}[31m\u{7f}\u{9b}é🦀";
    let args = |verb: &[&'static str]| [&["--lock-dir", dir], verb].concat();
    // A lock file does not contain a path with a newline, so the lock file itself is listed.
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
    scratch.run(&["locks"]).success().stdout(table(&[free(&scratch.at("file"))]));
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
    assert_eq!(states, ["unknown", "unknown", "free", "free"]);
    let json = scratch.run(&["locks", "--json"]).code(FAILED).stderr(failures.clone());
    let json: Value = serde_json::from_str(&stdout(&json)).unwrap();
    assert_eq!((&json[0]["held"], json.as_array().unwrap().len()), (&Value::Null, 4));
    assert_eq!(json[2]["held"], false);

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

/// The output of the tool on a terminal.
fn on_a_terminal(scratch: &Scratch, args: &[&str]) -> String {
    let terminal = openpty(None, None).unwrap();
    let mut tool = scratch.command(args);
    let mut running = tool.stdout(terminal.slave).spawn().unwrap();
    // `tool` has a copy of the terminal, which must be closed for the output to end.
    drop(tool);
    let mut shown = Vec::new();
    let mut master = File::from(terminal.master);
    // At the end Linux reports EIO (pty(7) has HUP only), other systems no error.
    let _ = master.read_to_end(&mut shown);
    assert!(running.wait().unwrap().success());
    String::from_utf8(shown).unwrap().replace("\r\n", "\n")
}

const ODD: &str = "a\\ b'c\"\n\t\u{1b}[31m\u{7f}\u{9b}é🦀\u{202e}";
const ODD_ESCAPED: &str = r#"a\\ b'c"\n\t\u{1b}[31m\u{7f}\u{9b}é🦀\u{202e}"#;

#[test]
fn a_path_on_a_terminal_has_no_control_characters() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.at(ODD)).unwrap();
    let left = scratch.at(ODD).join(temporary_name("file", "abcdefg"));
    let leave = || fs::write(&left, "").unwrap();
    leave();
    let shown = on_a_terminal(&scratch, &["sweep", ODD]);
    let escaped = scratch.path.to_str().unwrap().to_owned() + "/" + ODD_ESCAPED + "/";
    assert_eq!(shown, escaped + left.file_name().unwrap().to_str().unwrap() + "\n");
    // Not escaped, because it is not a terminal, or because a program asked for raw paths.
    leave();
    scratch.run(&["sweep", ODD]).success().stdout(line(&left));
    for null in ["-0", "--null"] {
        leave();
        scratch.run(&["sweep", null, ODD]).success().stdout(left.to_str().unwrap().to_owned() + "\0");
    }
    // The names of lock files have no special characters, but the path of their directory may.
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
