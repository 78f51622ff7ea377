//! A file as a sink, across kills and restarts: what a checkpoint holds stays in it, and no line is glued to another.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "it is test code, though not all inside a test"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millstream::prelude::*;
use millstream_tests::support::*;
use serde_json::Value;
use tokio::time::{Instant, sleep};

const MILLSTREAM: &str = env!("CARGO_BIN_EXE_own");

/// How often each number is in the file; every line must be a whole one.
fn numbers(path: &Path) -> BTreeMap<u64, u32> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut times = BTreeMap::new();
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no row: {line}"));
        *times.entry(row["id"].as_u64().unwrap()).or_default() += 1;
    }
    times
}

async fn until_lines(path: &Path, lines: usize) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while std::fs::read(path).map_or(0, |text| text.iter().filter(|byte| **byte == b'\n').count()) < lines {
        assert!(Instant::now() < deadline, "{} has no {lines} lines", path.display());
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_killed_run_goes_on_in_its_file_whether_it_had_truncated_it_or_not() {
    for truncate in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (out, file, checkpoints) = (folder.path().join("out"), path("pipeline.toml"), path("checkpoints"));
        let text = format!(
            r#"
name = "file"
checkpoint = {{ interval = "100ms" }}

[sources.made]
kind = "generate"
rate = 4000
count = 12000
fields = {{ id = "n" }}
on_error = "stop"

[sinks.out]
kind = "file"
from = "made"
path = "{}"
truncate = {truncate}
on_error = "stop"
"#,
            out.display()
        );
        std::fs::write(&file, text).unwrap();
        // What somebody else left there, without a line end.
        std::fs::write(&out, r#"{"id":999999}"#).unwrap();
        let run = ["run", &file, "--checkpoints", &checkpoints, "--nats", "nats://127.0.0.1:1"];
        for lines in [3_000, 6_000] {
            let running = Running::start(MILLSTREAM, &run, &[]);
            until_lines(&out, lines).await;
            let said = running.killed().await;
            assert_eq!(said.code, None, "it ended by itself: {}", said.err);
            // The kill tore a line.
            let mut torn = std::fs::OpenOptions::new().append(true).open(&out).unwrap();
            std::io::Write::write_all(&mut torn, br#"{"id":12"#).unwrap();
        }
        let said = call(MILLSTREAM, &run, &[]).await;
        assert_eq!(said.code, Some(0), "{}", said.err);
        let mut numbers = numbers(&out);
        assert_eq!(numbers.remove(&999_999), (!truncate).then_some(1), "truncate: {truncate}");
        assert_eq!(numbers.len(), 12_000, "truncate: {truncate}");
        let repeats = numbers.values().sum::<u32>() - 12_000;
        println!("killed twice, truncate: {truncate}: {repeats} repeats");
        assert!(repeats < 6_000, "only what no checkpoint holds comes again: {repeats}");
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Row {
    id: u64,
}

#[tokio::test]
async fn a_run_that_fails_and_starts_again_keeps_what_it_had_written() {
    static FAILED: AtomicBool = AtomicBool::new(false);
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("in"), folder.path().join("out"));
    std::fs::write(&from, (0..100_000).map(|id| format!("{{\"id\":{id}}}\n")).collect::<String>()).unwrap();
    std::fs::write(&to, "of an older run\n").unwrap();
    let pipeline = Pipeline::new("again").settings(|settings| {
        settings.checkpoint_interval = Duration::from_millis(1);
    });
    let launch = Launch::default().checkpoints_in(folder.path().join("checkpoints"));
    let metrics = launch.metrics();
    let (until, counted) = (to.clone(), metrics.clone());
    pipeline
        .source("in", file_source(&from).json().stop_on_rejected())
        // Some checkpoints are done before the last row comes, however busy the machine is.
        .throttle("pace", 25_000, Duration::from_secs(1))
        .map("fails", move |row: Row| {
            // Once, as soon as something is written that no later run will write again.
            let written = row.id.is_multiple_of(100)
                && counted.checkpoint().completed >= 3
                && std::fs::metadata(&until).unwrap().len() > 1_000;
            assert!(!written || FAILED.swap(true, Ordering::Relaxed), "on purpose");
            row
        })
        .sink("out", file_sink(&to, true).json().stop_on_rejected());
    launch.run(&pipeline).await.unwrap();
    assert_eq!(metrics.restarts(), 1);
    assert_eq!(numbers(&to).len(), 100_000);
}

#[tokio::test]
async fn a_row_is_a_line_and_what_cannot_be_one_is_rejected() {
    for (format, good, bad) in
        [("text", vec!["a", "b"], 1), ("ndjson", vec![r#"{"t":"a"}"#, r#"{"t":"x\ny"}"#, r#"{"t":"b"}"#], 0)]
    {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let text = format!(
            r#"
name = "lines"
[sources.rows]
kind = "file"
path = "{}"
format = "json"
schema = {{ t = "utf8 not null" }}
on_error = "stop"
[sinks.out]
kind = "file"
from = "rows"
format = "{format}"
path = "{}"
on_error = {{ send_to = "dead" }}
[sinks.dead]
kind = "file"
path = "{}"
"#,
            path("in"),
            path("out"),
            path("dead")
        );
        std::fs::write(path("pipeline.toml"), text).unwrap();
        std::fs::write(path("in"), [r#"{"t":"a"}"#, r#"{"t":"x\ny"}"#, r#"{"t":"b"}"#].join("\n")).unwrap();
        let arguments = ["run", &path("pipeline.toml"), "--checkpoints", &path("checkpoints")];
        let said = call(MILLSTREAM, &arguments, &[]).await;
        assert_eq!(said.code, Some(0), "{}", said.err);
        let lines = |name: &str| {
            let text = std::fs::read_to_string(path(name)).unwrap();
            text.split_terminator('\n').map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(lines("out"), good);
        let dead = lines("dead");
        assert!(dead.len() == bad && dead.iter().all(|line| line.contains("holds a line break")), "{dead:?}");
    }
}
