//! Rows are looked up in a bucket of a real server: each finds what is there when it comes, also after the server was
//! killed, by a user who may do no more than `permissions` prints, and also where the network swallows what changed last.

#![allow(clippy::unwrap_used, reason = "it is test code, though not all inside a test")]

use std::time::Duration;

use millstream::broker::{ConnectOptions, Connection, Js, NatsServer, Outgoing, StreamConfig};
use millstream_tests::support::*;
use tokio::time::{Instant, sleep};

const OWN: &str = env!("CARGO_BIN_EXE_own");

const FILE: &str = r#"
name = "tiers"

[sources.orders]
kind = "jetstream"
stream = "IN"
format = "json"
schema = { id = "int64 not null", customer = "utf8" }
on_error = "stop"

[[steps]]
name = "customer"
from = "orders"
lookup = { bucket = "CUSTOMERS", key = "'c.' || customer", schema = { name = "utf8", tier = "utf8" }, prefix = "customer_" }
on_error = { send_to = "dead" }

[sinks.out]
kind = "jetstream"
from = "customer"
stream = "OUT"
subject = "out.tiers"
on_error = "stop"

[sinks.dead]
kind = "dead_letter"
stream = "DEAD"
"#;

async fn payloads(connection: &Connection, stream: &str, count: u64) -> Vec<String> {
    let (js, deadline) = (Js::new(connection.clone()), Instant::now() + Duration::from_secs(40));
    while js.stream(stream).await.map_or(0, |info| info.state.messages) < count {
        assert!(Instant::now() < deadline, "{stream} has too few messages");
        sleep(Duration::from_millis(50)).await;
    }
    let all = read_all(connection, stream).await;
    all.into_iter().map(|stored| String::from_utf8(stored.payload).unwrap()).collect()
}

#[tokio::test]
async fn rows_find_what_the_bucket_has_when_they_come() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tiers.toml").display().to_string();
    std::fs::write(&file, FILE).unwrap();
    let block = call(OWN, &["permissions", &file], &[]).await;
    assert_eq!(block.code, Some(0), "{}", block.err);
    let users = format!(
        "authorization {{ users: [ {{ user: admin, password: admin }}\n {{ user: p, password: secret\n{} }} ] }}",
        block.out
    );
    let mut server = NatsServer::start_with(&users).await.unwrap();
    let mut options = ConnectOptions::to(server.url());
    options.user = Some("admin".to_owned());
    options.password = Some("admin".to_owned().into());
    let connection = options.connect().await.unwrap();
    let js = Js::new(connection.clone());
    for (name, subjects) in [("IN", "in.>"), ("OUT", "out.>")] {
        js.create_stream(&StreamConfig::new(name, [subjects])).await.unwrap();
    }
    let url = format!("nats://p:secret@127.0.0.1:{}", server.port());

    let said = call(OWN, &["run", &file, "--nats", &url], &[]).await;
    assert!(said.code == Some(2) && said.err.contains("no bucket CUSTOMERS"), "{} {}", said.err, said.out);
    js.create_bucket("CUSTOMERS", 1, 1).await.unwrap();
    js.kv_put("CUSTOMERS", "c.ann", r#"{"name":"Ann","tier":"gold"}"#).await.unwrap();
    js.kv_put("CUSTOMERS", "c.bad", "no object").await.unwrap();

    let order =
        |id: u32, customer: &str| Outgoing::new("in.order", format!(r#"{{"id":{id},"customer":"{customer}"}}"#));
    let row = |id: u32, customer: &str, found: &str| format!(r#"{{"id":{id},"customer":"{customer}",{found}}}"#);
    let (gold, silver) =
        (r#""customer_name":"Ann","customer_tier":"gold""#, r#""customer_name":"Ann","customer_tier":"silver""#);
    let nothing = r#""customer_name":null,"customer_tier":null"#;
    let run = Running::start(OWN, &["run", &file, "--nats", &url, "--log", "info"], &[]);
    connection.publish_all([order(1, "ann"), order(2, "bob"), order(3, "bad")]).await.unwrap();
    assert_eq!(payloads(&connection, "OUT", 2).await, [row(1, "ann", gold), row(2, "bob", nothing)]);
    assert_eq!(payloads(&connection, "DEAD", 1).await.len(), 1);

    server.kill_9();
    server.restart().await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while js.kv_put("CUSTOMERS", "c.ann", r#"{"name":"Ann","tier":"silver"}"#).await.is_err() {
        assert!(Instant::now() < deadline, "the server does not come back");
        sleep(Duration::from_millis(100)).await;
    }
    // Whether the table follows again shows in what rows find.
    let mut id = 4;
    loop {
        connection.publish(order(id, "ann")).await.unwrap();
        let last = payloads(&connection, "OUT", u64::from(id) - 1).await.pop().unwrap();
        if last == row(id, "ann", silver) {
            break;
        }
        assert!(last == row(id, "ann", gold) && Instant::now() < deadline, "{last}\n{}", run.err());
        id += 1;
    }
    run.signal("TERM");
    assert_eq!(run.ended().await.code, Some(0));
}

#[tokio::test]
async fn a_last_change_that_the_network_swallows_is_found_though_no_other_follows() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tiers.toml").display().to_string();
    std::fs::write(&file, FILE).unwrap();
    let (server, connection) = server().await;
    let proxy = LossyProxy::before(server.port()).await;
    let js = Js::new(connection.clone());
    js.create_bucket("CUSTOMERS", 1, 1).await.unwrap();
    js.kv_put("CUSTOMERS", "c.ann", r#"{"name":"Ann","tier":"gold"}"#).await.unwrap();
    let mut run = Running::start(OWN, &["run", &file, "--nats", &proxy.url(), "--log", "info"], &[]);
    let order = |id: u64| Outgoing::new("in.order", format!(r#"{{"id":{id},"customer":"ann"}}"#));
    connection.publish(order(1)).await.unwrap();
    assert!(payloads(&connection, "OUT", 1).await[0].contains("gold"));

    // The orders are all delivered: what is swallowed next is the change.
    proxy.lose_deliveries(1);
    js.kv_put("CUSTOMERS", "c.ann", r#"{"name":"Ann","tier":"silver"}"#).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while proxy.is_losing_deliveries() {
        assert!(Instant::now() < deadline, "the change is not delivered: {}", run.err());
        sleep(Duration::from_millis(20)).await;
    }
    run.says("the last delivery that came is 1, and by the server's word it is 2").await;
    let mut id = 2;
    loop {
        connection.publish(order(id)).await.unwrap();
        let last = payloads(&connection, "OUT", id).await.pop().unwrap();
        if last.contains("silver") {
            break;
        }
        assert!(last.contains("gold") && Instant::now() < deadline, "{last}\n{}", run.err());
        id += 1;
    }
    assert_eq!(proxy.cuts(), 0, "the link stayed");
    run.signal("TERM");
    assert_eq!(run.ended().await.code, Some(0));
}
