//! [`Outputs`]: rows that a sink has taken over and that are part of a checkpoint before they are published; [`Marked`]: how
//! far they are.

use std::sync::Arc;

use crate::{Epoch, Record};

/// What a subtask of a sink took over in an epoch, as a checkpoint keeps it until it is published.
///
/// Epochs without outputs keep none: then a checkpoint has those of the last epoch that had some.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outputs {
    /// The subtask that took them over.
    pub subtask: u32,
    /// The epoch.
    pub epoch: Epoch,
    /// How many records there are.
    pub total: u64,
    /// The records, in order; none where it is known that all are published.
    pub records: Arc<[Record]>,
    /// The epoch before it that had outputs, and how many.
    pub before: Option<(Epoch, u64)>,
    /// Whether it is known that all are published.
    pub published: bool,
    /// Whether more may have been stored since, of which the sink's marker tells and no checkpoint.
    pub ahead: bool,
}

/// What the marker of a sink says when a run has taken it over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Marked {
    /// The epoch whose outputs were stored last.
    pub epoch: Epoch,
    /// How many of a log were stored then; 0 if none was written.
    pub total: u64,
    /// Where the sources stood behind these outputs, if the marker is ahead of the checkpoint.
    pub positions: Option<serde_json::Value>,
}
