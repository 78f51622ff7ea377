//! [`Silence`]: the keys of a node that nothing has come for in a long time, by event time or by the clock.

use std::sync::Arc;
use std::time::Duration;

use crate::{Expiry, Outbox, Payload, Result, StateKey, StateVisitor, Timestamp, Turn};

/// Tells the time.
pub(super) type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Which keys are to be forgotten. By the clock, all rows of a batch come when it comes, and the operator is woken to let keys go.
pub(super) struct Silence<K> {
    expiry: Expiry<K>,
    clock: Option<Clock>,
    span: Duration,
    now: Timestamp,
    is_woken: bool,
}

impl<K: StateKey> Silence<K> {
    pub(super) fn new(span: Duration, clock: Option<Clock>) -> Self {
        Silence { expiry: Expiry::new(span), clock, span, now: Timestamp::MIN, is_woken: false }
    }

    /// Rows or timers come, all of them now.
    pub(super) fn begin<P: Payload>(&mut self, out: &mut Outbox<'_, P>) {
        if let Some(clock) = &self.clock {
            self.now = clock();
            if !self.is_woken {
                self.is_woken = true;
                out.wake_after(self.span);
            }
        }
    }

    /// Something comes for a key, which is of this event time. True if what the key had is to be forgotten first.
    pub(super) fn touch(&mut self, key: &K, time: Timestamp) -> bool {
        let time = if self.clock.is_some() { self.now } else { time };
        self.expiry.touch(key, time)
    }

    /// Event time has come to `now`. There may be [more](Turn::Again) keys to forget than there is room for.
    pub(super) fn on_watermark<P: Payload>(
        &mut self,
        now: Timestamp,
        out: &Outbox<'_, P>,
        forget: impl FnMut(K),
    ) -> Turn {
        match self.clock {
            None => self.let_go(now, out, forget),
            Some(_) => Turn::Done,
        }
    }

    /// The clock has come to `now`. As [`on_watermark`](Silence::on_watermark).
    pub(super) fn on_wake<P: Payload>(
        &mut self,
        now: Timestamp,
        out: &mut Outbox<'_, P>,
        forget: impl FnMut(K),
    ) -> Turn {
        if self.clock.is_none() {
            return Turn::Done;
        }
        if self.let_go(now, out, forget) == Turn::Again {
            return Turn::Again;
        }
        self.is_woken = !self.expiry.is_empty();
        if self.is_woken {
            out.wake_after(self.span);
        }
        Turn::Done
    }

    fn let_go<P: Payload>(&mut self, now: Timestamp, out: &Outbox<'_, P>, mut forget: impl FnMut(K)) -> Turn {
        while let Some(key) = self.expiry.next_gone(now) {
            forget(key);
            if !out.has_room() {
                return Turn::Again;
            }
        }
        Turn::Done
    }

    pub(super) fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        self.expiry.state(visit)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.expiry.len()
    }
}
