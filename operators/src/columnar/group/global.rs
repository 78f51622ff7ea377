//! [`GlobalAggregate`]: rows of columns by key in one window for ever.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::SchemaRef;

use super::KeyColumns;
use super::codec::KeyBytes;
use super::early::Early;
use super::grouped::Grouped;
use super::kept::{Computed, Note};
use super::pane::Pane;
use super::results::Outcome;
use super::window::RESULTS;
use crate::columnar::rows::rejected_port;
use crate::columnar::{Clock, ExprError};
use crate::window::Emit;
use crate::{Batch, Operator, Outbox, PortType, Result, StateVisitor, Timestamp, Turn};

/// Takes all rows of a key into one window, which gives its result at the end of the input, and on the way as [`Emit`] says:
/// see [`GlobalWindowed`](crate::window::GlobalWindowed). The last result of a key is the one that counts.
///
/// ```text
/// rows                    1   2 |   |   4 |   |  the end
/// watermark                     | 5 |     | 6 |
/// OnClose                                     |  7
/// Every(4)                      | 3           |  7
/// OnChange, two batches     3           7     |  7
/// ```
///
/// Results come in the order of keys; rows of them as with [`WindowAggregate`](super::WindowAggregate), where the window is
/// from the earliest row to just behind the latest. Rows that an expression cannot be computed for go to port 1.
///
/// # State
/// What is kept of each key, for ever, by key group; what has changed is saved again.
pub struct GlobalAggregate {
    early: Early<KeyBytes>,
    grouped: Grouped,
    pane: Pane,
    now: Timestamp,
    // The keys that are left to give a result early, or at the end.
    giving: VecDeque<KeyBytes>,
    ending: bool,
}

// The notes that are kept of rows: the earliest, the latest, and how far event time had come when it changed.
const START: usize = 0;
const LATEST: usize = 1;
const CHANGED: usize = 2;

impl GlobalAggregate {
    /// The operator for rows with the columns of `input`; `clock` is what `now()` asks.
    ///
    /// # Errors
    /// Two columns of the results have one name.
    pub fn new(
        input: &SchemaRef,
        emit: Emit,
        keys: KeyColumns,
        computed: impl Into<Computed>,
        clock: Clock,
    ) -> Result<Self, ExprError> {
        let early = Early::new(emit);
        let notes = [Note::Lowest, Note::Highest, Note::Highest];
        let notes = notes.get(..if early.is_noted() { 3 } else { 2 }).unwrap_or_default();
        let grouped = Grouped::new(input, (keys, None), computed.into(), notes, clock)?;
        Ok(GlobalAggregate {
            early,
            pane: Pane::new(&grouped.codec),
            grouped,
            now: Timestamp::MIN,
            giving: VecDeque::new(),
            ending: false,
        })
    }

    /// The columns of the results.
    pub fn schema(&self) -> &SchemaRef {
        self.grouped.schema()
    }

    /// The results of some keys as they are now, given at the time of their latest rows, or at `at` if that is later.
    fn results_of(&mut self, keys: &[KeyBytes], at: Timestamp) -> Result<Outcome> {
        let together = self.grouped.of_names(&mut self.pane, keys)?;
        let ends = together.note(LATEST)?.values().iter().map(|latest| latest.saturating_add(1)).collect();
        let starts = together.note(START)?;
        self.grouped.rows(together.between(starts, ends), at)
    }

    /// Gives the results of the keys that are left.
    fn give(&mut self, at: Timestamp, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        while !self.giving.is_empty() {
            let keys: Vec<KeyBytes> = self.giving.drain(..self.giving.len().min(RESULTS)).collect();
            let results = self.results_of(&keys, at)?;
            results.send(out);
            if !self.giving.is_empty() && !out.has_room() {
                return Ok(Turn::Again);
            }
        }
        Ok(Turn::Done)
    }
}

impl Operator for GlobalAggregate {
    type In = RecordBatch;
    type Out = RecordBatch;

    fn on_batch(&mut self, batch: Batch<RecordBatch>, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        let ready = self.grouped.ready(batch, out)?;
        let (keys, rows) = (ready.keys.clone(), ready.batch.len());
        let times: Int64Array = ready.batch.times().iter().map(|time| time.as_micros()).collect();
        let mut notes = vec![times.clone(), times];
        if self.early.is_noted() {
            notes.push(Int64Array::from_value(self.now.as_micros(), rows));
        }
        let keys = self.grouped.take_all(&mut self.pane, ready, &keys, notes)?;
        if self.early.emit() != Emit::OnClose {
            let changed: BTreeSet<&[u8]> = (0..rows).map(|row| keys.get(row)).collect();
            self.giving = self.early.note(changed.into_iter().map(KeyBytes::from)).into();
        }
        self.on_more(out)
    }

    fn on_more(&mut self, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        self.give(self.now, out)
    }

    fn on_watermark(&mut self, now: Timestamp, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        if now == Timestamp::MAX {
            // What is behind would take what comes after the end of time for late.
            return self.on_end(out);
        }
        let due = self.early.at(self.now, now).unwrap_or(now);
        if let Some(changed) = self.early.due(self.now, now, |_| false) {
            self.giving = changed.into_iter().collect();
        }
        // The last moment before, as with windows that close then.
        if self.give(Timestamp::from_micros(due.as_micros().saturating_sub(1)), out)? == Turn::Again {
            return Ok(Turn::Again);
        }
        self.now = self.now.max(now);
        Ok(Turn::Done)
    }

    fn on_end(&mut self, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        if !std::mem::replace(&mut self.ending, true) {
            let keys: BTreeSet<KeyBytes> = self.pane.keys()?.into_iter().collect();
            self.giving = keys.into_iter().collect();
        }
        self.give(self.now, out)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        visit.shape(&self.grouped.shape("global", self.early.is_noted()))?;
        visit.time("now", &mut self.now)?;
        self.early.state(visit)?;
        let codec = &self.grouped.codec;
        if visit.piece("keys", &mut self.pane, || Pane::new(codec))? && self.early.is_noted() {
            for (key, at) in self.pane.noted(&self.grouped.kept, CHANGED)? {
                self.early.restore(key, at);
            }
        }
        Ok(())
    }

    fn sides(&self) -> Vec<PortType> {
        vec![rejected_port(1, self.grouped.can_reject())]
    }
}

impl fmt::Debug for GlobalAggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GlobalAggregate({:?})", self.early.emit())
    }
}
