//! [`WindowAggregate`]: rows of columns in tumbling or sliding windows, by key.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::SchemaRef;

use super::codec::{KeyBytes, RowKeys};
use super::early::Early;
use super::grouped::Grouped;
use super::groups::Arriving;
use super::kept::{Computed, Note};
use super::late::refuse_late;
use super::pane::Panes;
use super::results::{Outcome, Results};
use super::{KeyColumns, late};
use crate::columnar::rows::rejected_port;
use crate::columnar::{Clock, ExprError};
use crate::window::{Emit, TimeWindows};
use crate::{Batch, Operator, Outbox, PortType, Result, StateVisitor, Timestamp, Turn};

/// Takes rows by key into windows of equal length, as [`TimeWindowed`](crate::window::TimeWindowed) does. A window gives its
/// results when the watermark reaches its end; [`Emit`] says which come early.
///
/// ```text
/// rows (tumbling, 10)    b 3   a 7   b 12 |    | b 9 |
/// watermark                               | 10 |     |  the end
/// results                                 | [0,10) of a: 7, [0,10) of b: 3     | [10,20) of b: 12
/// late                                         | b 9 |
/// ```
///
/// Rows of results have the columns of the key, `window_start`, `window_end` (timestamps, in microseconds) and what is
/// computed, or are the best of the rows. Those of a window come in the order of keys, with its last microsecond as their time.
///
/// A result that late rows changed is given again once for the batch that they came in, at the last time of its window: windows
/// behind take it for late, unless they allow for as much.
///
/// # State
/// What is kept of each key in each pane, by key group; of a pane only what has changed is saved again. It goes when the last
/// window of the pane is closed, and no lateness is allowed for it any more. What does not fit in memory goes to the spill store;
/// of a window that closes all keys are in memory, and the results of some of them at a time.
///
/// # Errors
/// Rows that an expression cannot be computed for go to port 1, and so do groups that a result cannot be computed for; rows all
/// of whose windows are closed go to port 2, `late`, which may be left open. Both are JSON text.
///
/// # Examples
/// ```
/// use std::{sync::Arc, time::Duration};
/// use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
/// use arrow::datatypes::Int64Type;
/// use millstream_operators::columnar::{Aggregates, KeyColumns, WindowAggregate};
/// use millstream_operators::{Batch, Timestamp, testkit::Bench, window::tumbling};
///
/// let (keys, numbers) = (StringArray::from(vec!["b", "a", "b"]), Int64Array::from(vec![3, 7, 12]));
/// let rows = [("key", Arc::new(keys) as ArrayRef), ("n", Arc::new(numbers))];
/// let rows = RecordBatch::try_from_iter(rows).unwrap();
/// let schema = rows.schema();
///
/// let by = KeyColumns::new(&schema, &["key".to_owned()]).unwrap();
/// let total = Aggregates::compile(&[("total".to_owned(), "sum(n)".to_owned())], &schema).unwrap();
/// let (windows, clock) = (tumbling(Duration::from_micros(10)), Arc::new(|| Timestamp::from_micros(0)));
/// let mut bench = Bench::new(WindowAggregate::new(&schema, windows, by, total, clock).unwrap());
/// bench.batch(Batch::new([3, 7, 12].map(Timestamp::from_micros).to_vec(), rows).unwrap());
/// bench.watermark(Timestamp::from_micros(10));
/// let results = bench.take_batches().remove(0);
/// let total = results.rows().column_by_name("total").unwrap();
/// assert_eq!(total.as_primitive::<Int64Type>().values(), &[7, 3]);
/// ```
pub struct WindowAggregate {
    windows: TimeWindows,
    early: Early<(i64, KeyBytes)>,
    grouped: Grouped,
    panes: Panes,
    now: Timestamp,
    closed: i64,
    // The window that closes, where not all of its keys are in memory: those of which the results are still to come, the last
    // of them first.
    closing: Option<(i64, Vec<KeyBytes>)>,
    // What is left to give.
    giving: VecDeque<Outcome>,
}

// Rows of a batch of results.
pub(super) const RESULTS: usize = 8 * 1024;

impl WindowAggregate {
    /// The operator for rows with the columns of `input`; `clock` is what `now()` asks.
    ///
    /// # Errors
    /// Two columns of the results have one name.
    pub fn new(
        input: &SchemaRef,
        windows: TimeWindows,
        keys: KeyColumns,
        computed: impl Into<Computed>,
        clock: Clock,
    ) -> Result<Self, ExprError> {
        let early = Early::new(windows.emits());
        let notes: &[Note] = if early.is_noted() { &[Note::Highest] } else { &[] };
        let grouped = Grouped::new(input, (keys, None), computed.into(), notes, clock)?;
        Ok(WindowAggregate {
            windows,
            early,
            panes: Panes::new(Arc::clone(&grouped.codec)),
            grouped,
            now: Timestamp::MIN,
            closed: i64::MIN,
            closing: None,
            giving: VecDeque::new(),
        })
    }

    /// The columns of the results.
    pub fn schema(&self) -> &SchemaRef {
        self.grouped.schema()
    }

    /// The results of the window that ends at `end`; of these keys only, if they are told.
    fn results(&mut self, end: i64, only: Option<&[KeyBytes]>) -> Result<Outcome> {
        let start = end.saturating_sub(self.windows.size());
        // A window that shares nothing with another and is gone when it has closed is the last to need its pane.
        let needed = only.is_some()
            || self.windows.gone_at(end) > Timestamp::from_micros(end)
            || self.windows.pane() != self.windows.size();
        let groups = self.panes.together(&self.grouped.kept, (start, end), only, needed)?;
        let mut given = Results::alike(groups, start, end)?;
        self.grouped.kept.take_notes(&mut given.values)?;
        self.grouped.rows(given, Timestamp::MIN)
    }

    /// The results of some keys of some windows, in order.
    fn results_of(&mut self, changed: BTreeSet<(i64, KeyBytes)>) -> Result<Vec<Outcome>> {
        let mut by_end: BTreeMap<i64, Vec<KeyBytes>> = BTreeMap::new();
        for (end, key) in changed {
            by_end.entry(end).or_default().push(key);
        }
        by_end.into_iter().map(|(end, keys)| self.results(end, Some(&keys))).collect()
    }

    fn next_end(&self) -> Option<i64> {
        let mut panes = self.panes.starts_from(self.closed.saturating_sub(self.windows.size()));
        let pane = panes.find(|pane| self.windows.last_end(*pane) > self.closed)?;
        Some(self.windows.first_end(pane, self.closed))
    }

    /// Which pane each row falls into, and the rows that are late.
    fn sorted_out(&self, times: &[Timestamp]) -> (BTreeMap<i64, Vec<u32>>, Vec<usize>) {
        let (mut of_pane, mut late) = (BTreeMap::<i64, Vec<u32>>::new(), Vec::new());
        // Rows of one pane often come together.
        let mut last: Option<(i64, Vec<u32>)> = None;
        for (row, time) in (0u32..).zip(times) {
            let Some(pane) = self.windows.pane_of(*time) else {
                // Between windows, or behind the end of time, where there is none.
                late.extend((*time == Timestamp::MAX).then_some(row as usize));
                continue;
            };
            if self.windows.gone_at(self.windows.last_end(pane)) <= self.now {
                late.push(row as usize);
                continue;
            }
            match &mut last {
                Some((open, rows)) if *open == pane => rows.push(row),
                _ => {
                    if let Some((open, mut rows)) = last.take() {
                        of_pane.entry(open).or_default().append(&mut rows);
                    }
                    last = Some((pane, of_pane.remove(&pane).unwrap_or_default()));
                    last.iter_mut().for_each(|(_, rows)| rows.push(row));
                }
            }
        }
        of_pane.extend(last);
        (of_pane, late)
    }

    /// The windows whose results are to be told again or early, with the keys that rows of a batch have changed. What is to be
    /// told later is noted.
    fn changed(&mut self, keys: &RowKeys, of_pane: &BTreeMap<i64, Vec<u32>>) -> BTreeSet<(i64, KeyBytes)> {
        let mut changed = BTreeSet::new();
        let final_until = self.now.saturating_sub(self.windows.allowed_lateness_span()).as_micros();
        for (pane, rows) in of_pane {
            let last = match self.early.emit() {
                Emit::OnClose => self.windows.last_end(*pane).min(self.now.as_micros()),
                _ => self.windows.last_end(*pane),
            };
            let mut ends = self.windows.ends(*pane, final_until, last).peekable();
            if ends.peek().is_none() {
                continue;
            }
            let of_pane: BTreeSet<&[u8]> = rows.iter().map(|row| keys.get(*row as usize)).collect();
            for end in ends {
                let each = of_pane.iter().map(|key| (end, KeyBytes::from(*key)));
                match end <= self.now.as_micros() {
                    true => changed.extend(each),
                    false => changed.extend(self.early.note(each)),
                }
            }
        }
        changed
    }

    /// Gives what is left; whether there is room for more.
    fn give(&mut self, out: &mut Outbox<'_, RecordBatch>) -> bool {
        while let Some(mut results) = self.giving.pop_front() {
            let rest = results.rows.split_off(RESULTS);
            results.send(out);
            if !rest.is_empty() {
                self.giving.push_front(Outcome { rows: rest, rejected: None });
            }
            if !out.has_room() {
                return false;
            }
        }
        true
    }
}

impl Operator for WindowAggregate {
    type In = RecordBatch;
    type Out = RecordBatch;

    fn on_batch(&mut self, batch: Batch<RecordBatch>, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        let mut ready = self.grouped.ready(batch, out)?;
        let (of_pane, late) = self.sorted_out(ready.batch.times());
        refuse_late(&ready.batch, late, self.now, out)?;
        let keys = self.grouped.codec.keys(&ready.keys)?;
        let changed = self.changed(&keys, &of_pane);
        let count = ready.batch.len();
        let notes = match self.early.is_noted() {
            true => vec![Int64Array::from_value(self.now.as_micros(), count)],
            false => Vec::new(),
        };
        let columns = self.grouped.columns(&mut ready, notes)?;
        for (pane, rows) in &of_pane {
            let arriving = Arriving { keys: &keys, rows, columns: &columns, all: rows.len() == count };
            self.panes.at(*pane).take_in(&self.grouped.kept, &arriving)?;
        }
        for results in self.results_of(changed)? {
            results.send(out);
        }
        Ok(Turn::Done)
    }

    fn on_watermark(&mut self, now: Timestamp, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        let now = now.max(self.now);
        loop {
            if !self.give(out) {
                return Ok(Turn::Again);
            }
            if let Some((end, mut keys)) = self.closing.take() {
                let mut some = keys.split_off(keys.len().saturating_sub(RESULTS));
                some.reverse();
                let results = self.results(end, Some(&some))?;
                self.giving.push_back(results);
                match keys.is_empty() {
                    true => self.closed = end,
                    false => self.closing = Some((end, keys)),
                }
                continue;
            }
            if let Some(end) = self.next_end().filter(|end| *end <= now.as_micros()) {
                if let Some(keys) = self.panes.keys_if_away((end.saturating_sub(self.windows.size()), end))? {
                    self.closing = Some((end, keys.into_iter().rev().collect()));
                    continue;
                }
                let results = self.results(end, None)?;
                self.giving.push_back(results);
                self.closed = end;
                continue;
            }
            let closed = |(end, _): &(i64, KeyBytes)| *end <= now.as_micros();
            match self.early.due(self.now, now, closed) {
                Some(changed) => self.giving = self.results_of(changed)?.into(),
                None => break,
            }
        }
        self.closed = self.closed.max(now.as_micros());
        let windows = self.windows;
        while self.panes.forget_first(|pane| windows.gone_at(windows.last_end(pane)) <= now) {}
        self.now = now;
        Ok(Turn::Done)
    }

    fn on_end(&mut self, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        self.on_watermark(Timestamp::MAX, out)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        visit.shape(&self.grouped.shape(&self.windows.grid().to_string(), self.early.is_noted()))?;
        visit.time("now", &mut self.now)?;
        self.closed = self.now.as_micros();
        self.early.state(visit)?;
        if !self.panes.state(visit)? || !self.early.is_noted() {
            return Ok(());
        }
        for start in self.panes.starts() {
            for (key, at) in self.panes.at(start).noted(&self.grouped.kept, 0)? {
                for end in self.windows.ends(start, self.now.as_micros(), self.windows.last_end(start)) {
                    self.early.restore((end, key.clone()), at);
                }
            }
        }
        Ok(())
    }

    fn sides(&self) -> Vec<PortType> {
        vec![rejected_port(1, self.grouped.can_reject()), late::port()]
    }
}

impl fmt::Debug for WindowAggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WindowAggregate({})", self.windows)
    }
}
