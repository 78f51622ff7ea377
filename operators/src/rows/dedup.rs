//! [`Dedup`]: of rows with one key that repeat each other, one.

use std::fmt;
use std::time::Duration;

use super::Repeats;
use crate::window::KeyOf;
use crate::{Batch, Keyed, Operator, Outbox, Parts, Result, StateKey, StateVisitor, Timers, Timestamp, Turn};

/// Lets the first row of a key pass, and drops those of the same key whose event times are within `within` of it; or gives
/// the key of a row that is the first of it ([`distinct`](Dedup::distinct)), and again of one that comes more than `ttl` of
/// event time behind the newest row of its key:
///
/// ```text
/// rows (10)   a3   b5   a9   a12   | a14   b16 |
/// dedup       a3   b5              | a14   b16
/// distinct    a    b                       b
/// ```
///
/// # State
/// A time of each key. A key is forgotten when the watermark is twice the span behind that; without watermarks, never. A row
/// that comes later than that may be given although it is a repeat.
///
/// # Order
/// That of the rows, as they come. What is given has their times and messages; no row is rejected, and repeats are counted.
///
/// # Examples
/// ```
/// use std::{sync::Arc, time::Duration};
/// use millstream_operators::{Timestamp, rows::Dedup, testkit::Bench};
///
/// let mut bench = Bench::new(Dedup::new(Arc::new(|key: &char| *key), Duration::from_micros(10)));
/// let rows = [(3, 'a'), (5, 'b'), (9, 'a'), (12, 'a'), (14, 'a'), (16, 'b')];
/// bench.batch(rows.map(|(time, key)| (Timestamp::from_micros(time), key)).into_iter().collect());
/// assert_eq!(bench.take(), ['a', 'b', 'a', 'b']);
/// assert_eq!(bench.operator().dropped(), 2);
/// ```
pub struct Dedup<T, K, U = T> {
    key: KeyOf<T, K>,
    repeats: Repeats,
    given: fn(T, K) -> U,
    noted: Keyed<K, Timestamp>,
    timers: Timers<K>,
    dropped: u64,
}

impl<T, K: StateKey> Dedup<T, K> {
    /// The operator that finds keys with `key` and gives rows.
    pub fn new(key: KeyOf<T, K>, within: Duration) -> Self {
        Dedup::giving(|row, _| row, key, Repeats::of_first(within))
    }
}

impl<T, K: StateKey> Dedup<T, K, K> {
    /// The operator that finds keys with `key` and gives keys, each again if none of it came for `ttl`.
    pub fn distinct(key: KeyOf<T, K>, ttl: Duration) -> Self {
        Dedup::giving(|_, key| key, key, Repeats::of_newest(ttl))
    }
}

impl<T, K: StateKey, U> Dedup<T, K, U> {
    fn giving(given: fn(T, K) -> U, key: KeyOf<T, K>, repeats: Repeats) -> Self {
        Dedup { key, repeats, given, noted: Keyed::default(), timers: Timers::default(), dropped: 0 }
    }

    /// How many rows were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// What is given of a row, if it is no repeat.
    fn take(&mut self, row: T, time: Timestamp) -> Option<U> {
        let key = (self.key)(&row);
        let is_repeat = match self.noted.get_mut(&key) {
            Some(noted) => {
                let (is_repeat, now) = self.repeats.judge(Some(*noted), time);
                // The timer that is set finds out that it must come back later.
                *noted = now;
                is_repeat
            }
            None => {
                self.timers.set(self.repeats.gone_at(time), key.clone());
                self.noted.insert(key.clone(), time);
                false
            }
        };
        self.dropped += u64::from(is_repeat);
        (!is_repeat).then(|| (self.given)(row, key))
    }
}

impl<T: Send + 'static, K: StateKey, U: Send + 'static> Operator for Dedup<T, K, U> {
    type In = Vec<T>;
    type Out = Vec<U>;

    fn on_batch(&mut self, batch: Batch<Vec<T>>, out: &mut Outbox<'_, Vec<U>>) -> Result<Turn> {
        let Parts { times, rows, origins, weight } = batch.into_parts();
        let total = rows.len();
        let (mut given_times, mut given, mut of) = (Vec::new(), Vec::new(), Vec::new());
        for (at, (row, time)) in rows.into_iter().zip(times).enumerate() {
            if let Some(row) = self.take(row, time) {
                given.push(row);
                given_times.push(time);
                of.push(at);
            }
        }
        let weight = crate::batch::scaled_to(weight, given.len(), total);
        let origins = origins.map(|origins| if of.len() == total { origins } else { origins.select(of) });
        out.send(Batch::from_parts(Parts { times: given_times.into(), rows: given, origins, weight })?);
        Ok(Turn::Done)
    }

    fn on_watermark(&mut self, now: Timestamp, out: &mut Outbox<'_, Vec<U>>) -> Result<Turn> {
        while let Some((at, key)) = self.timers.next_due(now) {
            match self.noted.get(&key).map(|noted| self.repeats.gone_at(*noted)) {
                Some(later) if later > at => self.timers.set(later, key),
                _ => drop(self.noted.remove(&key)),
            }
            if !out.has_room() {
                return Ok(Turn::Again);
            }
        }
        Ok(Turn::Done)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        visit.shape(&format!("the {} of keys", self.repeats.word()))?;
        visit.timers("timers", &mut self.timers)?;
        visit.keyed(self.repeats.word(), &mut self.noted)
    }
}

impl<T, K, U> fmt::Debug for Dedup<T, K, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dedup({:?}, {:?})", self.repeats, self.noted)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::testkit::{Bench, Step, steps_do_not_matter};

    const SPAN: Duration = Duration::from_micros(10);

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    fn dedup() -> Dedup<(char, i64), char> {
        Dedup::new(Arc::new(|row| row.0), SPAN)
    }

    fn distinct() -> Dedup<(char, i64), char, char> {
        Dedup::distinct(Arc::new(|row| row.0), SPAN)
    }

    /// Rows of a key that have their times as numbers.
    fn rows(all: &[(i64, char)]) -> Vec<(Timestamp, (char, i64))> {
        all.iter().map(|(time, key)| (at(*time), (*key, *time))).collect()
    }

    fn steps(all: &[(i64, char)]) -> Vec<Step<(char, i64)>> {
        rows(all).into_iter().map(|(time, row)| Step::Row(time, row)).collect()
    }

    #[test]
    fn the_first_row_of_a_key_passes_and_those_near_it_do_not() {
        let steps = steps(&[(0, 'a'), (5, 'a'), (5, 'b'), (10, 'a'), (11, 'a'), (3, 'b')]);
        assert_eq!(steps_do_not_matter(dedup, &steps), [('a', 0), ('b', 5), ('a', 11)]);
    }

    #[test]
    fn a_key_is_given_once_and_again_when_none_of_it_came_for_long() {
        let rows = [(3, 'a'), (5, 'b'), (9, 'a'), (12, 'a'), (16, 'b'), (22, 'a'), (33, 'a'), (20, 'c')];
        let steps = steps(&rows);
        assert_eq!(steps_do_not_matter(distinct, &steps), ['a', 'b', 'b', 'a', 'c']);
        let mut followed = steps.clone();
        followed.insert(4, Step::Watermark(at(12)));
        followed.insert(7, Step::Watermark(at(22)));
        assert_eq!(steps_do_not_matter(distinct, &followed), steps_do_not_matter(distinct, &steps));
    }

    /// Rows that are behind the watermark by no more than the span.
    fn timeline() -> impl Strategy<Value = Vec<(i64, char, bool)>> {
        let row = (0i64..120, 0i64..20, prop::char::range('a', 'd'), any::<bool>());
        prop::collection::vec(row, 1..60).prop_map(|mut rows| {
            rows.sort_by_key(|(time, jitter, ..)| time + jitter);
            rows.into_iter().map(|(time, _, key, tells)| (time, key, tells)).collect()
        })
    }

    /// Each row, and behind some the watermark, 10 behind the latest of them.
    fn followed(rows: &[(i64, char, bool)]) -> Vec<Step<(char, i64)>> {
        let mut latest = i64::MIN;
        let step = |(time, key, tells): &(i64, char, bool)| {
            latest = latest.max(*time);
            [Some(Step::Row(at(*time), (*key, *time))), tells.then(|| Step::Watermark(at(latest - 10)))]
        };
        rows.iter().flat_map(step).flatten().collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(crate::testkit::cases(256)))]
        #[test]
        fn what_passes_is_what_the_definition_gives_wherever_watermarks_fall(rows in timeline()) {
            let (mut first, mut newest) = (BTreeMap::<char, i64>::new(), BTreeMap::<char, i64>::new());
            let (mut firsts, mut keys) = (Vec::new(), Vec::new());
            for (time, key, _) in &rows {
                if first.get(key).is_none_or(|first| (time - first).abs() > 10) {
                    first.insert(*key, *time);
                    firsts.push((*key, *time));
                }
                let before = newest.get(key).copied();
                if before.is_none_or(|before| time - before > 10) {
                    keys.push(*key);
                }
                newest.insert(*key, before.map_or(*time, |before| before.max(*time)));
            }
            prop_assert_eq!(steps_do_not_matter(dedup, &followed(&rows)), firsts);
            prop_assert_eq!(steps_do_not_matter(distinct, &followed(&rows)), keys);
        }
    }

    #[test]
    fn a_row_that_is_late_by_no_more_than_the_span_is_known_as_a_repeat() {
        let late = |watermark| {
            let (mut dedup, mut distinct) = (Bench::new(dedup()), Bench::new(distinct()));
            dedup.batch(rows(&[(20, 'a')]).into_iter().collect());
            distinct.batch(rows(&[(20, 'a')]).into_iter().collect());
            dedup.watermark(at(watermark));
            distinct.watermark(at(watermark));
            dedup.batch(rows(&[(30, 'a')]).into_iter().collect());
            distinct.batch(rows(&[(30, 'a')]).into_iter().collect());
            (dedup.take().len(), distinct.take().len())
        };
        assert_eq!(late(40), (1, 1), "of both only the first is given");
        assert_eq!(late(41), (2, 2), "what was that late is not known any more");
    }

    #[test]
    fn a_key_is_forgotten_when_the_watermark_has_left_it_far_behind() {
        let mut bench = Bench::new(distinct());
        bench.batch(rows(&[(0, 'a'), (8, 'a'), (0, 'b')]).into_iter().collect());
        bench.watermark(at(21));
        assert_eq!(bench.operator().noted.len(), 1);
        bench.watermark(at(29));
        assert_eq!((bench.operator().noted.len(), bench.operator().timers.len()), (0, 0));
        let mut bench = Bench::new(dedup());
        bench.batch(rows(&[(0, 'a'), (11, 'a'), (0, 'b')]).into_iter().collect());
        bench.watermark(at(21));
        assert_eq!(bench.operator().noted.len(), 1);
        bench.watermark(at(32));
        assert_eq!((bench.operator().noted.len(), bench.operator().timers.len()), (0, 0));
    }

    #[test]
    fn keys_are_forgotten_as_fast_as_there_is_room() {
        let mut bench = Bench::new(distinct());
        bench.batch(rows(&[(0, 'a'), (0, 'b'), (0, 'c')]).into_iter().collect());
        let turns = bench.turns();
        bench.room_for(0);
        bench.watermark(at(1_000));
        assert_eq!((bench.turns() - turns, bench.operator().noted.len()), (4, 0));
    }

    #[test]
    fn a_repeat_is_near_the_first_row_for_dedup_and_near_the_newest_for_distinct() {
        let (mut dedup, mut distinct) = (Bench::new(dedup()), Bench::new(distinct()));
        for part in [&[(3, 'a'), (5, 'b'), (9, 'a'), (12, 'a')][..], &[(14, 'a'), (16, 'b')]] {
            dedup.batch(rows(part).into_iter().collect());
            distinct.batch(rows(part).into_iter().collect());
        }
        assert_eq!(dedup.take(), [('a', 3), ('b', 5), ('a', 14), ('b', 16)]);
        assert_eq!((distinct.take(), dedup.operator().dropped()), (vec!['a', 'b', 'b'], 2));
    }
}
