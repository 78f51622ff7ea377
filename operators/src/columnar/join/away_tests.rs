//! Joins whose keys do not fit in memory.

use std::sync::Arc;

use super::oracle::{Dice, Row, definition, span};
use super::tests::{at, batch, given, join, left, right, step, steps};
use super::*;
use crate::columnar::checkpoints::Checkpoints;
use crate::testkit::{Bench, MemoryTables, cases};
use crate::window::tumbling;
use crate::{KeyGroup, Spill};

#[test]
fn keys_that_fit_in_no_memory_come_back_when_they_are_needed_and_from_checkpoints() {
    let mut were_away = 0;
    for seed in 1..=u64::from(cases(300)) {
        let mut dice = Dice(seed.wrapping_mul(0xA076_1D64_78BD_642F));
        let ((kind, bound, _), all) = (definition(&mut dice), steps(&mut dice));
        let mut whole = Bench::new(join(kind, bound.clone()));
        all.iter().for_each(|one| step(&mut whole, one, usize::MAX));
        whole.end();
        let (mut bench, mut checkpoints) = (Bench::new(join(kind, bound.clone())), Checkpoints::default());
        let mut told = Vec::new();
        // None for some attempts: then what was away is in memory again.
        let mut spill = None;
        for one in &all {
            if dice.below(4) == 0 {
                let budget = [0, 0, 2_000][dice.below(3) as usize];
                let tables = Arc::new(MemoryTables::default());
                spill = (dice.below(3) > 0).then(|| Arc::new(Spill::new(tables, KeyGroup::DEFAULT_COUNT, budget)));
                told.extend(given(&mut bench));
                let operator = join(kind, bound.clone());
                bench = checkpoints.restarted(bench, operator, dice.below(4) == 0, spill.as_ref());
            }
            step(&mut bench, one, 1 + dice.below(8) as usize);
            if let Some(spill) = &spill {
                assert_eq!(bench.fit(spill), [""; 0], "all of it can be away");
                were_away += spill.away();
                assert!(spill.budget() > 0 || spill.held() == 0, "seed {seed}: {spill:?}");
            }
        }
        bench.end();
        told.extend(given(&mut bench));
        assert_eq!(told, given(&mut whole), "seed {seed}: {kind} {bound} of {all:?}");
    }
    assert!(were_away > 1_000, "{were_away}");
}

#[test]
fn of_many_keys_that_are_due_at_once_few_come_back_at_a_time() {
    let make = || join(JoinKind::Left, Bound::windows(tumbling(span(1_000))));
    let row = |key: i64| Row { key: Some(key * 7_919 % 9_000), ..left(key % 1_000, key) };
    let rows: Vec<Row> = (0..9_000).map(row).collect();
    let tables = Arc::new(MemoryTables::default());
    let spill = Arc::new(Spill::new(tables, KeyGroup::DEFAULT_COUNT, 1_000_000));
    let (mut bench, mut whole) = (Bench::new(make()), Bench::new(make()));
    bench.fit(&spill);
    for rows in rows.chunks(1_000) {
        bench.batch(batch(rows));
        whole.batch(batch(rows));
    }
    let away = spill.away();
    assert!(away > 3_000 && away < 9_000, "{away} keys are away");
    bench.watermark(at(1_000));
    whole.watermark(at(1_000));
    assert_eq!((bench.operator().keys.len(), spill.away()), (0, 0));
    assert_eq!(given(&mut bench), given(&mut whole), "in the order of keys");
}

#[test]
fn how_near_rows_have_to_be_may_change_while_keys_are_away() {
    let spill = || Arc::new(Spill::new(Arc::new(MemoryTables::default()), KeyGroup::DEFAULT_COUNT, 0));
    let windows = |size: i64| Bound::windows(tumbling(span(size)));
    let within = |micros: i64| Bound::within(span(micros), span(micros));
    for (before, after) in [(windows(10), windows(5)), (windows(5), windows(20)), (within(3), within(9))] {
        let given_after = |is_away: bool| {
            let mut bench = Bench::new(join(JoinKind::Left, before.clone()));
            bench.batch(batch(&[left(3, 1), left(7, 2), left(12, 3)]));
            bench.batch(batch(&[right(6, 4), right(13, 5)]));
            bench.watermark(at(4));
            if is_away {
                bench.fit(&spill());
                assert_eq!(bench.operator().keys.len(), 0);
            }
            let (mut checkpoints, place) = (Checkpoints::default(), is_away.then(spill));
            let operator = join(JoinKind::Left, after.clone());
            let mut bench = checkpoints.restarted(bench, operator, true, place.as_ref());
            bench.batch(batch(&[left(16, 6)]));
            bench.watermark(at(15));
            bench.end();
            given(&mut bench)
        };
        assert_eq!(given_after(true), given_after(false), "{before} and then {after}");
    }
}
