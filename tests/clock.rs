//! Windows that go by the clock: they close when it is time, though nothing more comes, and go on over a restart.

#![allow(clippy::unwrap_used, clippy::panic, reason = "it is test code, though not all inside a test")]

use std::sync::Arc;

use millstream::broker::{Embedded, EmbeddedOptions, Js, Outgoing, StreamConfig};
use millstream::checkpoint::{MemoryStore, Store};
use millstream::connectors::Connections;
use millstream::engine::{Clock, Ended};
use millstream::file::{Ends, load};
use millstream::prelude::*;
use millstream::testkit::{CollectSink, Collected, Flow};
use tokio::time::{Instant, sleep};

/// A moment at which windows of ten seconds begin.
const BEGIN: i64 = 1_767_225_600_000;

fn start(broker: &Embedded, clock: Clock, store: &Arc<dyn Store>, out: &Collected<(String, i64, u64)>) -> Flow {
    let pipeline =
        Pipeline::new("clock").settings(|settings| settings.checkpoint_interval = Duration::from_millis(500));
    pipeline
        .source("words", jetstream("IN").text().stop_on_rejected())
        .processing_time("arrived", Duration::from_millis(100))
        .key_by(|word: &String| word.clone())
        .window(tumbling(Duration::from_secs(10)))
        .aggregate("counted", count())
        .map("result", |w: Windowed<String, u64>| (w.key, w.start.as_micros() / 1_000 - BEGIN, w.value))
        .sink("out", CollectSink::new(out.clone()));
    let connections = Connections::to_embedded(broker.clone());
    let adapt = |environment: millstream::engine::Environment| environment.on_clock(clock).with(connections);
    Flow::start_with(pipeline.build().unwrap(), Arc::clone(store), adapt).unwrap()
}

async fn until(out: &Collected<(String, i64, u64)>, rows: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while out.rows().len() < rows {
        assert!(Instant::now() < deadline, "only {:?}", out.rows());
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn windows_close_by_the_clock_though_nothing_more_comes() {
    let (clock, begun) = (Clock::starting_at(Timestamp::from_millis(BEGIN)), Instant::now());
    let broker = Embedded::new(EmbeddedOptions::default());
    let js = Js::new(broker.connect());
    js.create_stream(&StreamConfig::new("IN", ["in.>"])).await.unwrap();
    let publish = async |words: &[&'static str]| {
        for word in words {
            js.connection().publish(Outgoing::new("in.word", *word)).await.unwrap();
        }
    };
    let (out, store): (Collected<_>, Arc<dyn Store>) = (Collected::default(), Arc::new(MemoryStore::default()));
    let flow = start(&broker, clock, &store, &out);
    sleep(Duration::from_secs(1)).await;
    publish(&["a", "b", "a"]).await;
    until(&out, 2).await;
    assert!(
        begun.elapsed() < Duration::from_millis(10_500),
        "it waits for nothing but the clock: {:?}",
        begun.elapsed()
    );
    assert_eq!(out.rows(), [("a".to_owned(), 0, 2), ("b".to_owned(), 0, 1)]);
    // What is open goes on over a restart, with its time.
    publish(&["c"]).await;
    sleep(Duration::from_secs(2)).await;
    assert!(matches!(flow.drain().await.unwrap(), Ended::Drained));
    let flow = start(&broker, clock, &store, &out);
    publish(&["c"]).await;
    until(&out, 3).await;
    assert_eq!(out.rows().last(), Some(&("c".to_owned(), 10_000, 2)));
    flow.crash().await;
}

#[tokio::test]
async fn a_pipeline_file_says_it_by_a_step() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let text = format!(
        r#"
name = "clock"

[sources.rows]
kind = "file"
path = "{}"
format = "json"
schema = {{ word = "utf8" }}
on_error = "stop"

[[steps]]
name = "arrived"
from = "rows"
processing_time = {{ every = "1s" }}

[[steps]]
name = "counted"
from = "arrived"
key_by = ["word"]
window = {{ tumbling = "10s" }}
aggregate = {{ words = "count(*)" }}

[sinks.out]
kind = "file"
from = "counted"
path = "{}"
format = "json"
times = "ms"
on_error = "stop"
"#,
        path("rows"),
        path("out")
    );
    std::fs::write(path("rows"), "{\"word\":\"a\"}\n{\"word\":\"a\"}\n").unwrap();
    std::fs::write(path("pipeline.toml"), text).unwrap();
    let loaded = load(&folder.path().join("pipeline.toml"), &millstream::connectors::registry(), &Ends::default());
    let graph = loaded.unwrap_or_else(|report| panic!("{report}")).graph;
    let clock = Clock::starting_at(Timestamp::from_millis(BEGIN));
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let run = async |clock: Clock| {
        let flow = Flow::start_with(graph.clone(), Arc::clone(&store), |environment| environment.on_clock(clock));
        assert_eq!(flow.unwrap().finish().await.unwrap(), Ended::Finished);
        std::fs::read_to_string(path("out")).unwrap()
    };
    let given = run(clock).await;
    let line: serde_json::Value = serde_json::from_str(given.trim()).unwrap();
    assert_eq!((&line["word"], &line["words"]), (&"a".into(), &2.into()), "{line}");
    let start = line["window_start"].as_i64().unwrap();
    assert!((BEGIN..BEGIN + 60_000).contains(&start) && start % 10_000 == 0, "{line}");
    // An hour later the window is over, and its result was given at the end.
    let later = Clock::starting_at(Timestamp::from_millis(BEGIN + 3_600_000));
    assert_eq!(run(later).await, given, "nothing has come, and something is given again");
}
