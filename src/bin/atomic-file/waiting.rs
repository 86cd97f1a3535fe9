//! A line on standard error while this program waits for a lock.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use atomic_file_adapter::{Builder, Waiting};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::process;

/// A shorter wait is not reported.
const LONG: Duration = Duration::from_secs(1);

/// The line, while it is shown.
static LINE: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Makes the adapter report its waits, if the user wants that. Otherwise it waits in the cheapest way.
pub fn tell(builder: Builder, verbose: bool) -> Builder {
    if verbose || io::stderr().is_terminal() { builder.on_wait(say).on_wait_after(LONG) } else { builder }
}

fn say(waiting: &Waiting) {
    let text = crate::one_line(&sentence(waiting));
    let mut shown = LINE.lock().unwrap_or_else(PoisonError::into_inner);
    // The call waits for another one of its files now.
    if let Some(line) = &*shown {
        line.set_message(text);
        return line.tick();
    }
    // Hidden if standard error is not a terminal, or if the terminal cannot erase.
    let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    match ProgressStyle::with_template("{wide_msg}") {
        Ok(style) if !line.is_hidden() => {
            line.set_style(style);
            line.set_message(text);
            line.tick();
            *shown = Some(line);
        }
        _ => crate::say(&text),
    }
}

fn sentence(waiting: &Waiting) -> String {
    format!("waiting for {}", held(waiting.path(), waiting.holder()))
}

/// The message of a call that did not get its lock in time.
pub fn timed_out(path: &Path, waited: Duration, holder: Option<u32>) -> String {
    let held = held(path, holder);
    match waited.is_zero() {
        true => format!("cannot lock {held}; wait for it with --timeout SECONDS, or without a limit"),
        false => format!("gave up after {waited:?} waiting for {held}; a longer --timeout waits longer"),
    }
}

fn held(path: &Path, holder: Option<u32>) -> String {
    let here = std::env::current_dir().ok();
    let path = here.as_ref().and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path);
    let holder = holder.map_or("another process".into(), process::described);
    format!("{}: {holder} holds it", path.display())
}

/// Erases the line: the call has got the lock, or has given up.
pub fn is_over() {
    if let Some(line) = LINE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        line.finish_and_clear();
    }
}
