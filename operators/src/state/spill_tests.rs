//! Keyed state against a model, in memory and with budgets that most of it does not fit in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::{Frozen, Keyed, Run, Saved, Snapshot, Spill, StateVisitor, Timers, Versions};
use crate::testkit::MemoryTables;
use crate::{Result, Timestamp};

pub(super) const KEY_GROUPS: u32 = 16;

fn spill(budget: usize) -> Arc<Spill> {
    Arc::new(Spill::new(Arc::new(MemoryTables::default()), KEY_GROUPS, budget))
}

#[derive(Clone, Debug)]
enum Step {
    Get(u16),
    Put(u16, u32),
    Change(u16),
    Remove(u16),
    Update(u16, Option<u32>),
    Drain,
    Fit,
    Snapshot(bool),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..300_u16;
    prop_oneof![
        10 => key.clone().prop_map(Step::Get),
        20 => (key.clone(), any::<u32>()).prop_map(|(key, value)| Step::Put(key, value)),
        10 => key.clone().prop_map(Step::Change),
        10 => key.clone().prop_map(Step::Remove),
        10 => (key, any::<Option<u32>>()).prop_map(|(key, to)| Step::Update(key, to)),
        1 => Just(Step::Drain),
        10 => Just(Step::Fit),
        4 => any::<bool>().prop_map(Step::Snapshot),
        1 => Just(Step::Restart),
    ]
}

/// What was saved under a name, as runs that are given one at a time.
struct Named<'a>(&'static str, &'a [Run]);

impl super::Runs for Named<'_> {
    fn names(&self) -> Vec<String> {
        vec![self.0.to_owned()]
    }

    fn each(&mut self, _: &str, play: &mut dyn FnMut(&Run) -> Result) -> Result {
        self.1.iter().try_for_each(play)
    }
}

fn restored(runs: &[Run], spill: Option<&Arc<Spill>>) -> Keyed<u16, u32> {
    let mut keyed = Keyed::default();
    match spill {
        Some(spill) => {
            let saved = Saved::default();
            StateVisitor::restore_within(&saved, &mut Named("k", runs), spill).keyed("k", &mut keyed).unwrap();
        }
        None => {
            let saved = Saved::default().with_runs([("k".to_owned(), runs.to_vec())].into());
            StateVisitor::restore(&saved).keyed("k", &mut keyed).unwrap();
        }
    }
    keyed
}

fn snapshot(keyed: &mut Keyed<u16, u32>) -> Box<dyn Snapshot> {
    let mut frozen = Frozen::default();
    StateVisitor::freeze(&mut frozen).keyed("k", keyed).unwrap();
    let (_, mut pieces) = frozen.into_parts();
    pieces.remove(0).1
}

pub(super) fn parts(snapshot: Box<dyn Snapshot>, whole: bool) -> Vec<Run> {
    let mut parts = Vec::new();
    let give = &mut |part| {
        parts.push(part);
        Ok(())
    };
    snapshot.encode_in_parts(KEY_GROUPS, whole, give).unwrap();
    parts
}

fn contents(keyed: &Keyed<u16, u32>) -> BTreeMap<u16, u32> {
    keyed.iter().map(|(key, value)| (*key, *value)).collect()
}

fn is_as_the_model(steps: Vec<Step>, spill: Option<&Arc<Spill>>) -> Result<(), TestCaseError> {
    let (mut keyed, mut model) = (Keyed::<u16, u32>::default(), BTreeMap::new());
    let (mut runs, mut at_barrier) = (Vec::new(), BTreeMap::new());
    // A snapshot is encoded while the operator goes on.
    let mut open: Option<(Box<dyn Snapshot>, bool)> = None;
    fn close(open: Option<(Box<dyn Snapshot>, bool)>, runs: &mut Vec<Run>) {
        let Some((snapshot, whole)) = open else { return };
        let parts = parts(snapshot, whole || runs.is_empty());
        if parts.first().is_some_and(|run| run.whole) {
            runs.clear();
        }
        runs.extend(parts);
    }
    let fit = |keyed: &mut Keyed<u16, u32>| {
        if let Some(spill) = spill {
            StateVisitor::fit(spill, &mut Vec::new()).keyed("k", keyed).unwrap();
        }
    };
    for step in steps {
        match step {
            Step::Get(key) => prop_assert_eq!(keyed.get(&key), model.get(&key)),
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
            Step::Drain => {
                prop_assert_eq!(keyed.take_sorted(), std::mem::take(&mut model).into_iter().collect::<Vec<_>>());
            }
            Step::Fit => fit(&mut keyed),
            Step::Snapshot(whole) => {
                close(open.take(), &mut runs);
                open = Some((snapshot(&mut keyed), whole));
                at_barrier = model.clone();
            }
            Step::Restart => {
                close(open.take(), &mut runs);
                (keyed, model) = (restored(&runs, spill), at_barrier.clone());
            }
        }
        prop_assert_eq!(keyed.len(), model.len());
    }
    close(open, &mut runs);
    prop_assert_eq!(contents(&restored(&runs, spill)), at_barrier);
    prop_assert_eq!(contents(&keyed), model);
    if let Some(spill) = spill {
        spill.check().unwrap();
    }
    Ok(())
}

proptest! {
    #[test]
    fn runs_played_one_behind_the_other_are_the_state_at_the_last_barrier(
        steps in prop::collection::vec(step(), 1..400),
    ) {
        is_as_the_model(steps, None)?;
    }

    #[test]
    fn state_that_does_not_fit_in_memory_is_the_same_state(
        steps in prop::collection::vec(step(), 1..400),
        budget in 0..8_000_usize,
    ) {
        let spill = spill(budget);
        is_as_the_model(steps, Some(&spill))?;
        prop_assert_eq!((spill.held(), spill.away()), (0, 0), "what is gone holds nothing");
    }
}

fn timers_are_as_the_model(steps: Vec<(u8, i64, u8)>, spill: &Arc<Spill>) -> Result<(), TestCaseError> {
    let fit = |timers: &mut Timers<u8>| {
        StateVisitor::fit(spill, &mut Vec::new()).timers("k", timers).unwrap();
    };
    let restored = |runs: &[Run]| {
        let (saved, mut timers) = (Saved::default(), Timers::default());
        StateVisitor::restore_within(&saved, &mut Named("k", runs), spill).timers("k", &mut timers).unwrap();
        timers
    };
    let (mut timers, mut model) = (Timers::<u8>::default(), BTreeSet::new());
    let (mut runs, mut at_barrier): (Vec<Run>, _) = (Vec::new(), BTreeSet::new());
    for (step, at, key) in steps {
        let at = Timestamp::from_micros(at);
        match step {
            0..=3 => {
                timers.set(at, key);
                model.insert((at, key));
            }
            4 => {
                timers.clear(at, key);
                model.remove(&(at, key));
            }
            5 => {
                let due = model.first().copied().filter(|(first, _)| *first <= at);
                prop_assert_eq!(timers.next_due(at), due);
                if due.is_some() {
                    model.pop_first();
                }
            }
            6 => fit(&mut timers),
            7 => {
                let mut frozen = Frozen::default();
                StateVisitor::freeze(&mut frozen).timers("k", &mut timers).unwrap();
                let told = parts(frozen.into_parts().1.remove(0).1, runs.is_empty());
                if told.first().is_some_and(|run| run.whole) {
                    runs.clear();
                }
                runs.extend(told);
                at_barrier = model.clone();
            }
            _ => (timers, model) = (restored(&runs), at_barrier.clone()),
        }
        prop_assert_eq!((timers.len(), timers.is_empty()), (model.len(), model.is_empty()));
    }
    let all: Vec<_> = std::iter::from_fn(|| timers.next_due(Timestamp::MAX)).collect();
    prop_assert_eq!(all, model.into_iter().collect::<Vec<_>>());
    spill.check().unwrap();
    Ok(())
}

proptest! {
    #[test]
    fn timers_that_do_not_fit_in_memory_come_in_the_same_order(
        steps in prop::collection::vec((0..9_u8, -40..40_i64, 0..4_u8), 1..400),
        budget in 0..4_000_usize,
    ) {
        timers_are_as_the_model(steps, &spill(budget))?;
    }
}

#[test]
fn many_timers_of_few_times_stay_within_their_budget_and_come_in_order() {
    let spill = spill(1 << 18);
    let mut timers: Timers<u64> = Timers::default();
    let timer = |n: u64| (Timestamp::from_micros((n * 7_919 % 300).cast_signed()), n * 31 % 40_000);
    StateVisitor::fit(&spill, &mut Vec::new()).timers("k", &mut timers).unwrap();
    (0..40_000).map(timer).for_each(|(at, key)| timers.set(at, key));
    assert!(spill.away() > 30_000, "{spill:?}");
    let mut all: Vec<_> = (0..40_000).map(timer).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(timers.len(), all.len());
    assert!(std::iter::from_fn(|| timers.next_due(Timestamp::MAX)).eq(all));
    spill.check().unwrap();
}

#[test]
fn a_hundred_thousand_keys_stay_within_their_budget_and_a_checkpoint_tells_what_has_changed() {
    let spill = spill(1 << 20);
    let mut keyed = Keyed::default();
    StateVisitor::fit(&spill, &mut Vec::new()).keyed("k", &mut keyed).unwrap();
    for key in 0..100_000_u64 {
        keyed.insert(key, key);
        assert!(spill.held() <= spill.budget() * 9 / 8, "{spill:?}");
    }
    assert!(spill.away() > 70_000 && keyed.len() == 100_000, "{spill:?}");
    let frozen = |keyed: &mut Keyed<u64, u64>| {
        let mut frozen = Frozen::default();
        StateVisitor::freeze(&mut frozen).keyed("k", keyed).unwrap();
        frozen.into_parts().1.remove(0).1
    };
    let whole = frozen(&mut keyed).encode(KEY_GROUPS, false).unwrap();
    assert!(whole.weight() > 500_000);
    for key in (0..100_000).step_by(1_000) {
        *keyed.get_mut(&key).unwrap() += 1;
        keyed.remove(&(key + 1));
    }
    let changed = frozen(&mut keyed).encode(KEY_GROUPS, false).unwrap();
    assert!(!changed.whole && changed.weight() * 100 < whole.weight(), "{} of {}", changed.weight(), whole.weight());
    assert!(frozen(&mut keyed).encode(KEY_GROUPS, false).unwrap().is_empty());
    spill.check().unwrap();
}

#[test]
fn state_of_an_older_version_is_migrated_whole_and_what_has_no_way_is_refused_by_name_and_versions() {
    let saved = |keyed: &mut Keyed<u16, u32>, versions: &Versions<u32>| {
        let mut frozen = Frozen::default();
        StateVisitor::freeze(&mut frozen).keyed_as("sums", keyed, versions).unwrap();
        frozen.encode(KEY_GROUPS).unwrap()
    };
    let first = saved(&mut (0..100).map(|key| (key, u32::from(key))).collect(), &Versions::new(1));
    let text = || Versions::new(2).migrate(1, |sum: u32| sum.to_string());
    let spilled = spill(0);
    for spill in [None, Some(&spilled)] {
        let mut sums = Keyed::<u16, String>::default();
        match spill {
            None => StateVisitor::restore(&first).keyed_as("sums", &mut sums, &text()).unwrap(),
            Some(spill) => {
                let mut small = first.clone();
                let runs = small.take_runs().remove("sums").unwrap();
                let mut given = Named("sums", &runs);
                StateVisitor::restore_within(&small, &mut given, spill).keyed_as("sums", &mut sums, &text()).unwrap();
            }
        }
        assert_eq!((sums.len(), sums.get(&7).map(String::as_str)), (100, Some("7")));
        let mut frozen = Frozen::default();
        StateVisitor::freeze(&mut frozen).keyed_as("sums", &mut sums, &text()).unwrap();
        let (small, mut pieces) = frozen.into_parts();
        let run = pieces.remove(0).1.encode(KEY_GROUPS, false).unwrap();
        assert!(run.whole, "values of two versions do not meet in one checkpoint");
        let second = small.with_runs([("sums".to_owned(), vec![run])].into());
        let mut sums = Keyed::<u16, String>::default();
        StateVisitor::restore(&second).keyed_as("sums", &mut sums, &Versions::new(2)).unwrap();
        assert_eq!(sums.get(&99).map(String::as_str), Some("99"));
        let restored_as = |version| {
            let mut sums = Keyed::<u16, String>::default();
            StateVisitor::restore(&second).keyed_as("sums", &mut sums, &Versions::new(version)).unwrap_err()
        };
        let (newer, older) = (restored_as(1).to_string(), restored_as(3).to_string());
        assert!(newer.contains("`sums` was saved in version 2 by a newer program"), "{newer}");
        assert!(older.contains("no way from 2 to 3"), "{older}");
    }
}

#[test]
fn an_error_of_the_store_is_a_fault_behind_the_call() {
    let tables = MemoryTables::default();
    let spill = Arc::new(Spill::new(Arc::new(tables.clone()), KEY_GROUPS, 0));
    let mut keyed: Keyed<u16, u32> = (0..100).map(|key| (key, 1)).collect();
    for _ in 0..2 {
        StateVisitor::fit(&spill, &mut Vec::new()).keyed("k", &mut keyed).unwrap();
    }
    assert_eq!((spill.away(), tables.tables.load(Ordering::Relaxed)), (100, 1));
    spill.check().unwrap();
    tables.fails.store(true, Ordering::Relaxed);
    *keyed.entry(7).or_default() += 1;
    let fault = spill.check().unwrap_err();
    assert!(fault.chain().contains("the disk is gone"), "{fault}");
    assert!(spill.check().is_err(), "and so is every later call");
}

#[test]
fn keys_that_are_too_long_for_a_table_are_kept_there_too() {
    let spill = spill(0);
    let key = |n: usize| format!("{}{n}", "k".repeat(n * 40_000));
    let mut keyed: Keyed<String, u32> = (0..4).map(|n| (key(n), 0)).collect();
    let fit = |keyed: &mut Keyed<String, u32>| {
        StateVisitor::fit(&spill, &mut Vec::new()).keyed("k", keyed).unwrap();
    };
    let freeze = |keyed: &mut Keyed<String, u32>| {
        let mut frozen = Frozen::default();
        StateVisitor::freeze(&mut frozen).keyed("k", keyed).unwrap();
        frozen.into_parts().1.remove(0).1
    };
    (0..2).for_each(|_| fit(&mut keyed));
    assert_eq!((spill.away(), keyed.get(&key(3))), (4, Some(&0)));
    let mut runs = parts(freeze(&mut keyed), true);
    *keyed.get_mut(&key(2)).unwrap() = 2;
    keyed.remove(&key(1));
    fit(&mut keyed);
    runs.extend(parts(freeze(&mut keyed), false));
    let saved = Saved::default().with_runs([("k".to_owned(), runs)].into());
    let mut restored = Keyed::<String, u32>::default();
    StateVisitor::restore(&saved).keyed("k", &mut restored).unwrap();
    for keyed in [keyed, restored] {
        let values = (0..4).map(|n| keyed.get(&key(n)).copied()).collect::<Vec<_>>();
        assert_eq!(values, [Some(0), None, Some(2), Some(0)]);
    }
    spill.check().unwrap();
}

#[test]
fn state_in_memory_is_saved_in_parts_too() {
    let mut keyed: Keyed<u16, u32> = Keyed::default();
    let mut large: Keyed<u64, Vec<u8>> = (0..100_000).map(|key| (key, vec![7; 100])).collect();
    let mut frozen = Frozen::default();
    let visit = &mut StateVisitor::freeze(&mut frozen);
    visit.keyed("large", &mut large).unwrap();
    visit.keyed("empty", &mut keyed).unwrap();
    let (_, pieces) = frozen.into_parts();
    let parts: Vec<Vec<Run>> = pieces.into_iter().map(|(_, snapshot)| parts(snapshot, true)).collect();
    assert!(parts[0].len() >= 3 && parts[0].iter().all(|run| run.whole && run.weight() < 5 << 20));
    assert_eq!(parts[1].len(), 1);
}
