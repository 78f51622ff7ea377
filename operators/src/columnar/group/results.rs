//! [`Results`]: the rows that windows give.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::{concat, take};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;

use super::KeyColumns;
use super::codec::{KeyBytes, KeyCodec, RowKeys};
use super::groups::Groups;
use super::kept::{Computed, Kept, Rows};
use crate::columnar::ExprError;
use crate::columnar::rows::{RejectedRows, rejected_rows};
use crate::columnar::schema::{UTC, timestamp};
use crate::{Batch, Cause, Fault, Outbox, Result, Timestamp};

/// Where a window begins and ends, among the columns of its results.
const WINDOW: [&str; 2] = ["window_start", "window_end"];

/// How the results of windows become rows. What is computed stands behind the columns of the key, `window_start` and
/// `window_end`; rows that stay rows keep their columns, and those two stand behind, unless there are some of these names.
pub(super) struct Results {
    schema: SchemaRef,
    keys: Vec<Field>,
    codec: KeyCodec,
    are_rows: bool,
    /// Which of the two columns of the window are there.
    window: [bool; 2],
}

/// What a window of a key gives: its keys in order, what was computed of them, and where the window of each begins and ends.
pub(super) struct Given {
    pub(super) keys: Vec<KeyBytes>,
    pub(super) values: Vec<ArrayRef>,
    pub(super) bounds: Bounds,
}

/// Where windows begin and end.
pub(super) enum Bounds {
    /// All of them alike.
    Same(i64, i64),
    /// Each for itself.
    Each(Int64Array, Int64Array),
}

impl Given {
    /// The same in the order of their ends, then of keys.
    pub(super) fn by_end(self) -> Result<Given> {
        self.ordered(|_, end| end)
    }

    /// The same in the order of what `by` makes of keys and ends, then of keys.
    pub(super) fn ordered<O: Ord>(self, by: impl Fn(&KeyBytes, i64) -> O) -> Result<Given> {
        let Given { keys, values, bounds: Bounds::Each(starts, ends) } = self else { return Ok(self) };
        let order = keys.iter().zip(ends.values()).zip(0..);
        let mut order: Vec<(O, u32)> = order.map(|((key, end), row)| (by(key, *end), row)).collect();
        order.sort_unstable();
        let given = Given { keys, values, bounds: Bounds::Each(starts, ends) };
        given.picked(&order.into_iter().map(|(_, row)| row).collect())
    }

    /// Several as one, in the order of the numbers that the keys of each have.
    pub(super) fn together(all: Vec<(Given, BTreeMap<KeyBytes, u32>)>) -> Result<Option<Given>> {
        let (mut keys, mut order, mut columns) = (Vec::new(), Vec::new(), Vec::<Vec<ArrayRef>>::new());
        for (given, numbers) in all {
            let Bounds::Each(starts, ends) = given.bounds else { continue };
            order.extend(given.keys.iter().map(|key| numbers.get(key).copied()));
            keys.extend(given.keys);
            columns.push(
                [starts, ends].map(|bound| Arc::new(bound) as ArrayRef).into_iter().chain(given.values).collect(),
            );
        }
        let Some(first) = columns.first() else { return Ok(None) };
        let of_column = |n: usize| {
            let pieces: Vec<&dyn Array> = columns.iter().filter_map(|of| of.get(n).map(AsRef::as_ref)).collect();
            concat(&pieces).map_err(wrong)
        };
        let mut values = (0..first.len()).map(of_column).collect::<Result<Vec<_>>>()?;
        let bounds: Vec<ArrayRef> = values.drain(..2).collect();
        let [starts, ends] = bounds.as_slice() else { return Err(Fault::bug("a window has no bounds")) };
        let bounds = Bounds::Each(starts.as_primitive().clone(), ends.as_primitive().clone());
        let mut rows: Vec<u32> = (0..u32::try_from(keys.len()).unwrap_or(u32::MAX)).collect();
        rows.sort_by_key(|row| order.get(*row as usize).copied().flatten());
        Given { keys, values, bounds }.picked(&rows.into()).map(Some)
    }

    /// Some of them, in this order.
    fn picked(self, rows: &UInt32Array) -> Result<Given> {
        let Given { keys, values, bounds } = self;
        let picked = |column: &dyn Array| take(column, rows, None).map_err(wrong);
        let values = values.iter().map(|column| picked(column)).collect::<Result<_>>()?;
        let bounds = match bounds {
            Bounds::Same(start, end) => Bounds::Same(start, end),
            Bounds::Each(starts, ends) => {
                Bounds::Each(picked(&starts)?.as_primitive().clone(), picked(&ends)?.as_primitive().clone())
            }
        };
        let keys = rows.values().iter().filter_map(|row| keys.get(*row as usize).cloned()).collect();
        Ok(Given { keys, values, bounds })
    }
}

/// That no two columns have one name, or what they are.
pub(super) fn no_column_twice(fields: &[Field], help: &str) -> Result<(), ExprError> {
    let mut names = BTreeSet::new();
    match fields.iter().find(|field| !names.insert(field.name().as_str())) {
        Some(twice) => {
            let what = format!("the results would have two columns `{}`", twice.name());
            Err(ExprError::new(what).help(help.to_owned()))
        }
        None => Ok(()),
    }
}

impl Results {
    pub(super) fn new(input: &SchemaRef, keys: &KeyColumns, computed: &Computed) -> Result<Self, ExprError> {
        let keys: Vec<Field> = keys.places().iter().map(|place| input.field(*place).clone()).collect();
        let window = WINDOW.map(|name| Field::new(name, timestamp(), false));
        let (fields, are_rows, window) = match computed {
            Computed::Aggregates(aggregates) => {
                let fields = keys.iter().cloned().chain(window).chain(aggregates.fields()).collect::<Vec<_>>();
                (fields, false, [true; 2])
            }
            Computed::Top(top) => {
                let there = WINDOW.map(|name| top.row().index_of(name).is_err());
                let added = window.into_iter().zip(there).filter(|(_, added)| *added).map(|(field, _)| field);
                let rows = top.row().fields().iter().map(|field| field.as_ref().clone());
                (rows.chain(added).collect(), true, there)
            }
        };
        let help = "the columns are those of `key_by`, `window_start`, `window_end` and those of `aggregate`";
        no_column_twice(&fields, help)?;
        let codec = KeyCodec::new(&keys, Vec::new()).map_err(|fault| ExprError::new(fault.chain()))?;
        Ok(Results { schema: Arc::new(Schema::new(fields)), keys, codec, are_rows, window })
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub(super) fn keys(&self) -> &[Field] {
        &self.keys
    }

    /// What shapes the state of windows, in words: whoever finds others in a checkpoint cannot go on from it.
    pub(super) fn shape(&self, windows: &str, kept: &Kept, is_early: bool) -> String {
        let keys: Vec<&str> = self.keys.iter().map(|key| key.name().as_str()).collect();
        let by = if keys.is_empty() { String::new() } else { format!(" by {}", keys.join(", ")) };
        let early = if is_early { ", early at an interval" } else { "" };
        format!("{windows}{by}{early}: {}", kept.words())
    }

    /// The keys of rows, whose columns of the key these are.
    pub(super) fn key_bytes(&self, columns: &[ArrayRef]) -> Result<RowKeys> {
        self.codec.keys(columns)
    }

    /// The results of windows that all begin and end at one time.
    pub(super) fn alike(groups: Groups, start: i64, end: i64) -> Result<Given> {
        let (keys, values) = groups.results()?;
        Ok(Given { keys, values, bounds: Bounds::Same(start, end) })
    }

    /// The rows of what windows give; the time of each is the last moment of its window, or `at` if that is later.
    pub(super) fn rows(
        &self,
        kept: &Kept,
        codec: &KeyCodec,
        given: Given,
        at: Timestamp,
        now: Timestamp,
    ) -> Result<Outcome> {
        let Given { keys, values, bounds } = given;
        let Rows { of_group, columns: outputs, failed } = kept.outputs(&values, now)?;
        let groups = keys.len();
        let (starts, ends) = match bounds {
            Bounds::Same(start, end) => (Int64Array::from_value(start, groups), Int64Array::from_value(end, groups)),
            Bounds::Each(starts, ends) => (starts, ends),
        };
        let last = |end: i64| Timestamp::from_micros(end.saturating_sub(1)).max(at);
        let bound = |bound: Int64Array| -> ArrayRef {
            Arc::new(TimestampMicrosecondArray::new(bound.values().clone(), None).with_timezone(UTC))
        };
        let window = [bound(starts), bound(ends.clone())];
        let key_columns = || Ok::<_, Fault>(codec.columns(&keys)?.into_iter().take(self.keys.len()));
        let rejected = match failed {
            Some((told, failed)) => {
                let named = WINDOW.map(|name| Field::new(name, timestamp(), false)).into_iter().zip(window.clone());
                let columns = self.keys.iter().cloned().zip(key_columns()?).chain(named).chain(told);
                let times: Vec<Timestamp> = ends.values().iter().map(|end| last(*end)).collect();
                Some(rejected_groups(columns, &times, failed)?)
            }
            None => None,
        };
        let each = |column: ArrayRef| match &of_group {
            Some(of_group) => take(&column, of_group, None).map_err(wrong),
            None => Ok(column),
        };
        let times: Vec<Timestamp> = match &of_group {
            Some(groups) => groups
                .values()
                .iter()
                .filter_map(|group| ends.values().get(*group as usize))
                .map(|end| last(*end))
                .collect(),
            None => ends.values().iter().map(|end| last(*end)).collect(),
        };
        let window = window.into_iter().zip(self.window).filter(|(_, there)| *there).map(|(bound, _)| each(bound));
        let window = window.collect::<Result<Vec<_>>>()?;
        let columns = match self.are_rows {
            true => outputs.into_iter().chain(window).collect(),
            false => {
                let keys = key_columns()?.map(each).collect::<Result<Vec<_>>>()?;
                keys.into_iter().chain(window).chain(outputs).collect()
            }
        };
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(wrong)?;
        Ok(Outcome { rows: Batch::new(times, rows)?, rejected })
    }
}

fn wrong(error: ArrowError) -> Fault {
    Fault::bug("the results of a window do not fit together").because(error)
}

/// What windows give: their results, and those that could not be computed.
pub(super) struct Outcome {
    pub(super) rows: Batch<RecordBatch>,
    pub(super) rejected: Option<RejectedRows>,
}

impl Outcome {
    /// Sends the results on, those that could not be computed to the port of rejected rows.
    pub(super) fn send(self, out: &mut Outbox<'_, RecordBatch>) {
        if let Some(rejected) = self.rejected {
            out.send_port(1, rejected);
        }
        out.send(self.rows);
    }
}

/// The results of groups that something could not be computed for: their columns, as far as they are known.
pub(super) fn rejected_groups(
    columns: impl Iterator<Item = (Field, ArrayRef)>,
    times: &[Timestamp],
    failed: Vec<(usize, String)>,
) -> Result<RejectedRows> {
    let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = columns.unzip();
    let groups = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(wrong)?;
    let failed = failed.into_iter().map(|(group, why)| (group, Cause::operator(why)));
    rejected_rows(&groups, times, None, failed)
}
