//! [`ValueRows`]: rows of columns as bytes, one by one, as they are while they are outside of memory.

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, Rows, SortField};

use crate::{Fault, Result};

/// Makes bytes of rows with certain columns, and columns of the bytes. They are never saved: what they look like is Arrow's own
/// affair.
pub(super) struct ValueRows(RowConverter);

impl ValueRows {
    /// `None` if columns of these types have no such bytes, or come back from them as something else.
    pub(super) fn of<'a>(types: impl Iterator<Item = &'a DataType>) -> Option<Self> {
        let types: Vec<DataType> = types.cloned().collect();
        let fields: Vec<SortField> = types.iter().cloned().map(SortField::new).collect();
        if fields.is_empty() || !RowConverter::supports_fields(&fields) {
            return None;
        }
        let converter = RowConverter::new(fields).ok()?;
        let back = converter.convert_rows(std::iter::empty()).ok()?;
        back.iter().map(Array::data_type).eq(types.iter()).then_some(ValueRows(converter))
    }

    /// The bytes of rows.
    pub(super) fn bytes(&self, columns: &[ArrayRef]) -> Result<Rows> {
        self.0.convert_columns(columns).map_err(|error| Fault::bug("cannot write rows of state").because(error))
    }

    /// The rows of bytes.
    pub(super) fn columns<'a>(&self, rows: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>> {
        let parser = self.0.parser();
        let columns = self.0.convert_rows(rows.into_iter().map(|row| parser.parse(row)));
        columns.map_err(|error| Fault::bug("cannot read rows of state").because(error))
    }
}
