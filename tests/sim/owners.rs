//! [`Owners`]: who gave the totals of a key. In an attempt of a run each key group has one owner (P18); what an incarnation
//! gives is not stored behind what a later one gave (P17); and each goes on in order, whoever runs beside it (P8).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use millstream::operators::Result as Done;
use millstream::prelude::*;
use serde_json::Value;

use super::monitor::blame;

// As many as a pipeline has unless it says otherwise.
const GROUPS: u32 = 128;

/// A subtask of an attempt of a run: the run's number, which attempt, and which subtask of how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Giver {
    run: usize,
    attempt: u32,
    subtask: u32,
    of: u32,
}

/// The owners of a run: which attempt each subtask is in, and which has had rows of a key group.
#[derive(Debug, Default)]
pub(super) struct Owners {
    attempts: Mutex<BTreeMap<u32, u32>>,
    groups: Mutex<BTreeMap<(u32, u32), u32>>,
}

/// The total of a key, and who gives it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Total {
    key: u64,
    count: u64,
    sum: u64,
    by: Giver,
}

/// A subtask that gives the totals of its keys.
#[derive(Debug)]
pub(super) struct Owner {
    giver: Giver,
    owners: Arc<Owners>,
}

impl Owner {
    /// In an attempt of the run of this number that begins.
    pub(super) fn new(owners: &Arc<Owners>, run: usize, subtask: u32, of: u32) -> Self {
        let mut attempts = owners.attempts.lock().unwrap();
        let attempt = attempts.entry(subtask).or_default();
        *attempt += 1;
        Owner { giver: Giver { run, attempt: *attempt, subtask, of }, owners: Arc::clone(owners) }
    }
}

impl Operator for Owner {
    type In = Vec<(u64, (u64, u64))>;
    type Out = Vec<Total>;

    fn on_batch(&mut self, batch: Batch<Self::In>, out: &mut Outbox<'_, Self::Out>) -> Done<Turn> {
        let Giver { attempt, subtask, of, .. } = self.giver;
        let mut groups = self.owners.groups.lock().unwrap();
        for (key, _) in batch.rows() {
            let owner = *groups.entry((attempt, group_of(*key))).or_insert(subtask);
            if owner != subtask {
                blame(format!("P18: key {key} has the owners {owner} and {subtask} of {of} at a time"));
            }
        }
        drop(groups);
        let by = self.giver;
        let total = |(key, (count, sum))| Total { key, count, sum, by };
        out.send(batch.map_rows(|rows| rows.into_iter().map(total).collect())?);
        Ok(Turn::Done)
    }
}

/// The key group of a key, by definition: FNV-1a of its decimal digits.
fn group_of(key: u64) -> u32 {
    let digits = key.to_string();
    digits.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)) % GROUPS
}

/// The key of a total, how many rows it counts, and who gave it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Given {
    key: u64,
    count: u64,
    by: Giver,
}

impl Given {
    /// Takes out of a total who gave it.
    pub(super) fn take_from(total: &mut Value) -> Option<Self> {
        let by = total.as_object_mut()?.remove("by")?;
        let number = |name: &str| total.get(name).and_then(Value::as_u64);
        Some(Given { key: number("key")?, count: number("count")?, by: serde_json::from_value(by).ok()? })
    }

    /// How many subtasks gave totals when this one was given.
    pub(super) fn of(&self) -> u32 {
        self.by.of
    }
}

/// What is wrong with who gave totals, in the order in which they are stored; `fenced` if what an incarnation that was taken
/// over gives is not stored any more.
pub(super) fn judge_owners(given: &[Given], fenced: bool) -> Result<(), String> {
    let mut owners = BTreeMap::new();
    // What each incarnation gave last of a key. It may be given again by the same, but not something else behind it.
    let mut last = BTreeMap::<(Giver, u64), u64>::new();
    for Given { key, count, by } in given {
        let owner = owners.entry((by.run, by.attempt, group_of(*key))).or_insert(*by);
        if owner != by {
            return Err(format!("P18: totals of key {key} are given by {owner:?} and by {by:?}"));
        }
        match last.get_mut(&(*by, *key)) {
            Some(before) if *count > *before + 1 => {
                return Err(format!("P8: {by:?} gives total {count} of key {key} behind {before}"));
            }
            Some(before) => *before = (*before).max(*count),
            None => _ = last.insert((*by, *key), *count),
        }
    }
    if !fenced {
        return Ok(());
    }
    let (mut gone, mut now) = (BTreeSet::new(), BTreeSet::<Giver>::new());
    for Given { key, count, by } in given {
        let others: Vec<Giver> = now.iter().filter(|other| other.run != by.run).copied().collect();
        gone.extend(others.iter().map(|other| (other.run, other.attempt, other.subtask)));
        now.retain(|other| other.run == by.run);
        now.insert(*by);
        if gone.contains(&(by.run, by.attempt, by.subtask)) {
            return Err(format!("P17: {by:?} gives total {count} of key {key} behind what another run has given"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(key: u64, count: u64, (run, attempt, subtask): (usize, u32, u32)) -> Given {
        Given { key, count, by: Giver { run, attempt, subtask, of: 2 } }
    }

    #[test]
    fn a_key_has_one_owner_in_an_attempt_and_another_in_the_next() {
        let [one, other, next] = [(0, 1, 0), (0, 1, 1), (1, 1, 1)];
        assert_eq!(judge_owners(&[given(5, 1, one), given(5, 2, one), given(5, 3, next)], true), Ok(()));
        assert!(judge_owners(&[given(5, 1, one), given(5, 2, other)], false).is_err());
    }

    #[test]
    fn who_was_taken_over_gives_nothing_more_where_that_is_refused() {
        let all = [given(5, 1, (0, 1, 0)), given(5, 2, (1, 1, 0)), given(5, 2, (0, 1, 0))];
        assert_eq!(judge_owners(&all, false), Ok(()));
        assert!(judge_owners(&all, true).is_err());
    }

    #[test]
    fn an_incarnation_leaves_nothing_out_whoever_runs_beside_it() {
        let (one, other) = ((0, 1, 0), (1, 1, 0));
        let all = [given(5, 1, one), given(5, 2, other), given(5, 2, one), given(5, 3, other), given(5, 3, one)];
        assert_eq!(judge_owners(&all, false), Ok(()));
        assert!(judge_owners(&[given(5, 1, one), given(5, 2, other), given(5, 3, one)], false).is_err());
    }
}
