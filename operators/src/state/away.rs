//! [`Away`]: the entries of a map that are in a table outside of memory, and [`FrozenAway`], those at a barrier.

use std::sync::Arc;

use super::entries::{AwayEntries, FrozenEntries, key_of};
use super::keyed::{StateKey, StateValue};
use super::run::{unreadable, write};
use super::spill::Spill;
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

/// The key group and the encoded key.
pub(super) fn key_bytes(key: &impl StateKey, key_groups: u32) -> Result<Vec<u8>> {
    let mut bytes = key_of(KeyGroup::of(key, key_groups).0, &[]);
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
    entries: AwayEntries,
    // While state is restored nothing counts as changed.
    silent: bool,
    // Only a whole run tells what has changed.
    lost: bool,
    // The mean of an encoded entry.
    length: usize,
}

impl<K, S> Away<K, S> {
    pub(super) fn new(codec: Codec<K, S>, spill: Arc<Spill>) -> Self {
        Away { codec, entries: AwayEntries::new(spill), silent: false, lost: false, length: 32 }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn key(&self, key: &K) -> Option<Vec<u8>> {
        self.entries.or_fault((self.codec.key)(key, self.entries.key_groups()))
    }

    fn encoded(&mut self, key: &K, value: &S) -> Option<(Vec<u8>, Vec<u8>)> {
        let (key, value) = self.key(key).zip(self.entries.or_fault((self.codec.value)(value)))?;
        self.length = (self.length * 15 + key.len() + value.len()) / 16;
        Some((key, value))
    }

    fn read(&self, value: &[u8]) -> Option<S> {
        self.entries.or_fault((self.codec.read_value)(value))
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &K) -> Option<S> {
        self.read(&self.entries.get(&self.key(key)?)?)
    }

    /// Takes a value out, to the map.
    pub(super) fn take(&mut self, key: &K) -> Option<S> {
        if self.len() == 0 {
            return None;
        }
        let value = self.entries.take(&self.key(key)?)?;
        self.read(&value)
    }

    /// Takes an entry of the map, which has changed since the last snapshot or not; it is there when all are
    /// [`sent`](Away::send).
    pub(super) fn put(&mut self, key: &K, value: &S, changed: bool) {
        let Some((key, value)) = self.encoded(key, value) else { return };
        if changed {
            self.note(&key);
        }
        self.entries.put(key, value);
    }

    /// Puts into the table what was taken since the last call.
    pub(super) fn send(&mut self) {
        self.entries.send();
    }

    /// A key is removed.
    pub(super) fn removed(&mut self, key: &K) {
        if let Some(key) = self.key(key) {
            self.note(&key);
        }
    }

    fn note(&mut self, key: &[u8]) {
        if !self.silent && !self.lost {
            self.entries.note(key);
        }
    }

    /// Takes over what a shard has noted before there was a place for what does not fit.
    pub(super) fn goes_on_from(&mut self, touched: &mut Touched<K>) {
        self.lost |= touched.is_lost();
        touched.take_gone().iter().for_each(|key| self.removed(key));
    }

    /// Whether changes are told from now on; those of before are forgotten when they are told again.
    pub(super) fn tell_changes(&mut self, tell: bool) {
        self.silent = !tell;
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
        let mut all = Vec::with_capacity(self.len());
        self.entries.each(|_, key, value| {
            all.push(((self.codec.read_key)(key)?, (self.codec.read_value)(value)?));
            Ok(())
        });
        all
    }

    /// Takes all values out.
    pub(super) fn drain(&mut self) -> Vec<(K, S)> {
        let all = self.all();
        self.entries.clear();
        self.lost = true;
        all
    }

    /// Learns how long an entry is.
    pub(super) fn sample(&mut self, key: &K, value: &S) {
        self.encoded(key, value);
    }

    /// How many of the map's `here` entries should go.
    pub(super) fn excess(&mut self, here: usize) -> usize {
        // A map is between half full and full; what is on the heap is not shorter than what it is encoded to.
        let each = size_of::<(K, S)>() * 3 / 2 + 16 + self.length;
        self.entries.excess(here.saturating_mul(each)).div_ceil(each).min(here)
    }

    /// The entries as they are now, and what was noted since the last call.
    pub(super) fn freeze(&mut self) -> Result<FrozenAway<K, S>> {
        let (key_groups, lost) = (self.entries.key_groups(), std::mem::take(&mut self.lost));
        Ok(FrozenAway { codec: self.codec, key_groups, entries: self.entries.freeze()?, lost })
    }
}

/// The entries that were in a table at a barrier.
pub(super) struct FrozenAway<K, S> {
    codec: Codec<K, S>,
    pub(super) key_groups: u32,
    entries: FrozenEntries,
    pub(super) lost: bool,
}

impl<K, S> FrozenAway<K, S> {
    pub(super) fn len(&self) -> usize {
        self.entries.entries
    }

    /// Gives all entries: the key group, the encoded key, the encoded value.
    pub(super) fn each(&self, give: impl FnMut(u32, &[u8], &[u8]) -> Result) -> Result {
        self.entries.each(give)
    }

    /// Gives the keys that were noted, once each or more often, with their values if they are in the table: the key group,
    /// the key, the encoded key, the encoded value.
    pub(super) fn each_noted(&self, mut give: impl FnMut(u32, K, &[u8], Option<&[u8]>) -> Result) -> Result {
        self.entries.each_noted(|group, encoded, value| give(group, (self.codec.read_key)(encoded)?, encoded, value))
    }
}
