//! [`Outputs`]: what is computed from what aggregates give, where it can be.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::Field;

use super::calls::{Aggregates, Call, Output};
use crate::columnar::rows::{Computed, compute};
use crate::columnar::schema::describe_type;
use crate::{Fault, Result, Timestamp};

/// What comes of the aggregates of some groups.
pub(super) struct Outputs {
    /// The columns, without the groups that something cannot be computed for.
    pub(super) columns: Vec<ArrayRef>,
    /// The groups that they are of, where there are others.
    pub(super) good: Option<UInt32Array>,
    /// Those others, in order, each with the reason.
    pub(super) failed: Vec<(usize, String)>,
}

impl Aggregates {
    /// The outputs, of what the calls give.
    pub(super) fn outputs(&self, given: &[ArrayRef], now: Timestamp) -> Result<Outputs> {
        let (rows, mut failed) = self.fitted(given)?;
        let fit = good(rows.num_rows(), &failed);
        let rows = taken(&rows, fit.as_ref())?;
        let Computed { columns: computed, failed: others } = compute(&self.outer, &rows, now)?;
        let rows = taken(&rows, good(rows.num_rows(), &others).as_ref())?;
        let group =
            |row: usize| fit.as_ref().map_or(row, |fit| fit.values().get(row).map_or(row, |group| *group as usize));
        failed.extend(others.into_iter().map(|(row, why)| (group(row), why)));
        failed.sort_by_key(|(group, _)| *group);
        let output = |(_, output): &(String, Output)| match output {
            Output::Call(number) => rows.columns().get(*number).cloned(),
            Output::Computed(number) => computed.get(*number).cloned(),
        };
        let columns = self.outputs.iter().filter_map(output).collect();
        let groups = given.first().map_or(0, Array::len);
        Ok(Outputs { columns, good: good(groups, &failed), failed })
    }

    /// What calls gave as what outputs are computed from, and the groups for which something does not fit, in order.
    fn fitted(&self, given: &[ArrayRef]) -> Result<(RecordBatch, Vec<(usize, String)>)> {
        let (mut columns, mut failed) = (Vec::new(), BTreeMap::new());
        for ((column, field), call) in given.iter().zip(self.computed.fields()).zip(&self.calls) {
            if column.data_type() == field.data_type() {
                columns.push(Arc::clone(column));
                continue;
            }
            let fitted = cast(column, field.data_type()).map_err(|error| Fault::bug("cannot cast").because(error))?;
            if call.whole.is_some() && fitted.null_count() > column.null_count() {
                let told = describe_type(field.data_type());
                let unfit = (0..column.len()).filter(|group| fitted.is_null(*group) && !column.is_null(*group));
                failed.extend(unfit.map(|group| (group, format!("`{}`: it does not fit into {told}", call.sql))));
            }
            columns.push(fitted);
        }
        let rows = RecordBatch::try_new(Arc::clone(&self.computed), columns);
        Ok((
            rows.map_err(|error| Fault::bug("aggregates do not fit together").because(error))?,
            failed.into_iter().collect(),
        ))
    }

    /// What calls gave, each under the words that it is written in, for people.
    pub(super) fn told<'a>(&'a self, given: &'a [ArrayRef]) -> impl Iterator<Item = (Field, ArrayRef)> + 'a {
        let first = |call: &Call| self.calls.iter().position(|other| other.sql == call.sql);
        let each = self.calls.iter().enumerate().zip(given);
        let each = each.filter(move |((number, call), _)| first(call) == Some(*number));
        each.map(|((_, call), column)| (Field::new(&call.sql, column.data_type().clone(), true), Arc::clone(column)))
    }
}

/// The groups that nothing failed for, if there are others.
fn good(groups: usize, failed: &[(usize, String)]) -> Option<UInt32Array> {
    if failed.is_empty() {
        return None;
    }
    let mut failed = failed.iter().map(|(group, _)| *group).peekable();
    let good = (0..groups).filter(|group| failed.next_if_eq(group).is_none());
    Some(UInt32Array::from_iter_values(good.filter_map(|group| u32::try_from(group).ok())))
}

fn taken(rows: &RecordBatch, good: Option<&UInt32Array>) -> Result<RecordBatch> {
    let Some(good) = good else { return Ok(rows.clone()) };
    take_record_batch(rows, good).map_err(|error| Fault::bug("cannot take").because(error))
}
