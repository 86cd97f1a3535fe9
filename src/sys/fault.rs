//! Watching every system call of this crate, and making it fail (feature `fault-injection`).
//!
//! [`inject`] runs a piece of code. Before each system call that the crate makes in it, it asks your function what to
//! do with the call: make it, make it fail with an error of your choice, cut it short, leave it out, or kill the
//! process there. This holds for the calling thread and until `inject` returns; other threads are not affected. Without
//! the feature, none of this is in the program.
//!
//! # My own update, with each call failing in turn
//!
//! Whatever fails, the file must be complete, and new if the update says that it was done:
//!
//! ```
//! use atomic_file_adapter::fault::{Action, inject};
//! use atomic_file_adapter::{AtomicFileAdapter, Error};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let scratch = tempfile::tempdir()?;
//! # let path = scratch.path().join("counter");
//! # let files = AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
//! const EIO: i32 = 5;
//! let count = |old: Option<&[u8]>| vec![b'x'; old.map_or(0, <[u8]>::len) + 1];
//!
//! for failing in 0.. {
//!     files.write_atomic(&path, "x")?;
//!     let (result, calls) = inject(
//!         move |call| if call.number == failing { Action::Fail(EIO) } else { Action::Proceed },
//!         || files.update(&path, count),
//!     );
//!     let now = files.read_to_string_with_lock(&path)?;
//!     match result {
//!         // A call may be dispensable: the update is done, or it says that it is not.
//!         Ok(()) | Err(Error::NotDurable { .. }) => assert_eq!(now.as_deref(), Some("xx")),
//!         Err(_) => assert_eq!(now.as_deref(), Some("x")),
//!     }
//!     if failing >= calls {
//!         break; // the update makes no more calls than that
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! With [`Action::Kill`] in a child process the same loop tries every place where a process can die.
//!
//! # What is seen
//!
//! Every system call that the crate makes itself. It does not see what the standard library does for the crate:
//! sleeping between two attempts to take a lock before a deadline, waiting for another thread, asking for random
//! numbers (once in each thread), memory.

use std::any::Any;
use std::borrow::Cow;
use std::cell::RefCell;
use std::ffi::{CStr, OsStr};
use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use rustix::io::retry_on_intr;
use rustix::path::Arg;
use rustix::process::{Signal, getpid, kill_process};

pub use super::Syscall;
use super::{Errno, Result};

/// A system call that is about to be made.
///
/// Its `Display` form resembles that of strace: `renameat(5, ".a.tmp", "a")`.
///
/// ```
/// # let scratch = tempfile::tempdir()?;
/// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
/// # let path = scratch.path().join("settings.toml");
/// use atomic_file_adapter::fault::{Action, inject};
///
/// // As strace would show it.
/// let show = |call: &atomic_file_adapter::fault::Call<'_>| {
///     eprintln!("{:3} {call}", call.number);
///     Action::Proceed
/// };
/// inject(show, || files.write_atomic(&path, "contents")).0?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Call<'a> {
    /// How many calls came before it since [`inject`] began. A call that is made again after EINTR counts again.
    pub number: usize,
    /// Which call.
    pub syscall: Syscall,
    /// The open file that it concerns, or the directory that `path` is relative to. `None`: there is none, or `path` is
    /// relative to the current directory, or the call is `close`.
    pub fd: Option<BorrowedFd<'a>>,
    /// The name that it concerns.
    pub path: Option<&'a Path>,
    /// The second name of `renameat` and `linkat`.
    pub new_path: Option<&'a Path>,
    /// How many bytes `read` and `write` may move at most.
    pub size: Option<usize>,
}

impl fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fd = self.fd.map(|fd| fd.as_raw_fd().to_string());
        let paths = [self.path, self.new_path].into_iter().flatten().map(|path| format!("{path:?}"));
        let size = self.size.map(|size| size.to_string());
        let arguments: Vec<_> = fd.into_iter().chain(paths).chain(size).collect();
        write!(f, "{}({})", format!("{:?}", self.syscall).to_lowercase(), arguments.join(", "))
    }
}

/// What to do with a call.
///
/// ```
/// # let scratch = tempfile::tempdir()?;
/// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
/// # let path = scratch.path().join("settings.toml");
/// use atomic_file_adapter::fault::{Action, Syscall, inject};
///
/// const ENOSPC: i32 = 28;
/// let full_disk = |call: &atomic_file_adapter::fault::Call<'_>| match call.syscall {
///     Syscall::Write => Action::Fail(ENOSPC),
///     _ => Action::Proceed,
/// };
/// let (written, _) = inject(full_disk, || files.write_atomic(&path, "contents"));
/// assert_eq!(written.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
/// assert!(!files.exists(&path));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// It is made.
    Proceed,
    /// It is not made, and fails with this `errno` (1 to 4095; any other number is taken for `EIO`).
    ///
    /// A call that fails with `EINTR` is made again, and your function is asked again: if it always returns `EINTR`,
    /// the call hangs. `getpid`, `geteuid` and `close` are made all the same: the first two cannot fail, and nobody
    /// looks at an error of the last.
    Fail(i32),
    /// `read` or `write` moves no more bytes than this; `write` of 0 bytes is not made, and returns that it has written
    /// none. Any other call is made as it is.
    Short(usize),
    /// It is not made, and returns success. Only for calls that return nothing else: `fsync`, `syncfs`, `F_FULLFSYNC`,
    /// `fchmod`, `fchown`, `fsetxattr`, `fremovexattr`, `renameat`, `linkat`, `unlinkat`, `mkdirat`, taking and
    /// releasing a lock. Any other call is made.
    Skip,
    /// SIGKILL ends the process before the call is made.
    Kill,
}

type Decide = Box<dyn FnMut(&Call<'_>) -> Action>;

/// The function that is asked in this thread.
struct Watch {
    /// `None` while the function runs, and after it has panicked.
    decide: Option<Decide>,
    calls: usize,
    panic: Option<Box<dyn Any + Send>>,
}

thread_local!(static WATCH: RefCell<Option<Watch>> = const { RefCell::new(None) });

/// Runs `body`, and asks `decide` before each system call that this crate makes in it, in this thread. Returns what
/// `body` returned, and the number of these calls, made or not.
///
/// `inject` may be nested: the outer `decide` does not see the calls inside the inner `inject`.
///
/// `decide` may do anything, with two exceptions. It must not call this crate, because some calls are made while the
/// crate holds a mutex. And it must not return in a child made by fork, because the child would go on with its parent's
/// write. If it panics, it is not asked again, and the panic goes on when `body` is done.
///
/// ```
/// use std::cell::RefCell;
/// use std::rc::Rc;
///
/// use atomic_file_adapter::fault::{Action, inject};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let scratch = tempfile::tempdir()?;
/// # let path = scratch.path().join("file");
/// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
/// let file = files.file(&path)?;
/// let seen = Rc::new(RefCell::new(Vec::new()));
/// let watched = seen.clone();
/// let (result, _) = inject(
///     move |call| {
///         watched.borrow_mut().push(call.to_string());
///         Action::Proceed
///     },
///     || file.write("contents"),
/// );
/// result?;
/// println!("{}", seen.borrow().join("\n"));
/// # Ok(())
/// # }
/// ```
pub fn inject<T>(decide: impl FnMut(&Call<'_>) -> Action + 'static, body: impl FnOnce() -> T) -> (T, usize) {
    /// Restores the outer function, even if `body` panics.
    struct Scope(Option<Watch>);

    impl Drop for Scope {
        fn drop(&mut self) {
            let mine = WATCH.replace(self.0.take());
            // Dropped outside the borrow, because what it owns may run any code on drop.
            drop(mine);
        }
    }

    let scope = Scope(WATCH.replace(Some(Watch { decide: Some(Box::new(decide)), calls: 0, panic: None })));
    let value = body();
    let (calls, panic) = WATCH.with_borrow_mut(|watch| match watch {
        Some(watch) => (watch.calls, watch.panic.take()),
        None => (0, None),
    });
    drop(scope);
    if let Some(panic) = panic {
        resume_unwind(panic);
    }
    (value, calls)
}

/// What a call is about, before it has a number.
#[derive(Clone, Copy)]
struct About<'a> {
    syscall: Syscall,
    fd: Option<BorrowedFd<'a>>,
    path: Option<&'a Path>,
    new_path: Option<&'a Path>,
    size: Option<usize>,
}

impl<'a> About<'a> {
    fn new(syscall: Syscall) -> Self {
        About { syscall, fd: None, path: None, new_path: None, size: None }
    }

    fn file(syscall: Syscall, fd: BorrowedFd<'a>) -> Self {
        About { fd: Some(fd), ..Self::new(syscall) }
    }

    fn name(syscall: Syscall, at: BorrowedFd<'a>, path: &'a Option<Cow<'_, CStr>>) -> Self {
        let here = at.as_raw_fd() == super::cwd().as_raw_fd();
        About { fd: (!here).then_some(at), path: path.as_deref().map(as_path), ..Self::new(syscall) }
    }

    /// Asks the function what to do with the call.
    fn ask(self) -> Action {
        let asked = WATCH.try_with(|watch| {
            let mut watch = watch.borrow_mut();
            let watch = watch.as_mut()?;
            let number = watch.calls;
            watch.calls += 1;
            // Taken out, because the function may make calls that come here again.
            Some((number, watch.decide.take()?))
        });
        // An error: the thread is ending, and its thread-local variables are gone.
        let Ok(Some((number, mut decide))) = asked else { return Action::Proceed };
        let About { syscall, fd, path, new_path, size } = self;
        let call = Call { number, syscall, fd, path, new_path, size };
        // A panic must not go through the crate in the middle of a step, because no other code of a caller runs there.
        let decided = catch_unwind(AssertUnwindSafe(|| decide(&call)));
        WATCH.with_borrow_mut(|watch| match (watch, decided) {
            (None, _) => Action::Proceed,
            (Some(watch), Ok(action)) => {
                watch.decide = Some(decide);
                if action == Action::Kill { die() } else { action }
            }
            (Some(watch), Err(panic)) => {
                watch.panic = Some(panic);
                Action::Proceed
            }
        })
    }

    fn make<T: Answer>(self, mut make: impl FnMut() -> Result<T>) -> Result<T> {
        retry_on_intr(|| match self.ask() {
            Action::Fail(errno) => Err(as_errno(errno)),
            Action::Skip => T::SKIPPED.map_or_else(&mut make, Ok),
            Action::Proceed | Action::Short(_) | Action::Kill => make(),
        })
    }
}

/// The result of a call.
pub(super) trait Answer: Sized {
    /// The result of a call that was left out, if a success is possible.
    const SKIPPED: Option<Self> = None;
}

impl Answer for () {
    const SKIPPED: Option<()> = Some(());
}
impl Answer for std::os::fd::OwnedFd {}
impl Answer for std::ffi::CString {}
impl Answer for rustix::fs::Stat {}
impl Answer for usize {}
impl<T> Answer for Option<T> {}

pub(super) fn infallible<T>(syscall: Syscall, make: impl FnOnce() -> T) -> T {
    About::new(syscall).ask();
    make()
}

pub(super) fn on_nothing<T: Answer>(syscall: Syscall, make: impl FnMut() -> Result<T>) -> Result<T> {
    About::new(syscall).make(make)
}

pub(super) fn on_file<T: Answer>(syscall: Syscall, fd: BorrowedFd<'_>, make: impl FnMut() -> Result<T>) -> Result<T> {
    About::file(syscall, fd).make(make)
}

pub(super) fn on_bytes(
    syscall: Syscall,
    fd: BorrowedFd<'_>,
    len: usize,
    mut make: impl FnMut(usize) -> Result<usize>,
) -> Result<usize> {
    let about = About { size: Some(len), ..About::file(syscall, fd) };
    retry_on_intr(|| match about.ask() {
        Action::Fail(errno) => Err(as_errno(errno)),
        // A read of 0 bytes would mean the end of the file.
        Action::Short(0) if syscall == Syscall::Read => make(len.min(1)),
        Action::Short(0) => Ok(0),
        Action::Short(short) => make(short.min(len)),
        Action::Proceed | Action::Skip | Action::Kill => make(len),
    })
}

pub(super) fn on_name<T: Answer>(
    syscall: Syscall,
    at: BorrowedFd<'_>,
    path: impl Arg,
    make: impl FnMut() -> Result<T>,
) -> Result<T> {
    let path = path.as_cow_c_str().ok();
    About::name(syscall, at, &path).make(make)
}

pub(super) fn on_names(
    syscall: Syscall,
    at: BorrowedFd<'_>,
    path: &CStr,
    new_path: &CStr,
    make: impl FnMut() -> Result<()>,
) -> Result<()> {
    let path = Some(path.into());
    About { new_path: Some(as_path(new_path)), ..About::name(syscall, at, &path) }.make(make)
}

/// Part of an [`Fd`](super::Fd): dropped before the descriptor is closed.
#[derive(Debug)]
pub(super) struct Closing;

impl Closing {
    /// The caller passes the descriptor to other code, which will close it.
    pub(super) fn never(self) {
        std::mem::forget(self);
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        About::new(Syscall::Close).ask();
    }
}

fn as_path(name: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(name.to_bytes()))
}

/// rustix panics on a number that is no errno.
fn as_errno(errno: i32) -> Errno {
    if (1..4096).contains(&errno) { Errno::from_raw_os_error(errno) } else { Errno::IO }
}

fn die() -> ! {
    // A signal to oneself arrives before the call returns, and only the init process of a container can ignore this one
    // (pid_namespaces(7)).
    let _ = kill_process(getpid(), Signal::KILL);
    std::process::abort()
}
