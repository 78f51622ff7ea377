//! [`Away`]: the entries of a map that are in a table outside of memory, and [`FrozenAway`], those at a barrier.

use std::sync::Arc;

use super::keyed::{StateKey, StateValue};
use super::run::{unreadable, write};
use super::spill::{Spill, SpillTable, SpillView};
use super::touched::Touched;
use crate::{KeyGroup, Result};

/// How entries become bytes and come back.
pub(super) struct Codec<K, S> {
    key: fn(&K, u32) -> Result<Vec<u8>>,
    value: fn(&S) -> Result<Vec<u8>>,
    read_key: fn(&[u8]) -> Result<K>,
    read_value: fn(&[u8]) -> Result<S>,
}

impl<K, S> Clone for Codec<K, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, S> Copy for Codec<K, S> {}

/// What a key of the table begins with: the key group, or, of what is written down for the next snapshot, this.
const PREFIX: usize = 2;
const NOTES: [u8; PREFIX] = [0xff; PREFIX];
/// So many entries go to the table at once.
const AT_ONCE: usize = 4_096;
/// So many bytes of noted keys are in memory before they go to the table.
const MANY_NOTES: usize = 256 << 10;

/// The key group and the encoded key.
pub(super) fn key_bytes(key: &impl StateKey, key_groups: u32) -> Result<Vec<u8>> {
    // There are 32768 key groups at most.
    let group = u16::try_from(KeyGroup::of(key, key_groups).0).unwrap_or(u16::MAX - 1);
    let mut bytes = group.to_be_bytes().to_vec();
    write(&mut bytes, key)?;
    Ok(bytes)
}

pub(super) fn bytes_of(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    write(&mut bytes, value)?;
    Ok(bytes)
}

impl<K: StateKey, S: StateValue> Codec<K, S> {
    pub(super) fn new() -> Self {
        Codec {
            key: |key, key_groups| key_bytes(key, key_groups),
            value: |value| bytes_of(value),
            read_key: |bytes| rmp_serde::from_slice(bytes).map_err(|error| unreadable("in the spill store", error)),
            read_value: |bytes| rmp_serde::from_slice(bytes).map_err(|error| unreadable("in the spill store", error)),
        }
    }
}

/// The entries that are in a table.
pub(super) struct Away<K, S> {
    codec: Codec<K, S>,
    spill: Arc<Spill>,
    // Made when something goes there.
    table: Option<Box<dyn SpillTable>>,
    entries: usize,
    // What is on its way there.
    leaving: Vec<(Vec<u8>, Vec<u8>)>,
    notes: Notes,
    // Only a whole run tells what has changed.
    lost: bool,
    // The bytes of memory that the map was last known to hold, and the mean of an encoded entry.
    held: usize,
    length: usize,
}

/// The keys that have changed since the last snapshot and are in the map no more; some of them several times.
#[derive(Default)]
struct Notes {
    // Each behind its length.
    keys: Vec<u8>,
    // Where more of them are in the table.
    stored: Vec<Vec<u8>>,
    // While state is restored nothing counts as changed.
    off: bool,
}

impl<K, S> Away<K, S> {
    pub(super) fn new(codec: Codec<K, S>, spill: Arc<Spill>) -> Self {
        Away {
            codec,
            spill,
            table: None,
            entries: 0,
            leaving: Vec::new(),
            notes: Notes::default(),
            lost: false,
            held: 0,
            length: 32,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries
    }

    fn key(&self, key: &K) -> Option<Vec<u8>> {
        self.spill.or_fault((self.codec.key)(key, self.spill.key_groups()))
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &K) -> Option<S> {
        // What was never there is not looked for.
        let table = self.table.as_ref().filter(|_| self.entries > 0)?;
        let bytes = self.spill.or_fault(table.get(&self.key(key)?))??;
        self.spill.or_fault((self.codec.read_value)(&bytes))
    }

    /// Takes a value out, to the map.
    pub(super) fn take(&mut self, key: &K) -> Option<S> {
        let value = self.get(key)?;
        let key = self.key(key)?;
        let removed = self.table.as_mut()?.remove(key);
        self.spill.or_fault(removed)?;
        self.counts(self.entries.saturating_sub(1));
        Some(value)
    }

    /// Takes an entry of the map, which has changed since the last snapshot or not; it is there when all are
    /// [`sent`](Away::send).
    pub(super) fn put(&mut self, key: &K, value: &S, changed: bool) {
        let encoded = self.key(key).zip(self.spill.or_fault((self.codec.value)(value)));
        let Some((key, value)) = encoded else { return };
        self.weigh(key.len() + value.len());
        if changed {
            self.note(&key);
        }
        self.leaving.push((key, value));
        if self.leaving.len() >= AT_ONCE {
            self.send();
        }
    }

    /// Puts into the table what was taken since the last call.
    pub(super) fn send(&mut self) {
        let leaving = std::mem::take(&mut self.leaving);
        let entries = self.entries + leaving.len();
        if leaving.is_empty() || self.table().is_none() {
            return;
        }
        let put = self.table.as_mut().map(|table| table.put(leaving));
        put.and_then(|put| self.spill.or_fault(put));
        self.counts(entries);
    }

    fn table(&mut self) -> Option<&mut Box<dyn SpillTable>> {
        if self.table.is_none() {
            self.table = self.spill.or_fault(self.spill.table());
        }
        self.table.as_mut()
    }

    fn counts(&mut self, entries: usize) {
        self.spill.stores(self.entries, entries);
        self.entries = entries;
    }

    /// A key is removed.
    pub(super) fn removed(&mut self, key: &K) {
        if let Some(key) = self.key(key) {
            self.note(&key);
        }
    }

    /// Takes over what a shard has noted before there was a place for what does not fit.
    pub(super) fn goes_on_from(&mut self, touched: &mut Touched<K>) {
        self.lost |= touched.is_lost();
        touched.take_gone().iter().for_each(|key| self.removed(key));
    }

    fn note(&mut self, key: &[u8]) {
        if self.notes.off || self.lost {
            return;
        }
        let length = u32::try_from(key.len()).unwrap_or(u32::MAX);
        self.notes.keys.extend_from_slice(&length.to_be_bytes());
        self.notes.keys.extend_from_slice(key);
        if self.notes.keys.len() >= MANY_NOTES {
            let number = u32::try_from(self.notes.stored.len()).unwrap_or(u32::MAX);
            let place = [&NOTES[..], &number.to_be_bytes()].concat();
            let keys = std::mem::take(&mut self.notes.keys);
            let put = self.table().map(|table| table.put(vec![(place.clone(), keys)]));
            put.and_then(|put| self.spill.or_fault(put));
            self.notes.stored.push(place);
        }
    }

    /// Whether changes are told from now on; those of before are forgotten when they are told again.
    pub(super) fn tell_changes(&mut self, tell: bool) {
        self.notes.off = !tell;
        if tell {
            self.lost = false;
        }
    }

    /// Only a whole run tells what has changed.
    pub(super) fn lose_changes(&mut self) {
        self.lost = true;
    }

    /// All values, which have to fit in memory.
    pub(super) fn all(&self) -> Vec<(K, S)> {
        let mut all = Vec::with_capacity(self.entries);
        let read = self.table.as_ref().map(|table| {
            table.scan(&mut |key, value| {
                if !key.starts_with(&NOTES) {
                    let key = (self.codec.read_key)(key.get(PREFIX..).unwrap_or_default())?;
                    all.push((key, (self.codec.read_value)(value)?));
                }
                Ok(())
            })
        });
        read.and_then(|read| self.spill.or_fault(read));
        all
    }

    /// Takes all values out.
    pub(super) fn drain(&mut self) -> Vec<(K, S)> {
        let all = self.all();
        (self.table, self.notes, self.lost) = (None, Notes { off: self.notes.off, ..Notes::default() }, true);
        self.counts(0);
        all
    }

    /// Learns how long an entry is.
    pub(super) fn sample(&mut self, key: &K, value: &S) {
        let encoded = self.key(key).zip(self.spill.or_fault((self.codec.value)(value)));
        if let Some((key, value)) = encoded {
            self.weigh(key.len() + value.len());
        }
    }

    fn weigh(&mut self, length: usize) {
        self.length = (self.length * 15 + length) / 16;
    }

    /// How many of the map's `here` entries should go.
    pub(super) fn excess(&mut self, here: usize) -> usize {
        // A map is between half full and full; what is on the heap is not shorter than what it is encoded to.
        let each = size_of::<(K, S)>() * 3 / 2 + 16 + self.length;
        let own = here.saturating_mul(each);
        self.spill.holds(self.held, own);
        self.held = own;
        self.spill.excess(own).div_ceil(each).min(here)
    }

    /// The entries as they are now, and what was noted since the last call.
    pub(super) fn freeze(&mut self) -> Result<FrozenAway<K, S>> {
        let Notes { keys, stored, .. } = std::mem::take(&mut self.notes);
        let view = self.table.as_ref().map(|table| table.view()).transpose()?;
        if let Some(table) = &mut self.table {
            // They stay in the view.
            stored.iter().try_for_each(|place| table.remove(place.clone()))?;
        }
        let (entries, lost) = (self.entries, std::mem::take(&mut self.lost));
        Ok(FrozenAway { codec: self.codec, key_groups: self.spill.key_groups(), view, entries, keys, stored, lost })
    }
}

impl<K, S> Drop for Away<K, S> {
    fn drop(&mut self) {
        self.spill.holds(self.held, 0);
        self.spill.stores(self.entries, 0);
    }
}

/// The entries that were in a table at a barrier.
pub(super) struct FrozenAway<K, S> {
    codec: Codec<K, S>,
    pub(super) key_groups: u32,
    view: Option<Box<dyn SpillView>>,
    pub(super) entries: usize,
    keys: Vec<u8>,
    stored: Vec<Vec<u8>>,
    pub(super) lost: bool,
}

/// A key of a table taken apart: the key group, and the encoded key.
pub(super) fn apart(key: &[u8]) -> (u32, &[u8]) {
    match key {
        [high, low, key @ ..] => (u32::from(u16::from_be_bytes([*high, *low])), key),
        _ => (0, key),
    }
}

impl<K, S> FrozenAway<K, S> {
    /// Gives all entries: the key group, the encoded key, the encoded value.
    pub(super) fn each(&self, mut give: impl FnMut(u32, &[u8], &[u8]) -> Result) -> Result {
        let Some(view) = &self.view else { return Ok(()) };
        view.scan(&mut |key, value| {
            if key.starts_with(&NOTES) {
                return Ok(());
            }
            let (group, key) = apart(key);
            give(group, key, value)
        })
    }

    /// Gives the keys that were noted, once each or more often, with their values if they are in the table: the key group,
    /// the key, the encoded key, the encoded value.
    pub(super) fn each_noted(&self, mut give: impl FnMut(u32, K, &[u8], Option<&[u8]>) -> Result) -> Result {
        let stored = self.stored.iter().filter_map(|place| self.view.as_ref()?.get(place).transpose());
        for keys in stored.chain([Ok(self.keys.clone())]) {
            let keys = keys?;
            let mut all: Vec<&[u8]> = Split(&keys).collect();
            all.sort_unstable();
            all.dedup();
            for noted in all {
                let (group, encoded) = apart(noted);
                let value = self.view.as_ref().map(|view| view.get(noted)).transpose()?.flatten();
                give(group, (self.codec.read_key)(encoded)?, encoded, value.as_deref())?;
            }
        }
        Ok(())
    }
}

/// Pieces, each behind its length.
struct Split<'a>(&'a [u8]);

impl<'a> Iterator for Split<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        let (piece, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        self.0 = rest;
        Some(piece)
    }
}
