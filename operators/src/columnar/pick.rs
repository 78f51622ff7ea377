//! [`Picked`]: the rows of columns that stay.
//!
//! Arrow looks through a mask once for a batch as well, bit by bit; word by word it costs a part of that, and the same
//! places do for the times and origins beside the columns. Columns other than numbers without nulls are left to Arrow.

use std::cell::OnceCell;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray, RecordBatch, RecordBatchOptions,
};
use arrow::compute::{FilterBuilder, FilterPredicate};
use arrow::datatypes::{
    DataType, Date32Type, DurationMicrosecondType, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType, UInt32Type, UInt64Type,
};
use arrow::error::ArrowError;

/// Which rows stay, and how to pick them.
pub(super) struct Picked<'a> {
    /// True for the rows that stay, and never null.
    stay: &'a BooleanArray,
    kept: usize,
    places: Places,
    // What Arrow makes of it, once a column needs it.
    predicate: OnceCell<FilterPredicate>,
}

/// Where the rows are that stay.
enum Places {
    /// Where each run begins and where it ends, one after the other; the end of the last may be left out.
    Runs(Vec<u32>),
    /// Each row by itself.
    Rows(Vec<u32>),
}

// A short run is copied as a block of fixed size, of which what is too much is taken back: a copy of any size is a call,
// and a guess at the size that is often wrong.
const BLOCK: usize = 16;

// Runs of fewer rows than this are not worth a copy each.
const WORTH_A_RUN: usize = 4;

impl<'a> Picked<'a> {
    /// The `kept` rows for which `stay`, which has no nulls, is true.
    pub(super) fn new(stay: &'a BooleanArray, kept: usize) -> Self {
        let chunks = stay.values().bit_chunks();
        let words = || chunks.iter_padded();
        let runs: usize = edges_in(words()).map(|(_, begun)| begun.count_ones() as usize).sum();
        let places = match kept < runs * WORTH_A_RUN {
            true => Places::Rows(places_in(words(), kept)),
            false => Places::Runs(places_in(edges_in(words()).map(|(edges, _)| edges), 2 * runs)),
        };
        Picked { stay, kept, places, predicate: OnceCell::new() }
    }

    /// The values of the rows that stay.
    pub(super) fn values<T: Copy>(&self, values: &[T]) -> Vec<T> {
        let mut picked = Vec::with_capacity(self.kept + BLOCK);
        match &self.places {
            Places::Rows(rows) => picked.extend(rows.iter().filter_map(|row| values.get(*row as usize).copied())),
            Places::Runs(edges) => {
                let (runs, open) = edges.as_chunks();
                for [from, to] in runs {
                    pick_run(values, *from as usize, *to as usize, &mut picked);
                }
                if let [from] = open {
                    pick_run(values, *from as usize, values.len(), &mut picked);
                }
            }
        }
        picked
    }

    /// As [`values`](Self::values), of values that are ours. Those of rows that came in one message are often all the
    /// same; then none has to move.
    pub(super) fn owned<T: Copy + PartialEq>(&self, mut values: Vec<T>) -> Vec<T> {
        // Counted without a branch, so that many are compared at once.
        let others = values.first().map_or(0, |first| values.iter().map(|value| usize::from(value != first)).sum());
        if others > 0 {
            return self.values(&values);
        }
        values.truncate(self.kept);
        values
    }

    /// The rows that stay.
    pub(super) fn rows(&self, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let columns = rows.columns().iter().map(|column| self.column(column)).collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(self.kept));
        RecordBatch::try_new_with_options(rows.schema(), columns, &options)
    }

    fn column(&self, column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
        let picked = match column.data_type() {
            _ if column.null_count() > 0 => None,
            DataType::Int64 => self.numbers::<Int64Type>(column),
            DataType::Float64 => self.numbers::<Float64Type>(column),
            DataType::Timestamp(TimeUnit::Microsecond, _) => self.numbers::<TimestampMicrosecondType>(column),
            DataType::UInt64 => self.numbers::<UInt64Type>(column),
            DataType::Int32 => self.numbers::<Int32Type>(column),
            DataType::Float32 => self.numbers::<Float32Type>(column),
            DataType::UInt32 => self.numbers::<UInt32Type>(column),
            DataType::Date32 => self.numbers::<Date32Type>(column),
            DataType::Duration(TimeUnit::Microsecond) => self.numbers::<DurationMicrosecondType>(column),
            _ => None,
        };
        match picked {
            Some(picked) => Ok(picked),
            None => self.predicate.get_or_init(|| FilterBuilder::new(self.stay).optimize().build()).filter(column),
        }
    }

    fn numbers<T: ArrowPrimitiveType>(&self, column: &ArrayRef) -> Option<ArrayRef> {
        let column = column.as_primitive_opt::<T>()?;
        let picked = PrimitiveArray::<T>::new(self.values(column.values()).into(), None);
        Some(Arc::new(picked.with_data_type(column.data_type().clone())))
    }
}

#[inline(always)]
fn pick_run<T: Copy>(values: &[T], from: usize, to: usize, picked: &mut Vec<T>) {
    let (rest, rows) = (values.get(from..).unwrap_or_default(), to - from);
    match rest.first_chunk::<BLOCK>().filter(|_| rows <= BLOCK) {
        Some(block) => {
            let end = picked.len() + rows;
            picked.extend_from_slice(block);
            picked.truncate(end);
        }
        None => picked.extend_from_slice(rest.get(..rows).unwrap_or_default()),
    }
}

/// For each word its bits where a run begins or ends, and those where one begins.
fn edges_in(words: impl Iterator<Item = u64>) -> impl Iterator<Item = (u64, u64)> {
    let mut last = 0;
    words.map(move |word| {
        let edges = word ^ (word << 1 | last);
        last = word >> 63;
        (edges, edges & word)
    })
}

/// The places of the bits that are set.
fn places_in(words: impl Iterator<Item = u64>, count: usize) -> Vec<u32> {
    let mut places = Vec::with_capacity(count);
    for (base, mut word) in (0..).step_by(64).zip(words) {
        while word != 0 {
            places.push(base + word.trailing_zeros());
            word &= word - 1;
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};
    use arrow::compute::filter_record_batch;
    use arrow::datatypes::{Field, Schema};
    use proptest::prelude::*;

    use super::*;
    use crate::columnar::schema::UTC;

    fn rows(count: usize) -> RecordBatch {
        let n = || 0..count as i64;
        let columns: [(&str, ArrayRef); 6] = [
            ("n", Arc::new(Int64Array::from_iter_values(n()))),
            ("small", Arc::new(Int32Array::from_iter_values(n().map(|n| n as i32)))),
            ("half", Arc::new(Float64Array::from_iter_values(n().map(|n| n as f64 / 2.0)))),
            ("at", Arc::new(TimestampMicrosecondArray::from_iter_values(n()).with_timezone(UTC))),
            ("perhaps", Arc::new(n().map(|n| (n % 3 > 0).then_some(n)).collect::<Int64Array>())),
            ("text", Arc::new(StringArray::from_iter_values(n().map(|n| n.to_string())))),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
    }

    /// Masks of long runs, of short ones and of both.
    fn masks() -> impl Strategy<Value = Vec<bool>> {
        let runs = prop::collection::vec((prop_oneof![1usize..4, 5usize..40, 50usize..200], any::<bool>()), 1..12);
        let mixed = runs.prop_map(|runs| runs.iter().flat_map(|(rows, stay)| vec![*stay; *rows]).collect());
        prop_oneof![mixed, prop::collection::vec(any::<bool>(), 1..300)]
    }

    proptest! {
        #[test]
        fn what_is_picked_is_what_arrow_filters(mask in masks(), skip in 0usize..70) {
            let skip = skip.min(mask.len() - 1);
            // Columns and a mask that begin within a byte and a word, as those of a slice do.
            let (rows, all) = (rows(mask.len()), BooleanArray::from(mask));
            let (rows, all) = (rows.slice(skip, all.len() - skip), all.slice(skip, all.len() - skip));
            let picked = Picked::new(&all, all.true_count()).rows(&rows).unwrap();
            prop_assert_eq!(picked, filter_record_batch(&rows, &all).unwrap());
        }
    }

    #[test]
    fn values_that_are_all_the_same_stay_where_they_are() {
        let stay = BooleanArray::from(vec![true, false, true]);
        let picked = Picked::new(&stay, 2);
        let same = vec![7, 7, 7];
        let place = same.as_ptr();
        let kept = picked.owned(same);
        assert_eq!((kept.as_slice(), kept.as_ptr()), (&[7, 7][..], place));
        assert_eq!(picked.owned(vec![7, 8, 9]), [7, 9]);
        assert_eq!(picked.owned(vec![7, 7, 9]), [7, 9]);
    }

    #[test]
    fn rows_without_columns_are_counted() {
        let options = RecordBatchOptions::new().with_row_count(Some(3));
        let schema = Arc::new(Schema::new(Vec::<Field>::new()));
        let rows = RecordBatch::try_new_with_options(schema, Vec::new(), &options).unwrap();
        let stay = BooleanArray::from(vec![true, false, true]);
        assert_eq!(Picked::new(&stay, 2).rows(&rows).unwrap().num_rows(), 2);
    }
}
