//! [`Restore`]: the state of a stage's subtask from a checkpoint, read a run at a time into what memory there is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use millstream_operators::{Fault, KeyGroup, Result, Run, Runs, Saved, Spill};
use millstream_pipelines::graph::Stage;

use super::beside::{Beside, Wanted};
use super::chain::Chain;
use super::job::{Job, link_name, rescaled};
use super::ownership::Ownership;
use super::snapshots::Snapshots;
use crate::checkpoint::{Restored, Segment, Store, StoreError, read_run};

/// What a subtask restores of its nodes.
pub(crate) struct Restore {
    store: Arc<dyn Store>,
    pipeline: Arc<str>,
    ownership: Arc<Ownership>,
    spill: Arc<Spill>,
    nodes: BTreeMap<String, NodeShare>,
    beside: Beside,
}

/// What a subtask restores of a node.
#[derive(Default)]
struct NodeShare {
    small: Saved,
    // The segments of each piece of keyed state, of one subtask behind the other.
    pieces: BTreeMap<String, Vec<Segment>>,
    // The key groups, the subtask and the number of subtasks, where that is another than it was.
    only: Option<(u32, u32, u32)>,
}

const PAUSE: Duration = Duration::from_secs(1);

impl Restore {
    /// Puts the state back, where waiting keeps nobody waiting.
    ///
    /// # Errors
    /// What cannot be read or does not decode.
    pub(crate) async fn into(self, mut chain: Chain) -> Result<Chain> {
        let beside = self.beside.clone();
        let restore = move |wanted: &Wanted| {
            for (node, share) in &self.nodes {
                let mut runs = Streamed { of: &self, node, share, wanted };
                chain.restore_within(node, &share.small, &mut runs, &self.spill)?;
            }
            Ok(chain)
        };
        beside.work("state could not be restored from a checkpoint", restore).await
    }
}

impl Job<'_> {
    /// What a subtask of a stage restores, to be read by itself; `None` if that is nothing.
    ///
    /// # Errors
    /// State that belongs to a subtask as a whole, of another number of subtasks.
    pub(super) fn restored_within(
        &self,
        (spill, beside): (&Arc<Spill>, &Beside),
        snapshots: &Snapshots,
        stage: &Stage,
        subtask: u32,
    ) -> Result<Option<Restore>> {
        let (of, Restored { manifest, states, .. }) = (stage.parallelism, &self.from);
        let mut nodes = BTreeMap::new();
        for node in stage.steps.iter().map(|step| link_name(self.graph, step.nodes())) {
            let (Some(all), Some(saved)) = (manifest.operators.get(&node), states.get(&node)) else { continue };
            let mut share = NodeShare::default();
            match all.iter().find(|state| state.of != of) {
                None => {
                    let mine = all.iter().zip(saved).find(|(state, _)| state.subtask == subtask);
                    let Some((state, (_, small))) = mine else { continue };
                    snapshots.resume(&node, state);
                    (share.small, share.pieces) = (small.clone(), state.keyed.clone());
                }
                Some(other) => {
                    let small = Saved::share(saved.iter().map(|(_, saved)| saved), manifest.key_groups, subtask, of);
                    share.small = small.map_err(|unsplittable| rescaled(&node, other.of, of).because(unsplittable))?;
                    for (name, segments) in all.iter().flat_map(|state| &state.keyed) {
                        share.pieces.entry(name.clone()).or_default().extend(segments.iter().cloned());
                    }
                    share.only = Some((manifest.key_groups, subtask, of));
                }
            }
            nodes.insert(node, share);
        }
        if nodes.is_empty() {
            return Ok(None);
        }
        let (store, pipeline) = (Arc::clone(&self.environment.store), self.graph.name.as_str().into());
        let (ownership, spill) = (Arc::clone(&self.ownership), Arc::clone(spill));
        Ok(Some(Restore { store, pipeline, ownership, spill, nodes, beside: beside.clone() }))
    }

    /// A budget that cannot be kept is told where it is broken.
    pub(super) fn warn_of_what_stays(&self, chain: &mut Chain, subtask: u32) -> Result {
        for (node, pieces) in chain.fit()?.iter().filter(|_| subtask == 0) {
            let pieces = pieces.iter().map(String::as_str).collect::<BTreeSet<_>>();
            tracing::warn!(pipeline = %self.graph.name, %node, ?pieces, "this state stays in memory, whatever the pipeline's budget is");
        }
        Ok(())
    }
}

struct Streamed<'a> {
    of: &'a Restore,
    node: &'a str,
    share: &'a NodeShare,
    wanted: &'a Wanted,
}

impl Streamed<'_> {
    fn read(&self, segment: &Segment) -> Result<Run> {
        let Restore { store, pipeline, ownership, .. } = self.of;
        let (store, pipeline, node) = (Arc::clone(store), Arc::clone(pipeline), self.node.to_owned());
        let ownership = Arc::clone(ownership);
        let segment = segment.clone();
        self.wanted.wait(async move {
            loop {
                match read_run(&*store, &pipeline, &node, &segment).await {
                    Ok(run) => return Ok(run),
                    // The run whose place this one is about to take may have let go of it.
                    Err(StoreError::Failed(fault)) => return Err(ownership.blame(fault).await),
                    Err(StoreError::Fenced) => return Err(Fault::bug("a read was fenced")),
                    Err(StoreError::Unknown(fault)) => {
                        tracing::warn!(%pipeline, "state cannot be read yet, looking again in {PAUSE:?}: {}", fault.chain());
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        })?
    }
}

impl Runs for Streamed<'_> {
    fn names(&self) -> Vec<String> {
        self.share.pieces.keys().cloned().collect()
    }

    fn each(&mut self, name: &str, play: &mut dyn FnMut(&Run) -> Result) -> Result {
        for segment in self.share.pieces.get(name).into_iter().flatten() {
            let run = self.read(segment)?;
            match self.share.only {
                None => play(&run)?,
                Some((key_groups, index, of)) => {
                    play(&run.only(|group| KeyGroup(group).owner(key_groups, of) == index))?;
                }
            }
        }
        Ok(())
    }
}
