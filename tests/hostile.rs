//! Hostile payloads on a real server: every good row arrives, every bad one is a dead letter with its cause and its
//! payload bit for bit, and the pipeline goes on.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "it is test code, though not all inside a test"
)]

use std::time::Duration;

use millstream::Launch;
use millstream::broker::{ConnectOptions, Connection, Js, NatsServer, Outgoing, Retention, StreamConfig, Subject};
use millstream::connectors::registry;
use millstream::operators::Headers;
use millstream::operators::columnar::{HOSTILE_COLUMNS, hostile_json};
use millstream::pipelines::config::{Options, load};
use millstream_tests::support::*;
use serde_json::Value as Json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

// The server's limit of one message, made small so that payloads at it and over it are cheap.
const MAX_PAYLOAD: usize = 2 << 20;

fn pipeline() -> String {
    let columns: Vec<String> = HOSTILE_COLUMNS.iter().map(|(name, kind)| format!("{name} = \"{kind}\"")).collect();
    format!(
        r#"
name = "hostile"

[sources.in]
kind = "jetstream"
stream = "IN"
format = "json"
schema = {{ {} }}
meta = {{ evil = {{ header = "X-Evil" }}, seq = "sequence" }}
on_error = {{ send_to = "dead" }}

[[steps]]
name = "said"
from = "in"
set = {{ evil = "coalesce(evil, 'nothing')" }}

[sinks.out]
kind = "jetstream"
from = "said"
stream = "OUT"
subject = "out.all"
headers = {{ "X-Evil" = "{{evil}}" }}
max_size = {MAX_PAYLOAD}
on_error = {{ send_to = "dead" }}

[sinks.dead]
kind = "dead_letter"
stream = "DEAD"
"#,
        columns.join(", ")
    )
}

#[tokio::test]
async fn good_rows_arrive_bad_ones_are_kept_and_nothing_stops() {
    let server = NatsServer::start_with(&format!("max_payload: {MAX_PAYLOAD}\n")).await.unwrap();
    let connection = server.connect().await.unwrap();
    let js = Js::new(connection.clone());
    for (name, subjects) in [("IN", "in.>"), ("OUT", "out.>")] {
        js.create_stream(&StreamConfig::new(name, [subjects])).await.unwrap();
    }
    let mut corpus = hostile_json();
    // At the limit: a row of 2 MiB cannot be written again, as a row has more columns than its payload.
    let at_limit = format!(r#"{{"id":1,"name":"{}"}}"#, "x".repeat(MAX_PAYLOAD - 18));
    assert_eq!(at_limit.len(), MAX_PAYLOAD);
    corpus.push(millstream::operators::columnar::HostileJson { payload: at_limit.into_bytes(), row: None });
    assert!(corpus.len() > 100);
    let payloads: Vec<Vec<u8>> = corpus.iter().map(|case| case.payload.clone()).collect();
    for payload in &payloads {
        publish_each(&connection, "in.x", std::slice::from_ref(payload)).await;
    }
    // Over the limit: the client refuses it before the server would cut the connection.
    let over = connection.publish(Outgoing::new("in.x", vec![b'x'; MAX_PAYLOAD + 1])).await;
    assert!(over.is_err(), "{over:?}");
    // A header value with a line end would be another header: it cannot even be made.
    let mut headers = Headers::NONE;
    assert!(headers.push("X-Evil", "a\r\nNats-Msg-Id: forged").is_err());
    headers.push("X-Evil", "plain").unwrap();
    let inbox = connection.new_inbox();
    let mut acks = connection.subscribe(inbox.clone(), 8).await.unwrap();
    let message = Outgoing::new("in.x", r#"{"id":77}"#).headers(headers).reply_to(Subject::from(inbox));
    connection.publish(message).await.unwrap();
    acks.next().await.unwrap();

    let registry = registry();
    let loaded = load("hostile.toml", &pipeline(), &Options::new(&registry));
    let graph = loaded.unwrap_or_else(|report| panic!("{report}")).graph;
    let launch = Launch::default().nats(ConnectOptions::to(server.url()));
    let (stopper, metrics) = (launch.stopper(), launch.metrics());
    let running = tokio::spawn(async move { launch.run_graph(&graph).await });
    let good = corpus.iter().filter(|case| case.row.is_some()).count() + 1;
    let bad = corpus.len() + 1 - good;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let out = js.stream("OUT").await.unwrap().state.messages;
        let dead = js.find_stream("DEAD").await.ok().flatten().map_or(0, |info| info.state.messages);
        if out as usize >= good && dead as usize >= bad {
            break;
        }
        assert!(Instant::now() < deadline, "{out} of {good} good, {dead} of {bad} bad");
        assert!(!running.is_finished(), "{:?}", running.await);
        sleep(Duration::from_millis(50)).await;
    }
    stopper.drain();
    running.await.unwrap().unwrap();
    assert_eq!(metrics.restarts(), 0);

    // Every good row, in order, with the values that the corpus says.
    let given = read_all(&connection, "OUT").await;
    let wanted: Vec<(usize, &str)> =
        corpus.iter().enumerate().filter_map(|(place, case)| Some((place + 1, case.row?))).collect();
    assert_eq!(given.len(), wanted.len() + 1);
    for (message, (sequence, wanted)) in given.iter().zip(&wanted) {
        let row: Json = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(row["seq"], Json::from(*sequence), "{row}");
        let wanted: Json = serde_json::from_str(wanted).unwrap();
        for (column, value) in wanted.as_object().unwrap() {
            let same = match (value, &row[column]) {
                (Json::Number(a), Json::Number(b)) => a.as_f64() == b.as_f64(),
                (a, b) => a == b,
            };
            assert!(same, "{column} of message {sequence}: {} and not {value}", row[column]);
        }
    }
    assert_eq!(given.last().unwrap().headers.get("X-Evil"), Some("plain"));

    // Every bad one, with its cause, where it came from, and its payload bit for bit.
    let dead = read_all(&connection, "DEAD").await;
    assert_eq!(dead.len(), bad);
    for letter in &dead {
        let header = |name: &str| letter.headers.get(name).unwrap_or_default().to_owned();
        let sequence: usize = header("Mill-Dlq-Seq").parse().unwrap();
        if payloads[sequence - 1].len() == MAX_PAYLOAD {
            // With what happened in its headers it would be over the limit: it is kept by reference.
            assert_eq!((header("Mill-Dlq-Ref"), letter.payload.len()), (format!("IN/{sequence}"), 0));
        } else {
            assert!(payloads[sequence - 1] == letter.payload, "message {sequence} was changed");
        }
        assert!(corpus[sequence - 1].row.is_none(), "message {sequence} was good");
        assert!(["decode", "oversize"].contains(&header("Mill-Dlq-Reason").as_str()), "{letter:?}");
        assert!(!header("Mill-Dlq-Error").is_empty());
    }
    println!("{} hostile payloads: {good} good rows out, {bad} dead letters", corpus.len());
}

/// Headers that no client makes, and a server takes: each as it goes over the wire.
const MALFORMED: [&[u8]; 14] = [
    b"NATS/1.0\r\nX-Name: caf\xe9\r\nX-Kept: yes\r\n\r\n",
    b"NATS/1.0\r\nX-Evil: a\rNats-Msg-Id: forged\r\nX-Kept: yes\r\n\r\n",
    b"NATS/1.0\r\nX-Kept: yes\r\nno colon\r\n\r\n",
    b"NATS/1.0\r\nX Evil: x\r\nX-Kept: yes\r\n\r\n",
    b"NATS/1.0\r\nX-\xc3\xa4: x\r\nX-Kept: yes\r\n\r\n",
    b"NATS/1.0\r\nX\x01: x\r\nX-Kept: yes\r\n\r\n",
    b"X-Evil: x\r\nX-Kept: yes\r\n\r\n",
    b"NATS/1.0 abc\r\nX-Kept: yes\r\n\r\n",
    b"NATS/1.0 409 Consumer Deleted\r\nX-Kept: yes\r\n\r\n",
    b"NATS/1.0 100 Idle Heartbeat\r\nX-Kept: yes\r\n\r\n",
    b"NATS/1.0\r\n: x\r\nX-Kept: yes\r\n\r\n",
    b"NATS/1.0\r\nX-Evil: a\x00b\r\nX-Kept: yes\r\n\r\n",
    b"NATS/1.0\r\nX-Evil: \xff\r\nX-Kept: yes",
    b"\r\n",
];
/// Good messages before each of them, and behind the last. Of every fourth another follows at once.
const GOOD: u64 = 50;

/// Publishes good messages with malformed ones between, over a bare socket; returns how many.
async fn publish_malformed(server: &NatsServer, connection: &Connection) -> u64 {
    let mut socket = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
    socket.write_all(b"CONNECT {\"headers\":true,\"verbose\":false}\r\n").await.unwrap();
    let (mut id, mut text) = (0, Vec::new());
    let mut put = |headers: Option<&[u8]>, text: &mut Vec<u8>| {
        id += 1;
        let body = format!(r#"{{"id":{id}}}"#);
        match headers {
            None => text.extend_from_slice(format!("PUB in.x {}\r\n", body.len()).as_bytes()),
            Some(headers) => {
                let (own, all) = (headers.len(), headers.len() + body.len());
                text.extend_from_slice(format!("HPUB in.x {own} {all}\r\n").as_bytes());
                text.extend_from_slice(headers);
            }
        }
        text.extend_from_slice(body.as_bytes());
        text.extend_from_slice(b"\r\n");
        id
    };
    for (place, headers) in MALFORMED.iter().enumerate() {
        for _ in 0..GOOD {
            put(None, &mut text);
        }
        put(Some(headers), &mut text);
        if place % 4 == 3 {
            put(Some(MALFORMED[0]), &mut text);
        }
    }
    let mut last = 0;
    for _ in 0..GOOD {
        last = put(None, &mut text);
    }
    socket.write_all(&text).await.unwrap();
    let (js, deadline) = (Js::new(connection.clone()), Instant::now() + Duration::from_secs(10));
    loop {
        let stored = js.stream("IN").await.unwrap().state.last_seq;
        if stored == last {
            return last;
        }
        assert!(Instant::now() < deadline, "the server took {stored} of {last}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Runs a pipeline over messages with malformed headers; each comes out once, with the legal ones of its headers.
async fn malformed_headers_are_gone_past(source: &str, retention: Retention) {
    let server = NatsServer::start().await.unwrap();
    let connection = server.connect().await.unwrap();
    let js = Js::new(connection.clone());
    let input = StreamConfig { retention, ..StreamConfig::new("IN", ["in.>"]) };
    js.create_stream(&input).await.unwrap();
    js.create_stream(&StreamConfig::new("OUT", ["out.>"])).await.unwrap();
    let file = format!(
        r#"
name = "malformed"

[sources.in]
kind = "jetstream"
stream = "IN"
format = "json"
schema = {{ id = "int64" }}
meta = {{ kept = {{ header = "X-Kept" }}, seq = "sequence" }}
on_error = "stop"
{source}

[sinks.out]
kind = "jetstream"
from = "in"
stream = "OUT"
subject = "out.all"
on_error = "stop"
"#
    );
    let registry = registry();
    let loaded = load("malformed.toml", &file, &Options::new(&registry));
    let graph = loaded.unwrap_or_else(|report| panic!("{report}")).graph;
    // Counts connections, and loses nothing.
    let proxy = LossyProxy::before(server.port()).await;
    let launch = Launch::default().nats(ConnectOptions::to(proxy.url()));
    let (stopper, metrics) = (launch.stopper(), launch.metrics());
    let running = tokio::spawn(async move { launch.run_graph(&graph).await });
    let deadline = Instant::now() + Duration::from_secs(40);
    while js.consumer("IN", "mill-malformed-in").await.is_err() {
        assert!(Instant::now() < deadline && !running.is_finished(), "it does not begin");
        sleep(Duration::from_millis(20)).await;
    }
    let total = publish_malformed(&server, &connection).await;
    while js.stream("OUT").await.unwrap().state.messages < total {
        assert!(!running.is_finished(), "{:?}", running.await);
        assert!(Instant::now() < deadline, "{} of {total} came", js.stream("OUT").await.unwrap().state.messages);
        sleep(Duration::from_millis(50)).await;
    }
    stopper.drain();
    running.await.unwrap().unwrap();
    let given = read_all(&connection, "OUT").await;
    let mut ids: Vec<u64> = Vec::new();
    let mut kept = 0;
    for message in &given {
        let row: Json = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(row["id"], row["seq"], "{row}");
        ids.push(row["id"].as_u64().unwrap());
        kept += u64::from(row["kept"] == "yes");
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids, (1..=total).collect::<Vec<_>>());
    assert!(kept >= MALFORMED.len() as u64 - 1, "the legal headers of {kept} were kept");
    println!(
        "malformed headers, {retention:?}: {total} messages, {} rows, {} connections in all",
        given.len(),
        proxy.connections()
    );
    assert_eq!(metrics.restarts(), 0);
    // The first is believed at the third break, each of the others at the first.
    assert!(proxy.connections() <= 3 + 2 + MALFORMED.len() as u64, "{} connections", proxy.connections());
    // The link of a shared source may break again when a message is delivered again.
    if source.is_empty() {
        assert_eq!(given.len() as u64, total, "nothing comes twice");
    }
}

#[tokio::test]
async fn headers_that_no_client_reads_are_gone_past_and_their_messages_kept() {
    malformed_headers_are_gone_past("", Retention::Limits).await;
}

#[tokio::test]
async fn headers_that_no_client_reads_are_gone_past_in_an_interest_stream() {
    malformed_headers_are_gone_past("", Retention::Interest).await;
}

#[tokio::test]
async fn headers_that_no_client_reads_are_gone_past_by_those_who_share_a_stream() {
    malformed_headers_are_gone_past("share = { ack_wait = \"2s\" }", Retention::Limits).await;
}
