//! Turns: a process whose threads hand a lock round, or whose readers overlap, keeps it for a turn of 10 ms. Then those
//! readers that are inside leave before others are let in, and the kernel's lock is let go for a moment.

use std::time::{Duration, Instant};

/// For how long, at first, a reader waits for those inside to leave at the end of a turn. They may be slow, or even wait
/// for this very reader; so it joins them after all, and at the end of the next turn, [`TURN_PER_DRAIN`] times as long
/// as the wait, the wait is twice as long, up to [`LONGEST_DRAIN`].
const DRAIN: Duration = Duration::from_millis(2);
const LONGEST_DRAIN: Duration = Duration::from_secs(1);
const TURN_PER_DRAIN: u32 = 5;

/// For how long after its turn a process does not ask for the lock again, so that one that sleeps in F_SETLKW can be
/// scheduled and take it. The kernel wakes waiters but does not hand them the lock (`locks_wake_up_blocks` in fs/locks.c).
/// It counts from the moment when the lock was let go, so that the next thread of this process wakes up meanwhile.
const PAUSE: Duration = Duration::from_micros(70);

/// When this process's turn at a lock began and when it last let go of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    began: Instant,
    drain: Duration,
    released: Option<Instant>,
}

impl Turn {
    /// The turn that the lock is taken in, `after` that one.
    pub(super) fn next(after: Option<Turn>, now: Instant, paused: bool) -> Turn {
        let goes_on = after.filter(|turn| !paused && turn.goes_on(now));
        let (began, drain) = goes_on.map_or((now, DRAIN), |turn| (turn.began, turn.drain));
        Turn { began, drain, released: None }
    }

    pub(super) fn released(self, now: Instant) -> Turn {
        Turn { released: Some(now), ..self }
    }

    /// Whether taking the lock now would go on with this turn: others have had no chance since.
    pub(super) fn goes_on(self, now: Instant) -> bool {
        self.released.is_none_or(|released| now.saturating_duration_since(released) < PAUSE)
    }

    /// Whether it has lasted for long enough.
    pub(super) fn is_over(self, now: Instant) -> bool {
        self.goes_on(now) && now.saturating_duration_since(self.began) > self.drain * TURN_PER_DRAIN
    }

    /// Until when others are to have their chance.
    pub(super) fn pause(self, now: Instant) -> Option<Instant> {
        self.released.filter(|_| self.is_over(now)).map(|released| released + PAUSE)
    }

    /// How long readers wait at its end for those inside to leave.
    pub(super) fn drain(self) -> Duration {
        self.drain
    }

    /// It begins anew, because those inside stay.
    pub(super) fn lengthened(self, now: Instant) -> Turn {
        Turn { began: now, drain: (self.drain * 2).min(LONGEST_DRAIN), ..self }
    }

    pub(super) fn was_released(self) -> bool {
        self.released.is_some()
    }
}
