//! [`Store`]: the rows of one side that a join holds, in chunks of columns.
//!
//! A row has a number, which stays its own wherever the row moves: chunks in which most rows are gone are written anew, and
//! small ones that stand side by side become one, without anybody who holds a number having to know.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeBounds;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{concat_batches, filter_record_batch, interleave, take};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use super::keys::Held;
use super::width::{HEAVY, weight, widest, width};
use crate::{Fault, Result};

/// The rows of a side.
pub(super) struct Store {
    schema: SchemaRef,
    // By the number of the first row that each had, which is also its name in what is saved.
    chunks: BTreeMap<u64, Chunk>,
    next: u64,
    // Those of which rows are gone since the store was last tidied.
    touched: Vec<u64>,
}

/// Rows that came together, or that were put together since.
pub(super) struct Chunk {
    /// The column of times, and those that are kept of each row.
    pub(super) rows: RecordBatch,
    /// What is known of each row: [`HELD`] and [`PAIRED`].
    pub(super) marks: Arc<Vec<u8>>,
    numbers: Vec<u64>,
    held: usize,
    // The bytes of all rows, and of the widest at most.
    weight: usize,
    widest: usize,
    /// Whether rows, and marks, are as the last snapshot saw them.
    pub(super) saved: (bool, bool),
}

/// The row may still be joined.
pub(super) const HELD: u8 = 1;
/// The row has been joined.
pub(super) const PAIRED: u8 = 2;

/// So many small chunks become one.
const FAN: usize = 8;
/// Chunks of so many rows are large enough.
const LARGE: usize = 4 * 1024;
/// Chunks of so few rows may hold some that are gone.
const FEW: usize = 32;
/// Bytes of what is known of a row and of its number, and of its place in the list of its key.
const MARKS: usize = 1 + size_of::<u64>();
const PLACE: usize = 2 * size_of::<Held>();

impl Chunk {
    fn new(rows: RecordBatch, numbers: Vec<u64>, marks: Vec<u8>) -> Self {
        let held = marks.iter().filter(|marks| **marks & HELD != 0).count();
        let (weight, widest) = (weight(&rows), widest(&rows));
        Chunk { rows, marks: Arc::new(marks), numbers, held, weight, widest, saved: (false, false) }
    }

    /// Where in the chunk that begins at `start` the row is that has a number.
    fn row(&self, start: u64, number: u64) -> Option<usize> {
        let offset = usize::try_from(number - start).ok()?;
        if self.numbers.get(offset) == Some(&number) {
            return Some(offset);
        }
        self.numbers.binary_search(&number).ok()
    }

    /// Changes what is known of a row; what it was before comes back.
    fn mark(&mut self, row: usize, change: impl Fn(u8) -> u8) -> u8 {
        let before = self.marks.get(row).copied().unwrap_or_default();
        let after = change(before);
        // What does not change is not copied for the sake of a snapshot that shares it.
        if after != before
            && let Some(marks) = Arc::make_mut(&mut self.marks).get_mut(row)
        {
            *marks = after;
            self.saved.1 = false;
        }
        before
    }

    /// Without the rows that are gone.
    fn shrunk(self) -> Result<Chunk, ArrowError> {
        if self.held == self.marks.len() {
            return Ok(self);
        }
        let stays: Vec<bool> = self.marks.iter().map(|marks| marks & HELD != 0).collect();
        let mut stay = stays.iter().copied();
        let numbers = self.numbers.into_iter().filter(|_| stay.next().unwrap_or_default()).collect();
        let marks = self.marks.iter().copied().filter(|marks| marks & HELD != 0).collect();
        let rows = filter_record_batch(&self.rows, &BooleanArray::from(stays))?;
        Ok(Chunk::new(rows, numbers, marks))
    }
}

impl Store {
    /// A store of rows with these columns, the first of them that of times.
    pub(super) fn new(schema: SchemaRef) -> Self {
        Store { schema, chunks: BTreeMap::new(), next: 0, touched: Vec::new() }
    }

    /// Takes rows in, and gives the number of the first; the others follow. None is held yet.
    pub(super) fn push(&mut self, rows: RecordBatch) -> u64 {
        let (start, count) = (self.next, rows.num_rows());
        self.next += count as u64;
        let chunk = Chunk::new(rows, (start..self.next).collect(), vec![0; count]);
        self.chunks.insert(start, chunk);
        self.touched.push(start);
        start
    }

    /// The same of rows that come back, all of them held, of which so much is known.
    pub(super) fn push_back(&mut self, rows: RecordBatch, marks: Vec<u8>) -> u64 {
        let start = self.next;
        self.next += rows.num_rows() as u64;
        self.chunks.insert(start, Chunk::new(rows, (start..self.next).collect(), marks));
        self.touched.push(start);
        start
    }

    /// The oldest rows, and what is known of each, where some are held.
    pub(super) fn oldest(&self) -> Option<(RecordBatch, Arc<Vec<u8>>)> {
        let chunk = self.chunks.values().find(|chunk| chunk.held > 0)?;
        Some((chunk.rows.clone(), Arc::clone(&chunk.marks)))
    }

    /// About how many bytes of memory it takes.
    pub(super) fn memory(&self) -> usize {
        self.chunks.values().map(|chunk| chunk.weight + chunk.marks.len() * MARKS + chunk.held * PLACE).sum()
    }

    /// What is known of a row.
    pub(super) fn marks(&self, number: u64) -> u8 {
        let found = self.chunks.range(..=number).next_back();
        let marks = found.and_then(|(start, chunk)| chunk.marks.get(chunk.row(*start, number)?).copied());
        marks.unwrap_or_default()
    }

    fn find(&mut self, number: u64) -> Option<(u64, &mut Chunk, usize)> {
        let (start, chunk) = self.chunks.range_mut(..=number).next_back()?;
        let row = chunk.row(*start, number)?;
        Some((*start, chunk, row))
    }

    /// Holds a row from now on.
    pub(super) fn hold(&mut self, number: u64) {
        if let Some((_, chunk, row)) = self.find(number)
            && chunk.mark(row, |marks| marks | HELD) & HELD == 0
        {
            chunk.held += 1;
        }
    }

    /// Lets a row go. It stays there to be given until the store is tidied.
    pub(super) fn forget(&mut self, number: u64) {
        if let Some((start, chunk, row)) = self.find(number)
            && chunk.mark(row, |marks| marks & !HELD) & HELD != 0
        {
            chunk.held -= 1;
            if self.touched.last() != Some(&start) {
                self.touched.push(start);
            }
        }
    }

    /// Notes that a row has been joined; whether it had been before.
    pub(super) fn pair(&mut self, number: u64) -> bool {
        self.find(number).is_some_and(|(_, chunk, row)| chunk.mark(row, |marks| marks | PAIRED) & PAIRED != 0)
    }

    /// Whether a row may still be joined.
    pub(super) fn is_held(&mut self, number: u64) -> bool {
        self.find(number).is_some_and(|(_, chunk, row)| chunk.marks.get(row).is_some_and(|marks| marks & HELD != 0))
    }

    /// The bytes that no row has more of.
    pub(super) fn widest(&self) -> usize {
        self.chunks.values().map(|chunk| chunk.widest).max().unwrap_or_default()
    }

    /// The bytes of a row.
    pub(super) fn width(&self, number: u64) -> usize {
        let found = self.chunks.range(..=number).next_back();
        found.and_then(|(start, chunk)| Some(width(&chunk.rows, chunk.row(*start, number)?))).unwrap_or_default()
    }

    /// Whether a row has been joined.
    pub(super) fn is_paired(&mut self, number: u64) -> bool {
        self.find(number).is_some_and(|(_, chunk, row)| chunk.marks.get(row).is_some_and(|marks| marks & PAIRED != 0))
    }

    /// Some columns of rows by their numbers, and nulls where there is no number.
    pub(super) fn columns(
        &self,
        numbers: impl Iterator<Item = Option<u64>>,
        columns: &[usize],
    ) -> Result<Vec<ArrayRef>> {
        let (mut chunks, mut known) = (Vec::<&Chunk>::new(), HashMap::new());
        let (mut places, mut none) = (Vec::with_capacity(numbers.size_hint().0), false);
        for number in numbers {
            let Some(number) = number else {
                places.push((usize::MAX, 0));
                none = true;
                continue;
            };
            let found = self.chunks.range(..=number).next_back();
            let found = found.and_then(|(start, chunk)| Some((*start, chunk, chunk.row(*start, number)?)));
            let (start, chunk, row) = found.ok_or_else(|| Fault::bug("a row of a join is gone"))?;
            let place = *known.entry(start).or_insert_with(|| {
                chunks.push(chunk);
                chunks.len() - 1
            });
            places.push((place, row));
        }
        if none {
            let beyond = chunks.len();
            places.iter_mut().filter(|(chunk, _)| *chunk == usize::MAX).for_each(|(chunk, _)| *chunk = beyond);
        }
        let column = |column: &usize| -> Result<ArrayRef, ArrowError> {
            let mut arrays: Vec<&dyn Array> = chunks.iter().map(|chunk| chunk.rows.column(*column).as_ref()).collect();
            if let ([only], false) = (arrays.as_slice(), none) {
                let rows = places.iter().map(|(_, row)| u32::try_from(*row).unwrap_or(u32::MAX));
                return take(*only, &UInt32Array::from_iter_values(rows), None);
            }
            let null = none.then(|| new_null_array(self.schema.field(*column).data_type(), 1));
            arrays.extend(null.as_deref());
            interleave(&arrays, &places)
        };
        columns.iter().map(column).collect::<Result<_, _>>().map_err(|error| Fault::bug("cannot pick").because(error))
    }

    /// Drops what is gone, and puts small chunks together. Whoever holds numbers of rows that are gone must be done with
    /// them.
    pub(super) fn tidy(&mut self) -> Result {
        self.tidied().map_err(|error| Fault::bug("rows of a join cannot be put together").because(error))
    }

    fn tidied(&mut self) -> Result<(), ArrowError> {
        for start in std::mem::take(&mut self.touched) {
            let Some(chunk) = self.chunks.get(&start) else { continue };
            let (held, rows, weight) = (chunk.held, chunk.marks.len(), chunk.weight);
            if held == 0 {
                self.chunks.remove(&start);
            } else if held * 2 < rows && rows > FEW {
                // What is left of two neighbours may stand together from now on.
                let before = self.chunks.range(..start).next_back();
                let fits = |before: &Chunk| before.held + held < LARGE && before.weight + weight < HEAVY;
                let before = before.filter(|(_, before)| fits(before)).map(|(before, _)| *before);
                self.merge(before.unwrap_or(start)..=start)?;
            }
        }
        loop {
            // The last ones, as far as none is larger than the last.
            let size = |chunk: &Chunk| (chunk.marks.len().max(1)).ilog2() / FAN.ilog2();
            let Some(last) = self.chunks.values().next_back().map(size) else { return Ok(()) };
            let mut weight = 0;
            let mut small = |chunk: &Chunk| {
                weight += chunk.weight;
                let is_light = chunk.weight < HEAVY && weight < FAN * HEAVY;
                size(chunk) <= last && chunk.marks.len() < LARGE && is_light
            };
            let run = self.chunks.iter().rev().take_while(|(_, chunk)| small(chunk)).map(|(start, _)| *start);
            let run: Vec<u64> = run.collect();
            match run.last().filter(|_| run.len() >= FAN) {
                Some(first) => self.merge(*first..)?,
                None => return Ok(()),
            }
        }
    }

    /// Makes one chunk of several that stand side by side.
    fn merge(&mut self, range: impl RangeBounds<u64>) -> Result<(), ArrowError> {
        let starts: Vec<u64> = self.chunks.range(range).map(|(start, _)| *start).collect();
        let Some(start) = starts.first().copied() else { return Ok(()) };
        let chunks = starts.iter().filter_map(|start| self.chunks.remove(start));
        let mut chunks: Vec<Chunk> = chunks.map(Chunk::shrunk).collect::<Result<_, _>>()?;
        let one = match (chunks.pop(), chunks.is_empty()) {
            (Some(one), true) => one,
            (Some(last), false) => {
                chunks.push(last);
                let (mut numbers, mut marks, mut rows) = (Vec::new(), Vec::new(), Vec::new());
                for chunk in chunks {
                    numbers.extend(chunk.numbers);
                    marks.extend_from_slice(&chunk.marks);
                    rows.push(chunk.rows);
                }
                Chunk::new(concat_batches(&self.schema, &rows)?, numbers, marks)
            }
            (None, _) => return Ok(()),
        };
        self.chunks.insert(start, one);
        Ok(())
    }

    /// All chunks by their names in what is saved, in the order in which rows came.
    pub(super) fn chunks_mut(&mut self) -> impl Iterator<Item = (i64, &mut Chunk)> {
        self.chunks.iter_mut().map(|(start, chunk)| (start.cast_signed(), chunk))
    }

    /// A chunk by its name.
    pub(super) fn chunk_mut(&mut self, name: i64) -> Option<&mut Chunk> {
        self.chunks.get_mut(&name.unsigned_abs())
    }

    /// Puts back what was saved: rows by the name of their chunk, and what is known of each.
    pub(super) fn restore(&mut self, saved: BTreeMap<i64, (RecordBatch, Vec<u8>)>) {
        (self.chunks, self.next, self.touched) = (BTreeMap::new(), 0, Vec::new());
        let all: Vec<(i64, i64)> = saved.iter().map(|(name, (rows, _))| (*name, rows.num_rows() as i64)).collect();
        // Chunks of several subtasks may not fit side by side: then they are numbered anew.
        let fits = all.iter().zip(all.iter().skip(1)).all(|((name, rows), (next, _))| name + rows <= *next);
        for (name, (rows, marks)) in saved {
            let start = if fits { name.unsigned_abs() } else { self.next };
            self.next = start + rows.num_rows() as u64;
            let mut chunk = Chunk::new(rows, (start..self.next).collect(), marks);
            chunk.saved = (fits, fits);
            self.chunks.insert(start, chunk);
            self.touched.push(start);
        }
    }

    /// Of each chunk the numbers of its rows, the rows, and what is known of each.
    pub(super) fn chunks(&self) -> impl Iterator<Item = (&[u64], &RecordBatch, &[u8])> {
        self.chunks.values().map(|chunk| (chunk.numbers.as_slice(), &chunk.rows, chunk.marks.as_slice()))
    }

    /// How many rows are held.
    pub(super) fn len(&self) -> usize {
        self.chunks.values().map(|chunk| chunk.held).sum()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field, Schema};
    use proptest::prelude::*;

    use super::*;
    use crate::columnar::tests::ints;

    fn rows(numbers: std::ops::Range<i64>) -> RecordBatch {
        RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from_iter_values(numbers)) as ArrayRef)]).unwrap()
    }

    fn store() -> Store {
        Store::new(rows(0..0).schema())
    }

    fn pushed(store: &mut Store, count: i64) -> Vec<u64> {
        let next = store.next.cast_signed();
        let start = store.push(rows(next..next + count));
        let numbers: Vec<u64> = (start..start + count.unsigned_abs()).collect();
        numbers.iter().for_each(|number| store.hold(*number));
        numbers
    }

    #[test]
    fn chunks_stay_few_and_rows_that_are_gone_leave() {
        let mut store = store();
        let mut all = Vec::new();
        for _ in 0..3_000 {
            all.extend(pushed(&mut store, 1));
            store.tidy().unwrap();
        }
        assert!(store.chunks.len() < 40, "{} chunks", store.chunks.len());
        all.iter().filter(|number| *number % 100 > 0).for_each(|number| store.forget(*number));
        store.tidy().unwrap();
        let there: usize = store.chunks().map(|(numbers, ..)| numbers.len()).sum();
        assert!(store.len() == 30 && there < 30 + 2 * FEW * store.chunks.len(), "{there} rows are there");
        all.iter().for_each(|number| store.forget(*number));
        store.tidy().unwrap();
        assert_eq!(store.chunks.len(), 0);
    }

    #[test]
    fn nulls_stand_where_there_is_no_row() {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let column = Store::new(schema).columns([None, None].into_iter(), &[0]).unwrap().remove(0);
        assert_eq!((column.len(), column.null_count()), (2, 2));
    }

    proptest! {
        #[test]
        fn a_row_is_found_by_its_number_wherever_it_has_moved(
            pushes in prop::collection::vec((1i64..200, any::<u64>()), 1..60),
        ) {
            let (mut store, mut held) = (store(), Vec::<u64>::new());
            for (count, seed) in pushes {
                held.extend(pushed(&mut store, count));
                let goes = |number: &u64| (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ seed).is_multiple_of(3);
                held.iter().filter(|number| goes(number)).for_each(|number| store.forget(*number));
                held.retain(|number| !goes(number));
                store.tidy().unwrap();
                prop_assert_eq!(store.len(), held.len());
                if held.is_empty() {
                    continue;
                }
                let found = store.columns(held.iter().rev().copied().map(Some), &[0]).unwrap().remove(0);
                let found = RecordBatch::try_from_iter([("n", found)]).unwrap();
                let expected: Vec<i64> = held.iter().rev().map(|number| number.cast_signed()).collect();
                prop_assert_eq!(ints(&found, "n"), expected);
            }
        }
    }
}
