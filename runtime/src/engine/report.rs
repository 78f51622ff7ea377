//! What tasks tell the coordinator, and what it tells them.

use std::sync::Arc;

use bytes::Bytes;
use millstream_operators::{Barrier, Epoch, Ledger, Marked, Outputs, Record};
use tokio::sync::mpsc;

use super::snapshots::All;
use crate::checkpoint::{BlobId, OutputLog};

/// A subtask of a node or stage, by its number in the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TaskId(pub(crate) usize);

/// What a task says.
#[derive(Debug)]
pub(crate) enum Report {
    /// A source is open at this position, and waits for checkpoint 0; or a sink is open, or what a stage had to restore is.
    Open(TaskId, Option<Bytes>),
    /// A source has read rows: the first of this run or, where it reads at a pace, behind the last barrier, and it waits for the
    /// next when they are as many as it may read.
    Read,
    /// A bounded source has given all that it has; it waits for the last barrier.
    Exhausted(TaskId),
    /// The barrier of the epoch has passed the task.
    Passed(TaskId, Epoch, Part),
    /// A sink has seen to the outputs of the checkpoint that the run started from; what its marker says, and what stores
    /// outputs and positions together, if that was asked for.
    Resumed(TaskId, Option<Marked>, Option<Box<dyn Ledger>>),
    /// A sink has stored all that the last checkpoint has of it.
    Published,
}

/// A task's part of a checkpoint.
#[derive(Debug)]
pub(crate) enum Part {
    /// A source stood here, and has read so many rows since the barrier before if it reads at a pace.
    Position(Bytes, usize),
    /// The operators of a stage held this.
    State(All),
    /// A sink has stored everything.
    Flushed,
    /// A sink of this node has stored everything before its last outputs, which are these, with the bytes of their
    /// pieces.
    Outputs(Arc<str>, OutputLog, Vec<(BlobId, Bytes)>),
    /// These are a sink's outputs since the barrier before.
    Records(Arc<[Record]>),
}

/// What the coordinator tells a source or sink.
#[derive(Debug)]
pub(crate) enum Command {
    /// Get ready to read behind this position, or from the start.
    Open(Option<Bytes>),
    /// See to the outputs of the checkpoint that the run starts from.
    Resume(Vec<Outputs>),
    /// Start reading: between two barriers so many rows at most, if a number is given.
    Go(Option<usize>),
    /// Between two barriers, read so many rows from now on.
    Pace(usize),
    /// Send this barrier.
    Barrier(Barrier),
    /// The checkpoint of this epoch is durable.
    Committed(Epoch),
}

/// A task's line to the coordinator.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) task: TaskId,
    pub(crate) reports: mpsc::Sender<Report>,
}

impl Line {
    pub(crate) async fn passed(&self, epoch: Epoch, part: Part) {
        self.tell(Report::Passed(self.task, epoch, part)).await;
    }

    pub(crate) async fn tell(&self, report: Report) {
        // Nobody listens any more when the run is being stopped.
        let _ = self.reports.send(report).await;
    }
}
