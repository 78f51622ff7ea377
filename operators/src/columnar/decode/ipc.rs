//! An Arrow IPC stream, as one message holds it, into batches of a declared schema.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::buffer::Buffer;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, SchemaRef};
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::root_as_message;
use bytes::Bytes;

use super::row::Refused;
use crate::columnar::expr::canonical;
use crate::columnar::schema::{describe_field, describe_type};

/// Reads every batch of a stream. Columns are found by name, may be cast where nothing is lost, and those that nobody
/// declared are left out; what is declared and not there is null.
pub(super) fn batches(payload: &Bytes, schema: &SchemaRef, strict: bool) -> Result<Vec<RecordBatch>, Refused> {
    let refuse = |what: String, at| Refused { what, at };
    if payload.is_empty() {
        return Err(refuse("the message is empty".to_owned(), 0));
    }
    check_frames(payload).map_err(|(what, at)| refuse(what.to_owned(), at))?;
    // The reader trusts offsets within a message more than it should; `check_frames` has seen those that are known.
    let read = catch_unwind(AssertUnwindSafe(|| read(payload, schema, strict)));
    read.unwrap_or_else(|_| Err("this is no valid Arrow stream".to_owned())).map_err(|what| refuse(what, 0))
}

fn read(payload: &Bytes, schema: &SchemaRef, strict: bool) -> Result<Vec<RecordBatch>, String> {
    let words = |error: arrow::error::ArrowError| error.to_string();
    let mut decoder = StreamDecoder::new();
    let mut rest = Buffer::from(payload.clone());
    let mut batches = Vec::new();
    while !rest.is_empty() {
        if let Some(batch) = decoder.decode(&mut rest).map_err(words)? {
            batches.push(conform(&batch, schema, strict)?);
        }
    }
    decoder.finish().map_err(words)?;
    Ok(batches)
}

/// Walks over the messages of a stream and checks every length that is written in it against the bytes that are
/// there, so that no reader allocates or reaches for more.
fn check_frames(payload: &[u8]) -> Result<(), (&'static str, usize)> {
    let number = |at: usize| payload.get(at..)?.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes));
    let (mut at, mut schemas) = (0, 0);
    while at < payload.len() {
        let short = ("the message ends too early", at);
        let mut length = number(at).ok_or(short)?;
        let mut start = at + 4;
        if length == u32::MAX {
            length = number(start).ok_or(short)?;
            start += 4;
        }
        if length == 0 {
            // The end of the stream.
            return if start == payload.len() { Ok(()) } else { Err(("there are bytes behind the stream", start)) };
        }
        let end = start + usize::try_from(length).map_err(|_| short)?;
        let header = payload.get(start..end).ok_or(short)?;
        let message = root_as_message(header).map_err(|_| ("this is no Arrow stream", start))?;
        let body = usize::try_from(message.bodyLength()).map_err(|_| ("a length is negative", start))?;
        if payload.len() - end < body {
            return Err(short);
        }
        schemas += usize::from(message.header_as_schema().is_some());
        let dictionary = message.header_as_dictionary_batch().and_then(|dictionary| dictionary.data());
        if let Some(batch) = message.header_as_record_batch().or(dictionary) {
            let rows = |length: i64| usize::try_from(length).is_ok_and(|rows| rows <= payload.len().saturating_mul(8));
            let nodes = batch.nodes().into_iter().flatten();
            if !rows(batch.length()) || !nodes.into_iter().all(|node| rows(node.length()) && rows(node.null_count())) {
                return Err(("there are more rows than bytes could hold", start));
            }
            let inside = |buffer: &arrow::ipc::Buffer| {
                let (offset, length) = (usize::try_from(buffer.offset()).ok()?, usize::try_from(buffer.length()).ok()?);
                offset.checked_add(length).filter(|end| *end <= body)
            };
            if !batch.buffers().into_iter().flatten().all(|buffer| inside(buffer).is_some()) {
                return Err(("a buffer reaches beyond its message", start));
            }
        }
        at = end + body;
    }
    if schemas == 0 { Err(("there is no schema", 0)) } else { Ok(()) }
}

/// The declared columns of a batch.
fn conform(batch: &RecordBatch, schema: &SchemaRef, strict: bool) -> Result<RecordBatch, String> {
    if strict {
        let unknown = batch.schema_ref().fields().iter().find(|field| schema.column_with_name(field.name()).is_none());
        if let Some(field) = unknown {
            return Err(format!("there is no column {:?}, and the schema is strict", field.name()));
        }
    }
    let columns = schema.fields().iter().map(|field| match batch.column_by_name(field.name()) {
        Some(column) => convert(column, field),
        None if field.is_nullable() => Ok(new_null_array(field.data_type(), batch.num_rows())),
        None => Err(format!("`{}` is missing", field.name())),
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(|error| error.to_string())
}

fn convert(column: &ArrayRef, field: &Field) -> Result<ArrayRef, String> {
    let refuse = |why: &str| {
        let (name, from) = (field.name(), describe_type(column.data_type()));
        Err(format!("`{name}` must be {}, not {from}{why}", describe_field(field)))
    };
    let array = if column.data_type() == field.data_type() {
        Arc::clone(column)
    } else {
        if !related(column.data_type(), field.data_type()) {
            return refuse("");
        }
        let options = CastOptions { safe: false, ..CastOptions::default() };
        let Ok(cast) = cast_with_options(column, field.data_type(), &options) else {
            return refuse(", and not every value fits");
        };
        // Nothing is lost if the way back leads to where it began.
        let back = cast_with_options(&cast, column.data_type(), &options);
        if !back.is_ok_and(|back| &back == column) {
            return refuse(", and not every value fits");
        }
        cast
    };
    if !field.is_nullable() && array.logical_null_count() > 0 {
        return Err(format!("`{}` must not be null", field.name()));
    }
    Ok(array)
}

/// Whether values of one type can be values of the other, and mean the same.
fn related(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        (DataType::Null, _) => true,
        (DataType::Dictionary(_, values), _) => related(values, to),
        (DataType::Timestamp(_, None), DataType::Timestamp(_, Some(_))) => false,
        (
            DataType::List(a) | DataType::LargeList(a) | DataType::FixedSizeList(a, _) | DataType::ListView(a),
            DataType::List(b),
        ) => related(a.data_type(), b.data_type()),
        (DataType::Struct(a), DataType::Struct(b)) => {
            let pairs = || a.iter().zip(b);
            a.len() == b.len() && pairs().all(|(a, b)| a.name() == b.name() && related(a.data_type(), b.data_type()))
        }
        _ => canonical(from) == *to || from.is_numeric() && to.is_numeric(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columnar::schema;
    use crate::columnar::tests::{lines, rows};
    use arrow::array::{Float64Array, Int64Array, LargeStringArray, TimestampNanosecondArray};
    use arrow::ipc::writer::StreamWriter;
    use proptest::prelude::*;

    fn stream(batches: &[RecordBatch]) -> Bytes {
        let mut writer = StreamWriter::try_new(Vec::new(), batches[0].schema_ref()).unwrap();
        batches.iter().for_each(|batch| writer.write(batch).unwrap());
        writer.into_inner().unwrap().into()
    }

    fn sample() -> RecordBatch {
        let lines = [r#"{"n":1,"t":"a","l":["x"]}"#, r#"{"n":2}"#, r#"{"t":"c","l":[]}"#];
        rows(&[("n", "int64"), ("t", "utf8"), ("l", "list<utf8>")], &lines).into_parts().rows
    }

    #[test]
    fn columns_are_found_by_name_and_cast_where_nothing_is_lost() {
        let from = RecordBatch::try_from_iter([
            ("at", Arc::new(TimestampNanosecondArray::from(vec![1_000]).with_timezone("+01:00")) as ArrayRef),
            ("other", Arc::new(Int64Array::from(vec![1]))),
            ("t", Arc::new(LargeStringArray::from(vec!["x"]))),
            ("n", Arc::new(Int64Array::from(vec![127]))),
        ])
        .unwrap();
        let schema = schema([("n", "int8 not null"), ("t", "utf8"), ("at", "timestamp"), ("none", "bool")]).unwrap();
        let read = batches(&stream(&[from.clone(), from.clone()]), &schema, false).unwrap();
        assert_eq!(read.len(), 2);
        let expected = serde_json::json!({"n": 127, "t": "x", "at": "1970-01-01T00:00:00.000001Z", "none": null});
        assert_eq!(lines(&read[1]), [expected]);
        assert!(batches(&stream(&[from]), &schema, true).unwrap_err().what.contains("\"other\""));
    }

    #[test]
    fn what_would_lose_something_is_refused() {
        let (n, f) = (Arc::new(Int64Array::from(vec![Some(300), None])), Arc::new(Float64Array::from(vec![0.5, 1.0])));
        let naive = Arc::new(TimestampNanosecondArray::from(vec![1, 2]));
        let from =
            RecordBatch::try_from_iter_with_nullable([("n", n as ArrayRef, true), ("f", f, true), ("at", naive, true)]);
        let payload = stream(&[from.unwrap()]);
        for (name, kind, words) in [
            ("n", "int8", "not every value fits"),
            ("n", "utf8", "must be utf8, not int64"),
            ("f", "int64", "not every value fits"),
            ("n", "int64 not null", "`n` must not be null"),
            ("at", "timestamp", "must be timestamp, not"),
            ("x", "utf8 not null", "missing"),
        ] {
            let refused = batches(&payload, &schema([(name, kind)]).unwrap(), false).unwrap_err();
            assert!(refused.what.contains(words), "{name} {kind}: {}", refused.what);
        }
    }

    #[test]
    fn what_is_no_stream_is_refused() {
        let good = stream(&[sample()]);
        for bad in [
            &b"x"[..],
            b"{}",
            &[0xff; 64],
            &[0; 8],
            &[1, 0, 0, 0, 0],
            &good[..good.len() - 20],
            &[&good[..], b"x"].concat(),
        ] {
            assert!(batches(&Bytes::copy_from_slice(bad), &sample().schema(), false).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]
        #[test]
        fn broken_streams_are_refused_or_read_and_never_crash(at in 0usize..2_000, value in any::<u8>(), len in 0usize..9) {
            let mut bytes = stream(&[sample()]).to_vec();
            let at = at % bytes.len();
            let upto = (at + len).min(bytes.len());
            bytes[at..upto].fill(value);
            let _ = batches(&bytes.into(), &sample().schema(), false);
        }
    }
}
