//! Windows against the definition, computed in one piece over all rows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::aggregate::{collect, count, sum};
use crate::testkit::{Bench, Step, steps_do_not_matter};
use crate::{Operator, Rejected, Timestamp};

type Row = (u8, i64);

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

fn span(micros: i64) -> Duration {
    Duration::from_micros(micros.unsigned_abs())
}

fn key() -> KeyOf<Row, u8> {
    Arc::new(|row| row.0)
}

fn sums(windows: TimeWindows) -> impl Operator<In = Vec<Row>, Out = Vec<Windowed<u8, i64>>> {
    TimeWindowed::new(windows, key(), Arc::new(sum(|row: &Row| row.1)))
}

fn short<V: Copy>(results: &[Windowed<u8, V>]) -> Vec<(u8, i64, i64, V)> {
    results.iter().map(|w| (w.key, w.start.as_micros(), w.end.as_micros(), w.value)).collect()
}

/// A bench that gets rows of one key at the times that they hold.
fn give<O: Operator<In = Vec<Row>>>(bench: &mut Bench<O>, times: &[i64]) {
    bench.batch(times.iter().map(|time| (at(*time), (1, *time))).collect());
}

#[test]
fn a_window_gives_its_results_when_the_watermark_reaches_its_end() {
    let mut bench = Bench::new(sums(tumbling(span(10))));
    give(&mut bench, &[3, 7, 12]);
    bench.watermark(at(9));
    assert_eq!(short(&bench.take()), []);
    bench.watermark(at(10));
    assert_eq!(short(&bench.take()), [(1, 0, 10, 10)]);
    give(&mut bench, &[8, 25]);
    bench.end();
    assert_eq!(short(&bench.take()), [(1, 10, 20, 12), (1, 20, 30, 25)]);
    let late = bench.take_side::<Rejected<Row>>(1);
    assert_eq!(late.iter().map(|late| late.row.1).collect::<Vec<_>>(), [8]);
}

#[test]
fn results_have_the_last_time_of_their_window() {
    let mut bench = Bench::new(sums(tumbling(span(10))));
    give(&mut bench, &[3]);
    bench.end();
    assert_eq!(bench.take_batches()[0].times(), [at(9)]);
}

#[test]
fn a_row_within_the_allowed_lateness_gives_the_result_again() {
    let mut bench = Bench::new(sums(tumbling(span(10)).allowed_lateness(span(5))));
    give(&mut bench, &[3]);
    bench.watermark(at(10));
    give(&mut bench, &[7]);
    let results = bench.take();
    assert_eq!(short(&results), [(1, 0, 10, 3), (1, 0, 10, 10)]);
    assert_eq!(results.iter().map(|w| w.firing).collect::<Vec<_>>(), [Firing::OnTime, Firing::Late]);
    bench.watermark(at(15));
    give(&mut bench, &[8]);
    assert_eq!((bench.take().len(), bench.take_side::<Rejected<Row>>(1).len()), (0, 1));
}

#[test]
fn early_results_come_with_each_row_or_now_and_then() {
    let mut bench = Bench::new(sums(tumbling(span(10)).emit(EmitWindows::OnUpdate)));
    give(&mut bench, &[3, 4]);
    assert_eq!(short(&bench.take()), [(1, 0, 10, 3), (1, 0, 10, 7)]);
    let second = Duration::from_secs(1);
    let mut bench = Bench::new(sums(tumbling(span(10)).emit(EmitWindows::Every(second))));
    give(&mut bench, &[3, 4]);
    assert_eq!(short(&bench.take()), []);
    bench.advance(second);
    assert_eq!(short(&bench.take()), [(1, 0, 10, 7)]);
    bench.advance(second);
    assert_eq!(short(&bench.take()), [], "nothing has changed");
    bench.end();
    assert_eq!(short(&bench.take()), [(1, 0, 10, 7)]);
}

#[test]
fn a_flood_of_results_waits_for_room() {
    let mut bench = Bench::new(sums(tumbling(span(10))));
    bench.batch((0..250u8).map(|key| (at(1), (key, 1))).collect());
    bench.room_for(0);
    let before = bench.turns();
    bench.end();
    assert_eq!((bench.take().len(), bench.turns() - before > 200), (250, true));
}

#[test]
fn sessions_grow_join_and_end() {
    let session = || SessionWindowed::new(session(span(10)), key(), Arc::new(count()));
    let mut bench = Bench::new(session());
    give(&mut bench, &[0, 5, 30]);
    bench.watermark(at(14));
    assert_eq!(short(&bench.take()), []);
    bench.watermark(at(15));
    assert_eq!(short(&bench.take()), [(1, 0, 15, 2)]);
    give(&mut bench, &[45, 38]);
    bench.watermark(at(100));
    assert_eq!(short(&bench.take()), [(1, 30, 55, 3)]);
    // A row exactly the gap behind another begins a session of its own.
    give(&mut bench, &[200, 210]);
    bench.end();
    assert_eq!(short(&bench.take()), [(1, 200, 210, 1), (1, 210, 220, 1)]);
}

#[test]
fn count_windows_begin_anew_and_the_global_one_does_not() {
    let counted = |windows| CountWindowed::new(windows, key(), Arc::new(sum(|row: &Row| row.1)));
    let mut bench = Bench::new(counted(count_windows(2)));
    give(&mut bench, &[1, 2, 3]);
    bench.end();
    assert_eq!(short(&bench.take()), [(1, 1, 3, 3), (1, 3, 4, 3)]);
    let mut bench = Bench::new(counted(global().every(2)));
    give(&mut bench, &[1, 2, 3]);
    bench.end();
    assert_eq!(short(&bench.take()), [(1, 1, 3, 3), (1, 1, 4, 6)]);
}

/// Rows that are out of order by less than `late`, with watermarks that follow.
fn timeline(late: i64) -> impl Strategy<Value = Vec<Step<Row>>> {
    let row = (0u8..4, 0i64..200, 0i64..100);
    prop::collection::vec(row, 1..120).prop_map(move |mut rows| {
        rows.sort_by_key(|(_, time, jitter)| time + jitter % late.max(1));
        let mut highest = i64::MIN;
        let step = |(number, (key, time, jitter)): (usize, (u8, i64, i64))| {
            highest = highest.max(time);
            let row = Step::Row(at(time), (key, i64::try_from(number).unwrap()));
            let watermark = (jitter % 3 == 0).then(|| Step::Watermark(at(highest - late)));
            std::iter::once(row).chain(watermark).collect::<Vec<_>>()
        };
        rows.into_iter().enumerate().flat_map(step).collect()
    })
}

fn rows(steps: &[Step<Row>]) -> Vec<(i64, Row)> {
    let row = |step: &Step<Row>| match step {
        Step::Row(time, row) => Some((time.as_micros(), *row)),
        Step::Watermark(_) => None,
    };
    steps.iter().filter_map(row).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn time_windows_give_what_the_definition_gives(steps in timeline(20), size in 1i64..40, every in 1i64..40) {
        let windows = sliding(span(size), span(every));
        let given = steps_do_not_matter(|| sums(windows), &steps);
        let mut expected: BTreeMap<(i64, u8), i64> = BTreeMap::new();
        for (time, (key, number)) in rows(&steps) {
            for start in (-50..250).map(|k| k * every).filter(|start| *start <= time && time < start + size) {
                *expected.entry((start + size, key)).or_default() += number;
            }
        }
        let expected: Vec<_> = expected.into_iter().map(|((end, key), sum)| (key, end - size, end, sum)).collect();
        prop_assert_eq!(short(&given), expected);
    }

    #[test]
    fn sessions_give_what_the_definition_gives(steps in timeline(20), gap in 1i64..30) {
        let make = || SessionWindowed::new(session(span(gap)), key(), Arc::new(count()));
        let given = steps_do_not_matter(make, &steps);
        let mut times: BTreeMap<u8, Vec<i64>> = BTreeMap::new();
        rows(&steps).into_iter().for_each(|(time, (key, _))| times.entry(key).or_default().push(time));
        let mut expected = Vec::new();
        for (key, mut times) in times {
            times.sort_unstable();
            for session in times.chunk_by(|a, b| b - a < gap) {
                expected.push((key, session[0], session[session.len() - 1] + gap, session.len() as u64));
            }
        }
        expected.sort_unstable_by_key(|(key, _, end, _)| (*end, *key));
        prop_assert_eq!(short(&given), expected);
    }

    #[test]
    fn what_is_late_is_refused_or_changes_the_result(steps in timeline(40), size in 1i64..30, allowed in 0i64..20) {
        // Watermarks here run ahead of some rows.
        let ahead = |step: &Step<Row>| match step {
            Step::Watermark(time) => Step::Watermark(at(time.as_micros() + 35)),
            row => row.clone(),
        };
        let steps: Vec<_> = steps.iter().map(ahead).collect();
        let windows = tumbling(span(size)).allowed_lateness(span(allowed));
        let make = || TimeWindowed::new(windows, key(), Arc::new(collect(|row: &Row| row.1)));
        let given = steps_do_not_matter(make, &steps);
        let mut last: BTreeMap<(i64, u8), Vec<i64>> = BTreeMap::new();
        given.iter().for_each(|w| drop(last.insert((w.end.as_micros(), w.key), w.value.clone())));
        // The definition, one row after the other.
        let (mut now, mut expected) = (i64::MIN, BTreeMap::<(i64, u8), Vec<i64>>::new());
        for step in &steps {
            match step {
                Step::Watermark(time) => now = now.max(time.as_micros()),
                Step::Row(time, (key, number)) => {
                    let end = time.as_micros().div_euclid(size) * size + size;
                    if end + allowed > now {
                        expected.entry((end, *key)).or_default().push(*number);
                    }
                }
            }
        }
        prop_assert_eq!(last, expected);
    }
}
