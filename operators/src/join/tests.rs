//! Joins against the definition, computed in one piece over all rows.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::testkit::{Bench, Step, steps_do_not_matter};
use crate::window::KeyOf;
use crate::{Operator, Rejected, Timestamp, Watermark};

/// A key and a number.
type Row = (u8, u32);

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

fn span(micros: i64) -> Duration {
    Duration::from_micros(micros.unsigned_abs())
}

fn key() -> KeyOf<Sided<Row, Row>, u8> {
    Sided::key_of(Arc::new(|row: &Row| row.0), Arc::new(|row: &Row| row.0))
}

fn interval(before: i64, after: i64) -> IntervalJoin<Row, Row, u8> {
    IntervalJoin::new(within(span(before), span(after)), (true, true), key())
}

fn left(time: i64, number: u32) -> (Timestamp, Sided<Row, Row>) {
    (at(time), Sided::Left((1, number)))
}

fn right(time: i64, number: u32) -> (Timestamp, Sided<Row, Row>) {
    (at(time), Sided::Right((1, number)))
}

fn give<O: Operator<In = Vec<Sided<Row, Row>>>>(
    bench: &mut Bench<O>,
    rows: impl IntoIterator<Item = (Timestamp, Sided<Row, Row>)>,
) {
    bench.batch(rows.into_iter().collect());
}

/// Pairs as the numbers of their rows; 0 for none.
fn numbers(pairs: &[Pair<Row, Row>]) -> Vec<(u32, u32)> {
    let numbers = pairs.iter().map(|pair| match pair {
        Pair::Both(left, right) => (left.1, right.1),
        Pair::Left(left) => (left.1, 0),
        Pair::Right(right) => (0, right.1),
    });
    numbers.collect()
}

#[test]
fn rows_near_each_other_are_paired_whichever_comes_first() {
    let mut bench = Bench::new(interval(1, 2));
    give(&mut bench, [right(9, 1), left(10, 2), right(12, 3), right(13, 4)]);
    assert_eq!(numbers(&bench.take()), [(2, 1), (2, 3)]);
    bench.watermark(at(14));
    assert_eq!(numbers(&bench.take()), []);
    bench.watermark(at(15));
    assert_eq!(numbers(&bench.take()), [(0, 4)], "from 15 on no row of the left can be near 13");
}

#[test]
fn a_semi_join_pairs_a_row_once() {
    let mut bench = Bench::new(IntervalJoin::new(within(span(5), span(5)), (false, false), key()).once());
    give(&mut bench, [right(9, 1), right(10, 2), left(10, 3), right(11, 4), left(20, 5)]);
    bench.end();
    assert_eq!(numbers(&bench.take()), [(3, 1)]);
}

#[test]
fn allowed_lateness_holds_the_watermark_back() {
    let join = || IntervalJoin::new(within(span(0), span(0)).allowed_lateness(span(10)), (false, false), key());
    let mut bench = Bench::new(join());
    give(&mut bench, [left(5, 1)]);
    bench.watermark(at(12));
    assert_eq!(bench.take_watermarks(), [Watermark::At(at(2))]);
    give(&mut bench, [right(5, 2), right(1, 3)]);
    assert_eq!(numbers(&bench.take()), [(1, 2)]);
    assert_eq!(bench.take_side::<Rejected<Sided<Row, Row>>>(1).len(), 1);
}

#[test]
fn rows_get_the_version_that_was_valid_at_their_time() {
    let mut bench = Bench::new(TemporalJoin::new(key()));
    give(&mut bench, [right(5, 1), left(7, 2), left(3, 3), right(9, 4), left(9, 5), left(20, 6)]);
    assert_eq!(numbers(&bench.take()), []);
    bench.watermark(at(10));
    assert_eq!(numbers(&bench.take()), [(3, 0), (2, 1), (5, 4)]);
    let mut bench = Bench::restored(TemporalJoin::new(key()), &bench.save());
    bench.end();
    assert_eq!(numbers(&bench.take()), [(6, 4)]);
}

/// Rows of both sides, out of order by less than 20, with watermarks that follow.
fn timeline() -> impl Strategy<Value = Vec<Step<Sided<Row, Row>>>> {
    let row = (0u8..3, any::<bool>(), 0i64..120, 0i64..20);
    prop::collection::vec(row, 1..80).prop_map(|mut rows| {
        rows.sort_by_key(|(_, _, time, jitter)| time + jitter);
        let (mut highest, mut steps) = (i64::MIN, Vec::new());
        for (number, (key, is_left, time, jitter)) in (1..).zip(rows) {
            highest = highest.max(time);
            let row = (key, number);
            steps.push(Step::Row(at(time), if is_left { Sided::Left(row) } else { Sided::Right(row) }));
            if jitter % 3 == 0 {
                steps.push(Step::Watermark(at(highest - 20)));
            }
        }
        steps
    })
}

type Timed = Vec<(i64, Row)>;

fn both_sides(steps: &[Step<Sided<Row, Row>>]) -> (Timed, Timed) {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for step in steps {
        match step {
            Step::Row(time, Sided::Left(row)) => left.push((time.as_micros(), *row)),
            Step::Row(time, Sided::Right(row)) => right.push((time.as_micros(), *row)),
            Step::Watermark(_) => {}
        }
    }
    (left, right)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn interval_joins_give_what_the_definition_gives(steps in timeline(), before in 0i64..15, after in 0i64..15) {
        let mut given = numbers(&steps_do_not_matter(|| interval(before, after), &steps));
        let (left, right) = both_sides(&steps);
        let near = |l: &(i64, Row), r: &(i64, Row)| l.1.0 == r.1.0 && l.0 - before <= r.0 && r.0 <= l.0 + after;
        let mut expected = Vec::new();
        for l in &left {
            let partners: Vec<_> = right.iter().filter(|r| near(l, r)).map(|r| (l.1.1, r.1.1)).collect();
            expected.extend(if partners.is_empty() { vec![(l.1.1, 0)] } else { partners });
        }
        expected.extend(right.iter().filter(|r| !left.iter().any(|l| near(l, r))).map(|r| (0, r.1.1)));
        given.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(given, expected);
    }

    #[test]
    fn temporal_joins_give_what_the_definition_gives(steps in timeline()) {
        let mut given = numbers(&steps_do_not_matter(|| TemporalJoin::new(key()), &steps));
        let (left, right) = both_sides(&steps);
        let mut expected: Vec<_> = left.iter().map(|(time, row)| {
            let valid = right.iter().filter(|(from, version)| version.0 == row.0 && from <= time);
            // Of versions of the same time the one that came last.
            (row.1, valid.max_by_key(|(from, _)| *from).map_or(0, |(_, version)| version.1))
        }).collect();
        given.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(given, expected);
    }
}
