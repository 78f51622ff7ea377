//! A pipeline that promises effectively-once and keeps no state is killed, its server is killed, it is stopped, replaced and
//! woken again while orders flow: its output stream, whose window of message ids is a tenth of a second, read raw, has each
//! output once.
//!
//! `MILLSTREAM_ONCE` and `MILLSTREAM_ONCE_ORDERS` make the stories longer, as those of `once.rs`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "it is test code, and counts are printed")]

use std::collections::BTreeMap;
use std::time::Duration;

use millstream::broker::{Connection, Js, NatsServer};
use millstream_tests::support::*;
use tokio::time::sleep;

const STATELESS: &str = env!("CARGO_BIN_EXE_stateless");
const OWN: &str = env!("CARGO_BIN_EXE_own");
const COPIES: &str = "2500";

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn orders() -> u64 {
    setting("MILLSTREAM_ONCE_ORDERS", 30_000)
}

fn kills() -> u64 {
    setting("MILLSTREAM_ONCE", 10)
}

async fn a_while() {
    sleep(Duration::from_millis(150 + chance() % 500)).await;
}

async fn allow(connection: &Connection, pipeline: &str) {
    let js = Js::new(connection.clone());
    let mut out = js.stream("OUT").await.unwrap().config;
    out.subjects.push(format!("mill.txn.{pipeline}.out.*"));
    (out.allow_atomic, out.allow_rollup_hdrs, out.duplicate_window) = (true, true, 100_000_000);
    js.update_stream(&out).await.unwrap();
}

/// The pipeline, with what its environment says.
fn start(urls: &str, pipeline: &str, parallelism: u64, replicas: usize, variables: &[(&str, &str)]) -> Running {
    let (parallelism, replicas) = (parallelism.to_string(), replicas.to_string());
    Running::start(STATELESS, &[urls, pipeline, &parallelism, &replicas], variables)
}

/// How many outputs the orders have.
fn due(orders: u64, copies: usize) -> usize {
    (0..orders).filter(|id| expected(*id).is_some()).map(|id| if id % 1_000 == 777 { copies } else { 1 }).sum()
}

/// Waits until all outputs are there, ends the pipeline, and compares.
async fn settle(story: &str, connection: &Connection, orders: u64, copies: usize, bad: Bad, running: Running) {
    bad.all().await;
    let (mut out, due) = (Tail::of("OUT"), due(orders, copies));
    out.until(connection, due, Duration::from_secs(120), || running.err()).await;
    running.signal("TERM");
    let said = running.ended().await;
    assert_eq!(said.code, Some(0), "{story}: {}", said.err);
    let mut left: BTreeMap<(String, String), i64> = BTreeMap::new();
    for id in 0..orders {
        let copies = if id % 1_000 == 777 { copies as i64 } else { 1 };
        if let Some(wanted) = expected(id) {
            left.insert(wanted, copies);
        }
    }
    out.read(connection).await;
    println!("{story}: {orders} orders in, {} out of {due}", out.data.len());
    for message in out.data {
        *left.entry(message).or_default() -= 1;
    }
    left.retain(|_, count| *count != 0);
    assert!(
        left.is_empty(),
        "{story}: missing, or too often if below 0: {:?}",
        left.iter().take(10).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_runtime_that_is_killed_stores_each_output_once() {
    let (server, connection) = server().await;
    allow(&connection, "killed").await;
    let (feeder, bad) = (Feeder::start(&connection, orders()), Bad::start(&connection));
    let mut running = start(&server.url(), "killed", 1, 1, &[]);
    for round in 0..kills() {
        a_while().await;
        running.killed().await;
        // With other numbers of subtasks, too.
        running = start(&server.url(), "killed", 1 + round % 3, 1, &[]);
    }
    settle("runtime killed", &connection, feeder.finish().await, 1, bad, running).await;
}

#[tokio::test]
async fn rows_that_become_more_than_a_batch_and_changes_of_the_protocol_survive_kills() {
    let (server, connection) = server().await;
    allow(&connection, "mixed").await;
    let (feeder, bad) = (Feeder::start_with(&connection, orders() / 3, 100), Bad::start(&connection));
    let variables = [("MILLSTREAM_COPIES", COPIES), ("MILLSTREAM_PACED", "1")];
    let mut running = start(&server.url(), "mixed", 1, 1, &variables[..1]);
    for round in 0..kills() {
        a_while().await;
        running.killed().await;
        let paced = round % 2 == 0;
        running = start(&server.url(), "mixed", 1 + round % 2, 1, if paced { &variables } else { &variables[..1] });
    }
    settle("mixed", &connection, feeder.finish().await, COPIES.parse().unwrap(), bad, running).await;
}

async fn killed_in_turn(story: &str, mut server: NatsServer, connection: Connection, runtime_too: bool) {
    allow(&connection, story).await;
    let (feeder, bad) = (Feeder::start(&connection, orders()), Bad::start(&connection));
    let mut running = Some(start(&server.url(), story, 2, 1, &[]));
    for round in 0..kills().div_ceil(2) {
        a_while().await;
        let kills = runtime_too && round % 2 == 0;
        if let Some(running) = running.take_if(|_| kills) {
            running.killed().await;
        }
        server.kill_9();
        server.restart().await.unwrap();
        running.get_or_insert_with(|| start(&server.url(), story, 2, 1, &[]));
    }
    settle(story, &connection, feeder.finish().await, 1, bad, running.unwrap()).await;
}

#[tokio::test]
async fn a_server_that_is_killed_stores_each_output_once() {
    let (server, connection) = server().await;
    killed_in_turn("server-killed", server, connection, false).await;
}

#[tokio::test]
async fn runtime_and_server_that_are_killed_together_store_each_output_once() {
    let (server, connection) = server().await;
    killed_in_turn("both-killed", server, connection, true).await;
}

/// Rounds in which an instance sleeps, its twin takes over, and it wakes: it ends, and says why.
async fn twins(story: &str, connection: &Connection, start: impl Fn() -> Running, rounds: u64, steps: bool) -> Running {
    let mut running = start();
    let mut out = Tail::of("OUT");
    for round in 0..rounds {
        a_while().await;
        running.signal("STOP");
        let before = out.read(connection).await;
        let twin = start();
        if steps {
            step_down(connection).await;
        }
        // The twin has stored something of its own.
        let why = || format!("{story}, round {round}: the twin does not go on: {}", twin.err());
        out.until(connection, before + 50, Duration::from_secs(30), why).await;
        running.signal("CONT");
        let said = running.ended().await;
        assert_eq!(said.code, Some(3), "{story}, round {round}: {}", said.err);
        assert!(said.err.contains("has taken over"), "{story}, round {round}: {}", said.err);
        running = twin;
    }
    println!("{story}: {rounds} rounds");
    running
}

#[tokio::test]
async fn an_instance_that_sleeps_while_its_twin_takes_over_stores_nothing_when_it_wakes() {
    let (server, connection) = server().await;
    allow(&connection, "twins").await;
    let (feeder, bad) = (Feeder::start_with(&connection, 1_000, 20), Bad::start(&connection));
    let start = || start(&server.url(), "twins", 1, 1, &[]);
    let running = twins("twins", &connection, start, kills().div_ceil(2).max(3), false).await;
    settle("twins", &connection, feeder.finish().await, 1, bad, running).await;
}

/// The leaders of the streams step down, one after the other, in the middle of commits.
async fn step_down(connection: &Connection) {
    let js = Js::new(connection.clone()).timeout(Duration::from_secs(2));
    for stream in ["OUT", "IN", "KV_mill_stepping", "OUT"] {
        let subject = js.subject(&format!("STREAM.LEADER.STEPDOWN.{stream}"));
        // One that is not there, or has no leader at the moment, is left alone.
        let _ = connection.request(subject, Default::default(), "", Duration::from_secs(2)).await;
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn on_three_servers_leaders_step_down_while_a_twin_takes_over_and_while_instances_are_killed() {
    let (_servers, urls, connection) = cluster().await;
    allow(&connection, "stepping").await;
    let (feeder, bad) = (Feeder::start_with(&connection, 1_000, 20), Bad::start(&connection));
    let start = || start(&urls, "stepping", 1, 3, &[]);
    let mut running = twins("twins on three servers", &connection, start, 1, true).await;
    for _ in 0..kills().div_ceil(4) {
        a_while().await;
        step_down(&connection).await;
        running.killed().await;
        running = start();
    }
    settle("three servers", &connection, feeder.finish().await, 1, bad, running).await;
}

const FILE: &str = r#"
name = "filed"
guarantee = "effectively-once"

[sources.in]
kind = "jetstream"
stream = "IN"
format = "json"
schema = { id = "int64 not null" }
on_error = "stop"

[sinks.out]
kind = "jetstream"
from = "in"
stream = "FILED"
create = ["filed.>"]
subject = "filed.all"
on_error = "stop"
"#;

#[tokio::test]
async fn commands_know_positions_that_are_kept_beside_the_outputs() {
    let (server, connection) = server().await;
    let (folder, url) = (tempfile::tempdir().unwrap(), server.url());
    let file = folder.path().join("filed.toml").display().to_string();
    std::fs::write(&file, FILE).unwrap();
    let own = async |arguments: &[&str]| call(OWN, &[arguments, &[&file, "--nats", &url]].concat(), &[]).await;
    let saved = async |name: &str| call(OWN, &["savepoint", &file, name, "--nats", &url], &[]).await;
    let feed = async |ids: std::ops::Range<u64>| {
        let rows: Vec<_> = ids.map(|id| format!("{{\"id\":{id}}}").into_bytes()).collect();
        publish_each(&connection, "in.order", &rows).await;
    };
    let stored = async || data(&connection, "FILED").await.into_iter().map(|(_, text)| text).collect::<Vec<_>>();
    let texts = |ids: &[u64]| ids.iter().map(|id| format!("{{\"id\":{id}}}")).collect::<Vec<_>>();

    let said = call(OWN, &["check", &file], &[]).await;
    assert!(said.out.contains("effectively once (stateless)"), "{}", said.out);
    let said = call(OWN, &["explain", &file], &[]).await;
    assert!(
        said.out.contains("stored as they come, with the positions of the sources beside them in `out`"),
        "{}",
        said.out
    );
    feed(1..3).await;
    let running = Running::start(OWN, &["run", &file, "--nats", &url], &[]);
    let mut out = Tail::of("FILED");
    out.until(&connection, 2, Duration::from_secs(20), || running.err()).await;
    let said = own(&["doctor"]).await;
    assert!(said.out.contains("once     outputs are stored as they come"), "{}", said.out);
    let said = own(&["checkpoint", "show"]).await;
    let by_marker = said.out.split_once("by the marker that is there now").map(|(_, now)| now.to_owned());
    assert!(by_marker.is_some_and(|now| now.contains("\"sequence\":2")), "{} {}", said.out, said.err);
    assert_eq!(saved("early").await.code, Some(0));
    feed(3..5).await;
    out.until(&connection, 4, Duration::from_secs(20), || running.err()).await;
    running.killed().await;
    assert_eq!(own(&["checkpoint", "verify"]).await.code, Some(0));

    // Where the sources stand is gone on from by the same sink alone.
    std::fs::write(&file, FILE.replace("sinks.out", "sinks.other")).unwrap();
    let said = own(&["run", "--until-end"]).await;
    assert!(said.code == Some(2) && said.err.contains("in the marker of the sink out"), "{}", said.err);
    std::fs::write(&file, FILE.replace("guarantee", "# guarantee")).unwrap();
    let said = own(&["run", "--until-end"]).await;
    assert!(said.code == Some(2) && said.err.contains("promises effectively-once"), "{}", said.err);
    std::fs::write(&file, FILE).unwrap();
    feed(5..6).await;
    let said = own(&["run", "--until-end"]).await;
    assert_eq!((said.code, stored().await), (Some(0), texts(&[1, 2, 3, 4, 5])), "{}", said.err);

    let refused = own(&["run", "--until-end", "--from", "early"]).await;
    assert!(refused.code == Some(1) && refused.err.contains("--rewind"), "{:?} {}", refused.code, refused.err);
    let said = own(&["run", "--until-end", "--from", "early", "--rewind"]).await;
    assert_eq!((said.code, stored().await), (Some(0), texts(&[1, 2, 3, 4, 5, 3, 4, 5])), "{}", said.err);
    assert_eq!(own(&["remove", "--yes"]).await.code, Some(0));
    let said = own(&["run", "--until-end"]).await;
    assert_eq!((said.code, stored().await.len()), (Some(0), 13), "{}", said.err);
}
