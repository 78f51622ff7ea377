//! [`CountAggregate`]: rows of columns by key in windows of so many rows.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use foldhash::fast::FixedState;

use super::KeyColumns;
use super::codec::{KeyBytes, RowKeys, with_number, without_number};
use super::grouped::Grouped;
use super::kept::{Computed, Note};
use super::pane::Pane;
use super::results::Outcome;
use super::window::RESULTS;
use crate::columnar::rows::rejected_port;
use crate::columnar::{Clock, ExprError};
use crate::{Batch, Operator, Outbox, PortType, Result, StateVisitor, Timestamp, Turn};

/// Takes rows by key into windows of so many rows, in the order in which they come; at the end of the input the last window of
/// each key gives what it has: see [`CountWindowed`](crate::window::CountWindowed).
///
/// ```text
/// rows (2 rows each)   1   2   3 |  the end
/// results                  3     |  3
/// ```
///
/// A window is from its earliest row to just behind its latest; its result is given at the time of that, or at that of the
/// watermark if that is later, so that it is not late for windows behind. Results come in the order in which windows become full, those
/// at the end in the order of keys; rows of them as with [`WindowAggregate`](super::WindowAggregate). Rows that an expression
/// cannot be computed for go to port 1, and none is late.
///
/// # State
/// What is kept of each key until its window is full, by key group; what has changed is saved again. What does not fit in memory
/// goes to the spill store, but for the keys and how many rows each has.
pub struct CountAggregate {
    rows: i64,
    grouped: Grouped,
    /// Of each key with an open window, the number of that and how many rows it has.
    open: HashMap<KeyBytes, (i64, i64), FixedState>,
    pane: Pane,
    now: Timestamp,
    // What is left to give at the end.
    ending: Option<VecDeque<KeyBytes>>,
}

// The notes that are kept of rows: where a window begins and ends, and how many rows it has.
const START: usize = 0;
const END: usize = 1;
const ROWS: usize = 2;

impl CountAggregate {
    /// The operator for rows with the columns of `input`; `clock` is what `now()` asks.
    ///
    /// # Errors
    /// Two columns of the results have one name.
    pub fn new(
        input: &SchemaRef,
        rows: u64,
        keys: KeyColumns,
        computed: impl Into<Computed>,
        clock: Clock,
    ) -> Result<Self, ExprError> {
        let notes = [Note::Lowest, Note::Highest, Note::Highest];
        let grouped = Grouped::new(input, (keys, Some("number")), computed.into(), &notes, clock)?;
        Ok(CountAggregate {
            rows: i64::try_from(rows).unwrap_or(i64::MAX).max(1),
            open: HashMap::with_hasher(FixedState::with_seed(0)),
            pane: Pane::new(&grouped.codec),
            grouped,
            now: Timestamp::MIN,
            ending: None,
        })
    }

    /// The columns of the results.
    pub fn schema(&self) -> &SchemaRef {
        self.grouped.schema()
    }

    /// Of each row the number of its window and which row of that it is; and the windows that are full then, in that order.
    fn counted(&mut self, keys: &RowKeys, rows: usize) -> (Int64Array, Int64Array, Vec<KeyBytes>) {
        let (mut numbers, mut places, mut full) = (Vec::with_capacity(rows), Vec::with_capacity(rows), Vec::new());
        for row in 0..rows {
            let key = keys.get(row);
            let open = match self.open.get_mut(key) {
                Some(open) => open,
                None => self.open.entry(key.into()).or_default(),
            };
            open.1 += 1;
            numbers.push(open.0);
            places.push(open.1);
            // More where the pipeline asks for fewer than before.
            if open.1 >= self.rows {
                full.push(with_number(key, open.0));
                *open = (open.0.wrapping_add(1), 0);
            }
        }
        for name in &full {
            // A key without an open window is not held; its windows are numbered from the beginning then.
            let key = without_number(name).0;
            if self.open.get(key).is_some_and(|(_, rows)| *rows == 0) {
                self.open.remove(key);
            }
        }
        (numbers.into(), places.into(), full)
    }

    /// The results of some windows, in their order.
    fn results_of(&mut self, names: &[KeyBytes]) -> Result<Outcome> {
        let together = self.grouped.of_names(&mut self.pane, names)?;
        let (starts, ends) = (together.note(START)?, together.note(END)?);
        let place: BTreeMap<&KeyBytes, usize> = names.iter().zip(0..).collect();
        let given = together.between(starts, ends).ordered(|key, _| place.get(key).copied())?;
        self.grouped.rows(given, self.now)
    }
}

impl Operator for CountAggregate {
    type In = RecordBatch;
    type Out = RecordBatch;

    fn on_batch(&mut self, batch: Batch<RecordBatch>, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        let ready = self.grouped.ready(batch, out)?;
        let keys = self.grouped.results.key_bytes(&ready.keys)?;
        let (numbers, places, full) = self.counted(&keys, ready.batch.len());
        let names: Vec<ArrayRef> = ready.keys.iter().cloned().chain([Arc::new(numbers) as ArrayRef]).collect();
        let times: Int64Array = ready.batch.times().iter().map(|time| time.as_micros()).collect();
        let ends = times.values().iter().map(|time| time.saturating_add(1)).collect();
        self.grouped.take_all(&mut self.pane, ready, &names, vec![times, ends, places])?;
        if !full.is_empty() {
            let results = self.results_of(&full)?;
            results.send(out);
            self.pane.remove(&full)?;
        }
        Ok(Turn::Done)
    }

    fn on_watermark(&mut self, now: Timestamp, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        // What is behind would take what comes after the end of time for late.
        if now == Timestamp::MAX {
            return self.on_end(out);
        }
        self.now = self.now.max(now);
        Ok(Turn::Done)
    }

    fn on_end(&mut self, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        if self.ending.is_none() {
            let mut names: Vec<KeyBytes> = self.pane.keys()?;
            names.sort_unstable();
            self.ending = Some(names.into());
        }
        while let Some(ending) = self.ending.as_mut().filter(|ending| !ending.is_empty()) {
            let names: Vec<KeyBytes> = ending.drain(..ending.len().min(RESULTS)).collect();
            let results = self.results_of(&names)?;
            results.send(out);
            self.pane.remove(&names)?;
            for name in &names {
                self.open.remove(without_number(name).0);
            }
            if !out.has_room() {
                return Ok(Turn::Again);
            }
        }
        Ok(Turn::Done)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        visit.shape(&self.grouped.shape("so many rows each", false))?;
        visit.time("now", &mut self.now)?;
        let codec = &self.grouped.codec;
        if !visit.piece("windows", &mut self.pane, || Pane::new(codec))? {
            return Ok(());
        }
        self.open.clear();
        for (name, rows) in self.pane.noted(&self.grouped.kept, ROWS)? {
            let (key, number) = without_number(&name);
            self.open.insert(key.into(), (number, rows.as_micros()));
        }
        Ok(())
    }

    fn sides(&self) -> Vec<PortType> {
        vec![rejected_port(1, self.grouped.can_reject())]
    }
}

impl fmt::Debug for CountAggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CountAggregate({} rows each, {} open)", self.rows, self.open.len())
    }
}
