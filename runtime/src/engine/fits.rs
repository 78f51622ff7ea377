//! What of a checkpoint a pipeline that has changed since goes on from.

use std::collections::BTreeSet;
use std::time::Duration;

use millstream_operators::{Fault, FaultKind, Result};
use millstream_pipelines::graph::{Graph, Guarantee, Plan, Role};
use tokio::sync::watch;

use super::coordinator::wanted;
use super::job::link_name;
use super::kept::{Keeping, LeftOut};
use super::stop::Stop;
use crate::checkpoint::{Manifest, OutputLog, Restored, Revision, StoreError};

/// A pipeline, and the nodes of earlier ones that are gone for good.
#[derive(Clone, Copy)]
pub(super) struct Now<'a> {
    pub(super) graph: &'a Graph,
    pub(super) plan: &'a Plan,
    pub(super) forget: &'a [String],
    /// Whether the run has made checkpoints, which no longer have what was to be forgotten: then a node of such a name has
    /// something of its own.
    pub(super) has_forgotten: bool,
}

/// What comes of a checkpoint that a run is to begin from.
pub(super) enum Fitted {
    /// It may, without this.
    Fits(Option<LeftOut>),
    /// Another run has gone on meanwhile, and what was to be kept went.
    Overtaken,
    /// The run is asked to stop.
    Stopped,
}

const PAUSE: Duration = Duration::from_secs(30);

/// Leaves of a checkpoint what the graph goes on from: all that it has of its nodes, by their names and by what they are. The
/// state of operators that the graph does not have is left out, and the whole checkpoint, which has this revision, is kept as a
/// savepoint, so that nothing is lost.
///
/// # Errors
/// A setup fault where going on would read again what was read, or lose outputs or what they depend on; or what the store
/// says.
pub(super) async fn fit(
    now: Now<'_>,
    restored: &mut Restored,
    revision: Revision,
    keeping: &mut Keeping<'_>,
    stop: &mut watch::Receiver<Stop>,
) -> Result<Fitted> {
    now.check(&restored.manifest)?;
    let lost = now.lost(&restored.manifest);
    if lost.is_empty() {
        return Ok(Fitted::Fits(None));
    }
    let Restored { manifest, states, .. } = restored;
    let left_out = loop {
        let names = lost.names().into_iter().cloned().collect();
        let whole = match keeping.keep((manifest, revision), names).await {
            Ok(left_out) => tokio::select! {
                biased;
                whole = keeping.is_whole(&left_out, revision) => whole.map(|whole| whole.then_some(left_out)),
                () = wanted(stop) => {
                    keeping.take_back().await;
                    return Ok(Fitted::Stopped);
                }
            },
            Err(error) => Err(error),
        };
        match whole {
            Ok(Some(left_out)) => break left_out,
            Ok(None) => {
                keeping.discard().await;
                return Ok(Fitted::Overtaken);
            }
            Err(StoreError::Unknown(fault)) => {
                tracing::warn!(pipeline = %now.graph.name, "the last checkpoint cannot be kept as a savepoint yet, trying again in {PAUSE:?}: {}", fault.chain());
            }
            Err(error) => {
                keeping.take_back().await;
                return Err(error.into_fault());
            }
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep(PAUSE) => {}
            () = wanted(stop) => {
                keeping.take_back().await;
                return Ok(Fitted::Stopped);
            }
        }
    };
    for name in &lost.sources {
        manifest.sources.remove(name);
    }
    for name in &lost.operators {
        manifest.operators.remove(name);
        states.remove(name);
    }
    Ok(Fitted::Fits(Some(left_out)))
}

/// Of which nodes a checkpoint has something that the graph has no node of that kind and name for.
#[derive(Default)]
struct Lost {
    sources: BTreeSet<String>,
    operators: BTreeSet<String>,
}

impl Lost {
    fn is_empty(&self) -> bool {
        self.names().is_empty()
    }

    fn names(&self) -> BTreeSet<&String> {
        self.sources.union(&self.operators).collect()
    }
}

impl Now<'_> {
    fn is(&self, name: &str, kind: impl Fn(&Role) -> bool) -> bool {
        self.graph.nodes.iter().any(|node| node.name == name && kind(&node.role))
    }

    fn reads(&self, name: &str) -> bool {
        self.is(name, |role| matches!(role, Role::Source(_)))
    }

    fn writes(&self, name: &str) -> bool {
        self.is(name, |role| matches!(role, Role::Sink(_)))
    }

    fn lost(&self, manifest: &Manifest) -> Lost {
        let steps = self.plan.stages.iter().flat_map(|stage| &stage.steps);
        let keep: BTreeSet<String> = steps.map(|step| link_name(self.graph, step.nodes())).collect();
        let keeps = |name: &str| keep.contains(name) && !self.reads(name) && !self.writes(name);
        Lost {
            sources: manifest.sources.keys().filter(|name| !self.reads(name)).cloned().collect(),
            operators: manifest.operators.keys().filter(|name| !keeps(name)).cloned().collect(),
        }
    }

    /// Refuses a checkpoint with places, outputs or key groups that the graph has no place for.
    fn check(&self, manifest: &Manifest) -> Result<(), Fault> {
        let Now { graph, forget, has_forgotten, .. } = *self;
        let setup = |words: String| Fault::new(FaultKind::Setup, words);
        if manifest.key_groups != graph.settings.key_groups && !manifest.operators.is_empty() {
            let (was, is) = (manifest.key_groups, graph.settings.key_groups);
            return Err(setup(format!(
                "the last checkpoint has {was} key groups and the pipeline has {is}; they are fixed for its life"
            )));
        }
        let lost = self.lost(manifest);
        let is_there = |name: &&String| manifest.sources.contains_key(*name) || manifest.operators.contains_key(*name);
        if !has_forgotten && let Some(name) = forget.iter().filter(is_there).find(|name| !lost.names().contains(name)) {
            return Err(setup(format!("the place of {name} cannot be forgotten: the pipeline has it")));
        }
        let once = graph.settings.guarantee == Guarantee::EffectivelyOnce;
        let unsaid: Vec<_> = lost.names().into_iter().filter(|name| !forget.contains(name)).collect();
        if let Some(first) = unsaid.iter().find(|name| once || lost.sources.contains(**name)) {
            let what = match lost.sources.contains(*first) {
                true => "a source with another name would read all again",
                false => "outputs that are stored once cannot be taken back if it only has another name now",
            };
            return Err(setup(format!(
                "the last checkpoint holds the place or state of {unsaid:?}, which the pipeline no longer has, or has as another kind of node: {what}. Give the node its name back, or, if it is gone for good, start with `--forget {first}`"
            )));
        }
        let is_open = |logs: &[OutputLog]| logs.iter().any(|log| !log.published);
        let open: Vec<_> = manifest.sinks.iter().filter(|(name, logs)| !self.writes(name) && is_open(logs)).collect();
        if !open.is_empty() {
            let names: Vec<_> = open.into_iter().map(|(name, _)| name).collect();
            return Err(setup(format!(
                "the last checkpoint holds outputs of {names:?} that may not all be published, and the pipeline no longer has this sink; give it its name back"
            )));
        }
        let Some(node) = manifest.ahead() else { return Ok(()) };
        let what = match self.writes(node) {
            true if !lost.sources.is_empty() => {
                "and not in the checkpoint alone: no source can be forgotten yet".to_owned()
            }
            false => "which the pipeline no longer has: give it its name back".to_owned(),
            true if !once => "which only a pipeline that promises effectively-once goes on from".to_owned(),
            true => return Ok(()),
        };
        Err(setup(format!(
            "where the sources stood is in the marker of the sink {node}, {what}, or first start the pipeline as it was and stop it in an orderly way"
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use millstream_operators::FaultKind;
    use millstream_pipelines::dsl::Pipeline;
    use millstream_pipelines::graph::{Route, plan};
    use tokio::time::sleep;

    use super::super::tests::{RunningSum, graph, numbers, operator, sink, source, sums};
    use super::super::{Ended, Environment};
    use super::*;
    use crate::checkpoint::{MemoryStore, Store};
    use crate::testkit::{CollectSink, Collected, FailingStore, Flow, ListSource};

    /// Numbers or, `with_sums`, their sums, on a store.
    fn start(
        (list, with_sums): (&ListSource<u32>, bool),
        store: &Arc<dyn Store>,
        adapt: impl FnOnce(Environment) -> Environment,
    ) -> (Flow, Collected<u64>) {
        let (mut graph, out) = (graph(), Collected::default());
        let from = source(&mut graph, "in", list.clone());
        if with_sums {
            let sum = operator(&mut graph, "sum", from, Route::Forward, || RunningSum(0));
            sink(&mut graph, "out", sum, CollectSink::new(out.clone()));
        } else {
            sink(&mut graph, "rows", from, CollectSink::<u32>::new(Collected::default()));
        }
        (Flow::start_with(graph, Arc::clone(store), adapt).unwrap(), out)
    }

    #[tokio::test(start_paused = true)]
    async fn state_of_a_node_that_is_gone_is_left_out_and_kept_as_a_savepoint() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let list = ListSource::new(numbers(10)).endless();
        let (flow, _) = start((&list, true), &store, |environment| environment);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(flow.drain().await.unwrap(), Ended::Drained);
        list.feed((10..20).map(|n| (millstream_operators::Timestamp::MIN, n)));
        let (flow, _) = start((&list, false), &store, |environment| environment);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(flow.metrics().nodes().iter().map(|node| node.rows_in).max(), Some(10), "its place is known");
        assert_eq!(flow.drain().await.unwrap(), Ended::Drained);
        let saved = store.saved("test").await.unwrap();
        let [(name, _)] = saved.as_slice() else { panic!("{saved:?}") };
        // Nothing is lost: from there on it goes on as if it had never been away.
        let (flow, out) = start((&list, true), &store, |mut environment| {
            environment.savepoint = Some(name.clone());
            environment
        });
        sleep(Duration::from_secs(2)).await;
        assert_eq!(flow.drain().await.unwrap(), Ended::Drained);
        assert_eq!(out.rows(), &sums(20)[10..]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_place_of_a_source_that_is_gone_is_forgotten_only_if_that_is_said() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let list = ListSource::new(numbers(10));
        let (flow, _) = start((&list, false), &store, |environment| environment);
        assert_eq!(flow.finish().await.unwrap(), Ended::Finished);
        let renamed = |forget: &'static str| {
            let mut graph = graph();
            let from = source(&mut graph, "other", list.clone());
            sink(&mut graph, "rows", from, CollectSink::<u32>::new(Collected::default()));
            Flow::start_with(graph, Arc::clone(&store), move |mut environment| {
                environment.forget = vec![forget.to_owned()];
                environment
            })
        };
        for forget in ["none", "other"] {
            let fault = renamed(forget).unwrap().finish().await.unwrap_err();
            assert!(fault.kind() == FaultKind::Setup && fault.chain().contains("start with `--forget in`"), "{fault}");
        }
        // It may be said again where there is nothing more to forget, but not of what is there.
        for _ in 0..2 {
            assert_eq!(renamed("in").unwrap().finish().await.unwrap(), Ended::Finished);
        }
        let fault = renamed("other").unwrap().finish().await.unwrap_err();
        assert!(fault.kind() == FaultKind::Setup && fault.chain().contains("the pipeline has it"), "{fault}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_of_another_kind_does_not_go_on_from_what_its_name_had() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let list = ListSource::new(numbers(10));
        let (flow, _) = start((&list, true), &store, |environment| environment);
        assert_eq!(flow.finish().await.unwrap(), Ended::Finished);
        // What was the source is an operator now, and what was the operator a sink.
        let changed = |forget: &[&'static str]| {
            let mut graph = graph();
            let from = source(&mut graph, "raw", list.clone());
            let sum = operator(&mut graph, "in", from, Route::Forward, || RunningSum(0));
            sink(&mut graph, "sum", sum, CollectSink::<u64>::new(Collected::default()));
            let forget = forget.iter().map(|name| (*name).to_owned()).collect();
            Flow::start_with(graph, Arc::clone(&store), move |environment| Environment { forget, ..environment })
        };
        let fault = changed(&[]).unwrap().finish().await.unwrap_err();
        assert!(fault.kind() == FaultKind::Setup && fault.chain().contains("start with `--forget in`"), "{fault}");
        assert_eq!(changed(&["in"]).unwrap().finish().await.unwrap(), Ended::Finished);
        assert_eq!(store.saved("test").await.unwrap().len(), 1, "the state of `sum` is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_fails_leaves_no_savepoint_behind() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let list = ListSource::new(numbers(10)).endless();
        let (flow, _) = start((&list, true), &store, |environment| environment);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(flow.drain().await.unwrap(), Ended::Drained);
        let mut graph = graph();
        let from = source(&mut graph, "in", list.clone());
        sink(&mut graph, "rows", from, CollectSink::<u32>::new(Collected::default()));
        let refused = Arc::new(|_: &_| Err(Fault::new(FaultKind::Setup, "there is no such place")));
        graph.nodes.last_mut().unwrap().role = Role::Sink(refused);
        let fault = Flow::start_with(graph, Arc::clone(&store), |e| e).unwrap().finish().await.unwrap_err();
        assert!(fault.chain().contains("no such place"), "{fault}");
        assert!(store.saved("test").await.unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_savepoint_stays_where_a_first_checkpoint_may_come_though_its_run_has_ended() {
        let late = FailingStore::default();
        let store: Arc<dyn Store> = Arc::new(late.clone());
        let list = ListSource::new(numbers(10)).endless();
        let (flow, _) = start((&list, true), &store, |environment| environment);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(flow.drain().await.unwrap(), Ended::Drained);
        let before = store.read("test").await.unwrap();
        late.write_late(1);
        let (flow, _) = start((&list, false), &store, |environment| environment);
        sleep(Duration::from_millis(500)).await;
        flow.crash().await;
        assert_eq!(store.read("test").await.unwrap(), before, "it was not under way");
        sleep(Duration::from_secs(2)).await;
        assert_ne!(store.read("test").await.unwrap(), before, "it has not come");
        assert_eq!(store.saved("test").await.unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn starts_that_are_overtaken_leave_one_savepoint() {
        let outdated = FailingStore::default();
        let store: Arc<dyn Store> = Arc::new(outdated.clone());
        let list = ListSource::new(numbers(10)).endless();
        let (flow, _) = start((&list, true), &store, |environment| environment);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(flow.drain().await.unwrap(), Ended::Drained);
        outdated.outdate(2);
        let (flow, _) = start((&list, false), &store, |environment| environment);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(flow.drain().await.unwrap(), Ended::Drained);
        assert_eq!(store.saved("test").await.unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_is_stopped_while_it_looks_at_its_savepoint_leaves_none() {
        let store = FailingStore::default();
        let list = ListSource::new((0..2_000).map(|n| (millstream_operators::Timestamp::MIN, n)));
        let start = |counts: bool| {
            let pipeline = Pipeline::new("p");
            let rows = pipeline.source("in", list.clone());
            if counts {
                let counted = rows.key_by(|n: &u32| *n).fold("count", 0_u64, |count, _| *count += 1);
                counted.sink("out", CollectSink::new(Collected::<(u32, u64)>::default()));
            } else {
                rows.sink("rows", CollectSink::new(Collected::<u32>::default()));
            }
            Flow::start_with(pipeline.build().unwrap(), Arc::new(store.clone()), |e| e).unwrap()
        };
        start(true).finish().await.unwrap();
        let (_, newest) = store.read("p").await.unwrap().unwrap();
        let segments = Manifest::decode(&newest, "p", "memory").unwrap().segments().count();
        assert!(segments > 0);
        // Those of the checkpoint are read, and those of the savepoint are waited for.
        store.answer_only(u32::try_from(segments).unwrap());
        let flow = start(false);
        sleep(Duration::from_millis(500)).await;
        assert!(store.unanswered() > 0 && store.saved("p").await.unwrap().len() == 1);
        assert_eq!(flow.drain().await.unwrap(), Ended::Stopped);
        assert!(store.saved("p").await.unwrap().is_empty());
    }

    #[test]
    fn what_was_forgotten_is_forgotten_again_where_a_restart_falls_back_and_not_asked_for_where_it_does_not() {
        let mut graph = graph();
        let from = source(&mut graph, "in", ListSource::new(numbers(1)));
        sink(&mut graph, "old", from, CollectSink::<u32>::new(Collected::default()));
        let (key_groups, plan, forget) =
            (graph.settings.key_groups, plan(&graph), ["in".to_owned(), "gone".to_owned()]);
        let check = |manifest: &Manifest, has_forgotten| {
            Now { graph: &graph, plan: &plan, forget: &forget, has_forgotten }.check(manifest)
        };
        let with = |name: &str| {
            let sources = [(name.to_owned(), Vec::new())].into();
            Manifest { key_groups, sources, ..Manifest::default() }
        };
        assert!(check(&with("gone"), false).is_ok() && check(&with("gone"), true).is_ok());
        assert!(check(&with("in"), false).is_err() && check(&with("in"), true).is_ok());
    }

    #[test]
    fn under_effectively_once_state_is_forgotten_only_if_that_is_said_and_no_source_while_a_marker_has_its_place() {
        let mut graph = graph();
        graph.settings.guarantee = Guarantee::EffectivelyOnce;
        let from = source(&mut graph, "in", ListSource::new(numbers(1)));
        sink(&mut graph, "out", from, CollectSink::<u32>::new(Collected::default()));
        let key_groups = graph.settings.key_groups;
        let plan = plan(&graph);
        let check = |forget: &[String], manifest: &_| {
            Now { graph: &graph, plan: &plan, forget, has_forgotten: false }.check(manifest)
        };
        let mut manifest = Manifest { key_groups, ..Manifest::default() };
        manifest.operators.insert("sum".into(), Vec::new());
        let refused = check(&[], &manifest).unwrap_err();
        assert!(refused.to_string().contains("start with `--forget sum`"), "{refused}");
        assert!(check(&["sum".to_owned()], &manifest).is_ok());
        manifest.sources.insert("gone".into(), Vec::new());
        manifest.mark("out", millstream_operators::Epoch(1), 1, true);
        let refused = check(&["sum".to_owned(), "gone".to_owned()], &manifest).unwrap_err();
        assert!(refused.to_string().contains("no source can be forgotten yet"), "{refused}");
    }
}
