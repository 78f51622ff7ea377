//! Each example runs on a real server: what goes in, and what must come out.

#![allow(clippy::unwrap_used, clippy::panic, reason = "it is a test, though not all of it is inside one")]

use std::process::Command;
use std::time::Duration;

use millstream::broker::{Js, NatsServer, StreamConfig};
use millstream_operators::Headers;
use tokio::time::{Instant, sleep};

/// Runs an example on the messages of one stream, until another has as many as expected; gives their payloads.
async fn run(program: &str, input: (&str, &[&str]), streams: &[&str], expected: &[(&str, &str)]) {
    let server = NatsServer::start().await.unwrap();
    let js = Js::new(server.connect().await.unwrap());
    for stream in streams.iter().chain([&input.0]) {
        let prefix = stream.to_lowercase();
        js.create_stream(&StreamConfig::new(*stream, [format!("{prefix}.>"), prefix])).await.unwrap();
    }
    for message in input.1 {
        js.publish(input.0.to_lowercase(), Headers::NONE, (*message).to_owned()).await.unwrap();
    }
    let mut child = Command::new(program).env("NATS_URL", server.url()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut given = Vec::new();
    while given.len() < expected.len() {
        assert!(Instant::now() < deadline, "{program} gave {given:?}");
        sleep(Duration::from_millis(50)).await;
        given.clear();
        for stream in streams.iter().copied().chain(["DEAD"]) {
            let Ok(Some(info)) = js.find_stream(stream).await else { continue };
            // A stream that never had a message says that it goes from 0 to 0.
            for sequence in info.state.first_seq.max(1)..=info.state.last_seq {
                if let Some(message) = js.message(stream, sequence).await.unwrap() {
                    let text = String::from_utf8(message.payload.to_vec()).unwrap();
                    given.push((message.subject.to_string(), text));
                }
            }
        }
    }
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(child.wait().unwrap().success(), "{program}");
    given.sort();
    let mut expected: Vec<_> = expected.iter().map(|(s, t)| ((*s).to_owned(), (*t).to_owned())).collect();
    expected.sort();
    assert_eq!(given, expected, "{program}");
}

#[tokio::test]
async fn word_count() {
    let counts = [
        ("counts.words", r#"{"word":"to","times":1}"#),
        ("counts.words", r#"{"word":"be","times":1}"#),
        ("counts.words", r#"{"word":"to","times":2}"#),
    ];
    run(env!("CARGO_BIN_EXE_word_count"), ("LINES", &["To be", "to"]), &["COUNTS"], &counts).await;
}

#[tokio::test]
async fn orders() {
    let orders = [
        r#"{"id":1,"region":"eu","cents":1000}"#,
        r#"{"id":2,"region":"eu","cents":999}"#,
        r#"{"id":3,"region":"us","cents":2000}"#,
        r#"{"id":4,"region":"a.b","cents":3000}"#,
        "no order",
    ];
    let expected = [
        ("taxed.eu", r#"{"id":1,"region":"eu","cents":1000,"tax":190}"#),
        ("taxed.us", r#"{"id":3,"region":"us","cents":2000,"tax":380}"#),
        ("mill.dlq.orders.to_others", r#"{"id":4,"region":"a.b","cents":3000}"#),
        ("mill.dlq.orders.orders", "no order"),
    ];
    run(env!("CARGO_BIN_EXE_orders"), ("ORDERS", &orders), &["TAXED"], &expected).await;
}

#[tokio::test]
async fn enrichment() {
    let orders = [r#"{"id":1,"customer":7}"#, r#"{"id":2,"customer":0}"#];
    let expected =
        [("named.orders", r#"{"id":1,"name":"customer 7"}"#), ("mill.dlq.enrichment.name", r#"{"id":2,"customer":0}"#)];
    run(env!("CARGO_BIN_EXE_enrichment"), ("ORDERS", &orders), &["NAMED"], &expected).await;
}

#[tokio::test]
async fn own_operator() {
    let readings = ["1", "1", "2", "x", "2", "1"];
    run(
        env!("CARGO_BIN_EXE_own_operator"),
        ("READINGS", &readings),
        &["CHANGED"],
        &[("changed", "1"), ("changed", "2"), ("changed", "1")],
    )
    .await;
}
