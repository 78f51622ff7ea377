//! [`Now`] and [`Due`]: what time it is, and when something must be looked at again.

use std::time::Duration;

use tokio::time::Instant;

/// One moment, on both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// For what lasts.
    pub(super) instant: Instant,
    /// Nanoseconds since the epoch, for what is written down.
    pub(super) wall: i64,
}

/// The earliest moment at which something must be looked at. Nothing is ever cancelled: who is looked at too
/// early asks again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Due(pub(super) Option<Instant>);

impl Due {
    /// Asks for a look at `when`, if none comes earlier.
    pub(super) fn at(&mut self, when: Instant) {
        self.0 = Some(self.0.map_or(when, |due| due.min(when)));
    }

    /// Whether the moment has come; it is then over.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let due = self.0.is_some_and(|due| due <= now);
        if due {
            self.0 = None;
        }
        due
    }
}

/// An instant that far away; the far future for what would overflow.
pub(super) fn after(now: Instant, nanos: u64) -> Instant {
    const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    let wait = Duration::from_nanos(nanos).min(FAR);
    now.checked_add(wait).unwrap_or(now)
}
