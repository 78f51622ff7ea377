//! [`Table`]: keys, and columns of values for them, that snapshots share.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch, interleave};
use foldhash::fast::FixedState;

use super::codec::{KeyBytes, KeyCodec};
use crate::{Fault, Result, Run, Snapshot};

/// A row of values for each key, in chunks of columns that do not change: a row that is put in again stands in a newer chunk,
/// and the old one is dead. So a snapshot shares the chunks, and what has changed since the last one is in chunks of its own.
///
/// Each chunk is more than twice as large as the next newer one of its sort, so that there are few, and a row is copied into a
/// larger one a few times at most.
pub(super) struct Table {
    codec: Arc<KeyCodec>,
    /// The number of each key, by which its place is found.
    numbers: HashMap<KeyBytes, u32, FixedState>,
    places: Vec<Place>,
    free: Vec<u32>,
    /// By age.
    chunks: BTreeMap<u32, Chunk>,
    next: u32,
    /// The keys that were taken out since the last snapshot.
    gone: Vec<KeyBytes>,
}

/// Where the row of a key is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    chunk: u32,
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
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// Where the row of a key is, until something is put in or taken out.
    pub(super) fn find(&self, key: &[u8]) -> Option<Place> {
        self.places.get(*self.numbers.get(key)? as usize).copied()
    }

    /// All keys, in no order that means anything.
    pub(super) fn keys(&self) -> impl Iterator<Item = &KeyBytes> {
        self.numbers.keys()
    }

    /// The values at some places, as columns.
    pub(super) fn values(&self, places: &[Place]) -> Result<Vec<ArrayRef>> {
        let chunks: Vec<&Chunk> = self.chunks.values().collect();
        let number: HashMap<u32, usize> = self.chunks.keys().copied().zip(0..).collect();
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

    /// Puts in a row for each of some keys, none of which comes twice, in place of the one that it has.
    pub(super) fn put(&mut self, keys: Vec<KeyBytes>, values: Vec<ArrayRef>) -> Result {
        if keys.is_empty() {
            return Ok(());
        }
        let rows = self.codec.rows(&keys, values)?;
        let chunk = self.next;
        self.next += 1;
        let mut numbers = Vec::with_capacity(keys.len());
        for (row, key) in (0..).zip(keys) {
            let place = Place { chunk, row };
            let number = match self.numbers.get(&key) {
                Some(number) => *number,
                None => {
                    let number = self.free.pop().unwrap_or_else(|| {
                        self.places.push(place);
                        u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
                    });
                    self.numbers.insert(key, number);
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
        self.chunks.insert(chunk, Chunk { rows, numbers, live, count, fresh: true });
        self.settle()
    }

    /// Takes some keys out.
    pub(super) fn remove<'a>(&mut self, keys: impl IntoIterator<Item = &'a KeyBytes>) {
        for key in keys {
            let Some((key, number)) = self.numbers.remove_entry(key) else { continue };
            if let Some(place) = self.places.get(number as usize).copied() {
                self.bury(place);
            }
            self.free.push(number);
            self.gone.push(key);
        }
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

    /// Puts chunks together that are not much larger than the one behind them.
    fn settle(&mut self) -> Result {
        loop {
            let mut newest = self.chunks.iter().rev();
            let (Some((_, b)), Some((older, a))) = (newest.next(), newest.next()) else { return Ok(()) };
            if a.fresh != b.fresh || a.count > 2 * b.count {
                return Ok(());
            }
            let older = *older;
            let (Some((newer, b)), Some(a)) = (self.chunks.pop_last(), self.chunks.remove(&older)) else {
                return Ok(());
            };
            let wrong = |error| Fault::bug("cannot put state together").because(error);
            let parts = [alive(&a.rows, &a.live).map_err(wrong)?, alive(&b.rows, &b.live).map_err(wrong)?];
            let rows = concat_batches(parts[0].schema_ref(), &parts).map_err(wrong)?;
            let living = |chunk: &Chunk| {
                let both = chunk.numbers.iter().zip(chunk.live.iter());
                both.filter(|(_, live)| **live).map(|(number, _)| *number).collect::<Vec<u32>>()
            };
            let numbers = [living(&a), living(&b)].concat();
            for (row, number) in (0..).zip(&numbers) {
                if let Some(place) = self.places.get_mut(*number as usize) {
                    *place = Place { chunk: newer, row };
                }
            }
            let count = numbers.len();
            let live = Arc::new(vec![true; count]);
            self.chunks.insert(newer, Chunk { rows, numbers, live, count, fresh: b.fresh });
        }
    }

    /// All of it as it is now, and what has changed since the last snapshot.
    pub(super) fn freeze(&mut self) -> Result<Box<dyn Snapshot>> {
        let chunk = |chunk: &mut Chunk| {
            let fresh = std::mem::replace(&mut chunk.fresh, false);
            FrozenChunk { rows: chunk.rows.clone(), live: Arc::clone(&chunk.live), count: chunk.count, fresh }
        };
        let chunks = self.chunks.values_mut().map(chunk).collect();
        let (codec, gone) = (Arc::clone(&self.codec), std::mem::take(&mut self.gone));
        self.settle()?;
        Ok(Box::new(FrozenTable { codec, chunks, gone }))
    }

    /// What these runs say.
    pub(super) fn replayed(codec: Arc<KeyCodec>, runs: &[Run]) -> Result<Self> {
        let mut table = Table::new(codec);
        for (gone, put) in runs.iter().flat_map(Run::parts) {
            if !gone.is_empty() {
                let keys = table.codec.restore_keys(gone)?;
                table.remove(&keys);
            }
            if !put.is_empty() {
                for (keys, values) in table.codec.restore(put)? {
                    let rows = values.first().map_or(0, Array::len);
                    table.put(keys.first(rows), values)?;
                }
            }
        }
        table.chunks.values_mut().for_each(|chunk| chunk.fresh = false);
        table.gone.clear();
        table.settle()?;
        Ok(table)
    }
}

/// The rows that are not dead.
fn alive(rows: &RecordBatch, live: &[bool]) -> std::result::Result<RecordBatch, arrow::error::ArrowError> {
    if live.iter().all(|live| *live) {
        return Ok(rows.clone());
    }
    filter_record_batch(rows, &BooleanArray::from(live.to_vec()))
}

struct FrozenChunk {
    rows: RecordBatch,
    live: Arc<Vec<bool>>,
    count: usize,
    fresh: bool,
}

struct FrozenTable {
    codec: Arc<KeyCodec>,
    chunks: Vec<FrozenChunk>,
    gone: Vec<KeyBytes>,
}

impl Snapshot for FrozenTable {
    fn len(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.count).sum()
    }

    fn encode(self: Box<Self>, key_groups: u32, whole: bool) -> Result<Run> {
        let FrozenTable { codec, chunks, gone } = *self;
        let wrong = |error| Fault::bug("the state of columns cannot be saved").because(error);
        let chunks = chunks.iter().filter(|chunk| whole || chunk.fresh);
        let rows = chunks.map(|chunk| alive(&chunk.rows, &chunk.live)).collect::<std::result::Result<Vec<_>, _>>();
        let put = codec.save_sorted(&rows.map_err(wrong)?, key_groups)?;
        let gone = if whole { BTreeMap::new() } else { codec.save_keys(&gone, key_groups)? };
        Ok(Run::of_parts(whole, gone, put))
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({} keys in {} chunks)", self.numbers.len(), self.chunks.len())
    }
}
