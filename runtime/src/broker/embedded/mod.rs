//! The embedded broker: JetStream's semantics in memory, in this process.
//!
//! It has three uses: `millstream demo` where no server is found, users' own tests, and the world of the
//! simulator. It is held honest by a contract suite that runs the same operations against it and a real
//! nats-server. It is *not a product to deploy*: nothing is kept when the process ends, and nobody outside the
//! process can reach it.
//!
//! It has: streams with all limits, retentions and discards, message ids, expected sequences, rollups, times to live;
//! atomic batches and fast ingest; pull consumers with acknowledgements of all kinds, redelivery and `RESET`. It has
//! not: push consumers, mirrors, sources, republishing, counters, schedules, priority groups, direct gets, more than
//! one replica; it refuses what asks for them.
//!
//! Time is tokio's, so that a paused runtime is virtual time. Every operation happens at once, under one lock that
//! is never held across an `await`.

mod ack;
mod api;
mod api_consumer;
mod api_stream;
mod atomic;
mod clock;
mod consumer;
mod consumer_config;
mod core;
mod delivery;
mod due;
mod fast;
mod filter;
mod hook;
mod ids;
mod jetstream;
mod jump;
mod link;
mod log;
mod outage;
mod place;
mod publish;
mod pull;
mod purge;
mod redelivery;
mod refusal;
mod router;
mod staged;
mod stream;
mod stream_config;
mod told;
mod turn;
mod wishes;

use std::fmt;
use std::sync::Arc;

pub use hook::{Fate, Hook};
pub(super) use link::EmbeddedLink;

use super::Connection;

/// A broker in this process. Clones are the same broker; what it holds goes with the last clone and connection.
#[derive(Clone)]
pub struct Embedded {
    core: Arc<core::Core>,
    // The number by which hooks know whose connections these are.
    client: u64,
}

/// How an [`Embedded`] broker behaves.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EmbeddedOptions {
    /// The largest message it takes, headers included.
    pub max_payload: usize,
    /// The most messages of an atomic batch.
    pub max_batch: u64,
    /// How new its JetStream says that it is.
    pub api_level: u64,
    /// The wall-clock time at which it starts, in nanoseconds since the epoch; fixed, so that runs are alike.
    pub started_at: i64,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        // 2026-01-01T00:00:00Z.
        let started_at = 1_767_225_600_000_000_000;
        EmbeddedOptions { max_payload: 1 << 20, max_batch: 1_000, api_level: 5, started_at }
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
        Embedded { core: core::Core::new(options, None), client: 0 }
    }

    /// An empty broker that asks `hook` what becomes of every message: the door for fault injection.
    pub fn with_hook(options: EmbeddedOptions, hook: Arc<dyn Hook>) -> Self {
        Embedded { core: core::Core::new(options, Some(hook)), client: 0 }
    }

    /// A connection to it. Must be called in a tokio runtime, whose clock the broker then follows.
    pub fn connect(&self) -> Connection {
        Connection::embedded(EmbeddedLink::new(&self.core, self.client))
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
    use crate::broker::{AckPolicy, BrokerError, ConsumerConfig, Incoming, Js, Outgoing, StreamConfig};

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

    fn js(embedded: &Embedded) -> Js {
        Js::new(embedded.connect())
    }

    async fn pull(js: &Js, consumer: &str, body: &str) -> Vec<Incoming> {
        let inbox = js.connection().new_inbox();
        let mut deliveries = js.connection().subscribe(inbox.clone(), 1024).await.unwrap();
        let pull = Outgoing::new(js.next_subject("S", consumer), body.to_owned()).reply_to(inbox);
        js.connection().publish(pull).await.unwrap();
        let mut all = Vec::new();
        deliveries.drain(&mut all, 1024);
        all
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_published_is_pulled_acknowledged_and_read_again_after_a_reset() {
        let js = js(&Embedded::default());
        js.create_stream(&StreamConfig::new("S", ["s.>"])).await.unwrap();
        for number in 1..=5 {
            let ack = js.publish(format!("s.{number}"), Headers::NONE, "x").await.unwrap();
            assert_eq!((ack.stream.as_str(), ack.seq), ("S", number));
        }
        let config = ConsumerConfig { ack_policy: AckPolicy::All, ..ConsumerConfig::durable("c") };
        assert_eq!(js.create_consumer("S", &config).await.unwrap().num_pending, 5);
        let got = pull(&js, "c", r#"{"batch":3,"no_wait":true}"#).await;
        assert_eq!(got.len(), 3);
        let ack = got[1].reply.clone().unwrap();
        assert!(ack.starts_with("$JS.ACK.S.c.1.2.2.") && ack.ends_with(".3"), "{ack}");
        let answer = js.connection().request(ack, Headers::NONE, "", SECOND).await.unwrap();
        assert!(answer.payload.is_empty());
        let info = js.consumer("S", "c").await.unwrap();
        assert_eq!((info.ack_floor.stream_seq, info.num_ack_pending, info.num_pending), (2, 1, 2));
        assert_eq!(js.reset_consumer("S", "c", None).await.unwrap().reset_seq, 3);
        let got = pull(&js, "c", r#"{"batch":9,"no_wait":true}"#).await;
        assert!(got[0].reply.as_ref().unwrap().starts_with("$JS.ACK.S.c.1.3.1."));
        assert_eq!((got.len(), got[3].status), (4, Some(404)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_acknowledged_in_time_comes_again() {
        let js = js(&Embedded::default());
        js.create_stream(&StreamConfig::new("S", ["s"])).await.unwrap();
        js.publish("s", Headers::NONE, "x").await.unwrap();
        let config = ConsumerConfig { ack_wait: 1_000_000_000, ..ConsumerConfig::durable("c") };
        js.create_consumer("S", &config).await.unwrap();
        assert_eq!(pull(&js, "c", "1").await.len(), 1);
        let inbox = js.connection().new_inbox();
        let mut deliveries = js.connection().subscribe(inbox.clone(), 8).await.unwrap();
        let next = js.next_subject("S", "c");
        js.connection().publish(Outgoing::new(next, "1").reply_to(inbox)).await.unwrap();
        assert!(deliveries.try_next().is_none());
        let again = deliveries.next().await.unwrap();
        assert!(again.reply.unwrap().starts_with("$JS.ACK.S.c.2.1.2."));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pull_that_expires_is_told_so() {
        let js = js(&Embedded::default());
        js.create_stream(&StreamConfig::new("S", ["s"])).await.unwrap();
        js.create_consumer("S", &ConsumerConfig::durable("c")).await.unwrap();
        let inbox = js.connection().new_inbox();
        let mut deliveries = js.connection().subscribe(inbox.clone(), 8).await.unwrap();
        let body = r#"{"batch":3,"expires":10000000000,"idle_heartbeat":4000000000}"#;
        let pull = Outgoing::new(js.next_subject("S", "c"), body).reply_to(inbox);
        js.connection().publish(pull).await.unwrap();
        for expected in [100, 100, 408] {
            assert_eq!(deliveries.next().await.unwrap().status, Some(expected));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn keys_change_by_compare_and_set() {
        let js = js(&Embedded::default());
        js.create_bucket("b", 1, 1).await.unwrap();
        assert_eq!(js.kv_create("b", "k", "1").await.unwrap(), Some(1));
        assert_eq!(js.kv_create("b", "k", "2").await.unwrap(), None);
        assert_eq!(js.kv_update("b", "k", "3", 1).await.unwrap(), Some(2));
        assert_eq!(js.kv_update("b", "k", "4", 1).await.unwrap(), None);
        assert_eq!(js.kv_get("b", "k").await.unwrap().unwrap().value, "3");
        js.kv_purge("b", "k").await.unwrap();
        assert_eq!(js.kv_get("b", "k").await.unwrap(), None);
        assert_eq!(js.kv_create("b", "k", "5").await.unwrap(), Some(4));
    }

    #[tokio::test(start_paused = true)]
    async fn old_messages_go() {
        let js = js(&Embedded::default());
        let config = StreamConfig { max_age: 5_000_000_000, ..StreamConfig::new("S", ["s"]) };
        js.create_stream(&config).await.unwrap();
        js.publish("s", Headers::NONE, "x").await.unwrap();
        tokio::time::advance(4 * SECOND).await;
        assert_eq!(js.stream("S").await.unwrap().state.messages, 1);
        tokio::time::advance(SECOND).await;
        let state = js.stream("S").await.unwrap().state;
        assert_eq!((state.messages, state.first_seq, state.last_seq), (0, 2, 1));
    }
}
