//! Hostile payloads on a real server: every good row arrives, every bad one is a dead letter with its cause and its
//! payload bit for bit, and the pipeline goes on.

use std::time::Duration;

use millstream::Launch;
use millstream::broker::{ConnectOptions, Js, NatsServer, Outgoing, StreamConfig, Subject};
use millstream::connectors::registry;
use millstream::operators::Headers;
use millstream::operators::columnar::{HOSTILE_COLUMNS, hostile_json};
use millstream::pipelines::config::{Options, load};
use millstream_tests::support::*;
use serde_json::Value as Json;
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
