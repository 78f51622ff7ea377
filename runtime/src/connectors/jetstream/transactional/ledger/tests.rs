//! Stories of pipelines without state on the embedded broker, in virtual time: outputs and positions are stored together, or
//! neither is.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use millstream_operators::{Fault, FaultKind};
use millstream_pipelines::dsl::Pipeline;
use millstream_pipelines::graph::{Graph, Guarantee};
use tokio::time::{sleep, timeout};

use super::super::tests::Losing;
use crate::broker::{Embedded, EmbeddedOptions, Hook, Js, Outgoing, Purge, StreamConfig};
use crate::checkpoint::{Manifest, MemoryStore, Revision, Store};
use crate::connectors::{Connections, JetStreamFrom, JetStreamTo, jetstream, jetstream_to};
use crate::engine::{Ended, Environment};
use crate::testkit::Flow;

struct World {
    broker: Embedded,
    losing: Arc<Losing>,
    js: Js,
    store: Arc<dyn Store>,
}

const HOUR: Duration = Duration::from_secs(3_600);
const SECOND: Duration = Duration::from_secs(1);

/// A row `7*3` becomes the outputs `7/0`, `7/1` and `7/2`.
fn rows(row: &str) -> Vec<String> {
    let (name, copies) = row.split_once('*').unwrap_or((row, "1"));
    (0..copies.parse().unwrap()).map(|copy: u32| format!("{name}/{copy}")).collect()
}

/// `paced`, its outputs wait for checkpoints.
fn graph(interval: Duration, paced: bool) -> Graph {
    graph_of(jetstream("IN"), created(), interval, paced)
}

fn created() -> JetStreamTo {
    jetstream_to("OUT").create(["out.>"])
}

fn graph_of(source: JetStreamFrom, sink: JetStreamTo, interval: Duration, paced: bool) -> Graph {
    let pipeline = Pipeline::new("p").settings(|settings| {
        settings.guarantee = Guarantee::EffectivelyOnce;
        settings.checkpoint_interval = interval;
    });
    let lines = pipeline.source("in", source.text().stop_on_rejected());
    let out = sink.text().subject("out.all").stop_on_rejected();
    match paced {
        true => lines.throttle("paced", 1_000_000, SECOND).flat_map("rows", |row: String| rows(&row)).sink("out", out),
        false => lines.flat_map("rows", |row: String| rows(&row)).sink("out", out),
    }
    pipeline.build().unwrap()
}

impl World {
    async fn new() -> World {
        World::with(EmbeddedOptions::default()).await
    }

    async fn with(options: EmbeddedOptions) -> World {
        let losing = Arc::<Losing>::default();
        let broker = Embedded::with_hook(options, Arc::clone(&losing) as Arc<dyn Hook>);
        let js = Js::new(broker.connect());
        js.create_stream(&StreamConfig::new("IN", ["in.>"])).await.unwrap();
        World { broker, losing, js, store: Arc::new(MemoryStore::default()) }
    }

    fn start(&self, graph: Graph) -> Flow {
        self.start_as(graph, |environment| environment)
    }

    fn start_as(&self, graph: Graph, adapt: impl FnOnce(Environment) -> Environment) -> Flow {
        let connections = Connections::to_embedded(self.broker.clone());
        Flow::start_with(graph, Arc::clone(&self.store), |environment| adapt(environment.with(connections))).unwrap()
    }

    async fn feed(&self, rows: &[&str]) {
        for row in rows {
            self.js.connection().publish(Outgoing::new("in.row", (*row).to_owned())).await.unwrap();
        }
    }

    /// The data of the output, in order.
    async fn stored(&self) -> Vec<String> {
        let (mut all, mut next) = (Vec::new(), 1);
        if self.js.find_stream("OUT").await.unwrap().is_none() {
            return all;
        }
        while let Some(message) = self.js.next_message("OUT", next, "out.>").await.unwrap() {
            all.push(String::from_utf8_lossy(&message.payload).into_owned());
            next = message.seq + 1;
        }
        all
    }

    async fn until(&self, count: usize) {
        let waiting = async {
            while self.stored().await.len() < count {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(Duration::from_secs(60), waiting).await.unwrap();
    }

    async fn newest(&self) -> (Revision, Manifest) {
        let (revision, stored) = self.store.read("p").await.unwrap().unwrap();
        (revision, Manifest::decode(&stored, "p", "here").unwrap())
    }

    async fn refused(&self) -> Fault {
        timeout(Duration::from_secs(60), self.start(graph(SECOND, false)).finish()).await.unwrap().unwrap_err()
    }
}

fn all(rows_in: &[&str]) -> Vec<String> {
    rows_in.iter().flat_map(|row| rows(row)).collect()
}

fn at(manifest: &Manifest) -> u64 {
    manifest.sources["in"][0].position["sequence"].as_u64().unwrap()
}

#[tokio::test(start_paused = true)]
async fn rows_are_stored_as_they_come_and_no_checkpoint_is_written_meanwhile() {
    let world = World::new().await;
    world.feed(&["1", "2*3", "3*0"]).await;
    let flow = world.start(graph(HOUR, false));
    world.until(4).await;
    let (begun, manifest) = world.newest().await;
    assert_eq!((begun, manifest.ahead(), at(&manifest)), (Revision(2), Some("out"), 0));
    world.feed(&["4", "5*2"]).await;
    world.until(7).await;
    assert_eq!(world.newest().await.0, begun, "positions are beside the outputs");
    let markers = world.js.stream("OUT").await.unwrap().state.messages - 7;
    assert_eq!(markers, 1);
    flow.crash().await;
    let flow = world.start(graph(HOUR, false));
    world.feed(&["6"]).await;
    world.until(8).await;
    assert_eq!(flow.drain().await.unwrap(), Ended::Drained);
    assert_eq!(world.stored().await, all(&["1", "2*3", "3*0", "4", "5*2", "6"]));
    let (_, manifest) = world.newest().await;
    assert_eq!((manifest.ahead(), at(&manifest)), (None, 6));
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_is_not_known_is_looked_up() {
    let world = World::new().await;
    let flow = world.start(graph(SECOND, false));
    let mut fed = Vec::new();
    for (round, (commits, answers)) in [(1, 0), (0, 1), (2, 0), (0, 2), (1, 1)].into_iter().enumerate() {
        world.losing.commits.store(commits, Ordering::SeqCst);
        world.losing.answers.store(answers, Ordering::SeqCst);
        let row = format!("{round}*700");
        world.feed(&[&row]).await;
        fed.extend(rows(&row));
        world.until(fed.len()).await;
        assert_eq!(world.stored().await, fed, "{commits} {answers}");
    }
    flow.drain().await.unwrap();
    assert_eq!(world.stored().await, fed);
}

#[tokio::test(start_paused = true)]
async fn a_crash_around_any_batch_is_made_good_also_where_a_row_becomes_more_than_a_batch() {
    let fed = ["1", "2*2500", "3*3", "4"];
    for batches in 0..=9 {
        let world = World::new().await;
        // So many are stored, and then none any more.
        world.losing.allowed.store(batches, Ordering::SeqCst);
        let flow = world.start(graph(SECOND, false));
        world.feed(&fed).await;
        sleep(Duration::from_secs(20)).await;
        flow.crash().await;
        let there = world.stored().await.len();
        assert!(batches > 0 || there == 0, "{there}");
        world.losing.allowed.store(u32::MAX, Ordering::SeqCst);
        let flow = world.start(graph(SECOND, false));
        world.feed(&["5"]).await;
        world.until(2_506).await;
        flow.drain().await.unwrap();
        assert_eq!(world.stored().await, all(&["1", "2*2500", "3*3", "4", "5"]), "{batches}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_was_taken_over_stores_nothing_more_and_finds_out_also_when_it_has_nothing_to_store() {
    let world = World::new().await;
    for round in 0..3 {
        let old = world.start(graph(SECOND, false));
        world.feed(&["1"]).await;
        world.until(round * 2 + 1).await;
        let new = world.start(graph(SECOND, false));
        let ended = timeout(Duration::from_secs(10), old.finish()).await.unwrap();
        assert_eq!(ended.unwrap_err().kind(), FaultKind::Fenced);
        world.feed(&["2"]).await;
        world.until(round * 2 + 2).await;
        new.drain().await.unwrap();
    }
    assert_eq!(world.stored().await, all(&["1", "2", "1", "2", "1", "2"]));
}

#[tokio::test(start_paused = true)]
async fn outputs_that_wait_for_checkpoints_and_those_that_do_not_take_over_from_each_other() {
    for drains in [true, false] {
        let world = World::new().await;
        let mut fed = Vec::new();
        for (round, paced) in [false, true, true, false, false, true, false].into_iter().enumerate() {
            let flow = world.start(graph(Duration::from_millis(50), paced));
            let row = format!("{round}*{}", 400 * round + 1);
            world.feed(&[&row]).await;
            fed.extend(rows(&row));
            if drains {
                world.until(fed.len()).await;
                flow.drain().await.unwrap();
            } else {
                // Somewhere on its way.
                sleep(Duration::from_millis(7 * round as u64)).await;
                flow.crash().await;
            }
        }
        let flow = world.start(graph(SECOND, false));
        world.until(fed.len()).await;
        flow.drain().await.unwrap();
        assert_eq!(world.stored().await, fed, "{drains}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_without_marker_or_checkpoint_is_refused_until_outputs_may_come_twice() {
    let world = World::new().await;
    let flow = world.start(graph(SECOND, false));
    world.feed(&["1", "2"]).await;
    world.until(2).await;
    flow.crash().await;
    let all_markers = Purge { filter: Some("mill.txn.>".into()), ..Purge::default() };
    world.js.purge("OUT", &all_markers).await.unwrap();
    let told = world.refused().await.to_string();
    assert!(told.contains("is not there") && told.contains("--rewind"), "{told}");
    let flow = world.start_as(graph(SECOND, false), |environment| Environment { rewind: true, ..environment });
    world.until(4).await;
    flow.crash().await;
    assert_eq!(world.stored().await, all(&["1", "2", "1", "2"]));

    world.store.remove("p").await.unwrap();
    let told = world.refused().await.to_string();
    assert!(told.contains("are published") && told.contains("--rewind"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_marker_that_is_purged_while_it_runs_ends_the_run_with_what_is_wrong() {
    let world = World::new().await;
    let flow = world.start(graph(SECOND, false));
    world.feed(&["1"]).await;
    world.until(1).await;
    let all_markers = Purge { filter: Some("mill.txn.>".into()), ..Purge::default() };
    world.js.purge("OUT", &all_markers).await.unwrap();
    let ended = timeout(Duration::from_secs(60), flow.finish()).await.unwrap();
    let told = ended.unwrap_err();
    assert!(told.kind() == FaultKind::Checkpoint && told.to_string().contains("known from it alone"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn positions_go_on_without_outputs_when_the_interval_is_over() {
    let world = World::new().await;
    let flow = world.start(graph(SECOND, false));
    world.feed(&["1*0", "2*0"]).await;
    sleep(Duration::from_secs(3)).await;
    flow.crash().await;
    let marker = world.js.last_message("OUT", "mill.txn.p.out.0").await.unwrap().unwrap();
    let marker: serde_json::Value = serde_json::from_slice(&marker.payload).unwrap();
    assert_eq!(marker["positions"]["in"][0]["position"]["sequence"], 2);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_may_have_little_in_flight_goes_on_long_before_the_interval_is_over() {
    let world = World::new().await;
    let flow = world.start(graph_of(jetstream("IN").max_ack_pending(4), created(), HOUR, false));
    let fed: Vec<String> = (0..500).map(|row| row.to_string()).collect();
    world.feed(&fed.iter().map(String::as_str).collect::<Vec<_>>()).await;
    world.until(500).await;
    flow.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_smaller_batches_gets_smaller_ones() {
    for paced in [false, true] {
        let world = World::with(EmbeddedOptions { max_batch: 100, ..EmbeddedOptions::default() }).await;
        let many: Vec<String> = (0..300).map(|row| row.to_string()).collect();
        let fed: Vec<&str> =
            ["a*1", "b*250", "c*99", "d*100"].into_iter().chain(many.iter().map(String::as_str)).collect();
        world.feed(&fed).await;
        let flow = world.start(graph(SECOND, paced));
        world.until(750).await;
        assert_eq!(flow.drain().await.unwrap(), Ended::Drained);
        assert_eq!(world.stored().await, all(&fed), "{paced}");
    }
    let world = World::with(EmbeddedOptions { max_batch: 1, ..EmbeddedOptions::default() }).await;
    world.feed(&["1"]).await;
    let told = world.refused().await.chain();
    assert!(told.contains("at least two messages") && told.contains("max_msgs"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn an_output_that_the_stream_does_not_take_is_named_and_waits_until_it_does() {
    for paced in [false, true] {
        let world = World::new().await;
        let other = StreamConfig::new("OUT", ["out.some", "mill.txn.p.out.*"]);
        let config = StreamConfig { allow_atomic: true, allow_rollup_hdrs: true, ..other };
        world.js.create_stream(&config).await.unwrap();
        world.feed(&["1*3"]).await;
        let flow = world.start(graph_of(jetstream("IN"), jetstream_to("OUT"), SECOND, paced));
        sleep(Duration::from_secs(30)).await;
        let nodes = flow.metrics().nodes();
        let told = nodes.iter().find_map(|node| node.stalled.clone()).unwrap();
        assert!(told.contains("it takes no out.all, only out.some"), "{told}");
        let subjects = vec!["out.>".to_owned(), "mill.txn.p.out.*".to_owned()];
        world.js.update_stream(&StreamConfig { subjects, ..config }).await.unwrap();
        world.until(3).await;
        flow.drain().await.unwrap();
        assert_eq!(world.stored().await, all(&["1*3"]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_from_a_savepoint_that_is_refused_leaves_the_newest_checkpoint_as_it_was() {
    for paced in [false, true] {
        let world = World::new().await;
        world.feed(&["1"]).await;
        let flow = world.start(graph(SECOND, paced));
        world.until(1).await;
        flow.drain().await.unwrap();
        let (_, early) = world.store.read("p").await.unwrap().unwrap();
        world.store.save("p", "early", early).await.unwrap();
        world.feed(&["2"]).await;
        let flow = world.start(graph(SECOND, paced));
        world.until(2).await;
        flow.drain().await.unwrap();
        let newest = world.store.read("p").await.unwrap();
        let from_early = |environment| Environment { savepoint: Some("early".to_owned()), ..environment };
        for _ in 0..4 {
            let flow = world.start_as(graph(SECOND, paced), from_early);
            let told = timeout(Duration::from_secs(60), flow.finish()).await.unwrap().unwrap_err().to_string();
            assert!(told.contains("--rewind"), "{told}");
        }
        assert_eq!(world.store.read("p").await.unwrap(), newest);
        world.feed(&["3"]).await;
        let flow = world.start(graph(SECOND, paced));
        world.until(3).await;
        flow.drain().await.unwrap();
        assert_eq!(world.stored().await, all(&["1", "2", "3"]));
    }
}

#[tokio::test(start_paused = true)]
async fn where_sources_stood_is_in_a_checkpoint_too_now_and_then_so_that_little_comes_twice_when_the_marker_is_lost() {
    let world = World::new().await;
    let flow = world.start(graph(SECOND, false));
    let mut fed = Vec::new();
    for second in 0..40 {
        fed.push(second.to_string());
        world.feed(&[&second.to_string()]).await;
        sleep(SECOND).await;
    }
    flow.crash().await;
    let (_, manifest) = world.newest().await;
    assert!(manifest.ahead() == Some("out") && (25..=40).contains(&at(&manifest)), "{}", at(&manifest));
    // By itself it goes on from the marker.
    let flow = world.start(graph(SECOND, false));
    sleep(Duration::from_secs(5)).await;
    flow.crash().await;
    assert_eq!(world.stored().await, all(&fed.iter().map(String::as_str).collect::<Vec<_>>()));
    let before = at(&world.newest().await.1);
    let all_markers = Purge { filter: Some("mill.txn.>".into()), ..Purge::default() };
    world.js.purge("OUT", &all_markers).await.unwrap();
    let told = world.refused().await.to_string();
    assert!(told.contains("come twice"), "{told}");
    let flow = world.start_as(graph(SECOND, false), |environment| Environment { rewind: true, ..environment });
    sleep(Duration::from_secs(5)).await;
    flow.crash().await;
    assert_eq!(world.stored().await.len() as u64, 40 + 40 - before);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_idle_for_longer_than_max_age_goes_on_as_the_same_and_stores_each_output_once() {
    for paced in [false, true] {
        let world = World::new().await;
        let other = StreamConfig::new("OUT", ["out.>", "mill.txn.p.out.*"]);
        let max_age = 20_000_000_000;
        let config = StreamConfig { allow_atomic: true, allow_rollup_hdrs: true, max_age, ..other };
        world.js.create_stream(&config).await.unwrap();
        // Without a marker to rewrite, nothing would be done for an hour; outputs of the other protocol wait for checkpoints.
        let flow = world.start(graph(if paced { SECOND } else { HOUR }, paced));
        let mut owners = Vec::new();
        for row in ["1", "2*3", "3*2"] {
            world.feed(&[row]).await;
            world.until(rows(row).len()).await;
            assert_eq!(world.stored().await, rows(row), "{paced}");
            sleep(SECOND * 120).await;
            assert_eq!(world.stored().await, all(&[]), "they are too old: {paced}");
            let marker = world.js.last_message("OUT", "mill.txn.p.out.0").await.unwrap().unwrap();
            let marker: serde_json::Value = serde_json::from_slice(&marker.payload).unwrap();
            owners.push(marker["owner"].clone());
        }
        assert!(owners.iter().all(|owner| owner == &owners[0]), "{owners:?}");
        assert_eq!(flow.drain().await.unwrap(), Ended::Drained);
    }
}
