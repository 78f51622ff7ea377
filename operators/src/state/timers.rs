//! [`Timers`]: keys to come back to when event time has come so far.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use super::keyed::StateKey;
use super::run::{Replay, RunWriter};
use super::{Run, Snapshot};
use crate::{Key, KeyGroup, Result, Timestamp};

type Timer<K> = (Timestamp, K);

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
pub struct Timers<K> {
    // One behind the other, none of them empty; each shared with the last snapshot until it changes.
    leaves: VecDeque<Arc<BTreeSet<Timer<K>>>>,
    changes: Changes<K>,
}

/// What has changed since the last snapshot; `None` if only a whole run can tell.
#[derive(Clone)]
struct Changes<K>(Option<Log<K>>);

/// The timers that were set and those that were taken out; some of them several times.
type Log<K> = (Vec<Timer<K>>, Vec<Timer<K>>);

/// A leaf with more timers becomes two.
const MOST: usize = 1_024;
/// So many changes are told however few timers there are.
const FEW: usize = 32;

impl<K> Default for Timers<K> {
    fn default() -> Self {
        // Nobody has asked for changes yet.
        Timers { leaves: VecDeque::new(), changes: Changes(None) }
    }
}

impl<K: Key + Ord> Timers<K> {
    /// Comes back to `key` at `at`.
    pub fn set(&mut self, at: Timestamp, key: K) {
        let timer = (at, key);
        self.changes.note(self.len_if_told(), |(set, _)| set.push(timer.clone()));
        let place = self.place(&timer);
        let Some(leaf) = self.leaves.get_mut(place) else {
            self.leaves.push_back(Arc::new(BTreeSet::from([timer])));
            return;
        };
        let timers = Arc::make_mut(leaf);
        timers.insert(timer);
        if timers.len() > MOST
            && let Some(middle) = timers.iter().nth(MOST / 2).cloned()
        {
            let behind = timers.split_off(&middle);
            self.leaves.insert(place + 1, Arc::new(behind));
        }
    }

    /// Forgets a timer.
    pub fn clear(&mut self, at: Timestamp, key: K) {
        let timer = (at, key);
        let place = self.place(&timer);
        if self.leaves.get(place).is_some_and(|leaf| leaf.contains(&timer)) {
            self.take(place, |timers| timers.remove(&timer));
            self.changes.note(self.len_if_told(), |(_, gone)| gone.push(timer));
        }
    }

    /// Takes the next timer out whose time is not after `now`.
    pub fn next_due(&mut self, now: Timestamp) -> Option<(Timestamp, K)> {
        self.leaves.front()?.first().filter(|(at, _)| *at <= now)?;
        let due = self.take(0, BTreeSet::pop_first)??;
        self.changes.note(self.len_if_told(), |(_, gone)| gone.push(due.clone()));
        Some(due)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.leaves.iter().map(|leaf| leaf.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.leaves.is_empty()
    }

    /// The leaf that has the timer, or takes it.
    fn place(&self, timer: &Timer<K>) -> usize {
        self.leaves.partition_point(|leaf| leaf.first() <= Some(timer)).saturating_sub(1)
    }

    fn take<T>(&mut self, place: usize, take: impl FnOnce(&mut BTreeSet<Timer<K>>) -> T) -> Option<T> {
        let leaf = self.leaves.get_mut(place)?;
        let taken = take(Arc::make_mut(leaf));
        if leaf.is_empty() {
            self.leaves.remove(place);
        }
        Some(taken)
    }

    /// About how many there are, which costs a walk over the leaves, if it matters.
    fn len_if_told(&self) -> usize {
        if self.changes.0.is_some() { self.leaves.len() * MOST / 2 } else { 0 }
    }
}

impl<K> Changes<K> {
    fn note(&mut self, len: usize, note: impl FnOnce(&mut Log<K>)) {
        let Some(log) = &mut self.0 else { return };
        note(log);
        if log.0.len() + log.1.len() > len + FEW {
            self.0 = None;
        }
    }
}

impl<K: StateKey> Timers<K> {
    /// All of them as they are now, and what has changed since the last snapshot.
    pub(super) fn freeze(&mut self) -> Box<dyn Snapshot> {
        let changes = self.changes.0.replace((Vec::new(), Vec::new()));
        Box::new(FrozenTimers { leaves: self.leaves.clone(), changes })
    }

    /// What these runs say.
    pub(super) fn replayed(name: &str, runs: &[Run]) -> Result<Self> {
        let mut timers = Timers::default();
        runs.iter().try_for_each(|run| run.play(name, &mut timers))?;
        timers.changes = Changes(Some((Vec::new(), Vec::new())));
        Ok(timers)
    }
}

impl<K: Key + Ord> Replay<(K, Timestamp), (K, Timestamp)> for Timers<K> {
    fn gone(&mut self, (key, at): (K, Timestamp)) {
        self.clear(at, key);
    }

    fn put(&mut self, (key, at): (K, Timestamp)) {
        self.set(at, key);
    }
}

struct FrozenTimers<K> {
    leaves: VecDeque<Arc<BTreeSet<Timer<K>>>>,
    changes: Option<Log<K>>,
}

impl<K: StateKey> Snapshot for FrozenTimers<K> {
    fn len(&self) -> usize {
        self.leaves.iter().map(|leaf| leaf.len()).sum()
    }

    fn encode(self: Box<Self>, key_groups: u32, whole: bool) -> Result<Run> {
        let FrozenTimers { leaves, changes } = *self;
        let mut run = RunWriter::default();
        let group = |(_, key): &Timer<K>| KeyGroup::of(key, key_groups).0;
        match changes.filter(|_| !whole) {
            Some((mut set, gone)) => {
                let is_set = |timer: &Timer<K>| {
                    let place = leaves.partition_point(|leaf| leaf.first() <= Some(timer)).saturating_sub(1);
                    leaves.get(place).is_some_and(|leaf| leaf.contains(timer))
                };
                for timer in &gone {
                    run.gone(group(timer), &(&timer.1, timer.0))?;
                }
                set.sort_unstable();
                set.dedup();
                // Those that were taken out again are not put in.
                for timer in set.iter().filter(|timer| is_set(timer)) {
                    run.put(group(timer), &(&timer.1, timer.0))?;
                }
                Ok(run.done(false))
            }
            None => {
                for timer in leaves.iter().flat_map(|leaf| leaf.iter()) {
                    run.put(group(timer), &(&timer.1, timer.0))?;
                }
                Ok(run.done(true))
            }
        }
    }
}

impl<K: Key + Ord> FromIterator<(Timestamp, K)> for Timers<K> {
    fn from_iter<I: IntoIterator<Item = (Timestamp, K)>>(all: I) -> Self {
        let mut timers = Timers::default();
        all.into_iter().for_each(|(at, key)| timers.set(at, key));
        timers
    }
}

impl<K> fmt::Debug for Timers<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timers({})", self.leaves.iter().map(|leaf| leaf.len()).sum::<usize>())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn contents(timers: &Timers<u8>) -> BTreeSet<Timer<u8>> {
        timers.leaves.iter().flat_map(|leaf| leaf.iter().copied()).collect()
    }

    #[test]
    fn many_timers_come_in_order_whatever_the_order_in_which_they_were_set() {
        let all = (0..10_000_u64).map(|n| (Timestamp::from_micros((n * 7_919 % 5_000).cast_signed()), n));
        let mut timers: Timers<u64> = all.clone().collect();
        assert_eq!(timers.len(), 10_000);
        let mut sorted: Vec<_> = all.collect();
        sorted.sort_unstable();
        let due: Vec<_> = std::iter::from_fn(|| timers.next_due(Timestamp::MAX)).collect();
        assert!(due == sorted && timers.is_empty());
    }

    proptest! {
        #[test]
        fn runs_played_one_behind_the_other_are_the_timers_at_the_last_barrier(
            steps in prop::collection::vec((0..5_u8, 0..40_i64, 0..4_u8), 1..300),
        ) {
            let (mut timers, mut model, mut runs) = (Timers::<u8>::default(), BTreeSet::new(), Vec::new());
            let mut at_barrier = BTreeSet::new();
            for (step, at, key) in steps {
                let at = Timestamp::from_micros(at);
                match step {
                    0 | 1 => {
                        timers.set(at, key);
                        model.insert((at, key));
                    }
                    2 => {
                        timers.clear(at, key);
                        model.remove(&(at, key));
                    }
                    3 => {
                        let due = model.first().copied().filter(|(first, _)| *first <= at);
                        prop_assert_eq!(timers.next_due(at), due);
                        if due.is_some() {
                            model.pop_first();
                        }
                    }
                    _ => {
                        let run = timers.freeze().encode(16, runs.is_empty()).unwrap();
                        if run.whole {
                            runs.clear();
                        }
                        runs.push(run);
                        at_barrier = model.clone();
                    }
                }
            }
            prop_assert_eq!(contents(&Timers::replayed("t", &runs).unwrap()), at_barrier);
            prop_assert_eq!(contents(&timers), model);
        }
    }
}
