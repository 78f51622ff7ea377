//! [`Timers`]: keys to come back to when event time has come so far.

use std::collections::BTreeSet;
use std::fmt;

use crate::{Key, Timestamp};

/// Keys to come back to at a time each. A key may have any number of timers; setting one that is set changes nothing.
///
/// Due timers come in the order of their times, then of their keys, so that what an operator gives does not depend on
/// the order in which they were set.
///
/// ```
/// use millstream_operators::{Timers, Timestamp};
/// let at = Timestamp::from_micros;
/// let mut timers = Timers::default();
/// timers.set(at(20), "b");
/// timers.set(at(10), "a");
/// assert_eq!(timers.next_due(at(15)), Some((at(10), "a")));
/// assert_eq!(timers.next_due(at(15)), None);
/// ```
#[derive(Clone)]
pub struct Timers<K>(BTreeSet<(Timestamp, K)>);

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Timers(BTreeSet::new())
    }
}

impl<K: Key + Ord> Timers<K> {
    /// Comes back to `key` at `at`.
    pub fn set(&mut self, at: Timestamp, key: K) {
        self.0.insert((at, key));
    }

    /// Forgets a timer.
    pub fn clear(&mut self, at: Timestamp, key: K) {
        self.0.remove(&(at, key));
    }

    /// Takes the next timer out whose time is not after `now`.
    pub fn next_due(&mut self, now: Timestamp) -> Option<(Timestamp, K)> {
        match self.0.first() {
            Some((at, _)) if *at <= now => self.0.pop_first(),
            _ => None,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn sorted(&self) -> Vec<(K, Timestamp)> {
        self.0.iter().map(|(at, key)| (key.clone(), *at)).collect()
    }
}

impl<K: Key + Ord> FromIterator<(Timestamp, K)> for Timers<K> {
    fn from_iter<I: IntoIterator<Item = (Timestamp, K)>>(timers: I) -> Self {
        Timers(timers.into_iter().collect())
    }
}

impl<K> fmt::Debug for Timers<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timers({})", self.0.len())
    }
}
