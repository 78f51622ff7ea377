//! What befalls a broker as a whole, for tests: its links, its life, and a look at what it holds that is no message.

use bytes::Bytes;
use millstream_operators::Headers;

use super::Embedded;
use super::atomic::Atomic;
use super::consumer::Consumer;
use super::fast::Fast;
use super::jetstream::JetStream;
use super::jump::Origin;
use super::log::Log;
use super::redelivery::Redeliveries;
use super::stream::Stream;
use super::turn::Turn;
use crate::broker::{Storage, Subject};

impl Embedded {
    /// The same broker, to whose hook the connections made by this one are those of another client.
    #[must_use]
    pub fn as_client(&self, client: u64) -> Self {
        Embedded { client, ..self.clone() }
    }

    /// Cuts the links of all connections and restores them at once: what was delivered and not yet read is lost,
    /// requests get no answer, and every [`LinkState`](super::super::LinkState) moves on.
    pub fn cut_links(&self) {
        self.core.cut_links();
    }

    /// Takes the links of all connections down until [`restart`](Self::restart). Only a hook can keep messages away: a
    /// killed server takes none.
    pub fn drop_links(&self) {
        self.core.drop_links();
    }

    /// Begins anew, as a server does that was killed with `kill -9`: what is stored stays, and a message or an atomic batch
    /// is stored whole or not at all. Consumers stay, those that are not durable until nobody has asked for long. Gone are pull
    /// requests, batches that were not committed, streams in memory, what was said of redeliveries, and ids of messages that are gone themselves. With
    /// `forgets_acks` consumers are where they were made or set last, as when all that came later was not written down yet.
    pub fn restart(&self, forgets_acks: bool) {
        self.core.restart(forgets_acks);
    }

    /// Lets what waits under this number go on, in order.
    pub fn release(&self, number: u64) {
        self.core.release(number);
    }

    /// The messages of a stream from a sequence on; none if there is no such stream.
    pub fn messages(&self, stream: &str, from: u64) -> Vec<(u64, Subject, Bytes)> {
        let state = self.core.lock();
        let Some(stream) = state.js.streams.get(stream) else { return Vec::new() };
        stream.log.from(from).map(|(seq, message)| (seq, message.subject.clone(), message.payload.clone())).collect()
    }

    /// The headers of a message of a stream, if there is such a message.
    pub fn headers(&self, stream: &str, sequence: u64) -> Option<Headers> {
        Some(self.core.lock().js.streams.get(stream)?.log.get(sequence)?.headers.clone())
    }

    /// The last message of a subject of a stream, if there is one.
    pub fn last_message(&self, stream: &str, subject: &str) -> Option<(u64, Bytes)> {
        let state = self.core.lock();
        let log = &state.js.streams.get(stream)?.log;
        let seq = log.last_of(subject)?;
        Some((seq, log.get(seq)?.payload.clone()))
    }
}

impl JetStream {
    pub(super) fn restart(&mut self, forgets_acks: bool, turn: &mut Turn<'_>) {
        self.streams.retain(|_, stream| stream.config.storage != Storage::Memory);
        for stream in self.streams.values_mut() {
            stream.restart(forgets_acks, turn);
        }
    }
}

impl Stream {
    fn restart(&mut self, forgets_acks: bool, turn: &mut Turn<'_>) {
        (self.atomic, self.fast) = (Atomic::default(), Fast::default());
        let log = &self.log;
        self.ids.retain(|seq| log.get(seq).is_some());
        for consumer in self.consumers.values_mut() {
            consumer.restart(forgets_acks, log, turn);
        }
    }
}

impl Consumer {
    fn restart(&mut self, forgets_acks: bool, log: &Log, turn: &mut Turn<'_>) {
        self.waiting.clear();
        self.redeliveries = Redeliveries::default();
        if forgets_acks {
            let Origin { floor, next } = self.origin;
            self.stand_at(floor, next.max(log.first()));
            self.recount(log);
        }
        // What is unacknowledged comes again when its time is up.
        self.ack_check = (!self.pending.is_empty()).then(|| turn.wake_after(0));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::Mutex;
    use std::time::Duration;

    use millstream_operators::Headers;

    use crate::broker::{
        AckPolicy, ConsumerConfig, Embedded, EmbeddedOptions, Fate, Hook, Incoming, Js, Outgoing, StreamConfig, codes,
    };

    async fn pull(js: &Js) -> Vec<Incoming> {
        let inbox = js.connection().new_inbox();
        let mut deliveries = js.connection().subscribe(inbox.clone(), 64).await.unwrap();
        let pull = Outgoing::new(js.next_subject("S", "c"), r#"{"batch":9,"no_wait":true}"#).reply_to(inbox);
        js.connection().publish(pull).await.unwrap();
        let mut all = Vec::new();
        deliveries.drain(&mut all, 64);
        all
    }

    fn delivered(messages: &[Incoming]) -> Vec<String> {
        let places = messages.iter().filter_map(|message| message.reply.as_ref());
        places.map(|place| place.split('.').skip(4).take(3).collect::<Vec<_>>().join(".")).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_keeps_messages_and_forgets_acks_pulls_and_open_batches() {
        let broker = Embedded::default();
        let js = Js::new(broker.connect());
        js.create_stream(&StreamConfig { allow_atomic: true, ..StreamConfig::new("S", ["s"]) }).await.unwrap();
        for _ in 0..3 {
            js.publish("s", Headers::NONE, "x").await.unwrap();
        }
        let config = ConsumerConfig { ack_policy: AckPolicy::All, ..ConsumerConfig::durable("c") };
        js.create_consumer("S", &config).await.unwrap();
        let got = pull(&js).await;
        assert_eq!(delivered(&got), ["1.1.1", "1.2.2", "1.3.3"]);
        let ack = got[1].reply.clone().unwrap();
        js.connection().request(ack, Headers::NONE, "", Duration::from_secs(1)).await.unwrap();
        let mut headers = Headers::NONE;
        headers.push("Nats-Batch-Id", "b").unwrap();
        headers.push("Nats-Batch-Sequence", "1").unwrap();
        let _ = js.publish("s", headers.clone(), "x").await;

        broker.drop_links();
        assert!(!js.connection().link().borrow().connected);
        broker.restart(false);
        assert!(js.connection().link().borrow().connected);
        let info = js.consumer("S", "c").await.unwrap();
        assert_eq!((info.ack_floor.stream_seq, info.num_ack_pending), (2, 1), "what was written down stays");

        broker.restart(true);
        let info = js.consumer("S", "c").await.unwrap();
        assert_eq!((info.ack_floor.stream_seq, info.num_ack_pending, info.num_pending), (0, 0, 3));
        assert_eq!(delivered(&pull(&js).await), ["1.1.1", "1.2.2", "1.3.3"]);
        headers = Headers::NONE;
        headers.push("Nats-Batch-Id", "b").unwrap();
        headers.push("Nats-Batch-Sequence", "2").unwrap();
        headers.push("Nats-Batch-Commit", "1").unwrap();
        let error = js.publish("s", headers, "x").await.unwrap_err();
        assert_eq!(error.api_code(), Some(codes::ATOMIC_INCOMPLETE));
        assert_eq!(broker.messages("S", 2).len(), 2);
        assert_eq!(broker.last_message("S", "s").unwrap().0, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_forgets_where_consumers_were_behind_their_last_reset() {
        let broker = Embedded::default();
        let js = Js::new(broker.connect());
        js.create_stream(&StreamConfig::new("S", ["s"])).await.unwrap();
        for _ in 0..3 {
            js.publish("s", Headers::NONE, "x").await.unwrap();
        }
        js.create_consumer("S", &ConsumerConfig::durable("c")).await.unwrap();
        js.reset_consumer("S", "c", Some(2)).await.unwrap();
        assert_eq!(delivered(&pull(&js).await), ["1.2.1", "1.3.2"]);
        broker.restart(true);
        assert_eq!(delivered(&pull(&js).await), ["1.2.1", "1.3.2"]);
    }

    /// Holds what one client says, and has deliveries to another come twice.
    #[derive(Default)]
    struct Holding(Mutex<bool>);

    impl Hook for Holding {
        fn on_publish_by(&self, client: u64, _: &Outgoing) -> Fate {
            if client == 7 && *self.0.lock().unwrap() { Fate::Hold(1) } else { Fate::Pass }
        }

        fn on_deliver_to(&self, client: u64, _: &Incoming) -> Fate {
            if client == 8 { Fate::Repeat } else { Fate::Pass }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_goes_on_in_order_when_it_is_released_and_what_is_repeated_comes_twice() {
        let holding = Arc::<Holding>::default();
        let broker = Embedded::with_hook(EmbeddedOptions::default(), Arc::clone(&holding) as Arc<dyn Hook>);
        let (one, other) = (broker.as_client(7).connect(), broker.as_client(8).connect());
        let mut heard = other.subscribe("a", 8).await.unwrap();
        *holding.0.lock().unwrap() = true;
        for word in ["x", "y"] {
            one.publish(Outgoing::new("a", word)).await.unwrap();
        }
        assert!(heard.try_next().is_none());
        *holding.0.lock().unwrap() = false;
        broker.release(2);
        assert!(heard.try_next().is_none());
        broker.release(1);
        let mut words = Vec::new();
        heard.drain(&mut words, 8);
        let words: Vec<_> = words.iter().map(|message| &message.payload[..]).collect();
        assert_eq!(words, [b"x", b"x", b"y", b"y"]);
    }
}
