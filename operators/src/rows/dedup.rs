//! [`Dedup`]: of rows with one key that are near each other in time, the first.

use std::fmt;
use std::time::Duration;

use crate::window::KeyOf;
use crate::{Batch, Keyed, Operator, Outbox, Parts, Result, StateKey, StateVisitor, Timers, Timestamp, Turn};

/// Lets the first row of a key pass, and drops those of the same key whose event times are within `within` of it.
///
/// A key is forgotten when the watermark has left it behind: without watermarks, never.
pub struct Dedup<T, K> {
    key: KeyOf<T, K>,
    within: Duration,
    first: Keyed<K, Timestamp>,
    timers: Timers<K>,
    dropped: u64,
}

impl<T, K: StateKey> Dedup<T, K> {
    /// The operator that finds keys with `key`.
    pub fn new(key: KeyOf<T, K>, within: Duration) -> Self {
        Dedup { key, within, first: Keyed::default(), timers: Timers::default(), dropped: 0 }
    }

    /// How many rows were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn is_first(&mut self, row: &T, time: Timestamp) -> bool {
        let key = (self.key)(row);
        let near = |first: &Timestamp| time.since(*first).max(first.since(time)) <= self.within;
        if self.first.get(&key).is_some_and(near) {
            self.dropped += 1;
            return false;
        }
        self.timers.set(self.gone_at(time), key.clone());
        self.first.insert(key, time);
        true
    }

    fn gone_at(&self, first: Timestamp) -> Timestamp {
        first.saturating_add(self.within).saturating_add(Duration::from_micros(1))
    }
}

impl<T: Send + 'static, K: StateKey> Operator for Dedup<T, K> {
    type In = Vec<T>;
    type Out = Vec<T>;

    fn on_batch(&mut self, batch: Batch<Vec<T>>, out: &mut Outbox<'_, Vec<T>>) -> Result<Turn> {
        let Parts { times, rows, origins, weight } = batch.into_parts();
        let total = rows.len();
        let (mut given_times, mut given, mut of) = (Vec::new(), Vec::new(), Vec::new());
        for (at, (row, time)) in rows.into_iter().zip(times).enumerate() {
            if self.is_first(&row, time) {
                given.push(row);
                given_times.push(time);
                of.push(at);
            }
        }
        let weight = crate::batch::scaled_to(weight, given.len(), total);
        let origins = origins.map(|origins| if of.len() == total { origins } else { origins.select(of) });
        out.send(Batch::from_parts(Parts { times: given_times, rows: given, origins, weight })?);
        Ok(Turn::Done)
    }

    fn on_watermark(&mut self, now: Timestamp, _: &mut Outbox<'_, Vec<T>>) -> Result<Turn> {
        while let Some((at, key)) = self.timers.next_due(now) {
            // A later row of the key may have become the first since.
            if self.first.get(&key).is_some_and(|first| self.gone_at(*first) <= at) {
                self.first.remove(&key);
            }
        }
        Ok(Turn::Done)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        visit.timers("timers", &mut self.timers)?;
        visit.keyed("first", &mut self.first)
    }
}

impl<T, K> fmt::Debug for Dedup<T, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dedup(within {:?}, {:?})", self.within, self.first)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testkit::{Bench, Step, steps_do_not_matter};

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    fn dedup() -> Dedup<(u8, u32), u8> {
        Dedup::new(Arc::new(|row| row.0), Duration::from_micros(10))
    }

    #[test]
    fn the_first_row_of_a_key_passes_and_those_near_it_do_not() {
        let rows = [(0, 1, 1), (5, 1, 2), (5, 2, 3), (10, 1, 4), (11, 1, 5), (3, 2, 6)];
        let steps: Vec<_> = rows.into_iter().map(|(time, key, n)| Step::Row(at(time), (key, n))).collect();
        let numbers: Vec<u32> = steps_do_not_matter(dedup, &steps).into_iter().map(|row| row.1).collect();
        assert_eq!(numbers, [1, 3, 5]);
    }

    #[test]
    fn a_key_is_forgotten_when_the_watermark_has_left_it_behind() {
        let mut bench = Bench::new(dedup());
        bench.batch([(at(0), (1, 1)), (at(11), (1, 2)), (at(0), (2, 3))].into_iter().collect());
        bench.watermark(at(11));
        assert_eq!(bench.operator().first.len(), 1);
        bench.watermark(at(22));
        assert_eq!((bench.operator().first.len(), bench.operator().timers.len()), (0, 0));
    }
}
