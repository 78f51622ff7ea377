//! [`Away`]: the keys of a join that do not fit in memory, with all that is held of them.
//!
//! A key is in memory with all its rows, or here with all of them:
//!
//! ```text
//!  a row of it comes, or it is due --> its rows become a chunk of their sides, and it is there as if it had never been gone
//!  too much is held: the keys of the oldest rows go, each as one entry: when to come back to it, its rows, what is known of them
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;

use super::away_saved::Frozen;
use super::keys::Both;
use super::parked::{Layout, Parked};
use crate::columnar::group::KeyBytes;
use crate::state::{AwayEntries, Piece, key_of};
use crate::{Fault, Result, Run, Snapshot, Spill, Timers, Timestamp};

/// The keys that are away.
pub(super) struct Away {
    layout: Arc<Layout>,
    place: Option<Place>,
    // What was restored and has no place outside of memory, to be taken in at once.
    kept: BTreeMap<KeyBytes, Vec<u8>>,
    // Whether only a whole run tells what has changed.
    is_lost: bool,
    // How far event time had come in what is restored.
    horizon: Timestamp,
}

/// Where they are.
struct Place {
    entries: AwayEntries,
    // When to come back to which of them, but for the next ones.
    due: Timers<Bytes>,
    next: BTreeSet<(i64, Bytes)>,
}

/// Keys that are brought back at once because they are due: so many at most, and with the last of them their rows have so many
/// bytes, or more.
const DUE: usize = 1_024;
const HEAVY: usize = 16 << 20;

/// What is brought back.
#[derive(Default)]
pub(super) struct Back {
    /// The rows of a side, as they are kept, and what is known of each.
    pub(super) rows: Both<Option<(RecordBatch, Vec<u8>)>>,
    /// The keys, and when to come back to them.
    pub(super) keys: Vec<(KeyBytes, Option<i64>)>,
}

impl Away {
    /// None are away; `horizon` is how far event time had come where they are restored.
    pub(super) fn new(layout: &Arc<Layout>, horizon: Timestamp) -> Self {
        Away { layout: Arc::clone(layout), place: None, kept: BTreeMap::new(), is_lost: false, horizon }
    }

    /// How many keys are away.
    pub(super) fn len(&self) -> usize {
        self.place.as_ref().map_or(0, |place| place.entries.len())
    }

    /// The join holds so many bytes in memory; how many of them should go.
    pub(super) fn excess(&mut self, held: usize) -> usize {
        self.place.as_mut().map_or(0, |place| place.entries.excess(held))
    }

    /// Takes keys with all that is held of them.
    pub(super) fn put(&mut self, keys: Vec<(KeyBytes, Parked)>) -> Result {
        let groups = self.layout.groups(keys.iter().map(|(key, _)| key), self.key_groups())?;
        let Some(place) = &mut self.place else { return Err(Fault::bug("there is no place for keys of a join")) };
        for ((key, parked), group) in keys.into_iter().zip(groups) {
            place.entries.note(&key_of(group, &key));
            place.put(group, &key, parked.due(), parked.bytes());
        }
        place.entries.send();
        Ok(())
    }

    /// Takes those of some keys out that are here, with all their rows.
    pub(super) fn take(&mut self, keys: impl Iterator<Item = KeyBytes>) -> Result<Back> {
        let keys: Vec<KeyBytes> = keys.collect();
        let groups = self.layout.groups(&keys, self.key_groups())?;
        let Some(place) = &mut self.place else { return Ok(Back::default()) };
        let mut found = Vec::new();
        for (key, group) in keys.into_iter().zip(groups) {
            if let Some(bytes) = place.take(group, &key) {
                place.entries.note(&key_of(group, &key));
                found.push((key, bytes));
            }
        }
        self.layout.back(found)
    }

    /// What was restored and has no place here.
    pub(super) fn take_kept(&mut self) -> Result<Back> {
        let kept = std::mem::take(&mut self.kept);
        // The checkpoint has them here.
        self.is_lost |= !kept.is_empty();
        self.layout.back(kept.into_iter().collect())
    }

    /// When the next key is due, if that is not after `now`.
    pub(super) fn next_at(&mut self, now: i64) -> Option<i64> {
        self.place.as_mut()?.next_at(now)
    }

    /// Takes the first keys out that are due at `at`, the earliest time at which some are, with all their rows; and gives the last
    /// of them, if there are more.
    pub(super) fn take_due(&mut self, at: i64) -> Result<(Back, Option<KeyBytes>)> {
        let key_groups = self.key_groups();
        let Some(place) = &mut self.place else { return Ok(Default::default()) };
        let (mut found, mut bytes) = (Vec::new(), 0);
        while found.is_empty() && place.next_at(at) == Some(at) {
            let due = place.next.iter().take_while(|(due, _)| *due == at).take(DUE);
            let keys: Vec<KeyBytes> = due.map(|(_, key)| KeyBytes::from(&**key)).collect();
            for (key, group) in keys.iter().zip(self.layout.groups(&keys, key_groups)?) {
                if bytes >= HEAVY {
                    break;
                }
                let Some(parked) = place.take(group, key) else {
                    place.next.remove(&(at, Bytes::copy_from_slice(key)));
                    continue;
                };
                place.entries.note(&key_of(group, key));
                bytes += parked.len();
                found.push((key.clone(), parked));
            }
        }
        let last = found.last().map(|(key, _)| key.clone()).filter(|_| place.next_at(at) == Some(at));
        Ok((self.layout.back(found)?, last))
    }

    fn key_groups(&self) -> u32 {
        self.place.as_ref().map_or(1, |place| place.entries.key_groups())
    }

    /// Takes what a run says of keys, none of which comes twice: what is held of them now, or that nothing is.
    fn play_keys(&mut self, keys: Vec<(KeyBytes, Option<Parked>)>) -> Result {
        let groups = self.layout.groups(keys.iter().map(|(key, _)| key), self.key_groups())?;
        let Some(place) = &mut self.place else {
            for (key, parked) in keys {
                match parked {
                    Some(parked) => drop(self.kept.insert(key, parked.bytes())),
                    None => drop(self.kept.remove(&key)),
                }
            }
            return Ok(());
        };
        for ((key, parked), group) in keys.into_iter().zip(groups) {
            place.take(group, &key);
            if let Some(parked) = parked {
                place.put(group, &key, parked.due(), parked.bytes());
            }
        }
        place.entries.send();
        Ok(())
    }
}

impl Place {
    fn put(&mut self, group: u32, key: &[u8], due: Option<i64>, bytes: Vec<u8>) {
        self.entries.put(key_of(group, key), bytes);
        let Some(due) = due else { return };
        let timer = (due, Bytes::copy_from_slice(key));
        // The next ones are all that come before the others.
        match self.next.last() {
            Some(last) if timer < *last => drop(self.next.insert(timer)),
            _ => self.due.set(Timestamp::from_micros(timer.0), timer.1),
        }
    }

    fn take(&mut self, group: u32, key: &[u8]) -> Option<Vec<u8>> {
        let bytes = self.entries.take(&key_of(group, key))?;
        if let Some(due) = Parked::due_of(&bytes) {
            let timer = (due, Bytes::copy_from_slice(key));
            if !self.next.remove(&timer) {
                self.due.clear(Timestamp::from_micros(due), timer.1);
            }
        }
        Some(bytes)
    }

    fn next_at(&mut self, now: i64) -> Option<i64> {
        if self.next.is_empty() {
            let due = std::iter::from_fn(|| self.due.next_due(Timestamp::from_micros(now)));
            self.next.extend(due.take(DUE).map(|(at, key)| (at.as_micros(), key)));
        }
        self.next.first().map(|(at, _)| *at)
    }
}

impl Piece for Away {
    fn freeze(&mut self) -> Result<Box<dyn Snapshot>> {
        let entries = self.place.as_mut().map(|place| place.entries.freeze()).transpose()?;
        let is_lost = std::mem::take(&mut self.is_lost);
        Ok(Box::new(Frozen { layout: Arc::clone(&self.layout), entries, is_lost }))
    }

    fn fit(&mut self, spill: &Arc<Spill>) -> Result<bool> {
        if self.place.is_none() && self.layout.can_be_away() {
            let (mut due, entries) = (Timers::default(), AwayEntries::new(Arc::clone(spill)));
            due.fit(spill);
            self.place = Some(Place { entries, due, next: BTreeSet::new() });
        }
        Ok(self.place.is_some())
    }

    fn play(&mut self, run: &Run) -> Result {
        for (gone, put) in run.parts() {
            let gone = self.layout.read_keys(gone)?;
            self.play_keys(gone.into_iter().map(|key| (key, None)).collect())?;
            let put = self.layout.read(put, self.horizon.as_micros())?;
            self.play_keys(put.into_iter().map(|(key, parked)| (key, Some(parked))).collect())?;
        }
        Ok(())
    }
}
