//! What of a checkpoint a pipeline that has changed since goes on from.

use millstream_operators::{Fault, FaultKind};
use millstream_pipelines::graph::{Graph, Guarantee};

use crate::checkpoint::{BlobId, Manifest, OutputLog, Restored, Store, StoreError, as_stored};

/// Leaves of a checkpoint what the graph goes on from: all that it has of its nodes, by their names. The state of operators
/// that the graph does not have is left out and named in the log, and the whole checkpoint is kept as a savepoint, so that
/// nothing is lost.
///
/// # Errors
/// A setup fault where going on would read again what was read, or lose outputs or what they depend on; or what the store says.
pub(super) async fn fit(
    (graph, forget): (&Graph, &[String]),
    restored: &mut Restored,
    store: &dyn Store,
) -> Result<(), StoreError> {
    let Restored { manifest, states, .. } = restored;
    check((graph, forget), manifest).map_err(StoreError::Failed)?;
    let lost = lost(graph, manifest);
    if lost.is_empty() {
        return Ok(());
    }
    let (bytes, beside) = as_stored(manifest.encode().map_err(StoreError::Failed)?);
    // What has this name is this.
    let id = BlobId::of(&bytes).to_string();
    let savepoint = format!("before-{}-{}", manifest.epoch, id.get(..8).unwrap_or(&id));
    if let Some((id, bytes)) = beside {
        store.put(&graph.name, id, bytes).await?;
    }
    store.save(&graph.name, &savepoint, bytes).await?;
    for name in &lost {
        manifest.sources.remove(name);
        manifest.operators.remove(name);
        states.remove(name);
    }
    tracing::warn!(
        pipeline = %graph.name, ?lost,
        "the last checkpoint has places or state of nodes that the pipeline no longer has; the run goes on without it, and all of it is kept as savepoint {savepoint}. If they only have other names now, stop, give them their names back, and start with `--from {savepoint}`"
    );
    Ok(())
}

/// The nodes of which a manifest has something and that the graph does not have.
fn lost(graph: &Graph, manifest: &Manifest) -> Vec<String> {
    let is_lost = |name: &&String| graph.nodes.iter().all(|node| node.name != **name);
    manifest.operators.keys().chain(manifest.sources.keys()).filter(is_lost).cloned().collect()
}

/// Refuses a checkpoint with places, outputs or key groups that the graph has no place for.
fn check((graph, forget): (&Graph, &[String]), manifest: &Manifest) -> Result<(), Fault> {
    let setup = |words: String| Fault::new(FaultKind::Setup, words);
    if manifest.key_groups != graph.settings.key_groups && !manifest.operators.is_empty() {
        let (was, is) = (manifest.key_groups, graph.settings.key_groups);
        return Err(setup(format!(
            "the last checkpoint has {was} key groups and the pipeline has {is}; they are fixed for its life"
        )));
    }
    let known = |name: &String| graph.nodes.iter().any(|node| node.name == *name);
    if let Some(name) = forget.iter().find(|name| known(name)) {
        return Err(setup(format!("the place of {name} cannot be forgotten: the pipeline has it")));
    }
    let once = graph.settings.guarantee == Guarantee::EffectivelyOnce;
    let unsaid: Vec<_> = lost(graph, manifest).into_iter().filter(|name| !forget.contains(name)).collect();
    if let Some(first) = unsaid.iter().find(|name| once || manifest.sources.contains_key(*name)) {
        let what = match manifest.sources.contains_key(first) {
            true => "a source with another name would read all again",
            false => "outputs that are stored once cannot be taken back if it only has another name now",
        };
        return Err(setup(format!(
            "the last checkpoint holds the place or state of {unsaid:?}, which the pipeline no longer has: {what}. Give the node its name back, or, if it is gone for good, start with `--forget {first}`"
        )));
    }
    let is_open = |logs: &[OutputLog]| logs.iter().any(|log| !log.published);
    let open: Vec<_> = manifest.sinks.iter().filter(|(name, logs)| !known(name) && is_open(logs)).collect();
    if !open.is_empty() {
        let names: Vec<_> = open.into_iter().map(|(name, _)| name).collect();
        return Err(setup(format!(
            "the last checkpoint holds outputs of {names:?} that may not all be published, and the pipeline no longer has this sink; give it its name back"
        )));
    }
    if let Some(node) = manifest.ahead() {
        let is_lost = manifest.sources.keys().any(|name| !known(name));
        let what = match known(&node.to_owned()) {
            true if is_lost => Some("and not in the checkpoint alone: no source can be forgotten yet".to_owned()),
            false => Some("which the pipeline no longer has: give it its name back".to_owned()),
            true if graph.settings.guarantee != Guarantee::EffectivelyOnce => {
                Some("which only a pipeline that promises effectively-once goes on from".to_owned())
            }
            true => None,
        };
        if let Some(what) = what {
            return Err(setup(format!(
                "where the sources stood is in the marker of the sink {node}, {what}, or first start the pipeline as it was and stop it in an orderly way"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use millstream_operators::FaultKind;
    use millstream_pipelines::graph::Route;
    use tokio::time::sleep;

    use super::super::tests::{RunningSum, graph, numbers, operator, sink, source, sums};
    use super::super::{Ended, Environment};
    use super::*;
    use crate::checkpoint::MemoryStore;
    use crate::testkit::{CollectSink, Collected, Flow, ListSource};

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
        for (forget, words) in [("none", "start with `--forget in`"), ("other", "the pipeline has it")] {
            let fault = renamed(forget).unwrap().finish().await.unwrap_err();
            assert!(fault.kind() == FaultKind::Setup && fault.chain().contains(words), "{fault}");
        }
        assert_eq!(renamed("in").unwrap().finish().await.unwrap(), Ended::Finished);
    }
    #[test]
    fn under_effectively_once_state_is_forgotten_only_if_that_is_said_and_no_source_while_a_marker_has_its_place() {
        let mut graph = graph();
        graph.settings.guarantee = Guarantee::EffectivelyOnce;
        let from = source(&mut graph, "in", ListSource::new(numbers(1)));
        sink(&mut graph, "out", from, CollectSink::<u32>::new(Collected::default()));
        let key_groups = graph.settings.key_groups;
        let mut manifest = Manifest { key_groups, ..Manifest::default() };
        manifest.operators.insert("sum".into(), Vec::new());
        let refused = check((&graph, &[]), &manifest).unwrap_err();
        assert!(refused.to_string().contains("start with `--forget sum`"), "{refused}");
        assert!(check((&graph, &["sum".to_owned()]), &manifest).is_ok());
        manifest.sources.insert("gone".into(), Vec::new());
        manifest.mark("out", millstream_operators::Epoch(1), 1, true);
        let refused = check((&graph, &["sum".to_owned(), "gone".to_owned()]), &manifest).unwrap_err();
        assert!(refused.to_string().contains("no source can be forgotten yet"), "{refused}");
    }
}
