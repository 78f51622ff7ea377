//! [`Far`]: the timers that are in a table outside of memory: those from some timer on.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::away::{bytes_of, key_bytes};
use super::keyed::StateKey;
use super::long_keys::group_of;
use super::notes::{Notes, is_note};
use super::ordered::ordered;
use super::run::{Parts, unreadable};
use super::spill::{Spill, SpillTable, SpillView};
use crate::{Result, Timestamp};

/// What a timer is in the table: its time and its key, in the order in which timers are due, and as a value the key group and
/// the encoded key.
type Entry = (Vec<u8>, Vec<u8>);
type Encode<K> = fn(Timestamp, &K, u32) -> Result<Entry>;
type Decode<K> = fn(&[u8]) -> Result<K>;

/// All timers from the `horizon` on. Those before are in memory; of its own time, where keys have an order of their own, some
/// from it on may be, too.
pub(super) struct Far<K> {
    encode: Encode<K>,
    decode: Decode<K>,
    spill: Arc<Spill>,
    table: Option<Box<dyn SpillTable>>,
    horizon: Vec<u8>,
    // On their way to the table.
    leaving: BTreeMap<Vec<u8>, Vec<u8>>,
    entries: usize,
    // The timers that have changed since the last snapshot, behind their times.
    notes: Notes,
    held: usize,
    length: usize,
}

const TIME: usize = 8;
/// So many go to the table at once, or come from it.
const MANY: usize = 1_024;

fn bytes_of_time(at: Timestamp) -> [u8; TIME] {
    (at.as_micros() ^ i64::MIN).to_be_bytes()
}

fn time_of(bytes: &[u8]) -> (Timestamp, &[u8]) {
    let (time, rest) = bytes.split_first_chunk::<TIME>().unwrap_or((&[0; TIME], bytes));
    (Timestamp::from_micros(i64::from_be_bytes(*time) ^ i64::MIN), rest)
}

impl<K: StateKey> Far<K> {
    pub(super) fn new(spill: Arc<Spill>) -> Self {
        Far {
            encode: |at, key, key_groups| {
                let value = key_bytes(key, key_groups)?;
                let place = [&bytes_of_time(at)[..], &ordered(key, group_of(&value).1)].concat();
                Ok((place, value))
            },
            decode: |bytes| rmp_serde::from_slice(bytes).map_err(|error| unreadable("in the spill store", error)),
            spill,
            table: None,
            horizon: Vec::new(),
            leaving: BTreeMap::new(),
            entries: 0,
            notes: Notes::default(),
            held: 0,
            length: 24,
        }
    }
}

impl<K> Far<K> {
    pub(super) fn len(&self) -> usize {
        self.entries
    }

    /// When the first is due.
    pub(super) fn from(&self) -> Option<Timestamp> {
        (self.entries > 0).then(|| time_of(&self.horizon).0)
    }

    /// Whether a timer belongs here; of those of the first time the ones that are in memory do not.
    pub(super) fn is_far(&self, at: Timestamp, key: &K) -> bool {
        match self.from() {
            None => false,
            Some(first) if at == first => {
                let encoded = self.spill.or_fault((self.encode)(at, key, self.spill.key_groups()));
                encoded.is_some_and(|(place, _)| place >= self.horizon)
            }
            Some(first) => at > first,
        }
    }

    fn counts(&mut self, entries: usize) {
        self.spill.stores(self.entries, entries);
        self.entries = entries;
    }

    fn encoded(&mut self, at: Timestamp, key: &K) -> Option<Entry> {
        let (place, value) = self.spill.or_fault((self.encode)(at, key, self.spill.key_groups()))?;
        self.length = (self.length * 15 + place.len() + value.len()) / 16;
        Some((place, value))
    }

    /// Learns how long a timer is: what is on the heap is not shorter than what it is encoded to.
    pub(super) fn sample(&mut self, at: Timestamp, key: &K) {
        self.encoded(at, key);
    }

    fn has(&self, place: &[u8]) -> bool {
        let stored = || self.table.as_ref().and_then(|table| self.spill.or_fault(table.get(place))).flatten().is_some();
        self.leaving.contains_key(place) || stored()
    }

    fn add(&mut self, (place, value): Entry) {
        self.leaving.insert(place, value);
        self.counts(self.entries + 1);
        if self.leaving.len() >= MANY {
            self.send();
        }
    }

    /// Takes a timer that is not before the horizon, and may be there.
    pub(super) fn set(&mut self, at: Timestamp, key: &K) {
        if let Some((place, value)) = self.encoded(at, key)
            && !self.has(&place)
        {
            self.add((place, value));
        }
    }

    /// Takes timers that the map holds no more, which are before all that are here; from now on those from the first of them on
    /// are here.
    pub(super) fn take<'a>(&mut self, timers: impl IntoIterator<Item = &'a (Timestamp, K)>)
    where
        K: 'a,
    {
        let mut first: Option<Vec<u8>> = None;
        for (at, key) in timers {
            let Some((place, value)) = self.encoded(*at, key) else { continue };
            if first.as_ref().is_none_or(|first| place < *first) {
                first = Some(place.clone());
            }
            self.add((place, value));
        }
        if let Some(first) = first {
            self.horizon = first;
        }
    }

    /// Forgets a timer; whether it was set.
    pub(super) fn clear(&mut self, at: Timestamp, key: &K) -> bool {
        let Some((place, _)) = self.encoded(at, key) else { return false };
        if !self.has(&place) {
            return false;
        }
        if self.leaving.remove(&place).is_none()
            && let Some(table) = &mut self.table
        {
            let removed = table.remove(place);
            self.spill.or_fault(removed);
        }
        self.counts(self.entries.saturating_sub(1));
        true
    }

    fn table(&mut self) -> Option<&mut Box<dyn SpillTable>> {
        if self.table.is_none() {
            self.table = self.spill.or_fault(self.spill.table());
        }
        self.table.as_mut()
    }

    fn put(&mut self, entries: Vec<Entry>) {
        let put = self.table().map(|table| table.put(entries));
        put.and_then(|put| self.spill.or_fault(put));
    }

    fn send(&mut self) {
        let leaving = std::mem::take(&mut self.leaving);
        if !leaving.is_empty() {
            self.put(leaving.into_iter().collect());
        }
    }

    /// Takes the next timers out, in the order in which they are due, and however many are due at one time.
    pub(super) fn next(&mut self) -> Vec<(Timestamp, K)> {
        self.send();
        let (mut next, mut horizon): (Vec<Entry>, _) = (Vec::new(), None);
        let Some(table) = &mut self.table else { return Vec::new() };
        let read = table.scan_while(&self.horizon, &mut |place, value| {
            if is_note(place) {
                return Ok(false);
            }
            if next.len() < MANY {
                next.push((place.to_vec(), value.to_vec()));
                return Ok(true);
            }
            horizon = Some(place.to_vec());
            Ok(false)
        });
        self.spill.or_fault(read);
        let mut timers = Vec::with_capacity(next.len());
        for (place, value) in next {
            let key = (self.decode)(group_of(&value).1);
            timers.extend(self.spill.or_fault(key).map(|key| (time_of(&place).0, key)));
            let removed = table.remove(place);
            self.spill.or_fault(removed);
        }
        match horizon {
            Some(horizon) => {
                self.horizon = horizon;
                self.counts(self.entries.saturating_sub(timers.len()));
            }
            // Also if it could not be read: then there is a fault.
            None => self.counts(0),
        }
        timers
    }

    /// Notes that a timer was set or taken out.
    pub(super) fn note(&mut self, at: Timestamp, key: &K) {
        let Some((_, value)) = self.spill.or_fault((self.encode)(at, key, self.spill.key_groups())) else { return };
        if let Some(piece) = self.notes.note(&[&bytes_of_time(at)[..], &value].concat()) {
            self.put(vec![piece]);
        }
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
        let notes = std::mem::take(&mut self.notes);
        if let Some(table) = &mut self.table {
            // They stay in the view.
            notes.places().try_for_each(|place| table.remove(place))?;
        }
        let (encode, decode, key_groups) = (self.encode, self.decode, self.spill.key_groups());
        Ok(FrozenFar { encode, decode, key_groups, view, horizon: self.horizon.clone(), entries: self.entries, notes })
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
    decode: Decode<K>,
    key_groups: u32,
    view: Option<Box<dyn SpillView>>,
    horizon: Vec<u8>,
    pub(super) entries: usize,
    notes: Notes,
}

impl<K> FrozenFar<K> {
    /// Whether a timer is among them.
    pub(super) fn has(&self, at: Timestamp, key: &K) -> Result<bool> {
        let view = match &self.view {
            Some(view) if self.entries > 0 && at >= time_of(&self.horizon).0 => view,
            _ => return Ok(false),
        };
        let (place, _) = (self.encode)(at, key, self.key_groups)?;
        Ok(place >= self.horizon && view.get(&place)?.is_some())
    }

    /// Gives the timers that were noted, once each or more often.
    pub(super) fn each_noted(&self, mut give: impl FnMut(Timestamp, K) -> Result) -> Result {
        self.notes.each(self.view.as_deref(), |noted| {
            let (at, key) = time_of(noted);
            give(at, (self.decode)(group_of(key).1)?)
        })
    }

    /// Puts all of them into a run.
    pub(super) fn each(&self, parts: &mut Parts<'_>) -> Result {
        let Some(view) = self.view.as_ref().filter(|_| self.entries > 0) else { return Ok(()) };
        view.scan_while(&self.horizon, &mut |place, value| {
            if !is_note(place) {
                let (group, key) = group_of(value);
                parts.put(group, key, &bytes_of(&time_of(place).0)?)?;
            }
            Ok(true)
        })
    }
}
