//! The JetStream sink alone, against servers and networks that fail: every record is stored, in the order in which it
//! was written first, by fast ingest and by group replies.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is test code, though not inside a test")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use millstream::broker::{
    AckPolicy, ConnectOptions, Connection, ConsumerConfig, Discard, Embedded, EmbeddedOptions, Fate, Hook, Incoming,
    Js, NatsServer, Outgoing, StreamConfig, Subject,
};
use millstream::connectors::{Connections, JetStreamSink, JetStreamWrite};
use millstream_operators::{Batch, Epoch, FaultKind, Headers, Origin, Origins, Place, Record, Sink, Timestamp};
use millstream_tests::support::*;
use tokio::time::{Instant, sleep, timeout};

/// Records of these numbers, as if each came from a message of its own.
fn batch(numbers: std::ops::Range<u64>) -> Batch<Vec<Record>> {
    let subject = Bytes::from_static(b"out.number");
    let payload = |number: u64| Bytes::from(format!("{number:08}"));
    let origin = |number| Origin { sequence: number + 1, ..Origin::default() };
    let messages: Vec<_> = numbers.clone().map(origin).collect();
    let place = Arc::new(Place { node: "in".into(), stream: "IN".into() });
    let rows =
        numbers.map(|number| Record { subject: subject.clone(), headers: Headers::NONE, payload: payload(number) });
    Batch::at(Timestamp::MIN, rows.collect::<Vec<_>>()).with_origins(Origins::one_each(place, messages)).unwrap()
}

fn out(fast: bool) -> StreamConfig {
    StreamConfig { allow_batched: fast, ..StreamConfig::new("OUT", ["out.>"]) }
}

async fn sink_to(url: String, write: JetStreamWrite) -> JetStreamSink {
    let connections = Arc::new(Connections::to_nats(ConnectOptions::to(url)).unwrap());
    let mut sink = JetStreamSink::new("p", write, connections);
    sink.open().await.unwrap();
    sink
}

/// Writes as the engine does, with time between batches now and then, and flushes at the end.
async fn write(sink: &mut JetStreamSink, numbers: std::ops::Range<u64>, pause: Duration) {
    let mut next = numbers.start;
    while next < numbers.end {
        let upto = (next + 1 + chance() % 400).min(numbers.end);
        sink.write(batch(next..upto)).await.unwrap();
        next = upto;
        if !pause.is_zero() {
            assert!(timeout(pause, sink.drive()).await.is_err(), "a sink drives on for ever");
        }
    }
    timeout(Duration::from_secs(60), sink.flush(Epoch(1))).await.expect("it is confirmed in time").unwrap();
}

/// All that a stream holds, in order.
async fn stored(connection: &Connection, stream: &str) -> Vec<u64> {
    let js = Js::new(connection.clone());
    let held = js.stream(stream).await.unwrap().state.messages;
    let config = ConsumerConfig { name: "oracle".into(), ack_policy: AckPolicy::None, ..ConsumerConfig::default() };
    js.create_consumer(stream, &config).await.unwrap();
    let inbox = connection.new_inbox();
    let mut messages = connection.subscribe(inbox.clone(), 1 << 17).await.unwrap();
    let pull = Outgoing::new(js.next_subject(stream, "oracle"), format!(r#"{{"batch":{held},"expires":30000000000}}"#));
    connection.publish(pull.reply_to(Subject::from(inbox))).await.unwrap();
    let mut numbers = Vec::new();
    for _ in 0..held {
        let message = timeout(Duration::from_secs(10), messages.next()).await.unwrap().unwrap();
        assert!(!message.is_status(), "{message:?}");
        numbers.push(std::str::from_utf8(&message.payload).unwrap().trim_end().parse().unwrap());
    }
    let _ = js.delete_consumer(stream, "oracle").await;
    numbers
}

/// What was stored is what was written; gives the number of repeats.
fn check(stored: &[u64], written: u64, in_order: bool) -> u64 {
    let mut times: HashMap<u64, u64> = HashMap::new();
    let mut firsts = Vec::new();
    for number in stored {
        let times = times.entry(*number).or_default();
        *times += 1;
        if *times == 1 {
            firsts.push(*number);
        }
    }
    if !in_order {
        firsts.sort_unstable();
    }
    let wrong = firsts.iter().zip(0..).find(|(number, place)| **number != *place);
    assert_eq!((wrong, firsts.len() as u64), (None, written), "what comes first must be what was written, in order");
    stored.len() as u64 - written
}

#[tokio::test]
async fn without_failures_every_record_is_stored_once_and_in_order() {
    let server = NatsServer::start().await.unwrap();
    let connection = server.connect().await.unwrap();
    let js = Js::new(connection.clone());
    for fast in [true, false] {
        js.create_stream(&out(fast)).await.unwrap();
        let mut sink = sink_to(server.url(), JetStreamWrite::to("OUT")).await;
        write(&mut sink, 0..20_000, Duration::ZERO).await;
        write(&mut sink, 20_000..20_050, Duration::from_millis(100)).await;
        assert_eq!(check(&stored(&connection, "OUT").await, 20_050, true), 0, "fast: {fast}");
        js.delete_stream("OUT").await.unwrap();
    }
}

#[tokio::test]
async fn a_stream_that_the_sink_creates_allows_fast_ingest() {
    let server = NatsServer::start().await.unwrap();
    let connection = server.connect().await.unwrap();
    let to = JetStreamWrite { create: Some(vec!["out.>".into()]), ..JetStreamWrite::to("OUT") };
    let mut sink = sink_to(server.url(), to).await;
    assert!(Js::new(connection.clone()).stream("OUT").await.unwrap().config.allow_batched);
    write(&mut sink, 0..10, Duration::ZERO).await;
    assert_eq!(check(&stored(&connection, "OUT").await, 10, true), 0);
}

#[tokio::test]
async fn messages_that_fill_the_window_before_the_flow_do_not_stall() {
    let server = NatsServer::start().await.unwrap();
    let connection = server.connect().await.unwrap();
    Js::new(connection.clone()).create_stream(&out(true)).await.unwrap();
    let mut sink = sink_to(server.url(), JetStreamWrite::to("OUT")).await;
    // A batch begins with small messages and the greatest flow; then eight of the large ones fill the window.
    write(&mut sink, 0..10, Duration::ZERO).await;
    sink.write(batch(10..20)).await.unwrap();
    let began = Instant::now();
    let large = |number: u64| Record {
        subject: Bytes::from_static(b"out.large"),
        headers: Headers::NONE,
        payload: [format!("{number:08}"), " ".repeat(1_000_000)].concat().into(),
    };
    for number in 20..80 {
        sink.write(Batch::at(Timestamp::MIN, vec![large(number)])).await.unwrap();
    }
    sink.flush(Epoch(1)).await.unwrap();
    // They fill it seven times; with a time-out of five seconds each that would be 35.
    assert!(began.elapsed() < Duration::from_secs(25), "it waited for time-outs: {:?}", began.elapsed());
    assert_eq!(check(&stored(&connection, "OUT").await, 80, true), 0);
}

#[tokio::test]
async fn a_server_that_is_killed_midstream_has_everything_in_the_end() {
    for fast in [true, false] {
        let mut server = NatsServer::start().await.unwrap();
        let connection = server.connect().await.unwrap();
        Js::new(connection.clone()).create_stream(&out(fast)).await.unwrap();
        let mut sink = sink_to(server.url(), JetStreamWrite::to("OUT")).await;
        let writing = tokio::spawn(async move { write(&mut sink, 0..40_000, Duration::from_millis(5)).await });
        let mut kills = 0;
        while !writing.is_finished() && kills < 5 {
            sleep(Duration::from_millis(50 + chance() % 200)).await;
            server.kill_9();
            server.restart().await.unwrap();
            kills += 1;
        }
        writing.await.unwrap();
        let repeats = check(&stored(&connection, "OUT").await, 40_000, fast);
        println!("killed server, fast: {fast}: {kills} kills, {repeats} repeats");
        // Nothing but the window is ever sent again.
        assert!(repeats <= kills * 4_096, "{repeats} repeats after {kills} kills");
    }
}

#[tokio::test]
async fn answers_that_the_network_swallows_are_made_up_for() {
    for fast in [true, false] {
        let server = NatsServer::start().await.unwrap();
        let connection = server.connect().await.unwrap();
        Js::new(connection.clone()).create_stream(&out(fast)).await.unwrap();
        let proxy = LossyProxy::before(server.port()).await;
        let mut sink = sink_to(proxy.url(), JetStreamWrite::to("OUT")).await;
        let rounds = 10;
        for round in 0..rounds {
            proxy.lose(200);
            write(&mut sink, round * 3_000..(round + 1) * 3_000, Duration::from_millis(1)).await;
        }
        assert!(proxy.cuts() > 0, "nothing was cut");
        let repeats = check(&stored(&connection, "OUT").await, rounds * 3_000, fast);
        println!("lossy network, fast: {fast}: {} cuts, {repeats} repeats", proxy.cuts());
        assert!(repeats <= proxy.cuts() * 4_096, "{repeats} repeats");
    }
}

#[tokio::test]
async fn a_full_stream_stalls_and_goes_on_in_order() {
    let server = NatsServer::start().await.unwrap();
    let connection = server.connect().await.unwrap();
    let js = Js::new(connection.clone());
    for fast in [true, false] {
        let limited = |max_msgs| StreamConfig { discard: Discard::New, max_msgs, ..out(fast) };
        js.create_stream(&limited(1_000)).await.unwrap();
        let mut sink = sink_to(server.url(), JetStreamWrite::to("OUT")).await;
        let writing = tokio::spawn(async move { write(&mut sink, 0..20_000, Duration::ZERO).await });
        for room in [1_000, 1_001, 7_000] {
            js.update_stream(&limited(room)).await.unwrap();
            let room = u64::try_from(room).unwrap();
            let deadline = Instant::now() + Duration::from_secs(20);
            while js.stream("OUT").await.unwrap().state.messages < room {
                assert!(Instant::now() < deadline && !writing.is_finished());
                sleep(Duration::from_millis(20)).await;
            }
        }
        js.update_stream(&limited(-1)).await.unwrap();
        writing.await.unwrap();
        let repeats = check(&stored(&connection, "OUT").await, 20_000, fast);
        println!("full stream, fast: {fast}: {repeats} repeats");
        // A group goes on behind a message that was refused.
        assert!(!fast || repeats == 0, "{repeats}");
        js.delete_stream("OUT").await.unwrap();
    }
}

#[tokio::test]
async fn a_stream_that_is_missing_and_comes_back_gets_the_rest() {
    let server = NatsServer::start().await.unwrap();
    let connection = server.connect().await.unwrap();
    let js = Js::new(connection.clone());
    // It comes back as it was, or without fast ingest.
    for back_fast in [true, false] {
        js.create_stream(&out(true)).await.unwrap();
        let mut sink = sink_to(server.url(), JetStreamWrite::to("OUT")).await;
        write(&mut sink, 0..1_000, Duration::ZERO).await;
        js.delete_stream("OUT").await.unwrap();
        let writing = tokio::spawn(async move {
            write(&mut sink, 1_000..9_000, Duration::ZERO).await;
            sink
        });
        sleep(Duration::from_millis(500)).await;
        assert!(!writing.is_finished(), "nobody has taken anything");
        js.create_stream(&out(back_fast)).await.unwrap();
        writing.await.unwrap();
        let stored: Vec<u64> = stored(&connection, "OUT").await.into_iter().map(|number| number - 1_000).collect();
        check(&stored, 8_000, back_fast);
        js.delete_stream("OUT").await.unwrap();
    }
}

#[tokio::test]
async fn a_stream_that_stops_fast_ingest_is_written_to_by_group_replies() {
    let server = NatsServer::start().await.unwrap();
    let connection = server.connect().await.unwrap();
    let js = Js::new(connection.clone());
    js.create_stream(&out(true)).await.unwrap();
    let mut sink = sink_to(server.url(), JetStreamWrite::to("OUT")).await;
    let writing = tokio::spawn(async move { write(&mut sink, 0..20_000, Duration::from_millis(2)).await });
    until_out(&connection, 1_000, Duration::from_secs(20)).await;
    js.update_stream(&out(false)).await.unwrap();
    writing.await.unwrap();
    let repeats = check(&stored(&connection, "OUT").await, 20_000, true);
    assert!(repeats <= 4_096, "{repeats}");
}

#[tokio::test]
async fn message_ids_drop_repeats_in_fast_ingest_too() {
    let server = NatsServer::start().await.unwrap();
    let connection = server.connect().await.unwrap();
    let js = Js::new(connection.clone());
    for fast in [true, false] {
        js.create_stream(&out(fast)).await.unwrap();
        let to = JetStreamWrite { dedup: true, ..JetStreamWrite::to("OUT") };
        let mut first = sink_to(server.url(), to.clone()).await;
        write(&mut first, 0..3_000, Duration::ZERO).await;
        let mut restarted = sink_to(server.url(), to).await;
        write(&mut restarted, 0..5_000, Duration::ZERO).await;
        assert_eq!(check(&stored(&connection, "OUT").await, 5_000, true), 0, "fast: {fast}");
        js.delete_stream("OUT").await.unwrap();
    }
}

#[tokio::test]
async fn a_subject_of_another_stream_is_a_mistake_that_is_named() {
    let server = NatsServer::start().await.unwrap();
    let connection = server.connect().await.unwrap();
    let js = Js::new(connection.clone());
    js.create_stream(&StreamConfig { allow_batched: true, ..StreamConfig::new("OTHER", ["out.>"]) }).await.unwrap();
    js.create_stream(&StreamConfig { allow_batched: true, ..StreamConfig::new("OUT", ["elsewhere"]) }).await.unwrap();
    let mut sink = sink_to(server.url(), JetStreamWrite::to("OUT")).await;
    sink.write(batch(0..10)).await.unwrap();
    let fault = sink.flush(Epoch(1)).await.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Setup);
    assert!(fault.to_string().contains("stream OTHER took a message that was meant for stream OUT"), "{fault}");
}

/// Loses messages to the stream and answers from it, some of a thousand each.
#[derive(Debug)]
struct Losses {
    permille: AtomicU64,
    state: Mutex<u64>,
    lost: AtomicU64,
}

impl Losses {
    fn fate(&self, concerns: bool) -> Fate {
        // xorshift64: a row of numbers that looks like chance and is the same for the same seed.
        let mut state = self.state.lock().unwrap();
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        if concerns && *state % 1_000 < self.permille.load(Ordering::Relaxed) {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return Fate::Lose;
        }
        Fate::Pass
    }
}

impl Hook for Losses {
    fn on_publish(&self, message: &Outgoing) -> Fate {
        self.fate(message.subject.starts_with("out."))
    }

    fn on_deliver(&self, message: &Incoming) -> Fate {
        self.fate(message.subject.starts_with("_INBOX") && message.payload.starts_with(br#"{"#))
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_is_lost_on_the_way_is_stored_in_the_end() {
    for seed in 1..=24_u64 {
        let fast = seed % 3 != 0;
        let permille = [0, 1, 5, if fast { 20 } else { 1 }][(seed % 4) as usize];
        let losses =
            Arc::new(Losses { permille: 0.into(), state: Mutex::new(seed * 0x9e37_79b9), lost: AtomicU64::new(0) });
        let broker = Embedded::with_hook(EmbeddedOptions::default(), Arc::<Losses>::clone(&losses));
        let connection = broker.connect();
        Js::new(connection.clone()).create_stream(&out(fast)).await.unwrap();
        let connections = Arc::new(Connections::to_embedded(broker.clone()));
        let mut sink = JetStreamSink::new("p", JetStreamWrite::to("OUT"), connections);
        sink.open().await.unwrap();
        losses.permille.store(permille, Ordering::Relaxed);
        let mut cuts = 0;
        for first in (0..6_000).step_by(200) {
            sink.write(batch(first..first + 200)).await.unwrap();
            if (first / 200 + seed) % 7 == 0 {
                broker.cut_links();
                cuts += 1;
            }
            let idle = Duration::from_millis([0, 10, 300, 20_000][((seed + first / 200) % 4) as usize]);
            let _ = timeout(idle, sink.drive()).await;
            if first % 2_000 == 0 {
                let ended = timeout(Duration::from_secs(3_600), sink.flush(Epoch(1))).await.is_ok();
                assert!(ended, "seed {seed}, at {first}: it does not end: {sink:?}");
            }
        }
        sink.flush(Epoch(2)).await.unwrap();
        losses.permille.store(0, Ordering::Relaxed);
        let lost = losses.lost.load(Ordering::Relaxed);
        let js = Js::new(connection);
        let mut stored = Vec::new();
        while let Some(message) = js.message("OUT", stored.len() as u64 + 1).await.unwrap() {
            stored.push(std::str::from_utf8(&message.payload).unwrap().parse().unwrap());
        }
        let repeats = check(&stored, 6_000, fast);
        assert!(permille > 0 || lost == 0);
        println!("seed {seed}, fast: {fast}: {lost} lost, {cuts} cuts, {repeats} repeats");
        assert!(repeats <= (lost + cuts) * 4_096, "the window and no more is sent again");
    }
}
