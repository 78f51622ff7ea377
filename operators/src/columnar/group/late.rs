//! Rows of columns that come when their windows are closed.

use arrow::array::RecordBatch;
use bytes::Bytes;

use crate::columnar::rows::rejected_rows;
use crate::{Batch, Cause, Code, Outbox, PortType, Rejected, Result, Side, Timestamp};

const PORT: usize = 2;

/// The port of late rows, which may be left open: they are counted then, and dropped.
pub(super) fn port() -> PortType {
    Side::<Rejected<Bytes>>::rejected(PORT).port_type().named("late").optional()
}

/// Sends some rows of a batch to the port of late rows.
pub(super) fn refuse_late(
    batch: &Batch<RecordBatch>,
    late: Vec<usize>,
    now: Timestamp,
    out: &mut Outbox<'_, RecordBatch>,
) -> Result {
    if late.is_empty() {
        return Ok(());
    }
    let cause = |row: usize| {
        let behind = batch.times().get(row).map_or_else(Default::default, |time| now.since(*time));
        let words = format!("it is late: {behind:?} behind the watermark, and its windows are closed");
        (row, Cause::new(Code::Late, words))
    };
    let late = late.into_iter().map(cause);
    out.send_port(PORT, rejected_rows(batch.rows(), batch.times(), batch.origins(), late)?);
    Ok(())
}
