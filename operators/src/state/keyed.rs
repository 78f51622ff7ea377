//! [`Keyed`]: a value for each key.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use foldhash::fast::FixedState;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Key;

/// A key that state can be kept for: it can be saved, and has an order, so that what is saved or given does not depend
/// on the order in which keys came.
pub trait StateKey: Key + Ord + Serialize + DeserializeOwned {}

impl<K: Key + Ord + Serialize + DeserializeOwned> StateKey for K {}

/// What can be kept as state: it can be saved and restored.
pub trait StateValue: Clone + Serialize + DeserializeOwned + Send + 'static {}

impl<S: Clone + Serialize + DeserializeOwned + Send + 'static> StateValue for S {}

/// A value for each key: what most operators with state are made of. List it in
/// [`Operator::state`](crate::Operator::state) with [`StateVisitor::keyed`](crate::StateVisitor::keyed); it is then saved
/// by key group, and goes where its keys go when the number of subtasks changes.
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
pub struct Keyed<K, S> {
    // A fixed seed: the order of a walk is then the same in every run.
    values: HashMap<K, S, FixedState>,
}

impl<K, S> Default for Keyed<K, S> {
    fn default() -> Self {
        Keyed { values: HashMap::with_hasher(FixedState::with_seed(0)) }
    }
}

impl<K: Key, S> Keyed<K, S> {
    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&S> {
        self.values.get(key)
    }

    /// The value of a key, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut S> {
        self.values.get_mut(key)
    }

    /// The place of a key, whether there is a value or not.
    pub fn entry(&mut self, key: K) -> Entry<'_, K, S> {
        self.values.entry(key)
    }

    /// Sets the value of a key; what it was before comes back.
    pub fn insert(&mut self, key: K, value: S) -> Option<S> {
        self.values.insert(key, value)
    }

    /// Takes a key and its value out.
    pub fn remove(&mut self, key: &K) -> Option<S> {
        self.values.remove(key)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// All keys and values, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &S)> {
        self.values.iter()
    }

    /// Takes all keys and values out, in the order of keys.
    pub fn take_sorted(&mut self) -> Vec<(K, S)>
    where
        K: Ord,
    {
        let mut all: Vec<(K, S)> = self.values.drain().collect();
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        all
    }

    /// All keys and values, in the order of keys.
    pub(crate) fn sorted(&self) -> Vec<(K, &S)>
    where
        K: Ord,
    {
        let mut all: Vec<(K, &S)> = self.values.iter().map(|(key, value)| (key.clone(), value)).collect();
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        all
    }
}

impl<K: Key, S> FromIterator<(K, S)> for Keyed<K, S> {
    fn from_iter<I: IntoIterator<Item = (K, S)>>(entries: I) -> Self {
        let mut keyed = Keyed::default();
        keyed.values.extend(entries);
        keyed
    }
}

impl<K, S> fmt::Debug for Keyed<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyed({} keys)", self.values.len())
    }
}
