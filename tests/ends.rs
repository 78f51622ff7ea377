//! Runs that come to the end of their input, and others that find more of it: together they give what one run over all of it
//! gives, and what was given because an input was at its end is given again when more has come.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "it is test code, though not all inside a test"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use millstream::broker::{Embedded, EmbeddedOptions, Js, Outgoing, StreamConfig};
use millstream::checkpoint::{MemoryStore, Store};
use millstream::connectors::Connections;
use millstream::engine::{Ended, RunMode};
use millstream::file::{Ends, load};
use millstream::pipelines::graph::Guarantee;
use millstream::prelude::*;
use millstream::testkit::{CollectSink, Collected, Flow, ListSource};
use serde_json::Value;

const FILE: &str = r#"
name = "ends"
on_error = "stop"

[sources.rows]
kind = "file"
path = "ROWS"
format = "json"
schema = { k = "utf8", n = "int64", at = "timestamp(ms)" }
event_time = { column = "at", max_lateness = "2s" }
on_error = "stop"

[[steps]]
name = "tumbling"
from = "rows"
key_by = ["k"]
window = { tumbling = "10s" }
aggregate = { rows = "count(*)", total = "sum(n)" }

[[steps]]
name = "minutes"
from = "tumbling"
window = { tumbling = "1m" }
aggregate = { windows = "count(*)", all = "sum(rows)" }

[[steps]]
name = "session"
from = "rows"
key_by = ["k"]
window = { session = "5s" }
aggregate = { rows = "count(*)", total = "sum(n)" }

[[steps]]
name = "counted"
from = "rows"
key_by = ["k"]
window = { count = 4 }
aggregate = { rows = "count(*)", total = "sum(n)" }

[[steps]]
name = "global"
from = "rows"
key_by = ["k"]
window = { global = true }
aggregate = { rows = "count(*)", total = "sum(n)" }

[[steps]]
name = "every"
from = "rows"
key_by = ["k"]
window = { global = true, every_rows = 7 }
aggregate = { rows = "count(*)", total = "sum(n)" }

[[steps]]
name = "last"
from = "rows"
key_by = ["k"]
window = { last = 3, order_by = ["n"] }
aggregate = { rows = "count(*)", total = "sum(n)" }

[[steps]]
name = "first"
from = "rows"
dedup = { by = ["k"], within = "4s" }

[[steps]]
name = "odd"
from = "rows"
filter = "n % 2 = 1"

[[steps]]
name = "pairs"
from = "rows"
join = { with = "odd", on = { k = "k" }, prefix = "odd_", within = { earlier = "3s", later = "3s" } }
"#;

/// Steps, and what tells their results apart.
const STEPS: [(&str, &[&str]); 9] = [
    ("tumbling", &["k", "window_start"]),
    ("minutes", &["window_start"]),
    ("session", &["k", "window_start"]),
    ("counted", &["k", "window_start"]),
    ("global", &["k"]),
    ("every", &["k", "rows"]),
    ("last", &["k", "n"]),
    ("first", &["n"]),
    ("pairs", &["n", "odd_n"]),
];

/// Rows of three keys, out of order by less than two seconds, the number of each its place.
fn rows(from: u64, to: u64) -> String {
    let row = |n: u64| {
        let at = 1_700_000_000_000 + n * 700 - n * 1_000_003 % 1_900;
        format!("{{\"k\":\"{}\",\"n\":{n},\"at\":{at}}}\n", n * 7 % 3)
    };
    (from..to).map(row).collect()
}

/// What steps have given so far, one behind the other.
fn given(folder: &Path) -> BTreeMap<&'static str, Vec<Value>> {
    let lines = |name| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    let read = |name| lines(name).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    STEPS.into_iter().map(|(name, _)| (name, read(name))).collect()
}

/// Runs the file to its end in a folder, over these rows in addition to those that are there.
async fn run(folder: &Path, store: &Arc<dyn Store>, more: &str) {
    let path = |name: &str| folder.join(name).display().to_string();
    let before = std::fs::read_to_string(folder.join("rows")).unwrap_or_default();
    std::fs::write(folder.join("rows"), before + more).unwrap();
    let mut text = FILE.replace("ROWS", &path("rows"));
    for (name, _) in STEPS {
        let sink = format!(
            "\n[sinks.{name}_out]\nkind = \"file\"\nfrom = \"{name}\"\npath = \"{}\"\non_error = \"stop\"\n",
            path(name)
        );
        text.push_str(&sink);
    }
    std::fs::write(folder.join("pipeline.toml"), text).unwrap();
    let loaded = load(&folder.join("pipeline.toml"), &millstream::connectors::registry(), &Ends::default());
    let loaded = loaded.unwrap_or_else(|report| panic!("{report}"));
    let flow = Flow::start_with(loaded.graph, Arc::clone(store), |environment| environment).unwrap();
    assert_eq!(flow.finish().await.unwrap(), Ended::Finished);
}

fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::default())
}

/// The last result of each window, row or pair.
fn last(results: &[Value], by: &[&str]) -> BTreeMap<String, Value> {
    let key = |result: &Value| by.iter().map(|column| result[*column].to_string()).collect::<Vec<_>>().join(" ");
    results.iter().map(|result| (key(result), result.clone())).collect()
}

#[tokio::test]
async fn runs_over_a_file_that_grows_give_together_what_one_run_gives() {
    let whole = tempfile::tempdir().unwrap();
    run(whole.path(), &memory(), &rows(0, 100)).await;
    let expected = given(whole.path());
    let (parts, store) = (tempfile::tempdir().unwrap(), memory());
    for (from, to) in [(0, 31), (31, 33), (33, 100)] {
        run(parts.path(), &store, &rows(from, to)).await;
    }
    let found = given(parts.path());
    for (step, by) in STEPS {
        assert!(!expected[step].is_empty(), "{step} gives nothing");
        let (mut found, expected) = (last(&found[step], by), last(&expected[step], by));
        if let "session" | "counted" | "every" = step {
            // Where such a window begins, or how many rows it has at the end, is known when it is whole.
            found.retain(|window, _| expected.contains_key(window));
        }
        assert_eq!(found, expected, "{step}");
    }
    // What is given once and needs no end is not given again.
    for step in ["first", "pairs"] {
        assert_eq!(found[step].len(), expected[step].len(), "{step}");
    }
    run(parts.path(), &store, "").await;
    assert_eq!(given(parts.path()), found, "nothing has come, and something is given again");
}

type Row = (u64, i64);

#[tokio::test(start_paused = true)]
async fn typed_windows_and_joins_go_on_from_before_the_end() {
    let of = |from: i64, to: i64| (from..to).map(|n| (Timestamp::MIN, (u64::try_from(n * 7 % 3).unwrap_or(0), n * 10)));
    let run = async |list: &ListSource<Row>, store: &Arc<dyn Store>, out: &Collected<(String, u64)>| {
        let pipeline = Pipeline::new("ends");
        let rows = pipeline.source("rows", list.clone());
        let late = bounded_lateness(Duration::from_micros(20));
        let (rows, rejected) = rows.event_time("timed", |row: &Row| Timestamp::from_micros(row.1), late);
        rejected.discard("without_time");
        let key = |row: &Row| row.0;
        let named = |name: &'static str| {
            move |window: Windowed<u64, u64>| (format!("{name} {} {:?}", window.key, window.start), window.value)
        };
        let sums = || sum(|row: &Row| row.1.unsigned_abs());
        let micros = Duration::from_micros;
        let tumbled = rows.clone().key_by(key).window(tumbling(micros(100))).aggregate("tumbling", sums());
        let sessions = rows.clone().key_by(key).window(session(micros(25))).aggregate("session", sums());
        let counted = rows.clone().key_by(key).window(count_windows(4)).aggregate("counted", sums());
        let totals = rows.clone().key_by(key).window(global()).aggregate("global", sums());
        let each = rows.clone().key_by(key).window(last_rows(3)).aggregate("last", sums());
        let pairs = rows.clone().key_by(key).join(rows.key_by(key)).inner("pairs", within(micros(30), micros(30)));
        let each = each
            .map("each_last", |window: Windowed<u64, u64>| (format!("last {:?}", window.end), window.value))
            .boxed();
        let pairs = pairs.map("each_pair", |(left, right)| (format!("pair {} {}", left.1, right.1), 0)).boxed();
        let windows = [("t", tumbled), ("s", sessions), ("c", counted), ("g", totals)];
        let windows = windows.map(|(name, windows)| windows.map(&format!("each_{name}"), named(name)).boxed());
        for (number, rows) in windows.into_iter().chain([each, pairs]).enumerate() {
            rows.sink(&format!("out{number}"), CollectSink::new(out.clone()));
        }
        let flow = Flow::start_with(pipeline.build().unwrap(), Arc::clone(store), |environment| environment).unwrap();
        assert_eq!(flow.finish().await.unwrap(), Ended::Finished);
    };
    let (whole, expected) = (ListSource::new(of(0, 100)).at_once(5), Collected::default());
    run(&whole, &memory(), &expected).await;
    let (list, store, found) = (ListSource::new([]).at_once(5), memory(), Collected::default());
    for (from, to) in [(0, 31), (31, 33), (33, 100)] {
        list.feed(of(from, to));
        run(&list, &store, &found).await;
    }
    let last = |rows: Vec<(String, u64)>| rows.into_iter().collect::<BTreeMap<_, _>>();
    assert_eq!(last(found.rows()), last(expected.rows()));
    let before = found.rows().len();
    run(&list, &store, &found).await;
    assert_eq!(found.rows().len(), before, "nothing has come, and something is given again");
}

#[tokio::test(start_paused = true)]
async fn a_second_run_to_the_end_of_a_stream_gives_nothing_again_whatever_is_promised() {
    for guarantee in [Guarantee::AtLeastOnce, Guarantee::EffectivelyOnce] {
        second_run(guarantee).await;
    }
}

async fn second_run(guarantee: Guarantee) {
    let broker = Embedded::new(EmbeddedOptions::default());
    let js = Js::new(broker.connect());
    js.create_stream(&StreamConfig::new("IN", ["in.>"])).await.unwrap();
    let publish = async |rows: std::ops::Range<i64>| {
        for n in rows {
            let payload = format!("[{},{}]", n % 3, n * 10);
            js.connection().publish(Outgoing::new("in.row", payload)).await.unwrap();
        }
    };
    let store = memory();
    let run =
        async || {
            let pipeline = Pipeline::new("ends").settings(|settings| settings.guarantee = guarantee);
            let late = bounded_lateness(Duration::from_micros(20));
            let (rows, rejected) = pipeline
                .source("rows", jetstream("IN").json::<Row>().stop_on_rejected())
                .event_time("timed", |row: &Row| Timestamp::from_micros(row.1), late);
            rejected.stop("without_time");
            rows.key_by(|row| row.0)
                .window(tumbling(Duration::from_micros(1_000)))
                .aggregate("counted", count())
                .map("result", |window: Windowed<u64, u64>| (window.key, window.value))
                .sink("out", jetstream_to("OUT").create(["out.>"]).json().subject("out.all").stop_on_rejected());
            let connections = Connections::to_embedded(broker.clone());
            let adapt =
                |environment: millstream::engine::Environment| environment.with(connections).with(RunMode::until_end());
            let flow = Flow::start_with(pipeline.build().unwrap(), Arc::clone(&store), adapt).unwrap();
            assert_eq!(flow.finish().await.unwrap(), Ended::Finished);
            let (mut all, mut next) = (Vec::new(), 1);
            while let Some(message) = js.next_message("OUT", next, "out.>").await.unwrap() {
                all.push(String::from_utf8_lossy(&message.payload).into_owned());
                next = message.seq + 1;
            }
            all
        };
    publish(0..30).await;
    assert_eq!(run().await, ["[0,10]", "[1,10]", "[2,10]"]);
    for _ in 0..2 {
        assert_eq!(run().await.len(), 3, "{guarantee:?}: nothing has come, and something is stored again");
    }
    publish(30..33).await;
    assert_eq!(run().await[3..], ["[0,11]", "[1,11]", "[2,11]"], "what was open is given with all its rows");
}

#[tokio::test(start_paused = true)]
async fn a_source_at_its_end_holds_the_time_of_others_back_no_more() {
    let of = |to: i64| (0..to).map(|n| (Timestamp::MIN, (0, n * 10)));
    let pipeline = Pipeline::new("ends");
    let timed = |name: &str, rows: ListSource<Row>| {
        let (rows, rejected) = pipeline.source(name, rows).event_time(
            &format!("{name}_timed"),
            |row: &Row| Timestamp::from_micros(row.1),
            bounded_lateness(Duration::ZERO),
        );
        rejected.stop(&format!("{name}_untimed"));
        rows
    };
    let (short, long) = (timed("short", ListSource::new(of(10))), timed("long", ListSource::new(of(100)).endless()));
    let out = Collected::<(i64, u64)>::default();
    short
        .merge("both", [long])
        .key_by(|row| row.0)
        .window(tumbling(Duration::from_micros(100)))
        .aggregate("counted", count())
        .map("result", |window: Windowed<u64, u64>| (window.start.as_micros(), window.value))
        .sink("out", CollectSink::new(out.clone()));
    let flow = Flow::start(pipeline.build().unwrap()).unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let windows: Vec<_> = (0..9).map(|n| (n * 100, if n == 0 { 20 } else { 10 })).collect();
    assert_eq!(out.rows(), windows);
    assert_eq!(flow.drain().await.unwrap(), Ended::Drained);
}
