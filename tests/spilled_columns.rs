//! Joins, windows and keys that came before, over columns, that do not fit in memory: a pipeline file whose process stays within
//! its budget gives each result, though it is killed on the way. `SPILL_ROWS` gives another number of keys (CI: 150,000).

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

const BUDGET: u64 = 8 << 20;

/// How long rows wait for others: only near the end is the first row let go, or soon.
const LONG: &str = "1h";
const SHORT: &str = "1ms";

/// A pipeline that keeps state by key, of which most cannot go before its end.
struct Story {
    name: &'static str,
    /// What its process takes, in MB, that does not grow with the state, beside what it takes for the same rows with hardly any:
    /// tables that are being written, results on their way, and the parts of a checkpoint that are being compressed or read.
    base: u64,
    /// How often it is killed.
    kills: u64,
    /// Its sources and steps, of which the last is called `short`, for so many keys, and how long rows wait for others.
    steps: fn(u64, &str) -> String,
    /// What it has come to: lines, or checkpoints where all lines come at the end.
    by_lines: bool,
    /// Looks whether the lines are what they must be.
    judge: fn(u64, &str),
}

fn file(folder: &Path, story: &Story, keys: u64, wait: &str, memory: &str) -> PathBuf {
    let (name, steps, out) = (story.name, (story.steps)(keys, wait), folder.join("out"));
    let text = format!(
        r#"
name = "{name}"
checkpoint = {{ interval = "500ms" }}
{memory}
{steps}

[sinks.out]
kind = "file"
from = "short"
path = "{}"
format = "json"
on_error = "stop"
"#,
        out.display()
    );
    let path = folder.join("story.toml");
    std::fs::write(&path, text).unwrap();
    path
}

/// Orders and their payments, which come in other orders, each with some hundred bytes.
const JOINED: Story = Story {
    name: "joined",
    base: 56,
    kills: 2,
    steps: |keys, wait| {
        format!(
            r#"
[sources.orders]
kind = "generate"
fields = {{ id = "cast(n as bigint) * 7919 % {keys}", note = "repeat('order ', 50) || n", at = "to_timestamp_millis(1700000000000 + cast(n as bigint))" }}
count = {keys}
on_error = "stop"

[sources.payments]
kind = "generate"
fields = {{ order_id = "cast(n as bigint) * 104729 % {keys}", remark = "repeat('paid ', 60) || n", paid_at = "to_timestamp_millis(1700000000000 + cast(n as bigint))" }}
count = {keys}
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
"#
        )
    },
    by_lines: true,
    judge: |keys, text| {
        each_key(keys, text, |row| {
            let number = |column: &str| row[column].as_str().unwrap().parse::<u64>().unwrap();
            let id = row["id"].as_u64().unwrap();
            assert_eq!((number("n") * 7_919 % keys, number("of") * 104_729 % keys), (id, id), "{row}");
        });
    },
};

/// A source of two orders of each key, each with some hundred bytes.
fn orders_twice(keys: u64, note: &str) -> String {
    let count = 2 * keys;
    format!(
        r#"[sources.orders]
kind = "generate"
fields = {{ id = "cast(n as bigint) * 7919 % {keys}", n = "cast(n as bigint)", note = "{note}", at = "to_timestamp_millis(1700000000000 + cast(n as bigint))" }}
count = {count}
on_error = "stop""#
    )
}

/// Every key comes twice, and its window keeps some hundred bytes of it.
const WINDOWED: Story = Story {
    name: "windowed",
    base: 80,
    kills: 2,
    steps: |keys, wait| {
        let orders = orders_twice(keys, "repeat('order ', 50) || n");
        format!(
            r#"
{orders}

# All results come at the end: it takes so long that it can be killed before.
[[steps]]
name = "paced"
from = "orders"
throttle = {{ rows = 60000, per = "1s" }}

[[steps]]
name = "placed"
from = "paced"
event_time = {{ column = "at", max_lateness = "1ms" }}

[[steps]]
name = "windows"
from = "placed"
key_by = ["id"]
window = {{ tumbling = "{wait}" }}
aggregate = {{ rows = "count(*)", sum = "sum(n)", note = "max(note)" }}
late = "stop"

[[steps]]
name = "short"
from = "windows"
select = {{ id = "id", rows = "rows", sum = "sum", note = "replace(note, 'order ', '')" }}
"#
        )
    },
    by_lines: false,
    judge: |keys, text| {
        each_key(keys, text, |row| {
            let number = |column: &str| row[column].as_u64().unwrap();
            let (id, note) = (number("id"), row["note"].as_str().unwrap());
            let first = number("sum").checked_sub(keys).unwrap() / 2;
            let greater = first.to_string().max((first + keys).to_string());
            assert_eq!((number("rows"), first * 7_919 % keys, note), (2, id, greater.as_str()), "{row}");
        });
    },
};

/// Every key comes twice, and is kept with its some hundred bytes so that the second is known.
const ONCE_EACH: Story = Story {
    name: "once_each",
    base: 80,
    kills: 2,
    steps: |keys, wait| {
        let orders = orders_twice(keys, &format!("repeat('order ', 100) || cast(n as bigint) % {keys}"));
        format!(
            r#"
{orders}

[[steps]]
name = "placed"
from = "orders"
event_time = {{ column = "at", max_lateness = "1ms" }}

[[steps]]
name = "first"
from = "placed"
dedup = {{ by = ["note"], within = "{wait}" }}

[[steps]]
name = "short"
from = "first"
select = {{ id = "id", n = "n", note = "replace(note, 'order ', '')" }}
"#
        )
    },
    by_lines: true,
    judge: |keys, text| {
        each_key(keys, text, |row| {
            let (id, n, note) = (row["id"].as_u64(), row["n"].as_u64().unwrap(), row["note"].as_str().unwrap());
            // The second of a key never passes, whatever is read again.
            assert!(n < keys && note == n.to_string() && Some(n * 7_919 % keys) == id, "{row}");
        });
    },
};

/// Looks at each line, and that each key is there.
fn each_key(keys: u64, text: &str, look: impl Fn(&serde_json::Value)) {
    let mut times = vec![0_u64; keys as usize];
    for line in text.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        look(&row);
        times[row["id"].as_u64().unwrap() as usize] += 1;
    }
    assert!(times.iter().all(|times| *times > 0), "keys are missing");
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
async fn resident(story: &Story, keys: u64, wait: &str, memory: &str) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let mut process = start(folder.path(), &file(folder.path(), story, keys, wait, memory));
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

fn lines(folder: &Path) -> u64 {
    std::fs::read(folder.join("out")).map_or(0, |text| text.iter().filter(|byte| **byte == b'\n').count()) as u64
}

/// How many checkpoints there were.
fn checkpoints(folder: &Path, name: &str) -> u64 {
    let files = std::fs::read_dir(folder.join("checkpoints")).into_iter().flatten();
    let revision = |file: String| file.strip_prefix(name)?.strip_prefix('.')?.parse().ok();
    files.filter_map(|file| revision(file.unwrap().file_name().into_string().unwrap())).max().unwrap_or(0)
}

async fn stays_within_its_budget(story: &Story, keys: u64) {
    let memory = format!("[state]\nmemory = \"{}MB\"", BUDGET >> 20);
    let base = story.base << 20;
    let (small, whole) = (resident(story, keys, SHORT, &memory).await, resident(story, keys, LONG, "").await);
    // Else the bound below would hold whatever is done with state.
    assert!(whole > small + BUDGET + base, "{} and {} MB with all state in memory", small >> 20, whole >> 20);

    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path(), story, keys, LONG, &memory);
    let (mut dice, mut most, started) = (Dice::new(chance()), 0, Instant::now());
    let mut process = start(folder.path(), &file);
    for kill in 1..=story.kills {
        let come = || if story.by_lines { lines(folder.path()) } else { checkpoints(folder.path(), story.name) };
        let upto = if story.by_lines { keys / 4 * kill + dice.below(keys / 8) } else { come() + 1 + dice.below(2) };
        while come() < upto {
            assert!(process.ended().is_none(), "it ended before it was killed: {}", process.said());
            assert!(started.elapsed() < Duration::from_secs(300), "{} of {upto}: {}", come(), process.said());
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
    (story.judge)(keys, &std::fs::read_to_string(folder.path().join("out")).unwrap());
    println!(
        "{}: {keys} keys, a budget of {} MB: at most {} MB resident ({} with hardly any state, {} with all in memory), {:?}",
        story.name,
        BUDGET >> 20,
        most >> 20,
        small >> 20,
        whole >> 20,
        started.elapsed()
    );
    assert!(most <= small + BUDGET + base, "{} MB resident", most >> 20);
}

#[tokio::test]
async fn a_join_over_columns_that_does_not_fit_stays_within_its_budget_and_gives_each_pair_over_kills() {
    stays_within_its_budget(&JOINED, setting("SPILL_ROWS", 150_000)).await;
}

#[tokio::test]
async fn windows_over_columns_that_do_not_fit_stay_within_their_budget_and_give_each_key_over_kills() {
    stays_within_its_budget(&WINDOWED, setting("SPILL_ROWS", 150_000)).await;
}

#[tokio::test]
async fn keys_over_columns_that_came_before_and_do_not_fit_stay_within_their_budget_over_kills() {
    stays_within_its_budget(&ONCE_EACH, setting("SPILL_ROWS", 150_000)).await;
}
