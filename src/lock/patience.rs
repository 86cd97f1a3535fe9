//! How long a call waits for its locks, and the callback for a call that waits.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::table::Wait;

/// The callback is called after this time, unless the builder sets another.
const MOMENT: Duration = Duration::from_millis(100);

/// A call that waits for a lock: the argument of [`Builder::on_wait`](crate::Builder::on_wait).
///
/// ```
/// use std::sync::mpsc::channel;
///
/// use atomic_file_adapter::AtomicFileAdapter;
///
/// # let scratch = tempfile::tempdir()?;
/// let (tell, told) = channel();
/// let files = AtomicFileAdapter::builder()
///     .lock_dir(scratch.path().join("locks"))
///     .on_wait(move |waiting| {
///         let _ = tell.send((waiting.path().to_owned(), waiting.holder(), waiting.since().elapsed()));
///     })
///     .build()?;
/// let file = files.file(scratch.path().join("settings.toml"))?;
/// let guard = file.lock()?;
/// std::thread::scope(|scope| {
///     scope.spawn(|| file.write("colour = 'red'\n"));
///     let (path, holder, so_far) = told.recv().unwrap();
///     assert_eq!(path, file.path());
///     assert_eq!(holder, Some(std::process::id())); // a thread of this one
///     assert!(so_far.as_millis() >= 100);
///     drop(guard);
/// });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Waiting {
    pub(super) path: PathBuf,
    pub(super) lock: PathBuf,
    pub(super) holder: Option<u32>,
    pub(super) since: Instant,
}

impl Waiting {
    /// The file whose lock the call waits for: its canonical path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its lock file.
    pub fn lock_path(&self) -> &Path {
        &self.lock
    }

    /// A process that holds the lock; this process, if one of its threads does. `None`: the holder has just released
    /// it, or the system cannot name a process
    /// ([fcntl_locking(2)](https://man7.org/linux/man-pages/man2/fcntl_locking.2.html), F_GETLK: the holder is on
    /// another machine, in another PID namespace, or it is an open file description lock).
    pub fn holder(&self) -> Option<u32> {
        self.holder
    }

    /// When the call began to take its locks.
    pub fn since(&self) -> Instant {
        self.since
    }
}

/// The callback for a call that has to wait.
#[derive(Clone)]
pub(crate) struct OnWait {
    call: Arc<dyn Fn(&Waiting) + Send + Sync>,
    after: Duration,
}

// A panic in the callback leaves nothing of this crate inconsistent.
impl UnwindSafe for OnWait {}
impl RefUnwindSafe for OnWait {}

impl OnWait {
    pub(crate) fn new(call: impl Fn(&Waiting) + Send + Sync + 'static) -> Self {
        OnWait { call: Arc::new(call), after: MOMENT }
    }

    pub(crate) fn after(self, after: Duration) -> Self {
        OnWait { after, ..self }
    }
}

impl fmt::Debug for OnWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnWait")
    }
}

thread_local! {
    /// Whether this thread is in the callback. Calls that wait in the callback do not call it again, because that could
    /// go on for ever.
    static TELLS: Cell<bool> = const { Cell::new(false) };
}

/// How long a call waits for all its locks together.
#[derive(Debug)]
pub(crate) struct Patience<'a> {
    wait: Wait,
    pub(super) timeout: Duration,
    /// With the time at which the call began.
    on_wait: Option<(&'a OnWait, Instant)>,
    /// The file that the callback was last called for, and when.
    told: RefCell<Option<(Arc<Path>, Instant)>>,
}

impl<'a> Patience<'a> {
    /// Tries once.
    pub(crate) fn none() -> Self {
        Patience { wait: Wait::Never, timeout: Duration::ZERO, on_wait: None, told: RefCell::default() }
    }

    /// Waits for `timeout` from now on. `None`: for ever.
    pub(crate) fn new(timeout: Option<Duration>, on_wait: Option<&'a OnWait>) -> Self {
        // A deadline past the end of the clock is none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        Patience {
            wait: deadline.map_or(Wait::Forever, Wait::Until),
            timeout: timeout.unwrap_or_default(),
            on_wait: on_wait.map(|on_wait| (on_wait, Instant::now())),
            told: RefCell::default(),
        }
    }

    /// Whether the call only tries.
    pub(super) fn is_none(&self) -> bool {
        self.wait == Wait::Never
    }

    pub(super) fn wait(&self) -> Wait {
        self.wait
    }

    /// When the callback is due if the call waits for this file. `None`: it was called for this file already, or there is
    /// no callback.
    pub(super) fn tell_at(&self, file: &Path) -> Option<Instant> {
        let (on_wait, since) = self.on_wait.filter(|_| !TELLS.get())?;
        let since = match &*self.told.borrow() {
            None => since,
            Some((told, _)) if **told == *file => return None,
            Some((_, at)) => *at,
        };
        since.checked_add(on_wait.after)
    }

    /// Calls the callback for a file.
    pub(super) fn tell(&self, file: &Arc<Path>, waiting: impl FnOnce(Instant) -> Waiting) {
        struct Told;
        impl Drop for Told {
            fn drop(&mut self) {
                TELLS.set(false);
            }
        }
        if let Some((OnWait { call, .. }, since)) = self.on_wait {
            self.told.replace(Some((file.clone(), Instant::now())));
            TELLS.set(true);
            let _told = Told;
            call(&waiting(since));
        }
    }
}
