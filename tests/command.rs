//! The output of the command line tool: help, manual page, tables, errors and progress bars.
//!
//! Most of it is in `tests/command`, as it looks in a terminal. `TRYCMD=overwrite cargo test --features cli --test
//! command` writes it anew.

mod common;

use std::env;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use nix::pty::{Winsize, openpty};

use common::{no_program, test, test_if};

const TOOL: &str = env!("CARGO_BIN_EXE_atomic-file");

fn main() -> ExitCode {
    let bash = no_program("bash", &["--version"], "needs bash");
    let mandoc = no_program("mandoc", &["-l", "/dev/null"], "needs mandoc");
    let tests = vec![
        test("it_prints_what_it_printed_before", it_prints_what_it_printed_before),
        test("every_shell_gets_completions", every_shell_gets_completions),
        test_if(bash, "bash_completes_verbs_options_and_values", bash_completes_verbs_options_and_values),
        test_if(mandoc, "mandoc_finds_nothing_wrong_with_the_manual_page", mandoc_finds_nothing_wrong),
        test("the_manual_page_says_all_that_the_help_says", the_manual_page_says_all_that_the_help_says),
        test("help_and_wrong_usage_have_colours_on_a_terminal_only", colours_are_for_terminals_only),
        test("a_large_file_has_a_bar_on_a_terminal_and_leaves_nothing_there", a_large_file_has_a_bar),
        test("there_is_no_bar_where_nobody_would_see_it", there_is_no_bar_where_nobody_would_see_it),
    ];
    common::main(tests, &[])
}

fn tool(args: &[&str]) -> Command {
    let mut tool = Command::new(TOOL);
    tool.args(args).env("TERM", "xterm");
    // Independent of the settings of the user who runs the tests.
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        tool.env_remove(name);
    }
    tool
}

/// The output of a command that succeeds.
#[track_caller]
fn stdout(command: &mut Command) -> String {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn it_prints_what_it_printed_before() {
    let path = env::var("PATH").unwrap_or_default();
    let cases = trycmd::TestCases::new();
    cases.case("tests/command/*.trycmd").register_bin("atomic-file", Path::new(TOOL));
    // So that a CMD can be the tool itself.
    cases.env("PATH", format!("{}:{path}", Path::new(TOOL).parent().unwrap().display()));
    // The width, because no stream is a terminal.
    cases.env("COLUMNS", "100").env("NO_COLOR", "1");
    cases.insert_var("[VERSION]", env!("CARGO_PKG_VERSION")).unwrap();
    cases.timeout(Duration::from_secs(60)).run();
}

fn every_shell_gets_completions() {
    for (shell, first) in [
        ("bash", "_atomic__file() {"),
        ("elvish", ""),
        ("fish", "# Print an optspec for argparse"),
        ("powershell", ""),
        ("zsh", "#compdef atomic-file"),
    ] {
        let script = stdout(&mut tool(&["completions", shell]));
        assert!(script.starts_with(first), "{shell}: {script}");
        assert!(script.contains("lock-path"), "{shell}");
    }
}

fn bash_completes_verbs_options_and_values() {
    for (words, expected) in [
        ("atomic-file loc", "lock-path locks"),
        ("atomic-file locks --js", "--json"),
        ("atomic-file --durability o", "ordered"),
        ("atomic-file completions z", "zsh"),
    ] {
        let script = format!(
            "eval \"$(\"$0\" completions bash)\"; \
             f=$(complete -p atomic-file) && f=${{f##*-F }} && f=${{f%% *}}; \
             COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             $f atomic-file \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; \
             echo \"${{COMPREPLY[*]}}\""
        );
        assert_eq!(stdout(Command::new("bash").args(["-c", &script, TOOL])).trim_end(), expected, "{words}");
    }
}

// The manual page

fn mandoc_finds_nothing_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("atomic-file.1");
    fs::write(&page, stdout(&mut tool(&["man"]))).unwrap();
    let lint = Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).arg(&page).output().unwrap();
    let said = String::from_utf8_lossy(&lint.stdout);
    assert!(lint.status.success(), "{said}");
}

fn the_manual_page_says_all_that_the_help_says() {
    // As one line, without the marks for fonts, hyphens and quotes, and without indentation.
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut page = stdout(&mut tool(&["man"])).replace("\\*(Aq", "'");
    for mark in ["\\fB", "\\fI", "\\fR", "\\"] {
        page = page.replace(mark, "");
    }
    let page = words(&page);
    let help = stdout(&mut tool(&["--help"]));
    let (_, sections) = help.split_once("\nExamples:\n").expect("the sections at the end of the help");
    for line in sections.lines().filter(|line| line.starts_with(' ')) {
        // A column of terms, or one term in each line.
        let (term, what) = line.trim().split_once("  ").unwrap_or((line.trim(), ""));
        for part in [term, what] {
            assert!(page.contains(&words(part)), "{part:?} is not in {page}");
        }
    }
}

// Terminals

/// Runs the tool with a terminal as its standard error. Returns the status and the output on the terminal.
fn on_a_terminal(command: &mut Command) -> (ExitStatus, String) {
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(&size, None).unwrap();
    command.stderr(terminal.slave);
    let mut child = command.spawn().unwrap();
    // `command` has a copy of the other end. As long as it is open, the output does not end.
    command.stderr(Stdio::null());
    let mut shown = Vec::new();
    let mut piece = [0; 4096];
    let mut terminal = File::from(terminal.master);
    // At the end Linux reports EIO.
    while let Ok(count @ 1..) = terminal.read(&mut piece) {
        shown.extend_from_slice(&piece[..count]);
    }
    (child.wait().unwrap(), String::from_utf8(shown).unwrap())
}

/// The line as it stays on the screen, if only carriage returns and erased lines move the cursor.
fn left_on_the_screen(shown: &str) -> &str {
    shown.rsplit("\x1b[2K").next().unwrap_or_default().trim_matches('\r')
}

const LARGE: u64 = 17 << 20;

/// A directory with a large file in it.
fn scratch() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    File::create(dir.path().join("large")).unwrap().set_len(LARGE).unwrap();
    dir
}

fn in_dir(dir: &tempfile::TempDir, args: &[&str]) -> Command {
    let mut tool = tool(&[&["--durability", "none"], args].concat());
    tool.current_dir(dir.path()).stdin(Stdio::null()).stdout(Stdio::null());
    tool
}

fn a_large_file_has_a_bar() {
    let dir = scratch();
    let large = || File::open(dir.path().join("large")).unwrap();
    let (status, shown) = on_a_terminal(in_dir(&dir, &["write", "copy"]).stdin(large()));
    assert!(status.success());
    assert!(shown.contains("% of 17.00 MiB") && left_on_the_screen(&shown).is_empty(), "{shown:?}");
    assert_eq!(fs::metadata(dir.path().join("copy")).unwrap().len(), LARGE);

    // A pipe has no known length.
    let mut sh = Command::new("sh");
    sh.args(["-c", "cat large | \"$0\" --durability none write copy", TOOL]).current_dir(dir.path());
    let (status, shown) = on_a_terminal(sh.env("TERM", "xterm"));
    assert!(status.success());
    assert!(shown.contains(" MiB, ") && !shown.contains('%') && left_on_the_screen(&shown).is_empty(), "{shown:?}");

    // To a pipe or to a file.
    let copy = File::create(dir.path().join("out")).unwrap();
    let (status, shown) = on_a_terminal(in_dir(&dir, &["read", "large"]).stdout(copy));
    assert!(status.success());
    assert!(shown.contains("% of 17.00 MiB") && left_on_the_screen(&shown).is_empty(), "{shown:?}");
    assert_eq!(fs::metadata(dir.path().join("out")).unwrap().len(), LARGE);
}

fn there_is_no_bar_where_nobody_would_see_it() {
    let dir = scratch();
    fs::write(dir.path().join("small"), "x").unwrap();
    let open = |name| File::open(dir.path().join(name)).unwrap();
    assert_eq!(on_a_terminal(&mut in_dir(&dir, &["read", "small"])).1, "");
    assert_eq!(on_a_terminal(in_dir(&dir, &["write", "copy"]).stdin(open("small"))).1, "");
    for mut command in [in_dir(&dir, &["read", "large"]), in_dir(&dir, &["write", "copy"])] {
        let output = command.stdin(open("large")).stdout(Stdio::null()).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    }
    // The contents go to the same terminal as the bar.
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(&size, None).unwrap();
    let mut read = in_dir(&dir, &["read", "large"]);
    read.stdout(terminal.slave);
    let reader = std::thread::spawn(move || {
        let mut terminal = File::from(terminal.master);
        let mut piece = [0; 1 << 16];
        while let Ok(1..) = terminal.read(&mut piece) {}
    });
    assert_eq!(on_a_terminal(&mut read).1, "");
    drop(read);
    reader.join().unwrap();
}

fn colours_are_for_terminals_only() {
    const WRONG: [&str; 3] = ["--timeout", "soon", "locks"];
    assert!(on_a_terminal(&mut tool(&WRONG)).1.contains("\x1b["));
    assert!(!on_a_terminal(tool(&WRONG).env("NO_COLOR", "1")).1.contains('\x1b'));
    assert!(!tool(&WRONG).output().unwrap().stderr.contains(&b'\x1b'));
    assert!(!stdout(&mut tool(&["--help"])).contains('\x1b'));
}
