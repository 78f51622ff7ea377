//! [`Clock`]: the one place that time comes from.

use std::time::Duration;

use millstream_operators::Timestamp;
use tokio::time::Instant;

/// The engine's clock: the wall clock once, at the start, and tokio's `Instant` from there. When tokio's time is paused,
/// so is this: paused time is virtual time, and nothing else in Millstream asks what time it is.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    wall: Timestamp,
}

impl Clock {
    /// A clock that starts at the wall clock's time.
    pub fn system() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "the one reading of the wall clock, from which all time is derived"
        )]
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Clock::starting_at(Timestamp::default().saturating_add(wall))
    }

    /// A clock that starts at `wall`, for tests.
    pub fn starting_at(wall: Timestamp) -> Self {
        Clock { start: Instant::now(), wall }
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.wall.saturating_add(self.start.elapsed())
    }

    /// How long ago `then` was; zero if it is yet to come.
    pub fn since(&self, then: Timestamp) -> Duration {
        self.now().since(then)
    }
}
