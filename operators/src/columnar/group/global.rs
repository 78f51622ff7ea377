//! [`GlobalAggregate`]: rows of columns by key in one window for ever.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::SchemaRef;

use super::KeyColumns;
use super::codec::{KeyBytes, RowKeys};
use super::early::Early;
use super::grouped::Grouped;
use super::groups::Arriving;
use super::kept::{Arranged, Computed, Note};
use super::pane::Pane;
use super::results::{Given, Outcome};
use super::rounds::{Round, places, rounds};
use super::window::RESULTS;
use crate::columnar::rows::rejected_port;
use crate::columnar::{Clock, ExprError};
use crate::window::{Emit, GlobalWindows};
use crate::{Batch, Operator, Outbox, PortType, Result, StateVisitor, Timestamp, Turn};

/// Takes all rows of a key into one window, which gives its result at the end of the input, and on the way as [`Emit`] and
/// [`every`](GlobalWindows::every) say: see [`GlobalWindowed`](crate::window::GlobalWindowed). The last result of a key is the
/// one that counts.
///
/// ```text
/// rows                    1   2 |   |   4 |   |  the end
/// watermark                     | 5 |     | 6 |
/// OnClose                                     |  7
/// Every(4)                      | 3           |  7
/// OnChange, two batches     3           7     |  7
/// every(2)                    3               |  7
/// ```
///
/// Results come in the order of keys, those with every so many rows in the order of the rows that they come with, each computed of
/// all that is kept of its key; rows of them as with [`WindowAggregate`](super::WindowAggregate), where the window is from the
/// earliest row to just behind the latest. Rows that an expression cannot be computed for go to port 1.
///
/// # State
/// What is kept of each key, for ever, by key group; what has changed is saved again.
pub struct GlobalAggregate {
    every: Option<i64>,
    early: Early<KeyBytes>,
    grouped: Grouped,
    pane: Pane,
    now: Timestamp,
    // The rows that are left to take in, where keys give a result with every so many.
    left: Option<Left>,
    // The keys that are left to give a result early, or at the end.
    giving: VecDeque<KeyBytes>,
    ending: bool,
}

/// Rows that are left to take in.
struct Left {
    keys: RowKeys,
    columns: Arranged,
    /// Which row of its key each is.
    places: Vec<i64>,
    next: usize,
    /// So many are taken in at once.
    most: usize,
}

/// So many rows of a batch are taken in first, as nobody knows how heavy their results are; then so many that these have about so
/// many bytes.
const FEW: usize = 8;
const HEAVY: usize = 8 << 20;

// The notes that are kept of rows: the earliest, the latest; then, where results come at an interval, how far event time had come
// when it changed, and last, where they come with every so many rows, how many there are.
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
        windows: GlobalWindows,
        keys: KeyColumns,
        computed: impl Into<Computed>,
        clock: Clock,
    ) -> Result<Self, ExprError> {
        let early = Early::new(windows.emit);
        let every = windows.every.map(|rows| i64::try_from(rows).unwrap_or(i64::MAX).max(1));
        let mut notes = vec![Note::Lowest, Note::Highest];
        notes.extend(early.is_noted().then_some(Note::Highest));
        notes.extend(every.map(|_| Note::Highest));
        let grouped = Grouped::new(input, (keys, None), computed.into(), &notes, clock)?;
        Ok(GlobalAggregate {
            every,
            early,
            pane: Pane::new(&grouped.codec),
            grouped,
            now: Timestamp::MIN,
            left: None,
            giving: VecDeque::new(),
            ending: false,
        })
    }

    /// The columns of the results.
    pub fn schema(&self) -> &SchemaRef {
        self.grouped.schema()
    }

    /// What some keys have now.
    fn given_of(&mut self, keys: &[KeyBytes]) -> Result<Given> {
        let together = self.grouped.of_names(&mut self.pane, keys)?;
        let ends = together.note(LATEST)?.values().iter().map(|latest| latest.saturating_add(1)).collect();
        let starts = together.note(START)?;
        Ok(together.between(starts, ends))
    }

    /// The results of some keys as they are now, given at the time of their latest rows, or at `at` if that is later.
    fn results_of(&mut self, keys: &[KeyBytes], at: Timestamp) -> Result<Outcome> {
        let given = self.given_of(keys)?;
        self.grouped.rows(given, at)
    }

    /// Takes in some of the rows that are left, of each key as far as its next result at a time, and gives these.
    fn take_in_some(&mut self, left: &mut Left, every: i64, out: &mut Outbox<'_, RecordBatch>) -> Result {
        let Left { keys, columns, places, next, most } = left;
        let rows = *next..places.len().min(*next + *most);
        *next = rows.end;
        let (mut given, mut weight) = (Vec::new(), 1);
        for Round { rows, full } in rounds(keys, rows.clone(), places, every) {
            self.pane.take_in(&self.grouped.kept, &Arriving { keys, rows: &rows, columns, all: false })?;
            if !full.is_empty() {
                let numbers = full.into_iter().map(|row| (KeyBytes::from(keys.get(row as usize)), row));
                let numbers: BTreeMap<KeyBytes, u32> = numbers.collect();
                let full: Vec<KeyBytes> = numbers.keys().cloned().collect();
                let full = self.given_of(&full)?;
                weight += full.values.iter().map(|column| column.get_array_memory_size()).sum::<usize>();
                given.push((full, numbers));
            }
        }
        *most = (rows.len().saturating_mul(HEAVY) / weight).clamp(1, (4 * *most).min(RESULTS));
        if let Some(given) = Given::together(given)? {
            self.grouped.rows(given, self.now)?.send(out);
        }
        Ok(())
    }

    /// These rows have changed their keys.
    fn note(&mut self, keys: &RowKeys, rows: usize) {
        if self.early.emit() != Emit::OnClose {
            let changed: BTreeSet<&[u8]> = (0..rows).map(|row| keys.get(row)).collect();
            self.giving = self.early.note(changed.into_iter().map(KeyBytes::from)).into();
        }
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
        let mut ready = self.grouped.ready(batch, out)?;
        let rows = ready.batch.len();
        let times: Int64Array = ready.batch.times().iter().map(|time| time.as_micros()).collect();
        let mut notes = vec![times.clone(), times];
        if self.early.is_noted() {
            notes.push(Int64Array::from_value(self.now.as_micros(), rows));
        }
        let Some(_) = self.every else {
            let keys = ready.keys.clone();
            let keys = self.grouped.take_all(&mut self.pane, ready, &keys, notes)?;
            self.note(&keys, rows);
            return self.give(self.now, out);
        };
        let keys = self.grouped.codec.keys(&ready.keys)?;
        let distinct: BTreeSet<&[u8]> = (0..rows).map(|row| keys.get(row)).collect();
        let before = self.pane.noted_of(&self.grouped.kept, &distinct, notes.len())?;
        let places = places(&keys, rows, before);
        notes.push(places.clone().into());
        let columns = self.grouped.columns(&mut ready, notes)?;
        self.left = Some(Left { keys, columns, places, next: 0, most: FEW });
        self.on_more(out)
    }

    fn on_more(&mut self, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        while let Some((mut left, every)) = self.left.take().zip(self.every) {
            self.take_in_some(&mut left, every, out)?;
            if left.next >= left.places.len() {
                self.note(&left.keys, left.places.len());
                break;
            }
            self.left = Some(left);
            if !out.has_room() {
                return Ok(Turn::Again);
            }
        }
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
        let words = if self.every.is_some() { "global, with every so many rows" } else { "global" };
        visit.shape(&self.grouped.shape(words, self.early.is_noted()))?;
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
        write!(f, "GlobalAggregate({:?}, every {:?})", self.early.emit(), self.every)
    }
}
