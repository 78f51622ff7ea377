//! A pipeline that promises effectively-once is killed, its server is killed, it is stopped, replaced and woken again while
//! orders flow: its output streams, read raw, are what an independent computation gives, each message once and in order.
//!
//! `MILLSTREAM_ONCE` and `MILLSTREAM_ONCE_ORDERS` make the stories longer (the issue's form: 40 kills of the runtime, 20 of
//! the server, 30 rounds of twins).

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "it is test code, and counts are printed"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use millstream::broker::{Connection, Js, NatsServer};
use millstream_tests::support::*;
use serde_json::{Value, json};
use tokio::time::sleep;

const ONCE: &str = env!("CARGO_BIN_EXE_once");
const OWN: &str = env!("CARGO_BIN_EXE_own");
const CUSTOMERS: u64 = 100;

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

/// The pipeline with this parallelism.
fn once(urls: &str, pipeline: &str, parallelism: u64, replicas: usize) -> Pump {
    Pump::start_with(ONCE, &[urls, pipeline, &parallelism.to_string(), &replicas.to_string()])
}

/// What the output needs for it; the other streams are made by their sinks.
async fn allow(connection: &Connection, pipeline: &str) {
    let js = Js::new(connection.clone());
    let mut out = js.stream("OUT").await.unwrap().config;
    out.subjects.extend(["to_eu", "to_rest"].map(|sink| format!("mill.txn.{pipeline}.{sink}.*")));
    (out.allow_atomic, out.allow_rollup_hdrs) = (true, true);
    js.update_stream(&out).await.unwrap();
}

/// How many of the orders must come out.
fn due(orders: u64) -> u64 {
    (0..orders).filter(|id| expected(*id).is_some()).count() as u64
}

/// Waits until all outputs are there, ends the pipeline, and compares.
async fn settle(story: &str, connection: &Connection, orders: u64, bad: Bad, mut running: Pump) {
    bad.all().await;
    let mut totals = Tail::of("TOTALS");
    totals.until(connection, due(orders) as usize, Duration::from_secs(120), || story.to_owned()).await;
    assert!(running.terminate().await.success(), "{story}");
    compare(story, connection, orders).await;
}

async fn compare(story: &str, connection: &Connection, orders: u64) {
    let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut totals: Vec<Vec<Value>> = vec![Vec::new(); CUSTOMERS as usize];
    let mut sums = vec![(0, 0); CUSTOMERS as usize];
    // In the order in which they were stored: what is sent again while a server comes back may have gone past others.
    let input = data(connection, "IN").await.into_iter().filter(|(subject, _)| subject == "in.order");
    let ids: Vec<u64> =
        input.map(|(_, text)| serde_json::from_str::<Value>(&text).unwrap()["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len() as u64, orders);
    for id in ids {
        let Some((subject, text)) = expected(id) else { continue };
        let (customer, row) = (id % CUSTOMERS, serde_json::from_str::<Value>(&text).unwrap());
        wanted.entry(subject).or_default().push(text);
        let (count, cents) = sums.get_mut(customer as usize).unwrap();
        (*count, *cents) = (*count + 1, *cents + row["cents"].as_u64().unwrap());
        let total = json!({"customer": customer, "orders": *count, "cents": *cents});
        totals.get_mut(customer as usize).unwrap().push(total);
    }
    let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (subject, text) in data(connection, "OUT").await {
        out.entry(subject).or_default().push(text);
    }
    let mut given: Vec<Vec<Value>> = vec![Vec::new(); CUSTOMERS as usize];
    for (_, text) in data(connection, "TOTALS").await {
        let row: Value = serde_json::from_str(&text).unwrap();
        given.get_mut(row["customer"].as_u64().unwrap() as usize).unwrap().push(row);
    }
    let mut letters: Vec<_> = data(connection, "DEAD").await.into_iter().map(|(_, text)| text).collect();
    let counts = (out.values().map(Vec::len).sum::<usize>(), given.iter().map(Vec::len).sum::<usize>(), letters.len());
    println!(
        "{story}: {orders} orders in; {} priced, {} totals and {} letters out, of {} and {}",
        counts.0,
        counts.1,
        counts.2,
        due(orders),
        Bad::EACH
    );
    // Of each subject, which one sink writes with several subtasks, the order is that of each subtask.
    for texts in out.values_mut().chain(wanted.values_mut()) {
        texts.sort_unstable();
    }
    assert!(out == wanted, "{story}: {counts:?}");
    assert!(given == totals, "{story}: the totals of each customer, in order: {counts:?}");
    letters.sort_unstable();
    let mut bad: Vec<_> = (0..Bad::EACH).map(|number| format!("bad {number}")).collect();
    bad.sort_unstable();
    assert_eq!(letters, bad, "{story}");
}

#[tokio::test]
async fn a_runtime_that_is_killed_stores_each_output_once() {
    let (server, connection) = server().await;
    allow(&connection, "killed").await;
    let (feeder, bad) = (Feeder::start(&connection, orders()), Bad::start(&connection));
    let mut running = once(&server.url(), "killed", 1, 1);
    for round in 0..kills() {
        a_while().await;
        running.kill_9();
        // With other numbers of subtasks, too.
        running = once(&server.url(), "killed", 1 + round % 3, 1);
    }
    let orders = feeder.finish().await;
    settle("runtime killed", &connection, orders, bad, running).await;
}

async fn killed_in_turn(story: &str, mut server: NatsServer, connection: Connection, runtime_too: bool) {
    allow(&connection, story).await;
    let (feeder, bad) = (Feeder::start(&connection, orders()), Bad::start(&connection));
    let mut running = once(&server.url(), story, 2, 1);
    for round in 0..kills().div_ceil(2) {
        a_while().await;
        if runtime_too && round % 2 == 0 {
            running.kill_9();
        }
        server.kill_9();
        server.restart().await.unwrap();
        if runtime_too && round % 2 == 0 {
            running = once(&server.url(), story, 2, 1);
        }
    }
    let orders = feeder.finish().await;
    settle(story, &connection, orders, bad, running).await;
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
    let mut totals = Tail::of("TOTALS");
    for round in 0..rounds {
        a_while().await;
        running.signal("STOP");
        let before = totals.read(connection).await;
        let twin = start();
        if steps {
            step_down(connection).await;
        }
        // The twin has published something of its own.
        let why = || format!("{story}, round {round}: the twin does not go on: {}", twin.err());
        totals.until(connection, before + 50, Duration::from_secs(30), why).await;
        running.signal("CONT");
        let said = running.ended().await;
        assert_eq!(said.code, Some(3), "{story}, round {round}: {}", said.err);
        assert!(said.err.contains("has taken over"), "{story}, round {round}: {}", said.err);
        running = twin;
    }
    println!("{story}: {rounds} rounds");
    running
}

/// Waits until all outputs are there, ends the last twin, and compares.
async fn settle_twins(story: &str, connection: &Connection, orders: u64, bad: Bad, running: Running) {
    bad.all().await;
    let mut totals = Tail::of("TOTALS");
    totals.until(connection, due(orders) as usize, Duration::from_secs(120), || running.err()).await;
    running.signal("TERM");
    let said = running.ended().await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    compare(story, connection, orders).await;
}

#[tokio::test]
async fn an_instance_that_sleeps_while_its_twin_takes_over_stores_nothing_when_it_wakes() {
    let (server, connection) = server().await;
    allow(&connection, "twins").await;
    let (feeder, bad) = (Feeder::start_with(&connection, 1_000, 20), Bad::start(&connection));
    let start = || Running::start(ONCE, &[&server.url(), "twins", "1", "1"], &[]);
    let running = twins("twins", &connection, start, kills().div_ceil(2).max(3), false).await;
    settle_twins("twins", &connection, feeder.finish().await, bad, running).await;
}

#[tokio::test]
async fn on_three_servers_a_twin_takes_over_while_leaders_step_down() {
    let (_servers, urls, connection) = cluster().await;
    allow(&connection, "stepping").await;
    let (feeder, bad) = (Feeder::start_with(&connection, 1_000, 20), Bad::start(&connection));
    let start = || Running::start(ONCE, &[&urls, "stepping", "1", "3"], &[]);
    let running = twins("twins on three servers", &connection, start, 1, true).await;
    settle_twins("twins on three servers", &connection, feeder.finish().await, bad, running).await;
}

/// The leaders of the streams step down, one after the other, in the middle of commits.
async fn step_down(connection: &Connection) {
    let js = Js::new(connection.clone()).timeout(Duration::from_secs(2));
    for stream in ["OUT", "TOTALS", "KV_mill_stepping", "DEAD", "OBJ_mill_stepping"] {
        let subject = js.subject(&format!("STREAM.LEADER.STEPDOWN.{stream}"));
        // One that is not there, or has no leader at the moment, is left alone.
        let _ = connection.request(subject, Default::default(), "", Duration::from_secs(2)).await;
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn on_three_servers_leaders_step_down_and_runtime_and_servers_are_killed_and_each_output_is_stored_once() {
    let (mut servers, urls, connection) = cluster().await;
    allow(&connection, "stepping").await;
    let (feeder, bad) = (Feeder::start(&connection, orders() / 3), Bad::start(&connection));
    let mut running = once(&urls, "stepping", 1, 3);
    for round in 0..kills().div_ceil(2) {
        a_while().await;
        step_down(&connection).await;
        if round % 2 == 0 {
            running.kill_9();
            running = once(&urls, "stepping", 1, 3);
        } else {
            let chosen = chance() as usize % servers.len();
            servers[chosen].kill_9();
            a_while().await;
            servers[chosen].restart().await.unwrap();
        }
    }
    let orders = feeder.finish().await;
    settle("stepping", &connection, orders, bad, running).await;
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

# With it outputs wait for checkpoints: `stateless.rs` tells of those that do not.
[[steps]]
name = "paced"
from = "in"
throttle = { rows = 1000000, per = "1s" }

[sinks.out]
kind = "jetstream"
from = "paced"
stream = "FILED"
create = ["filed.>"]
subject = "filed.all"
on_error = "stop"
"#;

#[tokio::test]
async fn a_start_behind_the_outputs_is_refused_until_they_may_come_twice_and_removed_it_begins_anew() {
    let (server, connection) = server().await;
    let (folder, url) = (tempfile::tempdir().unwrap(), server.url());
    let file = folder.path().join("filed.toml").display().to_string();
    std::fs::write(&file, FILE).unwrap();
    let own = async |arguments: &[&str]| {
        let arguments = [arguments, &[&file, "--nats", &url]].concat();
        call(OWN, &arguments, &[]).await
    };
    let rows = |ids: std::ops::Range<u64>| ids.map(|id| format!("{{\"id\":{id}}}").into_bytes()).collect::<Vec<_>>();
    let stored = async || data(&connection, "FILED").await.into_iter().map(|(_, text)| text).collect::<Vec<_>>();
    let texts = |ids: &[u64]| ids.iter().map(|id| format!("{{\"id\":{id}}}")).collect::<Vec<_>>();

    publish_each(&connection, "in.order", &rows(1..3)).await;
    assert_eq!(own(&["run", "--until-end"]).await.code, Some(0));
    let said = call(OWN, &["savepoint", &file, "early", "--nats", &url], &[]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    publish_each(&connection, "in.order", &rows(3..5)).await;
    assert_eq!(own(&["run", "--until-end"]).await.code, Some(0));
    assert_eq!(stored().await, texts(&[1, 2, 3, 4]));
    let shown = own(&["checkpoint", "show"]).await;
    assert!(shown.out.contains("sink out[0]: 2 outputs") && shown.out.contains("all published"), "{}", shown.out);

    let refused = own(&["run", "--until-end", "--from", "early"]).await;
    assert!(refused.code == Some(1) && refused.err.contains("--rewind"), "{:?} {}", refused.code, refused.err);
    assert_eq!(stored().await, texts(&[1, 2, 3, 4]));
    let said = own(&["run", "--until-end", "--from", "early", "--rewind"]).await;
    assert_eq!((said.code, stored().await), (Some(0), texts(&[1, 2, 3, 4, 3, 4])), "{}", said.err);

    // Without its checkpoints alone it would be refused, as nothing says what is stored already.
    assert_eq!(own(&["remove", "--yes"]).await.code, Some(0));
    let said = own(&["run", "--until-end"]).await;
    assert_eq!((said.code, stored().await), (Some(0), texts(&[1, 2, 3, 4, 3, 4, 1, 2, 3, 4])), "{}", said.err);
}

#[tokio::test]
async fn a_stream_that_cannot_give_it_is_refused_at_once_with_what_it_needs() {
    let (server, connection) = server().await;
    feed(&connection, 0, 10).await;
    let (status, words) = Pump::words(ONCE, &[&server.url(), "refused", "1", "1"]);
    assert_eq!(status.code(), Some(2), "{words}");
    assert!(
        words.contains(
            "stream OUT cannot give it: it needs allow_atomic, allow_rollup_hdrs, the subject mill.txn.refused.to_"
        ),
        "{words}"
    );
    assert_eq!(out_len(&connection).await, 0);
}
