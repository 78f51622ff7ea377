//! [`Gather`]: what was heard and not given yet, and how long it may wait for more.

use std::time::Duration;

use millstream_operators::Result;
use tokio::time::Instant;

use super::pull::{Again, Pull};
use crate::broker::Incoming;

/// The next batch as it grows. What it holds stays when the future that waits for more is dropped.
#[derive(Default)]
pub(super) struct Gather {
    pub(super) heard: Vec<Incoming>,
    linger: Duration,
    ready_at: Option<Instant>,
}

impl Gather {
    /// A batch whose first message may wait for others as long as `linger`.
    pub(super) fn lingering(linger: Duration) -> Self {
        Gather { linger, ..Gather::default() }
    }

    /// Waits until there is a batch: `max` messages, or some for which it waited long enough. Cancel-safe.
    pub(super) async fn fill(&mut self, pull: &mut Pull, max: usize) -> Result<Option<Again>> {
        loop {
            let room = max.saturating_sub(self.heard.len());
            if room == 0 || (self.linger.is_zero() && !self.heard.is_empty()) {
                return Ok(None);
            }
            if !self.heard.is_empty() {
                self.ready_at.get_or_insert_with(|| pull.heard_at() + self.linger);
            }
            let ready_at = self.ready_at;
            tokio::select! {
                biased;
                again = pull.hear(&mut self.heard, room) => {
                    let again = again?;
                    if again.is_some() {
                        return Ok(again);
                    }
                }
                () = wait_until(ready_at) => return Ok(None),
            }
        }
    }

    /// The first `max` messages; the next batch begins behind them.
    pub(super) fn take(&mut self, max: usize) -> std::vec::Drain<'_, Incoming> {
        self.ready_at = None;
        self.heard.drain(..max.min(self.heard.len()))
    }

    /// Puts back what was taken and is not given yet.
    pub(super) fn put_back(&mut self, messages: Vec<Incoming>) {
        self.heard.splice(0..0, messages);
    }

    /// Forgets what was heard.
    pub(super) fn clear(&mut self) {
        self.ready_at = None;
        self.heard.clear();
    }
}

/// Waits until then; for ever if there is no then.
pub(super) async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
