//! [`Far`]: the timers that are in a table outside of memory: those from some time on.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::away::{apart, bytes_of, key_bytes};
use super::keyed::StateKey;
use super::run::{Parts, unreadable};
use super::spill::{Spill, SpillTable, SpillView};
use crate::{Result, Timestamp};

/// What a timer is in the table: its time, so that timers are in the order in which they are due, the key group, and the
/// encoded key. It has no value.
type Encode<K> = fn(Timestamp, &K, u32) -> Result<Vec<u8>>;
type Decode<K> = fn(&[u8]) -> Result<K>;

/// All timers from the `horizon` on.
pub(super) struct Far<K> {
    encode: Encode<K>,
    decode: Decode<K>,
    spill: Arc<Spill>,
    table: Option<Box<dyn SpillTable>>,
    horizon: Timestamp,
    // On their way to the table.
    leaving: BTreeSet<Vec<u8>>,
    entries: usize,
    held: usize,
    length: usize,
}

const TIME: usize = 8;
/// So many go to the table at once, or come from it.
const MANY: usize = 1_024;

fn time_of(bytes: &[u8]) -> (Timestamp, &[u8]) {
    let (time, rest) = bytes.split_first_chunk::<TIME>().unwrap_or((&[0; TIME], bytes));
    (Timestamp::from_micros(i64::from_be_bytes(*time) ^ i64::MIN), rest)
}

impl<K: StateKey> Far<K> {
    pub(super) fn new(spill: Arc<Spill>) -> Self {
        Far {
            encode: |at, key, key_groups| {
                let time = (at.as_micros() ^ i64::MIN).to_be_bytes();
                Ok([time.to_vec(), key_bytes(key, key_groups)?].concat())
            },
            decode: |bytes| rmp_serde::from_slice(bytes).map_err(|error| unreadable("in the spill store", error)),
            spill,
            table: None,
            horizon: Timestamp::MAX,
            leaving: BTreeSet::new(),
            entries: 0,
            held: 0,
            length: 24,
        }
    }
}

impl<K> Far<K> {
    /// Whether a timer of this time belongs here.
    pub(super) fn is_far(&self, at: Timestamp) -> bool {
        self.entries > 0 && at >= self.horizon
    }

    pub(super) fn len(&self) -> usize {
        self.entries
    }

    fn counts(&mut self, entries: usize) {
        self.spill.stores(self.entries, entries);
        self.entries = entries;
    }

    fn encoded(&mut self, at: Timestamp, key: &K) -> Option<Vec<u8>> {
        let bytes = self.spill.or_fault((self.encode)(at, key, self.spill.key_groups()))?;
        self.length = (self.length * 15 + bytes.len()) / 16;
        Some(bytes)
    }

    fn has(&self, bytes: &[u8]) -> bool {
        let stored = || self.table.as_ref().and_then(|table| self.spill.or_fault(table.get(bytes))).flatten().is_some();
        self.leaving.contains(bytes) || stored()
    }

    /// Takes a timer that is not before the horizon; false if it is there.
    pub(super) fn set(&mut self, at: Timestamp, key: &K) {
        let Some(bytes) = self.encoded(at, key) else { return };
        if self.has(&bytes) {
            return;
        }
        self.leaving.insert(bytes);
        self.counts(self.entries + 1);
        if self.leaving.len() >= MANY {
            self.send();
        }
    }

    /// Takes timers that the map holds no more; from now on those from `horizon` on are here.
    pub(super) fn take<'a>(&mut self, horizon: Timestamp, timers: impl IntoIterator<Item = &'a (Timestamp, K)>)
    where
        K: 'a,
    {
        timers.into_iter().for_each(|(at, key)| self.set(*at, key));
        self.horizon = horizon;
    }

    /// Forgets a timer; whether it was set.
    pub(super) fn clear(&mut self, at: Timestamp, key: &K) -> bool {
        let Some(bytes) = self.encoded(at, key) else { return false };
        if !self.has(&bytes) {
            return false;
        }
        if !self.leaving.remove(&bytes)
            && let Some(table) = &mut self.table
        {
            let removed = table.remove(bytes);
            self.spill.or_fault(removed);
        }
        self.counts(self.entries.saturating_sub(1));
        true
    }

    fn send(&mut self) {
        let leaving = std::mem::take(&mut self.leaving);
        if leaving.is_empty() {
            return;
        }
        if self.table.is_none() {
            self.table = self.spill.or_fault(self.spill.table());
        }
        let Some(table) = &mut self.table else { return };
        let put = table.put(leaving.into_iter().map(|bytes| (bytes, Vec::new())).collect());
        self.spill.or_fault(put);
    }

    /// Takes the next timers out, all of those of the last time among them.
    pub(super) fn next(&mut self) -> Vec<(Timestamp, K)> {
        self.send();
        let (mut next, mut horizon): (Vec<(Timestamp, Vec<u8>)>, _) = (Vec::new(), Timestamp::MAX);
        let Some(table) = &mut self.table else { return Vec::new() };
        let read = table.scan_while(&mut |bytes, _| {
            let (at, _) = time_of(bytes);
            if next.len() >= MANY && next.last().is_some_and(|(last, _)| *last != at) {
                horizon = at;
                return Ok(false);
            }
            next.push((at, bytes.to_vec()));
            Ok(true)
        });
        self.spill.or_fault(read);
        let mut timers = Vec::with_capacity(next.len());
        for (at, bytes) in next {
            let key = (self.decode)(apart(time_of(&bytes).1).1);
            timers.extend(self.spill.or_fault(key).map(|key| (at, key)));
            let removed = table.remove(bytes);
            self.spill.or_fault(removed);
        }
        self.horizon = horizon;
        self.counts(self.entries.saturating_sub(timers.len()));
        if self.entries == 0 {
            self.table = None;
        }
        timers
    }

    /// How many of `here` timers that are in memory should go.
    pub(super) fn excess(&mut self, here: usize) -> usize {
        let each = size_of::<(Timestamp, K)>() * 3 / 2 + self.length;
        let own = here.saturating_mul(each);
        self.spill.holds(self.held, own);
        self.held = own;
        self.spill.excess(own).div_ceil(each).min(here)
    }

    pub(super) fn freeze(&mut self) -> Result<FrozenFar<K>> {
        self.send();
        let view = self.table.as_ref().map(|table| table.view()).transpose()?;
        let (encode, key_groups) = (self.encode, self.spill.key_groups());
        Ok(FrozenFar { encode, key_groups, view, horizon: self.horizon, entries: self.entries })
    }
}

impl<K> Drop for Far<K> {
    fn drop(&mut self) {
        self.spill.holds(self.held, 0);
        self.spill.stores(self.entries, 0);
    }
}

/// The timers that were in a table at a barrier.
pub(super) struct FrozenFar<K> {
    encode: Encode<K>,
    key_groups: u32,
    view: Option<Box<dyn SpillView>>,
    horizon: Timestamp,
    pub(super) entries: usize,
}

impl<K> FrozenFar<K> {
    /// Whether a timer is among them.
    pub(super) fn has(&self, at: Timestamp, key: &K) -> Result<bool> {
        match &self.view {
            Some(view) if at >= self.horizon => Ok(view.get(&(self.encode)(at, key, self.key_groups)?)?.is_some()),
            _ => Ok(false),
        }
    }

    /// Puts all of them into a run.
    pub(super) fn each(&self, parts: &mut Parts<'_>) -> Result {
        let Some(view) = &self.view else { return Ok(()) };
        view.scan(&mut |bytes, _| {
            let (at, rest) = time_of(bytes);
            let (group, key) = apart(rest);
            parts.put(group, key, &bytes_of(&at)?)
        })
    }
}
