//! [`Table`]: keys, and columns of values for them, that snapshots share.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, interleave, take_record_batch};
use foldhash::fast::FixedState;

use super::away::AwayRows;
use super::codec::{KeyBytes, KeyCodec};
use super::frozen::{FrozenChunk, FrozenTable};
use super::sealed::Sealed;
use crate::state::Piece;
use crate::{Fault, Result, Run, Snapshot, Spill};

/// A row of values for each key, in chunks of columns that do not change: a row that is put in again stands in a newer chunk,
/// and the old one is dead. So a snapshot shares the chunks, and what has changed since the last one is in chunks of its own.
///
/// Each chunk that is not large is more than twice as large as the next newer one of its sort, so that there are few, and a row
/// is copied into a larger one a few times at most. None grows beyond what is copied in a moment.
pub(super) struct Table {
    codec: Arc<KeyCodec>,
    /// The number of each key, by which its place is found.
    numbers: HashMap<KeyBytes, u32, FixedState>,
    places: Vec<Place>,
    free: Vec<u32>,
    /// By age.
    chunks: BTreeMap<u64, Chunk>,
    next: u64,
    /// The keys that were taken out since the last snapshot.
    gone: Vec<KeyBytes>,
    /// The rows that do not fit in memory, where there is a place for them.
    away: Option<AwayRows>,
    /// The bytes of the keys in memory.
    length: usize,
    /// How many rows have come, or come back, since it was last looked at how many fit.
    grown: usize,
}

/// A key in memory takes about so many bytes beside its own, and a row so many beside its columns.
const KEY: usize = 64;
const ROW: usize = 8;
/// Chunks of so many rows are large enough.
const LARGE: usize = if cfg!(test) { 6 } else { 64 * 1024 };
/// So many chunks there may be, and four for each that is large.
const MANY: usize = if cfg!(test) { 2 } else { 32 };
/// Chunks of so few rows may hold more that are dead than that are not.
const FEW: usize = if cfg!(test) { 2 } else { 1_024 };
/// So many rows may come before it is looked whether they fit.
const OFTEN: usize = 4_096;

/// Where the row of a key is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    chunk: u64,
    row: u32,
}

struct Chunk {
    rows: RecordBatch,
    /// The number of the key of each row.
    numbers: Vec<u32>,
    live: Arc<Vec<bool>>,
    count: usize,
    /// Whether no snapshot has it yet.
    fresh: bool,
}

impl Table {
    pub(super) fn new(codec: Arc<KeyCodec>) -> Self {
        Table {
            codec,
            numbers: HashMap::with_hasher(FixedState::with_seed(0)),
            places: Vec::new(),
            free: Vec::new(),
            chunks: BTreeMap::new(),
            next: 0,
            gone: Vec::new(),
            away: None,
            length: 0,
            grown: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty() && !self.has_away()
    }

    /// Whether there are rows that are not in memory.
    pub(super) fn has_away(&self) -> bool {
        self.away.as_ref().is_some_and(|away| away.len() > 0)
    }

    /// Sees to it that the rows of these keys are in memory, if there are any.
    pub(super) fn bring<'a>(&mut self, keys: impl IntoIterator<Item = &'a [u8]>) -> Result {
        if !self.has_away() {
            return Ok(());
        }
        let missing: BTreeSet<&[u8]> = keys.into_iter().filter(|key| !self.numbers.contains_key(*key)).collect();
        self.come_back(missing.into_iter().map(KeyBytes::from))
    }

    /// Sees to it that all rows are in memory.
    pub(super) fn bring_all(&mut self) -> Result {
        match self.away.as_ref().map(AwayRows::keys) {
            Some(keys) => self.come_back(keys.into_iter()),
            None => Ok(()),
        }
    }

    /// Whether so many rows have come, or come back, that some should go.
    pub(super) fn has_grown(&self) -> bool {
        self.grows_by(0)
    }

    /// Whether some should go if so many more come.
    pub(super) fn grows_by(&self, rows: usize) -> bool {
        self.away.is_some() && self.grown + rows >= OFTEN
    }

    fn come_back(&mut self, keys: impl Iterator<Item = KeyBytes>) -> Result {
        let Some(mut away) = self.away.take() else { return Ok(()) };
        let back = away.take(keys, |changed, keys, values| {
            // The place is not here meanwhile.
            self.grown += keys.len();
            self.put_as(&keys, values, changed)
        });
        self.away = Some(away);
        back
    }

    /// Keeps to the budget from now on, and lets go of what is too much; false if rows of this kind stay.
    pub(super) fn fit(&mut self, spill: &Arc<Spill>) -> Result<bool> {
        if self.away.is_none() {
            self.away = AwayRows::new(&self.codec, spill);
        }
        self.let_go()?;
        Ok(self.away.is_some())
    }

    /// About how many bytes of memory it takes.
    fn held(&self) -> usize {
        let rows = self.chunks.values().map(|chunk| chunk.rows.get_array_memory_size() + chunk.numbers.len() * ROW);
        rows.sum::<usize>() + self.length + self.numbers.len() * KEY
    }

    /// The oldest rows go while there are more in memory than may be.
    pub(super) fn let_go(&mut self) -> Result {
        self.grown = 0;
        let Some(mut away) = self.away.take() else { return Ok(()) };
        let gone = self.go_to(&mut away);
        away.excess(self.held());
        self.away = Some(away);
        gone
    }

    fn go_to(&mut self, away: &mut AwayRows) -> Result {
        let held = self.held();
        let (mut excess, each) = (away.excess(held), held.div_ceil(self.numbers.len().max(1)).max(1));
        let wrong = |error| Fault::bug("cannot take state apart").because(error);
        while excess > 0
            && let Some((number, chunk)) = self.chunks.pop_first()
        {
            let (rows, numbers) = (alive(&chunk.rows, &chunk.live).map_err(wrong)?, chunk.living());
            let going = excess.div_ceil(each).min(rows.num_rows());
            excess = excess.saturating_sub(going * each);
            away.put(&rows.slice(0, going), chunk.fresh)?;
            let (keys, _) = self.codec.apart(&rows)?;
            for row in 0..going {
                let Some((key, number)) = self.numbers.remove_entry(keys.get(row)) else { continue };
                self.length -= key.len();
                self.free.push(number);
            }
            if going == rows.num_rows() {
                continue;
            }
            // What stays is copied: otherwise what goes would stay in memory with it.
            let stay =
                UInt32Array::from_iter_values((going..rows.num_rows()).filter_map(|row| u32::try_from(row).ok()));
            let rows = take_record_batch(&rows, &stay).map_err(wrong)?;
            let numbers: Vec<u32> = numbers.get(going..).unwrap_or_default().to_vec();
            self.insert(number, rows, numbers, chunk.fresh);
        }
        if self.numbers.capacity() > self.numbers.len() * 4 {
            self.numbers.shrink_to(self.numbers.len() * 2);
        }
        Ok(())
    }

    /// Puts a chunk in, whose rows are all alive.
    fn insert(&mut self, chunk: u64, rows: RecordBatch, numbers: Vec<u32>, fresh: bool) {
        for (row, number) in (0..).zip(&numbers) {
            if let Some(place) = self.places.get_mut(*number as usize) {
                *place = Place { chunk, row };
            }
        }
        let count = numbers.len();
        self.chunks.insert(chunk, Chunk { rows, numbers, live: Arc::new(vec![true; count]), count, fresh });
    }

    /// Where the row of a key is, until something is put in or taken out.
    pub(super) fn find(&self, key: &[u8]) -> Option<Place> {
        self.places.get(*self.numbers.get(key)? as usize).copied()
    }

    /// Gives all keys and the columns of values, some at a time, wherever they are.
    pub(super) fn each(&self, give: &mut dyn FnMut(&[KeyBytes], &[ArrayRef]) -> Result) -> Result {
        for chunk in self.chunks.values() {
            let rows =
                alive(&chunk.rows, &chunk.live).map_err(|error| Fault::bug("cannot read state").because(error))?;
            let (keys, values) = self.codec.apart(&rows)?;
            give(&keys.first(rows.num_rows()), values)?;
        }
        self.away.as_ref().map_or(Ok(()), |away| away.each(give))
    }

    /// All keys in memory, in no order that means anything.
    pub(super) fn keys(&self) -> impl Iterator<Item = &KeyBytes> {
        self.numbers.keys()
    }

    /// All keys, wherever their rows are.
    pub(super) fn all_keys(&self) -> Vec<KeyBytes> {
        let away = self.away.as_ref().map(AwayRows::keys).unwrap_or_default();
        away.into_iter().chain(self.keys().cloned()).collect()
    }

    /// The values at some places, as columns.
    pub(super) fn values(&self, places: &[Place]) -> Result<Vec<ArrayRef>> {
        let chunks: Vec<&Chunk> = self.chunks.values().collect();
        let number: HashMap<u64, usize> = self.chunks.keys().copied().zip(0..).collect();
        let at = |place: &Place| Some((*number.get(&place.chunk)?, place.row as usize));
        let at: Vec<(usize, usize)> = places.iter().filter_map(at).collect();
        let columns = self.codec.value_fields().map(|(column, field)| {
            let parts: Vec<&dyn Array> = chunks.iter().map(|chunk| chunk.rows.column(column).as_ref()).collect();
            match parts.is_empty() {
                true => Ok(arrow::array::new_empty_array(field.data_type())),
                false => interleave(&parts, &at).map_err(|error| Fault::bug("cannot read state").because(error)),
            }
        });
        columns.collect()
    }

    /// Puts in a row for each of some keys, none of which comes twice, in place of the one that it has. What is in the table of
    /// them has to be in memory.
    pub(super) fn put<K: AsRef<[u8]>>(&mut self, keys: &[K], values: Vec<ArrayRef>) -> Result {
        self.put_as(keys, values, true)
    }

    /// The same, of rows that the last snapshot has.
    pub(super) fn put_saved<K: AsRef<[u8]>>(&mut self, keys: &[K], values: Vec<ArrayRef>) -> Result {
        self.put_as(keys, values, false)
    }

    /// The same, of rows that have changed since the last snapshot or not.
    fn put_as<K: AsRef<[u8]>>(&mut self, keys: &[K], values: Vec<ArrayRef>, fresh: bool) -> Result {
        if keys.is_empty() {
            return Ok(());
        }
        if self.away.is_some() {
            self.grown += keys.len();
        }
        let rows = self.codec.rows(keys, values)?;
        let chunk = self.next;
        self.next += 1;
        let mut numbers = Vec::with_capacity(keys.len());
        for (row, key) in (0..).zip(keys) {
            let place = Place { chunk, row };
            let key = key.as_ref();
            let number = match self.numbers.get(key) {
                Some(number) => *number,
                None => {
                    let number = self.free.pop().unwrap_or_else(|| {
                        self.places.push(place);
                        u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
                    });
                    self.length += key.len();
                    self.numbers.insert(key.into(), number);
                    numbers.push(number);
                    if let Some(free) = self.places.get_mut(number as usize) {
                        *free = place;
                    }
                    continue;
                }
            };
            numbers.push(number);
            if let Some(old) = self.places.get_mut(number as usize).map(|old| std::mem::replace(old, place)) {
                self.bury(old);
            }
        }
        let count = numbers.len();
        let live = Arc::new(vec![true; count]);
        self.chunks.insert(chunk, Chunk { rows, numbers, live, count, fresh });
        self.settle()
    }

    /// Takes some keys out, whose rows are in memory.
    pub(super) fn remove<'a>(&mut self, keys: impl IntoIterator<Item = &'a KeyBytes>) {
        let gone = self.take_out(keys);
        match &mut self.away {
            // They may be more than fit.
            Some(away) => away.note_gone(&gone),
            None => self.gone.extend(gone),
        }
    }

    fn take_out<'a>(&mut self, keys: impl IntoIterator<Item = &'a KeyBytes>) -> Vec<KeyBytes> {
        let mut gone = Vec::new();
        for key in keys {
            let Some((key, number)) = self.numbers.remove_entry(key) else { continue };
            if let Some(place) = self.places.get(number as usize).copied() {
                self.bury(place);
            }
            self.free.push(number);
            self.length -= key.len();
            gone.push(key);
        }
        gone
    }

    fn bury(&mut self, place: Place) {
        let Some(chunk) = self.chunks.get_mut(&place.chunk) else { return };
        if let Some(live) = Arc::make_mut(&mut chunk.live).get_mut(place.row as usize) {
            chunk.count -= usize::from(std::mem::replace(live, false));
        }
        if chunk.count == 0 {
            self.chunks.remove(&place.chunk);
        }
    }

    /// Puts chunks together that are not much larger than the next one of their sort, and writes those anew in which most rows are
    /// dead.
    fn settle(&mut self) -> Result {
        let is_sparse = |chunk: &Chunk| chunk.numbers.len() > FEW && chunk.count * 2 < chunk.numbers.len();
        let sparse = self.chunks.iter().filter(|(_, chunk)| is_sparse(chunk)).map(|(number, _)| *number);
        for number in sparse.collect::<Vec<_>>() {
            self.join(&[number])?;
        }
        for fresh in [false, true] {
            loop {
                let mut newest = self.chunks.iter().rev().filter(|(_, chunk)| chunk.fresh == fresh);
                let (Some((newer, b)), Some((older, a))) = (newest.next(), newest.next()) else { break };
                if a.count > 2 * b.count || a.count + b.count > LARGE {
                    break;
                }
                self.join(&[*older, *newer])?;
            }
        }
        if self.chunks.len() > MANY + 4 * self.numbers.len() / LARGE { self.sweep() } else { Ok(()) }
    }

    /// Puts small chunks together wherever they stand, such as those that most rows have left: not too many rows at a time, as there
    /// will be another time.
    fn sweep(&mut self) -> Result {
        let mut copied = 0;
        for fresh in [false, true] {
            let of_sort: Vec<(u64, usize)> =
                self.chunks.iter().filter(|(_, c)| c.fresh == fresh).map(|(number, c)| (*number, c.count)).collect();
            let (mut together, mut rows) = (Vec::new(), 0);
            for (number, count) in of_sort.into_iter().chain([(u64::MAX, LARGE)]) {
                if rows + count > LARGE || number == u64::MAX {
                    if together.len() > 1 {
                        copied += rows;
                        self.join(&together)?;
                    }
                    if copied > 2 * LARGE {
                        return Ok(());
                    }
                    (together, rows) = (Vec::new(), 0);
                }
                together.push(number);
                rows += count;
            }
        }
        Ok(())
    }

    /// Writes the rows of some chunks of one sort that are not dead as one chunk, in the place of the last of them.
    fn join(&mut self, numbers: &[u64]) -> Result {
        let wrong = |error| Fault::bug("cannot put state together").because(error);
        let chunks: Vec<Chunk> = numbers.iter().filter_map(|number| self.chunks.remove(number)).collect();
        let (Some(last), Some(number)) = (chunks.last(), numbers.last()) else { return Ok(()) };
        let parts =
            chunks.iter().map(|chunk| alive(&chunk.rows, &chunk.live)).collect::<std::result::Result<Vec<_>, _>>();
        let rows = concat_batches(last.rows.schema_ref(), &parts.map_err(wrong)?).map_err(wrong)?;
        let (living, fresh) = (chunks.iter().flat_map(Chunk::living).collect(), last.fresh);
        self.insert(*number, rows, living, fresh);
        Ok(())
    }

    /// All of it as it is now, with what is sealed in place of what stands here of its keys, the last one last; and what has
    /// changed since the last snapshot: that is in chunks of its own, and in the last that is sealed, if that is fresh.
    pub(super) fn freeze(&mut self, sealed: Vec<Arc<Sealed>>, is_fresh: bool) -> Result<Box<dyn Snapshot>> {
        let chunk = |chunk: &mut Chunk| {
            let fresh = std::mem::replace(&mut chunk.fresh, false);
            FrozenChunk { rows: chunk.rows.clone(), live: Arc::clone(&chunk.live), count: chunk.count, fresh }
        };
        let chunks = self.chunks.values_mut().map(chunk).collect();
        let (codec, gone) = (Arc::clone(&self.codec), std::mem::take(&mut self.gone));
        let away = self.away.as_mut().map(AwayRows::freeze).transpose()?;
        Ok(Box::new(FrozenTable { codec, chunks, sealed, is_fresh, gone, away }))
    }

    /// Does what a run says, of state that is restored.
    pub(super) fn play(&mut self, run: &Run) -> Result {
        for (gone, put) in run.parts() {
            if !gone.is_empty() {
                let keys = self.codec.restore_keys(gone)?;
                self.bring(keys.iter().map(|key| &**key))?;
                drop(self.take_out(&keys));
            }
            if !put.is_empty() {
                for (keys, values) in self.codec.restore(put)? {
                    let rows = values.first().map_or(0, Array::len);
                    let keys: Vec<&[u8]> = (0..rows).map(|row| keys.get(row)).collect();
                    self.bring(keys.iter().copied())?;
                    self.put_saved(&keys, values)?;
                }
            }
        }
        self.let_go()
    }
}

impl Piece for Table {
    fn freeze(&mut self) -> Result<Box<dyn Snapshot>> {
        Table::freeze(self, Vec::new(), false)
    }

    fn fit(&mut self, spill: &Arc<Spill>) -> Result<bool> {
        Table::fit(self, spill)
    }

    fn play(&mut self, run: &Run) -> Result {
        Table::play(self, run)
    }
}

impl Chunk {
    /// The numbers of the keys of the rows that are not dead.
    fn living(&self) -> Vec<u32> {
        let both = self.numbers.iter().zip(self.live.iter());
        both.filter(|(_, live)| **live).map(|(number, _)| *number).collect()
    }
}

/// The rows that are not dead.
pub(super) fn alive(rows: &RecordBatch, live: &[bool]) -> std::result::Result<RecordBatch, arrow::error::ArrowError> {
    if live.iter().all(|live| *live) {
        return Ok(rows.clone());
    }
    filter_record_batch(rows, &BooleanArray::from(live.to_vec()))
}

#[cfg(test)]
impl Table {
    /// How many chunks there are.
    pub(super) fn chunks(&self) -> usize {
        self.chunks.len()
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({} keys in {} chunks)", self.numbers.len(), self.chunks.len())
    }
}
