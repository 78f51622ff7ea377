//! Stories of whole graphs on the engine: feed, advance, crash, drain.

use std::sync::Arc;
use std::time::Duration;

use millstream_operators::rows::{Merge, TryMap};
use millstream_operators::{
    AnyBatch, Batch, Cause, FaultKind, Operator, Outbox, PortType, Rejected, Result, Side, Sink, Source, StateVisitor,
    Timestamp, Turn,
};
use millstream_pipelines::graph::{
    Graph, InPort, KeyFn, Node, NodeId, OutPort, Role, Route, erase, erase_sink, erase_source,
};

use super::*;
use crate::checkpoint::{MemoryStore, Store};
use crate::testkit::{CollectSink, Collected, FailingStore, Flow, Gate, ListSource, StallingSink};

pub(super) fn graph() -> Graph {
    Graph { name: "test".into(), ..Graph::default() }
}

pub(super) fn source<S: Source + Clone + Sync>(graph: &mut Graph, name: &str, source: S) -> NodeId {
    let mut node = Node::new(name, "list", Role::Source(Arc::new(move |_| Ok(erase_source(source.clone())))));
    node.outputs = vec![PortType::of::<S::Out>("out")];
    graph.add(node)
}

pub(super) fn operator<O: Operator>(
    graph: &mut Graph,
    name: &str,
    from: NodeId,
    route: Route,
    make: impl Fn() -> O + Send + Sync + 'static,
) -> NodeId {
    let mut node = Node::new(name, "test", Role::Operator(Arc::new(move |_| Ok(erase(make())))));
    node.inputs = vec![PortType::of::<O::In>("in")];
    node.outputs = vec![PortType::of::<O::Out>("out")];
    let id = graph.add(node);
    graph.connect(OutPort { node: from, port: 0 }, InPort { node: id, port: 0 }, route);
    id
}

pub(super) fn sink<S: Sink + Clone + Sync>(graph: &mut Graph, name: &str, from: NodeId, sink: S) -> NodeId {
    let mut node = Node::new(name, "collect", Role::Sink(Arc::new(move |_| Ok(erase_sink(sink.clone())))));
    node.inputs = vec![PortType::of::<S::In>("in")];
    node.parallelism = Some(1);
    let id = graph.add(node);
    graph.connect(OutPort { node: from, port: 0 }, InPort { node: id, port: 0 }, Route::Forward);
    id
}

pub(super) fn numbers(n: u32) -> impl Iterator<Item = (Timestamp, u32)> {
    (0..n).map(|n| (Timestamp::from_micros(i64::from(n)), n))
}

/// Adds up, and gives the sum so far behind each row.
pub(super) struct RunningSum(pub(super) u64);

impl Operator for RunningSum {
    type In = Vec<u32>;
    type Out = Vec<u64>;

    fn on_batch(&mut self, batch: Batch<Vec<u32>>, out: &mut Outbox<'_, Vec<u64>>) -> Result<Turn> {
        for (at, row) in batch {
            self.0 += u64::from(row);
            out.push(at, self.0);
        }
        Ok(Turn::Done)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        visit.value("sum", &mut self.0)
    }
}

/// Doubles, and panics on a row the first so many times.
struct Fragile(u32, Arc<std::sync::atomic::AtomicU32>);

impl Operator for Fragile {
    type In = Vec<u32>;
    type Out = Vec<u32>;

    fn on_batch(&mut self, batch: Batch<Vec<u32>>, out: &mut Outbox<'_, Vec<u32>>) -> Result<Turn> {
        use std::sync::atomic::Ordering::SeqCst;
        let hit = batch.rows().contains(&self.0);
        if hit && self.1.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
            panic!("row {} hurts", self.0);
        }
        out.send(batch);
        Ok(Turn::Done)
    }
}

pub(super) fn sums(n: u32) -> Vec<u64> {
    let mut sum = 0;
    (0..n)
        .map(|n| {
            sum += u64::from(n);
            sum
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn rows_flow_from_source_to_sink_and_the_run_ends_with_its_input() {
    let (mut graph, out) = (graph(), Collected::<u64>::default());
    let list = source(&mut graph, "in", ListSource::new(numbers(5_000)).at_once(100));
    let sum = operator(&mut graph, "sum", list, Route::Forward, || RunningSum(0));
    sink(&mut graph, "out", sum, CollectSink::new(out.clone()));
    let flow = Flow::start(graph).unwrap();
    let metrics = flow.metrics().clone();
    assert_eq!(flow.finish().await.unwrap(), Ended::Finished);
    assert_eq!(out.rows(), sums(5_000));
    let seen: Vec<_> = metrics.nodes().into_iter().map(|node| (node.node, node.rows_in, node.rows_out)).collect();
    assert_eq!(seen, [("in".into(), 5_000, 5_000), ("out".into(), 5_000, 5_000), ("sum".into(), 5_000, 5_000)]);
}

#[tokio::test(start_paused = true)]
async fn state_and_position_come_back_together_after_a_crash() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let list = ListSource::new([]).at_once(7).endless();
    let mut last = Vec::new();
    for round in 0..10u32 {
        list.feed(numbers(200).map(|(t, n)| (t, round * 200 + n)));
        let (mut graph, out) = (graph(), Collected::<u64>::default());
        let from = source(&mut graph, "in", list.clone());
        let sum = operator(&mut graph, "sum", from, Route::Forward, || RunningSum(0));
        sink(&mut graph, "out", sum, CollectSink::new(out.clone()));
        let flow = Flow::start_with(graph, Arc::clone(&store), |environment| environment).unwrap();
        // Past some checkpoints, and into the open epoch.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        flow.crash().await;
        last = out.rows();
    }
    // Whatever was replayed, the last sum is what a plain loop over the whole input gives.
    assert_eq!(last.last(), sums(2_000).last());
}

#[tokio::test(start_paused = true)]
async fn a_drained_run_leaves_nothing_to_repeat() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let (list, out) = (ListSource::new(numbers(1_000)).at_once(10).endless(), Collected::<u32>::default());
    for _ in 0..2 {
        let mut graph = graph();
        let from = source(&mut graph, "in", list.clone());
        sink(&mut graph, "out", from, CollectSink::new(out.clone()));
        let flow = Flow::start_with(graph, Arc::clone(&store), |environment| environment).unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(flow.drain().await.unwrap(), Ended::Drained);
    }
    assert_eq!(out.rows(), (0..1_000).collect::<Vec<u32>>());
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_retried_from_the_last_checkpoint() {
    let (mut graph, out) = (graph(), Collected::<u32>::default());
    let left = Arc::new(std::sync::atomic::AtomicU32::new(3));
    let list = source(&mut graph, "in", ListSource::new(numbers(100)).at_once(10));
    let fragile = operator(&mut graph, "fragile", list, Route::Forward, move || Fragile(55, Arc::clone(&left)));
    sink(&mut graph, "out", fragile, CollectSink::new(out.clone()));
    let flow = Flow::start(graph).unwrap();
    let metrics = flow.metrics().clone();
    assert_eq!(flow.finish().await.unwrap(), Ended::Finished);
    assert_eq!(metrics.restarts(), 3);
    let mut rows = out.rows();
    rows.sort_unstable();
    rows.dedup();
    assert_eq!(rows, (0..100).collect::<Vec<u32>>());
}

#[tokio::test(start_paused = true)]
async fn the_same_fault_ten_times_at_the_same_place_ends_the_run() {
    let (mut graph, out) = (graph(), Collected::<u32>::default());
    let list = source(&mut graph, "in", ListSource::new(numbers(100)).at_once(10).failing_at(42));
    sink(&mut graph, "out", list, CollectSink::new(out.clone()));
    let flow = Flow::start(graph).unwrap();
    let metrics = flow.metrics().clone();
    let fault = flow.finish().await.unwrap_err();
    assert!(
        fault.chain().contains("10 times") && fault.chain().contains("in: the list source fails at row 42"),
        "{fault:?}"
    );
    assert_eq!(metrics.restarts(), 9);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_sink_stops_the_source_and_everything_arrives_when_it_goes_on() {
    let (mut graph, out, gate) = (graph(), Collected::<u64>::default(), Gate::shut());
    graph.settings.channel_rows = 100;
    let list = source(&mut graph, "in", ListSource::new(numbers(10_000)).at_once(10));
    let sum = operator(&mut graph, "sum", list, Route::Forward, || RunningSum(0));
    sink(&mut graph, "out", sum, StallingSink::new(gate.clone(), out.clone()));
    let flow = Flow::start(graph).unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    // Two channels of 100 rows, and a batch of ten in each hand.
    let read = flow.metrics().nodes().into_iter().find(|node| node.node == "in").unwrap().rows_in;
    assert!((100..=250).contains(&read), "{read}");
    gate.open();
    assert_eq!(flow.finish().await.unwrap(), Ended::Finished);
    assert_eq!(out.rows(), sums(10_000));
}

#[tokio::test(start_paused = true)]
async fn keys_keep_their_order_over_parallel_subtasks() {
    let (mut graph, out) = (graph(), Collected::<u32>::default());
    let list = source(&mut graph, "in", ListSource::new(numbers(10_000)).at_once(100));
    let key_fn: KeyFn = Arc::new(|batch: &AnyBatch, groups, out| {
        out.extend(batch.rows::<Vec<u32>>().unwrap().iter().map(|n| n % 10 * 13 % groups));
    });
    graph.nodes[0].parallelism = Some(1);
    graph.settings.parallelism = 4;
    let sum = operator(&mut graph, "sum", list, Route::Hash(key_fn), || Fragile(u32::MAX, Arc::default()));
    graph.nodes[sum.0].parallelism = Some(4);
    sink(&mut graph, "out", sum, CollectSink::new(out.clone()));
    Flow::start(graph).unwrap().finish().await.unwrap();
    let rows = out.rows();
    assert_eq!(rows.len(), 10_000);
    for key in 0..10 {
        assert!(rows.iter().filter(|n| *n % 10 == key).is_sorted(), "key {key}");
    }
}

/// Says which of them it is behind each row.
struct Which(u32);

impl Operator for Which {
    type In = Vec<u32>;
    type Out = Vec<(u32, u32)>;

    fn on_batch(&mut self, batch: Batch<Vec<u32>>, out: &mut Outbox<'_, Vec<(u32, u32)>>) -> Result<Turn> {
        batch.into_iter().for_each(|(at, row)| out.push(at, (row, self.0)));
        Ok(Turn::Done)
    }
}

#[tokio::test(start_paused = true)]
async fn keys_keep_their_order_where_fewer_subtasks_go_on() {
    for (wide, narrow) in [(4, 2), (3, 2), (5, 1), (4, 4)] {
        let (mut graph, out) = (graph(), Collected::<(u32, u32)>::default());
        let list = source(&mut graph, "in", ListSource::new(numbers(10_000)).at_once(100));
        let key_fn: KeyFn = Arc::new(|batch: &AnyBatch, groups, out| {
            out.extend(batch.rows::<Vec<u32>>().unwrap().iter().map(|n| n % 10 * 13 % groups));
        });
        graph.nodes[0].parallelism = Some(1);
        let spread = operator(&mut graph, "spread", list, Route::Hash(key_fn), || Fragile(u32::MAX, Arc::default()));
        graph.nodes[spread.0].parallelism = Some(wide);
        let made = std::sync::atomic::AtomicU32::new(0);
        let which = operator(&mut graph, "which", spread, Route::Forward, move || {
            Which(made.fetch_add(1, std::sync::atomic::Ordering::SeqCst))
        });
        graph.nodes[which.0].parallelism = Some(narrow);
        sink(&mut graph, "out", which, CollectSink::new(out.clone()));
        Flow::start(graph).unwrap().finish().await.unwrap();
        let rows = out.rows();
        assert_eq!(rows.len(), 10_000);
        for key in 0..10 {
            let of_key: Vec<_> = rows.iter().filter(|(n, _)| *n % 10 == key).collect();
            assert!(of_key.is_sorted() && of_key.iter().all(|(_, which)| *which == of_key[0].1), "key {key}");
        }
        let all: std::collections::BTreeSet<u32> = rows.iter().map(|(_, which)| *which).collect();
        assert_eq!(all.len(), narrow as usize, "each has its share");
    }
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_fails_costs_nothing_but_itself() {
    let store = FailingStore::default();
    let (mut graph, out) = (graph(), Collected::<u64>::default());
    let list = ListSource::new(numbers(10)).endless();
    let from = source(&mut graph, "in", list.clone());
    let sum = operator(&mut graph, "sum", from, Route::Forward, || RunningSum(0));
    sink(&mut graph, "out", sum, CollectSink::new(out.clone()));
    let flow = Flow::start_with(graph, Arc::new(store.clone()), |environment| environment).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    store.refuse(3);
    tokio::time::sleep(Duration::from_secs(6)).await;
    store.lose_confirmation(1);
    tokio::time::sleep(Duration::from_secs(3)).await;
    list.feed(numbers(10).map(|(t, n)| (t, n + 10)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let checkpoints = flow.metrics().checkpoint().completed;
    assert!(checkpoints >= 5, "{checkpoints}");
    assert_eq!(flow.metrics().restarts(), 0);
    assert_eq!(flow.drain().await.unwrap(), Ended::Drained);
    assert_eq!(out.rows(), sums(20));
}

#[tokio::test(start_paused = true)]
async fn the_last_starter_wins_and_the_loser_says_so() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let list = ListSource::new(numbers(10)).endless();
    let start = || {
        let mut graph = graph();
        let from = source(&mut graph, "in", list.clone());
        sink(&mut graph, "out", from, CollectSink::<u32>::new(Collected::default()));
        Flow::start_with(graph, Arc::clone(&store), |environment| environment).unwrap()
    };
    let first = start();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let second = start();
    let fault = first.finish().await.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Fenced);
    assert_eq!(second.drain().await.unwrap(), Ended::Drained);
}

#[tokio::test(start_paused = true)]
async fn who_restarts_after_a_fault_does_not_take_over_from_who_started_since() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let start = |list: &ListSource<u32>| {
        let mut graph = graph();
        // Neither finds out at a checkpoint.
        graph.settings.checkpoint_interval = Duration::from_secs(3_600);
        let from = source(&mut graph, "in", list.clone());
        let once = Arc::new(std::sync::atomic::AtomicU32::new(1));
        let fragile = operator(&mut graph, "fragile", from, Route::Forward, move || Fragile(7, Arc::clone(&once)));
        sink(&mut graph, "out", fragile, CollectSink::<u32>::new(Collected::default()));
        Flow::start_with(graph, Arc::clone(&store), |environment| environment).unwrap()
    };
    let (mine, others) = (ListSource::new(numbers(5)).endless(), ListSource::new(numbers(5)).endless());
    let first = start(&mine);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let second = start(&others);
    tokio::time::sleep(Duration::from_secs(1)).await;
    mine.feed(numbers(10));
    let fault = tokio::time::timeout(Duration::from_secs(60), first.finish()).await.unwrap().unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Fenced);
    // Who has taken over restarts as ever.
    others.feed(numbers(10));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(second.metrics().restarts(), 1);
    assert_eq!(second.drain().await.unwrap(), Ended::Drained);
}

#[tokio::test(start_paused = true)]
async fn a_starter_takes_over_also_where_a_checkpoint_comes_between_its_look_and_its_first_one() {
    let store = FailingStore::default();
    let list = ListSource::new(numbers(10)).endless();
    let start = || {
        let mut graph = graph();
        let from = source(&mut graph, "in", list.clone());
        sink(&mut graph, "out", from, CollectSink::<u32>::new(Collected::default()));
        Flow::start_with(graph, Arc::new(store.clone()), |environment| environment).unwrap()
    };
    let first = start();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    store.outdate(3);
    let second = start();
    let fault = first.finish().await.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Fenced);
    assert_eq!(second.drain().await.unwrap(), Ended::Drained);
}

/// Refuses every row, by a side that does not say that its rows are rejected ones.
struct Refuse(Side<Rejected<u32>>);

impl Operator for Refuse {
    type In = Vec<u32>;
    type Out = Vec<u32>;

    fn on_batch(&mut self, batch: Batch<Vec<u32>>, out: &mut Outbox<'_, Vec<u32>>) -> Result<Turn> {
        for (at, row) in batch {
            out.push_side(&self.0, at, Rejected { row, cause: Cause::operator("never") });
        }
        Ok(Turn::Done)
    }

    fn sides(&self) -> Vec<PortType> {
        vec![self.0.port_type()]
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejected_row_names_the_node_that_refused_it_wherever_it_went_since() {
    let (mut graph, out) = (graph(), Collected::<Rejected<u32>>::default());
    let refuse = |row: &u32| if row.is_multiple_of(2) { Ok(*row) } else { Err("odd") };
    let mut refused = Vec::new();
    for name in ["first", "second", "third"] {
        let from = source(&mut graph, &format!("{name}_rows"), ListSource::new(numbers(4)));
        let (node, sides) = if name == "third" {
            let make = || Refuse(Side::new(1, "refused"));
            (operator(&mut graph, name, from, Route::Forward, make), make().sides())
        } else {
            let make = move || TryMap::new(Arc::new(refuse));
            (operator(&mut graph, name, from, Route::Forward, make), make().sides())
        };
        graph.nodes[node.0].outputs.extend(sides);
        refused.push(OutPort { node, port: 1 });
    }
    // A chain behind the merge, so that rows pass several nodes before they are looked at.
    let merge = operator(&mut graph, "merge", NodeId(0), Route::Forward, Merge::<Vec<Rejected<u32>>>::default);
    graph.edges.retain(|edge| edge.to.node != merge);
    graph.nodes[merge.0].inputs = vec![PortType::of_rejected::<u32>("in")];
    for port in refused {
        graph.connect(port, InPort { node: merge, port: 0 }, Route::Forward);
    }
    let again = operator(&mut graph, "again", merge, Route::Forward, Merge::<Vec<Rejected<u32>>>::default);
    sink(&mut graph, "out", again, CollectSink::new(out.clone()));
    let flow = Flow::start(graph).unwrap();
    assert_eq!(flow.finish().await.unwrap(), Ended::Finished);
    let mut seen: Vec<_> = out.rows().into_iter().map(|rejected| (rejected.cause.node, rejected.row)).collect();
    seen.sort();
    let expected = [("first", 1), ("first", 3), ("second", 1), ("second", 3)];
    let third = (0..4).map(|row| ("third", row));
    assert_eq!(seen, expected.into_iter().chain(third).map(|(node, row)| (node.to_owned(), row)).collect::<Vec<_>>());
}

/// A graph whose one source is shared.
fn shared(with_state: bool, rows: u32) -> (Graph, Collected<u64>) {
    let mut graph = graph();
    let from = source(&mut graph, "rows", ListSource::new(numbers(rows)));
    graph.nodes[from.0].shared = true;
    let collected = Collected::default();
    let behind = match with_state {
        true => operator(&mut graph, "sum", from, Route::Forward, || RunningSum(0)),
        false => operator(&mut graph, "widen", from, Route::Forward, || Widen),
    };
    sink(&mut graph, "out", behind, CollectSink::new(collected.clone()));
    (graph, collected)
}

struct Widen;

impl Operator for Widen {
    type In = Vec<u32>;
    type Out = Vec<u64>;

    fn on_batch(&mut self, batch: Batch<Vec<u32>>, out: &mut Outbox<'_, Vec<u64>>) -> Result<Turn> {
        batch.into_iter().for_each(|(at, row)| out.push(at, u64::from(row)));
        Ok(Turn::Done)
    }
}

#[tokio::test(start_paused = true)]
async fn processes_with_shared_sources_do_not_fence_each_other() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let ((one, ones), (two, twos)) = (shared(false, 10), shared(false, 20));
    let one = Flow::start_with(one, Arc::clone(&store), |environment| environment).unwrap();
    let two = Flow::start_with(two, Arc::clone(&store), |environment| environment).unwrap();
    assert_eq!((one.finish().await.unwrap(), two.finish().await.unwrap()), (Ended::Finished, Ended::Finished));
    assert_eq!((ones.rows().len(), twos.rows().len()), (10, 20));
    assert!(store.read("test").await.unwrap().is_none(), "nothing to go on from is kept");
}

#[tokio::test(start_paused = true)]
async fn state_behind_a_shared_source_is_refused_at_the_start() {
    let fault = Flow::start(shared(true, 10).0).unwrap().finish().await.unwrap_err();
    assert_eq!((fault.kind(), fault.node()), (FaultKind::Setup, Some("sum")));
    assert!(fault.to_string().contains("second pipeline behind this one"), "{fault}");
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_with_positions_does_not_become_shared_in_silence() {
    let (mut before, _) = shared(false, 10);
    before.nodes[0].shared = false;
    let flow = Flow::start(before).unwrap();
    let store = flow.store();
    flow.finish().await.unwrap();
    let fault = Flow::start_with(shared(false, 10).0, store, |environment| environment).unwrap().finish().await;
    let fault = fault.unwrap_err();
    assert!(fault.kind() == FaultKind::Setup && fault.to_string().contains("without shared sources"), "{fault}");
}
