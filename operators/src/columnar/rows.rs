//! Expressions over the rows of a batch, where some rows may fail: they are told apart from the others and rejected.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, new_empty_array};
use arrow::compute::concat;
use arrow::datatypes::Schema;
use bytes::Bytes;

use super::cells::Rows;
use super::{Expression, describe, keep};
use crate::{
    AnyBatch, Batch, Cause, Fault, FaultKind, Origins, Outbox, Parts, PortType, Rejected, Result, Side, Timestamp,
};

/// The side output of rows that an expression could not be computed for.
pub const REJECTED: &str = "rejected";

/// What `now()` asks, once a batch.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The values of some expressions for the rows that have them, and the rows that have not.
pub(super) struct Computed {
    /// A column for each expression, without the rows that failed.
    pub(super) columns: Vec<ArrayRef>,
    /// The rows that failed, in order, each with the reason.
    pub(super) failed: Vec<(usize, String)>,
}

/// Evaluates expressions: for the whole batch at once, and if that fails for ever smaller parts of it, until the rows
/// that are to blame are known.
///
/// A row fails or not by itself, whatever rows are beside it.
pub(super) fn compute(expressions: &[Expression], rows: &RecordBatch, now: Timestamp) -> Result<Computed> {
    let evaluate = |rows: &RecordBatch| -> Result<Vec<ArrayRef>> {
        expressions.iter().map(|expression| expression.evaluate(rows, now)).collect()
    };
    match evaluate(rows) {
        Ok(columns) => return Ok(Computed { columns, failed: Vec::new() }),
        Err(fault) if fault.kind() == FaultKind::Bug => return Err(fault),
        Err(_) => {}
    }
    let mut chunks: Vec<Vec<ArrayRef>> = vec![Vec::new(); expressions.len()];
    let mut failed = Vec::new();
    // Halves are put back in reverse, so that rows come in order.
    let mut open = vec![(0, rows.num_rows())];
    while let Some((from, len)) = open.pop() {
        match evaluate(&rows.slice(from, len)) {
            Ok(columns) => chunks.iter_mut().zip(columns).for_each(|(chunks, column)| chunks.push(column)),
            Err(fault) if len <= 1 => failed.push((from, fault.to_string())),
            Err(_) => open.extend([(from + len / 2, len - len / 2), (from, len / 2)]),
        }
    }
    let columns = chunks.iter().zip(expressions).map(|(chunks, expression)| {
        let chunks: Vec<_> = chunks.iter().map(|chunk| &**chunk).collect();
        if chunks.is_empty() { Ok(new_empty_array(expression.data_type())) } else { concat(&chunks) }
    });
    let columns = columns.collect::<Result<_, _>>();
    Ok(Computed { columns: columns.map_err(|error| Fault::bug("cannot concatenate").because(error))?, failed })
}

/// Evaluates expressions over a batch. The rows that one of them cannot be computed for are sent to `port` as rejected
/// ones; the others come back, with a column for each expression.
pub(super) fn compute_or_reject(
    expressions: &[Expression],
    batch: Batch<RecordBatch>,
    now: Timestamp,
    out: &mut Outbox<'_, RecordBatch>,
    port: usize,
) -> Result<(Batch<RecordBatch>, Vec<ArrayRef>)> {
    let Computed { columns, failed } = compute(expressions, batch.rows(), now)?;
    if failed.is_empty() {
        return Ok((batch, columns));
    }
    let (good, rejected) = without_failed(batch, failed)?;
    out.send_port(port, rejected);
    Ok((good, columns))
}

/// As [`compute_or_reject`], for a predicate: which of the rows that come back it holds for, null where it is not known.
pub(super) fn judge_or_reject(
    predicate: &Expression,
    batch: Batch<RecordBatch>,
    now: Timestamp,
    out: &mut Outbox<'_, RecordBatch>,
    port: usize,
) -> Result<(Batch<RecordBatch>, BooleanArray)> {
    let (batch, columns) = compute_or_reject(std::slice::from_ref(predicate), batch, now, out, port)?;
    let truth = columns.first().and_then(|column| column.as_boolean_opt()).cloned();
    Ok((batch, truth.ok_or_else(|| Fault::bug("a predicate gave no truth"))?))
}

/// Rows of record batches that were refused, as JSON text.
pub(super) type RejectedRows = Batch<Vec<Rejected<Bytes>>>;

/// Takes the rows that failed out of a batch, and makes rejected rows of them.
fn without_failed(
    batch: Batch<RecordBatch>,
    failed: Vec<(usize, String)>,
) -> Result<(Batch<RecordBatch>, RejectedRows)> {
    let mut good = vec![true; batch.len()];
    for (row, _) in &failed {
        if let Some(good) = good.get_mut(*row) {
            *good = false;
        }
    }
    let causes = failed.into_iter().map(|(row, why)| (row, Cause::operator(why)));
    let rejected = rejected_rows(batch.rows(), batch.times(), batch.origins(), causes)?;
    Ok((keep(batch, &BooleanArray::from(good))?, rejected))
}

/// Some rows as rejected ones: their JSON text, time, origin and cause.
pub(super) fn rejected_rows(
    rows: &RecordBatch,
    times: &[Timestamp],
    origins: Option<&Origins>,
    causes: impl IntoIterator<Item = (usize, Cause)>,
) -> Result<RejectedRows> {
    let text = Rows::of(rows);
    let (mut indices, mut rejected, mut weight) = (Vec::new(), Vec::new(), 0);
    for (row, cause) in causes {
        let mut json = Vec::new();
        if text.write_json(row, &mut json).is_err() {
            json.clear();
        }
        weight += json.len();
        indices.push(row);
        rejected.push(Rejected { row: Bytes::from(json), cause });
    }
    let times = indices.iter().filter_map(|row| times.get(*row).copied()).collect();
    let origins = origins.map(|origins| origins.select(indices.iter().copied()));
    Batch::from_parts(Parts { times, rows: rejected, origins, weight })
}

/// The port of rejected rows; it may be left open when no row can be rejected.
pub(super) fn rejected_port(port: usize, can_fail: bool) -> PortType {
    let port = Side::<Rejected<Bytes>>::rejected(port).port_type();
    if can_fail { port } else { port.optional() }
}

/// A port of record batches with these columns.
pub(super) fn columns_port(name: String, schema: &Schema) -> PortType {
    PortType::of::<RecordBatch>(name).describing(describe(schema)).copied_by(AnyBatch::copied::<RecordBatch>)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columnar::tests::{ints, numbered_batch};
    use crate::origin::tests::numbered;

    fn divide(by: &str) -> Expression {
        Expression::compile(&format!("60 / {by}"), &numbered_batch(1).rows().schema()).unwrap()
    }

    #[test]
    fn only_the_rows_that_are_to_blame_fail() {
        let batch = numbered_batch(100);
        let computed = compute(&[divide("(n - 3)"), divide("(n % 50)")], batch.rows(), Timestamp::MIN).unwrap();
        assert_eq!(computed.failed.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [0, 3, 50]);
        assert_eq!(computed.columns.iter().map(|column| column.len()).collect::<Vec<_>>(), [97, 97]);
        let expected: Vec<i64> = (0..100).filter(|n| ![0, 3, 50].contains(n)).map(|n| 60 / (n - 3)).collect();
        let column = RecordBatch::try_from_iter([("x", computed.columns[0].clone())]).unwrap();
        assert_eq!(ints(&column, "x"), expected);
    }

    #[test]
    fn a_batch_of_failures_leaves_empty_columns() {
        let computed = compute(&[divide("(n - n)")], numbered_batch(3).rows(), Timestamp::MIN).unwrap();
        assert_eq!((computed.columns[0].len(), computed.failed.len()), (0, 3));
    }

    #[test]
    fn failed_rows_become_rejected_ones_with_time_and_origin() {
        let batch = numbered_batch(3).with_origins(numbered(3)).unwrap();
        let (good, rejected) = without_failed(batch, vec![(1, "why".to_owned())]).unwrap();
        assert_eq!(ints(good.rows(), "n"), [0, 2]);
        assert_eq!(rejected.rows()[0].row, r#"{"n":1}"#);
        assert_eq!(rejected.rows()[0].cause, Cause::operator("why"));
        assert_eq!(rejected.times(), [Timestamp::from_micros(1)]);
        assert_eq!(rejected.origins().unwrap().get(0).unwrap().sequence, 1);
    }
}
