//! A pipeline that promises effectively-once and keeps no state is killed, its server is killed, it is stopped, replaced and
//! woken again while orders flow: its output stream, whose window of message ids is a tenth of a second, read raw, has each
//! output once. `MILLSTREAM_ONCE` and `MILLSTREAM_ONCE_ORDERS` make the stories longer.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "it is test code, and counts are printed")]

use std::collections::BTreeMap;
use std::time::Duration;

use millstream::broker::Connection;
use millstream_tests::support::*;

const OWN: &str = env!("CARGO_BIN_EXE_own");
const COPIES: &str = "2500";

const STATELESS: Once = Once {
    program: env!("CARGO_BIN_EXE_stateless"),
    sinks: &["out"],
    duplicate_window: Some(Duration::from_millis(100)),
    seen_in: "OUT",
    due: |orders| due(orders, 1),
    led: &["OUT", "IN", "KV_mill_stepping", "OUT"],
};

/// How many outputs the orders have.
fn due(orders: u64, copies: usize) -> usize {
    (0..orders).filter(|id| expected(*id).is_some()).map(|id| if id % 1_000 == 777 { copies } else { 1 }).sum()
}

async fn compare(story: &str, connection: &Connection, orders: u64, copies: usize) {
    let mut left: BTreeMap<(String, String), i64> = BTreeMap::new();
    for id in 0..orders {
        let copies = if id % 1_000 == 777 { copies as i64 } else { 1 };
        if let Some(wanted) = expected(id) {
            left.insert(wanted, copies);
        }
    }
    let out = data(connection, "OUT").await;
    println!("{story}: {orders} orders in, {} out of {}", out.len(), due(orders, copies));
    for message in out {
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
    let orders = STATELESS.runtime_killed(&server, &connection).await;
    compare("runtime killed", &connection, orders, 1).await;
}

#[tokio::test]
async fn rows_that_become_more_than_a_batch_and_changes_of_the_protocol_survive_kills() {
    let (server, connection) = server().await;
    STATELESS.allow(&connection, "mixed").await;
    let (feeder, bad) = (Feeder::start_with(&connection, Once::orders() / 3, 100), Bad::start(&connection));
    let variables = [("MILLSTREAM_COPIES", COPIES), ("MILLSTREAM_PACED", "1")];
    let start = |parallelism, paced| {
        let variables = if paced { &variables[..] } else { &variables[..1] };
        STATELESS.start_with(&server.url(), "mixed", parallelism, 1, variables)
    };
    let mut running = start(1, false);
    for round in 0..Once::kills() {
        a_while().await;
        running.killed().await;
        running = start(1 + round % 2, round % 2 == 0);
    }
    let (orders, copies) = (feeder.finish().await, COPIES.parse().unwrap());
    STATELESS.settle("mixed", &connection, due(orders, copies), bad, running).await;
    compare("mixed", &connection, orders, copies).await;
}

#[tokio::test]
async fn a_server_that_is_killed_stores_each_output_once() {
    let (mut server, connection) = server().await;
    let orders = STATELESS.server_killed(&mut server, &connection, false).await;
    compare("server killed", &connection, orders, 1).await;
}

#[tokio::test]
async fn runtime_and_server_that_are_killed_together_store_each_output_once() {
    let (mut server, connection) = server().await;
    let orders = STATELESS.server_killed(&mut server, &connection, true).await;
    compare("both killed", &connection, orders, 1).await;
}

#[tokio::test]
async fn an_instance_that_sleeps_while_its_twin_takes_over_stores_nothing_when_it_wakes() {
    let (server, connection) = server().await;
    let orders = STATELESS.twins(&server, &connection).await;
    compare("twins", &connection, orders, 1).await;
}

#[tokio::test]
async fn on_three_servers_leaders_step_down_while_a_twin_takes_over_and_while_instances_are_killed() {
    let (_servers, urls, connection) = cluster().await;
    let orders = STATELESS.stepping(&urls, &connection, Once::kills().div_ceil(4)).await;
    compare("three servers", &connection, orders, 1).await;
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

#[tokio::test]
async fn a_run_that_is_idle_for_longer_than_the_stream_keeps_messages_goes_on_as_the_same() {
    idle_beyond_max_age(OWN, FILE).await;
}
