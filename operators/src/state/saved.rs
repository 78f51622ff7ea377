//! [`Saved`]: the state of one operator as bytes, and how that of several subtasks becomes that of others.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Run;
use crate::{KeyGroup, Timestamp};

/// The saved state of one operator, by the names under which it lists it.
///
/// Keyed state is kept by key group, so that another number of subtasks can share it out without decoding any of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// What belongs to a subtask as a whole, encoded.
    #[serde(default)]
    pub(super) values: BTreeMap<String, Bytes>,
    /// How far event time has come, by name and by what was told apart.
    #[serde(default)]
    pub(super) times: BTreeMap<String, BTreeMap<String, Timestamp>>,
    /// The runs of keyed state, by name: to be played one behind the other.
    #[serde(default)]
    pub(super) runs: BTreeMap<String, Vec<Run>>,
    /// The versions of the types of pieces, where they are others than 1.
    #[serde(default)]
    pub(super) versions: BTreeMap<String, u32>,
    /// What shapes the state, in words, where the types of pieces do not tell.
    #[serde(default)]
    pub(super) shape: String,
}

/// State that belongs to a subtask as a whole, of which another number of subtasks cannot each have a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsplittable {
    /// The name of that piece of state.
    pub name: String,
}

impl fmt::Display for Unsplittable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "state `{}` belongs to a subtask as a whole and cannot be split", self.name)
    }
}

impl std::error::Error for Unsplittable {}

impl Saved {
    /// The bytes that it takes.
    pub fn weight(&self) -> usize {
        let values = self.values.iter().map(|(name, value)| name.len() + value.len());
        let times = self.times.values().flatten().map(|(of, _)| of.len() + size_of::<Timestamp>());
        let runs = self.runs.values().flatten().map(Run::weight);
        values.sum::<usize>() + times.sum::<usize>() + runs.sum::<usize>()
    }

    /// Whether the operator keeps no state.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.times.is_empty() && self.runs.is_empty()
    }

    /// Takes the runs of keyed state out.
    pub fn take_runs(&mut self) -> BTreeMap<String, Vec<Run>> {
        std::mem::take(&mut self.runs)
    }

    /// Puts the runs of keyed state back.
    #[must_use]
    pub fn with_runs(mut self, runs: BTreeMap<String, Vec<Run>>) -> Self {
        self.runs = runs;
        self
    }

    /// The names of what is saved.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().chain(self.times.keys()).chain(self.runs.keys()).map(String::as_str)
    }

    /// The names of what is saved besides times.
    pub fn pieces(&self) -> impl Iterator<Item = &str> {
        self.values.keys().chain(self.runs.keys()).map(String::as_str)
    }

    /// What subtask `index` of `of` gets of the state that all subtasks of the node had before, when they were another
    /// number: the key groups that it owns now, and of each time the earliest.
    ///
    /// # Errors
    /// There is state that belongs to a subtask as a whole.
    pub fn share<'a>(
        all: impl IntoIterator<Item = &'a Saved>,
        key_groups: u32,
        index: u32,
        of: u32,
    ) -> Result<Saved, Unsplittable> {
        let mut share = Saved::default();
        for saved in all {
            if let Some(name) = saved.values.keys().next() {
                return Err(Unsplittable { name: name.clone() });
            }
            for (name, times) in &saved.times {
                let earliest = share.times.entry(name.clone()).or_default();
                for (of, time) in times {
                    let kept = earliest.entry(of.clone()).or_insert(*time);
                    *kept = (*kept).min(*time);
                }
            }
            share.versions.extend(saved.versions.clone());
            share.shape.clone_from(&saved.shape);
            for (name, runs) in &saved.runs {
                // No two of them have had a key group in common, so their runs may follow each other.
                let mine = |group| KeyGroup(group).owner(key_groups, of) == index;
                let runs = runs.iter().map(|run| run.only(mine));
                share.runs.entry(name.clone()).or_default().extend(runs);
            }
        }
        Ok(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Frozen, Keyed, StateVisitor};

    fn saved(keys: impl IntoIterator<Item = u64>, now: i64) -> Saved {
        let mut counts = Keyed::default();
        for key in keys {
            counts.insert(key, key * 10);
        }
        let (mut frozen, mut now) = (Frozen::default(), Timestamp::from_micros(now));
        let mut visit = StateVisitor::freeze(&mut frozen);
        visit.keyed("counts", &mut counts).unwrap();
        visit.time("now", &mut now).unwrap();
        frozen.encode(128).unwrap()
    }

    fn restored(saved: &Saved) -> (Vec<u64>, Timestamp) {
        let (mut counts, mut now) = (Keyed::<u64, u64>::default(), Timestamp::MIN);
        let mut visit = StateVisitor::restore(saved);
        visit.keyed("counts", &mut counts).unwrap();
        visit.time("now", &mut now).unwrap();
        let mut keys: Vec<u64> = counts.iter().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        (keys, now)
    }

    #[test]
    fn another_number_of_subtasks_shares_the_same_keys_and_the_earliest_time() {
        let owned = |key: &u64, index, of| KeyGroup::of(key, 128).owner(128, of) == index;
        let two = [0, 1].map(|index| saved((0..500).filter(|key| owned(key, index, 2)), 50 + i64::from(index)));
        let mut all = Vec::new();
        for index in 0..3 {
            let (keys, now) = restored(&Saved::share(&two, 128, index, 3).unwrap());
            assert!(keys.iter().all(|key| owned(key, index, 3)), "subtask {index} has the keys of another");
            assert_eq!(now, Timestamp::from_micros(50));
            all.extend(keys);
        }
        all.sort_unstable();
        assert_eq!(all, (0..500).collect::<Vec<_>>());
        let one = restored(&Saved::share(&two, 128, 0, 1).unwrap());
        assert_eq!(one, restored(&saved(0..500, 50)));
    }

    #[test]
    fn what_belongs_to_a_subtask_as_a_whole_is_not_shared_out() {
        let mut frozen = Frozen::default();
        StateVisitor::freeze(&mut frozen).value("next", &mut 7u64).unwrap();
        let error = Saved::share([&frozen.encode(128).unwrap()], 128, 0, 2).unwrap_err();
        assert_eq!(error.to_string(), "state `next` belongs to a subtask as a whole and cannot be split");
    }
}
