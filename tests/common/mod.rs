//! Code that the tests share: worker processes, and test programs that can say why they skip a case.
#![allow(dead_code, reason = "every test program uses a part of this")]

#[cfg(target_os = "linux")]
pub mod acl;
pub mod bank;
#[cfg(target_os = "linux")]
pub mod machine;
pub mod vectors;

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use atomic_file_adapter::AtomicFileAdapter;
use libtest_mimic::{Arguments, Trial};

/// A part of a test that runs in another process.
pub type Work = fn(&[String]);

const WORKER: &str = "ATOMIC_FILE_TEST_WORKER";

/// The main function of a test program without the standard harness: the tests, or, when it was started by
/// [`Worker::start`], one of the workers.
pub fn main(tests: Vec<Trial>, workers: &[(&str, Work)]) -> ExitCode {
    main_with(0, tests, workers)
}

/// The same with `more_threads` more threads than there are processors, for tests that mostly wait.
pub fn main_with(more_threads: usize, tests: Vec<Trial>, workers: &[(&str, Work)]) -> ExitCode {
    usual_umask();
    let Ok(name) = env::var(WORKER) else {
        return run(more_threads, tests);
    };
    let args: Vec<String> = env::args().skip(1).collect();
    let (_, work) = workers.iter().find(|(known, _)| *known == name).expect("a worker of this test program");
    work(&args);
    ExitCode::SUCCESS
}

/// Sets a fixed umask. The modes of new files decide how many calls a write takes, and whether a lock directory is shared,
/// so they must not depend on who runs the tests: many users have the umask 0002.
pub fn usual_umask() {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
}

/// Runs the tests. `--test-threads` overrides the number of threads.
pub fn run(more_threads: usize, tests: Vec<Trial>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    let processors = thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(processors + more_threads);
    libtest_mimic::run(&arguments, tests).exit_code()
}

/// Whether this process is a worker. A worker need not find out which tests can run.
pub fn is_worker() -> bool {
    env::var_os(WORKER).is_some()
}

/// Variables that make a test program run for longer than in the gate, if they are `full`.
const LONGER: [&str; 7] = ["ACCESS", "BANK", "CRASH_FAILURES", "CRASH_STATES", "FAULTS", "INTEROP", "NETWORK"];

/// Whether the tests run in their thorough form, as in the gate, or for even longer. The default is a short form: test programs that
/// take long run a sample, with a fixed seed.
pub fn is_thorough() -> bool {
    let is_set = |name: &str| env::var_os(name).is_some_and(|it| !it.is_empty() && it != "0");
    is_set("THOROUGH")
        || is_set("CRASH_OTHERS")
        || LONGER.iter().any(|name| env::var_os(name).is_some_and(|it| it == "full"))
}

/// The first in the thorough form, and the second in the short form.
pub fn thorough_or<T>(thorough: T, short: T) -> T {
    if is_thorough() { thorough } else { short }
}

/// Prints what the short form of this test program leaves out, if this is the short form.
pub fn say_what_is_left_out(what: &str) {
    if !is_thorough() && !is_worker() {
        // The standard harness hides the output of the macros.
        let _ = writeln!(std::io::stderr(), "Short form. Left out: {what}. THOROUGH=1 runs that, too.");
    }
}

/// A sample of `short` items in the short form, and all items in the thorough form. `purpose` differs for each sample. The variable
/// `SAMPLE_SEED` changes all samples.
pub fn sample<T: Copy>(all: &[T], short: usize, purpose: &str) -> Vec<T> {
    let seed = env::var("SAMPLE_SEED").map_or(0, |seed| seed.parse().expect("SAMPLE_SEED is a number"));
    let hash = |n: usize| xxhash_rust::xxh3::xxh3_64_with_seed(format!("{n} {purpose}").as_bytes(), seed);
    let mut numbers: Vec<usize> = (0..all.len()).collect();
    if !is_thorough() {
        numbers.sort_by_key(|n| hash(*n));
        numbers.truncate(short);
        numbers.sort_unstable();
    }
    numbers.into_iter().map(|n| all[n]).collect()
}

/// All numbers from 0 on in the thorough form. In the short form one number of each `of` successive ones.
pub fn one_of_each(of: usize, purpose: &str) -> impl Iterator<Item = usize> + use<> {
    let purpose = purpose.to_owned();
    (0..).step_by(of).flat_map(move |first| {
        let group: Vec<usize> = (first..first + of).collect();
        sample(&group, 1, &format!("{purpose} {first}"))
    })
}

/// A test that always runs.
pub fn test(name: &str, body: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || {
        body();
        Ok(())
    })
}

/// A test. If `missing` says that something is missing, the test is ignored, with the reason in its name.
pub fn test_if(missing: Option<&str>, name: &str, body: impl FnOnce() + Send + 'static) -> Trial {
    let name = missing.map_or(name.to_owned(), |missing| format!("{name} [{missing}]"));
    test(&name, body).with_ignored_flag(missing.is_some())
}

/// A command to run a program that is killed when this process dies in any way.
pub fn dies_with_us(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}

/// The reason why a test that needs Linux cannot run. A Mac has to run all others.
pub fn not_linux() -> Option<&'static str> {
    (!cfg!(target_os = "linux")).then_some("needs Linux")
}

/// The reason why a test that needs root cannot run.
pub fn no_root() -> Option<&'static str> {
    (!nix::unistd::geteuid().is_root()).then_some("needs root")
}

/// The reason why a test that mounts something cannot run. Root in a container may not mount.
pub fn no_mounts() -> Option<&'static str> {
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
    let effective = u64::from_str_radix(effective.trim(), 16).unwrap_or(0);
    not_linux().or((effective & CAP_SYS_ADMIN == 0).then_some("needs root that may mount"))
}

/// The reason why a test that serves a file system with FUSE cannot run.
pub fn no_fuse() -> Option<&'static str> {
    no_mounts().or((!Path::new("/dev/fuse").exists()).then_some("needs /dev/fuse"))
}

/// The reason why a test that mounts an overlay cannot run.
pub fn no_overlay() -> Option<&'static str> {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    no_mounts().or((!known.lines().any(|line| line.ends_with("\toverlay"))).then_some("needs overlayfs"))
}

/// Gives this thread, and the threads that it starts later, their own mounts, which end with the last of them.
#[cfg(target_os = "linux")]
pub fn take_own_mounts() {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
}

/// The reason why a test that needs a program cannot run.
pub fn no_program(command: &str, args: &[&str], missing: &'static str) -> Option<&'static str> {
    let run = Command::new(command).args(args).stdin(Stdio::null()).output();
    (!run.is_ok_and(|output| output.status.success())).then_some(missing)
}

/// Ends the program with this reason, unless the returned value is dropped in time.
pub fn end_after(limit: Duration, why: impl Into<String>) -> Sender<()> {
    let (done, is_done) = channel();
    let why = why.into();
    thread::spawn(move || {
        if is_done.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{why}");
            process::exit(101);
        }
    });
    done
}

/// Another process, which runs one of the workers of this test program. It is killed on drop.
///
/// The test and the worker exchange lines, so that no test has to sleep. The worker uses [`tell`] and [`hear`].
pub struct Worker {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Worker {
    pub fn start(name: &str, args: &[&str]) -> Self {
        Self::start_in(&env::current_dir().unwrap(), name, args)
    }

    /// Starts it in another current directory.
    pub fn start_in(dir: &Path, name: &str, args: &[&str]) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.current_dir(dir).args(args).env(WORKER, name).stdin(Stdio::piped()).stdout(Stdio::piped());
        Self::spawn(&mut command)
    }

    /// Starts any program that exchanges lines in the same way.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Worker { child, input, output }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn tell(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    /// The next line from the worker.
    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    #[track_caller]
    pub fn expect(&mut self, line: &str) {
        assert_eq!(self.hear(), line);
    }

    /// Kills it with SIGKILL, like a crash. Returns when the process has ended.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the end of a worker. Returns the signal that ended it.
    pub fn signal(&mut self) -> Option<i32> {
        self.child.wait().unwrap().signal()
    }

    /// Waits for the end of a worker that did not fail.
    #[track_caller]
    pub fn finish(mut self) {
        drop(self.input.take());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the worker failed: {status}");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In a worker: sends a line to the test.
pub fn tell(line: &str) {
    println!("{line}");
}

/// In a worker: the next line from the test. Empty at the end.
pub fn hear() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// Returns when the process sleeps in its wait for a record lock. If the system does not tell, it returns after enough
/// time.
pub fn until_it_waits_for_a_lock(worker: &Worker) {
    if not_linux().is_some() {
        return std::thread::sleep(Duration::from_millis(300));
    }
    let pid = worker.pid().to_string();
    let end = Instant::now() + Duration::from_secs(60);
    // "7: -> POSIX  ADVISORY  WRITE 4711 fe:00:1234 0 EOF" (proc_locks(5))
    let waits = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some("->") && words.nth(3) == Some(&pid)
    };
    while !std::fs::read_to_string("/proc/locks").unwrap().lines().any(waits) {
        assert!(Instant::now() < end, "process {pid} does not wait for a lock");
        std::thread::yield_now();
    }
}

/// Whether a batch in this directory is synced by syncfs: on Linux, on the file systems whose crash states were tested.
pub fn syncs_whole_file_systems(dir: &Path) -> bool {
    #[cfg(target_os = "linux")]
    {
        use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, statfs};
        // With musl, nix has no name for it.
        const XFS_SUPER_MAGIC: FsType = FsType(0x5846_5342);
        let kind = statfs(dir).unwrap().filesystem_type();
        [BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC].contains(&kind)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = dir;
        false
    }
}

/// An empty directory for files, with an adapter that has its lock directory beside it.
pub struct Scratch {
    pub files: PathBuf,
    pub adapter: AtomicFileAdapter,
    _above: tempfile::TempDir,
}

impl Scratch {
    pub fn new() -> Self {
        let above = tempfile::tempdir().unwrap();
        let real = above.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("files")).unwrap();
        let adapter = AtomicFileAdapter::with_lock_dir(real.join("locks")).unwrap();
        Scratch { files: real.join("files"), adapter, _above: above }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.files.join(name)
    }
}

/// The name of a temporary file of `file`, with these seven random digits and their check. It is computed from the lock
/// protocol, without the crate.
pub fn temporary_name(file: &str, random: &str) -> String {
    let before = format!(".{file}.{random}");
    let hash = xxhash_rust::xxh3::xxh3_64(before.as_bytes());
    let digit = |shift: u32| char::from(b"abcdefghijklmnopqrstuvwxyz234567"[(hash >> shift & 31) as usize]);
    let check: String = [10, 5, 0].map(digit).iter().collect();
    format!("{before}{check}.tmp")
}

/// The names in a directory, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        dir.read_dir().unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
