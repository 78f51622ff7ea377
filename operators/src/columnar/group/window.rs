//! [`WindowAggregate`]: rows of columns aggregated by key in tumbling or sliding windows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Field, Schema, SchemaRef};

use super::codec::{KeyBytes, RowKeys};
use super::pane::Panes;
use super::{Aggregates, KeyColumns};
use crate::columnar::rows::{compute_or_reject, rejected_port, rejected_rows};
use crate::columnar::schema::{UTC, timestamp};
use crate::columnar::{Clock, ExprError, Expression};
use crate::window::TimeWindows;
use crate::{
    Batch, Cause, Code, Fault, Operator, Outbox, PortType, Rejected, Result, Side, StateVisitor, Timestamp, Turn,
};

/// Aggregates rows by key in windows of equal length: see [`TimeWindowed`](crate::window::TimeWindowed) for when results
/// come. Rows of results have the columns of the key, `window_start`, `window_end` and what is computed, in the order of
/// keys. Rows that an expression cannot be computed for go to port 1; rows that are late to port 2, which may be left open.
///
/// A result that late rows changed is given again once for the batch that they came in.
pub struct WindowAggregate {
    windows: TimeWindows,
    keys: KeyColumns,
    inputs: Vec<Expression>,
    clock: Clock,
    panes: Panes,
    schema: SchemaRef,
    now: Timestamp,
    closed: i64,
    // What the window that is closing has left to give.
    closing: Option<Batch<RecordBatch>>,
}

/// Where a window begins and ends, among the columns of its results.
const WINDOW_COLUMNS: [&str; 2] = ["window_start", "window_end"];

// Rows of a batch of results.
const RESULTS: usize = 8 * 1024;

impl WindowAggregate {
    /// The operator for rows with the columns of `input`; `clock` is what `now()` asks.
    ///
    /// # Errors
    /// Two columns of the results have one name.
    pub fn new(
        input: &SchemaRef,
        windows: TimeWindows,
        keys: KeyColumns,
        aggregates: Aggregates,
        clock: Clock,
    ) -> Result<Self, ExprError> {
        let key_fields: Vec<Field> = keys.places().iter().map(|place| input.field(*place).clone()).collect();
        let window = WINDOW_COLUMNS.map(|name| Field::new(name, timestamp(), false));
        let fields: Vec<Field> = key_fields.iter().cloned().chain(window).chain(aggregates.fields()).collect();
        let mut names = BTreeSet::new();
        if let Some(twice) = fields.iter().find(|field| !names.insert(field.name().clone())) {
            let help = "the columns are those of `key_by`, `window_start`, `window_end` and those of `aggregate`";
            let what = format!("the results would have two columns `{}`", twice.name());
            return Err(ExprError::new(what).help(help.to_owned()));
        }
        let inputs = aggregates.inputs().cloned().collect();
        let panes = Panes::new(aggregates, &key_fields).map_err(|fault| ExprError::new(fault.chain()))?;
        let schema = Arc::new(Schema::new(fields));
        let (now, closed) = (Timestamp::MIN, i64::MIN);
        Ok(WindowAggregate { windows, keys, inputs, clock, panes, schema, now, closed, closing: None })
    }

    /// The columns of the results.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn key_columns(&self, rows: &RecordBatch) -> Vec<ArrayRef> {
        self.keys.places().iter().filter_map(|place| rows.columns().get(*place).cloned()).collect()
    }

    /// The results of the window that ends at `end`; of these keys only, if they are told.
    fn results(&mut self, end: i64, only: Option<&BTreeSet<KeyBytes>>) -> Result<Batch<RecordBatch>> {
        let start = end.saturating_sub(self.windows.size());
        // A window that shares nothing with another and is gone when it has closed is the last to need its pane.
        let needed = only.is_some()
            || self.windows.gone_at(end) > Timestamp::from_micros(end)
            || self.windows.pane() != self.windows.size();
        let (keys, given) = self.panes.results(start, end, needed)?;
        let rows = keys.len();
        let time = |micros: i64| -> ArrayRef {
            Arc::new(TimestampMicrosecondArray::from_value(micros, rows).with_timezone(UTC))
        };
        let (mut columns, outputs) = self.panes.outputs(&keys, given, (self.clock)())?;
        columns.extend([time(start), time(end)]);
        columns.extend(outputs);
        let wrong = |error| Fault::bug("the results of a window do not fit together").because(error);
        let mut results = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(wrong)?;
        if let Some(only) = only {
            let mask: BooleanArray = keys.iter().map(|key| Some(only.contains(key))).collect();
            results = filter_record_batch(&results, &mask).map_err(wrong)?;
        }
        Ok(Batch::at(Timestamp::from_micros(end.saturating_sub(1)), results))
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
            let Some(pane) = self.windows.pane_of(*time) else { continue };
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

    /// The closed windows that rows of a batch have changed, by their ends, and for which keys.
    fn changed(&self, keys: &RowKeys, of_pane: &BTreeMap<i64, Vec<u32>>) -> BTreeMap<i64, BTreeSet<KeyBytes>> {
        let mut changed: BTreeMap<i64, BTreeSet<KeyBytes>> = BTreeMap::new();
        let final_until = self.now.saturating_sub(self.windows.allowed_lateness_span()).as_micros();
        for (pane, rows) in of_pane {
            let mut end = self.windows.first_end(*pane, final_until);
            while end <= self.now.as_micros() && end <= self.windows.last_end(*pane) {
                let of_window = changed.entry(end).or_default();
                of_window.extend(rows.iter().map(|row| KeyBytes::from(keys.get(*row as usize))));
                end = self.windows.first_end(*pane, end);
            }
        }
        changed
    }
}

impl Operator for WindowAggregate {
    type In = RecordBatch;
    type Out = RecordBatch;

    fn on_batch(&mut self, batch: Batch<RecordBatch>, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        let (batch, columns) = compute_or_reject(&self.inputs, batch, (self.clock)(), out, 1)?;
        let (of_pane, late) = self.sorted_out(batch.times());
        if !late.is_empty() {
            let now = self.now;
            let cause = |row: usize| {
                let behind = batch.times().get(row).map_or_else(Default::default, |time| now.since(*time));
                let words = format!("it is late: {behind:?} behind the watermark, and its windows are closed");
                (row, Cause::new(Code::Late, words))
            };
            let late = late.into_iter().map(cause);
            out.send_port(2, rejected_rows(batch.rows(), batch.times(), batch.origins(), late)?);
        }
        let keys = self.panes.keys(&self.key_columns(batch.rows()))?;
        let changed = self.changed(&keys, &of_pane);
        self.panes.take_in(&keys, &of_pane, columns, batch.len())?;
        for (end, keys) in changed {
            let results = self.results(end, Some(&keys))?;
            out.send(results);
        }
        Ok(Turn::Done)
    }

    fn on_watermark(&mut self, now: Timestamp, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        let now = now.max(self.now);
        loop {
            while let Some(mut results) = self.closing.take() {
                let rest = results.split_off(RESULTS);
                out.send(results);
                self.closing = (!rest.is_empty()).then_some(rest);
                if !out.has_room() {
                    return Ok(Turn::Again);
                }
            }
            let Some(end) = self.next_end().filter(|end| *end <= now.as_micros()) else { break };
            self.closing = Some(self.results(end, None)?);
            self.closed = end;
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
        visit.time("now", &mut self.now)?;
        self.closed = self.now.as_micros();
        let panes = &mut self.panes;
        let restored = visit.pane_groups("panes", panes.starts(), |pane| panes.freeze(pane))?;
        restored.map_or(Ok(()), |restored| self.panes.restore(restored))
    }

    fn sides(&self) -> Vec<PortType> {
        let can_fail = self.inputs.iter().any(Expression::can_fail);
        let late = Side::<Rejected<bytes::Bytes>>::rejected(2).port_type().named("late").optional();
        vec![rejected_port(1, can_fail), late]
    }
}

impl fmt::Debug for WindowAggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WindowAggregate({})", self.windows)
    }
}
