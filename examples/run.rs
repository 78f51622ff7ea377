//! Each example runs on a real server: what goes in, and what must come out.

#![allow(clippy::unwrap_used, clippy::panic, reason = "it is a test, though not all of it is inside one")]

use std::process::Command;
use std::time::Duration;

use millstream::broker::{Js, NatsServer, StreamConfig};
use millstream::prelude::{View, explain};
use millstream_operators::Headers;
use tokio::time::{Instant, sleep};

/// A process that does not outlive its test, however that ends.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

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
    let mut child = Ended(Command::new(program).env("NATS_URL", server.url()).spawn().unwrap());
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
    Command::new("kill").args(["-TERM", &child.0.id().to_string()]).status().unwrap();
    assert!(child.0.wait().unwrap().success(), "{program}");
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
    same_orders(env!("CARGO_BIN_EXE_orders")).await;
}

#[tokio::test]
async fn orders_columns() {
    same_orders(env!("CARGO_BIN_EXE_orders_columns")).await;
}

/// What each pipeline of orders does, however it is written.
async fn same_orders(program: &str) {
    let orders = [
        r#"{"id":1,"region":"eu","amount":100.0}"#,
        r#"{"id":2,"region":"eu","amount":9.99}"#,
        r#"{"id":3,"region":"us","amount":200.0}"#,
        r#"{"id":4,"region":"a.b","amount":300.0}"#,
        "no order",
    ];
    let expected = [
        ("taxed.eu", r#"{"id":1,"region":"eu","amount":100.0,"tax":19.0}"#),
        ("taxed.us", r#"{"id":3,"region":"us","amount":200.0,"tax":38.0}"#),
        ("mill.dlq.orders.to_others", r#"{"id":4,"region":"a.b","amount":300.0}"#),
        ("mill.dlq.orders.orders", "no order"),
    ];
    run(program, ("ORDERS", &orders), &["TAXED"], &expected).await;
}

#[tokio::test]
async fn orders_per_minute() {
    let order = |id: &str, customer: &str, amount: f64, seconds: u64| {
        format!(r#"{{"id":"{id}","customer":"{customer}","amount":{amount},"placed_at":{}}}"#, seconds * 1_000_000)
    };
    // The last one takes event time far enough to close the first minute, and is in another that stays open.
    let orders = [
        order("1", "ann", 20.0, 10),
        order("2", "bob", 5.0, 20),
        order("3", "ann", 30.0, 59),
        order("4", "bob", 40.0, 70),
    ];
    let orders: Vec<&str> = orders.iter().map(String::as_str).collect();
    let expected = [("totals.minute", r#"{"customer":"ann","window_start":0,"orders":2,"total":50.0}"#)];
    run(env!("CARGO_BIN_EXE_orders_per_minute"), ("ORDERS", &orders), &["TOTALS"], &expected).await;
}

#[tokio::test]
async fn enrichment() {
    let orders = [r#"{"id":1,"customer":7}"#, r#"{"id":2,"customer":0}"#];
    let expected =
        [("named.orders", r#"{"id":1,"name":"customer 7"}"#), ("mill.dlq.enrichment.name", r#"{"id":2,"customer":0}"#)];
    run(env!("CARGO_BIN_EXE_enrichment"), ("ORDERS", &orders), &["NAMED"], &expected).await;
}

#[tokio::test]
async fn dead_letters() {
    let orders = [r#"{"id":1,"amount":"9.99"}"#, r#"{"id":2,"amount":"much"}"#, "{"];
    let expected = [
        ("paid.orders", r#"{"id":1,"cents":999}"#),
        ("mill.dlq.payments.cents", r#"{"id":2,"amount":"much"}"#),
        ("mill.dlq.payments.orders", "{"),
    ];
    run(env!("CARGO_BIN_EXE_dead_letters"), ("ORDERS", &orders), &["PAID"], &expected).await;
}

#[tokio::test]
async fn own_kind() {
    let users = [r#"{"name":"Ada","email":"ada@example.org"}"#];
    let expected = [("masked.users", r#"{"name":"Ada","email":"a***"}"#)];
    run(env!("CARGO_BIN_EXE_own_kind"), ("USERS", &users), &["MASKED"], &expected).await;
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

/// What `explain` says of the nodes, without their row types and without what the plan makes of them.
fn nodes(explained: &str) -> Vec<String> {
    let graph = explained.lines().take_while(|line| *line != "stages");
    let shape = |line: &str| match line.starts_with(' ') {
        true => line.to_owned(),
        false => line.split_whitespace().take(3).collect::<Vec<_>>().join(" "),
    };
    graph.map(shape).collect()
}

fn explained(program: &str) -> String {
    String::from_utf8(Command::new(program).arg("--explain").output().unwrap().stdout).unwrap()
}

fn explained_file() -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("orders.toml");
    let loaded = millstream::file::load(&path, &millstream::connectors::registry(), &Default::default());
    explain(&loaded.unwrap_or_else(|report| panic!("{report}")).graph, View::Text)
}

#[test]
fn orders_over_columns_in_rust_and_in_a_file_are_the_same_in_every_word() {
    let (rust, file) = (explained(env!("CARGO_BIN_EXE_orders_columns")), explained_file());
    assert!(rust.contains("amount: float64 not null, tax: float64 not null"), "{rust}");
    assert_eq!(rust, file, "\n{rust}\n{file}");
}

#[test]
fn orders_in_rust_and_in_a_file_are_the_same_graph() {
    let (rust, file) = (explained(env!("CARGO_BIN_EXE_orders")), explained_file());
    assert!(rust.contains("by_region") && nodes(&rust).len() > 20, "{rust}");
    assert_eq!(nodes(&rust), nodes(&file), "\n{rust}\n{file}");
}

#[tokio::test]
async fn the_tests_of_the_files_pass() {
    let nexmark = (0..9).map(|query| (format!("nexmark/q{query}.toml"), 1));
    let others = [("orders.toml", 2), ("orders_per_minute.toml", 1), ("paid_orders.toml", 1)];
    let others = others.map(|(file, tests)| (file.to_owned(), tests));
    for (file, tests) in others.into_iter().chain(nexmark) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let outcomes = millstream::file::run_tests(&path, &millstream::connectors::registry(), None).await;
        let outcomes = outcomes.unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(outcomes.len(), tests);
        assert!(outcomes.iter().all(|outcome| outcome.failure.is_none()), "{outcomes:#?}");
    }
}
