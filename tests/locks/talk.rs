//! Requests for locks, their results in a line that two processes can exchange, and a worker that asks when it is told
//! to.

use std::any::Any;
use std::path::{Path, PathBuf};

use atomic_file_adapter::{AtomicFile, Error, Result};

use crate::common::{Worker, hear, tell};
use crate::waits::FOR_SHORT;
use crate::{MINUTE, adapter};

pub(crate) type Guard = Box<dyn Any>;
pub(crate) type Ask = fn(&AtomicFile) -> Result<Guard>;

pub(crate) fn boxed(guard: impl Any) -> Guard {
    Box::new(guard)
}

pub(crate) const LOCK: Ask = |file| file.lock().map(boxed);
pub(crate) const LOCK_SHARED: Ask = |file| file.lock_shared().map(boxed);
pub(crate) const LOCK_TIMEOUT: Ask = |file| file.lock_timeout(MINUTE).map(boxed);
pub(crate) const LOCK_SHARED_TIMEOUT: Ask = |file| file.lock_shared_timeout(MINUTE).map(boxed);
pub(crate) const TRY_LOCK: Ask = |file| file.try_lock().map(boxed);
pub(crate) const TRY_LOCK_SHARED: Ask = |file| file.try_lock_shared().map(boxed);
pub(crate) const WAITING: [Ask; 4] = [LOCK, LOCK_SHARED, LOCK_TIMEOUT, LOCK_SHARED_TIMEOUT];

/// A result as a line that two processes can exchange.
pub(crate) fn said<T>(result: &Result<T>) -> String {
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    match result {
        Ok(_) => "ok".into(),
        Err(Error::WouldBlock { .. }) => "would block".into(),
        Err(Error::Forked { .. }) => "forked".into(),
        Err(Error::Deadlock { path, held, .. }) => {
            let mut held: Vec<String> = held.iter().map(name).collect();
            held.sort();
            format!("{} would deadlock with {}", name(path), held.join(" "))
        }
        Err(error) => error.to_string(),
    }
}

/// A worker that gets `VERB NAME` and answers with the result.
pub(crate) fn talk(args: &[String]) {
    let dir = Path::new(&args[0]);
    let adapter = adapter(dir);
    let mut held: Vec<(String, Guard)> = Vec::new();
    loop {
        let line = hear();
        let Some((verb, name)) = line.split_once(' ') else { return };
        let ask = match verb {
            "lock" => LOCK,
            "lock_shared" => LOCK_SHARED,
            "lock_timeout" => LOCK_TIMEOUT,
            "lock_for_short" => FOR_SHORT,
            "try_lock" => TRY_LOCK,
            "try_lock_shared" => TRY_LOCK_SHARED,
            "unlock" => {
                held.retain(|(held, _)| held != name);
                tell("ok");
                continue;
            }
            _ => panic!("{line}"),
        };
        let result = ask(&adapter.file(dir.join(name)).unwrap());
        tell(&said(&result));
        held.extend(result.ok().map(|guard| (name.to_owned(), guard)));
    }
}

pub(crate) trait Ordered {
    fn order(&mut self, line: &str) -> String;
}

impl Ordered for Worker {
    fn order(&mut self, line: &str) -> String {
        self.tell(line);
        self.hear()
    }
}
