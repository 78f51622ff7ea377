//! A pipeline that promises effectively-once and keeps state is killed, its server is killed, it is stopped, replaced and woken
//! again while orders flow: its output streams, read raw, are what an independent computation gives, each message once and in
//! order. `MILLSTREAM_ONCE` and `MILLSTREAM_ONCE_ORDERS` make the stories longer.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "it is test code, and counts are printed"
)]

use std::collections::BTreeMap;

use millstream::broker::Connection;
use millstream_tests::support::*;
use serde_json::{Value, json};

const OWN: &str = env!("CARGO_BIN_EXE_own");
const CUSTOMERS: u64 = 100;

const ONCE: Once = Once {
    program: env!("CARGO_BIN_EXE_once"),
    sinks: &["to_eu", "to_rest"],
    duplicate_window: None,
    seen_in: "TOTALS",
    due,
    led: &["OUT", "TOTALS", "KV_mill_stepping", "DEAD", "OBJ_mill_stepping"],
};

/// How many of the orders must come out.
fn due(orders: u64) -> usize {
    (0..orders).filter(|id| expected(*id).is_some()).count()
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
    let orders = ONCE.runtime_killed(&server, &connection).await;
    compare("runtime killed", &connection, orders).await;
}

#[tokio::test]
async fn a_server_that_is_killed_stores_each_output_once() {
    let (mut server, connection) = server().await;
    let orders = ONCE.server_killed(&mut server, &connection, false).await;
    compare("server killed", &connection, orders).await;
}

#[tokio::test]
async fn runtime_and_server_that_are_killed_together_store_each_output_once() {
    let (mut server, connection) = server().await;
    let orders = ONCE.server_killed(&mut server, &connection, true).await;
    compare("both killed", &connection, orders).await;
}

#[tokio::test]
async fn an_instance_that_sleeps_while_its_twin_takes_over_stores_nothing_when_it_wakes() {
    let (server, connection) = server().await;
    let orders = ONCE.twins(&server, &connection).await;
    compare("twins", &connection, orders).await;
}

#[tokio::test]
async fn on_three_servers_a_twin_takes_over_while_leaders_step_down() {
    let (_servers, urls, connection) = cluster().await;
    let orders = ONCE.stepping(&urls, &connection, 0).await;
    compare("twins on three servers", &connection, orders).await;
}

#[tokio::test]
async fn on_three_servers_leaders_step_down_and_runtime_and_servers_are_killed_and_each_output_is_stored_once() {
    let (mut servers, urls, connection) = cluster().await;
    ONCE.allow(&connection, "stepping").await;
    let (feeder, bad) = (Feeder::start(&connection, Once::orders() / 3), Bad::start(&connection));
    let mut running = ONCE.start(&urls, "stepping", 1, 3);
    for round in 0..Once::kills().div_ceil(2) {
        a_while().await;
        ONCE.step_down(&connection).await;
        if round % 2 == 0 {
            running.killed().await;
            running = ONCE.start(&urls, "stepping", 1, 3);
        } else {
            let chosen = chance() as usize % servers.len();
            servers[chosen].kill_9();
            a_while().await;
            servers[chosen].restart().await.unwrap();
        }
    }
    let orders = feeder.finish().await;
    ONCE.settle("stepping", &connection, due(orders), bad, running).await;
    compare("stepping", &connection, orders).await;
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
    let (status, words) = Pump::words(ONCE.program, &[&server.url(), "refused", "1", "1"]);
    assert_eq!(status.code(), Some(2), "{words}");
    assert!(
        words.contains(
            "stream OUT cannot give it: it needs allow_atomic, allow_rollup_hdrs, the subject mill.txn.refused.to_"
        ),
        "{words}"
    );
    assert_eq!(out_len(&connection).await, 0);
}

#[tokio::test]
async fn a_run_that_is_idle_for_longer_than_the_stream_keeps_messages_goes_on_as_the_same() {
    idle_beyond_max_age(OWN, FILE).await;
}

#[tokio::test]
async fn a_stream_that_keeps_messages_too_short_is_refused_by_start_and_doctor() {
    refused_for_max_age(OWN, FILE).await;
}
