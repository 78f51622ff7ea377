//! [`AwayRows`]: the rows of a table of keys that are outside of memory, and [`FrozenRows`], those at a barrier.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};

use super::codec::{KeyBytes, KeyCodec};
use crate::columnar::value_rows::ValueRows;
use crate::state::{AwayEntries, FrozenEntries, key_of};
use crate::{Result, Run, Spill};

/// Rows by key, each as bytes of its own: the key as the table has it, and what belongs to it behind the number of the snapshot
/// that it has changed since.
pub(super) struct AwayRows {
    codec: Arc<KeyCodec>,
    rows: Arc<ValueRows>,
    entries: AwayEntries,
    // The number of the next snapshot; 0 is that of rows that have not changed.
    next: u32,
}

const NUMBER: usize = size_of::<u32>();
/// So many bytes of rows are in memory as columns at a time while a snapshot is encoded.
const PART: usize = 2 << 20;

impl AwayRows {
    /// A place for rows that do not fit in memory; none for those that cannot stand alone.
    pub(super) fn new(codec: &Arc<KeyCodec>, spill: &Arc<Spill>) -> Option<Self> {
        let rows = Arc::new(ValueRows::of(codec.value_fields().map(|(_, field)| field.data_type()))?);
        Some(AwayRows { codec: Arc::clone(codec), rows, entries: AwayEntries::new(Arc::clone(spill)), next: 1 })
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The table holds so many bytes; how many of them should go.
    pub(super) fn excess(&mut self, held: usize) -> usize {
        self.entries.excess(held)
    }

    /// Takes rows of keys and values, which have changed since the last snapshot or not.
    pub(super) fn put(&mut self, rows: &RecordBatch, changed: bool) -> Result {
        let (keys, values) = self.codec.apart(rows)?;
        let groups = self.codec.groups(rows.columns(), rows.num_rows(), self.entries.key_groups());
        let values = self.rows.bytes(values)?;
        let number = if changed { self.next } else { 0 };
        for (row, (group, value)) in groups.into_iter().zip(&values).enumerate() {
            let key = key_of(group, keys.get(row));
            if changed {
                self.entries.note(&key);
            }
            self.entries.put(key, [&number.to_be_bytes()[..], value.data()].concat());
        }
        self.entries.send();
        Ok(())
    }

    /// Takes the rows of some keys out, and gives them to `take`: whether they have changed since the last snapshot, the keys,
    /// and the columns of values.
    pub(super) fn take(
        &mut self,
        keys: impl Iterator<Item = KeyBytes>,
        mut take: impl FnMut(bool, Vec<KeyBytes>, Vec<ArrayRef>) -> Result,
    ) -> Result {
        let keys: Vec<KeyBytes> = keys.collect();
        let groups = self.codec.groups(&self.codec.columns(&keys)?, keys.len(), self.entries.key_groups());
        let mut found: BTreeMap<bool, (Vec<KeyBytes>, Vec<Vec<u8>>)> = BTreeMap::new();
        for (key, group) in keys.into_iter().zip(groups) {
            let Some(value) = self.entries.take(&key_of(group, &key)) else { continue };
            let (keys, values) = found.entry(number_of(&value) == self.next).or_default();
            keys.push(key);
            values.push(value);
        }
        for (changed, (keys, values)) in found {
            take(changed, keys, self.rows.columns(values.iter().map(|value| row_of(value)))?)?;
        }
        Ok(())
    }

    /// All keys that are here.
    pub(super) fn keys(&self) -> Vec<KeyBytes> {
        let mut keys = Vec::with_capacity(self.len());
        self.entries.each(|_, key, _| {
            keys.push(key.into());
            Ok(())
        });
        keys
    }

    /// The rows as they are now, and which have changed since the last call.
    pub(super) fn freeze(&mut self) -> Result<FrozenRows> {
        self.next = self.next.wrapping_add(1).max(1);
        let (codec, rows) = (Arc::clone(&self.codec), Arc::clone(&self.rows));
        Ok(FrozenRows { codec, rows, entries: self.entries.freeze()? })
    }
}

fn number_of(value: &[u8]) -> u32 {
    value.first_chunk::<NUMBER>().map_or(0, |number| u32::from_be_bytes(*number))
}

fn row_of(value: &[u8]) -> &[u8] {
    value.get(NUMBER..).unwrap_or_default()
}

/// The rows that were outside of memory at a barrier.
pub(super) struct FrozenRows {
    codec: Arc<KeyCodec>,
    rows: Arc<ValueRows>,
    entries: FrozenEntries,
}

impl FrozenRows {
    pub(super) fn len(&self) -> usize {
        self.entries.entries
    }

    /// Gives all of them, or those that have changed, as runs of some MB.
    pub(super) fn encode(&self, key_groups: u32, whole: bool, give: &mut dyn FnMut(Run) -> Result) -> Result {
        // One that was noted twice is told once.
        let (mut part, mut weight) = (BTreeMap::new(), 0);
        let mut add = |key: &[u8], value: &[u8]| {
            weight += key.len() + value.len();
            part.insert(KeyBytes::from(key), value.to_vec());
            if weight < PART {
                return Ok(());
            }
            weight = 0;
            give(self.run(std::mem::take(&mut part), key_groups, whole)?)
        };
        match whole {
            true => self.entries.each(|_, key, value| add(key, value))?,
            // One that is not here any more is in a chunk, or gone: both are told elsewhere.
            false => self.entries.each_noted(|_, key, value| value.map_or(Ok(()), |value| add(key, value)))?,
        }
        if part.is_empty() { Ok(()) } else { give(self.run(part, key_groups, whole)?) }
    }

    fn run(&self, part: BTreeMap<KeyBytes, Vec<u8>>, key_groups: u32, whole: bool) -> Result<Run> {
        let (keys, values): (Vec<KeyBytes>, Vec<Vec<u8>>) = part.into_iter().unzip();
        let values = self.rows.columns(values.iter().map(|value| row_of(value)))?;
        let rows = self.codec.rows(&keys, values)?;
        Ok(Run::of_parts(whole, BTreeMap::new(), self.codec.save(&[rows], key_groups)?))
    }
}
