//! How many bytes rows take: wide ones must not be put together until a column has more than its offsets can tell.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;

/// Bytes of rows that are put together, at most; a row that has more stands alone.
pub(super) const HEAVY: usize = 8 << 20;

/// The bytes of all rows.
pub(super) fn weight(rows: &RecordBatch) -> usize {
    let bytes = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or_default();
    rows.columns().iter().map(bytes).sum()
}

/// The bytes that no row has more of.
pub(super) fn widest(rows: &RecordBatch) -> usize {
    rows.columns().iter().map(|column| widest_of(column)).sum()
}

fn widest_of(array: &dyn Array) -> usize {
    match array.data_type() {
        DataType::Utf8 => longest(array.as_string::<i32>().value_offsets()),
        DataType::Binary => longest(array.as_binary::<i32>().value_offsets()),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            longest(list.value_offsets()).saturating_mul(widest_of(list.values()))
        }
        DataType::Struct(_) => array.as_struct().columns().iter().map(|column| widest_of(column)).sum(),
        _ => fixed(array),
    }
}

/// The bytes of a row.
pub(super) fn width(rows: &RecordBatch, row: usize) -> usize {
    rows.columns().iter().map(|column| width_of(column, row)).sum()
}

fn width_of(array: &dyn Array, row: usize) -> usize {
    let length = |length: i32| usize::try_from(length).unwrap_or_default();
    match array.data_type() {
        DataType::Utf8 => length(array.as_string::<i32>().value_length(row)),
        DataType::Binary => length(array.as_binary::<i32>().value_length(row)),
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            (0..items.len()).map(|item| width_of(&items, item)).sum()
        }
        DataType::Struct(_) => array.as_struct().columns().iter().map(|column| width_of(column, row)).sum(),
        _ => fixed(array),
    }
}

/// Of types whose values are all of one width, that; of others all that there is.
fn fixed(array: &dyn Array) -> usize {
    let all = || array.to_data().get_slice_memory_size().unwrap_or_default();
    array.data_type().primitive_width().unwrap_or_else(all)
}

fn longest(offsets: &[i32]) -> usize {
    let longest = offsets.iter().zip(offsets.iter().skip(1)).map(|(start, end)| end - start).max();
    longest.and_then(|longest| usize::try_from(longest).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use crate::columnar::tests::rows;

    #[test]
    fn a_row_is_as_wide_as_its_texts_and_lists() {
        let columns = &[("n", "int64"), ("text", "utf8"), ("list", "list<struct<a: int32, b: utf8>>")];
        let lines =
            [r#"{"n":1,"text":"abc","list":[{"a":1,"b":"xy"},{"a":2,"b":"z"}]}"#, r#"{"n":2,"text":"abcdefgh"}"#];
        let rows = rows(columns, &lines).into_parts().rows;
        assert_eq!([0, 1].map(|row| super::width(&rows, row)), [8 + 3 + (4 + 2) + (4 + 1), 8 + 8]);
        assert_eq!(super::widest(&rows), 8 + 8 + 2 * (4 + 2));
    }
}
