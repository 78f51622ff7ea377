//! [`Saved`]: the state of one operator as bytes, and how that of several subtasks becomes that of others.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

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
    /// Entries of keyed state, encoded, by name and key group.
    #[serde(default)]
    pub(super) groups: BTreeMap<String, BTreeMap<u32, Bytes>>,
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
        let groups = self.groups.values().flatten().map(|(_, entries)| entries.len());
        values.sum::<usize>() + times.sum::<usize>() + groups.sum::<usize>()
    }

    /// Whether the operator keeps no state.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.times.is_empty() && self.groups.is_empty()
    }

    /// The names of what is saved.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().chain(self.times.keys()).chain(self.groups.keys()).map(String::as_str)
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
            for (name, groups) in &saved.groups {
                let mine = groups.iter().filter(|(group, _)| KeyGroup(**group).owner(key_groups, of) == index);
                let entries = mine.map(|(group, entries)| (*group, entries.clone()));
                share.groups.entry(name.clone()).or_default().extend(entries);
            }
        }
        Ok(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Keyed, StateVisitor};

    fn saved(keys: impl IntoIterator<Item = u64>, now: i64) -> Saved {
        let mut counts = Keyed::default();
        for key in keys {
            counts.insert(key, key * 10);
        }
        let (mut saved, mut now) = (Saved::default(), Timestamp::from_micros(now));
        let mut visit = StateVisitor::save(&mut saved, 128);
        visit.keyed("counts", &mut counts).unwrap();
        visit.time("now", &mut now).unwrap();
        saved
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
        let one = Saved::share(&two, 128, 0, 1).unwrap();
        assert_eq!(one, saved(0..500, 50), "what is saved does not depend on who held it");
    }

    #[test]
    fn what_belongs_to_a_subtask_as_a_whole_is_not_shared_out() {
        let mut saved = Saved::default();
        StateVisitor::save(&mut saved, 128).value("next", &mut 7u64).unwrap();
        let error = Saved::share([&saved], 128, 0, 2).unwrap_err();
        assert_eq!(error.to_string(), "state `next` belongs to a subtask as a whole and cannot be split");
    }
}
