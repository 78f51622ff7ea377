//! The embedded broker: JetStream's semantics in memory, in this process.
//!
//! It has three uses: `millstream demo` where no server is found, users' own tests, and the world of the
//! simulator. It is held honest by a contract suite that runs the same operations against it and a real
//! nats-server. It is *not a product to deploy*: nothing is kept when the process ends, and nobody outside the
//! process can reach it.
//!
//! Time is tokio's, so that a paused runtime is virtual time. Every operation happens at once, under one lock that
//! is never held across an `await`.

mod core;
#[allow(dead_code, reason = "used by the streams, which come next")]
mod due;
mod hook;
mod link;
mod router;

use std::fmt;
use std::sync::Arc;

pub use hook::{Fate, Hook};
pub(super) use link::EmbeddedLink;

use super::Connection;

/// A broker in this process. Clones are the same broker; what it holds goes with the last clone and connection.
#[derive(Clone)]
pub struct Embedded(Arc<core::Core>);

/// How an [`Embedded`] broker behaves.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EmbeddedOptions {
    /// The largest message it takes, headers included.
    pub max_payload: usize,
    /// The wall-clock time at which it starts, in nanoseconds since the epoch; fixed, so that runs are alike.
    pub started_at: i64,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        // 2026-01-01T00:00:00Z.
        EmbeddedOptions { max_payload: 1 << 20, started_at: 1_767_225_600_000_000_000 }
    }
}

impl Default for Embedded {
    fn default() -> Self {
        Embedded::new(EmbeddedOptions::default())
    }
}

impl Embedded {
    /// An empty broker.
    pub fn new(options: EmbeddedOptions) -> Self {
        Embedded(core::Core::new(options, None))
    }

    /// An empty broker that asks `hook` what becomes of every message: the door for fault injection.
    pub fn with_hook(options: EmbeddedOptions, hook: Arc<dyn Hook>) -> Self {
        Embedded(core::Core::new(options, Some(hook)))
    }

    /// A connection to it. Must be called in a tokio runtime, whose clock the broker then follows.
    pub fn connect(&self) -> Connection {
        Connection::embedded(EmbeddedLink::new(&self.0))
    }

    /// Cuts the links of all connections and restores them at once: what was delivered and not yet read is lost,
    /// requests get no answer, and every [`LinkState`](super::LinkState) moves on.
    pub fn cut_links(&self) {
        self.0.cut_links();
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millstream_operators::Headers;

    use super::*;
    use crate::broker::{BrokerError, Outgoing};

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_message_goes_to_every_subscription_that_matches() {
        let connection = Embedded::default().connect();
        let mut all = connection.subscribe("a.>", 8).await.unwrap();
        let mut one = connection.subscribe("a.b", 8).await.unwrap();
        connection.publish(Outgoing::new("a.b", "x")).await.unwrap();
        assert_eq!(&all.next().await.unwrap().payload[..], b"x");
        assert_eq!(&one.next().await.unwrap().payload[..], b"x");
        assert!(one.try_next().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_group_shares_its_messages() {
        let connection = Embedded::default().connect();
        let mut one = connection.queue_subscribe("q", "g", 8).await.unwrap();
        let mut two = connection.queue_subscribe("q", "g", 8).await.unwrap();
        connection.publish_all((0..4).map(|_| Outgoing::new("q", "x"))).await.unwrap();
        let (mut ones, mut twos) = (Vec::new(), Vec::new());
        assert_eq!((one.drain(&mut ones, 9), two.drain(&mut twos, 9)), (2, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_nobody_hears_fails_at_once_and_one_without_answer_in_time() {
        let connection = Embedded::default().connect();
        let error = connection.request("nobody", Headers::NONE, "", SECOND).await.unwrap_err();
        assert!(matches!(error, BrokerError::NoResponders { .. }), "{error}");
        let _silent = connection.subscribe("silent", 8).await.unwrap();
        let error = connection.request("silent", Headers::NONE, "", SECOND).await.unwrap_err();
        assert!(matches!(error, BrokerError::Timeout { .. }), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_over_max_payload_is_refused() {
        let connection = Embedded::default().connect();
        let error = connection.publish(Outgoing::new("a", vec![0; (1 << 20) + 1])).await.unwrap_err();
        assert!(matches!(error, BrokerError::MaxPayload { .. }), "{error}");
    }
}
