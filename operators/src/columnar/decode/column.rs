//! A column that is being filled from values of another format, one row at a time, and that can be rolled back.
//!
//! Arrow's own builders cannot take a value back, which is what happens when a row turns out to be wrong half-way, or
//! when a key comes twice and its last value counts.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, BooleanBufferBuilder, Date32Array, Decimal128Array, DurationMicrosecondArray,
    Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, ListArray, NullBufferBuilder,
    StringArray, StructArray, TimestampMicrosecondArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use arrow::error::ArrowError;

use super::columns::Columns;
use crate::columnar::schema::{self, describe_type, is_json};

/// Why a value was refused, in words.
pub(super) type Refusal = String;

/// A column under construction.
pub(super) struct Column {
    // As people name it: `address.street`, `tags[]`.
    pub(super) path: String,
    pub(super) data_type: DataType,
    nullable: bool,
    /// Of a column of times, the microseconds that 1 stands for.
    pub(super) unit: i64,
    pub(super) valid: NullBufferBuilder,
    pub(super) values: Values,
}

pub(super) enum Values {
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
pub(super) struct Pieces {
    pub(super) offsets: Vec<i32>,
    pub(super) bytes: Vec<u8>,
}

impl Pieces {
    fn new() -> Self {
        Pieces { offsets: vec![0], bytes: Vec::new() }
    }

    /// Closes the piece that was appended to `bytes`.
    pub(super) fn close(&mut self) -> Result<(), Refusal> {
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
        let (data_type, nullable, unit) = (field.data_type().clone(), field.is_nullable(), schema::time_unit(field));
        Some(Column { path: path.to_owned(), data_type, nullable, unit, valid: NullBufferBuilder::new(0), values })
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
        let kind =
            if matches!(self.values, Values::Json(_)) { "json".to_owned() } else { describe_type(&self.data_type) };
        format!("`{}` must be {kind}, not {got}", self.path)
    }

    pub(super) fn out_of_range(&self, number: impl std::fmt::Display) -> Refusal {
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
    pub(super) fn fill(&mut self) {
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
            Values::Struct(columns) => columns.fill(),
        }
        self.valid.append_null();
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
                Arc::new(StructArray::try_new(columns.fields().clone(), arrays, nulls)?)
            }
        })
    }
}
