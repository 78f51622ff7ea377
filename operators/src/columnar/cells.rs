//! The values of columns, one at a time: as JSON, as MessagePack, as text in a subject.
//!
//! A column's type is looked at once a batch; after that a value costs a match and a look at the null bits.

use std::fmt::Write;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DurationMicrosecondArray,
    Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, ListArray, MapArray, RecordBatch,
    StringArray, StructArray, TimestampMicrosecondArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow::datatypes::{DataType, Field, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde::ser::{Error as _, Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::value::RawValue;

use super::schema::is_json;
use super::temporal::Date;
use super::{EncodeTimes, base64, schema};
use crate::Timestamp;

/// One column, ready to be read value by value.
pub(super) enum Cells<'a> {
    Bool(&'a BooleanArray),
    Int8(&'a Int8Array),
    Int16(&'a Int16Array),
    Int32(&'a Int32Array),
    Int64(&'a Int64Array),
    UInt8(&'a UInt8Array),
    UInt16(&'a UInt16Array),
    UInt32(&'a UInt32Array),
    UInt64(&'a UInt64Array),
    Float32(&'a Float32Array),
    Float64(&'a Float64Array),
    Text(&'a StringArray),
    Json(&'a StringArray),
    Binary(&'a BinaryArray),
    Date(&'a Date32Array),
    Timestamp(&'a TimestampMicrosecondArray, EncodeTimes),
    Duration(&'a DurationMicrosecondArray),
    Decimal(&'a Decimal128Array),
    List(&'a ListArray, Box<Cells<'a>>),
    Struct(&'a StructArray, Vec<(&'a str, Cells<'a>)>),
    Map(&'a MapArray, Box<(Cells<'a>, Cells<'a>)>),
    /// Types that no schema declares, such as intervals: as text.
    Other(&'a ArrayRef, Option<ArrayFormatter<'a>>),
}

impl<'a> Cells<'a> {
    /// Looks at the type of a column, whose times are written as `times` says.
    pub(super) fn of(field: &'a Field, array: &'a ArrayRef, times: EncodeTimes) -> Cells<'a> {
        match field.data_type() {
            DataType::Boolean => Cells::Bool(array.as_boolean()),
            DataType::Int8 => Cells::Int8(array.as_primitive()),
            DataType::Int16 => Cells::Int16(array.as_primitive()),
            DataType::Int32 => Cells::Int32(array.as_primitive()),
            DataType::Int64 => Cells::Int64(array.as_primitive()),
            DataType::UInt8 => Cells::UInt8(array.as_primitive()),
            DataType::UInt16 => Cells::UInt16(array.as_primitive()),
            DataType::UInt32 => Cells::UInt32(array.as_primitive()),
            DataType::UInt64 => Cells::UInt64(array.as_primitive()),
            DataType::Float32 => Cells::Float32(array.as_primitive()),
            DataType::Float64 => Cells::Float64(array.as_primitive()),
            DataType::Utf8 if is_json(field) => Cells::Json(array.as_string()),
            DataType::Utf8 => Cells::Text(array.as_string()),
            DataType::Binary => Cells::Binary(array.as_binary()),
            DataType::Date32 => Cells::Date(array.as_primitive()),
            DataType::Timestamp(TimeUnit::Microsecond, zone) if zone.as_deref() == Some(schema::UTC) => {
                Cells::Timestamp(array.as_primitive(), times)
            }
            DataType::Duration(TimeUnit::Microsecond) => Cells::Duration(array.as_primitive()),
            DataType::Decimal128(..) => Cells::Decimal(array.as_primitive()),
            DataType::List(item) => {
                let list = array.as_list::<i32>();
                Cells::List(list, Box::new(Cells::of(item, list.values(), times)))
            }
            DataType::Struct(fields) => {
                let array = array.as_struct();
                let columns = fields.iter().zip(array.columns());
                Cells::Struct(
                    array,
                    columns.map(|(field, column)| (&**field.name(), Cells::of(field, column, times))).collect(),
                )
            }
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(fields) if fields.len() == 2 => {
                    let map = array.as_map();
                    let parts = fields.iter().zip([map.keys(), map.values()]);
                    let mut parts = parts.map(|(field, part)| Cells::of(field, part, times));
                    match (parts.next(), parts.next()) {
                        (Some(keys), Some(values)) => Cells::Map(map, Box::new((keys, values))),
                        _ => Cells::Other(array, None),
                    }
                }
                _ => Cells::Other(array, None),
            },
            _ => Cells::Other(array, ArrayFormatter::try_new(array, &FORMAT).ok()),
        }
    }

    /// One value of the column.
    pub(super) fn at<'c>(&'c self, row: usize) -> Cell<'c, 'a> {
        Cell { cells: self, row }
    }

    fn array(&self) -> &dyn Array {
        match self {
            Cells::Bool(a) => a,
            Cells::Int8(a) => a,
            Cells::Int16(a) => a,
            Cells::Int32(a) => a,
            Cells::Int64(a) => a,
            Cells::UInt8(a) => a,
            Cells::UInt16(a) => a,
            Cells::UInt32(a) => a,
            Cells::UInt64(a) => a,
            Cells::Float32(a) => a,
            Cells::Float64(a) => a,
            Cells::Text(a) | Cells::Json(a) => a,
            Cells::Binary(a) => a,
            Cells::Date(a) => a,
            Cells::Timestamp(a, _) => a,
            Cells::Duration(a) => a,
            Cells::Decimal(a) => a,
            Cells::List(a, _) => a,
            Cells::Struct(a, _) => a,
            Cells::Map(a, _) => a,
            Cells::Other(a, _) => a,
        }
    }

    /// A value of text or bytes as it is; `None` for null and for other types.
    pub(super) fn bytes(&self, row: usize) -> Option<&'a [u8]> {
        match self {
            Cells::Text(a) | Cells::Json(a) if a.is_valid(row) => Some(a.value(row).as_bytes()),
            Cells::Binary(a) if a.is_valid(row) => Some(a.value(row)),
            _ => None,
        }
    }

    /// Appends a value as text: what stands in a subject or a header. Whether there is one; nothing is written for
    /// null.
    pub(super) fn write_text(&self, row: usize, out: &mut String) -> bool {
        if self.array().is_null(row) {
            return false;
        }
        // Writing to a `String` does not fail.
        let _ = match self {
            Cells::Text(a) | Cells::Json(a) => out.write_str(a.value(row)),
            Cells::Bool(a) => write!(out, "{}", a.value(row)),
            Cells::Int8(a) => write!(out, "{}", a.value(row)),
            Cells::Int16(a) => write!(out, "{}", a.value(row)),
            Cells::Int32(a) => write!(out, "{}", a.value(row)),
            Cells::Int64(a) => write!(out, "{}", a.value(row)),
            Cells::UInt8(a) => write!(out, "{}", a.value(row)),
            Cells::UInt16(a) => write!(out, "{}", a.value(row)),
            Cells::UInt32(a) => write!(out, "{}", a.value(row)),
            Cells::UInt64(a) => write!(out, "{}", a.value(row)),
            Cells::Float32(a) => write!(out, "{}", a.value(row)),
            Cells::Float64(a) => write!(out, "{}", a.value(row)),
            Cells::Date(a) => write!(out, "{}", Date(a.value(row))),
            Cells::Timestamp(a, times) => match times.unit() {
                Some(unit) => write!(out, "{}", a.value(row).div_euclid(unit)),
                None => write!(out, "{}", Timestamp::from_micros(a.value(row))),
            },
            Cells::Duration(a) => write!(out, "{}", a.value(row)),
            Cells::Decimal(a) => out.write_str(&a.value_as_string(row)),
            Cells::Binary(a) => {
                base64::encode(a.value(row), out);
                Ok(())
            }
            Cells::Other(_, Some(format)) => write!(out, "{}", format.value(row)),
            Cells::List(..) | Cells::Struct(..) | Cells::Map(..) | Cells::Other(_, None) => {
                out.write_str(&serde_json::to_string(&self.at(row)).unwrap_or_default())
            }
        };
        true
    }
}

const FORMAT: FormatOptions<'_> = FormatOptions::new();

/// A value of a column. In JSON: times and dates are RFC 3339 text (times numbers where [`EncodeTimes`] says so), spans are microseconds, bytes are base64, decimals
/// are numbers with all their digits, and numbers that JSON cannot write (NaN and the infinities) are null. In
/// MessagePack: times and spans are microseconds, dates are text, bytes are bytes, decimals are text.
pub(super) struct Cell<'c, 'a> {
    cells: &'c Cells<'a>,
    row: usize,
}

impl Serialize for Cell<'_, '_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let row = self.row;
        if self.cells.array().is_null(row) {
            return to.serialize_unit();
        }
        match self.cells {
            Cells::Bool(a) => to.serialize_bool(a.value(row)),
            Cells::Int8(a) => to.serialize_i8(a.value(row)),
            Cells::Int16(a) => to.serialize_i16(a.value(row)),
            Cells::Int32(a) => to.serialize_i32(a.value(row)),
            Cells::Int64(a) => to.serialize_i64(a.value(row)),
            Cells::UInt8(a) => to.serialize_u8(a.value(row)),
            Cells::UInt16(a) => to.serialize_u16(a.value(row)),
            Cells::UInt32(a) => to.serialize_u32(a.value(row)),
            Cells::UInt64(a) => to.serialize_u64(a.value(row)),
            Cells::Float32(a) => to.serialize_f32(a.value(row)),
            Cells::Float64(a) => to.serialize_f64(a.value(row)),
            Cells::Text(a) => to.serialize_str(a.value(row)),
            Cells::Json(a) => serialize_json(a.value(row), to),
            Cells::Binary(a) if to.is_human_readable() => {
                let mut text = String::new();
                base64::encode(a.value(row), &mut text);
                to.serialize_str(&text)
            }
            Cells::Binary(a) => to.serialize_bytes(a.value(row)),
            Cells::Date(a) => to.collect_str(&Date(a.value(row))),
            Cells::Timestamp(a, times) => match times.unit() {
                Some(unit) => to.serialize_i64(a.value(row).div_euclid(unit)),
                None if to.is_human_readable() => to.collect_str(&Timestamp::from_micros(a.value(row))),
                None => to.serialize_i64(a.value(row)),
            },
            Cells::Duration(a) => to.serialize_i64(a.value(row)),
            Cells::Decimal(a) if to.is_human_readable() => serialize_json(&a.value_as_string(row), to),
            Cells::Decimal(a) => to.serialize_str(&a.value_as_string(row)),
            Cells::List(a, items) => {
                let (from, upto) = range(a.value_offsets(), row);
                let mut list = to.serialize_seq(Some(upto.saturating_sub(from)))?;
                (from..upto).try_for_each(|item| list.serialize_element(&items.at(item)))?;
                list.end()
            }
            Cells::Struct(_, fields) => {
                let mut map = to.serialize_map(Some(fields.len()))?;
                fields.iter().try_for_each(|(name, cells)| map.serialize_entry(name, &cells.at(row)))?;
                map.end()
            }
            Cells::Map(a, entries) => {
                let (keys, values) = &**entries;
                let (from, upto) = range(a.value_offsets(), row);
                let mut map = to.serialize_map(Some(upto.saturating_sub(from)))?;
                let mut key = String::new();
                for entry in from..upto {
                    key.clear();
                    keys.write_text(entry, &mut key);
                    map.serialize_entry(&key, &values.at(entry))?;
                }
                map.end()
            }
            Cells::Other(_, Some(format)) => to.collect_str(&format.value(row)),
            Cells::Other(a, None) => Err(S::Error::custom(format_args!("{} cannot be written", a.data_type()))),
        }
    }
}

fn range(offsets: &[i32], row: usize) -> (usize, usize) {
    let at = |row: usize| offsets.get(row).and_then(|offset| usize::try_from(*offset).ok()).unwrap_or(0);
    (at(row), at(row + 1))
}

/// JSON text as the value that it is; as text if it is not JSON, which a column read from Arrow may hold.
fn serialize_json<S: Serializer>(text: &str, to: S) -> Result<S::Ok, S::Error> {
    if to.is_human_readable() {
        match serde_json::from_str::<&RawValue>(text) {
            Ok(raw) => raw.serialize(to),
            Err(_) => to.serialize_str(text),
        }
    } else {
        match serde_json::from_str::<serde_json::Value>(text) {
            Ok(value) => value.serialize(to),
            Err(_) => to.serialize_str(text),
        }
    }
}

/// The rows of a batch, ready to be written one at a time.
pub(super) struct Rows<'a> {
    columns: Vec<(&'a str, Cells<'a>)>,
    // What goes before each value in JSON: `{"id":` and `,"amount":`.
    leads: Vec<Vec<u8>>,
}

impl<'a> Rows<'a> {
    /// Looks at the types of all columns.
    pub(super) fn of(batch: &'a RecordBatch) -> Rows<'a> {
        Rows::with(batch, EncodeTimes::Usual)
    }

    /// The same, with times written as `times` says.
    pub(super) fn with(batch: &'a RecordBatch, times: EncodeTimes) -> Rows<'a> {
        let fields = batch.schema_ref().fields();
        let columns: Vec<_> = fields
            .iter()
            .zip(batch.columns())
            .map(|(field, array)| (&**field.name(), Cells::of(field, array, times)))
            .collect();
        let lead = |(place, (name, _)): (usize, &(&str, Cells<'_>))| {
            let mut lead = vec![if place == 0 { b'{' } else { b',' }];
            // Text is always written.
            let _ = serde_json::to_writer(&mut lead, name);
            lead.push(b':');
            lead
        };
        let leads = columns.iter().enumerate().map(lead).collect();
        Rows { columns, leads }
    }

    /// One column.
    pub(super) fn column(&self, place: usize) -> Option<&Cells<'a>> {
        self.columns.get(place).map(|(_, cells)| cells)
    }

    /// Appends a row as a JSON object, without spaces.
    ///
    /// # Errors
    /// A value of a type that has no JSON form.
    pub(super) fn write_json(&self, row: usize, out: &mut Vec<u8>) -> serde_json::Result<()> {
        if self.columns.is_empty() {
            out.push(b'{');
        }
        for ((_, cells), lead) in self.columns.iter().zip(&self.leads) {
            out.extend_from_slice(lead);
            serde_json::to_writer(&mut *out, &cells.at(row))?;
        }
        out.push(b'}');
        Ok(())
    }

    /// A row as a map, for any format.
    pub(super) fn at<'r>(&'r self, row: usize) -> impl Serialize + 'r {
        RowMap { rows: self, row }
    }
}

struct RowMap<'r, 'a> {
    rows: &'r Rows<'a>,
    row: usize,
}

impl Serialize for RowMap<'_, '_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.rows.columns.len()))?;
        self.rows.columns.iter().try_for_each(|(name, cells)| map.serialize_entry(name, &cells.at(self.row)))?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columnar::tests::rows;

    fn json(batch: &RecordBatch, row: usize) -> String {
        let mut out = Vec::new();
        Rows::of(batch).write_json(row, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_type_has_its_json_form() {
        let columns = [
            ("a \"b\"", "bool"),
            ("i", "int64"),
            ("u", "uint64"),
            ("f", "float64"),
            ("g", "float32"),
            ("t", "utf8"),
            ("d", "date"),
            ("at", "timestamp"),
            ("m", "decimal(6, 2)"),
            ("l", "list<int8>"),
            ("s", "struct<x: utf8, y: list<bool>>"),
            ("n", "utf8"),
        ];
        let line = r#"{"a \"b\"":true,"i":-9223372036854775808,"u":18446744073709551615,"f":0.1,"g":0.1,"t":"é\n\u0001\"",
            "d":"2026-01-31","at":"2026-01-01T00:00:00.5Z","m":"-12.30","l":[1,null],"s":{"x":null,"y":[false]}}"#;
        assert_eq!(
            json(rows(&columns, &[line]).rows(), 0),
            concat!(
                r#"{"a \"b\"":true,"i":-9223372036854775808,"u":18446744073709551615,"f":0.1,"g":0.1,"t":"é\n\u0001\"","#,
                r#""d":"2026-01-31","at":"2026-01-01T00:00:00.500Z","m":-12.30,"l":[1,null],"s":{"x":null,"y":[false]},"n":null}"#
            )
        );
    }

    #[test]
    fn times_are_numbers_where_that_is_asked_for() {
        let columns = [("at", "timestamp(ms)"), ("all", "list<timestamp>"), ("day", "date")];
        let batch = rows(
            &columns,
            &[r#"{"at":"1969-12-31T23:59:59.999Z","all":["1970-01-01T00:00:01.5Z",null],"day":"1970-01-02"}"#],
        );
        for (times, expected) in [
            (
                EncodeTimes::Usual,
                r#"{"at":"1969-12-31T23:59:59.999Z","all":["1970-01-01T00:00:01.500Z",null],"day":"1970-01-02"}"#,
            ),
            (EncodeTimes::Seconds, r#"{"at":-1,"all":[1,null],"day":"1970-01-02"}"#),
            (EncodeTimes::Millis, r#"{"at":-1,"all":[1500,null],"day":"1970-01-02"}"#),
            (EncodeTimes::Micros, r#"{"at":-1000,"all":[1500000,null],"day":"1970-01-02"}"#),
        ] {
            let (mut json, mut text) = (Vec::new(), String::new());
            let rows = Rows::with(batch.rows(), times);
            rows.write_json(0, &mut json).unwrap();
            assert_eq!(String::from_utf8(json).unwrap(), expected);
            assert!(rows.column(0).unwrap().write_text(0, &mut text) && expected.contains(&text), "{text}");
        }
    }

    #[test]
    fn numbers_that_json_cannot_write_are_null() {
        let column = std::sync::Arc::new(Float64Array::from(vec![f64::NAN, f64::INFINITY, 1e300, -0.0])) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("f", column)]).unwrap();
        assert_eq!(
            [0, 1, 2, 3].map(|row| json(&batch, row)),
            [r#"{"f":null}"#, r#"{"f":null}"#, r#"{"f":1e+300}"#, r#"{"f":-0.0}"#]
        );
    }

    #[test]
    fn bytes_and_json_and_unusual_types_are_written() {
        let schema = super::schema::schema([("b", "binary"), ("j", "json")]).unwrap();
        let b = std::sync::Arc::new(BinaryArray::from(vec![&b"\xff\x00"[..], b""])) as ArrayRef;
        let j = std::sync::Arc::new(StringArray::from(vec![r#"{"a": [1, {}]}"#, "no json"])) as ArrayRef;
        let batch = RecordBatch::try_new(schema, vec![b, j]).unwrap();
        assert_eq!(json(&batch, 0), r#"{"b":"/wA=","j":{"a": [1, {}]}}"#);
        assert_eq!(json(&batch, 1), r#"{"b":"","j":"no json"}"#);
        let span = arrow::array::IntervalYearMonthArray::from(vec![13]);
        let batch = RecordBatch::try_from_iter([("span", std::sync::Arc::new(span) as ArrayRef)]).unwrap();
        assert_eq!(json(&batch, 0), r#"{"span":"1 years 1 mons"}"#);
    }

    #[test]
    fn text_for_a_subject_has_no_quotes() {
        let batch = rows(&[("t", "utf8"), ("n", "int32"), ("f", "float64")], &[r#"{"t":"a b","n":-7,"f":2.5}"#, "{}"]);
        let rows = Rows::of(batch.rows());
        let mut out = String::new();
        for column in 0..3 {
            assert!(rows.column(column).unwrap().write_text(0, &mut out));
            assert!(!rows.column(column).unwrap().write_text(1, &mut out));
            out.push(';');
        }
        assert_eq!(out, "a b;-7;2.5;");
    }
}
