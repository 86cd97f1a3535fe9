//! The messages of a call that waits for a lock.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};

use crate::common::{Worker, until_it_waits_for_a_lock};
use crate::{DONE, Scratch, TIMED_OUT, TOOL, as_from_a_terminal};

/// A program whose standard error is a terminal.
struct OnATerminal {
    child: Child,
    terminal: File,
    shown: String,
}

impl OnATerminal {
    fn start(command: &mut Command) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let terminal = openpty(&size, None).unwrap();
        command.env("TERM", command.get_envs().find(|(name, _)| *name == "TERM").map_or("xterm", |_| "dumb"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(terminal.slave).spawn().unwrap();
        // `command` has a copy of the other end. As long as it is open, the output does not end.
        command.stderr(Stdio::null());
        OnATerminal { child, terminal: File::from(terminal.master), shown: String::new() }
    }

    /// False: the output has ended.
    fn read(&mut self) -> bool {
        let mut piece = [0; 4096];
        match self.terminal.read(&mut piece) {
            Ok(0) => return false,
            Ok(count) => self.shown += std::str::from_utf8(&piece[..count]).unwrap(),
            // At the end Linux reports EIO.
            Err(_) => return false,
        }
        true
    }

    #[track_caller]
    fn until_it_says(&mut self, text: &str) {
        while !self.shown.contains(text) {
            assert!(self.read(), "{text:?} is not in {:?}", self.shown);
        }
    }

    /// Waits for its end. Returns its status and everything that the terminal got.
    fn end(mut self) -> (ExitStatus, String) {
        while self.read() {}
        (self.child.wait().unwrap(), self.shown)
    }
}

/// The last line as it stays on the screen, and the output before it.
fn left_on_the_screen(shown: &str) -> &str {
    shown.rsplit("\x1b[2K").next().unwrap_or_default().trim_start_matches('\r')
}

/// The line. If the system does not tell the program's name, the rest is the same.
fn line(file: &str, holder: &Worker) -> String {
    let program = if cfg!(target_os = "linux") { " (atomic-file, running sh)" } else { "" };
    format!("waiting for {file}: process {}{program} holds it", holder.pid())
}

#[test]
fn every_verb_that_waits_says_so_on_a_terminal_and_erases_it() {
    let scratch = Scratch::with("file", "x");
    let mut holder = scratch.hold("file");
    let line = line("file", &holder);
    let verbs = [
        &["read", "file"][..],
        &["write", "file"],
        &["update", "file", "--", "true"],
        &["delete", "file"],
        &["run", "file", "--", "true"],
        &["run", "--shared", "a", "file", "--", "true"],
        &["edit", "b", "file", "--", "true"],
        &["--timeout", "3600", "run", "file", "--", "true"],
    ];
    let mut tools = verbs.map(|verb| (verb, OnATerminal::start(&mut scratch.command(verb))));
    tools.iter_mut().for_each(|(_, tool)| tool.until_it_says(&line));
    holder.tell("end");
    holder.finish();
    for (verb, tool) in tools {
        let (status, shown) = tool.end();
        // Another of these calls may have removed the file.
        assert!(status.success() || verb[0] == "delete", "{verb:?}: {status}");
        assert_eq!(left_on_the_screen(&shown), "", "{verb:?}: {shown:?}");
        assert!(!shown.contains('\n'), "{verb:?}: {shown:?}");
    }
}

#[test]
fn the_line_names_the_file_that_it_waits_for_now() {
    let scratch = Scratch::with("one", "x");
    let mut holders = ["one", "two"].map(|file| (file, scratch.hold(file)));
    let lines = holders.each_ref().map(|(file, holder)| line(file, holder));
    let mut tool = OnATerminal::start(&mut scratch.command(&["run", "one", "two", "--", "true"]));
    // Which of them is taken first depends on the names of their lock files.
    while !lines.iter().any(|line| tool.shown.contains(line)) {
        assert!(tool.read(), "{:?}", tool.shown);
    }
    let first = usize::from(tool.shown.contains(&lines[1]));
    let [one, two] = &mut holders;
    let (first_holder, second_holder) = if first == 0 { (one, two) } else { (two, one) };
    first_holder.1.tell("end");
    tool.until_it_says(&lines[1 - first]);
    second_holder.1.tell("end");
    let (status, shown) = tool.end();
    assert!(status.success());
    assert_eq!(left_on_the_screen(&shown), "", "{shown:?}");
    assert!(!shown.contains('\n'), "{shown:?}");
}

#[test]
fn the_line_makes_way_for_the_message_of_a_timeout() {
    let scratch = Scratch::with("file", "x");
    let holder = scratch.hold("file");
    let line = line("file", &holder);
    // A slow machine may reach the end before the tool prints anything.
    for timeout in ["1.2", "2", "4", "16"] {
        let tool = OnATerminal::start(&mut scratch.command(&["--timeout", timeout, "read", "file"]));
        let (status, shown) = tool.end();
        assert_eq!(status.code(), Some(TIMED_OUT));
        let left = left_on_the_screen(&shown);
        assert!(left.starts_with("atomic-file: gave up") && left.lines().count() == 1, "{shown:?}");
        if shown.contains(&line) {
            return;
        }
    }
    panic!("it never said what it waited for");
}

#[test]
fn a_terminal_on_which_nothing_can_be_erased_gets_a_line_that_stays() {
    let scratch = Scratch::with("file", "x");
    let mut holder = scratch.hold("file");
    let line = format!("atomic-file: {}\r\n", line("file", &holder));
    let mut tool = OnATerminal::start(scratch.command(&["read", "file"]).env("TERM", "dumb"));
    tool.until_it_says(&line);
    holder.tell("end");
    let (status, shown) = tool.end();
    assert_eq!((status.code(), shown), (Some(DONE), line));
}

/// Starts the tool with `--verbose`, and waits for its line. A call that waited before has waited for long enough, too.
fn until_somebody_says_so(scratch: &Scratch, file: &str, line: &str) -> Child {
    let mut verbose = scratch.command(&["--verbose", "read", file]);
    let mut verbose = verbose.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = vec![0; line.len()];
    verbose.stderr.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(String::from_utf8(said).unwrap(), line);
    verbose
}

#[test]
fn without_a_terminal_it_says_so_if_it_is_asked_to() {
    let scratch = Scratch::with("file", "x");
    let mut holder = scratch.hold("file");
    let mut quiet = scratch.command(&["read", "file"]);
    let quiet = Worker::spawn(quiet.stderr(File::create(scratch.at("quiet")).unwrap()));
    // The process has a terminal, but nohup(1) detaches it.
    let mut nohup = Command::new("nohup");
    nohup.args([TOOL, "run", "file", "--", "true"]).current_dir(&scratch.path);
    as_from_a_terminal(&mut nohup);
    let nohup = OnATerminal::start(&mut nohup);
    until_it_waits_for_a_lock(&quiet);
    let line = format!("atomic-file: {}\n", line("file", &holder));
    let mut verbose = until_somebody_says_so(&scratch, "file", &line);
    holder.tell("end");
    holder.finish();
    let mut rest = String::new();
    verbose.stderr.as_mut().unwrap().read_to_string(&mut rest).unwrap();
    assert!(rest.is_empty() && verbose.wait().unwrap().success(), "{rest}");
    quiet.finish();
    assert_eq!(scratch.contents("quiet"), b"");
    let mut nohup = nohup;
    let mut output = String::new();
    nohup.child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    let (status, shown) = nohup.end();
    assert!(status.success());
    assert!(!shown.contains("waiting") && !output.contains("waiting"), "{shown:?} {output:?}");
}

#[test]
fn a_file_elsewhere_has_its_whole_path_and_no_control_characters() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.at("here")).unwrap();
    symlink(TOOL, scratch.at("o\nd\u{1b}d")).unwrap();
    let mut command = Command::new(scratch.at("o\nd\u{1b}d"));
    command.current_dir(&scratch.path).args(["run", "fi\u{1b}le", "--", "sh", "-c", crate::HOLD]);
    as_from_a_terminal(&mut command);
    let mut holder = Worker::spawn(&mut command);
    holder.expect("held");
    let program = if cfg!(target_os = "linux") { r" (o\nd\u{1b}d)" } else { "" };
    let file = format!("{}/fi\\u{{1b}}le", scratch.path.display());
    let line = format!("atomic-file: waiting for {file}: process {}{program} holds it\n", holder.pid());
    let mut command = scratch.command(&["--lock-dir", "../.jerry/local/locks", "-v", "read", "../fi\u{1b}le"]);
    let mut tool = command.current_dir(scratch.at("here")).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = vec![0; line.len()];
    tool.stderr.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(String::from_utf8(said).unwrap(), line);
    holder.tell("end");
    assert!(tool.wait().unwrap().success());
}

/// If a wait is shorter than a second, the tool prints nothing. The clock shows how long the wait was at most: from
/// before its start until after its end.
#[test]
fn a_short_wait_is_not_worth_a_word() {
    const ATTEMPTS: usize = 20;
    let scratch = Scratch::with("file", "x");
    for _ in 0..ATTEMPTS {
        let mut holder = scratch.hold("file");
        let begin = Instant::now();
        let mut command = scratch.command(&["--verbose", "read", "file"]);
        let tool = Worker::spawn(command.stderr(File::create(scratch.at("said")).unwrap()));
        until_it_waits_for_a_lock(&tool);
        holder.tell("end");
        tool.finish();
        if begin.elapsed() < Duration::from_secs(1) {
            assert_eq!(scratch.contents("said"), b"");
            return;
        }
    }
    eprintln!("no wait was shorter than a second: nothing was seen");
}
