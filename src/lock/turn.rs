//! Turns. If the threads of a process hand a lock round, or its readers overlap, the process keeps the lock for a turn
//! of 10 ms. Then new readers wait until the present ones have left, and the process releases the kernel's lock for a
//! moment.

use std::time::{Duration, Instant};

/// How long, at first, a reader waits at the end of a turn for the present readers to leave. They may be slow, or even
/// wait for this reader, so after that time it joins them, and the next turn begins. At the end of that turn it waits
/// twice as long, up to [`LONGEST_DRAIN`]. A turn is [`TURN_PER_DRAIN`] times as long as the wait at its end.
const DRAIN: Duration = Duration::from_millis(2);
const LONGEST_DRAIN: Duration = Duration::from_secs(1);
const TURN_PER_DRAIN: u32 = 5;

/// After its turn a process waits this long before it asks for the lock again, so that a process in F_SETLKW can be
/// scheduled and take it. The kernel wakes waiters but does not hand them the lock (`locks_wake_up_blocks` in
/// fs/locks.c). The pause begins with the release of the lock, so that it passes while the next thread of this process
/// wakes up.
const PAUSE: Duration = Duration::from_micros(70);

/// When this process's turn at a lock began, and when it last released the lock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    began: Instant,
    drain: Duration,
    released: Option<Instant>,
}

impl Turn {
    /// The turn in which the lock is taken now. It is the same turn as `after` if that goes on.
    pub(super) fn next(after: Option<Turn>, now: Instant, paused: bool) -> Turn {
        let goes_on = after.filter(|turn| !paused && turn.goes_on(now));
        let (began, drain) = goes_on.map_or((now, DRAIN), |turn| (turn.began, turn.drain));
        Turn { began, drain, released: None }
    }

    pub(super) fn released(self, now: Instant) -> Turn {
        Turn { released: Some(now), ..self }
    }

    /// Whether taking the lock now would continue this turn, because other processes have had no chance since the
    /// release.
    pub(super) fn goes_on(self, now: Instant) -> bool {
        self.released.is_none_or(|released| now.saturating_duration_since(released) < PAUSE)
    }

    /// Whether the turn has lasted long enough.
    pub(super) fn is_over(self, now: Instant) -> bool {
        self.goes_on(now) && now.saturating_duration_since(self.began) > self.drain * TURN_PER_DRAIN
    }

    /// Until when other processes get their chance.
    pub(super) fn pause(self, now: Instant) -> Option<Instant> {
        self.released.filter(|_| self.is_over(now)).map(|released| released + PAUSE)
    }

    /// How long readers wait at the end of the turn for the present readers to leave.
    pub(super) fn drain(self) -> Duration {
        self.drain
    }

    /// The turn begins again, because the present readers stay.
    pub(super) fn lengthened(self, now: Instant) -> Turn {
        Turn { began: now, drain: (self.drain * 2).min(LONGEST_DRAIN), ..self }
    }

    pub(super) fn was_released(self) -> bool {
        self.released.is_some()
    }
}
