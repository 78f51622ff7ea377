//! Timers of which most are outside of memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::spill_tests::{KEY_GROUPS, parts};
use super::{Frozen, Run, Snapshot, Spill, StateKey, StateVisitor, Timers};
use crate::testkit::MemoryTables;
use crate::{Key, KeyWriter, Timestamp};

fn spill(budget: usize) -> (Arc<Spill>, MemoryTables) {
    let tables = MemoryTables::default();
    (Arc::new(Spill::new(Arc::new(tables.clone()), KEY_GROUPS, budget)), tables)
}

fn fitted<K: StateKey>(spill: &Arc<Spill>) -> Timers<K> {
    let mut timers = Timers::default();
    fit(&mut timers, spill);
    timers
}

fn fit<K: StateKey>(timers: &mut Timers<K>, spill: &Arc<Spill>) {
    StateVisitor::fit(spill, &mut Vec::new()).timers("k", timers).unwrap();
}

fn frozen(timers: &mut Timers<u64>) -> Box<dyn Snapshot> {
    let mut frozen = Frozen::default();
    StateVisitor::freeze(&mut frozen).timers("k", timers).unwrap();
    frozen.into_parts().1.remove(0).1
}

fn drained<K: StateKey>(timers: &mut Timers<K>, now: Timestamp) -> Vec<(Timestamp, K)> {
    std::iter::from_fn(|| timers.next_due(now)).collect()
}

const NOON: Timestamp = Timestamp::from_micros(43_200_000_000);

#[test]
fn many_timers_of_one_instant_come_in_order_and_some_at_a_time_while_others_are_set() {
    let (spill, tables) = spill(1 << 16);
    let mut timers: Timers<String> = fitted(&spill);
    let key = |n: u64| format!("{}", n * 7_919 % 50_000);
    (0..50_000).for_each(|n| timers.set(NOON, key(n)));
    assert!(spill.away() > 45_000, "{spill:?}");
    let mut sorted: Vec<String> = (0..50_000).map(key).collect();
    sorted.sort_unstable();
    let later = NOON.saturating_add(std::time::Duration::from_secs(86_400));
    for expected in sorted {
        assert_eq!(timers.next_due(NOON), Some((NOON, expected.clone())));
        // Each is set again, for the next day.
        timers.set(later, expected);
        assert!(spill.held() <= spill.budget() * 3, "{spill:?}");
    }
    assert_eq!((timers.next_due(NOON), timers.len()), (None, 50_000));
    assert_eq!(drained(&mut timers, later).len(), 50_000);
    let scanned = tables.scanned.load(Ordering::Relaxed);
    assert!(scanned < 110_000, "{scanned} entries were looked at");
    spill.check().unwrap();
}

#[test]
fn what_is_due_goes_on_when_nothing_fits() {
    let (spill, _) = spill(0);
    let mut timers: Timers<u64> = fitted(&spill);
    (0..10_000).for_each(|n| timers.set(NOON, n));
    for n in 0..10_000 {
        assert_eq!(timers.next_due(NOON), Some((NOON, n)));
        fit(&mut timers, &spill);
    }
    spill.check().unwrap();
}

#[test]
fn a_checkpoint_tells_which_timers_have_changed_however_many_are_away() {
    let (spill, _) = spill(1 << 16);
    let mut timers: Timers<u64> = fitted(&spill);
    let at = |n: u64| Timestamp::from_micros(n.cast_signed());
    (0..100_000).for_each(|n| timers.set(at(n), n));
    let whole = frozen(&mut timers);
    let mut runs = parts(whole, true);
    let weight = |runs: &[Run]| runs.iter().map(Run::weight).sum::<usize>();
    let all = weight(&runs);
    for round in 0..3 {
        // More than are kept in memory, and as many as the budget would have for all.
        for n in round * 10_000..(round + 1) * 10_000 {
            assert_eq!(timers.next_due(at(n)), Some((at(n), n)));
            timers.set(at(n + 200_000), n);
        }
        let changes = parts(frozen(&mut timers), false);
        assert!(changes.iter().all(|run| !run.whole));
        assert!(weight(&changes) * 3 < all, "{} of {all}", weight(&changes));
        runs.extend(changes);
    }
    let mut replayed = Timers::<u64>::default();
    runs.iter().try_for_each(|run| replayed.play("k", run)).unwrap();
    assert!(drained(&mut replayed, Timestamp::MAX) == drained(&mut timers, Timestamp::MAX));
    spill.check().unwrap();
}

/// Has an order that is not that of its parts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
struct Backwards(u16);

impl Ord for Backwards {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.0.cmp(&self.0)
    }
}

impl PartialOrd for Backwards {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Key for Backwards {
    fn write_to(&self, writer: &mut impl KeyWriter) {
        self.0.write_to(writer);
    }
}

#[test]
fn keys_with_an_order_of_their_own_come_once_each() {
    let (spill, _) = spill(1 << 14);
    let mut timers: Timers<Backwards> = fitted(&spill);
    for round in 0..3 {
        for n in 0..5_000 {
            timers.set(NOON, Backwards(n * 7 % 5_000));
            if n % 3 == round {
                timers.clear(NOON, Backwards(n));
            }
        }
    }
    (0..5_000).for_each(|n| timers.set(NOON, Backwards(n)));
    assert_eq!(timers.len(), 5_000);
    let mut all = drained(&mut timers, NOON);
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 5_000);
    spill.check().unwrap();
}
