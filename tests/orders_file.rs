//! A pipeline file on a real server: what comes out is what an independent computation in Python says.
//!
//! `MILLSTREAM_ORDERS=200000` is the long form.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use millstream::broker::{ConnectOptions, Js, NatsServer, StreamConfig};
use millstream::connectors::registry;
use millstream::{Launch, file};
use millstream_tests::support::*;
use serde_json::Value as Json;
use tokio::time::{Instant, sleep};

#[tokio::test]
async fn outputs_are_those_of_an_independent_computation() {
    let count: u64 = std::env::var("MILLSTREAM_ORDERS").map_or(20_000, |text| text.parse().unwrap());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("orders_file");
    let work = tempfile::tempdir().unwrap();
    let (input, expected) = (work.path().join("input.ndjson"), work.path().join("expected.tsv"));
    let made = Command::new("python3")
        .arg(folder.join("oracle.py"))
        .arg(count.to_string())
        .args([&input, &expected])
        .status()
        .unwrap();
    assert!(made.success());

    let server = NatsServer::start().await.unwrap();
    let connection = server.connect().await.unwrap();
    let js = Js::new(connection.clone());
    for (name, subjects) in [("ORDERS", "orders.>"), ("SHOP", "shop.>")] {
        js.create_stream(&StreamConfig::new(name, [subjects])).await.unwrap();
    }
    let payloads: Vec<Vec<u8>> = std::fs::read(&input)
        .unwrap()
        .split(|byte| *byte == b'\n')
        .filter(|l| !l.is_empty())
        .map(<[u8]>::to_vec)
        .collect();
    assert_eq!(payloads.len() as u64, count);
    publish_each(&connection, "orders.new", &payloads).await;

    let mut wanted: BTreeMap<String, Vec<Json>> = BTreeMap::new();
    let mut rows = 0;
    for line in std::fs::read_to_string(&expected).unwrap().lines() {
        let (subject, row) = line.split_once('\t').unwrap();
        wanted.entry(subject.to_owned()).or_default().push(serde_json::from_str(row).unwrap());
        rows += 1;
    }

    let loaded = file::load(&folder.join("pipeline.toml"), &registry(), &file::Ends::default());
    let graph = loaded.unwrap_or_else(|report| panic!("{report}")).graph;
    let launch = Launch::default().nats(ConnectOptions::to(server.url()));
    let (stopper, started) = (launch.stopper(), Instant::now());
    let running = tokio::spawn(async move { launch.run_graph(&graph).await });
    let deadline = Instant::now() + Duration::from_secs(120);
    while js.stream("SHOP").await.unwrap().state.messages < rows {
        assert!(Instant::now() < deadline, "{:?} of {rows}", js.stream("SHOP").await.unwrap().state.messages);
        assert!(!running.is_finished(), "{:?}", running.await);
        sleep(Duration::from_millis(50)).await;
    }
    let took = started.elapsed();
    stopper.drain();
    running.await.unwrap().unwrap();

    let mut given: BTreeMap<String, Vec<Json>> = BTreeMap::new();
    for message in read_all(&connection, "SHOP").await {
        given.entry(message.subject).or_default().push(serde_json::from_slice(&message.payload).unwrap());
    }
    assert_eq!(given.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    for (subject, wanted) in &wanted {
        let given = &given[subject];
        for (place, (given, wanted)) in given.iter().zip(wanted).enumerate() {
            assert_eq!(given, wanted, "row {place} of {subject}");
        }
        assert_eq!(given.len(), wanted.len(), "{subject}");
    }
    println!("{count} orders in, {rows} rows out on {} subjects, all as Python says, in {took:?}", wanted.len());
}
