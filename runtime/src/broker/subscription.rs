//! [`Subscription`]: the messages of one subject, in the order in which they came.

use std::fmt;

#[cfg(feature = "jetstream")]
use futures::{FutureExt, StreamExt};
use tokio::sync::mpsc;

use super::Incoming;

/// What a subject brings. Dropping it ends the subscription.
pub struct Subscription(Inner);

enum Inner {
    #[cfg(feature = "jetstream")]
    Nats(async_nats::Subscriber),
    Embedded(mpsc::Receiver<Incoming>),
}

impl Subscription {
    #[cfg(feature = "jetstream")]
    pub(super) fn nats(subscriber: async_nats::Subscriber) -> Self {
        Subscription(Inner::Nats(subscriber))
    }

    pub(super) fn embedded(receiver: mpsc::Receiver<Incoming>) -> Self {
        Subscription(Inner::Embedded(receiver))
    }

    /// The next message; `None` when the connection is closed for good. Cancel-safe.
    pub async fn next(&mut self) -> Option<Incoming> {
        match &mut self.0 {
            #[cfg(feature = "jetstream")]
            Inner::Nats(subscriber) => subscriber.next().await.map(super::nats::incoming),
            Inner::Embedded(receiver) => receiver.recv().await,
        }
    }

    /// Ends the subscription without losing what is on its way: the messages that the broker had sent before it learnt of
    /// it still come, then `None`.
    pub async fn end(&mut self) {
        match &mut self.0 {
            // A connection that is closed for good brings nothing more by itself.
            #[cfg(feature = "jetstream")]
            Inner::Nats(subscriber) => drop(subscriber.drain().await),
            Inner::Embedded(receiver) => receiver.close(),
        }
    }

    /// The next message if one is already there.
    pub fn try_next(&mut self) -> Option<Incoming> {
        match &mut self.0 {
            // Not counted against the task's turn, or a reader would be sent away every 128 messages.
            #[cfg(feature = "jetstream")]
            Inner::Nats(subscriber) => {
                tokio::task::unconstrained(subscriber.next()).now_or_never().flatten().map(super::nats::incoming)
            }
            Inner::Embedded(receiver) => receiver.try_recv().ok(),
        }
    }

    /// Moves up to `max` messages that are already there into `into`; returns how many.
    pub fn drain(&mut self, into: &mut Vec<Incoming>, max: usize) -> usize {
        let before = into.len();
        while into.len() - before < max {
            let Some(message) = self.try_next() else { break };
            into.push(message);
        }
        into.len() - before
    }

    /// Waits for a message, then takes up to `max` that are there; 0 when the connection is closed for good.
    /// Cancel-safe: nothing is lost when it is not awaited to its end.
    pub async fn next_many(&mut self, into: &mut Vec<Incoming>, max: usize) -> usize {
        let Some(first) = self.next().await else { return 0 };
        into.push(first);
        1 + self.drain(into, max.saturating_sub(1))
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}
