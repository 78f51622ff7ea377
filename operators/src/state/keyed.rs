//! [`Keyed`]: a value for each key.

use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::away::{Away, Codec, FrozenAway};
use super::run::{Parts, Replay};
use super::shards::{Shard, Shards, hash_of, place};
use super::versions::ReadValue;
use super::{Run, Snapshot, Spill};
use crate::{Fault, Key, KeyGroup, Result};

/// A key that state can be kept for: it can be saved, equal keys alike, and has an order, so that what is saved or given does
/// not depend on the order in which keys came.
pub trait StateKey: Key + Ord + Serialize + DeserializeOwned + Sync {}

impl<K: Key + Ord + Serialize + DeserializeOwned + Sync> StateKey for K {}

/// What can be kept as state: it can be saved and restored.
pub trait StateValue: Clone + Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<S: Clone + Serialize + DeserializeOwned + Send + Sync + 'static> StateValue for S {}

/// A value for each key: what most operators with state are made of. List it in
/// [`Operator::state`](crate::Operator::state) with [`StateVisitor::keyed`](crate::StateVisitor::keyed); it is then saved
/// by key group, and goes where its keys go when the number of subtasks changes.
///
/// A barrier does not wait until it is saved: a snapshot shares it, and what changes afterwards is copied, a few hundred
/// keys at most at a time. Later snapshots tell what has changed; a value counts as changed when it was borrowed to be.
///
/// Where the pipeline has a budget of memory for its state, entries that do not fit go to a store outside of it, and come back
/// when they are asked for; nothing changes for the operator. [`iter`](Keyed::iter) and
/// [`take_sorted`](Keyed::take_sorted) have all entries in memory.
///
/// ```
/// use millstream_operators::Keyed;
/// let mut counts: Keyed<&'static str, u64> = Keyed::default();
/// for word in ["to", "be", "or", "not", "to", "be"] {
///     *counts.entry(word).or_default() += 1;
/// }
/// assert_eq!(counts.get(&"to"), Some(&2));
/// ```
///
/// A map or a list for each key is a value that is one; it is copied, saved and spilled as a whole, so it should not grow
/// without end. For what a key has a time, an hour or a day long, see [`Panes`](crate::Panes).
///
/// ```
/// # use std::collections::BTreeMap;
/// # use millstream_operators::Keyed;
/// let mut basket: Keyed<u64, BTreeMap<String, u32>> = Keyed::default();
/// *basket.entry(7).or_default().entry("apple".to_owned()).or_default() += 2;
/// let mut visits: Keyed<u64, Vec<i64>> = Keyed::default();
/// visits.entry(7).or_default().push(1_700_000_000);
/// ```
pub struct Keyed<K, S>(Shards<K, S>);

impl<K, S> Default for Keyed<K, S> {
    fn default() -> Self {
        Keyed(Shards::default())
    }
}

impl<K: Key, S> Keyed<K, S> {
    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&S> {
        self.0.get(key)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All keys and values, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &S)> {
        self.0.iter()
    }
}

impl<K: Key, S: Clone> Keyed<K, S> {
    /// The value of a key, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut S> {
        self.0.get_mut(key)
    }

    /// The place of a key, whether there is a value or not.
    pub fn entry(&mut self, key: K) -> Entry<'_, K, S> {
        self.0.entry(key)
    }

    /// Sets the value of a key; what it was before comes back.
    pub fn insert(&mut self, key: K, value: S) -> Option<S> {
        self.0.insert(key, value)
    }

    /// Takes a key and its value out.
    pub fn remove(&mut self, key: &K) -> Option<S> {
        self.0.remove(key)
    }

    /// Lets `change` change, set or remove the value of a key; what it returns comes back.
    pub fn update<R>(&mut self, key: K, change: impl FnOnce(&K, &mut Option<S>) -> R) -> R {
        self.0.update(key, change)
    }

    /// Takes all keys and values out, in the order of keys.
    pub fn take_sorted(&mut self) -> Vec<(K, S)>
    where
        K: Ord,
    {
        let mut all = self.0.drain();
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        all
    }
}

impl<K: StateKey, S: StateValue> Keyed<K, S> {
    /// All of it as it is now, and what has changed since the last snapshot.
    pub(super) fn freeze(&mut self) -> Result<Box<dyn Snapshot>> {
        let (shards, round) = self.0.freeze();
        match self.0.away() {
            None => Ok(Box::new(FrozenKeyed(shards))),
            Some(away) => Ok(Box::new(FrozenSpilled { shards, round, away: away.freeze()? })),
        }
    }

    /// Keeps to the budget from now on, and lets go of what is too much.
    pub(super) fn fit(&mut self, spill: &Arc<Spill>) {
        match self.0.away() {
            None => self.0.spill_to(Away::new(Codec::new(), Arc::clone(spill))),
            Some(_) => self.0.fit(),
        }
    }

    /// Plays a run into it, of state that is restored, and whose values are read by `read` if they are of another version.
    pub(super) fn play(&mut self, name: &str, run: &Run, read: Option<&ReadValue<S>>) -> Result {
        if let Some(away) = self.0.away() {
            away.tell_changes(false);
        }
        match read {
            None => run.play(name, self),
            Some(read) => run.play_pairs(name, self, read),
        }
    }

    /// The next snapshot tells everything, whatever has changed.
    pub(super) fn tell_all(&mut self) {
        self.0.lose_changes();
    }

    /// All runs were played: nothing counts as changed.
    pub(super) fn settle(&mut self) {
        self.0.settle();
    }
}

impl<K: Key, S: Clone> Replay<K, (K, S)> for Keyed<K, S> {
    fn gone(&mut self, key: K) {
        self.remove(&key);
    }

    fn put(&mut self, (key, value): (K, S)) {
        self.insert(key, value);
    }
}

struct FrozenKeyed<K, S>(Vec<Shard<K, S>>);

impl<K: StateKey, S: StateValue> Snapshot for FrozenKeyed<K, S> {
    fn len(&self) -> usize {
        self.0.iter().map(|shard| shard.entries.len()).sum()
    }

    /// In an order that depends on keys alone: what is saved is the same bytes whoever held it.
    fn encode_in_parts(self: Box<Self>, key_groups: u32, whole: bool, give: &mut dyn FnMut(Run) -> Result) -> Result {
        let whole = whole || self.0.iter().any(|shard| shard.touched.is_lost());
        let (mut parts, mut put) = (Parts::new(whole, give), Vec::new());
        // Shared with the operator no longer than needed: a shard that is let go of need not be copied.
        for Shard { entries, mut touched } in self.0 {
            if whole {
                put.extend(entries.iter().map(|(key, value)| (key.clone(), value.clone())));
            } else if !touched.is_empty() {
                for key in touched.gone() {
                    parts.encode_gone(KeyGroup::of(key, key_groups).0, key)?;
                }
                let is_touched = touched.finder();
                let changed = entries.iter().filter(|(key, _)| is_touched(hash_of(*key)));
                put.extend(changed.map(|(key, value)| (key.clone(), value.clone())));
            }
        }
        put.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for entry in put {
            parts.encode(KeyGroup::of(&entry.0, key_groups).0, &entry)?;
        }
        parts.done()
    }
}

/// Keyed state of which some was not in memory.
struct FrozenSpilled<K, S> {
    shards: Vec<Shard<K, S>>,
    round: usize,
    away: FrozenAway<K, S>,
}

impl<K: StateKey, S: StateValue> Snapshot for FrozenSpilled<K, S> {
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.entries.len()).sum::<usize>() + self.away.len()
    }

    /// Which entries were in memory is seen in their order, and in that alone.
    fn encode_in_parts(self: Box<Self>, key_groups: u32, whole: bool, give: &mut dyn FnMut(Run) -> Result) -> Result {
        let FrozenSpilled { shards, round, away } = *self;
        if away.key_groups != key_groups {
            return Err(Fault::bug("state is spilled by other key groups than it is saved by"));
        }
        let whole = whole || away.lost;
        let mut parts = Parts::new(whole, give);
        if !whole {
            away.each_noted(|group, key: K, encoded, value| {
                let shard = shards.get(place(hash_of(&key), shards.len(), round));
                match (shard.and_then(|shard| shard.entries.get(&key)), value) {
                    (Some(here), _) => parts.encode(group, &(key, here)),
                    (None, Some(value)) => parts.put(group, encoded, value),
                    (None, None) => parts.gone(group, encoded),
                }
            })?;
        }
        // Shared with the operator no longer than needed.
        for Shard { entries, mut touched } in shards {
            if !whole && touched.is_empty() {
                continue;
            }
            let is_touched = touched.finder();
            let mut put: Vec<_> = entries.iter().filter(|(key, _)| whole || is_touched(hash_of(*key))).collect();
            put.sort_unstable_by_key(|(key, _)| *key);
            put.iter().try_for_each(|entry| parts.encode(KeyGroup::of(entry.0, key_groups).0, entry))?;
        }
        if whole {
            away.each(|group, key, value| parts.put(group, key, value))?;
        }
        parts.done()
    }
}

impl<K: Key, S: Clone> FromIterator<(K, S)> for Keyed<K, S> {
    fn from_iter<I: IntoIterator<Item = (K, S)>>(entries: I) -> Self {
        let mut keyed = Keyed::default();
        for (key, value) in entries {
            keyed.insert(key, value);
        }
        keyed
    }
}

impl<K, S> fmt::Debug for Keyed<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyed({} keys)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replayed<K: StateKey, S: StateValue>(runs: &[Run]) -> Keyed<K, S> {
        let mut keyed = Keyed::default();
        runs.iter().try_for_each(|run| keyed.play("k", run, None)).unwrap();
        keyed.settle();
        keyed
    }

    #[test]
    fn a_million_keys_are_found_again_and_a_snapshot_is_what_was_there() {
        let mut keyed: Keyed<u64, u64> = (0..1_000_000).map(|key| (key, key)).collect();
        let frozen = keyed.freeze().unwrap();
        for key in (0..1_000_000).step_by(1_000) {
            *keyed.get_mut(&key).unwrap() += 1;
            keyed.remove(&(key + 1));
        }
        assert_eq!((keyed.len(), keyed.get(&0), keyed.get(&1), keyed.get(&2)), (999_000, Some(&1), None, Some(&2)));
        let then = replayed::<u64, u64>(&[frozen.encode(128, true).unwrap()]);
        assert!(then.len() == 1_000_000 && then.iter().all(|(key, value)| key == value));
    }

    #[test]
    fn what_changes_after_a_whole_run_is_told_in_as_many_bytes_as_it_needs() {
        let mut keyed: Keyed<u64, u64> = (0..100_000).map(|key| (key, 0)).collect();
        let whole = keyed.freeze().unwrap().encode(128, false).unwrap();
        for key in (0..100_000).step_by(100) {
            *keyed.get_mut(&key).unwrap() = 1;
        }
        let changed = keyed.freeze().unwrap().encode(128, false).unwrap();
        assert!(!changed.whole && changed.weight() * 20 < whole.weight(), "{} of {}", changed.weight(), whole.weight());
        assert!(keyed.freeze().unwrap().encode(128, false).unwrap().is_empty());
    }
}
