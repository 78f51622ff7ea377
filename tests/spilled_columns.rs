//! Joins over columns that do not fit in memory: a pipeline file whose process stays within its budget, killed on the way, gives
//! each pair. `SPILL_ROWS` gives another number of rows of either side (CI: 150,000).

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "it is test code, and figures are printed"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use millstream_tests::support::{Dice, Pump, chance, setting};
use tokio::time::{Instant, sleep};

const OWN: &str = env!("CARGO_BIN_EXE_own");

/// What a process takes that has nothing to do with how much state there is, beside what it takes for the same rows with hardly
/// any: tables that are being written, and the parts of a checkpoint that are being compressed or read.
const BASE: u64 = 56 << 20;
const BUDGET: u64 = 8 << 20;

/// How long rows wait for others: only near the end is the first row let go, or soon.
const LONG: &str = "1h";
const SHORT: &str = "1ms";

/// Orders and their payments, which come in other orders, each with some hundred bytes.
fn file(folder: &Path, rows: u64, wait: &str, memory: &str) -> PathBuf {
    let text = format!(
        r#"
name = "joined"
checkpoint = {{ interval = "500ms" }}
{memory}

[sources.orders]
kind = "generate"
fields = {{ id = "cast(n as bigint) * 7919 % {rows}", note = "repeat('order ', 50) || n", at = "to_timestamp_millis(1700000000000 + cast(n as bigint))" }}
count = {rows}
on_error = "stop"

[sources.payments]
kind = "generate"
fields = {{ order_id = "cast(n as bigint) * 104729 % {rows}", remark = "repeat('paid ', 60) || n", paid_at = "to_timestamp_millis(1700000000000 + cast(n as bigint))" }}
count = {rows}
on_error = "stop"

[[steps]]
name = "placed"
from = "orders"
event_time = {{ column = "at", max_lateness = "{wait}" }}

[[steps]]
name = "paid"
from = "payments"
event_time = {{ column = "paid_at", max_lateness = "{wait}" }}

[[steps]]
name = "paired"
from = "placed"
join = {{ with = "paid", on = {{ id = "order_id" }}, kind = "full", within = {{ earlier = "{wait}", later = "{wait}" }} }}
late = "stop"

[[steps]]
name = "short"
from = "paired"
select = {{ id = "id", n = "replace(note, 'order ', '')", of = "replace(remark, 'paid ', '')" }}

[sinks.out]
kind = "file"
from = "short"
path = "{}"
format = "json"
on_error = "stop"
"#,
        folder.join("out").display()
    );
    let path = folder.join("joined.toml");
    std::fs::write(&path, text).unwrap();
    path
}

fn start(folder: &Path, file: &Path) -> Pump {
    let checkpoints = folder.join("checkpoints").display().to_string();
    let file = file.display().to_string();
    Pump::start_with(OWN, &["run", &file, "--until-end", "--checkpoints", &checkpoints])
}

fn high_water(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    line.and_then(|line| line.split_whitespace().nth(1)).map_or(0, |text| text.parse::<u64>().unwrap() * 1024)
}

/// Runs it to its end; the memory that it took at most.
async fn resident(rows: u64, wait: &str, memory: &str) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let mut process = start(folder.path(), &file(folder.path(), rows, wait, memory));
    let mut most = 0;
    loop {
        most = most.max(high_water(process.id()));
        if let Some(status) = process.ended() {
            assert!(status.success(), "{}", process.said());
            return most;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

fn lines(folder: &Path) -> usize {
    std::fs::read(folder.join("out")).map_or(0, |text| text.iter().filter(|byte| **byte == b'\n').count())
}

#[tokio::test]
async fn a_join_over_columns_that_does_not_fit_stays_within_its_budget_and_gives_each_pair_over_kills() {
    let rows: u64 = setting("SPILL_ROWS", 150_000);
    let memory = format!("[state]\nmemory = \"{}MB\"", BUDGET >> 20);
    let (small, whole) = (resident(rows, SHORT, &memory).await, resident(rows, LONG, "").await);
    // Else the bound below would hold whatever is done with state.
    assert!(whole > small + BUDGET + BASE, "{} and {} MB with all state in memory", small >> 20, whole >> 20);

    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path(), rows, LONG, &memory);
    let (mut dice, mut most, started) = (Dice::new(chance()), 0, Instant::now());
    let mut process = start(folder.path(), &file);
    for kill in 1..3 {
        let upto = rows as usize / 4 * kill + dice.below(rows / 8) as usize;
        while lines(folder.path()) < upto {
            assert!(process.ended().is_none(), "it ended before it was killed: {}", process.said());
            assert!(started.elapsed() < Duration::from_secs(300), "{} lines: {}", lines(folder.path()), process.said());
            most = most.max(high_water(process.id()));
            sleep(Duration::from_millis(20)).await;
        }
        process.kill_9();
        process = start(folder.path(), &file);
    }
    let status = loop {
        most = most.max(high_water(process.id()));
        match process.ended() {
            Some(status) => break status,
            None => sleep(Duration::from_millis(20)).await,
        }
    };
    assert!(status.success(), "{}", process.said());
    let text = std::fs::read_to_string(folder.path().join("out")).unwrap();
    let mut of_id = vec![0_u64; rows as usize];
    for line in text.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let number = |column: &str| row[column].as_str().unwrap().parse::<u64>().unwrap();
        let id = row["id"].as_u64().unwrap();
        assert_eq!((number("n") * 7_919 % rows, number("of") * 104_729 % rows), (id, id), "{line}");
        of_id[id as usize] += 1;
    }
    assert!(of_id.iter().all(|times| *times > 0), "pairs are missing");
    println!(
        "{rows} rows of either side, a budget of {} MB: at most {} MB resident ({} with hardly any state, {} with all in memory), {:?}",
        BUDGET >> 20,
        most >> 20,
        small >> 20,
        whole >> 20,
        started.elapsed()
    );
    assert!(most <= small + BUDGET + BASE, "{} MB resident", most >> 20);
}
