//! A column that is being filled from values of another format, one row at a time, and that can be rolled back.
//!
//! Arrow's own builders cannot take a value back, which is what happens when a row turns out to be wrong half-way, or
//! when a key comes twice and its last value counts.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, BooleanBufferBuilder, Date32Array, Decimal128Array,
    DurationMicrosecondArray, Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, ListArray,
    NullBufferBuilder, StringArray, StructArray, TimestampMicrosecondArray, UInt8Array, UInt16Array, UInt32Array,
    UInt64Array,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, TimeUnit};
use arrow::error::ArrowError;

use super::decode_number::{decimal, exact_int};
use super::schema::{self, describe_type, is_json};
use super::{base64, temporal};

/// Why a value was refused, in words.
pub(super) type Refusal = String;

/// A column under construction.
pub(super) struct Column {
    // As people name it: `address.street`, `tags[]`.
    path: String,
    data_type: DataType,
    nullable: bool,
    valid: NullBufferBuilder,
    values: Values,
}

enum Values {
    Bool(BooleanBufferBuilder),
    Int8(Vec<i8>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    UInt8(Vec<u8>),
    UInt16(Vec<u16>),
    UInt32(Vec<u32>),
    UInt64(Vec<u64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Decimal(Vec<i128>, u8, i8),
    Date(Vec<i32>),
    Timestamp(Vec<i64>),
    Duration(Vec<i64>),
    Text(Pieces),
    Json(Pieces),
    Binary(Pieces),
    List(FieldRef, Vec<i32>, Box<Column>),
    Struct(Columns),
}

/// Pieces of text or bytes, one behind the other.
struct Pieces {
    offsets: Vec<i32>,
    bytes: Vec<u8>,
}

impl Pieces {
    fn new() -> Self {
        Pieces { offsets: vec![0], bytes: Vec::new() }
    }

    /// Closes the piece that was appended to `bytes`.
    fn close(&mut self) -> Result<(), Refusal> {
        let end = i32::try_from(self.bytes.len()).map_err(|_| "a batch holds at most 2 GiB of text".to_owned())?;
        self.offsets.push(end);
        Ok(())
    }

    fn truncate(&mut self, len: usize) {
        self.offsets.truncate(len + 1);
        self.bytes.truncate(self.offsets.last().and_then(|end| usize::try_from(*end).ok()).unwrap_or(0));
    }
}

/// What sort of value a column takes, as far as readers of a format must know before they read it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Text.
    Text,
    /// A whole value as its own JSON text.
    Json,
    /// Numbers, truth values, times: what fits a word.
    Scalar,
    /// A list or a struct.
    Nested,
}

impl Column {
    /// An empty column; `None` if no schema can declare its type.
    pub(super) fn new(field: &Field, path: &str) -> Option<Column> {
        let values = match field.data_type() {
            DataType::Boolean => Values::Bool(BooleanBufferBuilder::new(0)),
            DataType::Int8 => Values::Int8(Vec::new()),
            DataType::Int16 => Values::Int16(Vec::new()),
            DataType::Int32 => Values::Int32(Vec::new()),
            DataType::Int64 => Values::Int64(Vec::new()),
            DataType::UInt8 => Values::UInt8(Vec::new()),
            DataType::UInt16 => Values::UInt16(Vec::new()),
            DataType::UInt32 => Values::UInt32(Vec::new()),
            DataType::UInt64 => Values::UInt64(Vec::new()),
            DataType::Float32 => Values::Float32(Vec::new()),
            DataType::Float64 => Values::Float64(Vec::new()),
            DataType::Decimal128(precision, scale) => Values::Decimal(Vec::new(), *precision, *scale),
            DataType::Date32 => Values::Date(Vec::new()),
            timestamp if *timestamp == schema::timestamp() => Values::Timestamp(Vec::new()),
            DataType::Duration(TimeUnit::Microsecond) => Values::Duration(Vec::new()),
            DataType::Utf8 if is_json(field) => Values::Json(Pieces::new()),
            DataType::Utf8 => Values::Text(Pieces::new()),
            DataType::Binary => Values::Binary(Pieces::new()),
            DataType::List(item) => {
                let items = Column::new(item, &format!("{path}[]"))?;
                Values::List(Arc::clone(item), vec![0], Box::new(items))
            }
            DataType::Struct(fields) => Values::Struct(Columns::new(fields, &format!("{path}."))?),
            _ => return None,
        };
        let (data_type, nullable) = (field.data_type().clone(), field.is_nullable());
        Some(Column { path: path.to_owned(), data_type, nullable, valid: NullBufferBuilder::new(0), values })
    }

    /// How many values there are.
    pub(super) fn len(&self) -> usize {
        self.valid.len()
    }

    /// What readers must know.
    pub(super) fn shape(&self) -> Shape {
        match self.values {
            Values::Text(_) => Shape::Text,
            Values::Json(_) => Shape::Json,
            Values::List(..) | Values::Struct(_) => Shape::Nested,
            _ => Shape::Scalar,
        }
    }

    /// Takes back all values but the first `len`, and what there is of one that was not finished.
    pub(super) fn truncate(&mut self, len: usize) {
        self.valid.truncate(len);
        match &mut self.values {
            Values::Bool(v) => v.truncate(len),
            Values::Int8(v) => v.truncate(len),
            Values::Int16(v) => v.truncate(len),
            Values::Int32(v) | Values::Date(v) => v.truncate(len),
            Values::Int64(v) | Values::Timestamp(v) | Values::Duration(v) => v.truncate(len),
            Values::UInt8(v) => v.truncate(len),
            Values::UInt16(v) => v.truncate(len),
            Values::UInt32(v) => v.truncate(len),
            Values::UInt64(v) => v.truncate(len),
            Values::Float32(v) => v.truncate(len),
            Values::Float64(v) => v.truncate(len),
            Values::Decimal(v, ..) => v.truncate(len),
            Values::Text(v) | Values::Json(v) | Values::Binary(v) => v.truncate(len),
            Values::List(_, offsets, items) => {
                offsets.truncate(len + 1);
                items.truncate(offsets.last().and_then(|end| usize::try_from(*end).ok()).unwrap_or(0));
            }
            Values::Struct(columns) => columns.truncate(len),
        }
    }

    /// The words for a value of another kind.
    pub(super) fn refuse(&self, got: impl std::fmt::Display) -> Refusal {
        let kind = if matches!(self.values, Values::Json(_)) { "json".to_owned() } else { describe_type(&self.data_type) };
        format!("`{}` must be {kind}, not {got}", self.path)
    }

    fn out_of_range(&self, number: impl std::fmt::Display) -> Refusal {
        format!("`{}` is {}, and {number} does not fit", self.path, describe_type(&self.data_type))
    }

    /// Appends a null.
    pub(super) fn put_null(&mut self) -> Result<(), Refusal> {
        if !self.nullable {
            return Err(format!("`{}` must not be null", self.path));
        }
        self.fill();
        Ok(())
    }

    /// Appends a null for what the message does not have.
    pub(super) fn put_missing(&mut self) -> Result<(), Refusal> {
        self.put_null().map_err(|_| format!("`{}` is missing", self.path))
    }

    /// Appends a null, though there may be none: for what is inside of a null.
    fn fill(&mut self) {
        match &mut self.values {
            Values::Bool(v) => v.append(false),
            Values::Int8(v) => v.push(0),
            Values::Int16(v) => v.push(0),
            Values::Int32(v) | Values::Date(v) => v.push(0),
            Values::Int64(v) | Values::Timestamp(v) | Values::Duration(v) => v.push(0),
            Values::UInt8(v) => v.push(0),
            Values::UInt16(v) => v.push(0),
            Values::UInt32(v) => v.push(0),
            Values::UInt64(v) => v.push(0),
            Values::Float32(v) => v.push(0.0),
            Values::Float64(v) => v.push(0.0),
            Values::Decimal(v, ..) => v.push(0),
            Values::Text(v) | Values::Json(v) | Values::Binary(v) => v.offsets.extend(v.offsets.last().copied()),
            Values::List(_, offsets, _) => offsets.extend(offsets.last().copied()),
            Values::Struct(columns) => columns.columns.iter_mut().for_each(Column::fill),
        }
        self.valid.append_null();
    }

    /// Appends a truth value.
    pub(super) fn put_bool(&mut self, value: bool) -> Result<(), Refusal> {
        let Values::Bool(v) = &mut self.values else { return Err(self.refuse(value)) };
        v.append(value);
        self.valid.append_non_null();
        Ok(())
    }

    /// Appends a whole number. Columns of times take microseconds.
    pub(super) fn put_int(&mut self, value: i128) -> Result<(), Refusal> {
        macro_rules! push {
            ($values:expr) => {
                value.try_into().map(|value| $values.push(value)).is_ok()
            };
        }
        let fits = match &mut self.values {
            Values::Int8(v) => push!(v),
            Values::Int16(v) => push!(v),
            Values::Int32(v) => push!(v),
            Values::Int64(v) | Values::Timestamp(v) | Values::Duration(v) => push!(v),
            Values::UInt8(v) => push!(v),
            Values::UInt16(v) => push!(v),
            Values::UInt32(v) => push!(v),
            Values::UInt64(v) => push!(v),
            #[expect(clippy::cast_possible_truncation, reason = "a number that is declared floating-point is rounded")]
            Values::Float32(v) => {
                v.push(value as f64 as f32);
                true
            }
            Values::Float64(v) => {
                v.push(value as f64);
                true
            }
            Values::Decimal(..) => return self.put_decimal(&value.to_string()),
            _ => return Err(self.refuse(format_args!("the number {value}"))),
        };
        if !fits {
            return Err(self.out_of_range(value));
        }
        self.valid.append_non_null();
        Ok(())
    }

    /// Appends a floating-point number; a column of whole numbers takes it if it is whole.
    pub(super) fn put_float(&mut self, value: f64) -> Result<(), Refusal> {
        match &mut self.values {
            Values::Float64(v) => v.push(value),
            #[expect(clippy::cast_possible_truncation, reason = "checked below")]
            Values::Float32(v) => {
                if value.is_finite() && !(value as f32).is_finite() {
                    return Err(self.out_of_range(value));
                }
                v.push(value as f32);
            }
            Values::Decimal(..) => return self.put_decimal(&value.to_string()),
            Values::Bool(_) | Values::Date(_) | Values::Text(_) | Values::Json(_) | Values::Binary(_) => {
                return Err(self.refuse(format_args!("the number {value}")));
            }
            Values::List(..) | Values::Struct(_) => return Err(self.refuse(format_args!("the number {value}"))),
            _ => match exact_int(value) {
                Some(whole) => return self.put_int(whole.into()),
                None => return Err(self.refuse(format_args!("the number {value}"))),
            },
        }
        self.valid.append_non_null();
        Ok(())
    }

    /// Appends a number as it is written in JSON.
    pub(super) fn put_number(&mut self, text: &str) -> Result<(), Refusal> {
        match &mut self.values {
            Values::Float64(v) => match text.parse::<f64>() {
                Ok(value) if value.is_finite() => v.push(value),
                _ => return Err(self.out_of_range(text)),
            },
            // Not by way of 64 bits, which would round twice.
            Values::Float32(v) => match text.parse::<f32>() {
                Ok(value) if value.is_finite() => v.push(value),
                _ => return Err(self.out_of_range(text)),
            },
            Values::Int64(v) => match text.parse() {
                Ok(value) => v.push(value),
                Err(_) => return self.put_odd_number(text),
            },
            Values::Decimal(..) => return self.put_decimal(text),
            _ => return self.put_odd_number(text),
        }
        self.valid.append_non_null();
        Ok(())
    }

    fn put_odd_number(&mut self, text: &str) -> Result<(), Refusal> {
        if self.shape() != Shape::Scalar || matches!(self.values, Values::Bool(_) | Values::Date(_) | Values::Binary(_)) {
            return Err(self.refuse(format_args!("the number {text}")));
        }
        if let Ok(value) = text.parse::<i128>() {
            return self.put_int(value);
        }
        let whole = !text.contains(['.', 'e', 'E']);
        match text.parse::<f64>().ok().and_then(exact_int) {
            Some(value) if !whole => self.put_int(value.into()),
            _ if whole => Err(self.out_of_range(text)),
            _ => Err(self.refuse(format_args!("the number {text}"))),
        }
    }

    fn put_decimal(&mut self, text: &str) -> Result<(), Refusal> {
        let Values::Decimal(v, precision, scale) = &mut self.values else { return Err(self.refuse(text)) };
        match decimal(text, *precision, *scale) {
            Ok(value) => v.push(value),
            Err(why) => return Err(format!("`{}` is {}, and {text} {why}", self.path, describe_type(&self.data_type))),
        }
        self.valid.append_non_null();
        Ok(())
    }

    /// Appends text; columns of times, dates, decimals and bytes read it.
    pub(super) fn put_text(&mut self, text: &str) -> Result<(), Refusal> {
        let read = match &mut self.values {
            Values::Text(v) => {
                v.bytes.extend_from_slice(text.as_bytes());
                v.close()?;
                true
            }
            Values::Date(v) => temporal::parse_date(text).map(|day| v.push(day)).is_some(),
            Values::Timestamp(v) => temporal::parse_timestamp(text).map(|at| v.push(at)).is_some(),
            Values::Decimal(..) => return self.put_decimal(text),
            Values::Binary(v) => {
                let read = base64::decode(text, &mut v.bytes).is_some();
                if read {
                    v.close()?;
                }
                read
            }
            _ => false,
        };
        if !read {
            let shown: String = text.chars().take(40).collect();
            let help = match self.values {
                Values::Timestamp(_) => ": write it as 2026-01-31T12:00:00Z, with its zone",
                Values::Date(_) => ": write it as 2026-01-31",
                Values::Binary(_) => ": write it in base64",
                _ => "",
            };
            return Err(self.refuse(format_args!("the text {shown:?}{help}")));
        }
        self.valid.append_non_null();
        Ok(())
    }

    /// Appends bytes.
    pub(super) fn put_bytes(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let Values::Binary(v) = &mut self.values else {
            return Err(self.refuse(format_args!("{} bytes that are no text", bytes.len())));
        };
        v.bytes.extend_from_slice(bytes);
        v.close()?;
        self.valid.append_non_null();
        Ok(())
    }

    /// Appends a value as its JSON text.
    pub(super) fn put_json(&mut self, json: &str) -> Result<(), Refusal> {
        let Values::Json(v) = &mut self.values else { return Err(self.refuse("json")) };
        v.bytes.extend_from_slice(json.as_bytes());
        v.close()?;
        self.valid.append_non_null();
        Ok(())
    }

    /// The column of a list's items, if this is one of lists; call [`Column::close_list`] behind the last.
    pub(super) fn items(&mut self) -> Option<&mut Column> {
        match &mut self.values {
            Values::List(_, _, items) => Some(items),
            _ => None,
        }
    }

    /// Closes a list.
    pub(super) fn close_list(&mut self) -> Result<(), Refusal> {
        if let Values::List(_, offsets, items) = &mut self.values {
            let end = i32::try_from(items.len());
            offsets.push(end.map_err(|_| "a batch holds at most 2 billion items".to_owned())?);
            self.valid.append_non_null();
        }
        Ok(())
    }

    /// The columns of a struct's fields, if this is one of structs; call [`Column::close_struct`] behind the last.
    pub(super) fn fields(&mut self) -> Option<&mut Columns> {
        match &mut self.values {
            Values::Struct(columns) => Some(columns),
            _ => None,
        }
    }

    /// Closes a struct.
    pub(super) fn close_struct(&mut self) -> Result<(), Refusal> {
        let row = self.len();
        if let Some(fields) = self.fields() {
            fields.close_row(row)?;
        }
        self.valid.append_non_null();
        Ok(())
    }

    /// The array of all values; the column is empty afterwards.
    pub(super) fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let nulls = self.valid.finish();
        macro_rules! primitive {
            ($array:ty, $values:expr) => {
                Arc::new(<$array>::new(ScalarBuffer::from(std::mem::take($values)), nulls)) as ArrayRef
            };
        }
        macro_rules! pieces {
            ($array:ty, $pieces:expr) => {{
                let Pieces { offsets, bytes } = std::mem::replace($pieces, Pieces::new());
                Arc::new(<$array>::try_new(OffsetBuffer::new(offsets.into()), bytes.into(), nulls)?) as ArrayRef
            }};
        }
        Ok(match &mut self.values {
            Values::Bool(v) => Arc::new(BooleanArray::new(v.finish(), nulls)),
            Values::Int8(v) => primitive!(Int8Array, v),
            Values::Int16(v) => primitive!(Int16Array, v),
            Values::Int32(v) => primitive!(Int32Array, v),
            Values::Int64(v) => primitive!(Int64Array, v),
            Values::UInt8(v) => primitive!(UInt8Array, v),
            Values::UInt16(v) => primitive!(UInt16Array, v),
            Values::UInt32(v) => primitive!(UInt32Array, v),
            Values::UInt64(v) => primitive!(UInt64Array, v),
            Values::Float32(v) => primitive!(Float32Array, v),
            Values::Float64(v) => primitive!(Float64Array, v),
            Values::Date(v) => primitive!(Date32Array, v),
            Values::Duration(v) => primitive!(DurationMicrosecondArray, v),
            Values::Timestamp(v) => {
                let array = TimestampMicrosecondArray::new(ScalarBuffer::from(std::mem::take(v)), nulls);
                Arc::new(array.with_timezone(schema::UTC))
            }
            Values::Decimal(v, precision, scale) => {
                let array = Decimal128Array::new(ScalarBuffer::from(std::mem::take(v)), nulls);
                Arc::new(array.with_precision_and_scale(*precision, *scale)?)
            }
            Values::Text(v) | Values::Json(v) => pieces!(StringArray, v),
            Values::Binary(v) => pieces!(BinaryArray, v),
            Values::List(field, offsets, items) => {
                let offsets = OffsetBuffer::new(std::mem::replace(offsets, vec![0]).into());
                Arc::new(ListArray::try_new(Arc::clone(field), offsets, items.finish()?, nulls)?)
            }
            Values::Struct(columns) => {
                let arrays = columns.finish()?;
                Arc::new(StructArray::try_new(columns.fields.clone(), arrays, nulls)?)
            }
        })
    }
}

/// Named columns that are filled together: those of a row, or of a struct.
pub(super) struct Columns {
    fields: Fields,
    columns: Vec<Column>,
    // Objects tend to have their keys in one order: the next one is looked for behind the last.
    next: usize,
}

impl Columns {
    /// Empty columns; `None` if no schema can declare one of the types.
    pub(super) fn new(fields: &Fields, prefix: &str) -> Option<Columns> {
        let columns = fields.iter().map(|field| Column::new(field, &format!("{prefix}{}", field.name())));
        Some(Columns { fields: fields.clone(), columns: columns.collect::<Option<_>>()?, next: 0 })
    }

    /// The place of the column of this name.
    pub(super) fn find(&mut self, name: &str) -> Option<usize> {
        let fields = self.fields.iter().enumerate();
        let mut turned = fields.clone().skip(self.next).chain(fields.take(self.next));
        let found = turned.find(|(_, field)| field.name() == name).map(|(place, _)| place)?;
        self.next = (found + 1) % self.fields.len().max(1);
        Some(found)
    }

    /// The column at a place, ready for its value in row `row`: an earlier value of that row is taken back.
    pub(super) fn begin(&mut self, place: usize, row: usize) -> Option<&mut Column> {
        let column = self.columns.get_mut(place)?;
        if column.len() > row {
            column.truncate(row);
        }
        Some(column)
    }

    /// Fills the columns that row `row` has no value for.
    pub(super) fn close_row(&mut self, row: usize) -> Result<(), Refusal> {
        self.next = 0;
        self.columns.iter_mut().filter(|column| column.len() <= row).try_for_each(Column::put_missing)
    }

    /// Takes back all rows but the first `len`.
    pub(super) fn truncate(&mut self, len: usize) {
        self.next = 0;
        self.columns.iter_mut().for_each(|column| column.truncate(len));
    }

    /// The arrays of all columns, which are empty afterwards.
    pub(super) fn finish(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        self.columns.iter_mut().map(Column::finish).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Array;
    use crate::columnar::tests::lines;
    use arrow::array::RecordBatch;

    fn columns(declared: &[(&str, &str)]) -> (Columns, arrow::datatypes::SchemaRef) {
        let schema = schema::schema(declared.iter().copied()).unwrap();
        (Columns::new(schema.fields(), "").unwrap(), schema)
    }

    #[test]
    fn a_row_that_is_taken_back_leaves_nothing_behind() {
        let (mut columns, schema) =
            columns(&[("t", "utf8"), ("l", "list<utf8>"), ("s", "struct<a: int8 not null, b: list<bool>>")]);
        for row in 0..3usize {
            // The second row is filled half-way and taken back.
            let at = row.min(1);
            columns.begin(0, at).unwrap().put_text(&format!("row {row}")).unwrap();
            let list = columns.begin(1, at).unwrap();
            list.items().unwrap().put_text("x").unwrap();
            list.items().unwrap().put_null().unwrap();
            if row == 1 {
                columns.begin(2, at).unwrap().fields().unwrap().begin(0, at).unwrap().put_int(1).unwrap();
                columns.truncate(1);
                continue;
            }
            list.close_list().unwrap();
            columns.close_row(at).unwrap();
        }
        let rows = RecordBatch::try_new(schema, columns.finish().unwrap()).unwrap();
        assert_eq!(lines(&rows), [
            serde_json::json!({"t": "row 0", "l": ["x", null], "s": null}),
            serde_json::json!({"t": "row 2", "l": ["x", null], "s": null}),
        ]);
    }

    #[test]
    fn numbers_fit_or_are_refused() {
        for (kind, good, bad) in [
            ("int8", vec!["127", "-128", "1.0", "1e2", "-0"], vec!["128", "1.5", "1e400", "99999999999999999999999999999999999999999"]),
            ("uint64", vec!["18446744073709551615", "0"], vec!["-1", "18446744073709551616", "1e19"]),
            ("int64", vec!["-9223372036854775808", "9007199254740991.0"], vec!["9223372036854775808", "9007199254740993.0"]),
            ("float64", vec!["1e308", "-0.0", "5e-324", "123456789012345678901234567890"], vec!["1e309", "-1e400"]),
            ("float32", vec!["3.4e38"], vec!["3.5e38"]),
            ("decimal(5, 2)", vec!["999.99", "-0.01", "1e2", "1.500"], vec!["1000", "0.001", "1e999999999999", "1e3"]),
            ("timestamp", vec!["1767268800000000", "-1"], vec!["1.5", "9223372036854775808"]),
            ("utf8", vec![], vec!["1"]),
            ("bool", vec![], vec!["1"]),
            ("date", vec![], vec!["1"]),
        ] {
            for (numbers, fits) in [(good, true), (bad, false)] {
                for number in numbers {
                    let mut column = Column::new(&schema::parse_field("x", kind).unwrap(), "x").unwrap();
                    let put = column.put_number(number);
                    assert_eq!(put.is_ok(), fits, "{kind} {number}: {put:?}");
                    assert_eq!(column.finish().unwrap().len(), usize::from(fits), "{kind} {number}");
                }
            }
        }
    }

    #[test]
    fn a_key_that_comes_twice_counts_with_its_last_value() {
        let (mut columns, schema) = columns(&[("n", "int64"), ("t", "utf8")]);
        for n in 1..=3 {
            columns.begin(0, 0).unwrap().put_int(n).unwrap();
        }
        columns.close_row(0).unwrap();
        let rows = RecordBatch::try_new(schema, columns.finish().unwrap()).unwrap();
        assert_eq!(lines(&rows), [serde_json::json!({"n": 3, "t": null})]);
    }

    #[test]
    fn refusals_name_the_place() {
        let (mut columns, _) = columns(&[("s", "struct<a: list<int8 not null>>")]);
        let list = columns.begin(0, 0).unwrap().fields().unwrap().begin(0, 0).unwrap();
        assert_eq!(list.items().unwrap().put_null().unwrap_err(), "`s.a[]` must not be null");
        assert_eq!(list.items().unwrap().put_text("x").unwrap_err(), "`s.a[]` must be int8, not the text \"x\"");
        assert_eq!(list.put_bool(true).unwrap_err(), "`s.a` must be list<int8 not null>, not true");
    }
}
