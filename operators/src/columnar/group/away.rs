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

    /// Notes that there is nothing of some keys any more.
    pub(super) fn note_gone(&mut self, keys: &[KeyBytes]) {
        let groups = self.codec.columns(keys).map(|columns| {
            let groups = self.codec.groups(&columns, keys.len(), self.entries.key_groups());
            groups.into_iter().zip(keys).map(|(group, key)| key_of(group, key)).collect::<Vec<_>>()
        });
        let noted = self.entries.or_fault(groups);
        noted.into_iter().flatten().for_each(|key| self.entries.note(&key));
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

    /// Gives all keys and the columns of values, some at a time.
    pub(super) fn each(&self, give: &mut dyn FnMut(&[KeyBytes], &[ArrayRef]) -> Result) -> Result {
        let (mut keys, mut values, mut weight) = (Vec::new(), Vec::<Vec<u8>>::new(), 0);
        let mut given = Ok(());
        self.entries.each(|_, key, value| {
            weight += key.len() + value.len();
            keys.push(KeyBytes::from(key));
            values.push(value.to_vec());
            if weight >= PART && given.is_ok() {
                let columns = self.rows.columns(values.iter().map(|value| row_of(value)));
                given = columns.and_then(|columns| give(&keys, &columns));
                (keys, values, weight) = (Vec::new(), Vec::new(), 0);
            }
            Ok(())
        });
        given?;
        if keys.is_empty() {
            return Ok(());
        }
        give(&keys, &self.rows.columns(values.iter().map(|value| row_of(value)))?)
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

    /// Gives all of them, or those that have changed and the keys that are not here any more, as runs of some MB.
    pub(super) fn encode(&self, key_groups: u32, whole: bool, give: &mut dyn FnMut(Run) -> Result) -> Result {
        let mut parts =
            Parts { rows: self, key_groups, whole, give, put: BTreeMap::new(), gone: Vec::new(), weight: 0 };
        match whole {
            true => self.entries.each(|_, key, value| parts.add(key, Some(value)))?,
            // One that is not here any more is gone, or in a chunk, which is told behind it.
            false => self.entries.each_noted(|_, key, value| parts.add(key, value))?,
        }
        parts.send()
    }

    fn run(&self, gone: &[KeyBytes], put: BTreeMap<KeyBytes, Vec<u8>>, key_groups: u32, whole: bool) -> Result<Run> {
        let (keys, values): (Vec<KeyBytes>, Vec<Vec<u8>>) = put.into_iter().unzip();
        let put = match keys.is_empty() {
            true => BTreeMap::new(),
            false => {
                let values = self.rows.columns(values.iter().map(|value| row_of(value)))?;
                self.codec.save(&[self.codec.rows(&keys, values)?], key_groups)?
            }
        };
        Ok(Run::of_parts(whole, self.codec.save_keys(gone, key_groups)?, put))
    }
}

/// Runs on their way out.
struct Parts<'a> {
    rows: &'a FrozenRows,
    key_groups: u32,
    whole: bool,
    give: &'a mut dyn FnMut(Run) -> Result,
    // One that was noted twice is told once.
    put: BTreeMap<KeyBytes, Vec<u8>>,
    gone: Vec<KeyBytes>,
    weight: usize,
}

impl Parts<'_> {
    fn add(&mut self, key: &[u8], value: Option<&[u8]>) -> Result {
        self.weight += key.len() + value.map_or(0, <[u8]>::len);
        match value {
            Some(value) => drop(self.put.insert(key.into(), value.to_vec())),
            None => self.gone.push(key.into()),
        }
        if self.weight < PART { Ok(()) } else { self.send() }
    }

    fn send(&mut self) -> Result {
        let (gone, put) = (std::mem::take(&mut self.gone), std::mem::take(&mut self.put));
        self.weight = 0;
        if gone.is_empty() && put.is_empty() {
            return Ok(());
        }
        (self.give)(self.rows.run(&gone, put, self.key_groups, self.whole)?)
    }
}
