//! [`RecordBatch`] as a [`Payload`], and [`keep`]: some rows of a batch with all that belongs to them.

use arrow::array::{Array, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{prep_null_mask_filter, take_record_batch};

use super::pick::Picked;
use crate::batch::scaled;
use crate::{Batch, Fault, Parts, Payload, Result, Times};

impl Payload for RecordBatch {
    fn len(&self) -> usize {
        self.num_rows()
    }

    /// One `take` a part; a part that gets every row shares the columns.
    fn scatter(self, to: &[u32], parts: usize) -> Vec<Self> {
        let mut rows_of: Vec<Vec<u32>> = vec![Vec::new(); parts];
        for (row, part) in (0u32..).zip(to.iter().take(self.num_rows())) {
            if let Some(rows) = rows_of.get_mut(*part as usize) {
                rows.push(row);
            }
        }
        let dealt = rows_of.into_iter().map(|rows| match rows.len() {
            0 => RecordBatch::new_empty(self.schema()),
            all if all == self.num_rows() => self.clone(),
            // `take` fails for indices beyond the end and for text beyond 2 GiB; these rows were in one batch.
            _ => take_record_batch(&self, &UInt32Array::from(rows))
                .unwrap_or_else(|_| RecordBatch::new_empty(self.schema())),
        });
        dealt.collect()
    }

    /// Two views of the same columns: nothing is copied.
    fn split_off(&mut self, at: usize) -> Self {
        let at = at.min(self.num_rows());
        let tail = self.slice(at, self.num_rows() - at);
        *self = self.slice(0, at);
        tail
    }
}

/// The rows for which `mask` is true, with their times, origins and share of the weight; null counts as false.
///
/// It costs nothing when every row passes.
///
/// # Errors
/// A fault when `mask` is not as long as the batch.
pub fn keep(batch: Batch<RecordBatch>, mask: &BooleanArray) -> Result<Batch<RecordBatch>> {
    let before = batch.len();
    if mask.len() != before {
        return Err(Fault::bug(format!("a mask of {} rows for a batch of {before}", mask.len())));
    }
    let kept = mask.true_count();
    if kept == before {
        return Ok(batch);
    }
    let Parts { mut times, rows, mut origins, weight } = batch.into_parts();
    if kept == 0 {
        let rows = RecordBatch::new_empty(rows.schema());
        let origins = origins.map(|origins| origins.select([]));
        return Batch::from_parts(Parts { times: Times::default(), rows, origins, weight: 0 });
    }
    let certain = if mask.null_count() > 0 { prep_null_mask_filter(mask) } else { mask.clone() };
    let picked = Picked::new(&certain, kept);
    match times.as_same() {
        Some(_) => times.truncate(kept),
        None => times = picked.owned(times.into_vec()).into(),
    }
    if let Some(origins) = &mut origins {
        let of_row = origins.rows_mut();
        *of_row = picked.owned(std::mem::take(of_row));
    }
    let rows = picked.rows(&rows).map_err(|error| Fault::bug("cannot filter").because(error))?;
    Batch::from_parts(Parts { times, rows, origins, weight: scaled(weight, kept, before) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columnar::tests::{ints, numbered_batch};
    use crate::origin::tests::numbered;

    fn sequences(batch: &Batch<RecordBatch>) -> Vec<u64> {
        (0..batch.len()).map(|row| batch.origins().unwrap().get(row).unwrap().sequence).collect()
    }

    #[test]
    fn scatter_deals_rows_with_their_times_and_origins() {
        let batch = numbered_batch(5).with_origins(numbered(5)).unwrap().weighing(50);
        let parts = batch.scatter(&[1, 0, 1, 2, 1], 4);
        assert_eq!(
            parts.iter().map(|part| ints(part.rows(), "n")).collect::<Vec<_>>(),
            [vec![1], vec![0, 2, 4], vec![3], vec![]]
        );
        assert_eq!(sequences(&parts[1]), [0, 2, 4]);
        assert_eq!(parts[1].times().iter().map(|t| t.as_micros()).collect::<Vec<_>>(), [0, 2, 4]);
        assert_eq!(parts.iter().map(Batch::weight).collect::<Vec<_>>(), [10, 30, 10, 0]);
    }

    #[test]
    fn scatter_to_one_part_shares_the_columns() {
        let rows = numbered_batch(3).into_parts().rows;
        let column = rows.column(0).to_data().buffers()[0].as_ptr();
        let parts = rows.scatter(&[0, 0, 0], 1);
        assert_eq!(parts[0].column(0).to_data().buffers()[0].as_ptr(), column);
    }

    #[test]
    fn split_off_shares_the_columns() {
        let mut head = numbered_batch(5).with_origins(numbered(5)).unwrap().weighing(50);
        let memory = |batch: &Batch<RecordBatch>| batch.rows().column(0).to_data().buffers()[0].data_ptr();
        let before = memory(&head);
        let tail = head.split_off(2);
        assert_eq!((ints(head.rows(), "n"), ints(tail.rows(), "n")), (vec![0, 1], vec![2, 3, 4]));
        assert_eq!((sequences(&tail), head.weight(), tail.weight()), (vec![2, 3, 4], 20, 30));
        assert_eq!([memory(&head), memory(&tail)], [before, before]);
    }

    #[test]
    fn keep_drops_rows_that_are_false_or_null() {
        let batch = numbered_batch(4).with_origins(numbered(4)).unwrap().weighing(40);
        let kept = keep(batch, &BooleanArray::from(vec![Some(true), None, Some(false), Some(true)])).unwrap();
        assert_eq!(ints(kept.rows(), "n"), [0, 3]);
        assert_eq!(sequences(&kept), [0, 3]);
        assert_eq!(kept.times().iter().map(|t| t.as_micros()).collect::<Vec<_>>(), [0, 3]);
        assert_eq!(kept.weight(), 20);
    }

    #[test]
    fn keep_copies_nothing_when_all_rows_pass() {
        let batch = numbered_batch(3);
        let (times, column) = (batch.times().as_ptr(), batch.rows().column(0).to_data().buffers()[0].as_ptr());
        let kept = keep(batch, &BooleanArray::from(vec![true; 3])).unwrap();
        assert_eq!((kept.times().as_ptr(), kept.rows().column(0).to_data().buffers()[0].as_ptr()), (times, column));
        assert!(keep(kept, &BooleanArray::from(vec![true])).is_err());
    }
}
