//! [`Ledger`]: stores the outputs of a micro-batch and where the sources stood behind it in one step.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::{Epoch, Record, Result};

/// What becomes of a ledger that is being written: it comes back when that is done.
pub type Written = Pin<Box<dyn Future<Output = Result<(Box<dyn Ledger>, Outcome)>> + Send>>;

/// What came of a step that a ledger was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// Nothing is stored: it was more than one step takes, as [`most`](Ledger::most) says from now on.
    TooLarge,
}

/// Where a pipeline without state keeps its positions: beside its outputs, in the stream of its only sink.
///
/// ```text
/// epochs:   1   2   3 | 4   5        each what the sources gave between two barriers
/// stored: [positions of 3, outputs of 1..3]   then   [positions of 5, outputs of 4 and 5]
/// ```
///
/// # What the engine promises
/// - It is written by one call at a time: each takes it, and what it gives is used for the next.
/// - Epochs go up; outputs come in order, all of an epoch at once.
///
/// # What the ledger promises
/// - Positions and outputs are stored together or not at all, and only as long as no other run has taken over.
/// - When a future ends well, they are stored, unless it says that they are [too large](Outcome::TooLarge). Whether they are
///   when it fails, the next run finds out.
pub trait Ledger: Send {
    /// Stores `outputs`, and that with them everything up to `epoch` is stored, behind which the sources stood there.
    fn store(self: Box<Self>, epoch: Epoch, positions: Value, outputs: Vec<Arc<[Record]>>) -> Written;

    /// Stores the outputs of an epoch that are too many for one step. A durable checkpoint has them, with the positions.
    fn publish(self: Box<Self>, epoch: Epoch, outputs: Arc<[Record]>) -> Written;

    /// Looks whether no other run has taken over, and sees to it that what it has stored last stays.
    fn look(self: Box<Self>) -> Written;

    /// In how long it is to look again at the latest, if nothing is stored before; `None` if that may take as long as it likes.
    fn look_within(&self) -> Option<Duration> {
        None
    }

    /// How many records, and how many bytes of them, are stored in one step at most, as far as is known; one of any size is.
    fn most(&self) -> (usize, usize);
}

impl fmt::Debug for dyn Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ledger")
    }
}
