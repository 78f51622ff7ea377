//! What the tests of this folder share: batches to begin with, and an outbox that is read.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use bytes::Bytes;

use super::Clock;
use crate::testkit::Bench;
use crate::{AnyBatch, Batch, Emit, Operator, Outbox, Payload, Rejected, Timestamp, Turn};

/// A clock that stands still.
pub(super) fn clock() -> Clock {
    Arc::new(|| Timestamp::from_millis(1_767_268_800_000))
}

/// Rows `0..count` in a column `n`, each at the time of its number.
pub(super) fn numbered_batch(count: i64) -> Batch<RecordBatch> {
    let column = Arc::new(Int64Array::from_iter_values(0..count)) as _;
    let rows = RecordBatch::try_from_iter_with_nullable([("n", column, true)]).unwrap();
    Batch::new((0..count).map(Timestamp::from_micros).collect(), rows).unwrap()
}

/// The values of a column of 64-bit integers without nulls.
pub(super) fn ints(rows: &RecordBatch, column: &str) -> Vec<i64> {
    rows.column_by_name(column).unwrap().as_primitive::<Int64Type>().values().to_vec()
}

/// Rows read from JSON texts by arrow's own reader, which none of our decoders shares code with.
pub(super) fn rows(columns: &[(&str, &str)], lines: &[&str]) -> Batch<RecordBatch> {
    let schema = super::schema(columns.iter().copied()).unwrap();
    let mut decoder = arrow::json::ReaderBuilder::new(schema).build_decoder().unwrap();
    decoder.decode(lines.join("\n").as_bytes()).unwrap();
    Batch::at(Timestamp::from_micros(7), decoder.flush().unwrap().unwrap())
}

/// The rows of a batch as arrow's own writer puts them, one JSON value a row.
pub(super) fn lines(rows: &RecordBatch) -> Vec<serde_json::Value> {
    let mut writer = arrow::json::WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, arrow::json::writer::LineDelimited>(vec![]);
    writer.write(rows).unwrap();
    writer.finish().unwrap();
    let text = String::from_utf8(writer.into_inner()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Takes everything, in order.
#[derive(Default)]
pub(super) struct Taken(pub(super) Vec<(usize, AnyBatch)>);

impl Emit for Taken {
    fn emit(&mut self, port: usize, batch: AnyBatch) {
        assert!(!batch.is_empty(), "an empty batch at port {port}");
        self.0.push((port, batch));
    }

    fn watermark(&mut self, _: crate::Watermark) {}

    fn has_room(&self) -> bool {
        true
    }

    fn wake_after(&mut self, _: Duration) {}
}

/// What came out of a port: batches of one payload.
pub(super) fn at_port<P: Payload>(taken: &mut Taken, port: usize) -> Vec<Batch<P>> {
    let (mine, others) = taken.0.drain(..).partition(|(at, _)| *at == port);
    taken.0 = others;
    Vec::into_iter(mine).map(|(_, batch)| batch.typed::<P>().unwrap()).collect()
}

/// Sends batches through an operator.
pub(super) fn run<O: Operator>(operator: &mut O, batches: impl IntoIterator<Item = Batch<O::In>>) -> Taken {
    let mut taken = Taken::default();
    for batch in batches {
        if batch.is_empty() {
            continue;
        }
        let mut out = Outbox::new(&mut taken);
        let mut turn = operator.on_batch(batch, &mut out).unwrap();
        while turn == Turn::Again {
            turn = operator.on_more(&mut out).unwrap();
        }
        out.finish();
    }
    let mut out = Outbox::new(&mut taken);
    assert_eq!(operator.on_end(&mut out).unwrap(), Turn::Done);
    out.finish();
    taken
}

/// The rejected rows that came out of a port, as text and message.
pub(super) fn rejected(taken: &mut Taken, port: usize) -> Vec<(String, String)> {
    let batches = at_port::<Vec<Rejected<Bytes>>>(taken, port);
    in_words(batches.into_iter().flat_map(|batch| batch.into_parts().rows))
}

/// The same of an operator on a bench.
pub(super) fn refused<O: Operator>(bench: &mut Bench<O>, port: usize) -> Vec<(String, String)> {
    in_words(bench.take_side::<Rejected<Bytes>>(port))
}

fn in_words(rejected: impl IntoIterator<Item = Rejected<Bytes>>) -> Vec<(String, String)> {
    let words = |row: Rejected<Bytes>| (String::from_utf8_lossy(&row.row).into_owned(), row.cause.to_string());
    rejected.into_iter().map(words).collect()
}

/// The record batches that came out of a port, put together; `None` where there were none.
pub(super) fn joined(taken: &mut Taken, port: usize) -> Option<RecordBatch> {
    let batches: Vec<_> =
        at_port::<RecordBatch>(taken, port).into_iter().map(|batch| batch.into_parts().rows).collect();
    let schema = batches.first()?.schema();
    Some(arrow::compute::concat_batches(&schema, &batches).unwrap())
}

/// The batch cut at these places.
pub(super) fn cut<P: Payload + Clone>(batch: &Batch<P>, at: &[usize]) -> Vec<Batch<P>> {
    let to: Vec<u32> =
        (0..batch.len()).map(|row| u32::try_from(at.iter().filter(|cut| **cut <= row).count()).unwrap()).collect();
    batch.clone().scatter(&to, at.len() + 1)
}
