//! Joins of columns: timelines, and many inputs against the definition, computed by nested loops over all rows.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Int64Type, SchemaRef, TimestampMicrosecondType};
use bytes::Bytes;

use super::oracle::{Definition, Dice, Given, Row, definition, expected, span};
use super::*;
use crate::columnar::steps::{self, steps_do_not_matter};
use crate::testkit::{Bench, cases};
use crate::window::tumbling;
use crate::{Batch, Either, KeyGroup, Operator, Rejected, Saved, StateVisitor, Timestamp, Watermark};

pub(super) fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

pub(super) fn left(time: i64, number: i64) -> Row {
    Row { is_left: true, key: Some(1), time, number, until: Some(time + 5) }
}

pub(super) fn right(time: i64, number: i64) -> Row {
    Row { is_left: false, ..left(time, number) }
}

/// Rows of one side.
pub(super) fn batch(rows: &[Row]) -> Batch<Either<RecordBatch, RecordBatch>> {
    let keys: Int64Array = rows.iter().map(|row| row.key).collect();
    let numbers = Int64Array::from_iter_values(rows.iter().map(|row| row.number));
    let until: TimestampMicrosecondArray = rows.iter().map(|row| row.until).collect();
    let is_left = rows.first().is_none_or(|row| row.is_left);
    let columns = [
        (if is_left { "key" } else { "id" }, Arc::new(keys) as _, true),
        (if is_left { "l" } else { "r" }, Arc::new(numbers) as _, false),
        ("until", Arc::new(until.with_timezone("UTC")) as _, true),
    ];
    // The right has no column of that name.
    let columns = columns.into_iter().take(if is_left { 3 } else { 2 });
    let rows_of = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let times = rows.iter().map(|row| at(row.time)).collect();
    Batch::new(times, if is_left { Either::Left(rows_of) } else { Either::Right(rows_of) }).unwrap()
}

fn schemas() -> [SchemaRef; 2] {
    [left(0, 0), right(0, 0)].map(|row| match batch(&[row]).into_parts().rows {
        Either::Left(rows) | Either::Right(rows) => rows.schema(),
    })
}

fn plan(kind: JoinKind, bound: Bound) -> Result<JoinPlan, JoinMistakes> {
    let [left, right] = schemas();
    JoinPlan::new((&left, &right), &[("key".to_owned(), "id".to_owned())], kind, "", bound)
}

pub(super) fn join(kind: JoinKind, bound: Bound) -> Join {
    Join::new(plan(kind, bound).unwrap()).unwrap()
}

pub(super) fn given(bench: &mut Bench<Join>) -> Vec<Given> {
    let mut all = Vec::new();
    for batch in bench.take_batches() {
        let rows = batch.rows();
        let int = |name: &str, row: usize| {
            let column = rows.column_by_name(name)?.as_primitive::<Int64Type>();
            (!column.is_null(row)).then(|| column.value(row))
        };
        let time = |name: &str, row: usize| {
            Some(rows.column_by_name(name)?.as_primitive::<TimestampMicrosecondType>().value(row))
        };
        for (row, at) in batch.times().iter().enumerate() {
            let window = time("window_start", row).zip(time("window_end", row));
            let numbers = ["l", "r"].map(|name| int(name, row).unwrap_or_default());
            all.push((at.as_micros(), int("key", row), numbers[0], numbers[1], window));
        }
    }
    all
}

/// The times and numbers of what was given.
fn numbers(bench: &mut Bench<Join>) -> Vec<(i64, i64, i64)> {
    given(bench).into_iter().map(|(time, _, left, right, _)| (time, left, right)).collect()
}

#[test]
fn rows_near_each_other_are_paired_whichever_comes_first() {
    let mut bench = Bench::new(join(JoinKind::Full, Bound::within(span(1), span(2))));
    bench.batch(batch(&[right(9, 1)]));
    bench.batch(batch(&[left(10, 2)]));
    bench.batch(batch(&[right(12, 3), right(13, 4)]));
    assert_eq!(numbers(&mut bench), [(10, 2, 1), (12, 2, 3)]);
    bench.watermark(at(14));
    assert_eq!(numbers(&mut bench), []);
    bench.watermark(at(15));
    assert_eq!(numbers(&mut bench), [(14, 0, 4)], "from 15 on no row of the left can be near 13");
    bench.batch(batch(&[left(14, 5)]));
    let late = bench.take_side::<Rejected<Bytes>>(1);
    assert_eq!(late[0].row, r#"{"key":1,"l":5,"until":"1970-01-01T00:00:00.000019Z"}"#);
    assert!(late[0].cause.to_string().contains("is late: 1µs behind"), "{}", late[0].cause);
}

#[test]
fn a_row_waits_until_the_time_that_stands_in_it() {
    let mut bench = Bench::new(join(JoinKind::Left, Bound::until(span(0), "until")));
    let never = Row { until: None, ..left(10, 3) };
    bench.batch(batch(&[left(10, 1), Row { until: Some(30), ..left(10, 2) }, never]));
    bench.batch(batch(&[right(9, 4), right(15, 5), right(16, 6)]));
    assert_eq!(numbers(&mut bench), [(15, 1, 5), (15, 2, 5), (16, 2, 6)]);
    bench.watermark(at(11));
    assert_eq!(numbers(&mut bench), [(10, 3, 0)], "nothing belongs to a row without a time until which");
}

#[test]
fn allowed_lateness_holds_the_watermark_back() {
    let mut bench = Bench::new(join(JoinKind::Inner, Bound::within(span(0), span(0)).allowed_lateness(span(10))));
    bench.batch(batch(&[left(5, 1)]));
    bench.watermark(at(12));
    assert_eq!(bench.take_watermarks(), [Watermark::At(at(2))]);
    bench.batch(batch(&[right(5, 2), right(1, 3)]));
    assert_eq!(numbers(&mut bench), [(5, 1, 2)]);
    assert_eq!(bench.take_side::<Rejected<Bytes>>(1).len(), 1);
}

#[test]
fn rows_of_a_window_are_given_when_it_closes() {
    let mut bench = Bench::new(join(JoinKind::Left, Bound::windows(tumbling(span(10)))));
    bench.batch(batch(&[left(3, 1), left(12, 2), left(4, 3)]));
    bench.batch(batch(&[right(7, 4), right(5, 5), right(20, 6)]));
    bench.watermark(at(9));
    assert_eq!(given(&mut bench), []);
    bench.watermark(at(10));
    let first = Some((0, 10));
    let pairs = [(1, 5), (1, 4), (3, 5), (3, 4)].map(|(left, right)| (9, Some(1), left, right, first));
    assert_eq!(given(&mut bench), pairs);
    bench.batch(batch(&[right(9, 7)]));
    assert_eq!(bench.take_side::<Rejected<Bytes>>(1).len(), 1);
    bench.end();
    assert_eq!(given(&mut bench), [(19, Some(1), 2, 0, Some((10, 20)))]);
}

#[test]
fn a_session_is_made_of_the_rows_of_both_sides() {
    let mut bench = Bench::new(join(JoinKind::Inner, Bound::sessions(span(5))));
    bench.batch(batch(&[left(0, 1), left(8, 2)]));
    bench.batch(batch(&[right(4, 3), right(20, 4)]));
    bench.watermark(at(12));
    assert_eq!(given(&mut bench), [], "the last row of the session was at 8");
    bench.watermark(at(13));
    let session = Some((0, 13));
    assert_eq!(given(&mut bench), [(12, Some(1), 1, 3, session), (12, Some(1), 2, 3, session)]);
}

#[test]
fn what_is_not_bounded_is_forgotten_when_event_time_is_far_past_it() {
    let mut bench = Bench::new(join(JoinKind::Inner, Bound::unbounded(span(10))));
    bench.batch(batch(&[left(0, 1)]));
    bench.watermark(at(9));
    bench.batch(batch(&[right(9, 2), right(3, 3)]));
    assert_eq!(
        numbers(&mut bench),
        [(9, 1, 2), (9, 1, 3)],
        "a row behind the watermark is not late, and its pair not behind"
    );
    bench.watermark(at(14));
    assert_eq!((bench.operator().stores.left.len(), bench.operator().stores.right.len()), (0, 1));
    bench.batch(batch(&[right(3, 4)]));
    assert_eq!(bench.take_side::<Rejected<Bytes>>(1).len(), 1);
}

#[test]
fn rows_get_the_version_that_was_valid_at_their_time() {
    let mut bench = Bench::new(join(JoinKind::Left, Bound::as_of()));
    bench.batch(batch(&[right(5, 1), right(9, 4)]));
    bench.batch(batch(&[left(7, 2), left(3, 3), left(9, 5), left(20, 6)]));
    assert_eq!(numbers(&mut bench), []);
    bench.watermark(at(10));
    assert_eq!(numbers(&mut bench), [(3, 3, 0), (7, 2, 1), (9, 5, 4)]);
    let mut bench = Bench::restored(join(JoinKind::Left, Bound::as_of()), &bench.save());
    bench.end();
    assert_eq!(numbers(&mut bench), [(20, 6, 4)]);
}

#[test]
fn a_version_that_is_valid_for_a_time_goes_with_its_key_when_that_is_over() {
    let make = || join(JoinKind::Left, Bound::as_of_within(span(10)));
    let mut bench = Bench::new(make());
    bench.batch(batch(&[right(5, 1)]));
    bench.batch(batch(&[left(15, 2), left(16, 3)]));
    bench.watermark(at(15));
    let mut bench = Bench::restored(make(), &bench.save());
    assert_eq!((numbers(&mut bench), bench.operator().stores.right.len()), (vec![], 1));
    bench.watermark(at(20));
    assert_eq!(numbers(&mut bench), [(15, 2, 1), (16, 3, 0)]);
    assert_eq!((bench.operator().stores.right.len(), bench.operator().keys.len()), (0, 0));
    // Behind the watermark, and valid still or not.
    bench.batch(batch(&[right(9, 4), right(11, 5)]));
    assert_eq!(bench.take_side::<Rejected<Bytes>>(1).len(), 1);
    bench.batch(batch(&[left(20, 6), left(22, 7)]));
    bench.end();
    assert_eq!(numbers(&mut bench), [(20, 6, 5), (22, 7, 0)]);
}

#[test]
fn a_version_that_comes_late_counts_for_the_rows_that_still_need_it() {
    let make = || join(JoinKind::Inner, Bound::as_of());
    let mut bench = Bench::new(make());
    bench.batch(batch(&[right(5, 1)]));
    bench.batch(batch(&[left(9, 2)]));
    bench.watermark(at(10));
    assert_eq!(numbers(&mut bench), [(9, 2, 1)]);
    bench.batch(batch(&[right(8, 3), right(4, 4)]));
    bench.batch(batch(&[left(9, 5), left(12, 6)]));
    assert_eq!(bench.take_side::<Rejected<Bytes>>(1).len(), 2, "one is older than the version at 8");
    let mut bench = Bench::restored(make(), &bench.save());
    bench.batch(batch(&[right(7, 7)]));
    assert_eq!(bench.take_side::<Rejected<Bytes>>(1).len(), 1);
    bench.watermark(at(11));
    assert_eq!(bench.operator().stores.right.len(), 1, "that at 5 is needed no more");
    bench.end();
    assert_eq!(numbers(&mut bench), [(12, 6, 3)], "what was given stays");
}

/// A row with a text of so many bytes and its number.
fn wide(number: i64, bytes: usize) -> RecordBatch {
    let text = StringArray::from(vec!["x".repeat(bytes)]);
    let (key, number) = (Int64Array::from(vec![1]), Int64Array::from(vec![number]));
    RecordBatch::try_from_iter([("id", Arc::new(key) as ArrayRef), ("n", Arc::new(number)), ("text", Arc::new(text))])
        .unwrap()
}

#[test]
fn results_of_wide_rows_come_in_batches_that_are_not_too_heavy() {
    const MEGABYTE: usize = 1 << 20;
    let (left, right) = (wide(0, 0).schema(), batch(&[right(0, 0)]).into_parts().rows);
    let Either::Right(right) = right else { unreachable!("they are of the right") };
    let same = [("id".to_owned(), "id".to_owned())];
    let bound = Bound::within(span(9), span(9));
    let plan = JoinPlan::new((&left, &right.schema()), &same, JoinKind::Inner, "", bound).unwrap();
    let mut bench = Bench::new(Join::new(plan).unwrap());
    bench.room_for(0);
    for number in 0..12 {
        bench.batch(Batch::new(vec![at(0)], Either::Left(wide(number, MEGABYTE))).unwrap());
    }
    assert!(bench.operator().stores.left.chunks().all(|(numbers, ..)| numbers.len() <= 8), "chunks are bounded, too");
    bench.batch(batch(&(0..5).map(|n| self::right(0, n)).collect::<Vec<_>>()));
    let sizes: Vec<usize> = bench.take_batches().iter().map(Batch::len).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 60);
    assert!(sizes.iter().all(|rows| (1..=8).contains(rows)), "{sizes:?}");
}

#[test]
fn many_pairs_are_given_piece_by_piece() {
    let mut bench = Bench::new(join(JoinKind::Inner, Bound::windows(tumbling(span(10)))));
    bench.room_for(0);
    let many = |row: fn(i64, i64) -> Row| (0..300).map(|n| row(n % 10, n)).collect::<Vec<_>>();
    bench.batch(batch(&many(left)));
    bench.batch(batch(&many(right)));
    bench.watermark(at(10));
    let batches = bench.take_batches();
    assert_eq!(batches.iter().map(Batch::len).sum::<usize>(), 90_000);
    assert!(batches.len() > 10 && batches.iter().all(|batch| batch.len() <= 8 * 1024));
}

#[test]
fn columns_of_the_key_are_there_for_rows_of_either_side() {
    let bound = || Bound::within(span(1), span(1));
    let words = |kind| crate::columnar::describe(plan(kind, bound()).unwrap().schema());
    assert_eq!(words(JoinKind::Inner), "key: int64, l: int64 not null, until: timestamp, r: int64 not null");
    assert_eq!(words(JoinKind::Left), "key: int64, l: int64 not null, until: timestamp, r: int64");
    assert_eq!(words(JoinKind::Right), "key: int64, l: int64, until: timestamp, r: int64 not null");
    assert_eq!(words(JoinKind::Semi), "key: int64, l: int64 not null, until: timestamp");
}

#[test]
fn everything_that_is_wrong_is_told() {
    let [left, right] = schemas();
    let on = [("kee", "id"), ("until", "r"), ("key", "idd")].map(|(l, r)| (l.to_owned(), r.to_owned()));
    let wrong = JoinPlan::new((&left, &right), &on, JoinKind::Full, "", Bound::until(span(0), "l")).unwrap_err();
    let settings: Vec<&str> = wrong.all.iter().map(|(setting, _)| setting.as_str()).collect();
    assert_eq!(settings, ["on", "on.key", "on.until", "within.until"]);
    let twice = JoinPlan::new((&left, &left), &on, JoinKind::Left, "", Bound::unbounded(span(1))).unwrap_err();
    let last = twice.all.iter().rev().take(2).map(|(setting, error)| format!("{setting}: {error}")).collect::<Vec<_>>();
    assert!(last[0].starts_with("prefix: both sides have columns called `key`, `l`, `until`"), "{last:?}");
    assert!(last[1].starts_with("kind: it cannot be `left`"), "{last:?}");
    assert!(twice.schema.is_none());
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Rows(Vec<Row>),
    Watermark(i64),
}

/// Rows of both sides, out of order by less than 20, with watermarks that follow.
pub(super) fn steps(dice: &mut Dice) -> Vec<Step> {
    let count = 1 + dice.below(40);
    let (keys, spread) = (1 + dice.below(4), 10 + dice.below(150));
    let mut rows: Vec<(i64, Row)> = (1..=count)
        .map(|number| {
            let time = dice.below(spread);
            let key = (dice.below(12) > 0).then(|| dice.below(keys));
            let until = (dice.below(12) > 0).then(|| time - 5 + dice.below(40));
            (time + dice.below(20), Row { is_left: true, key, time, number, until })
        })
        .collect();
    rows.sort_by_key(|(order, _)| *order);
    let (mut steps, mut highest) = (Vec::new(), i64::MIN);
    let mut rows = rows.into_iter().map(|(_, row)| row).peekable();
    while rows.peek().is_some() {
        let (is_left, size) = (dice.below(2) == 0, 1 + dice.below(6));
        let piece: Vec<Row> = rows.by_ref().take(size as usize).map(|row| Row { is_left, ..row }).collect();
        highest = piece.iter().map(|row| row.time).chain([highest]).max().unwrap();
        steps.push(Step::Rows(piece));
        if dice.below(3) == 0 {
            steps.push(Step::Watermark(highest - 20));
        }
    }
    steps
}

fn all_rows(steps: &[Step]) -> Vec<Row> {
    let rows = steps.iter().filter_map(|step| if let Step::Rows(rows) = step { Some(rows) } else { None });
    rows.flatten().copied().collect()
}

pub(super) fn step(bench: &mut Bench<Join>, step: &Step, size: usize) {
    match step {
        Step::Rows(rows) => rows.chunks(size).for_each(|rows| bench.batch(batch(rows))),
        Step::Watermark(now) => bench.watermark(at(*now)),
    }
}

#[test]
fn inputs_give_what_nested_loops_give() {
    for seed in 1..=u64::from(cases(1_000)) {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let ((kind, bound, definition), steps) = (definition(&mut dice), steps(&mut dice));
        let mut bench = Bench::new(join(kind, bound.clone()));
        steps.iter().for_each(|one| step(&mut bench, one, usize::MAX));
        bench.end();
        let (mut given, mut expected) = (given(&mut bench), expected(kind, &definition, &all_rows(&steps)));
        let held = bench.operator();
        if !matches!(definition, Definition::AsOf { ttl: i64::MAX }) {
            assert_eq!((held.stores.left.len(), held.stores.right.len(), held.keys.len()), (0, 0, 0), "seed {seed}");
        }
        given.sort_unstable();
        expected.sort_unstable();
        assert_eq!(given, expected, "seed {seed}: {kind} {bound} of {steps:?}");
    }
}

#[test]
fn it_does_not_matter_where_batches_are_cut_and_where_it_is_restarted() {
    for seed in 1..=u64::from(cases(400)) {
        let mut dice = Dice(seed.wrapping_mul(0x2545_F491_4F6C_DD1D));
        let ((kind, bound, _), all) = (definition(&mut dice), steps(&mut dice));
        // Watermarks that run ahead of some rows, which are late then.
        let ahead = dice.below(2) * dice.below(40);
        let come = |step: &Step| match step {
            Step::Rows(rows) => steps::Step::Rows(batch(rows)),
            Step::Watermark(now) => steps::Step::Watermark(now + ahead),
        };
        let all: Vec<_> = all.iter().map(come).collect();
        steps_do_not_matter(|| join(kind, bound.clone()), &all, seed);
    }
}

#[test]
fn another_number_of_subtasks_shares_the_rows_out() {
    for seed in 1..=300_u64 {
        let mut dice = Dice(seed.wrapping_mul(0xD134_2543_DE82_EF95));
        let ((kind, bound, definition), steps) = (definition(&mut dice), steps(&mut dice));
        let make = || join(kind, bound.clone());
        let (mut benches, mut of_all) = (vec![Bench::new(make())], Vec::new());
        for one in &steps {
            if dice.below(4) == 0 {
                let saved: Vec<Saved> = benches.iter_mut().map(Bench::save).collect();
                let of = 1 + dice.below(4) as u32;
                of_all.extend(benches.iter_mut().flat_map(given));
                let share = |index| Saved::share(&saved, KeyGroup::DEFAULT_COUNT, index, of).unwrap();
                benches = (0..of).map(|index| Bench::restored(make(), &share(index))).collect();
            }
            let count = benches.len() as u32;
            let owner =
                |row: &Row| KeyGroup::of(&row.key, KeyGroup::DEFAULT_COUNT).owner(KeyGroup::DEFAULT_COUNT, count);
            for (index, bench) in (0..).zip(&mut benches) {
                let mine = match one {
                    Step::Rows(rows) => Step::Rows(rows.iter().filter(|row| owner(row) == index).copied().collect()),
                    Step::Watermark(now) => Step::Watermark(*now),
                };
                step(bench, &mine, usize::MAX);
            }
        }
        benches.iter_mut().for_each(Bench::end);
        of_all.extend(benches.iter_mut().flat_map(given));
        let mut expected = expected(kind, &definition, &all_rows(&steps));
        of_all.sort_unstable();
        expected.sort_unstable();
        assert_eq!(of_all, expected, "seed {seed}: {kind} {bound} of {steps:?}");
    }
}

#[test]
fn a_snapshot_has_what_has_changed_since_the_last() {
    let mut bench = Bench::new(join(JoinKind::Inner, Bound::within(span(0), span(1_000_000))));
    let rows: Vec<Row> = (0..5_000).map(|n| Row { key: Some(n), ..left(n, n) }).collect();
    bench.batch(batch(&rows));
    let encoded = |operator: &mut Join, whole: bool| {
        let mut frozen = crate::Frozen::default();
        operator.state(&mut StateVisitor::freeze(&mut frozen)).unwrap();
        let (_, pieces) = frozen.into_parts();
        pieces.into_iter().map(|(_, piece)| piece.encode(128, whole).unwrap().weight()).sum::<usize>()
    };
    let mut operator = Bench::restored(join(JoinKind::Inner, Bound::within(span(0), span(1_000_000))), &bench.save());
    operator.batch(batch(&[Row { key: Some(9_999), ..left(5_000, 1) }]));
    let saved = operator.save();
    let mut operator = join(JoinKind::Inner, Bound::within(span(0), span(1_000_000)));
    operator.state(&mut StateVisitor::restore(&saved)).unwrap();
    let (changed, whole) = (encoded(&mut operator, false), encoded(&mut operator, true));
    assert!(changed == 0 && whole > 50_000, "{changed} of {whole} bytes");
}

#[test]
fn state_of_another_kind_of_join_is_refused_and_not_misread() {
    let bound = || Bound::within(span(5), span(5));
    let mut bench = Bench::new(join(JoinKind::Inner, bound()));
    bench.batch(batch(&[left(3, 1)]));
    bench.batch(batch(&[right(3, 2)]));
    let saved = bench.save();
    let restored = |kind, bound| join(kind, bound).state(&mut StateVisitor::restore(&saved));
    let fault = restored(JoinKind::Left, bound()).unwrap_err().to_string();
    assert!(fault.contains("was `inner within`, and it is `left within` now"), "{fault}");
    assert!(restored(JoinKind::Inner, Bound::unbounded(span(5))).is_err());
    assert!(restored(JoinKind::Inner, Bound::within(span(1), span(9))).is_ok(), "how near may change");
}

/// Very many rows of one key, each with a watermark behind it: to be timed from outside.
fn hot_key(bound: Bound) {
    const ROWS: i64 = 20_000;
    let mut bench = Bench::new(join(JoinKind::Left, bound));
    for time in 0..ROWS {
        bench.batch(batch(&[Row { until: Some(time + ROWS / 2), ..left(time, time) }]));
        bench.watermark(at(time));
    }
    bench.end();
    assert_eq!(bench.take_batches().iter().map(Batch::len).sum::<usize>(), ROWS as usize);
}

#[test]
#[ignore = "it is there to be timed"]
fn a_hot_key_until_a_time() {
    hot_key(Bound::until(span(0), "until"));
}

#[test]
#[ignore = "it is there to be timed"]
fn a_hot_key_in_sessions() {
    hot_key(Bound::sessions(span(2)));
}

#[test]
fn state_of_other_columns_is_refused_and_not_misread() {
    let mut bench = Bench::new(join(JoinKind::Inner, Bound::within(span(5), span(5))));
    bench.batch(batch(&[left(3, 1)]));
    let [left, right] = schemas();
    let other = JoinPlan::new(
        (&right, &left),
        &[("id".to_owned(), "key".to_owned())],
        JoinKind::Inner,
        "",
        Bound::within(span(5), span(5)),
    );
    let mut other = Join::new(other.unwrap()).unwrap();
    let fault = other.state(&mut StateVisitor::restore(&bench.save())).unwrap_err();
    assert!(fault.to_string().contains("other columns"), "{fault}");
}
