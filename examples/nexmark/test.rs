//! The Nexmark queries give what batch SQL gives: typed and as files, in process and over JetStream, with one subtask and
//! with four, with events in order and shuffled.
//!
//! In CI some of these combinations have one way of writing each query. `MILLSTREAM_NEXMARK_EVENTS=1000000` is the long form: all
//! of them, both ways.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout, reason = "it is a test")]

mod events;
mod oracle;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use events::{Events, KINDS};
use millstream::broker::{AckPolicy, Connection, ConsumerConfig, Js, NatsServer, Outgoing, StreamConfig, Subject};
use serde_json::Value as Json;
use tokio::time::{Instant, timeout};

/// The queries, and which kinds of events they read.
const QUERIES: [(&str, &[&str]); 9] = [
    ("q0", &["bid"]),
    ("q1", &["bid"]),
    ("q2", &["bid"]),
    ("q3", &["person", "auction"]),
    ("q4", &["auction", "bid"]),
    ("q5", &["bid"]),
    ("q6", &["auction", "bid"]),
    ("q7", &["bid"]),
    ("q8", &["person", "auction"]),
];

/// Where results go when they go to a stream.
const OUT: &str = "NEXMARK_OUT";

/// How a query is written.
#[derive(Clone, Copy, Debug)]
enum Form {
    File,
    Typed,
}

const BOTH: [Form; 2] = [Form::File, Form::Typed];

impl Form {
    fn of(self, query: &str) -> String {
        match self {
            Form::File => format!("{}/nexmark/{query}.toml", env!("CARGO_MANIFEST_DIR")),
            Form::Typed => query.to_owned(),
        }
    }
}

/// The events and what must come of them: `ordered` and `shuffled` hold the same ones.
struct Data {
    events: Events,
    shuffled: Events,
    folder: PathBuf,
}

/// How many events somebody wants.
fn said() -> Option<usize> {
    std::env::var("MILLSTREAM_NEXMARK_EVENTS").ok().map(|text| text.parse().unwrap())
}

/// Both ways of writing a query, or this one where nobody wants the long form: each way is seen with other combinations.
fn forms(short: Form) -> Vec<Form> {
    if said().is_some() { BOTH.to_vec() } else { vec![short] }
}

impl Data {
    /// Made once for all tests of this process.
    fn get() -> &'static Data {
        static DATA: OnceLock<Data> = OnceLock::new();
        DATA.get_or_init(|| {
            let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nexmark");
            let _ = std::fs::remove_dir_all(&folder);
            let events = Events::first(said().unwrap_or(120_000));
            let data = Data { shuffled: events.shuffled(500), events, folder };
            for part in ["ordered", "shuffled", "expected"] {
                std::fs::create_dir_all(data.folder.join(part)).unwrap();
            }
            data.events.write(&data.folder.join("ordered"));
            data.shuffled.write(&data.folder.join("shuffled"));
            oracle::ask(&data.folder.join("ordered"), &data.folder.join("expected"), None);
            data
        })
    }

    fn events(&self, part: &str) -> &Events {
        if part == "ordered" { &self.events } else { &self.shuffled }
    }

    fn assert_rows(&self, query: &str, given: &str, what: &str) {
        let last;
        let given = if query == "q4" {
            last = last_of_each(given);
            &last
        } else {
            given
        };
        let expected = oracle::expected(&self.folder.join("expected"), query);
        oracle::assert_same(&oracle::sorted(given.lines()), &expected, what);
    }
}

/// Of q4, which tells each change, the last row of each category.
fn last_of_each(lines: &str) -> String {
    let mut last = std::collections::BTreeMap::new();
    for line in lines.lines() {
        let row: Json = serde_json::from_str(line).unwrap();
        last.insert(row["category"].to_string(), line);
    }
    last.into_values().collect::<Vec<_>>().join("\n")
}

/// Runs a query until its sources end.
fn run(query: &str, form: Form, subtasks: u32, arguments: &[String]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nexmark"));
    command
        .args(["--log", "warn", "run", &form.of(query), "--until-end"])
        .args(["--parallelism", &subtasks.to_string()]);
    let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{query} {form:?}: {}\n{said}", output.status);
}

fn on_files(part: &str, subtasks: u32, forms: &[Form]) {
    let data = Data::get();
    let work = tempfile::tempdir().unwrap();
    for (query, kinds) in QUERIES {
        for form in forms.iter().copied() {
            let out = work.path().join(format!("{query}-{form:?}.ndjson"));
            let input = |kind: &&str| {
                let file = data.folder.join(part).join(format!("{kind}.ndjson"));
                ["--input".to_owned(), format!("{kind}={}", file.display())]
            };
            let mut arguments: Vec<String> = kinds.iter().flat_map(input).collect();
            arguments.extend(["--output".to_owned(), format!("out={}", out.display())]);
            let started = Instant::now();
            run(query, form, subtasks, &arguments);
            let (took, given) = (started.elapsed(), std::fs::read_to_string(&out).unwrap());
            let what = format!("{query} {form:?}, {part}, {subtasks} subtasks");
            data.assert_rows(query, &given, &what);
            println!("{what}: {} rows as DuckDB says, in {took:?}", given.lines().count());
        }
    }
}

#[test]
fn on_files_in_order_with_one_subtask() {
    on_files("ordered", 1, &BOTH);
}

#[test]
fn on_shuffled_files_with_four_subtasks() {
    on_files("shuffled", 4, &BOTH);
}

#[test]
fn on_files_in_order_with_four_subtasks() {
    on_files("ordered", 4, &forms(Form::File));
}

#[test]
fn on_shuffled_files_with_one_subtask() {
    on_files("shuffled", 1, &forms(Form::Typed));
}

/// Each query with so many subtasks, written so.
async fn over_jetstream(part: &str, ways: [(u32, &[Form]); 2]) {
    let data = Data::get();
    let server = NatsServer::start().await.unwrap();
    let connection = server.connect().await.unwrap();
    let js = Js::new(connection.clone());
    js.create_stream(&StreamConfig::new("NEXMARK", KINDS.map(|kind| format!("nexmark.{kind}")))).await.unwrap();
    publish(&connection, data.events(part)).await;
    let work = tempfile::tempdir().unwrap();
    for (query, _) in QUERIES {
        for (subtasks, form) in ways.iter().flat_map(|(all, forms)| forms.iter().map(|form| (*all, *form))) {
            let _ = js.delete_stream(OUT).await;
            let what = format!("{query} {form:?} over JetStream, {part}, {subtasks} subtasks");
            let checkpoints = work.path().join(what.replace([' ', ','], ""));
            let arguments = ["--checkpoints".to_owned(), checkpoints.display().to_string(), "--nats".to_owned()];
            let arguments = [&arguments[..], &[server.url()]].concat();
            let started = Instant::now();
            tokio::task::spawn_blocking(move || run(query, form, subtasks, &arguments)).await.unwrap();
            let took = started.elapsed();
            let given = lines(&connection, OUT).await;
            data.assert_rows(query, &given, &what);
            println!("{what}: {} rows as DuckDB says, in {took:?}", given.lines().count());
        }
    }
}

#[tokio::test]
async fn over_jetstream_with_shuffled_events_and_one_subtask_and_four() {
    over_jetstream("shuffled", [(1, &BOTH), (4, &BOTH)]).await;
}

#[tokio::test]
async fn over_jetstream_with_events_in_order_and_one_subtask_and_four() {
    over_jetstream("ordered", [(1, &forms(Form::Typed)), (4, &forms(Form::File))]).await;
}

/// Publishes each event on the subject of its kind, confirmed.
async fn publish(connection: &Connection, events: &Events) {
    let all: Vec<_> = events.iter().collect();
    for chunk in all.chunks(1_000) {
        let inbox = connection.new_inbox();
        let mut acks = connection.subscribe(inbox.clone(), 4_096).await.unwrap();
        let reply = Subject::from(inbox);
        let message = |(kind, json): &(&str, &str)| {
            Outgoing::new(format!("nexmark.{kind}"), (*json).to_owned()).reply_to(reply.clone())
        };
        connection.publish_all(chunk.iter().map(message)).await.unwrap();
        for _ in chunk {
            let ack = timeout(Duration::from_secs(20), acks.next()).await.unwrap().unwrap();
            assert!(ack.payload.starts_with(b"{\"stream\""), "{ack:?}");
        }
    }
}

/// The payloads of all messages of a stream, a line each.
async fn lines(connection: &Connection, stream: &str) -> String {
    let js = Js::new(connection.clone());
    let total = js.stream(stream).await.unwrap().state.messages;
    let config = ConsumerConfig { name: "reader".into(), ack_policy: AckPolicy::None, ..ConsumerConfig::default() };
    js.create_consumer(stream, &config).await.unwrap();
    let inbox = connection.new_inbox();
    let mut messages = connection.subscribe(inbox.clone(), 1 << 15).await.unwrap();
    let (mut lines, mut read) = (String::new(), 0);
    while read < total {
        let batch = (total - read).min(10_000);
        let pull = format!(r#"{{"batch":{batch},"expires":5000000000}}"#);
        let request = Outgoing::new(js.next_subject(stream, "reader"), pull).reply_to(Subject::from(inbox.clone()));
        connection.publish(request).await.unwrap();
        for _ in 0..batch {
            let message = timeout(Duration::from_secs(10), messages.next()).await.unwrap().unwrap();
            lines.push_str(std::str::from_utf8(&message.payload).unwrap());
            lines.push('\n');
        }
        read += batch;
    }
    lines
}
