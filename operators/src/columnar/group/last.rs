//! [`LastAggregate`]: each row of columns with the rows of its key before it.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, ListArray, RecordBatch, StructArray, UInt32Array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{SortOptions, concat_batches, interleave_record_batch, take, take_record_batch};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use bytes::Bytes;
use datafusion_expr::EmitTo;

use super::calls::{Aggregates, failed};
use super::codec::{KeyBytes, KeyCodec};
use super::groups::truth;
use super::late::refuse_late;
use super::outputs::Outputs;
use super::results::{Outcome, no_column_twice, rejected_groups};
use super::table::Table;
use super::top::flattened;
use super::window::RESULTS;
use super::{KeyColumns, late};
use crate::columnar::rows::{compute_or_reject, rejected_port};
use crate::columnar::schema::describe_type;
use crate::columnar::{Clock, ExprError, Expression};
use crate::suggest::did_you_mean;
use crate::{Batch, Fault, Operator, Outbox, Parts, PortType, Result, StateVisitor, Timers, Timestamp, Turn};

/// Aggregates, for each row, the `rows` newest rows of its key including itself, in the order of event time: what
/// `OVER (PARTITION BY key ORDER BY time, order_by ROWS rows - 1 PRECEDING)` is in SQL. A row waits until the watermark has
/// passed it, as one before it may still come, and then gives a result:
///
/// ```text
/// rows (the last 2)   3   9   5 |                 |
/// watermark                     | 8               | 12
/// results                       | of 3   of 3, 5  | of 5, 9
/// ```
///
/// Results have the columns of the key, those of `order_by`, and what is computed; each has the time of its row. They come in
/// the order of times, then of keys, then of `order_by`; rows that are equal in all of that are in the order in which they
/// came.
///
/// # State
/// Of each key the rows that wait, and the newest that do not, for ever: the columns that results need. By key group; what has
/// changed is saved again, and what does not fit in memory goes to the spill store. A result costs as much as there are rows in
/// it.
///
/// # Errors
/// Rows that an expression cannot be computed for go to port 1, and rows that are older than the watermark to port 2, which
/// may be left open.
pub struct LastAggregate {
    rows: usize,
    keys: KeyColumns,
    order: Arc<[usize]>,
    sorter: Option<RowConverter>,
    aggregates: Aggregates,
    inputs: Vec<Expression>,
    clock: Clock,
    codec: Arc<KeyCodec>,
    schema: SchemaRef,
    /// What is held of a row: its time, what it is ordered by, and what is aggregated.
    held: SchemaRef,
    table: Table,
    /// Rows that are not in the table yet, with their keys.
    arrived: Vec<(RecordBatch, Vec<KeyBytes>)>,
    /// The keys of rows that wait, at the times of those.
    due: Timers<Bytes>,
    now: Timestamp,
    giving: VecDeque<Outcome>,
}

impl LastAggregate {
    /// The operator for rows with the columns of `input`; `clock` is what `now()` asks.
    ///
    /// # Errors
    /// A column of `order_by` is not there, or rows have no order by it; two columns of the results have one name.
    pub fn new(
        input: &SchemaRef,
        rows: usize,
        order_by: &[String],
        keys: KeyColumns,
        aggregates: Aggregates,
        clock: Clock,
    ) -> Result<Self, ExprError> {
        let order = order_by.iter().map(|column| ordered_by(input, column)).collect::<Result<Vec<usize>, _>>()?;
        let field = |place: &usize| input.field(*place).clone();
        let (key_fields, order_fields): (Vec<Field>, Vec<Field>) =
            (keys.places().iter().map(field).collect(), order.iter().map(field).collect());
        let fields = key_fields.iter().chain(&order_fields).cloned().chain(aggregates.fields()).collect::<Vec<_>>();
        no_column_twice(&fields, "the columns are those of `key_by`, of `order_by` and of `aggregate`")?;
        let inputs: Vec<Expression> = aggregates.inputs().cloned().collect();
        let time = Field::new("time", DataType::Int64, false);
        let ordering = order_fields.iter().enumerate().map(|(n, field)| field.clone().with_name(format!("order{n}")));
        let computed = inputs.iter().enumerate().map(|(n, input)| input.field(&format!("input{n}")));
        let held = ordering.chain(computed).map(|field| field.with_nullable(true).with_metadata(Default::default()));
        let held: SchemaRef = Arc::new(Schema::new([time].into_iter().chain(held).collect::<Vec<_>>()));
        let wrong = |fault: Fault| ExprError::new(fault.chain());
        let codec = Arc::new(KeyCodec::new(&key_fields, vec![list_of(&held)]).map_err(wrong)?);
        let options = SortOptions { descending: false, nulls_first: false };
        let sorted = |field: &Field| SortField::new_with_options(field.data_type().clone(), options);
        let sorter = (!order.is_empty()).then(|| RowConverter::new(order_fields.iter().map(sorted).collect()));
        let sorter = sorter.transpose().map_err(|error| ExprError::new(error.to_string()))?;
        Ok(LastAggregate {
            rows: rows.max(1),
            keys,
            order: order.into(),
            sorter,
            aggregates,
            inputs,
            clock,
            table: Table::new(Arc::clone(&codec)),
            codec,
            schema: Arc::new(Schema::new(fields)),
            held,
            arrived: Vec::new(),
            due: Timers::default(),
            now: Timestamp::MIN,
            giving: VecDeque::new(),
        })
    }

    /// The columns of the results.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Rows of some keys, in the order of keys, of times and of what they are ordered by: with the number of the key of each.
    fn in_order(&self, rows: &RecordBatch, of_key: &[usize]) -> Result<Vec<u32>> {
        let order = rows.columns().get(1..=self.order.len()).unwrap_or_default();
        let order = self.sorter.as_ref().map(|sorter| sorter.convert_columns(order)).transpose();
        let order = order.map_err(|error| Fault::bug("rows have no order").because(error))?;
        let times = times_of(rows)?;
        let mut sorted: Vec<u32> = (0..u32::try_from(of_key.len()).unwrap_or(u32::MAX)).collect();
        // A stable sort: what is equal stays in the order in which it came.
        sorted.sort_by(|a, b| {
            let (a, b) = (*a as usize, *b as usize);
            let by_time =
                of_key.get(a).cmp(&of_key.get(b)).then_with(|| times.values().get(a).cmp(&times.values().get(b)));
            by_time
                .then_with(|| order.as_ref().map_or(std::cmp::Ordering::Equal, |order| order.row(a).cmp(&order.row(b))))
        });
        Ok(sorted)
    }

    /// The rows that the table has of some keys, and the number of the key of each. They are in memory until this is asked again.
    fn held_of(&mut self, keys: &[KeyBytes]) -> Result<(RecordBatch, Vec<usize>)> {
        if self.table.has_grown() {
            self.table.let_go()?;
        }
        self.table.bring(keys.iter().map(|key| &**key))?;
        let found = keys.iter().enumerate().filter_map(|(number, key)| Some((number, self.table.find(key)?)));
        let (numbers, places): (Vec<usize>, Vec<_>) = found.unzip();
        let values = self.table.values(&places)?;
        let lists = values.first().and_then(|column| column.as_list_opt::<i32>()).and_then(flattened);
        let (of_list, items) = lists.ok_or_else(|| Fault::bug("held rows are no lists"))?;
        let of_key = of_list.iter().filter_map(|list| numbers.get(*list as usize).copied()).collect();
        let rows = RecordBatch::try_new(Arc::clone(&self.held), items.columns().to_vec()).map_err(cannot_hold)?;
        Ok((rows, of_key))
    }

    /// Holds rows of keys, which are in order, in place of those that it has of them; keys without rows are forgotten.
    fn hold(&mut self, keys: &[KeyBytes], rows: &RecordBatch, of_key: &[usize]) -> Result {
        let mut lengths = vec![0; keys.len()];
        for key in of_key {
            if let Some(length) = lengths.get_mut(*key) {
                *length += 1;
            }
        }
        let with_rows = |length: &usize| *length > 0;
        let empty: Vec<&KeyBytes> =
            keys.iter().zip(&lengths).filter(|(_, length)| **length == 0).map(|(key, _)| key).collect();
        self.table.remove(empty);
        let kept: Vec<&KeyBytes> =
            keys.iter().zip(&lengths).filter(|(_, length)| with_rows(length)).map(|(key, _)| key).collect();
        let items =
            StructArray::try_new(self.held.fields().clone(), rows.columns().to_vec(), None).map_err(cannot_hold)?;
        let offsets = OffsetBuffer::from_lengths(lengths.into_iter().filter(with_rows));
        let lists = ListArray::try_new(item_of(&self.held), offsets, Arc::new(items), None).map_err(cannot_hold)?;
        self.table.put(&kept, vec![Arc::new(lists)])
    }

    /// Puts the rows that have arrived into the table.
    fn settle(&mut self) -> Result {
        if self.arrived.is_empty() {
            return Ok(());
        }
        let (chunks, of_row): (Vec<_>, Vec<_>) = std::mem::take(&mut self.arrived).into_iter().unzip();
        let of_row = of_row.concat();
        let keys: Vec<KeyBytes> = of_row.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
        let (held, mut of_key) = self.held_of(&keys)?;
        of_key.extend(of_row.iter().filter_map(|key| keys.binary_search(key).ok()));
        let chunks: Vec<RecordBatch> = [held].into_iter().chain(chunks).collect();
        let rows = concat_batches(&self.held, &chunks).map_err(cannot_hold)?;
        let (rows, of_key) = self.sorted(&rows, &of_key)?;
        self.hold(&keys, &rows, &of_key)
    }

    fn sorted(&self, rows: &RecordBatch, of_key: &[usize]) -> Result<(RecordBatch, Vec<usize>)> {
        let order = self.in_order(rows, of_key)?;
        let of_key = order.iter().filter_map(|row| of_key.get(*row as usize).copied()).collect();
        Ok((take_record_batch(rows, &UInt32Array::from(order)).map_err(cannot_hold)?, of_key))
    }

    /// Gives the results of all rows before `now`, and keeps of them what others will need. The rows of some keys are looked at
    /// together: as many as are not too much at once.
    fn pass(&mut self, now: Timestamp) -> Result {
        let is_due = |time: i64| time < now.as_micros() || now == Timestamp::MAX;
        let upto = match now {
            Timestamp::MAX => now,
            Timestamp::MIN => return Ok(()),
            now => Timestamp::from_micros(now.as_micros() - 1),
        };
        let due = std::iter::from_fn(|| self.due.next_due(upto));
        let keys: BTreeSet<KeyBytes> = due.map(|(_, key)| KeyBytes::from(&*key)).collect();
        if keys.is_empty() {
            return Ok(());
        }
        self.settle()?;
        let keys: Vec<KeyBytes> = keys.into_iter().collect();
        let (mut left, mut most, mut parts) = (keys.as_slice(), FIRST_KEYS, Vec::new());
        while let Some((some, others)) =
            left.split_at_checked(most.min(left.len())).filter(|(some, _)| !some.is_empty())
        {
            let (rows, of_key) = self.held_of(some)?;
            most = (MOST_BYTES / (rows.get_array_memory_size() / some.len()).max(1)).clamp(1, RESULTS);
            parts.push(self.pass_some(some, &rows, &of_key, &is_due)?);
            left = others;
        }
        self.giving.extend(in_order(parts)?);
        Ok(())
    }

    /// Gives the results of the due rows among those of some keys, in the order in which they come.
    fn pass_some(
        &mut self,
        keys: &[KeyBytes],
        rows: &RecordBatch,
        of_key: &[usize],
        is_due: &impl Fn(i64) -> bool,
    ) -> Result<Vec<Outcome>> {
        let times = times_of(rows)?.clone();
        let (mut results, mut stays, mut first) = (Vec::new(), Vec::new(), 0);
        for of_key in of_key.chunk_by(|a, b| a == b) {
            let (from, upto) = (first, first + of_key.len());
            first = upto;
            let times = times.values().get(from..upto).unwrap_or_default();
            let due = times.partition_point(|time| is_due(*time));
            let passed = times.partition_point(|time| *time < self.now.as_micros()).min(due);
            results.extend(times.iter().zip(from..).take(due).skip(passed).map(|(time, row)| (*time, from, row)));
            // Those are among the rows of one that is still to come.
            stays.extend(from + due.saturating_sub(self.rows - 1)..upto);
        }
        results.sort_by_key(|(time, ..)| *time);
        let width = rows.get_array_memory_size() / rows.num_rows().max(1);
        let picks = (MOST_BYTES / width.max(1)).min(8 * RESULTS);
        let given = results.chunks((picks / self.rows).clamp(1, RESULTS));
        let given = given.map(|results| self.results(keys, rows, of_key, results)).collect::<Result<Vec<_>>>()?;
        let of_key = stays.iter().filter_map(|row| of_key.get(*row).copied()).collect::<Vec<_>>();
        let stays = UInt32Array::from_iter_values(stays.iter().filter_map(|row| u32::try_from(*row).ok()));
        let rows = take_record_batch(rows, &stays).map_err(cannot_hold)?;
        self.hold(keys, &rows, &of_key)?;
        Ok(given)
    }

    /// The results of some rows: when each is given, where the rows of its key begin, and which it is.
    fn results(
        &self,
        keys: &[KeyBytes],
        rows: &RecordBatch,
        of_key: &[usize],
        results: &[(i64, usize, usize)],
    ) -> Result<Outcome> {
        let (mut groups, mut places) = (Vec::new(), Vec::new());
        for (group, (_, first, row)) in results.iter().enumerate() {
            for place in (*first).max((row + 1).saturating_sub(self.rows))..=*row {
                groups.push(group);
                places.push(u32::try_from(place).unwrap_or(u32::MAX));
            }
        }
        let picked = take_record_batch(rows, &UInt32Array::from(places)).map_err(cannot_hold)?;
        let inputs = picked.columns().get(1 + self.order.len()..).unwrap_or_default().to_vec();
        let mut given: Vec<ArrayRef> = Vec::new();
        let calls = self.aggregates.accumulators()?.into_iter().zip(self.aggregates.arranged(inputs)?);
        for (mut accumulator, (arguments, filter)) in calls {
            let filter = filter.as_ref().and_then(truth);
            let taken = accumulator.update_batch(&arguments, &groups, filter.as_ref(), results.len());
            taken.map_err(|error| failed(&error))?;
            given.push(accumulator.evaluate(EmitTo::All).map_err(|error| failed(&error))?);
        }
        let row_of = results.iter().filter_map(|(.., row)| u32::try_from(*row).ok());
        let row_of = UInt32Array::from_iter_values(row_of);
        let order = rows.columns().iter().skip(1).take(self.order.len());
        let order = order.map(|column| take(column, &row_of, None).map_err(cannot_hold)).collect::<Result<Vec<_>>>()?;
        let keys = results.iter().filter_map(|(.., row)| keys.get(*of_key.get(*row)?));
        let columns: Vec<ArrayRef> = self.codec.columns(keys)?.into_iter().chain(order).collect();
        let times: Vec<Timestamp> = results.iter().map(|(time, ..)| Timestamp::from_micros(*time)).collect();
        let Outputs { columns: computed, good, failed: wrong } = self.aggregates.outputs(&given, (self.clock)())?;
        let Some(good) = good else {
            let rows = RecordBatch::try_new(Arc::clone(&self.schema), [columns, computed].concat());
            return Ok(Outcome { rows: Batch::new(times, rows.map_err(cannot_hold)?)?, rejected: None });
        };
        let named = self.schema.fields().iter().map(|field| field.as_ref().clone()).zip(columns.iter().cloned());
        let rejected = rejected_groups(named.chain(self.aggregates.told(&given)), &times, wrong)?;
        let columns = columns.iter().map(|column| take(column, &good, None).map_err(cannot_hold));
        let columns = columns.chain(computed.into_iter().map(Ok)).collect::<Result<Vec<_>>>()?;
        let times = good.values().iter().filter_map(|row| times.get(*row as usize).copied()).collect();
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(cannot_hold)?;
        Ok(Outcome { rows: Batch::new(times, rows)?, rejected: Some(rejected) })
    }
}

/// So many rows may have arrived before they are put into the table, where they may leave memory.
const MANY_ROWS: usize = 64 * 1024;
/// Of so many keys the rows are looked at first, and then of as many as have so many bytes.
const FIRST_KEYS: usize = 64;
const MOST_BYTES: usize = 64 << 20;

/// What parts of the keys have given, in the order of times and then of keys.
fn in_order(mut parts: Vec<Vec<Outcome>>) -> Result<Vec<Outcome>> {
    if parts.len() < 2 {
        return Ok(parts.pop().unwrap_or_default());
    }
    let (mut ordered, mut places, mut batches) = (Vec::new(), Vec::new(), Vec::new());
    for Outcome { rows, rejected } in parts.into_iter().flatten() {
        let Parts { times, rows, .. } = rows.into_parts();
        places.extend(times.into_iter().enumerate().map(|(row, time)| (time, (batches.len(), row))));
        if rejected.is_some() {
            ordered.push(Outcome { rows: Batch::new(Vec::new(), rows.slice(0, 0))?, rejected });
        }
        batches.push(rows);
    }
    places.sort_by_key(|(time, _)| *time);
    let batches: Vec<&RecordBatch> = batches.iter().collect();
    for places in places.chunks(RESULTS) {
        let (times, places): (Vec<Timestamp>, Vec<(usize, usize)>) = places.iter().copied().unzip();
        let rows = interleave_record_batch(&batches, &places).map_err(cannot_hold)?;
        ordered.push(Outcome { rows: Batch::new(times, rows)?, rejected: None });
    }
    Ok(ordered)
}

/// The place of a column that rows are ordered by.
fn ordered_by(input: &SchemaRef, column: &str) -> Result<usize, ExprError> {
    let Ok(place) = input.index_of(column) else {
        let names: Vec<&str> = input.fields().iter().map(|field| field.name().as_str()).collect();
        let error = ExprError::new(format!("there is no column `{column}`"));
        return Err(error.help(did_you_mean(column, "columns", names)));
    };
    let data_type = input.field(place).data_type();
    if data_type.is_nested() || !RowConverter::supports_fields(&[SortField::new(data_type.clone())]) {
        return Err(ExprError::new(format!("rows have no order by column `{column}`, {}", describe_type(data_type))));
    }
    Ok(place)
}

fn item_of(held: &SchemaRef) -> FieldRef {
    Arc::new(Field::new_list_field(DataType::Struct(held.fields().clone()), true))
}

fn list_of(held: &SchemaRef) -> Field {
    Field::new("rows", DataType::List(item_of(held)), true)
}

fn times_of(rows: &RecordBatch) -> Result<&Int64Array> {
    let times = rows.columns().first().and_then(|times| times.as_primitive_opt::<Int64Type>());
    times.ok_or_else(|| Fault::bug("held rows have no times"))
}

fn cannot_hold(error: ArrowError) -> Fault {
    Fault::bug("rows cannot be held").because(error)
}

impl Operator for LastAggregate {
    type In = RecordBatch;
    type Out = RecordBatch;

    fn on_batch(&mut self, batch: Batch<RecordBatch>, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        let (batch, computed) = compute_or_reject(&self.inputs, batch, (self.clock)(), out, 1)?;
        let is_late = |time: &Timestamp| *time < self.now;
        let late = batch.times().iter().enumerate().filter(|(_, time)| is_late(time)).map(|(row, _)| row).collect();
        refuse_late(&batch, late, self.now, out)?;
        let stay = (0u32..).zip(batch.times()).filter(|(_, time)| !is_late(time)).map(|(row, _)| row);
        let stay = UInt32Array::from_iter_values(stay);
        if stay.is_empty() {
            return Ok(Turn::Done);
        }
        let columns = batch.rows().columns();
        let column = |place: &usize| columns.get(*place).cloned();
        let key_columns: Vec<ArrayRef> = self.keys.places().iter().filter_map(column).collect();
        let keys = self.codec.keys(&key_columns)?;
        let times: ArrayRef = Arc::new(batch.times().iter().map(|time| time.as_micros()).collect::<Int64Array>());
        let held = [times].into_iter().chain(self.order.iter().filter_map(column)).chain(computed).collect();
        let held = RecordBatch::try_new(Arc::clone(&self.held), held).map_err(cannot_hold)?;
        let held = take_record_batch(&held, &stay).map_err(cannot_hold)?;
        let keys: Vec<KeyBytes> = stay.values().iter().map(|row| keys.get(*row as usize).into()).collect();
        for (key, time) in keys.iter().zip(times_of(&held)?.values()) {
            self.due.set(Timestamp::from_micros(*time), Bytes::copy_from_slice(key));
        }
        self.arrived.push((held, keys));
        if self.arrived.iter().map(|(_, keys)| keys.len()).sum::<usize>() >= MANY_ROWS {
            self.settle()?;
        }
        Ok(Turn::Done)
    }

    fn on_watermark(&mut self, now: Timestamp, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        let now = now.max(self.now);
        self.pass(now)?;
        while let Some(results) = self.giving.pop_front() {
            results.send(out);
            if !self.giving.is_empty() && !out.has_room() {
                return Ok(Turn::Again);
            }
        }
        self.now = now;
        Ok(Turn::Done)
    }

    fn on_end(&mut self, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        self.on_watermark(Timestamp::MAX, out)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        let names: Vec<&str> = self.schema.fields().iter().map(|field| field.name().as_str()).collect();
        let (keys, rest) = names.split_at_checked(self.keys.places().len()).unwrap_or_default();
        let order = rest.get(..self.order.len()).unwrap_or_default().join(", ");
        let (rows, keys, words) = (self.rows, keys.join(", "), self.aggregates.words());
        visit.shape(&format!("the last {rows} rows of {keys} by {order}: {words}"))?;
        visit.time("now", &mut self.now)?;
        self.settle()?;
        let codec = &self.codec;
        let is_restored = visit.piece("held", &mut self.table, || Table::new(Arc::clone(codec)))?;
        visit.fit_timers(&mut self.due);
        if !is_restored {
            return Ok(());
        }
        // Some at a time: they may be more than fit in memory.
        for keys in self.table.all_keys().chunks(FIRST_KEYS) {
            let (rows, of_key) = self.held_of(keys)?;
            for (key, time) in
                of_key.iter().zip(times_of(&rows)?.values()).filter(|(_, time)| **time >= self.now.as_micros())
            {
                if let Some(key) = keys.get(*key) {
                    self.due.set(Timestamp::from_micros(*time), Bytes::copy_from_slice(key));
                }
            }
        }
        Ok(())
    }

    fn sides(&self) -> Vec<PortType> {
        vec![rejected_port(1, self.aggregates.can_fail()), late::port()]
    }
}

impl fmt::Debug for LastAggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LastAggregate(the last {} rows)", self.rows)
    }
}
