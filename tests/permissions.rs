//! What `millstream permissions` prints is enough for a whole run, and nothing of it is too much: with one line less the
//! run says which subject is missing and where it belongs.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "it is test code, though not all inside a test")]

use std::fmt::Write as _;
use std::time::Duration;

use millstream::broker::{ConnectOptions, Connection, Js, NatsServer, Outgoing, StreamConfig};
use millstream_tests::support::*;
use serde_json::Value;

const OWN: &str = env!("CARGO_BIN_EXE_own");

/// The permissions of pipeline `name`: published and subscribed.
async fn needed(name: &str) -> (Vec<String>, Vec<String>) {
    let said = call(OWN, &["permissions", "orders", "--json"], &[("OWN_PIPELINE", name)]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    let all: Value = serde_json::from_str(&said.out).unwrap();
    let list = |of: &str| serde_json::from_value(all[of]["allow"].clone()).unwrap();
    (list("publish"), list("subscribe"))
}

/// A server with an administrator, and `users` as they stand in its configuration.
async fn server_with(users: &str) -> (NatsServer, Connection) {
    let users = format!("authorization {{ users: [ {{ user: admin, password: admin }}\n {users} ] }}");
    let server = NatsServer::start_with(&users).await.unwrap();
    let mut options = ConnectOptions::to(server.url());
    options.user = Some("admin".to_owned());
    options.password = Some("admin".to_owned().into());
    let connection = options.connect().await.unwrap();
    create_streams(&connection, 1).await;
    feed(&connection, 0, 100).await;
    connection.publish(Outgoing::new("in.order", "no order")).await.unwrap();
    connection.flush().await.unwrap();
    (server, connection)
}

/// Where a user logs in.
fn url_of(server: &NatsServer, user: &str) -> String {
    format!("nats://{user}:secret-{user}@127.0.0.1:{}", server.port())
}

#[tokio::test]
async fn a_user_with_exactly_the_printed_permissions_runs_the_whole_pipeline() {
    let block = call(OWN, &["permissions", "orders"], &[]).await;
    assert_eq!(block.code, Some(0), "{}", block.err);
    let (server, connection) = server_with(&format!("{{ user: p, password: secret-p\n{} }}", block.out)).await;
    let url = url_of(&server, "p");
    let said = call(OWN, &["run", "orders", "--nats", &url, "--until-end", "--log", "trace"], &[]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(!said.err.contains("may not"), "{}", said.err);
    assert!(!said.err.contains("secret-p"), "the password is in the log: {}", said.err);
    assert_eq!(read_output(&connection).await.missing(100), 0);
    let js = Js::new(connection.clone());
    assert_eq!(js.stream("DEAD").await.unwrap().state.messages, 1);
    assert_eq!(js.consumer("IN", "mill-orders-orders").await.unwrap().ack_floor.stream_seq, 101);
    let said = call(OWN, &["doctor", "orders", "--nats", &url], &[]).await;
    assert!(said.code == Some(0) && said.out.contains("bucket   mill_orders"), "{}", said.out);
    assert!(!said.out.contains("secret-p") && !said.err.contains("secret-p"), "{said:?}");
}

#[tokio::test]
async fn with_one_line_less_the_run_names_the_subject_and_where_to_add_it() {
    // Whoever lacks the right to make the dead letters' stream goes first: later it is there.
    let is_create = |subject: &String| subject.contains("STREAM.CREATE.DEAD");
    let (all, _) = needed("p").await;
    let mut users = String::new();
    let mut lacking: Vec<(String, String)> = Vec::new();
    for number in 0..all.len() {
        let name = format!("p{number}");
        let (mut publish, subscribe) = needed(&name).await;
        let subject = publish.remove(number);
        // Not needed by a run that goes well on a server of today and keeps little state.
        if ["$JS.API.INFO", "CONSUMER.DELETE", "CONSUMER.INFO", "MSG.GET.IN", "$JS.ACK.*", "OBJ_", "$O."]
            .iter()
            .any(|spare| subject.contains(spare))
        {
            continue;
        }
        write!(
            users,
            "{{ user: {name}, password: secret-{name}, permissions {{ publish {{ allow: {publish:?} }}, subscribe {{ allow: {subscribe:?} }} }} }}\n "
        )
        .unwrap();
        lacking.push((name, subject));
    }
    lacking.sort_by_key(|(_, subject)| !is_create(subject));
    assert!(lacking.len() > 10, "{lacking:?}");
    let (server, connection) = server_with(&users).await;
    let start = |name: &str| {
        Running::start(OWN, &["run", "orders", "--nats", &url_of(&server, name)], &[("OWN_PIPELINE", name)])
    };
    let mut running = Vec::new();
    for (name, subject) in lacking {
        let mut run = start(&name);
        if is_create(&subject) {
            run.says(&subject).await;
            // From now on it is there, and takes only the letters of somebody else.
            let dead = StreamConfig::new("DEAD", ["mill.dlq.somebody.>"]);
            Js::new(connection.clone()).create_stream(&dead).await.unwrap();
        }
        running.push((run, subject));
    }
    for (run, subject) in running {
        let concrete = subject.trim_end_matches(['>', '*']);
        let said = run.ended().await;
        assert_eq!(said.code, Some(1), "without {subject}: {}", said.err);
        assert!(said.err.contains(concrete), "without {subject}: {}", said.err);
        assert!(said.err.contains("permissions.publish.allow"), "without {subject}: {}", said.err);
    }
}

#[tokio::test]
async fn a_shared_source_that_gives_messages_up_may_listen_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let path = folder.path().join(format!("{name}.toml")).display().to_string();
        let text = format!(
            r#"
name = "{name}"

[sources.orders]
kind = "jetstream"
stream = "IN"
share = {{ max_deliver = 3 }}
format = "json"
schema = {{ id = "int64 not null" }}
on_error = "drop"

[sinks.out]
kind = "jetstream"
from = "orders"
stream = "OUT"
subject = "out.all"
on_error = "stop"
"#
        );
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut users = String::new();
    for (name, listens) in [("may", true), ("maynot", false)] {
        let said = call(OWN, &["permissions", &file(name), "--json"], &[]).await;
        let mut all: Value = serde_json::from_str(&said.out).unwrap();
        if !listens {
            let subjects = all["subscribe"]["allow"].as_array_mut().unwrap();
            subjects.retain(|subject| !subject.as_str().unwrap().contains("ADVISORY"));
        }
        writeln!(users, "{{ user: {name}, password: secret-{name}, permissions: {all} }}").unwrap();
    }
    let (server, connection) = server_with(&users).await;
    let mut written = 0;
    for (name, listens) in [("may", true), ("maynot", false)] {
        let url = url_of(&server, name);
        let mut run = Running::start(OWN, &["run", &file(name), "--nats", &url, "--log", "debug"], &[]);
        written += 100;
        until_out(&connection, written, Duration::from_secs(30)).await;
        run.says("checkpoint done").await;
        run.signal("TERM");
        let said = run.ended().await;
        assert_eq!(said.code, Some(0), "{}", said.err);
        let denied = said.err.lines().find(|line| line.contains("may not"));
        assert_eq!(denied.is_none(), listens, "{denied:?}");
        assert!(denied.is_none_or(|line| line.contains("MAX_DELIVERIES.IN.mill-maynot-orders")), "{denied:?}");
    }
}
