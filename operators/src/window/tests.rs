//! Windows against the definition, computed in one piece over all rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::aggregate::{collect, count, sum, top_rows};
use crate::testkit::{Bench, Step, cases, steps_do_not_matter, steps_in_one_piece};
use crate::{Operator, Rejected, Timestamp};

pub(super) type Row = (u8, i64);

pub(super) fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

pub(super) fn span(micros: i64) -> Duration {
    Duration::from_micros(micros.unsigned_abs())
}

pub(super) fn key() -> KeyOf<Row, u8> {
    Arc::new(|row| row.0)
}

fn sums(windows: TimeWindows) -> impl Operator<In = Vec<Row>, Out = Vec<Windowed<u8, i64>>> {
    TimeWindowed::new(windows, key(), Arc::new(sum(|row: &Row| row.1)))
}

pub(super) fn short<V: Copy>(results: &[Windowed<u8, V>]) -> Vec<(u8, i64, i64, V)> {
    results.iter().map(|w| (w.key, w.start.as_micros(), w.end.as_micros(), w.value)).collect()
}

/// A bench that gets rows of one key at the times that they hold.
pub(super) fn give<O: Operator<In = Vec<Row>>>(bench: &mut Bench<O>, times: &[i64]) {
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
fn early_results_come_behind_each_batch_that_changes_them() {
    let mut bench = Bench::new(sums(tumbling(span(10)).emit(Emit::OnChange)));
    give(&mut bench, &[3, 7]);
    assert_eq!(short(&bench.take()), [(1, 0, 10, 10)]);
    give(&mut bench, &[8, 12]);
    assert_eq!(short(&bench.take()), [(1, 0, 10, 18), (1, 10, 20, 12)]);
    bench.watermark(at(10));
    assert_eq!(bench.take().iter().map(|w| (w.firing, w.value)).collect::<Vec<_>>(), [(Firing::OnTime, 18)]);
}

#[test]
fn early_results_come_as_event_time_passes() {
    let every = || sums(tumbling(span(10)).emit(Emit::Every(span(4))));
    let mut bench = Bench::new(every());
    give(&mut bench, &[3, 7]);
    assert_eq!(short(&bench.take()), []);
    bench.watermark(at(5));
    assert_eq!(short(&bench.take()), [(1, 0, 10, 10)]);
    bench.watermark(at(8));
    assert_eq!(short(&bench.take()), [], "nothing has changed");
    give(&mut bench, &[8, 14]);
    bench.watermark(at(9));
    assert_eq!(short(&bench.take()), [], "no multiple of 4 is between 8 and 9");
    let mut bench = Bench::restored(every(), &bench.save());
    bench.watermark(at(12));
    assert_eq!(short(&bench.take()), [(1, 0, 10, 18), (1, 10, 20, 14)]);
    bench.end();
    assert_eq!(short(&bench.take()), [(1, 10, 20, 14)]);
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
    let mut bench = Bench::new(CountWindowed::new(count_windows(2), key(), Arc::new(sum(|row: &Row| row.1))));
    give(&mut bench, &[1, 2, 3]);
    bench.end();
    assert_eq!(short(&bench.take()), [(1, 1, 3, 3), (1, 3, 4, 3)]);
    let mut bench = Bench::new(GlobalWindowed::new(global().every(2), key(), Arc::new(sum(|row: &Row| row.1))));
    give(&mut bench, &[1, 2, 3]);
    bench.end();
    assert_eq!(short(&bench.take()), [(1, 1, 3, 3), (1, 1, 4, 6)]);
}

#[test]
fn a_count_window_is_not_given_behind_the_watermark() {
    let mut bench = Bench::new(CountWindowed::new(count_windows(2), key(), Arc::new(count())));
    give(&mut bench, &[3]);
    bench.watermark(at(50));
    give(&mut bench, &[5, 6]);
    bench.end();
    let times: Vec<_> = bench.take_batches().iter().flat_map(|batch| batch.times().to_vec()).collect();
    assert_eq!(times, [at(50), at(50)]);
}

#[test]
fn windows_as_long_as_time_give_early_results_and_end() {
    let mut bench = Bench::new(sums(tumbling(Duration::from_secs(200_000_000 * 86_400)).emit(Emit::OnChange)));
    give(&mut bench, &[3, i64::MAX]);
    assert_eq!((bench.take().len(), bench.take_side::<Rejected<Row>>(1).len()), (1, 1));
    bench.end();
    assert_eq!(bench.take().len(), 1);
}

#[test]
fn many_sessions_of_one_key_end_one_after_the_other() {
    let mut bench = Bench::new(SessionWindowed::new(session(span(2)), key(), Arc::new(count())));
    let times: Vec<i64> = (0..20_000).map(|n| n * 3).collect();
    give(&mut bench, &times);
    bench.watermark(at(30_000));
    assert_eq!(bench.take().len(), 10_000);
    bench.end();
    assert_eq!(bench.take().len(), 10_000);
}

#[test]
fn the_global_window_tells_what_it_has_so_far_and_all_at_the_end() {
    let totals = |emit| GlobalWindowed::new(global().emit(emit), key(), Arc::new(sum(|row: &Row| row.1)));
    let values = |bench: &mut Bench<GlobalWindowed<_, _, _>>| -> Vec<(i64, i64)> {
        let batches = bench.take_batches();
        let rows = batches.iter().flat_map(|batch| batch.times().iter().zip(batch.rows()));
        rows.map(|(time, w)| (time.as_micros(), w.value)).collect()
    };
    let mut bench = Bench::new(totals(Emit::OnChange));
    give(&mut bench, &[1, 2]);
    bench.watermark(at(5));
    give(&mut bench, &[4]);
    assert_eq!(values(&mut bench), [(2, 3), (5, 7)], "no result is late");
    bench.watermark(Timestamp::MAX);
    assert_eq!(values(&mut bench), [(5, 7)]);
    let mut bench = Bench::new(totals(Emit::Every(span(4))));
    give(&mut bench, &[1, 2]);
    bench.watermark(at(5));
    assert_eq!(values(&mut bench), [(3, 3)]);
    give(&mut bench, &[6]);
    bench.watermark(at(7));
    let mut bench = Bench::restored(totals(Emit::Every(span(4))), &bench.save());
    assert_eq!(values(&mut bench), []);
    bench.watermark(at(8));
    assert_eq!(values(&mut bench), [(7, 9)]);
    bench.end();
    assert_eq!(values(&mut bench), [(8, 9)]);
}

#[test]
fn sessions_tell_how_they_grow() {
    let mut bench = Bench::new(SessionWindowed::new(session(span(10)).emit(Emit::OnChange), key(), Arc::new(count())));
    give(&mut bench, &[0, 5, 30]);
    assert_eq!(short(&bench.take()), [(1, 0, 15, 2), (1, 30, 40, 1)]);
    give(&mut bench, &[12, 21]);
    assert_eq!(short(&bench.take()), [(1, 0, 40, 5)], "two have become one");
    bench.end();
    assert_eq!(short(&bench.take()), [(1, 0, 40, 5)]);
}

/// Rows that are out of order by less than `late`, with watermarks that follow.
pub(super) fn timeline(late: i64) -> impl Strategy<Value = Vec<Step<Row>>> {
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

pub(super) fn rows(steps: &[Step<Row>]) -> Vec<(i64, Row)> {
    let row = |step: &Step<Row>| match step {
        Step::Row(time, row) => Some((time.as_micros(), *row)),
        Step::Watermark(_) => None,
    };
    steps.iter().filter_map(row).collect()
}

/// What an operator gives of steps; for some of them also in any pieces, with restarts anywhere.
pub(super) fn given<U, O>(make: impl Fn() -> O, steps: &[Step<Row>], sample: u8) -> Vec<U>
where
    U: Clone + PartialEq + std::fmt::Debug + Send + 'static,
    O: Operator<In = Vec<Row>, Out = Vec<U>>,
{
    if sample == 0 { steps_do_not_matter(make, steps) } else { steps_in_one_piece(make, steps) }
}

/// What an operator gives of steps, each with its time, and the numbers of the rows that are late; for some of them it is
/// seen to be the same in any pieces.
pub(super) fn told<U, O>(make: impl Fn() -> O, steps: &[Step<Row>], sample: u8) -> (Vec<(i64, U)>, Vec<i64>)
where
    U: Clone + PartialEq + std::fmt::Debug + Send + 'static,
    O: Operator<In = Vec<Row>, Out = Vec<U>>,
{
    if sample == 0 {
        steps_do_not_matter(&make, steps);
    }
    let (mut bench, mut rows) = (Bench::new(make()), Vec::new());
    for step in steps.iter().cloned().chain([Step::Watermark(Timestamp::MAX)]) {
        match step {
            Step::Row(time, row) => rows.push((time, row)),
            Step::Watermark(now) => {
                if !rows.is_empty() {
                    bench.batch(rows.drain(..).collect());
                }
                bench.watermark(now);
            }
        }
    }
    let rows = bench.take_batches().into_iter().flatten().map(|(time, row)| (time.as_micros(), row)).collect();
    (rows, bench.take_side::<Rejected<Row>>(1).into_iter().map(|late| late.row.1).collect())
}

/// What decides whether an input is tried in pieces, too.
pub(super) fn sample() -> std::ops::Range<u8> {
    0..100
}

/// Sums of time windows with early results, one step after the other.
fn early_by_definition(steps: &[Step<Row>], (size, every): (i64, i64), due: i64) -> Vec<(u8, i64, i64, i64)> {
    let ends = |time| (-50..250).map(move |k| k * every + size).filter(move |end| end - size <= time && time < *end);
    let (mut sums, mut changed) = (BTreeMap::<(i64, u8), i64>::new(), BTreeSet::new());
    let (mut now, mut results) = (i64::MIN, Vec::new());
    for step in steps.iter().cloned().chain([Step::Watermark(at(i64::MAX))]) {
        match step {
            Step::Row(time, (key, number)) => {
                for end in ends(time.as_micros()) {
                    *sums.entry((end, key)).or_default() += number;
                    changed.insert((end, key));
                }
            }
            Step::Watermark(time) => {
                let time = time.as_micros();
                let open = sums.split_off(&(time.saturating_add(1), 0));
                results.extend(std::mem::replace(&mut sums, open));
                changed.retain(|(end, _)| *end > time);
                if time.div_euclid(due) * due > now && time != i64::MAX {
                    results.extend(std::mem::take(&mut changed).into_iter().map(|window| (window, sums[&window])));
                }
                now = now.max(time);
            }
        }
    }
    results.into_iter().map(|((end, key), sum)| (key, end - size, end, sum)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(1_000)))]

    #[test]
    fn early_results_are_those_of_the_definition(
        steps in timeline(20), size in 1i64..40, every in 1i64..40, due in 1i64..30, sample in sample(),
    ) {
        let windows = sliding(span(size), span(every)).emit(Emit::Every(span(due)));
        let given = given(|| sums(windows), &steps, sample);
        prop_assert_eq!(short(&given), early_by_definition(&steps, (size, every), due));
    }

    #[test]
    fn whatever_comes_early_the_last_result_is_the_same(
        steps in timeline(20), size in 1i64..30, due in 1i64..30, n in 0usize..3, sample in sample(),
    ) {
        let emit = [Emit::OnChange, Emit::Every(span(due)), Emit::OnClose][n];
        // What comes on change depends on how rows come in batches.
        let sample = if emit == Emit::OnChange { 1 } else { sample };
        let counts = |emit| SessionWindowed::new(session(span(size)).emit(emit), key(), Arc::new(count()));
        let last = given(|| counts(emit), &steps, sample).into_iter().filter(|w| w.firing == Firing::OnTime);
        prop_assert_eq!(last.collect::<Vec<_>>(), steps_in_one_piece(|| counts(Emit::OnClose), &steps));
        let totals = || GlobalWindowed::new(global().emit(emit), key(), Arc::new(collect(|row: &Row| row.1)));
        let (mut last, mut total) = (BTreeMap::new(), BTreeMap::<u8, Vec<i64>>::new());
        given(totals, &steps, sample).into_iter().for_each(|w| drop(last.insert(w.key, w.value)));
        rows(&steps).into_iter().for_each(|(_, (key, number))| total.entry(key).or_default().push(number));
        prop_assert_eq!(last, total);
    }

    #[test]
    fn the_best_rows_of_windows_are_those_of_the_definition(
        steps in timeline(20), size in 1i64..40, every in 1i64..40, n in 1usize..4, ties in any::<bool>(),
        sample in sample(),
    ) {
        let by = |row: &Row| row.1 % 5;
        let top = || if ties { top_rows(n, by).ties() } else { top_rows(n, by) };
        let all: KeyOf<Row, ()> = Arc::new(|_| ());
        let make = || TimeWindowed::new(sliding(span(size), span(every)), Arc::clone(&all), Arc::new(top()));
        let given: Vec<_> = given(make, &steps, sample).into_iter().map(|w| (w.end.as_micros(), w.value)).collect();
        let mut windows: BTreeMap<i64, Vec<(i64, Row)>> = BTreeMap::new();
        for (time, row) in rows(&steps) {
            for start in (-50..250).map(|k| k * every).filter(|start| *start <= time && time < start + size) {
                windows.entry(start + size).or_default().push((time, row));
            }
        }
        let best = |mut rows: Vec<(i64, Row)>| -> Vec<Row> {
            rows.sort_by_key(|(time, (_, number))| (-(number % 5), *time));
            let last = rows.get(n - 1).map_or(0, |(_, (_, number))| number % 5);
            let fits = |(at, (_, (_, number))): &(usize, (i64, Row))| *at < n || ties && number % 5 >= last;
            rows.into_iter().enumerate().filter(fits).map(|(_, (_, row))| row).collect()
        };
        let expected: Vec<_> = windows.into_iter().map(|(end, rows)| (end, best(rows))).collect();
        prop_assert_eq!(given, expected);
    }

    #[test]
    fn time_windows_give_what_the_definition_gives(
        steps in timeline(20), size in 1i64..40, every in 1i64..40, sample in sample(),
    ) {
        let windows = sliding(span(size), span(every));
        let given = given(|| sums(windows), &steps, sample);
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
    fn sessions_give_what_the_definition_gives(steps in timeline(20), gap in 1i64..30, sample in sample()) {
        let make = || SessionWindowed::new(session(span(gap)), key(), Arc::new(count()));
        let given = given(make, &steps, sample);
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
    fn what_is_late_is_refused_or_changes_the_result(
        steps in timeline(40), size in 1i64..30, allowed in 0i64..20, sample in sample(),
    ) {
        // Watermarks here run ahead of some rows.
        let ahead = |step: &Step<Row>| match step {
            Step::Watermark(time) => Step::Watermark(at(time.as_micros() + 35)),
            row => row.clone(),
        };
        let steps: Vec<_> = steps.iter().map(ahead).collect();
        let windows = tumbling(span(size)).allowed_lateness(span(allowed));
        let make = || TimeWindowed::new(windows, key(), Arc::new(collect(|row: &Row| row.1)));
        let given = given(make, &steps, sample);
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

#[test]
fn state_that_something_else_has_kept_is_refused() {
    fn refused<O: Operator<In = Vec<Row>>>(before: &crate::Saved, mut after: O, words: &str) {
        let fault = after.state(&mut crate::StateVisitor::restore(before)).unwrap_err();
        assert!(fault.to_string().contains(words) && fault.to_string().contains("new pipeline name"), "{fault}");
    }
    let (number, window) = (|row: &Row| row.1, || session(span(10)));
    let mut bench = Bench::new(SessionWindowed::new(window(), key(), Arc::new((count(), sum(number)))));
    give(&mut bench, &[3, 7]);
    // Both are two numbers.
    let swapped = SessionWindowed::new(window(), key(), Arc::new((sum(number), count())));
    refused(&bench.save(), swapped, "`session: (Count, Sum)`, and the pipeline says `session: (Sum, Count)`");
    refused(
        &bench.save(),
        SessionWindowed::new(until(|row: &Row| at(row.1)), key(), Arc::new(count())),
        "until a time",
    );
    let mut longer = SessionWindowed::new(session(span(20)), key(), Arc::new((count(), sum(number))));
    assert!(longer.state(&mut crate::StateVisitor::restore(&bench.save())).is_ok());
    let mut bench = Bench::new(TimeWindowed::new(tumbling(span(10)), key(), Arc::new(count())));
    give(&mut bench, &[3, 7]);
    refused(&bench.save(), sums(tumbling(span(10))), "Count`, and the pipeline says `tumbling 10µs: Sum`");
}
