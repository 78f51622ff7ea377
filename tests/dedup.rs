//! `dedup = true` on a real server: repeats are dropped, and nothing else is.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "it is test code, though not all inside a test")]

use std::collections::BTreeMap;
use std::time::Duration;

use millstream::broker::{Connection, Js, NatsServer, StreamConfig};
use millstream_tests::support::*;
use serde_json::Value;
use tempfile::TempDir;

const MILLSTREAM: &str = env!("CARGO_BIN_EXE_own");

/// A server with the streams IN, of `rows` numbered rows, and OUT.
async fn world(rows: usize) -> (NatsServer, Connection, TempDir) {
    let (server, connection) = server().await;
    let payloads: Vec<Vec<u8>> =
        (0..rows).map(|id| format!(r#"{{"id":{id},"tags":["x","x"]}}"#).into_bytes()).collect();
    publish_each(&connection, "in.row", &payloads).await;
    (server, connection, tempfile::tempdir().unwrap())
}

/// A pipeline file of the source `in` and of what is behind it.
fn file(folder: &TempDir, behind: &str) -> String {
    let path = folder.path().join("pipeline.toml").display().to_string();
    let begin = r#"
name = "dedup"
checkpoint = { interval = "1h" }

[sources.in]
kind = "jetstream"
stream = "IN"
format = "json"
schema = { id = "int64 not null", tags = "list<utf8>" }
on_error = "stop"
"#;
    std::fs::write(&path, format!("{begin}{behind}")).unwrap();
    path
}

fn sink(name: &str, from: &str, subject: &str) -> String {
    format!(
        r#"
[sinks.{name}]
kind = "jetstream"
from = {from}
stream = "OUT"
subject = "{subject}"
dedup = true
on_error = "stop"
"#
    )
}

/// How often each subject and row is in the output stream.
async fn output(connection: &Connection) -> BTreeMap<(String, u64), u32> {
    let mut times = BTreeMap::new();
    for message in read_all(connection, "OUT").await {
        let row: Value = serde_json::from_slice(&message.payload).unwrap();
        *times.entry((message.subject, row["id"].as_u64().unwrap())).or_default() += 1;
    }
    times
}

const BRANCHES: &str = r#"
[[steps]]
name = "a"
from = "in"
set = { k = "'a'" }
[[steps]]
name = "b"
from = "in"
set = { k = "'b'" }
"#;

#[tokio::test]
async fn sinks_branches_and_equal_rows_of_one_message_are_all_stored() {
    let (server, connection, folder) = world(100).await;
    let explode = "\n[[steps]]\nname = \"each\"\nfrom = \"in\"\nexplode = \"tags\"\n";
    let stories = [
        ("two sinks", sink("a", "\"in\"", "out.a") + &sink("b", "\"in\"", "out.b"), 200, 1),
        ("two sinks of equal rows", sink("a", "\"in\"", "out.a") + &sink("b", "\"in\"", "out.a"), 100, 2),
        ("two branches", BRANCHES.to_owned() + &sink("o", "[\"a\", \"b\"]", "out.{k}"), 200, 1),
        ("equal rows", explode.to_owned() + &sink("o", "\"each\"", "out.a"), 100, 2),
    ];
    for (story, behind, distinct, times) in stories {
        let file = file(&folder, &behind);
        let url = server.url();
        let checkpoints = tempfile::tempdir_in(folder.path()).unwrap();
        let path = checkpoints.path().display().to_string();
        let run = ["run", &file, "--until-end", "--nats", &url, "--checkpoints", &path];
        let said = call(MILLSTREAM, &run, &[]).await;
        assert_eq!(said.code, Some(0), "{story}: {}", said.err);
        let output = output(&connection).await;
        assert_eq!((output.len(), output.values().all(|n| *n == times)), (distinct, true), "{story}: {output:?}");
        let js = Js::new(connection.clone());
        js.delete_stream("OUT").await.unwrap();
        js.create_stream(&StreamConfig { allow_batched: true, ..StreamConfig::new("OUT", ["out.>"]) }).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_killed_run_had_stored_is_not_stored_again() {
    let rows = 20_000;
    let (server, connection, folder) = world(rows).await;
    let file = file(&folder, &(BRANCHES.to_owned() + &sink("o", "[\"a\", \"b\"]", "out.{k}")));
    let url = server.url();
    // No checkpoint is written before the end: whoever starts again repeats everything.
    for _ in 0..2 {
        let before = out_len(&connection).await;
        let run = Running::start(MILLSTREAM, &["run", &file, "--nats", &url], &[]);
        until_out(&connection, before + 1_000, Duration::from_secs(30)).await;
        let _ = run.killed().await;
    }
    let before = out_len(&connection).await;
    let said = call(MILLSTREAM, &["run", &file, "--until-end", "--nats", &url], &[]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    let last: Value = serde_json::from_str(said.err.lines().last().unwrap()).unwrap();
    assert_eq!(last["rows_out"].as_u64(), Some(2 * rows as u64), "it has written all again: {last}");
    let output = output(&connection).await;
    println!("dedup: {before} messages stored when it was killed, {} in the end", output.len());
    assert!(before >= 2_000 && output.values().all(|times| *times == 1), "{before}");
    assert_eq!(output.len(), 2 * rows);
}

#[tokio::test]
async fn rows_that_cannot_be_known_again_are_refused_or_told() {
    let (server, connection, folder) = world(10).await;
    let many = sink("o", "\"in\"", "out.a") + "format = \"ndjson\"\n";
    let said = call(MILLSTREAM, &["check", &file(&folder, &many)], &[]).await;
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("`dedup` cannot work with the format `ndjson`"), "{}", said.err);
    assert!(said.err.contains("write one row a message"), "{}", said.err);

    let generated = format!(
        "name = \"made\"\n[sources.made]\nkind = \"generate\"\ncount = 50\nrate = 1000\nfields = {{ id = \"1\" }}\non_error = \"stop\"\n{}",
        sink("o", "\"made\"", "out.a")
    );
    let path = folder.path().join("made.toml").display().to_string();
    std::fs::write(&path, generated).unwrap();
    let said = call(MILLSTREAM, &["run", &path, "--nats", &server.url()], &[]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(said.err.matches("`dedup` cannot give a message id").count(), 1, "{}", said.err);
    assert_eq!(out_len(&connection).await, 50, "equal rows without an origin are all stored");
}
