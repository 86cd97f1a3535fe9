//! A process on one of the two sides. Each line tells it a verb, and it answers with the result.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use atomic_file_adapter::fault::{Action, Call, Syscall, inject};
use atomic_file_adapter::{AtomicFile, AtomicFileAdapter, Error, ReadGuard, Result, WriteGuard};

use crate::common::{Worker, dies_with_us, hear, tell};
use crate::site::Side;

/// The command line tool, if it was built.
const TOOL: Option<&str> = option_env!("CARGO_BIN_EXE_atomic-file");

/// How a file is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Handle,
    Path,
    Command,
}

impl How {
    fn word(self) -> &'static str {
        match self {
            How::Handle => "handle",
            How::Path => "path",
            How::Command => "command",
        }
    }
}

/// The step that a process leaves out, by fault injection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Without {
    Nothing,
    /// The steps that are made only on NFS.
    Remedy,
    /// The kernel's locks: every request is granted.
    Locks,
}

impl Without {
    const ALL: [(&str, Without); 3] =
        [("nothing", Without::Nothing), ("remedy", Without::Remedy), ("locks", Without::Locks)];

    fn calls(self) -> &'static [Syscall] {
        match self {
            Without::Nothing => &[],
            Without::Remedy => &[Syscall::Statx, Syscall::Pread],
            Without::Locks => &[Syscall::FcntlSetlk, Syscall::FcntlSetlkw],
        }
    }
}

/// A process on one of the two sides.
pub struct Process {
    worker: Worker,
    dir: PathBuf,
}

impl Process {
    pub fn start(side: &Side, locks: &Path, without: Without) -> Self {
        let exe = env::current_exe().unwrap();
        let mut command = match side.client {
            None => Command::new(exe),
            Some(client) => {
                let mut command = Command::new("nsenter");
                command.args(["--mount", "--uts", "--net", "--target", &client.to_string()]).arg(exe);
                command
            }
        };
        let (without, _) = Without::ALL.iter().find(|(_, it)| *it == without).unwrap();
        command.arg(side.dir.join(locks)).arg(without).args(&side.root);
        let worker = Worker::spawn(command.env("ATOMIC_FILE_TEST_WORKER", "process"));
        Process { worker, dir: side.dir.clone() }
    }

    /// Tells it to do something with a path in the directory. Does not wait.
    pub fn begin(&mut self, how: How, verb: &str, path: &str, text: &str) {
        let path = self.dir.join(path);
        // The dot, because spaces at the end of a line are lost.
        self.worker.tell(&format!("{}\t{verb}\t{}\t{text}\t.", how.word(), path.display()));
    }

    /// Waits for the result.
    pub fn end(&mut self) -> String {
        let said = self.worker.hear();
        assert!(!said.is_empty(), "the process has ended");
        said
    }

    pub fn does(&mut self, how: How, verb: &str, path: &str, text: &str) -> String {
        self.begin(how, verb, path, text);
        self.end()
    }

    /// The same for a verb that can be done in one way only.
    pub fn do_it(&mut self, verb: &str, path: &str, text: &str) -> String {
        self.does(How::Handle, verb, path, text)
    }

    /// Kills it, like a crash.
    pub fn kill(&mut self) {
        self.worker.kill();
    }

    /// Returns when it is in F_SETLKW. On NFS and GlusterFS the kernel does not list such waits, because the client
    /// waits for the server. The limit is for a wait that would never come: a virtual machine may stand still for long.
    pub fn until_it_waits_for_a_lock(&self) {
        let end = Instant::now() + Duration::from_secs(600);
        let file = format!("/proc/{}/syscall", self.worker.pid());
        let number = libc::SYS_fcntl.to_string();
        // The number of the call, the descriptor, and the operation (proc_pid_syscall(5)).
        let waits = |call: String| {
            let mut words = call.split_whitespace();
            words.next() == Some(&number) && words.nth(1) == Some("0x7")
        };
        while !fs::read_to_string(&file).is_ok_and(waits) {
            assert!(Instant::now() < end, "it does not wait for a lock");
            thread::yield_now();
        }
    }
}

/// The state of such a process.
struct State {
    adapter: AtomicFileAdapter,
    /// The same, but it does not wait for locks.
    impatient: AtomicFileAdapter,
    files: HashMap<String, AtomicFile>,
    guards: HashMap<String, WriteGuard>,
    shared: Vec<ReadGuard>,
    root: Option<PathBuf>,
}

pub fn run(args: &[String]) {
    let [lock_dir, without, root @ ..] = args else { panic!("{args:?}") };
    let root = root.first().map(PathBuf::from);
    let mut builder = AtomicFileAdapter::builder().lock_dir(lock_dir);
    if let Some(root) = &root {
        builder = builder.lock_root(root);
    }
    let (_, without) = Without::ALL.iter().find(|(name, _)| name == without).unwrap();
    let impatient = builder.clone().lock_timeout(Duration::ZERO).build().unwrap();
    let (adapter, files, guards) = (builder.build().unwrap(), HashMap::new(), HashMap::new());
    let mut state = State { adapter, impatient, files, guards, shared: Vec::new(), root };
    loop {
        let line = hear();
        let words: Vec<&str> = line.split('\t').collect();
        let [how, verb, path, text, _] = words[..] else { return };
        let leave_out =
            |call: &Call<'_>| if without.calls().contains(&call.syscall) { Action::Skip } else { Action::Proceed };
        let done = match without {
            Without::Nothing => state.do_it(how, verb, path, text),
            _ => inject(leave_out, || state.do_it(how, verb, path, text)).0,
        };
        tell(&done.unwrap_or_else(|error| said(&error)));
    }
}

fn said(error: &Error) -> String {
    match error {
        Error::WouldBlock { .. } | Error::Timeout { .. } => "taken".to_owned(),
        error => format!("{error:?}").replace('\n', " "),
    }
}

fn text_of(contents: Option<Vec<u8>>) -> String {
    contents.map_or("none".to_owned(), |contents| format!("={}", String::from_utf8_lossy(&contents)))
}

fn number_of(contents: Option<&[u8]>) -> u64 {
    contents.map_or(0, |old| String::from_utf8_lossy(old).trim().parse().unwrap())
}

impl State {
    fn file(&mut self, path: &str) -> Result<AtomicFile> {
        if !self.files.contains_key(path) {
            self.files.insert(path.to_owned(), self.adapter.file(path)?);
        }
        Ok(self.files[path].clone())
    }

    fn do_it(&mut self, how: &str, verb: &str, path: &str, text: &str) -> Result<String> {
        let done = || "done".to_owned();
        let append = |old: Option<&[u8]>| [old.unwrap_or_default(), text.as_bytes()].concat();
        let count = |old: Option<&[u8]>| (number_of(old) + 1).to_string().into_bytes();
        if how == "command" {
            return Ok(self.command(verb, path, text));
        }
        Ok(match (how, verb) {
            ("handle", "read") => text_of(self.file(path)?.read()?),
            ("handle", "write") => self.file(path)?.write(text).map(|()| done())?,
            ("handle", "append") => self.file(path)?.update(append).map(|()| done())?,
            ("handle", "delete") => self.file(path)?.delete().map(|was| was.to_string())?,
            ("path", "read") => text_of(self.adapter.read_with_lock(path)?),
            ("path", "write") => self.adapter.write_atomic(path, text).map(|()| done())?,
            ("path", "append") => self.adapter.update(path, append).map(|()| done())?,
            ("path", "delete") => self.adapter.delete_with_lock(path).map(|was| was.to_string())?,
            ("handle", "count") => {
                let file = self.file(path)?;
                (0..text.parse::<u32>().unwrap()).try_for_each(|_| file.update(count)).map(|()| done())?
            }
            ("path", "count") => {
                (0..text.parse::<u32>().unwrap()).try_for_each(|_| self.adapter.update(path, count)).map(|()| done())?
            }
            // Holds the lock until it is killed.
            ("handle", "hold") => {
                let _guard = self.file(path)?.lock()?;
                tell("done");
                hear()
            }
            ("path", "hold") => {
                let hold = |_: Option<&[u8]>| {
                    tell("done");
                    hear().into_bytes()
                };
                self.adapter.update(path, hold).map(|()| done())?
            }
            ("handle", "try_append") => {
                let guard = self.file(path)?.try_lock()?;
                guard.write(append(guard.read()?.as_deref())).map(|()| done())?
            }
            ("path", "try_append") => self.impatient.update(path, append).map(|()| done())?,
            (_, "lock") => {
                let guard = self.file(path)?.lock()?;
                self.guards.insert(path.to_owned(), guard);
                done()
            }
            (_, "try") => {
                let guard = self.file(path)?.try_lock()?;
                self.guards.insert(path.to_owned(), guard);
                done()
            }
            (_, "guard_read") => text_of(self.guards[path].read()?),
            (_, "guard_write") => self.guards[path].write(text).map(|()| done())?,
            (_, "guard_delete") => self.guards[path].delete().map(|was| was.to_string())?,
            // Stops before the rename until it is told to go on.
            (_, "guard_write_slowly") => {
                let stop = |call: &Call<'_>| {
                    if call.syscall == Syscall::Renameat {
                        tell("about to rename");
                        hear();
                    }
                    Action::Proceed
                };
                let guard = &self.guards[path];
                let text = text.to_owned();
                inject(stop, || guard.write(text)).0.map(|()| done())?
            }
            (_, "set_mode") => {
                let guard = self.file(path)?.lock()?;
                guard.set_mode(u32::from_str_radix(text, 8).unwrap())?.to_string()
            }
            (_, "unlock") => {
                self.guards.remove(path);
                self.shared.clear();
                done()
            }
            (_, "prune") => self.adapter.prune().map(|pruned| pruned.len().to_string())?,
            // Stops when it holds the first lock file's lock, until it is told to go on.
            (_, "prune_slowly") => {
                let mut has_stopped = false;
                let stop = move |call: &Call<'_>| {
                    if matches!(call.syscall, Syscall::Pread | Syscall::Unlinkat) && !has_stopped {
                        has_stopped = true;
                        tell("about to remove");
                        hear();
                    }
                    Action::Proceed
                };
                inject(stop, || self.adapter.prune()).0.map(|pruned| pruned.len().to_string())?
            }
            // With the protocol's reader in Python.
            (_, "reader") => {
                let (_, program) = include_str!("../../src/docs/protocol.md").split_once("\n```python\n").unwrap();
                let (program, _) = program.split_once("\nif __name__").unwrap();
                let call = "sys.stdout.buffer.write(b'=' + (read_with_lock(*sys.argv[1:]) or b''))";
                let mut python = Command::new(env::var_os("PYTHON").unwrap_or("python3".into()));
                python.arg("-c").arg(format!("{program}\n{call}")).arg(path);
                python.arg(self.adapter.lock_dir()).args(&self.root);
                let output = python.stdin(Stdio::null()).output().unwrap();
                let said = [output.stdout, output.stderr].concat();
                String::from_utf8_lossy(&said).replace('\n', " ")
            }
            // Until it is told to stop, and once more after that.
            (_, "prune_in_a_loop") => {
                let (mut pruned, is_told) = (0, AtomicBool::new(false));
                thread::scope(|scope| {
                    scope.spawn(|| {
                        hear();
                        is_told.store(true, Ordering::Relaxed);
                    });
                    loop {
                        let is_last = is_told.load(Ordering::Relaxed);
                        pruned += self.adapter.prune()?.len();
                        if is_last {
                            return Ok(pruned.to_string());
                        }
                    }
                })?
            }
            (_, "batch") => {
                let names: [PathBuf; 2] = ["one", "two"].map(|name| Path::new(path).join(name));
                self.adapter.batch().write(&names[0], text).write(&names[1], text).commit().map(|()| done())?
            }
            (_, "batch_delete") => {
                let names: [PathBuf; 2] = ["one", "two"].map(|name| Path::new(path).join(name));
                self.adapter.batch().delete(&names[0]).delete(&names[1]).commit().map(|()| done())?
            }
            (_, "read_many") => {
                let names: [PathBuf; 2] = ["one", "two"].map(|name| Path::new(path).join(name));
                let guards = self.adapter.lock_many_shared(&names)?;
                let [one, two] = [0, 1].map(|n: usize| guards[n].read());
                format!("{} {}", text_of(one?), text_of(two?))
            }
            // Makes a link to another file in its directory. It replaces what was there in one step.
            (_, "link") => {
                let new = format!("{path}.new");
                symlink(Path::new(text).file_name().unwrap(), &new).unwrap();
                fs::rename(new, path).unwrap();
                done()
            }
            (_, "rename") => {
                fs::rename(path, Path::new(path).with_file_name(text)).unwrap();
                done()
            }
            (how, verb) => panic!("{how} {verb}"),
        })
    }

    /// The same with the command.
    fn command(&self, verb: &str, path: &str, text: &str) -> String {
        let command = |args: &[&str]| {
            let mut command = dies_with_us(TOOL.expect("needs the feature cli"));
            command.arg("--lock-dir").arg(self.adapter.lock_dir()).stdin(Stdio::null());
            if let Some(root) = &self.root {
                command.arg("--lock-root").arg(root);
            }
            command.args(args);
            command
        };
        if verb == "hold" {
            // Until this process is killed, which ends the holder as well. Its `cat` ends when nobody can write to it
            // any more.
            let mut holder = command(&["run", path, "--", "sh", "-c", "echo done; cat"]);
            let mut holder = Worker::spawn(&mut holder);
            tell(&holder.hear());
            return hear();
        }
        let run = |args: &[&str]| command(args).output().unwrap();
        let script = match verb {
            "append" | "try_append" => format!("cat; printf %s {text}"),
            "count" => "read n; printf %s $((${n:-0} + 1))".to_owned(),
            "write" => format!("cat >/dev/null; printf %s {text}"),
            _ => String::new(),
        };
        let times = if verb == "count" { text.parse().unwrap() } else { 1 };
        for n in 1..=times {
            let output = match verb {
                "read" => run(&["read", "--must-exist", path]),
                "delete" => run(&["delete", path]),
                "try_append" => run(&["--timeout", "0", "update", path, "--", "sh", "-c", &script]),
                _ => run(&["update", path, "--", "sh", "-c", &script]),
            };
            let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            match (verb, output.status.code()) {
                ("read", Some(0)) => return format!("={said}"),
                ("delete", Some(0)) => return "true".to_owned(),
                ("read", Some(3)) => return "none".to_owned(),
                ("delete", Some(3)) => return "false".to_owned(),
                ("try_append", Some(4)) => return "taken".to_owned(),
                (_, Some(0)) if n < times => {}
                (_, Some(0)) => return "done".to_owned(),
                (_, status) => return format!("{status:?} {complaint}").replace('\n', " "),
            }
        }
        "done".to_owned()
    }
}
