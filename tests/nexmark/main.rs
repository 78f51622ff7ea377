//! Nexmark's q5, q7 and q8 and a keyed count, run by the command line from their files, while events flow and runtime and server
//! are killed: the data of the output stream, read raw, is what DuckDB makes of the events that the input stream holds; where
//! files promise effectively-once, each row once.
//!
//! `MILLSTREAM_NEXMARK_KILLS=40` is the form: so many kills of the runtime, and half as many of the server.
//! `MILLSTREAM_PROGRAM` names another program than the debug build of the command line, such as `target/release/millstream`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout, reason = "it is a test")]

#[path = "../../examples/nexmark/events.rs"]
#[allow(dead_code, reason = "the queries' other test uses the rest")]
mod events;
#[path = "../../examples/nexmark/oracle.rs"]
mod oracle;

use std::path::{Path, PathBuf};
use std::time::Duration;

use events::{Events, KINDS};
use millstream::broker::{Connection, Js, NatsServer, StreamConfig};
use millstream_tests::support::*;
use tokio::time::{Instant, sleep, timeout};

const IN: &str = "NEXMARK";
const OUT: &str = "NEXMARK_OUT";
const SUBJECTS: [&str; 3] = ["nexmark.person", "nexmark.auction", "nexmark.bid"];

/// Events a second of event time: few, so that windows close, and outputs are stored, whenever something is killed.
const RATE: usize = 250;
/// Events are out of order by so many at most, and as many again where a chunk of them is sent again: within the second that
/// the files allow for.
const CHUNK: u64 = 100;

fn kills() -> u64 {
    setting("MILLSTREAM_NEXMARK_KILLS", 4)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Guarantee {
    AtLeastOnce,
    EffectivelyOnce,
}

/// A query's file with the guarantee, and with checkpoints that are more frequent than usual, so that kills find more of them.
fn with_guarantee(query: &str, guarantee: Guarantee, folder: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let file = match query {
        "count" => root.join("tests/nexmark/count.toml"),
        _ => root.join(format!("examples/nexmark/{query}.toml")),
    };
    let promise = match guarantee {
        Guarantee::AtLeastOnce => "",
        Guarantee::EffectivelyOnce => "guarantee = \"effectively-once\"\n",
    };
    let text = std::fs::read_to_string(file).unwrap();
    let text = text.replacen("name = ", &format!("{promise}checkpoint.interval = \"200ms\"\nname = "), 1);
    let path = folder.join(format!("{query}.toml"));
    std::fs::write(&path, text).unwrap();
    path
}

/// Chunks of events in order, each shuffled.
fn shuffled_events() -> impl FnMut(u64, u64) -> Messages + Send + 'static {
    let mut all = events::all(RATE);
    move |from, to| {
        let chunk: Events = all.by_ref().take((to - from) as usize).collect();
        let subject = |kind| SUBJECTS[KINDS.iter().position(|known| *known == kind).unwrap()];
        chunk.shuffled(CHUNK).iter().map(|(kind, json)| (subject(kind), json.to_owned())).collect()
    }
}

/// What is killed, and how often that hit something.
struct Kills {
    query: &'static str,
    out: Tail,
    runtime: u64,
    server: u64,
    hits: u64,
}

impl Kills {
    /// Waits for a moment at which to kill. Rows were stored since the last one; and then it is any part of a checkpoint's
    /// interval later, or, if it is `aimed`, while a checkpoint is written and its outputs are.
    async fn moment(&mut self, connection: &Connection, aimed: bool) {
        let (before, deadline) = (self.out.data.len(), Instant::now() + Duration::from_secs(30));
        while self.out.read(connection).await == before && Instant::now() < deadline {
            sleep(Duration::from_millis(20)).await;
        }
        self.hits += u64::from(self.out.data.len() > before);
        if aimed {
            let mut written = connection.subscribe(format!("$KV.mill_nexmark-{}.>", self.query), 4_096).await.unwrap();
            let _ = timeout(Duration::from_secs(5), written.next()).await;
            sleep(Duration::from_millis(chance() % 16)).await;
        } else {
            sleep(Duration::from_millis(chance() % 300)).await;
        }
    }
}

/// Runs the query until it has all that the input stream holds now.
async fn finish(start: impl Fn(&[&str]) -> Running, running: Running, what: &str) {
    running.signal("TERM");
    let said = running.ended().await;
    assert_eq!(said.code, Some(0), "{what}: {}", said.err);
    let said = start(&["--until-end"]).ended_within(Duration::from_secs(300)).await;
    assert_eq!(said.code, Some(0), "{what}: {}", said.err);
}

async fn story(query: &'static str, guarantee: Guarantee) {
    let what = format!("{query}, {guarantee:?}");
    let mut server = NatsServer::start().await.unwrap();
    let connection = server.connect().await.unwrap();
    Js::new(connection.clone()).create_stream(&StreamConfig::new(IN, SUBJECTS)).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (file, url) = (with_guarantee(query, guarantee, folder.path()).display().to_string(), server.url());
    let program = std::env::var("MILLSTREAM_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_own").to_owned());
    let start = |more: &[&str]| Running::start(&program, &[&["run", &file, "--nats", &url], more].concat(), &[]);

    let feeder = Feeder::of(&connection, 10_000, CHUNK, shuffled_events());
    let mut kills_so_far = Kills { query, out: Tail::of(OUT), runtime: 0, server: 0, hits: 0 };
    let mut running = start(&[]);
    for round in 0..kills() + kills() / 2 {
        kills_so_far.moment(&connection, round % 2 == 0).await;
        if round % 3 == 2 {
            server.kill_9();
            server.restart().await.unwrap();
            kills_so_far.server += 1;
        } else {
            running.killed().await;
            kills_so_far.runtime += 1;
            running = start(&["--parallelism", &(1 + round % 3).to_string()]);
        }
    }
    let fed = feeder.finish().await;
    finish(start, running, &what).await;

    let given = judge(query, guarantee, fed, &connection, folder.path(), &what).await;
    let Kills { runtime, server, hits, .. } = kills_so_far;
    println!(
        "{what}: {runtime} kills of the runtime and {server} of the server, {hits} of them behind rows that were stored since \
         the one before; {fed} events, {given}"
    );
    assert!(hits * 2 > runtime + server, "{what}: {hits} kills hit something, which shows little");
}

/// Compares; gives what there was in words.
async fn judge(
    query: &str,
    guarantee: Guarantee,
    fed: u64,
    connection: &Connection,
    folder: &Path,
    what: &str,
) -> String {
    let events = data(connection, IN).await;
    assert_eq!(events.len() as u64, fed, "{what}: events");
    let kind = |subject: &str| SUBJECTS.iter().position(|known| *known == subject).unwrap();
    let events: Events = events.into_iter().map(|(subject, json)| (kind(&subject), json)).collect();
    events.write(folder);
    oracle::ask(folder, folder, Some(query));
    let mut expected = oracle::expected(folder, query);

    let rows = data(connection, OUT).await;
    assert!(rows.iter().all(|(subject, _)| *subject == format!("nexmark_out.{query}")), "{what}");
    let mut given = oracle::sorted(rows.iter().map(|(_, json)| json.as_str()));
    let words = format!("{} rows out, {} due", given.len(), expected.len());
    if guarantee == Guarantee::AtLeastOnce {
        given.dedup();
        expected.dedup();
    }
    oracle::assert_same(&given, &expected, what);
    words
}

#[tokio::test]
async fn q5_gives_each_row_once_whatever_is_killed() {
    story("q5", Guarantee::EffectivelyOnce).await;
}

#[tokio::test]
async fn q7_gives_each_row_once_whatever_is_killed() {
    story("q7", Guarantee::EffectivelyOnce).await;
}

#[tokio::test]
async fn q8_gives_each_row_once_whatever_is_killed() {
    story("q8", Guarantee::EffectivelyOnce).await;
}

#[tokio::test]
async fn a_keyed_count_gives_each_row_once_whatever_is_killed() {
    story("count", Guarantee::EffectivelyOnce).await;
}

#[tokio::test]
async fn at_least_once_q5_misses_no_row_whatever_is_killed() {
    story("q5", Guarantee::AtLeastOnce).await;
}

#[tokio::test]
async fn at_least_once_q7_misses_no_row_whatever_is_killed() {
    story("q7", Guarantee::AtLeastOnce).await;
}

#[tokio::test]
async fn at_least_once_q8_misses_no_row_whatever_is_killed() {
    story("q8", Guarantee::AtLeastOnce).await;
}

#[tokio::test]
async fn at_least_once_a_keyed_count_misses_no_row_whatever_is_killed() {
    story("count", Guarantee::AtLeastOnce).await;
}
