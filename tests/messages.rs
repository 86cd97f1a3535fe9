//! Every error message, as the user reads it: `tests/messages.txt`. `MESSAGES=overwrite cargo test --all-features
//! --test messages` writes the list anew. Read the difference as somebody who has to act on it.
#![cfg(target_os = "linux")]

mod common;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use atomic_file_adapter::fault::{Action, Call, Syscall, inject};
use atomic_file_adapter::{AtomicFileAdapter, Error, Result, Step};

use common::temporary_name;

const TOOL: &str = env!("CARGO_BIN_EXE_atomic-file");

/// A heading, and the messages below it.
type List = BTreeMap<String, BTreeSet<String>>;

struct Scratch {
    dir: PathBuf,
    _above: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().canonicalize().unwrap().join("srv");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("a.toml"), "old").unwrap();
        fs::write(dir.join("b.toml"), "old").unwrap();
        Scratch { dir, _above: above }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn adapter(&self) -> AtomicFileAdapter {
        AtomicFileAdapter::with_lock_dir(self.at("locks")).unwrap()
    }

    /// The message without the parts that differ in each run.
    fn told(&self, text: &str) -> String {
        let text = text.replace(self.dir.to_str().unwrap(), "/srv");
        // Messages about one file are the same for the others.
        let text = text.replace("/srv/b.toml", "/srv/a.toml").replace("/srv/new/c.toml", "/srv/a.toml");
        let number = std::process::id().to_string();
        let text = text.replace(&format!("process {number}"), "process 4711");
        let text = text.replace(&format!("belongs to user {} ", nix::unistd::geteuid()), "belongs to user 0 ");
        let mut told = String::new();
        for word in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
            let bare = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            let is_hash = bare.len() == 16 && bare.bytes().all(|c| c.is_ascii_hexdigit());
            let is_random = bare.len() == 10
                && bare.bytes().all(|c| matches!(c, b'a'..=b'z' | b'2'..=b'7'))
                && ["tmp", "intent"].iter().any(|end| text.contains(&format!("{bare}.{end}")));
            let stands_for = if is_hash {
                "0123456789abcdef"
            } else if is_random {
                "abcdefghij"
            } else {
                bare
            };
            told += &word.replacen(bare, stands_for, 1);
        }
        told
    }

    fn note(&self, list: &mut List, error: &Error) {
        let heading = match error {
            Error::Io { step, .. } => format!("Io, {step:?}"),
            error => format!("{error:?}").split([' ', '(']).next().unwrap().to_owned(),
        };
        // These steps only read, so no real call fails with these errors there. `errors_of` knows calls, not steps.
        if let Error::Io { step: Step::Open | Step::Resolve | Step::ListLocks | Step::SyncLocks, source, .. } = error {
            if matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EROFS)) {
                return;
            }
        }
        let messages = list.entry(heading).or_default();
        // Its last part is an error that is in the list itself.
        if !matches!(error, Error::Batch { .. } | Error::Partial { .. } | Error::Unfinished { .. })
            || messages.is_empty()
        {
            messages.insert(self.told(&error.to_string()));
        }
    }
}

type Operation = fn(&Scratch) -> Result<()>;

const OPERATIONS: [Operation; 10] = [
    |scratch| scratch.adapter().read_with_lock(scratch.at("a.toml")).map(drop),
    |scratch| scratch.adapter().write_atomic(scratch.at("a.toml"), "new"),
    |scratch| scratch.adapter().write_atomic(scratch.at("new/c.toml"), "new"),
    |scratch| scratch.adapter().delete_with_lock(scratch.at("a.toml")).map(drop),
    |scratch| {
        let mut batch = scratch.adapter().batch();
        batch.write(scratch.at("a.toml"), "new").delete(scratch.at("b.toml")).commit()
    },
    |scratch| {
        let paths = [scratch.at("a.toml"), scratch.at("b.toml")];
        scratch.adapter().update_many(paths, |_| vec![Some(b"new".into()), None])
    },
    |scratch| {
        drop(scratch.adapter().file(scratch.at("a.toml"))?.lock()?);
        scratch.adapter().locks().map(drop)
    },
    |scratch| {
        drop(scratch.adapter().file(scratch.at("a.toml"))?.lock()?);
        scratch.adapter().prune().map(drop)
    },
    |scratch| {
        fs::write(scratch.at(&temporary_name("a.toml", "abcdefg")), "").unwrap();
        scratch.adapter().sweep(&scratch.dir).map(drop)
    },
    |scratch| {
        let guard = scratch.adapter().file(scratch.at("a.toml"))?.lock()?;
        guard.set_mode(0o600).map(drop)
    },
];

/// The errors that a system call may report.
fn errors_of(syscall: Syscall) -> &'static [i32] {
    match syscall {
        Syscall::Openat | Syscall::Openat2 => &[libc::EACCES, libc::EROFS, libc::ENOSPC, libc::EMFILE],
        Syscall::Mkdirat => &[libc::EACCES, libc::EROFS, libc::ENOSPC],
        Syscall::Write | Syscall::Pwrite => &[libc::ENOSPC, libc::EFBIG, libc::EIO],
        Syscall::Renameat | Syscall::Unlinkat => &[libc::EACCES, libc::EBUSY],
        Syscall::FcntlSetlk | Syscall::FcntlSetlkw => &[libc::ENOLCK],
        Syscall::Fstatat => &[libc::EACCES, libc::EIO],
        Syscall::Fchown | Syscall::Fchmod | Syscall::Fsetxattr => &[libc::EPERM, libc::EIO],
        _ => &[libc::EIO],
    }
}

/// Each call of each operation fails once with each of its errors.
fn note_failed_calls(list: &mut List) {
    const CALLS: usize = 200;
    for operation in OPERATIONS {
        for number in 0..CALLS {
            // How many errors the failing call has. 0: there is no such call.
            let ways = Rc::new(Cell::new(0));
            let mut way = 0;
            loop {
                let (scratch, known) = (Scratch::new(), ways.clone());
                let fail = move |call: &Call<'_>| {
                    if call.number != number {
                        return Action::Proceed;
                    }
                    let errors = errors_of(call.syscall);
                    known.set(errors.len());
                    errors.get(way).map_or(Action::Proceed, |error| Action::Fail(*error))
                };
                if let Err(error) = inject(fail, || operation(&scratch)).0 {
                    scratch.note(list, &error);
                }
                way += 1;
                if way >= ways.get() {
                    break;
                }
            }
            if ways.get() == 0 {
                break;
            }
        }
    }
}

/// The other errors, one by one. `LockLost` is missing, because there is no network file system here; the network tests
/// see it. `Forked` is missing, because this test does not fork.
fn note_the_others(list: &mut List) {
    let scratch = Scratch::new();
    let (adapter, a, b) = (scratch.adapter(), scratch.at("a.toml"), scratch.at("b.toml"));
    let file = adapter.file(&a).unwrap();
    let guard = file.lock().unwrap();
    let mut note = |error: Error| scratch.note(list, &error);
    note(adapter.read_with_lock(&a).unwrap_err());
    {
        let elsewhere = |ask: &(dyn Fn() -> Error + Sync)| thread::scope(|scope| scope.spawn(ask).join().unwrap());
        note(elsewhere(&|| file.try_lock().unwrap_err()));
        note(elsewhere(&|| file.lock_timeout(Duration::ZERO).unwrap_err()));
        note(elsewhere(&|| file.lock_timeout(Duration::from_millis(2)).unwrap_err()));
    }
    drop(guard);
    let batch = [&a, &b];
    note(adapter.update_many(batch, |_| vec![Some(b"new".into())]).unwrap_err());
    fs::write(&a, b"\xff").unwrap();
    note(adapter.read_to_string_with_lock(&a).unwrap_err());
    note(adapter.read_with_lock(&scratch.dir).unwrap_err());
    nix::unistd::mkfifo(&scratch.at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    note(adapter.read_with_lock(scratch.at("fifo")).unwrap_err());
    for name in ["", "dir/", "zero\0byte", "missing/../name"] {
        let path = if name.is_empty() { PathBuf::new() } else { scratch.at(name) };
        note(adapter.write_atomic(path, "").unwrap_err());
    }
    note(adapter.write_atomic(adapter.lock_path(&b).unwrap(), "").unwrap_err());
    note(adapter.give_up(&b).unwrap_err());
    symlink("b.toml", scratch.at("link")).unwrap();
    let settings = || AtomicFileAdapter::builder().lock_dir(scratch.at("locks"));
    note(settings().follow_links(false).build().unwrap().read_with_lock(scratch.at("link")).unwrap_err());
    let below = settings().lock_root(scratch.at("root")).build().unwrap();
    note(below.read_with_lock(&b).unwrap_err());
    note(settings().lock_dir("").build().unwrap_err());
    note(settings().lock_root("").build().unwrap_err());
}

/// The messages of the command itself. Messages of the library come after `atomic-file: `, too.
fn note_the_command(list: &mut List) {
    let scratch = Scratch::new();
    fs::write(scratch.at("no program"), "").unwrap();
    let run = r#"exec 2>&1; "$0" --lock-dir locks run a.toml -- "$0" --lock-dir locks"#;
    for script in [
        r#""$0" read a.toml >>a.toml"#,
        r#""$0" read a.toml >/dev/full"#,
        r#""$0" write a.toml <&-"#,
        r#""$0" write a.toml <."#,
        r#""$0" update a.toml -- missing"#,
        r#""$0" run a.toml -- './no program'"#,
        r#"TMPDIR=/missing "$0" edit a.toml -- true"#,
        r#""$0" edit a.toml -- sh -c 'rm "$1" && mkdir "$1"' sh"#,
        &format!("{run} --timeout 0 read a.toml"),
        &format!("{run} --timeout 0.002 read a.toml"),
    ] {
        // `edit` makes its copies there.
        let mut shell = Command::new("sh");
        shell.args(["-c", script, TOOL]).current_dir(&scratch.dir).env("TMPDIR", "/tmp");
        let output = shell.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(said.starts_with("atomic-file: ") && said.lines().count() == 1, "{script}: {said}");
        let said = scratch.told(said.trim_end());
        // The pid, and the random name of a directory.
        let said = match said.split_once("process ") {
            Some((before, after)) => {
                format!("{before}process 4711{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
            }
            None => said,
        };
        let said = match said.split_once("/atomic-file.") {
            Some((before, after)) => format!("{before}/atomic-file.abcdef{}", &after[6..]),
            None => said,
        };
        list.entry("The command".into()).or_default().insert(said);
    }
}

#[test]
fn every_error_says_what_to_do() {
    common::usual_umask();
    let mut list = List::new();
    note_failed_calls(&mut list);
    note_the_others(&mut list);
    note_the_command(&mut list);
    let mut text = String::from("What people read when something fails. tests/messages.rs makes this list.\n");
    for (heading, messages) in &list {
        text += &format!("\n# {heading}\n\n");
        messages.iter().for_each(|message| text += &format!("{message}\n"));
    }
    let known = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/messages.txt");
    if std::env::var_os("MESSAGES").is_some_and(|it| it == "overwrite") {
        fs::write(&known, &text).unwrap();
    }
    let known = fs::read_to_string(&known).unwrap();
    for (known, now) in known.lines().zip(text.lines()) {
        assert_eq!(known, now);
    }
    assert_eq!(known.lines().count(), text.lines().count());
}
