//! Stories of runs whose state does not fit in memory, and of their stores.

#![allow(clippy::unwrap_used, clippy::panic, reason = "it is test code, though not all inside a test")]

use std::sync::Arc;
use std::time::Duration;

use millstream_operators::Timestamp;
use millstream_pipelines::dsl::Pipeline;
use millstream_pipelines::graph::Graph;

use crate::broker::{Embedded, EmbeddedOptions};
use crate::checkpoint::{KvStore, Store};
use crate::connectors::Connections;
use crate::engine::Ended;
use crate::testkit::{CollectSink, Collected, FailingStore, Flow, ListSource};

const KEYS: u64 = 20_000;
/// No longer than anybody waits for what should come at once.
const LONG: Duration = Duration::from_secs(60);

/// How often each key came.
fn counts(list: &ListSource<u64>, out: &Collected<(u64, u64)>) -> Graph {
    let pipeline = Pipeline::new("counts").settings(|settings| {
        settings.parallelism = 2;
        settings.checkpoint_interval = Duration::from_millis(10);
        settings.state_memory = Some(100_000);
    });
    let rows = pipeline.source("numbers", list.clone().endless());
    let counted = rows.key_by(|number| number % KEYS).fold("count", 0_u64, |count, _| *count += 1);
    counted.sink("out", CollectSink::new(out.clone()));
    pipeline.build().unwrap()
}

fn numbers() -> ListSource<u64> {
    ListSource::new((0..KEYS * 2).map(|number| (Timestamp::MIN, number)))
}

fn start(graph: Graph, store: Arc<dyn Store>, spill_to: &std::path::Path) -> Flow {
    let flow = Flow::start_with(graph, store, |mut environment| {
        environment.spill_to = spill_to.to_owned();
        environment
    });
    flow.unwrap()
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waits = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, waits).await.unwrap_or_else(|_| panic!("never: {what}"));
}

async fn counted(flow: &Flow, out: &Collected<(u64, u64)>) {
    until("all are counted", || out.rows().len() >= 2 * KEYS as usize).await;
    let completed = flow.metrics().checkpoint().completed;
    until("there are checkpoints", || flow.metrics().checkpoint().completed >= completed + 3).await;
}

#[tokio::test]
async fn checkpoints_and_restores_of_state_that_is_spilled_use_the_connections_that_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Embedded::new(EmbeddedOptions::default());
    let (list, out) = (numbers(), Collected::default());
    for _ in 0..2 {
        let connections = Arc::new(Connections::to_embedded(broker.clone()));
        let store = KvStore::new(Arc::clone(&connections), 1);
        let flow = start(counts(&list, &out), Arc::new(store), folder.path());
        counted(&flow, &out).await;
        assert!(flow.metrics().state().unwrap().spilled > 10_000);
        flow.crash().await;
        assert_eq!(connections.count(), 1);
    }
}

#[tokio::test]
async fn a_restore_ends_with_its_run() {
    let folder = tempfile::tempdir().unwrap();
    let (list, out, store) = (numbers(), Collected::default(), FailingStore::default());
    let flow = start(counts(&list, &out), Arc::new(store.clone()), folder.path());
    counted(&flow, &out).await;
    flow.crash().await;
    let flow = start(counts(&list, &out), Arc::new(store.clone()), folder.path());
    let restored = flow.metrics().clone();
    until("it goes on", || restored.checkpoint().completed > 2).await;
    flow.crash().await;
    // Each segment is read to be checked, and then to be restored.
    let segments = store.questions() / 2;
    assert!(segments > 1);
    store.answer_only(segments + 1);
    let flow = start(counts(&list, &out), Arc::new(store.clone()), folder.path());
    until("somebody waits", || store.unanswered() > 0).await;
    flow.crash().await;
    assert_eq!(store.unanswered(), 0);
}

#[tokio::test]
async fn a_start_whose_state_does_not_fit_leaves_who_runs_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (list, out, store) = (numbers(), Collected::default(), FailingStore::default());
    let flow = start(counts(&list, &out), Arc::new(store.clone()), folder.path());
    counted(&flow, &out).await;
    let pipeline = Pipeline::new("counts").settings(|settings| {
        settings.parallelism = 2;
        settings.state_memory = Some(100_000);
    });
    let rows = pipeline.source("numbers", list.clone().endless());
    let words = rows.key_by(|number| number % KEYS).fold("count", String::new(), |words, _| words.push('|'));
    words.sink("out", CollectSink::new(Collected::default()));
    let misfit = start(pipeline.build().unwrap(), Arc::new(store.clone()), folder.path());
    let fault = misfit.finish().await.unwrap_err();
    assert_eq!(fault.node(), Some("count"), "{}", fault.chain());
    let completed = flow.metrics().checkpoint().completed;
    until("it goes on", || flow.metrics().checkpoint().completed > completed + 1).await;
    assert_eq!(flow.drain().await.unwrap(), Ended::Drained);
}

#[tokio::test]
async fn state_that_goes_while_it_is_restored_is_outdated_and_not_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let (list, out, store) = (numbers(), Collected::default(), FailingStore::default());
    let flow = start(counts(&list, &out), Arc::new(store.clone()), folder.path());
    counted(&flow, &out).await;
    flow.drain().await.unwrap();
    let before = store.questions();
    let flow = start(counts(&list, &out), Arc::new(store.clone()), folder.path());
    until("it goes on", || flow.metrics().checkpoint().completed > 2).await;
    flow.drain().await.unwrap();
    // Each segment is read to be checked, and then to be restored.
    store.outrun_behind((store.questions() - before) / 2 + 1, 1);
    let flow = start(counts(&list, &out), Arc::new(store.clone()), folder.path());
    until("it goes on", || flow.is_over() || flow.metrics().checkpoint().completed > 2).await;
    assert_eq!(flow.metrics().restarts(), 0);
    assert_eq!(flow.drain().await.unwrap(), Ended::Drained);
}

#[tokio::test]
async fn state_that_the_store_refuses_is_stored_by_a_later_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (list, out, store) = (numbers(), Collected::default(), FailingStore::default());
    store.refuse_blobs(5);
    let flow = start(counts(&list, &out), Arc::new(store.clone()), folder.path());
    counted(&flow, &out).await;
    assert_eq!(flow.metrics().restarts(), 0);
    flow.crash().await;
    list.feed([(Timestamp::MIN, 7)]);
    let flow = start(counts(&list, &out), Arc::new(store.clone()), folder.path());
    until("a third comes", || out.rows().last() == Some(&(7, 3))).await;
    flow.crash().await;
}

#[tokio::test]
async fn what_was_spilled_is_gone_before_the_next_attempt() {
    let folder = tempfile::tempdir().unwrap();
    let (list, out, store) = (numbers(), Collected::default(), FailingStore::default());
    let flow = start(counts(&list, &out), Arc::new(store.clone()), folder.path());
    counted(&flow, &out).await;
    let metrics = flow.metrics().clone();
    store.refuse(1_000);
    until("it runs again", || metrics.restarts() > 0).await;
    store.refuse(0);
    until("it has begun", || metrics.state().unwrap().spilled > 10_000).await;
    let attempts = std::fs::read_dir(folder.path().join("counts.0")).unwrap();
    let attempts = attempts.flatten().filter(|entry| entry.path().is_dir()).count();
    assert_eq!(attempts, 1);
    flow.crash().await;
    assert_eq!(metrics.state().unwrap().spilled, 0, "there is nothing left of it, and still something to be seen");
}

/// As much text of each key as comes to far more than may be written behind a snapshot, wherever it is.
#[tokio::test]
async fn who_changes_much_state_behind_a_snapshot_waits_until_that_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let (list, out, store) = (numbers(), Collected::default(), FailingStore::default());
    let pipeline = Pipeline::new("texts").settings(|settings| {
        settings.parallelism = 2;
        settings.checkpoint_interval = Duration::from_millis(10);
        settings.state_memory = Some(100_000);
    });
    let rows = pipeline.source("numbers", list.clone().endless().at_once(500));
    // Text that does not become short when it is stored.
    let words = |number: u64| (0..60_u64).map(move |word| (number * 60 + word).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let texts = rows.key_by(|number| number % KEYS).fold("text", String::new(), move |text, number| {
        text.extend(words(number).map(|word| format!("{word:016x}")));
    });
    texts.map("lengths", |(key, text)| (key, text.len() as u64)).sink("out", CollectSink::new(out.clone()));
    let flow = start(pipeline.build().unwrap(), Arc::new(store.clone()), folder.path());
    counted(&flow, &out).await;
    let some = || list.feed((0..400).map(|number| (Timestamp::MIN, number)));
    store.hold_blobs_of(50_000);
    some();
    until("snapshots wait for their store", || store.holding() > 0).await;
    list.feed((0..KEYS * 4).map(|number| (Timestamp::MIN, number)));
    let all = 400 + 6 * KEYS as usize;
    let waited = tokio::time::timeout(Duration::from_secs(3), until("all", || out.rows().len() >= all)).await;
    assert!(waited.is_err(), "nobody waited: {:?}", flow.metrics().state());
    store.hold_blobs_of(usize::MAX);
    until("all are counted", || out.rows().len() >= all).await;
    assert_eq!(flow.metrics().restarts(), 0);
    store.hold_blobs_of(50_000);
    some();
    until("one waits again", || store.holding() > 0).await;
    list.feed((0..KEYS * 4).map(|number| (Timestamp::MIN, number)));
    // Also while it waits.
    flow.crash().await;
    assert_eq!(store.holding(), 0);
}
