//! [`Timers`]: keys to come back to when event time has come so far.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use super::far::{Far, FrozenFar};
use super::keyed::StateKey;
use super::run::{Parts, Replay};
use super::{Run, Snapshot, Spill};
use crate::{Key, KeyGroup, Result, Timestamp};

type Timer<K> = (Timestamp, K);

/// Keys to come back to at a time each. A key may have any number of timers; setting one that is set changes nothing.
///
/// Due timers come in the order of their times, then of their keys, so that what an operator gives does not depend on
/// the order in which they were set. (Of keys longer than a kB of which so much is the same, those outside of memory come in another.)
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
///
/// Where the pipeline has a budget of memory for its state, those that are due late are kept outside of it.
pub struct Timers<K> {
    // One behind the other, none of them empty; each shared with the last snapshot until it changes.
    leaves: VecDeque<Arc<BTreeSet<Timer<K>>>>,
    // The timers that were set or taken out since the last snapshot, some of them several times; `None` if only a whole run tells.
    changes: Option<Vec<Timer<K>>>,
    // Those that are due later than any of the leaves, where there is a place for them.
    far: Option<Far<K>>,
    // How far time has come: what is due stays until it is taken out.
    now: Timestamp,
    // How many were set since it was last looked at how many there are.
    grown: usize,
}

/// A leaf with more timers becomes two.
const MOST: usize = 1_024;
/// So many changes are told however few timers there are.
const FEW: usize = 32;
/// So many timers may be set before it is looked whether they fit.
const OFTEN: usize = 256;
/// So many changes are in memory before they are noted where those are that are far.
const MANY: usize = 4_096;

impl<K> Default for Timers<K> {
    fn default() -> Self {
        // Nobody has asked for changes yet.
        Timers { leaves: VecDeque::new(), changes: None, far: None, now: Timestamp::MIN, grown: 0 }
    }
}

impl<K: Key + Ord> Timers<K> {
    /// Comes back to `key` at `at`.
    pub fn set(&mut self, at: Timestamp, key: K) {
        let timer = (at, key);
        self.note(&timer);
        if self.far.is_some() {
            self.grown += 1;
            if self.grown >= OFTEN {
                self.fit_far();
            }
            if self.is_far(&timer) {
                self.far.iter_mut().for_each(|far| far.set(at, &timer.1));
                return;
            }
        }
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
        let there = match self.is_near(&timer) {
            true => self.take(self.place(&timer), |timers| timers.remove(&timer)).unwrap_or(false),
            false => self.is_far(&timer) && self.far.as_mut().is_some_and(|far| far.clear(at, &timer.1)),
        };
        if there {
            self.note(&timer);
        }
    }

    /// Takes the next timer out whose time is not after `now`.
    pub fn next_due(&mut self, now: Timestamp) -> Option<(Timestamp, K)> {
        self.now = now;
        if self.leaves.is_empty() && self.far.as_ref().and_then(Far::from).is_some_and(|first| first <= now) {
            self.come_near();
        }
        self.leaves.front()?.first().filter(|(at, _)| *at <= now)?;
        let due = self.take(0, BTreeSet::pop_first)??;
        self.note(&due);
        Some(due)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.here() + self.far.as_ref().map_or(0, Far::len)
    }

    fn here(&self) -> usize {
        self.leaves.iter().map(|leaf| leaf.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.leaves.is_empty() && self.far.as_ref().is_none_or(|far| far.len() == 0)
    }

    fn is_far(&self, timer: &Timer<K>) -> bool {
        let Some(far) = &self.far else { return false };
        // Those of the time from which on they are far may be on either side.
        far.from().is_some_and(|first| first <= timer.0) && !self.is_near(timer) && far.is_far(timer.0, &timer.1)
    }

    fn is_near(&self, timer: &Timer<K>) -> bool {
        self.leaves.get(self.place(timer)).is_some_and(|leaf| leaf.contains(timer))
    }

    /// The first of those that are far are the only ones in memory.
    fn come_near(&mut self) {
        let Some(far) = &mut self.far else { return };
        let next = BTreeSet::from_iter(far.next());
        self.leaves = if next.is_empty() { VecDeque::new() } else { VecDeque::from([Arc::new(next)]) };
    }

    /// Lets those go that are due last, while there are more in memory than may be.
    fn fit_far(&mut self) {
        self.grown = 0;
        let here = self.here();
        let Some(far) = &mut self.far else { return };
        for (at, key) in [self.leaves.front(), self.leaves.back()].into_iter().flatten().filter_map(|leaf| leaf.first())
        {
            far.sample(*at, key);
        }
        let mut excess = far.excess(here);
        // Those that are being taken out would come back at once.
        let first = self.leaves.front().and_then(|leaf| leaf.first());
        let stay = usize::from(first.is_some_and(|(at, _)| *at <= self.now));
        while excess > 0 && self.leaves.len() > stay {
            let Some(last) = self.leaves.pop_back() else { break };
            far.take(last.iter());
            excess = excess.saturating_sub(last.len());
        }
        let here = self.leaves.iter().map(|leaf| leaf.len()).sum();
        far.excess(here);
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

    /// Notes a change, if changes are told.
    fn note(&mut self, timer: &Timer<K>) {
        let Some(changes) = &mut self.changes else { return };
        changes.push(timer.clone());
        match &mut self.far {
            Some(far) if changes.len() > MANY => changes.drain(..).for_each(|(at, key)| far.note(at, &key)),
            None if changes.len() > self.leaves.len() * MOST / 2 + FEW => self.changes = None,
            _ => {}
        }
    }
}

impl<K: StateKey> Timers<K> {
    /// All of them as they are now, and what has changed since the last snapshot.
    pub(super) fn freeze(&mut self) -> Result<Box<dyn Snapshot>> {
        let changes = self.changes.replace(Vec::new());
        let far = self.far.as_mut().map(Far::freeze).transpose()?;
        Ok(Box::new(FrozenTimers { leaves: self.leaves.clone(), changes, far }))
    }

    /// Keeps to the budget from now on, and lets go of what is too much.
    pub(crate) fn fit(&mut self, spill: &Arc<Spill>) {
        match &self.far {
            None => self.far = Some(Far::new(Arc::clone(spill))),
            Some(_) => self.fit_far(),
        }
    }

    /// Plays a run into them, of state that is restored.
    pub(super) fn play(&mut self, name: &str, run: &Run) -> Result {
        run.play(name, self)
    }

    /// All runs were played: nothing counts as changed.
    pub(super) fn settle(&mut self) {
        self.changes = Some(Vec::new());
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
    changes: Option<Vec<Timer<K>>>,
    far: Option<FrozenFar<K>>,
}

impl<K: StateKey> FrozenTimers<K> {
    fn is_set(&self, timer: &Timer<K>) -> Result<bool> {
        let place = self.leaves.partition_point(|leaf| leaf.first() <= Some(timer)).saturating_sub(1);
        if self.leaves.get(place).is_some_and(|leaf| leaf.contains(timer)) {
            return Ok(true);
        }
        self.far.as_ref().map_or(Ok(false), |far| far.has(timer.0, &timer.1))
    }
}

impl<K: StateKey> Snapshot for FrozenTimers<K> {
    fn len(&self) -> usize {
        self.leaves.iter().map(|leaf| leaf.len()).sum::<usize>() + self.far.as_ref().map_or(0, |far| far.entries)
    }

    fn encode_in_parts(
        mut self: Box<Self>,
        key_groups: u32,
        whole: bool,
        give: &mut dyn FnMut(Run) -> Result,
    ) -> Result {
        let group = |(_, key): &Timer<K>| KeyGroup::of(key, key_groups).0;
        let changes = self.changes.take().filter(|_| !whole);
        let mut parts = Parts::new(changes.is_none(), give);
        match changes {
            Some(mut changed) => {
                let mut tell = |timer: &Timer<K>| match self.is_set(timer)? {
                    true => parts.encode(group(timer), &(&timer.1, timer.0)),
                    false => parts.encode_gone(group(timer), &(&timer.1, timer.0)),
                };
                if let Some(far) = &self.far {
                    far.each_noted(|at, key| tell(&(at, key)))?;
                }
                changed.sort_unstable();
                changed.dedup();
                changed.iter().try_for_each(&mut tell)?;
            }
            None => {
                for timer in self.leaves.iter().flat_map(|leaf| leaf.iter()) {
                    parts.encode(group(timer), &(&timer.1, timer.0))?;
                }
                if let Some(far) = &self.far {
                    far.each(&mut parts)?;
                }
            }
        }
        parts.done()
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
        let here = self.leaves.iter().map(|leaf| leaf.len()).sum::<usize>();
        write!(f, "Timers({})", here + self.far.as_ref().map_or(0, Far::len))
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
                        let run = timers.freeze().unwrap().encode(16, runs.is_empty()).unwrap();
                        if run.whole {
                            runs.clear();
                        }
                        runs.push(run);
                        at_barrier = model.clone();
                    }
                }
            }
            let mut replayed = Timers::default();
            runs.iter().try_for_each(|run| replayed.play("t", run)).unwrap();
            prop_assert_eq!(contents(&replayed), at_barrier);
            prop_assert_eq!(contents(&timers), model);
        }
    }
}
