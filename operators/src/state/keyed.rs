//! [`Keyed`]: a value for each key.

use std::collections::hash_map::Entry;
use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::run::{Replay, RunWriter};
use super::shards::{Shard, Shards, hash_of};
use super::{Run, Snapshot};
use crate::{Key, KeyGroup, Result};

/// A key that state can be kept for: it can be saved, and has an order, so that what is saved or given does not depend
/// on the order in which keys came.
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
/// ```
/// use millstream_operators::Keyed;
/// let mut counts: Keyed<&'static str, u64> = Keyed::default();
/// for word in ["to", "be", "or", "not", "to", "be"] {
///     *counts.entry(word).or_default() += 1;
/// }
/// assert_eq!(counts.get(&"to"), Some(&2));
/// ```
#[derive(Clone)]
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
    pub(super) fn freeze(&mut self) -> Box<dyn Snapshot> {
        Box::new(FrozenKeyed(self.0.freeze()))
    }

    /// What these runs say.
    pub(super) fn replayed(name: &str, runs: &[Run]) -> Result<Self> {
        let mut keyed = Keyed::default();
        runs.iter().try_for_each(|run| run.play(name, &mut keyed))?;
        keyed.0.settle();
        Ok(keyed)
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
    fn encode(self: Box<Self>, key_groups: u32, whole: bool) -> Result<Run> {
        let whole = whole || self.0.iter().any(|shard| shard.touched.is_lost());
        let (mut run, mut put) = (RunWriter::default(), Vec::new());
        // Shared with the operator no longer than needed: a shard that is let go of need not be copied.
        for Shard { entries, mut touched } in self.0 {
            if whole {
                put.extend(entries.iter().map(|(key, value)| (key.clone(), value.clone())));
            } else if !touched.is_empty() {
                for key in touched.gone() {
                    run.gone(KeyGroup::of(key, key_groups).0, key)?;
                }
                let is_touched = touched.finder();
                let changed = entries.iter().filter(|(key, _)| is_touched(hash_of(*key)));
                put.extend(changed.map(|(key, value)| (key.clone(), value.clone())));
            }
        }
        put.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for entry in put {
            run.put(KeyGroup::of(&entry.0, key_groups).0, &entry)?;
        }
        Ok(run.done(whole))
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
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn contents<K: Key + Ord, S: Clone>(keyed: &Keyed<K, S>) -> BTreeMap<K, S> {
        keyed.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    #[test]
    fn a_million_keys_are_found_again_and_a_snapshot_is_what_was_there() {
        let mut keyed: Keyed<u64, u64> = (0..1_000_000).map(|key| (key, key)).collect();
        let frozen = keyed.freeze();
        for key in (0..1_000_000).step_by(1_000) {
            *keyed.get_mut(&key).unwrap() += 1;
            keyed.remove(&(key + 1));
        }
        assert_eq!((keyed.len(), keyed.get(&0), keyed.get(&1), keyed.get(&2)), (999_000, Some(&1), None, Some(&2)));
        let then = Keyed::<u64, u64>::replayed("k", &[frozen.encode(128, true).unwrap()]).unwrap();
        assert!(then.len() == 1_000_000 && then.iter().all(|(key, value)| key == value));
    }

    #[test]
    fn what_changes_after_a_whole_run_is_told_in_as_many_bytes_as_it_needs() {
        let mut keyed: Keyed<u64, u64> = (0..100_000).map(|key| (key, 0)).collect();
        let whole = keyed.freeze().encode(128, false).unwrap();
        for key in (0..100_000).step_by(100) {
            *keyed.get_mut(&key).unwrap() = 1;
        }
        let changed = keyed.freeze().encode(128, false).unwrap();
        assert!(!changed.whole && changed.weight() * 20 < whole.weight(), "{} of {}", changed.weight(), whole.weight());
        assert!(keyed.freeze().encode(128, false).unwrap().is_empty());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(u16, u32),
        Change(u16),
        Remove(u16),
        Update(u16, Option<u32>),
        Drain,
        Snapshot(bool),
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = 0..300_u16;
        prop_oneof![
            20 => (key.clone(), any::<u32>()).prop_map(|(key, value)| Step::Put(key, value)),
            10 => key.clone().prop_map(Step::Change),
            10 => key.clone().prop_map(Step::Remove),
            10 => (key, any::<Option<u32>>()).prop_map(|(key, to)| Step::Update(key, to)),
            1 => Just(Step::Drain),
            4 => any::<bool>().prop_map(Step::Snapshot),
            1 => Just(Step::Restart),
        ]
    }

    proptest! {
        #[test]
        fn runs_played_one_behind_the_other_are_the_state_at_the_last_barrier(
            steps in prop::collection::vec(step(), 1..400),
        ) {
            let (mut keyed, mut model) = (Keyed::<u16, u32>::default(), BTreeMap::new());
            let (mut runs, mut at_barrier) = (Vec::new(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Put(key, value) => prop_assert_eq!(keyed.insert(key, value), model.insert(key, value)),
                    Step::Change(key) => {
                        *keyed.entry(key).or_default() ^= 1;
                        *model.entry(key).or_default() ^= 1;
                    }
                    Step::Remove(key) => prop_assert_eq!(keyed.remove(&key), model.remove(&key)),
                    Step::Update(key, to) => {
                        let before = keyed.update(key, |_, value| std::mem::replace(value, to));
                        prop_assert_eq!(before, model.remove(&key));
                        model.extend(to.map(|to| (key, to)));
                    }
                    Step::Drain => prop_assert_eq!(keyed.take_sorted(), std::mem::take(&mut model).into_iter().collect::<Vec<_>>()),
                    Step::Snapshot(whole) => {
                        let run = keyed.freeze().encode(16, whole || runs.is_empty()).unwrap();
                        if run.whole {
                            runs.clear();
                        }
                        runs.push(run);
                        at_barrier = model.clone();
                    }
                    Step::Restart if !runs.is_empty() => {
                        (keyed, model) = (Keyed::replayed("k", &runs).unwrap(), at_barrier.clone());
                    }
                    Step::Restart => {}
                }
            }
            prop_assert_eq!(contents(&Keyed::<u16, u32>::replayed("k", &runs).unwrap()), at_barrier);
            prop_assert_eq!(contents(&keyed), model);
        }
    }
}
