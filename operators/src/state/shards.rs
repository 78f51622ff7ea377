//! [`Shards`]: a map in pieces that a snapshot shares with it until they change.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::FixedState;

use super::touched::Touched;
use crate::Key;

/// A map of shards, each shared with the last snapshot until a key of it changes: then that shard is copied, if the
/// snapshot still needs it. So a barrier costs a pointer a shard, and what follows the copy of a few hundred keys at most
/// at a time.
///
/// It grows by linear hashing, a shard at a time (Litwin, "Linear hashing", 1980), so that no growth stops the stream
/// either.
#[derive(Clone)]
pub(super) struct Shards<K, S> {
    shards: Vec<Shard<K, S>>,
    // How many shards there were when the round of splits began.
    round: usize,
    hasher: FixedState,
}

#[derive(Clone)]
pub(super) struct Shard<K, S> {
    pub(super) entries: Arc<HashMap<K, S, FixedState>>,
    pub(super) touched: Touched<K>,
}

/// A shard with more keys asks for another.
const MOST: usize = 512;

/// A fixed seed: the order of a walk is then the same in every run.
fn hasher() -> FixedState {
    FixedState::with_seed(0)
}

/// The hash by which keys are told apart.
pub(super) fn hash_of<K: Key>(key: &K) -> u64 {
    hasher().hash_one(key)
}

impl<K, S> Default for Shard<K, S> {
    fn default() -> Self {
        Shard { entries: Arc::new(HashMap::with_hasher(hasher())), touched: Touched::default() }
    }
}

impl<K, S> Default for Shards<K, S> {
    fn default() -> Self {
        Shards { shards: vec![Shard::default()], round: 1, hasher: hasher() }
    }
}

impl<K, S> Shards<K, S> {
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.entries.len()).sum()
    }
}

impl<K: Key, S> Shards<K, S> {
    /// The maps inside, which hold the low bits and the highest for themselves, are not to see keys that agree in them.
    fn place(&self, hash: u64) -> usize {
        let bits = usize::try_from(hash >> 32).unwrap_or_default();
        let wide = bits & (self.round * 2 - 1);
        if wide < self.shards.len() { wide } else { bits & (self.round - 1) }
    }

    pub(super) fn get(&self, key: &K) -> Option<&S> {
        let place = if self.shards.len() == 1 { 0 } else { self.place(self.hasher.hash_one(key)) };
        self.shards.get(place)?.entries.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &S)> {
        self.shards.iter().flat_map(|shard| shard.entries.iter())
    }

    /// Nothing counts as changed from now on.
    pub(super) fn settle(&mut self) {
        self.shards.iter_mut().for_each(|shard| shard.touched = Touched::default());
    }

    /// What there is and what has changed since the last call, shared until it changes again.
    pub(super) fn freeze(&mut self) -> Vec<Shard<K, S>> {
        let shards = self.shards.iter_mut();
        shards
            .map(|shard| Shard { entries: Arc::clone(&shard.entries), touched: std::mem::take(&mut shard.touched) })
            .collect()
    }
}

impl<K: Key, S: Clone> Shards<K, S> {
    fn shard_mut(&mut self, hash: u64) -> &mut Shard<K, S> {
        let place = self.place(hash);
        // There always is a shard, and every place is one's.
        let last = self.shards.len() - 1;
        #[expect(clippy::indexing_slicing, reason = "it is at most the last")]
        let shard = &mut self.shards[place.min(last)];
        shard
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut S> {
        let hash = self.hasher.hash_one(key);
        let shard = self.shard_mut(hash);
        // A key that is not there must not cost a copy.
        if Arc::get_mut(&mut shard.entries).is_none() && !shard.entries.contains_key(key) {
            return None;
        }
        let len = shard.entries.len();
        let value = Arc::make_mut(&mut shard.entries).get_mut(key)?;
        shard.touched.touch(hash, len);
        Some(value)
    }

    pub(super) fn entry(&mut self, key: K) -> Entry<'_, K, S> {
        let hash = self.hasher.hash_one(&key);
        if self.shard_mut(hash).entries.len() > MOST {
            self.grow();
        }
        let shard = self.shard_mut(hash);
        shard.touched.touch(hash, shard.entries.len());
        Arc::make_mut(&mut shard.entries).entry(key)
    }

    pub(super) fn insert(&mut self, key: K, value: S) -> Option<S> {
        match self.entry(key) {
            Entry::Occupied(mut entry) => Some(entry.insert(value)),
            Entry::Vacant(entry) => {
                entry.insert(value);
                None
            }
        }
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<S> {
        let hash = self.hasher.hash_one(key);
        let shard = self.shard_mut(hash);
        if !shard.entries.contains_key(key) {
            return None;
        }
        let removed = Arc::make_mut(&mut shard.entries).remove(key)?;
        shard.touched.remove(|| key.clone(), shard.entries.len());
        Some(removed)
    }

    /// Lets `change` change, set or remove the value of a key.
    pub(super) fn update<R>(&mut self, key: K, change: impl FnOnce(&K, &mut Option<S>) -> R) -> R {
        let hash = self.hasher.hash_one(&key);
        let shard = self.shard_mut(hash);
        // A key that is not there must not cost a copy.
        let there = shard.entries.contains_key(&key);
        let mut value = if there { Arc::make_mut(&mut shard.entries).remove(&key) } else { None };
        let given = change(&key, &mut value);
        match value {
            Some(value) if there => {
                shard.touched.touch(hash, shard.entries.len());
                Arc::make_mut(&mut shard.entries).insert(key, value);
            }
            Some(value) => drop(self.insert(key, value)),
            None if there => shard.touched.remove(|| key, shard.entries.len()),
            None => {}
        }
        given
    }

    /// Takes everything out.
    pub(super) fn drain(&mut self) -> Vec<(K, S)> {
        let mut all = Vec::with_capacity(self.len());
        for shard in &mut self.shards {
            for (key, value) in std::mem::take(Arc::make_mut(&mut shard.entries)) {
                shard.touched.remove(|| key.clone(), 0);
                all.push((key, value));
            }
        }
        all
    }

    /// Splits the next shard of this round.
    fn grow(&mut self) {
        let from = self.shards.len() - self.round;
        let goes = |hash: u64| usize::try_from(hash >> 32).unwrap_or_default() & self.round != 0;
        let Some(shard) = self.shards.get_mut(from) else { return };
        let touched = shard.touched.split_off(goes, hash_of);
        let entries = std::mem::take(Arc::make_mut(&mut shard.entries));
        let (moved, stay): (HashMap<_, _, _>, HashMap<_, _, _>) =
            entries.into_iter().partition(|(key, _)| goes(self.hasher.hash_one(key)));
        shard.entries = Arc::new(stay);
        self.shards.push(Shard { entries: Arc::new(moved), touched });
        if self.shards.len() == self.round * 2 {
            self.round *= 2;
        }
    }
}
