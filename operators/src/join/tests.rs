//! Joins against the definition, computed in one piece over all rows.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::testkit::{Bench, Step, cases, steps_do_not_matter, steps_in_one_piece};
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

#[test]
fn a_version_that_comes_late_counts_for_the_rows_that_still_need_it() {
    let mut bench = Bench::new(TemporalJoin::new(key()));
    give(&mut bench, [right(5, 1), left(9, 2)]);
    bench.watermark(at(10));
    assert_eq!(numbers(&bench.take()), [(2, 1)]);
    give(&mut bench, [right(8, 3), right(4, 4), left(9, 5), left(12, 6)]);
    assert_eq!(bench.take_side::<Rejected<Sided<Row, Row>>>(1).len(), 2, "one is older than the version at 8");
    let mut bench = Bench::restored(TemporalJoin::new(key()), &bench.save());
    give(&mut bench, [right(7, 7), left(13, 8)]);
    assert_eq!(bench.take_side::<Rejected<Sided<Row, Row>>>(1).len(), 1);
    bench.end();
    assert_eq!(numbers(&bench.take()), [(6, 3), (8, 3)], "what was given stays");
}

#[test]
fn what_is_late_is_told_by_how_much_and_that_its_partners_are_gone() {
    let near = within(span(0), span(0)).allowed_lateness(span(10));
    let mut bench = Bench::new(IntervalJoin::new(near, (false, false), key()));
    bench.watermark(at(30));
    give(&mut bench, [left(18, 1)]);
    let late = bench.take_side::<Rejected<Sided<Row, Row>>>(1).remove(0).cause.to_string();
    assert!(late.contains("12µs behind the watermark") && late.contains("could be joined with is gone"), "{late}");
}

/// A join in which rows of the left tell the latest time by their numbers.
fn telling(before: i64) -> IntervalJoin<Row, Row, u8> {
    let until = |row: &Row| at(i64::from(row.1));
    IntervalJoin::new(within(span(before), Duration::ZERO), (true, true), key()).until(Arc::new(until))
}

#[test]
fn a_row_of_the_left_tells_until_when_its_partners_may_come() {
    let mut bench = Bench::new(telling(0));
    give(&mut bench, [left(10, 15), right(9, 1), right(12, 2), right(16, 3), right(15, 4)]);
    assert_eq!(numbers(&bench.take()), [(15, 2), (15, 4)]);
    give(&mut bench, [left(11, 14), left(13, 20), left(14, 7)]);
    assert_eq!(numbers(&bench.take()), [(14, 2), (20, 4), (20, 3)]);
    bench.watermark(at(15));
    assert_eq!(numbers(&bench.take()), [(0, 1), (7, 0)], "a time before its own is no reason to be late");
    let mut bench = Bench::restored(telling(0), &bench.save());
    give(&mut bench, [right(15, 5)]);
    assert_eq!(numbers(&bench.take()), [(15, 5), (20, 5)]);
    bench.watermark(at(16));
    give(&mut bench, [right(16, 6)]);
    assert_eq!(numbers(&bench.take()), [(20, 6)]);
}

fn unlimited(ttl: i64) -> IntervalJoin<Row, Row, u8> {
    IntervalJoin::unbounded(unbounded(span(ttl)), key())
}

#[test]
fn without_a_bound_rows_meet_until_they_are_forgotten() {
    let mut bench = Bench::new(unlimited(10));
    give(&mut bench, [left(0, 1), right(10, 2), right(11, 3)]);
    assert_eq!(numbers(&bench.take()), [(1, 2)]);
    bench.watermark(at(15));
    assert_eq!(bench.take_watermarks(), [Watermark::At(at(15))], "nobody waits for what may still come");
    // Behind the watermark, but not forgotten yet.
    give(&mut bench, [left(5, 4), left(4, 5)]);
    let pairs = bench.take_batches().remove(0).into_parts();
    assert_eq!(numbers(&pairs.rows), [(4, 2), (4, 3)]);
    assert_eq!(*pairs.times, [at(15); 2], "pairs are not behind the watermark that went out");
    assert_eq!(bench.take_side::<Rejected<Sided<Row, Row>>>(1).len(), 1);
    bench.end();
    assert_eq!(numbers(&bench.take()), [], "what has no partner is not known");
}

#[test]
fn a_semi_join_lets_a_row_of_the_left_go_when_it_has_a_partner() {
    let mut bench = Bench::new(unlimited(10).once());
    give(&mut bench, [left(0, 1), right(1, 2), right(2, 3), left(3, 4)]);
    assert_eq!(numbers(&bench.take()), [(1, 2), (4, 2)]);
    let mut bench = Bench::restored(unlimited(10).once(), &bench.save());
    give(&mut bench, [right(4, 5)]);
    assert_eq!(numbers(&bench.take()), []);
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

type Join = IntervalJoin<Row, Row, u8>;

/// The numbers of the pairs that a join gives, sorted; for some inputs it is tried in any pieces, too.
fn given(make: impl Fn() -> Join, steps: &[Step<Sided<Row, Row>>], sample: u8) -> Vec<(u32, u32)> {
    let pairs = if sample == 0 { steps_do_not_matter(make, steps) } else { steps_in_one_piece(make, steps) };
    let mut pairs = numbers(&pairs);
    pairs.sort_unstable();
    pairs
}

/// The pairs of rows that are near each other, and with `alone` those without a partner, sorted.
fn by_definition(
    (left, right): (&Timed, &Timed),
    near: impl Fn(&(i64, Row), &(i64, Row)) -> bool,
    alone: bool,
) -> Vec<(u32, u32)> {
    let near = |l: &(i64, Row), r: &(i64, Row)| l.1.0 == r.1.0 && near(l, r);
    let mut expected = Vec::new();
    for l in left {
        let partners: Vec<_> = right.iter().filter(|r| near(l, r)).map(|r| (l.1.1, r.1.1)).collect();
        expected.extend(if partners.is_empty() && alone { vec![(l.1.1, 0)] } else { partners });
    }
    let lonely = right.iter().filter(|r| alone && !left.iter().any(|l| near(l, r)));
    expected.extend(lonely.map(|r| (0, r.1.1)));
    expected.sort_unstable();
    expected
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(1_000)))]

    #[test]
    fn interval_joins_give_what_the_definition_gives(
        steps in timeline(), before in 0i64..15, after in 0i64..15, sample in 0u8..100,
    ) {
        let (left, right) = both_sides(&steps);
        let near = |l: &(i64, Row), r: &(i64, Row)| l.0 - before <= r.0 && r.0 <= l.0 + after;
        let expected = by_definition((&left, &right), near, true);
        prop_assert_eq!(given(|| interval(before, after), &steps, sample), expected);
    }

    #[test]
    fn joins_until_a_time_give_what_the_definition_gives(steps in timeline(), before in 0i64..15, sample in 0u8..100) {
        // The times that numbers tell are some before and some after those of their rows.
        let (left, right) = both_sides(&steps);
        let near = |l: &(i64, Row), r: &(i64, Row)| l.0 - before <= r.0 && r.0 <= i64::from(l.1.1);
        let expected = by_definition((&left, &right), near, true);
        prop_assert_eq!(given(|| telling(before), &steps, sample), expected);
    }

    #[test]
    fn joins_without_a_bound_give_what_the_definition_gives(steps in timeline(), ttl in 0i64..60, sample in 0u8..100) {
        let (left, right) = both_sides(&steps);
        let near = |l: &(i64, Row), r: &(i64, Row)| (l.0 - r.0).abs() <= ttl;
        let expected = by_definition((&left, &right), near, false);
        prop_assert_eq!(given(|| unlimited(ttl), &steps, sample), expected.clone());
        let mut once: Vec<u32> = given(|| unlimited(ttl).once(), &steps, sample).into_iter().map(|pair| pair.0).collect();
        let mut partnered: Vec<u32> = expected.into_iter().map(|pair| pair.0).collect();
        partnered.dedup();
        once.sort_unstable();
        prop_assert_eq!(once, partnered);
    }

    #[test]
    fn temporal_joins_give_what_the_definition_gives(steps in timeline(), sample in 0u8..100) {
        let make = || TemporalJoin::new(key());
        let pairs = if sample == 0 { steps_do_not_matter(make, &steps) } else { steps_in_one_piece(make, &steps) };
        let mut given = numbers(&pairs);
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

#[test]
fn a_join_does_not_go_on_from_what_another_join_has_kept() {
    let mut bench = Bench::new(interval(1, 2));
    give(&mut bench, [right(9, 1), left(10, 2)]);
    let saved = bench.save();
    let restored = |mut join: IntervalJoin<Row, Row, u8>| join.state(&mut crate::StateVisitor::restore(&saved));
    assert!(restored(interval(1, 2)).is_ok());
    let bounds = within(span(1), span(2));
    for other in [interval(1, 3), IntervalJoin::new(bounds, (false, false), key()), interval(1, 2).once(), unlimited(2)]
    {
        let fault = restored(other).unwrap_err();
        assert!(fault.to_string().contains("`pairs, and both alone, from -1 to 2 µs`"), "{fault}");
    }
}
