//! Where a source with a position begins when there is no checkpoint, on a real server, from files and in Rust; and that it
//! is found once: later starts go on from there, whatever came in between.

#![allow(clippy::unwrap_used, reason = "it is test code, though not all inside a test")]

use std::ops::RangeInclusive;
use std::time::Duration;

use millstream::broker::{ConnectOptions, Connection, Js, NatsServer, Purge};
use millstream::connectors::JetStreamFrom;
use millstream::operators::Timestamp;
use millstream::prelude::*;
use millstream_tests::support::*;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

const MILLSTREAM: &str = env!("CARGO_BIN_EXE_own");

/// A server whose input holds the messages 3 to 10, of which each says its number; 1 and 2 are gone.
struct World {
    server: NatsServer,
    connection: Connection,
    js: Js,
    folder: TempDir,
}

impl World {
    async fn new() -> World {
        let (server, connection) = server().await;
        let js = Js::new(connection.clone());
        let world = World { server, connection, js, folder: tempfile::tempdir().unwrap() };
        world.publish(1..=10).await;
        world.js.purge("IN", &Purge { seq: 3, ..Purge::default() }).await.unwrap();
        world
    }

    /// One after the other, so that no two are stored at the same time; the even ones on a subject of their own.
    async fn publish(&self, numbers: RangeInclusive<u64>) {
        for number in numbers {
            let subject = if number.is_multiple_of(2) { "in.even" } else { "in.odd" };
            publish_each(&self.connection, subject, &[number.to_string().into_bytes()]).await;
        }
    }

    /// When the server stored a message, to the microsecond, rounded down.
    async fn stored(&self, number: u64) -> Timestamp {
        let message = self.js.message("IN", number).await.unwrap().unwrap();
        Timestamp::from_micros(message.stored_at().div_euclid(1_000))
    }

    /// A pipeline file whose source has these keys.
    fn file(&self, name: &str, keys: &str) -> String {
        let path = self.folder.path().join(format!("{name}.toml")).display().to_string();
        let text = format!(
            r#"
name = "{name}"
on_error = "stop"

[sources.in]
kind = "jetstream"
stream = "IN"
format = "text"
{keys}

[sinks.out]
kind = "jetstream"
from = "in"
stream = "OUT"
format = "text"
subject = "out.{name}"
"#
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    async fn run(&self, file: &str) -> Said {
        call(MILLSTREAM, &["run", file, "--until-end", "--nats", &self.server.url()], &[]).await
    }

    /// The numbers that a pipeline has given, in order.
    async fn given(&self, name: &str) -> Vec<u64> {
        let subject = format!("out.{name}");
        let all = read_all(&self.connection, "OUT").await.into_iter().filter(|message| message.subject == subject);
        all.map(|message| String::from_utf8(message.payload).unwrap().parse().unwrap()).collect()
    }

    /// Waits until a pipeline reads: its checkpoint 0 is written then.
    async fn until_reading(&self, name: &str) {
        let (consumer, deadline) = (format!("mill-{name}-in"), Instant::now() + Duration::from_secs(30));
        while self.js.consumer("IN", &consumer).await.is_err() {
            assert!(Instant::now() < deadline, "{name} does not read");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn a_pipeline_file_begins_where_its_start_says_and_goes_on_from_there() {
    let world = World::new().await;
    let sixth = world.stored(6).await;
    let time = |time: Timestamp| format!("start = {{ time = \"{time}\" }}");
    let after = |span| sixth.saturating_add(Duration::from_micros(span));
    let stories = [
        ("silent", String::new(), 3),
        ("earliest", "start = \"earliest\"".to_owned(), 3),
        ("latest", "start = \"latest\"".to_owned(), 11),
        ("sequence", "start = { sequence = 7 }".to_owned(), 7),
        ("next", "start = { sequence = 11 }".to_owned(), 11),
        ("long_ago", time(Timestamp::default()), 3),
        ("at_its_time", time(sixth), 6),
        ("behind_it", time(after(1)), 7),
        ("to_come", time(after(3_600_000_000)), 11),
    ];
    let files = stories.clone().map(|(name, keys, _)| world.file(name, &keys));
    for file in &files {
        let said = world.run(file).await;
        assert_eq!(said.code, Some(0), "{file}: {}", said.err);
    }
    for (name, _, first) in &stories {
        assert_eq!(world.given(name).await, (*first..=10).collect::<Vec<_>>(), "{name}");
    }
    world.publish(11..=13).await;
    for ((name, _, first), file) in stories.iter().zip(&files) {
        let said = world.run(file).await;
        assert_eq!(said.code, Some(0), "{file}: {}", said.err);
        assert_eq!(world.given(name).await, (*first..=13).collect::<Vec<_>>(), "{name}: nothing is read twice");
        // A time is found by a consumer of its own, of which nothing is left.
        assert!(world.js.consumer("IN", &format!("mill-{name}-in-start")).await.is_err(), "{name}");
    }
}

#[tokio::test]
async fn of_some_subjects_what_comes_before_the_start_is_left_out_too() {
    let world = World::new().await;
    let time = format!("start = {{ time = \"{}\" }}", world.stored(5).await);
    for (name, start, wanted) in [
        ("even_from_5", "start = { sequence = 5 }", [6, 8, 10].as_slice()),
        ("even_from_a_time", &time, &[6, 8, 10]),
        ("even_earliest", "start = \"earliest\"", &[4, 6, 8, 10]),
        ("even_latest", "start = \"latest\"", &[]),
    ] {
        let said = world.run(&world.file(name, &format!("subjects = \"in.even\"\n{start}"))).await;
        assert_eq!((said.code, world.given(name).await.as_slice()), (Some(0), wanted), "{name}: {}", said.err);
    }
}

#[tokio::test]
async fn latest_is_one_place_for_ever_however_a_run_ends_that_has_read_nothing() {
    let world = World::new().await;
    for name in ["stopped", "killed"] {
        let before = world.js.stream("IN").await.unwrap().state.last_seq;
        let file = world.file(name, "start = \"latest\"");
        let arguments = ["run", &file, "--nats", &world.server.url()];
        let running = Running::start(MILLSTREAM, &arguments, &[]);
        world.until_reading(name).await;
        if name == "stopped" {
            running.signal("TERM");
            let said = running.ended().await;
            assert_eq!(said.code, Some(0), "{}", said.err);
        } else {
            assert_eq!(running.killed().await.code, None);
        }
        world.publish(before + 1..=before + 5).await;
        let said = world.run(&file).await;
        assert_eq!(said.code, Some(0), "{}", said.err);
        assert_eq!(world.given(name).await, (before + 1..=before + 5).collect::<Vec<_>>(), "{name}");
    }
}

#[tokio::test]
async fn a_start_that_cannot_be_is_refused_in_words() {
    let world = World::new().await;
    for (name, sequence, code, words) in [
        ("beyond", 12, 2, "start is sequence 12, but stream IN ends at 10: begin at 11 for what comes next"),
        ("gone", 1, 4, "stream IN no longer has the messages 1 to 2, which were not read yet"),
    ] {
        let said = world.run(&world.file(name, &format!("start = {{ sequence = {sequence} }}"))).await;
        assert_eq!(said.code, Some(code), "{}", said.err);
        assert!(said.err.contains(words), "{words} is not in {}", said.err);
        assert!(world.given(name).await.is_empty());
    }
}

#[tokio::test]
async fn a_pipeline_in_rust_begins_where_its_verb_says_and_goes_on_from_there() {
    let world = World::new().await;
    let run = async |name: &str, from: JetStreamFrom| {
        let pipeline = Pipeline::new(name);
        pipeline
            .source("in", from.text().stop_on_rejected())
            .sink("out", jetstream_to("OUT").text().subject(format!("out.{name}")).stop_on_rejected());
        let launch = Launch::default().nats(ConnectOptions::to(world.server.url())).until_end();
        launch.run(&pipeline).await.unwrap();
        world.given(name).await
    };
    let stories = [
        ("rust_earliest", jetstream("IN"), 3),
        ("rust_latest", jetstream("IN").from_latest(), 11),
        ("rust_sequence", jetstream("IN").from_sequence(8), 8),
        ("rust_time", jetstream("IN").from_time(world.stored(9).await), 9),
    ];
    for (name, from, first) in stories.clone() {
        assert_eq!(run(name, from).await, (first..=10).collect::<Vec<_>>(), "{name}");
    }
    world.publish(11..=12).await;
    for (name, from, first) in stories {
        assert_eq!(run(name, from).await, (first..=12).collect::<Vec<_>>(), "{name}");
    }
}
