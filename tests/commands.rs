//! The command line as a black box, on pipelines of its own and a real server: what it prints, and its exit codes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "it is test code, though not all inside a test")]

use std::time::Duration;

use millstream::broker::{Connection, Discard, Js, Outgoing, StreamConfig};
use millstream_tests::support::*;
use serde_json::Value;

const OWN: &str = env!("CARGO_BIN_EXE_own");

/// Log lines as JSON; every line must be.
fn events(err: &str) -> Vec<Value> {
    err.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
}

async fn count(connection: &Connection, stream: &str) -> u64 {
    Js::new(connection.clone()).stream(stream).await.map_or(0, |info| info.state.messages)
}

/// A stream of outputs that takes `messages` and then refuses.
async fn fill_up_at(connection: &Connection, messages: i64) {
    let js = Js::new(connection.clone());
    let config = StreamConfig { max_msgs: messages, discard: Discard::New, ..StreamConfig::new("OUT", ["out.>"]) };
    js.update_stream(&config).await.unwrap();
}

#[tokio::test]
async fn sigterm_drains_and_the_next_run_repeats_nothing() {
    let (server, connection) = server().await;
    let url = server.url();
    feed(&connection, 0, 2_000).await;
    let run = Running::start(OWN, &["run", "orders", "--nats", &url], &[]);
    until_complete(&connection, 0..2_000, Duration::from_secs(30)).await;
    run.signal("TERM");
    let said = run.ended().await;
    assert_eq!((said.code, said.out.as_str()), (Some(0), ""), "{}", said.err);
    let events = events(&said.err);
    let last = events.last().unwrap();
    assert_eq!(
        (&last["message"], &last["rows_in"], &last["rejected"]),
        (&"the run is over".into(), &2_000.into(), &0.into())
    );
    let before = out_len(&connection).await;
    feed(&connection, 2_000, 3_000).await;
    let said = call(OWN, &["run", "orders", "--until-end"], &[("NATS_URL", &url)]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    let output = until_complete(&connection, 0..3_000, Duration::from_secs(1)).await;
    assert_eq!((output.duplicates(), output.wrong), (0, 0), "after {before} messages of the first run");
}

#[tokio::test]
async fn until_end_ends_behind_what_was_there_even_if_the_last_of_it_is_not_for_us_or_nothing_is_there() {
    let (server, connection) = server().await;
    let run = async || call(OWN, &["run", "orders", "--until-end", "--nats", &server.url()], &[]).await;
    let said = run().await;
    assert_eq!((said.code, out_len(&connection).await), (Some(0), 0), "{}", said.err);
    feed(&connection, 0, 500).await;
    // The last messages of the stream are deleted: nothing with the last sequence will ever come.
    let js = Js::new(connection.clone());
    for sequence in 496..=500 {
        js.delete_message("IN", sequence).await.unwrap();
    }
    let said = run().await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(read_output(&connection).await.missing(495), 0);
}

#[tokio::test]
async fn until_end_is_refused_where_a_source_has_no_end() {
    let (server, connection) = server().await;
    feed(&connection, 0, 10).await;
    let (folder, url) = (tempfile::tempdir().unwrap(), server.url());
    let shared = "kind = \"jetstream\"\nstream = \"IN\"\nshare = true\nformat = \"raw\"";
    let core = "kind = \"core_nats\"\nsubject = \"in.>\"\nformat = \"raw\"";
    let endless = "kind = \"generate\"\nfields = { value = \"n\" }";
    for (name, source, words, way_out) in [
        ("shared", shared, "a stream that is shared has no such end", "read without `share`"),
        ("core", core, "core NATS has no such end", "stop the process with SIGTERM"),
        ("endless", endless, "without a `count` have no such end", "give it one"),
    ] {
        let path = folder.path().join(format!("{name}.toml")).display().to_string();
        let out = "[sinks.out]\nkind = \"file\"\nfrom = \"rows\"";
        let file = folder.path().join(name).display().to_string();
        let text = format!(
            "name = \"{name}\"\naccept_loss = {}\non_error = \"stop\"\n[sources.rows]\n{source}\n{out}\npath = \"{file}\"",
            name == "core"
        );
        std::fs::write(&path, text).unwrap();
        let said = call(OWN, &["run", &path, "--until-end", "--nats", &url], &[]).await;
        assert_eq!(said.code, Some(2), "{name}: {}", said.err);
        for part in ["rows: the run is to end with what the sources have now", words, way_out] {
            assert!(said.err.contains(part), "{part} is not in {}", said.err);
        }
    }
    // None of them has begun: nobody has taken a message, nor interest in any.
    assert!(Js::new(connection).consumer("IN", "mill-shared-rows").await.is_err());
}

#[tokio::test]
async fn a_run_that_cannot_drain_stops_at_the_second_signal_or_when_its_time_is_over() {
    let (server, connection) = server().await;
    fill_up_at(&connection, 10).await;
    feed(&connection, 0, 1_000).await;
    let start = |name: &'static str, timeout: &'static str| {
        let arguments = ["run", "orders", "--nats", &server.url(), "--drain-timeout", timeout];
        Running::start(OWN, &arguments, &[("OWN_PIPELINE", name)])
    };
    let mut run = start("twice", "60");
    run.says("the output waits").await;
    run.signal("TERM");
    run.says("draining").await;
    run.signal("TERM");
    let said = run.ended().await;
    assert_eq!(said.code, Some(130), "{}", said.err);
    assert!(said.err.contains("nothing is lost"), "{}", said.err);
    let mut run = start("slow", "0");
    run.says("the output waits").await;
    run.signal("INT");
    assert_eq!(run.ended().await.code, Some(130));
}

#[tokio::test]
async fn files_in_place_of_sources_and_sinks_need_no_server_and_leave_checkpoints_alone() {
    let folder = std::env::temp_dir().join(format!("millstream-commands-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = |name: &str| folder.join(name).display().to_string();
    let lines: String = (0..50).map(|id| order(id) + "\n").collect();
    std::fs::write(path("in"), lines + "no order\n").unwrap();
    let arguments = [
        "run".to_owned(),
        "orders".to_owned(),
        format!("--input=orders={}", path("in")),
        format!("--output=to_eu={}", path("eu")),
        format!("--output=to_rest={}", path("rest")),
        format!("--output=dead={}", path("dead")),
        // Nobody is there: whoever connects fails.
        "--nats=nats://127.0.0.1:1".to_owned(),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    for _ in 0..2 {
        let said = call(OWN, &arguments, &[]).await;
        assert_eq!(said.code, Some(0), "{}", said.err);
        let mut given = Vec::new();
        for (name, subject) in [("eu", "out.eu"), ("rest", "out.rest")] {
            let text = std::fs::read_to_string(path(name)).unwrap();
            given.extend(text.lines().map(|line| (subject.to_owned(), line.to_owned())));
        }
        let mut wanted: Vec<_> = (0..50).filter_map(expected).collect();
        given.sort();
        wanted.sort();
        assert_eq!(given, wanted);
        assert_eq!(std::fs::read_to_string(path("dead")).unwrap(), "no order\n");
    }
    let _ = std::fs::remove_dir_all(&folder);
    let said = call(OWN, &["run", "orders", "--input", "orders=x", "--output", "to_eu=x"], &[]).await;
    assert_eq!(said.code, Some(2), "{}", said.err);
    for part in ["`dead`", "`to_rest`", "--output dead=dead.ndjson", "--output to_rest=to_rest.ndjson"] {
        assert!(said.err.contains(part), "{part} is not in {}", said.err);
    }
    let said = call(OWN, &["run", "orders", "--input", "order=x", "--output", "to_eu=x"], &[]).await;
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("no source `order`") && said.err.contains("there are: orders"), "{}", said.err);
}

#[tokio::test]
async fn check_tells_every_mistake_and_explain_shows_the_graph() {
    let said = call(OWN, &["check", "orders", "wrong"], &[]).await;
    assert_eq!(said.code, Some(2));
    assert_eq!(said.out, "ok  orders: pipeline orders, 1 source, 3 steps, 3 sinks, at least once\n");
    assert!(said.err.contains("\"a stream\" cannot be the name of a stream"), "{}", said.err);
    assert!(
        said.err.contains("its subject cannot be used") && said.err.contains("2 mistakes in 1 file"),
        "{}",
        said.err
    );
    let said = call(OWN, &["explain", "orders", "--view", "mermaid"], &[]).await;
    assert!(said.code == Some(0) && said.out.starts_with("flowchart LR\n"), "{said:?}");
}

#[tokio::test]
async fn doctor_says_what_is_missing_and_is_content_when_it_is_there() {
    let (server, connection) = server().await;
    let look = async || call(OWN, &["doctor", "orders", "--nats", &server.url()], &[]).await;
    let said = look().await;
    assert_eq!(said.code, Some(0), "{}", said.out);
    for part in ["nats-server 2.", "API level ", "stream   IN, read by orders", "DEAD, written by dead: will be made"] {
        assert!(said.out.contains(part), "{part} is not in {}", said.out);
    }
    assert!(said.out.contains("clock    the server's is") && said.out.contains("one copy"), "{}", said.out);
    Js::new(connection.clone()).delete_stream("OUT").await.unwrap();
    let said = look().await;
    assert_eq!(said.code, Some(1), "{}", said.out);
    assert!(said.out.contains("there is no stream OUT") && said.out.contains("1 error,"), "{}", said.out);
}

#[tokio::test]
async fn remove_shows_asks_refuses_what_runs_and_leaves_nothing_but_streams() {
    let (server, connection) = server().await;
    let url = server.url();
    feed(&connection, 0, 100).await;
    connection.publish(Outgoing::new("in.order", "no order")).await.unwrap();
    let remove = async |more: &[&str]| call(OWN, &[&["remove", "orders", "--nats", &url], more].concat(), &[]).await;
    let mut run = Running::start(OWN, &["run", "orders", "--nats", &url, "--log", "debug"], &[]);
    until_complete(&connection, 0..100, Duration::from_secs(30)).await;
    run.says("checkpoint done").await;
    let said = remove(&[]).await;
    assert_eq!(said.code, Some(2), "nobody can be asked: {}", said.err);
    let said = remove(&["--yes"]).await;
    assert!(said.code == Some(1) && said.err.contains("seems to run"), "{said:?}");
    run.signal("TERM");
    assert_eq!(run.ended().await.code, Some(0));
    let said = remove(&["--yes"]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(
        said.out.contains("consumer mill-orders-orders of stream IN") && said.out.contains("checkpoint "),
        "{}",
        said.out
    );
    let js = Js::new(connection.clone());
    assert!(js.consumer("IN", "mill-orders-orders").await.is_err());
    assert!(js.find_stream("KV_mill_orders").await.unwrap().is_none());
    assert_eq!((count(&connection, "IN").await, count(&connection, "DEAD").await), (101, 1));
    assert!(remove(&["--yes"]).await.out.contains("left nothing"));
}

#[tokio::test]
async fn every_row_that_left_by_an_output_of_rejected_rows_is_counted_as_rejected_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let text = format!(
        r#"
name = "parted"
on_error = "drop"
[sources.rows]
kind = "file"
path = "{}"
format = "json"
schema = {{ n = "int64 not null" }}
[[steps]]
name = "parted"
from = "rows"
route = {{ large = "100 / n > 10" }}
[sinks.large]
kind = "file"
from = "parted.large"
path = "{}"
[sinks.small]
kind = "file"
from = "parted"
path = "{}"
"#,
        path("in"),
        path("large"),
        path("small")
    );
    std::fs::write(path("pipeline.toml"), text).unwrap();
    let rows = ["{\"n\":1}", "{\"n\":0}", "{\"n\":50}", "no row", "{\"n\":0}", "{\"n\":2}"];
    std::fs::write(path("in"), rows.join("\n")).unwrap();
    let said = call(OWN, &["run", &path("pipeline.toml"), "--checkpoints", &path("checkpoints")], &[]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    let events = events(&said.err);
    let last = events.last().unwrap();
    assert_eq!((&last["rows_out"], &last["rejected"]), (&3.into(), &3.into()), "{}", said.err);
    let parted = events.iter().find(|event| event["node"] == "parted").unwrap();
    assert_eq!((&parted["rows_out"], &parted["rejected"]), (&3.into(), &2.into()), "{}", said.err);
}
