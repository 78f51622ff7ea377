//! [`Shards`]: a map in pieces that a snapshot shares with it until they change.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::FixedState;

use super::away::Away;
use super::fetched::Fetched;
use super::touched::Touched;
use crate::Key;

/// A map of shards, each shared with the last snapshot until a key of it changes: then that shard is copied, if the
/// snapshot still needs it. So a barrier costs a pointer a shard, and what follows the copy of a few hundred keys at most
/// at a time.
///
/// It grows by linear hashing, a shard at a time (Litwin, "Linear hashing", 1980), so that no growth stops the stream
/// either.
///
/// With a place for entries that do not fit ([`Away`]) an entry is in a shard or there; see [`Spill`](super::Spill).
pub(super) struct Shards<K, S> {
    shards: Vec<Shard<K, S>>,
    // How many shards there were when the round of splits began.
    round: usize,
    hasher: FixedState,
    away: Option<Box<Away<K, S>>>,
    // What was read from away while nothing could be changed; forgotten with the next change.
    fetched: Fetched<K, S>,
    // The shard that is next to let entries go.
    hand: usize,
    // How many entries have come into the map since it was last looked at how many there are.
    grown: usize,
}

pub(super) struct Shard<K, S> {
    pub(super) entries: Arc<Entries<K, S>>,
    pub(super) touched: Touched<K>,
}

type Entries<K, S> = HashMap<K, S, FixedState>;

/// A shard with more keys asks for another.
const MOST: usize = 512;
/// So many entries may come into a map before it is asked how much it holds.
const OFTEN: usize = 256;

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
        let (shards, hasher) = (vec![Shard::default()], hasher());
        Shards { shards, round: 1, hasher, away: None, fetched: Fetched::default(), hand: 0, grown: 0 }
    }
}

impl<K, S> Shards<K, S> {
    pub(super) fn len(&self) -> usize {
        self.here() + self.away.as_ref().map_or(0, |away| away.len())
    }

    fn here(&self) -> usize {
        self.shards.iter().map(|shard| shard.entries.len()).sum()
    }

    pub(super) fn away(&mut self) -> Option<&mut Away<K, S>> {
        self.away.as_deref_mut()
    }
}

/// The shard, of so many, that a hash belongs to. The maps inside, which hold the low bits and the highest for
/// themselves, are not to see keys that agree in them.
pub(super) fn place(hash: u64, shards: usize, round: usize) -> usize {
    let bits = usize::try_from(hash >> 32).unwrap_or_default();
    let wide = bits & (round * 2 - 1);
    if wide < shards { wide } else { bits & (round - 1) }
}

impl<K: Key, S> Shards<K, S> {
    fn place(&self, hash: u64) -> usize {
        place(hash, self.shards.len(), self.round)
    }

    pub(super) fn get(&self, key: &K) -> Option<&S> {
        let place = if self.shards.len() == 1 { 0 } else { self.place(self.hasher.hash_one(key)) };
        let here = self.shards.get(place)?.entries.get(key);
        if here.is_none() && self.away.is_some() { self.fetch(key) } else { here }
    }

    #[cold]
    fn fetch(&self, key: &K) -> Option<&S> {
        let away = self.away.as_ref().filter(|away| away.len() > 0)?;
        self.fetched.get(key, self.hasher.hash_one(key), || Some((key.clone(), away.get(key)?)))
    }

    /// All that are away are read into memory.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &S)> {
        let away = self.away.as_ref().filter(|away| away.len() > 0);
        let away = away.map(|away| self.fetched.all(|| away.all()).iter().map(|(key, value)| (key, value)));
        self.shards.iter().flat_map(|shard| shard.entries.iter()).chain(away.into_iter().flatten())
    }

    /// Entries that do not fit in memory go there from now on.
    pub(super) fn spill_to(&mut self, mut away: Away<K, S>) {
        for shard in &mut self.shards {
            away.goes_on_from(&mut shard.touched);
        }
        self.away = Some(Box::new(away));
    }

    /// Nothing counts as changed from now on.
    pub(super) fn settle(&mut self) {
        self.shards.iter_mut().for_each(|shard| shard.touched = Touched::default());
        if let Some(away) = &mut self.away {
            away.tell_changes(true);
        }
    }

    /// Only a whole run tells what has changed.
    pub(super) fn lose_changes(&mut self) {
        match &mut self.away {
            Some(away) => away.lose_changes(),
            None => self.shards.iter_mut().for_each(|shard| shard.touched.lose()),
        }
    }

    /// What there is and what has changed since the last call, shared until it changes again; and the round, by which
    /// keys find their shard.
    pub(super) fn freeze(&mut self) -> (Vec<Shard<K, S>>, usize) {
        let shards = self.shards.iter_mut();
        let shards = shards
            .map(|shard| Shard { entries: Arc::clone(&shard.entries), touched: std::mem::take(&mut shard.touched) })
            .collect();
        (shards, self.round)
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

    /// Sees to it that an entry that is away is in its shard, and that not too many are.
    #[cold]
    fn bring(&mut self, key: &K, hash: u64) {
        if self.shard_mut(hash).entries.contains_key(key) {
            return;
        }
        self.grown += 1;
        if self.grown >= OFTEN {
            self.fit();
        }
        self.fetched = Fetched::default();
        if let Some(value) = self.away.as_mut().and_then(|away| away.take(key)) {
            Arc::make_mut(&mut self.shard_mut(hash).entries).insert(key.clone(), value);
        }
    }

    /// Lets entries go while there are more in memory than may be.
    pub(super) fn fit(&mut self) {
        self.grown = 0;
        let (here, shards) = (self.here(), self.shards.len());
        let Some(away) = &mut self.away else { return };
        self.fetched = Fetched::default();
        if let Some((key, value)) = self.shards.get(self.hand % shards).and_then(|shard| shard.entries.iter().next()) {
            away.sample(key, value);
        }
        self.hand += 1;
        let mut excess = away.excess(here);
        // What has changed since the last barrier is likely to change again.
        for changed_too in [false, true] {
            for _ in 0..shards {
                if excess == 0 {
                    break;
                }
                let Some(shard) = self.shards.get_mut(self.hand % shards) else { break };
                excess = excess.saturating_sub(shard.let_go(away, changed_too));
                self.hand += 1;
            }
        }
        away.send();
        let here = self.here();
        if let Some(away) = &mut self.away {
            away.excess(here);
        }
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut S> {
        let hash = self.hasher.hash_one(key);
        if self.away.is_some() {
            self.bring(key, hash);
        }
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
        if self.away.is_some() {
            self.bring(&key, hash);
        }
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
        if self.away.is_some() {
            self.bring(key, hash);
        }
        let shard = self.shard_mut(hash);
        if !shard.entries.contains_key(key) {
            return None;
        }
        let removed = Arc::make_mut(&mut shard.entries).remove(key)?;
        self.is_gone(hash, key);
        Some(removed)
    }

    /// Notes that a key was taken out.
    fn is_gone(&mut self, hash: u64, key: &K) {
        if let Some(away) = &mut self.away {
            away.removed(key);
            return;
        }
        let shard = self.shard_mut(hash);
        shard.touched.remove(|| key.clone(), shard.entries.len());
    }

    /// Lets `change` change, set or remove the value of a key.
    pub(super) fn update<R>(&mut self, key: K, change: impl FnOnce(&K, &mut Option<S>) -> R) -> R {
        let hash = self.hasher.hash_one(&key);
        if self.away.is_some() {
            self.bring(&key, hash);
        }
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
            None if there => self.is_gone(hash, &key),
            None => {}
        }
        given
    }

    /// Takes everything out.
    pub(super) fn drain(&mut self) -> Vec<(K, S)> {
        let mut all = Vec::with_capacity(self.len());
        if let Some(away) = &mut self.away {
            self.fetched = Fetched::default();
            all.extend(away.drain());
        }
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

impl<K: Key, S: Clone> Shard<K, S> {
    /// Lets entries go, all or those that have not changed since the last barrier; how many did.
    fn let_go(&mut self, away: &mut Away<K, S>, changed_too: bool) -> usize {
        let Shard { entries, touched } = self;
        let mut gone = 0;
        {
            let has_changed = touched.finder();
            let stays = |key: &K| !changed_too && has_changed(hash_of(key));
            for (key, value) in entries.iter().filter(|(key, _)| !stays(key)) {
                away.put(key, value, has_changed(hash_of(key)));
                gone += 1;
            }
            if gone == 0 {
                return 0;
            }
            let none_stays = gone == entries.len();
            let kept: Entries<K, S> = match Arc::get_mut(entries) {
                _ if none_stays => Entries::with_hasher(hasher()),
                Some(mine) => std::mem::take(mine).into_iter().filter(|(key, _)| stays(key)).collect(),
                None => {
                    let kept = entries.iter().filter(|(key, _)| stays(key));
                    kept.map(|(key, value)| (key.clone(), value.clone())).collect()
                }
            };
            *entries = Arc::new(kept);
        }
        if changed_too {
            *touched = Touched::default();
        }
        gone
    }
}
