//! Messages go before they are read, under a pipeline that runs: the loss is noticed, whether the pipeline stands still
//! or goes on, and what was deleted one by one is not taken for it. So is what went behind the newest checkpoint, when that is
//! damaged and the one before it would need it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "it is test code, though not all inside a test"
)]

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use millstream::broker::{ConnectOptions, Connection, Discard, Js, NatsServer, Purge, StreamConfig};
use millstream::connectors::{Connections, JetStreamRead, JetStreamSource};
use millstream::operators::{Fault, FaultKind, Source};
use millstream::pipelines::graph::{Resources, Subtask};
use millstream_tests::support::*;
use tokio::time::{Instant, sleep, timeout};

const PUMP: &str = env!("CARGO_BIN_EXE_pump");
const OWN: &str = env!("CARGO_BIN_EXE_own");
const ORDERS: u64 = 20_000;
/// How many orders the pipeline takes before the first of them are part of a checkpoint.
const IN_FLIGHT: u64 = 2_000;

/// A pipeline whose output is full, so that it has read `IN_FLIGHT` of the orders and no more.
struct Stalled {
    server: NatsServer,
    connection: Connection,
    js: Js,
    full: StreamConfig,
    pump: Running,
}

impl Stalled {
    async fn start(pipeline: &str) -> Stalled {
        let (server, connection) = server().await;
        let js = Js::new(connection.clone());
        let mut full = js.stream("OUT").await.unwrap().config;
        full.discard = Discard::New;
        full.max_msgs = 1;
        js.update_stream(&full).await.unwrap();
        feed(&connection, 0, ORDERS).await;
        let pump = start(&server, pipeline);
        let (consumer, deadline) = (format!("mill-{pipeline}-orders"), Instant::now() + Duration::from_secs(30));
        while js.consumer("IN", &consumer).await.map_or(0, |info| info.num_ack_pending) < IN_FLIGHT {
            assert!(Instant::now() < deadline, "it does not read");
            sleep(Duration::from_millis(20)).await;
        }
        Stalled { server, connection, js, full, pump }
    }

    /// Makes room in the output.
    async fn go_on(&mut self) {
        self.full.max_msgs = -1;
        self.js.update_stream(&self.full).await.unwrap();
    }

    /// Waits until the pipeline ends because messages up to one of `last` are lost, and sees that nothing behind them was
    /// read.
    async fn lost(self, pipeline: &str, last: RangeInclusive<u64>) {
        let said = self.pump.ended().await;
        assert_eq!(said.code, Some(4), "{}", said.err);
        let words = said.err.lines().rfind(|line| line.starts_with("error: ")).unwrap_or_default();
        let (Some(from), Some(to)) = (number_behind(words, "messages "), number_behind(words, " to ")) else {
            panic!("{words}");
        };
        assert!(last.contains(&to), "{words}");
        // Some checkpoints may have come before the output was full, and what goes while it is in flight makes room.
        assert!(from > IN_FLIGHT && from < to, "{words}");
        let output = read_output(&self.connection).await;
        assert_eq!((output.wrong, output.times.range(from..).count()), (0, 0), "nothing behind the gap was read");
        // No checkpoint stepped over it.
        let (status, words) = Pump::words(PUMP, &[&self.server.url(), pipeline]);
        assert_eq!(status.code(), Some(4), "at the next start, too: {words}");
    }
}

fn start(server: &NatsServer, pipeline: &str) -> Running {
    Running::start(PUMP, &[&server.url(), pipeline, &IN_FLIGHT.to_string()], &[])
}

/// The number right behind a word.
fn number_behind(text: &str, word: &str) -> Option<u64> {
    text.split(word).skip(1).find_map(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    })
}

#[tokio::test]
async fn a_purge_ahead_of_a_reader_that_waits_for_its_sink_stops_it_when_it_goes_on() {
    let mut stalled = Stalled::start("purged").await;
    stalled.js.purge("IN", &Purge { seq: 15_000, ..Purge::default() }).await.unwrap();
    stalled.go_on().await;
    stalled.lost("purged", 14_999..=14_999).await;
}

#[tokio::test]
async fn a_purge_of_all_that_waits_stops_the_pipeline_when_it_goes_on() {
    let mut stalled = Stalled::start("purged-all").await;
    stalled.js.purge("IN", &Purge::default()).await.unwrap();
    // Something comes later, so that the stream tells where it begins.
    feed(&stalled.connection, ORDERS, ORDERS + 1).await;
    stalled.go_on().await;
    stalled.lost("purged-all", ORDERS..=ORDERS).await;
}

#[tokio::test]
async fn a_purge_is_noticed_while_the_sink_stands_still() {
    let stalled = Stalled::start("still").await;
    stalled.js.purge("IN", &Purge::default()).await.unwrap();
    stalled.lost("still", ORDERS..=ORDERS).await;
}

#[tokio::test]
async fn a_limit_that_takes_messages_while_the_sink_stands_still_stops_the_pipeline() {
    let stalled = Stalled::start("limited").await;
    let mut input = stalled.js.stream("IN").await.unwrap().config;
    input.max_msgs = 1_000;
    stalled.js.update_stream(&input).await.unwrap();
    // It may be noticed before all of them are gone.
    stalled.lost("limited", 1..=ORDERS - 1_000).await;
}

#[tokio::test]
async fn a_stream_that_is_deleted_while_the_sink_stands_still_stops_the_pipeline() {
    let stalled = Stalled::start("deleted").await;
    stalled.js.delete_stream("IN").await.unwrap();
    let said = stalled.pump.ended().await;
    assert_eq!(said.code, Some(4), "{}", said.err);
    assert!(said.err.contains("stream IN is gone"), "{}", said.err);
}

#[tokio::test]
async fn messages_that_were_deleted_one_by_one_are_no_loss() {
    let mut stalled = Stalled::start("holes").await;
    // Single ones, and some in a row; none of them the first of the stream.
    let deleted: Vec<u64> = (5_001..5_050).chain((6_001..=ORDERS).step_by(500)).collect();
    for sequence in &deleted {
        stalled.js.delete_message("IN", *sequence).await.unwrap();
    }
    stalled.go_on().await;
    let wanted: Vec<u64> = (0..ORDERS).filter(|id| expected(*id).is_some() && !deleted.contains(&(id + 1))).collect();
    until_out(&stalled.connection, wanted.len() as u64, Duration::from_secs(60)).await;
    stalled.pump.signal("TERM");
    let said = stalled.pump.ended().await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    let output = read_output(&stalled.connection).await;
    assert_eq!((output.wrong, output.times.into_keys().collect::<Vec<_>>()), (0, wanted));
}

/// A source of the subject `s.a` of a stream, which may have so many in flight.
async fn source_of_some(server: &NatsServer, in_flight: u32) -> JetStreamSource {
    let connections = Connections::to_nats(ConnectOptions::to(server.url())).unwrap();
    let resources = Resources::default().with(connections);
    let subtask = Subtask { pipeline: "p".into(), node: "in".into(), index: 0, of: 1, resources };
    let read = JetStreamRead { subjects: vec!["s.a".into()], max_ack_pending: in_flight, ..JetStreamRead::of("S") };
    let mut source = JetStreamSource::new(&subtask, read).unwrap();
    source.open(None).await.unwrap();
    source
}

/// Reads until so many rows have come.
async fn read_rows(source: &mut JetStreamSource, rows: usize) -> Result<(), Fault> {
    let mut read = 0;
    while read < rows {
        let next = timeout(Duration::from_secs(20), source.next(1_024)).await.expect("something comes");
        read += next?.unwrap().len();
    }
    assert_eq!(read, rows);
    source.commit(source.position()).await
}

#[tokio::test]
async fn a_source_of_some_subjects_misses_its_own_messages_and_not_those_of_others() {
    let (server, connection) = server().await;
    let js = Js::new(connection.clone());
    // Others push each other out, and the beginning of the stream far beyond what is read here.
    let mut config = StreamConfig { max_msgs: 500, ..StreamConfig::new("S", ["s.>"]) };
    js.create_stream(&config).await.unwrap();
    let mut source = source_of_some(&server, 100).await;
    // Its consumer is there from the first message that it gives.
    publish_each(&connection, "s.a", &[b"own".to_vec()]).await;
    read_rows(&mut source, 1).await.unwrap();
    for _ in 0..20 {
        publish_each(&connection, "s.b", &vec![b"other".to_vec(); 700]).await;
        publish_each(&connection, "s.a", &vec![b"own".to_vec(); 3]).await;
        read_rows(&mut source, 3).await.unwrap();
    }
    config.max_msgs = -1;
    js.update_stream(&config).await.unwrap();
    for _ in 0..500 {
        publish_each(&connection, "s.b", &[b"other".to_vec()]).await;
        publish_each(&connection, "s.a", &[b"own".to_vec()]).await;
    }
    read_rows(&mut source, 100).await.unwrap();
    let last = js.stream("S").await.unwrap().state.last_seq;
    js.purge("S", &Purge { seq: last - 99, ..Purge::default() }).await.unwrap();
    // What was on its way comes; then what is missing is missed.
    let lost = loop {
        match timeout(Duration::from_secs(20), source.next(1_024)).await.expect("it is noticed") {
            Ok(_) => source.commit(source.position()).await.unwrap(),
            Err(fault) => break fault,
        }
    };
    assert_eq!(lost.kind(), FaultKind::SourceLost, "{lost}");
    let least = number_behind(&lost.to_string(), "at least ").unwrap();
    assert!((1..=350).contains(&least), "{lost}");
}

const FILE: &str = r#"
name = "filed"
checkpoint = { interval = "1h" }

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

fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.is_file()).map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Up to which message the source had read at each manifest of a directory, the newest last.
fn positions(directory: &Path) -> Vec<(PathBuf, u64)> {
    let revision = |path: &PathBuf| path.extension().unwrap().to_str().unwrap().parse::<u64>().unwrap();
    let mut positions: Vec<_> = files(directory)
        .into_iter()
        .map(|(path, bytes)| {
            let text = String::from_utf8(bytes).unwrap();
            let json: serde_json::Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
            let read = json.pointer("/sources/in/0/position/sequence").and_then(serde_json::Value::as_u64);
            (path, read.unwrap_or_else(|| panic!("{text}")))
        })
        .collect();
    positions.sort_by_key(|(path, _)| revision(path));
    positions
}

#[tokio::test]
async fn the_checkpoint_before_a_damaged_one_is_not_gone_on_from_behind_a_purge_and_nothing_is_deleted() {
    let (server, connection) = server().await;
    let (folder, url, js) = (tempfile::tempdir().unwrap(), server.url(), Js::new(connection.clone()));
    let (file, checkpoints) = (folder.path().join("filed.toml"), folder.path().join("checkpoints"));
    std::fs::write(&file, FILE).unwrap();
    let (file, at) = (file.display().to_string(), checkpoints.display().to_string());
    let arguments = ["run", &file, "--nats", &url, "--checkpoints", &at];
    let rows = |ids: RangeInclusive<u64>| ids.map(|id| format!("{{\"id\":{id}}}").into_bytes()).collect::<Vec<_>>();
    let mut out = Tail::of("FILED");
    // Each run writes a checkpoint when it begins, and one when it ends.
    for read in [1_000, 2_000] {
        publish_each(&connection, "in.order", &rows(read - 999..=read)).await;
        let run = Running::start(OWN, &arguments, &[]);
        out.until(&connection, read as usize, Duration::from_secs(30), || run.err()).await;
        run.signal("TERM");
        let said = run.ended().await;
        assert_eq!(said.code, Some(0), "{}", said.err);
    }
    let kept = positions(&checkpoints);
    let Some([(before, 1_000), (newest, 2_000)]) = kept.last_chunk() else { panic!("{kept:?}") };
    let mut bytes = std::fs::read(newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(newest, bytes).unwrap();
    js.purge("IN", &Purge { seq: 1_501, ..Purge::default() }).await.unwrap();
    let (kept, input) = (files(&checkpoints), js.stream("IN").await.unwrap());

    // As often as somebody tries.
    for attempt in 0..4 {
        let said = call(OWN, &arguments, &[]).await;
        assert_eq!(said.code, Some(4), "attempt {attempt}: {}", said.err);
        let damaged = format!("{} cannot be gone on from", newest.display());
        assert!(said.err.contains(&damaged), "attempt {attempt}: {}", said.err);
        let words = said.err.lines().rfind(|line| line.starts_with("error: ")).unwrap_or_default();
        assert!(words.contains("messages 1001 to 1500"), "attempt {attempt}: {}", said.err);
        let now = files(&checkpoints);
        let names = || now.keys().map(|path| path.file_name().unwrap()).collect::<Vec<_>>();
        assert!(now == kept, "attempt {attempt}: something was changed: {:?}", names());
    }
    assert!(files(&checkpoints).contains_key(before));
    let after = js.stream("IN").await.unwrap();
    assert_eq!((after.state.first_seq, after.state.messages), (input.state.first_seq, input.state.messages));
    assert_eq!(out.read(&connection).await, 2_000, "nothing came out");
}
