//! [`RejectedColumns`]: rejected rows as rows of columns, so that any sink can take them.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;

use super::schema;
use crate::{Batch, Fault, Operator, Origin, Outbox, Parts, Rejected, Result, Turn};

/// Makes a row of each rejected row: what was rejected, why, by which node, and where it came from.
///
/// ```text
/// rejected by orders/json   {"a
/// given                     row: {"a   reason: decode   error: no JSON   node: orders   byte: 3   sequence: 0   …
/// ```
///
/// What is not known is null: `byte`, where the trouble was not found at a byte (counted from 0); `stream`, `sequence`,
/// `subject` and `time`, when the message was stored, where the row came of no single message. Nothing is kept, and nothing
/// is rejected once more.
///
/// Text that is not UTF-8 is shown as well as it can be; a dead letter keeps it bit for bit.
#[derive(Debug, Default)]
pub struct RejectedColumns;

impl RejectedColumns {
    /// The columns: `row`, `reason`, `error`, `node`, `byte`, `stream`, `sequence`, `subject`, `time`.
    pub fn schema() -> SchemaRef {
        let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
        Arc::new(Schema::new(vec![
            text("row", false),
            text("reason", false),
            text("error", false),
            text("node", false),
            Field::new("byte", DataType::UInt64, true),
            text("stream", true),
            Field::new("sequence", DataType::UInt64, true),
            text("subject", true),
            Field::new("time", schema::timestamp(), true),
        ]))
    }
}

impl Operator for RejectedColumns {
    type In = Vec<Rejected<Bytes>>;
    type Out = RecordBatch;

    fn on_batch(&mut self, batch: Batch<Vec<Rejected<Bytes>>>, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        let Parts { times, rows, origins, weight } = batch.into_parts();
        let text = |of: &dyn Fn(&Rejected<Bytes>) -> String| -> ArrayRef {
            Arc::new(rows.iter().map(|row| Some(of(row))).collect::<StringArray>())
        };
        let origin = |row| origins.as_ref().and_then(|all| all.get(row));
        let stream = origins.as_ref().map(|all| all.place().stream.as_str());
        let places = || 0..rows.len();
        let columns: Vec<ArrayRef> = vec![
            text(&|rejected| String::from_utf8_lossy(&rejected.row).into_owned()),
            text(&|rejected| rejected.cause.code.as_str().to_owned()),
            text(&|rejected| rejected.cause.message.clone()),
            text(&|rejected| rejected.cause.node.split('/').next().unwrap_or_default().to_owned()),
            Arc::new(rows.iter().map(|rejected| rejected.cause.offset).collect::<UInt64Array>()),
            Arc::new(places().map(|row| origin(row).and(stream)).collect::<StringArray>()),
            Arc::new(places().map(|row| origin(row).map(|origin| origin.sequence)).collect::<UInt64Array>()),
            Arc::new(places().map(|row| origin(row).map(Origin::subject)).collect::<StringArray>()),
            Arc::new(
                places()
                    .map(|row| origin(row).map(|origin| origin.stored_at.as_micros()))
                    .collect::<TimestampMicrosecondArray>()
                    .with_timezone(schema::UTC),
            ),
        ];
        let rows = RecordBatch::try_new(RejectedColumns::schema(), columns);
        let rows = rows.map_err(|error| Fault::bug("rejected rows do not fit their columns").because(error))?;
        out.send(Batch::from_parts(Parts { times, rows, origins, weight })?);
        Ok(Turn::Done)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::columnar::steps::{Step, steps_do_not_matter};
    use crate::columnar::tests::{joined, lines, run};
    use crate::origin::tests::numbered;
    use crate::testkit::Bench;
    use crate::{Cause, Code, Timestamp};

    #[test]
    fn a_rejected_row_says_why_and_where_it_came_from() {
        let cause = Cause::new(Code::Decode, "no JSON").at_byte(3).at_node("orders/json");
        let rejected = Rejected { row: Bytes::from_static(b"{\"a\xff"), cause };
        let batch = Batch::at(Timestamp::MIN, vec![rejected]).with_origins(numbered(1)).unwrap();
        let mut bench = Bench::new(RejectedColumns);
        bench.batch(batch);
        let row = lines(bench.take_batches()[0].rows()).remove(0);
        assert_eq!(row["row"], json!("{\"a\u{fffd}"));
        assert_eq!((&row["reason"], &row["node"], &row["byte"]), (&json!("decode"), &json!("orders"), &json!(3)));
        assert_eq!(row["sequence"], json!(0));
    }

    #[test]
    fn it_does_not_matter_where_batches_are_cut_and_where_it_is_restarted() {
        let rejected = |n: u8| Rejected { row: Bytes::from(vec![b'0' + n]), cause: Cause::operator(n) };
        let times = (0..9).map(Timestamp::from_micros).collect();
        let batch = Batch::new(times, (0..9).map(rejected).collect::<Vec<_>>()).unwrap();
        let batch = batch.with_origins(numbered(9)).unwrap();
        for seed in 0..40 {
            let told = steps_do_not_matter(|| RejectedColumns, &[Step::Rows(batch.clone())], seed);
            assert_eq!(told.port(0).len(), 9);
        }
    }

    #[test]
    fn a_row_from_nowhere_has_no_origin() {
        let rejected = Rejected { row: Bytes::from_static(b"x"), cause: Cause::operator("why") };
        let made = joined(&mut run(&mut RejectedColumns, [Batch::at(Timestamp::MIN, vec![rejected])]), 0).unwrap();
        assert_eq!(lines(&made)[0]["sequence"], json!(null));
    }
}
