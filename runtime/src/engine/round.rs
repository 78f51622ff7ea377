//! [`Round`]: one checkpoint on its way: which tasks the barrier has passed, and what they said.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use millstream_operators::{Barrier, Fault, Record, Result};

use super::report::{Part, TaskId};
use super::snapshots::{All, Snapshot};
use crate::checkpoint::{BlobId, NodeState, OutputLog, SourcePosition};

/// Which subtask of how many a task is, and of which node if it is a source or a sink.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) source: Option<Arc<str>>,
    pub(crate) sink: Option<Arc<str>>,
    pub(crate) subtask: u32,
    pub(crate) of: u32,
}

/// The parts of a checkpoint, as they come in.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) barrier: Barrier,
    missing: BTreeSet<TaskId>,
    pub(crate) sources: BTreeMap<String, Vec<SourcePosition>>,
    pub(crate) operators: BTreeMap<String, Vec<NodeState>>,
    /// What sinks will store when the checkpoint is durable, each with its node.
    pub(crate) outputs: Vec<(Arc<str>, OutputLog)>,
    /// How many rows sources have read for it, where that is bounded.
    pub(crate) rows: usize,
    /// What sinks hand over to be stored without a checkpoint, each with its subtask.
    pub(crate) records: Vec<(u32, Arc<[Record]>)>,
    /// What segments hold, where that may not be stored yet.
    pub(crate) blobs: BTreeMap<BlobId, Bytes>,
    /// Why there is no checkpoint of it: the store did not take some state.
    pub(crate) refused: Option<Fault>,
}

impl Round {
    /// A round that all these tasks take part in.
    pub(crate) fn new(barrier: Barrier, tasks: impl IntoIterator<Item = TaskId>) -> Self {
        let missing = tasks.into_iter().collect();
        Round {
            barrier,
            missing,
            sources: BTreeMap::new(),
            operators: BTreeMap::new(),
            outputs: Vec::new(),
            rows: 0,
            records: Vec::new(),
            blobs: BTreeMap::new(),
            refused: None,
        }
    }

    /// Takes a task's part.
    ///
    /// # Errors
    /// When the task has no part to give, which would mean that the engine is wrong.
    pub(crate) fn take(&mut self, task: TaskId, member: &Member, part: Part) -> Result {
        if !self.missing.remove(&task) {
            return Err(Fault::bug(format!("{task:?} took part in checkpoint {} twice", self.barrier.epoch)));
        }
        match part {
            Part::Position(position, rows) => {
                self.rows += rows;
                self.position(member, &position)?;
            }
            Part::State(All::Refused(fault)) => self.refused = Some(fault),
            Part::State(All::Taken(all)) => {
                for (node, snapshot) in all {
                    self.state(member, &node, snapshot);
                }
            }
            Part::Flushed => {}
            Part::Outputs(node, log, blobs) => {
                self.blobs.extend(blobs);
                self.outputs.push((node, log));
            }
            Part::Records(records) => self.records.push((member.subtask, records)),
        }
        Ok(())
    }

    pub(crate) fn position(&mut self, member: &Member, position: &Bytes) -> Result {
        let node = member.source.as_deref().unwrap_or_default();
        let position = serde_json::from_slice(position)
            .map_err(|error| Fault::bug(format!("the position of {node} is not JSON")).because(error))?;
        let position = SourcePosition { subtask: member.subtask, of: member.of, position };
        let all = self.sources.entry(node.to_owned()).or_default();
        all.push(position);
        all.sort_by_key(|position| position.subtask);
        Ok(())
    }

    fn state(&mut self, member: &Member, node: &str, snapshot: Snapshot) {
        let Snapshot { small, keyed, blobs } = snapshot;
        self.blobs.extend(blobs);
        let all = self.operators.entry(node.to_owned()).or_default();
        all.push(NodeState { subtask: member.subtask, of: member.of, small, keyed });
        all.sort_by_key(|state| state.subtask);
    }

    /// Whether the barrier has passed all tasks.
    pub(crate) fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// The tasks that it has not passed.
    pub(crate) fn missing(&self) -> impl Iterator<Item = TaskId> {
        self.missing.iter().copied()
    }
}
