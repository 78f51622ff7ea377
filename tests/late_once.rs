//! Late rows where a pipeline promises effectively-once: killed again and again, it gives each row once, in a window or as late.
//! And what lacks something for the promise is told beforehand, by `doctor`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "it is test code, and counts are printed"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use millstream::broker::{Connection, Js, StreamConfig};
use millstream_tests::support::*;
use tokio::time::{Instant, sleep};

const OWN: &str = env!("CARGO_BIN_EXE_own");

const FILE: &str = r#"
name = "late"
guarantee = "effectively-once"
checkpoint = { interval = "200ms" }

[sources.in]
kind = "jetstream"
stream = "IN"
format = "json"
schema = { id = "int64 not null", at = "timestamp not null" }
event_time = { column = "at", max_lateness = "1s" }
on_error = "stop"

[[steps]]
name = "windows"
from = "in"
key_by = []
window = { tumbling = "10s" }
aggregate = { ids = "array_agg(id)" }
late = { send_to = "dead" }

[sinks.out]
kind = "jetstream"
from = "windows"
stream = "WINDOWS"
create = ["windows.>"]
subject = "windows.all"
on_error = "stop"

[sinks.dead]
kind = "dead_letter"
stream = "DEAD"
"#;

const ROWS: u64 = 20_000;

/// A row each hundredth of a second; every fiftieth is a minute old.
fn row(id: u64) -> Vec<u8> {
    let old = if id % 50 == 7 { 60_000 } else { 0 };
    let at = 1_700_000_000_000 + id * 10 - old;
    format!("{{\"id\":{id},\"at\":\"{}\"}}", millstream::operators::Timestamp::from_millis(at as i64)).into_bytes()
}

/// How often each row is in a window, and how often it came as late.
async fn given(connection: &Connection) -> BTreeMap<u64, (u32, u32)> {
    let mut times: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
    for (_, text) in data(connection, "WINDOWS").await {
        let window: serde_json::Value = serde_json::from_str(&text).unwrap();
        for id in window["ids"].as_array().unwrap() {
            times.entry(id.as_u64().unwrap()).or_default().0 += 1;
        }
    }
    for (_, text) in data(connection, "DEAD").await {
        let late: serde_json::Value = serde_json::from_str(&text).unwrap();
        times.entry(late["id"].as_u64().unwrap()).or_default().1 += 1;
    }
    times
}

#[tokio::test]
async fn each_row_is_in_a_window_once_or_late_once_however_often_it_is_killed() {
    let (server, connection) = server().await;
    let (folder, url) = (tempfile::tempdir().unwrap(), server.url());
    let file = folder.path().join("late.toml").display().to_string();
    std::fs::write(&file, FILE).unwrap();
    let start = || Running::start(OWN, &["run", &file, "--nats", &url], &[]);
    let mut running = start();
    let rows: Vec<Vec<u8>> = (0..ROWS).map(row).collect();
    let mut kills = 0;
    for rows in rows.chunks(ROWS as usize / 10) {
        publish_each(&connection, "in.row", rows).await;
        a_while().await;
        running.killed().await;
        kills += 1;
        running = start();
    }
    // The last window stays open.
    publish_each(&connection, "in.row", &[row(ROWS + 2_000)]).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    while given(&connection).await.len() < ROWS as usize {
        assert!(Instant::now() < deadline, "rows are missing: {}", running.err());
        sleep(Duration::from_millis(200)).await;
    }
    running.signal("TERM");
    let said = running.ended().await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    let times = given(&connection).await;
    let wrong: Vec<_> = times.iter().filter(|(_, (windows, late))| windows + late != 1).take(9).collect();
    assert_eq!(wrong, [], "in windows, and late");
    let late: Vec<u64> = times.iter().filter(|(_, times)| times.1 == 1).map(|(id, _)| *id).collect();
    println!("{kills} kills: {} rows in windows, {} late, none twice", times.len() - late.len(), late.len());
    assert!(times.keys().copied().eq(0..ROWS) && late.len() > 100 && late.iter().all(|id| id % 50 == 7), "{late:?}");
}

#[tokio::test]
async fn doctor_tells_beforehand_what_a_stream_lacks_for_the_promise() {
    let (server, connection) = server().await;
    let (folder, url) = (tempfile::tempdir().unwrap(), server.url());
    let file = folder.path().join("late.toml").display().to_string();
    // Its sink could do what is missing.
    std::fs::write(&file, FILE.replace("create = [\"windows.>\"]\n", "")).unwrap();
    let own = async |command: &str| call(OWN, &[command, &file, "--nats", &url], &[]).await;
    let js = Js::new(connection.clone());
    let mut config = StreamConfig::new("WINDOWS", ["windows.>"]);
    js.create_stream(&config).await.unwrap();
    let lacks = "allow_atomic, allow_rollup_hdrs, the subject mill.txn.late.out.*";
    let looked = own("doctor").await;
    assert!(looked.code == Some(1) && looked.out.contains(lacks), "{looked:?}");
    let ran = own("run").await;
    assert!(ran.code == Some(2) && ran.err.contains(lacks), "{ran:?}");
    (config.allow_atomic, config.allow_rollup_hdrs) = (true, true);
    config.subjects.push("mill.txn.late.out.*".into());
    js.update_stream(&config).await.unwrap();
    let looked = own("doctor").await;
    assert_eq!(looked.code, Some(0), "{}", looked.out);
}
