//! [`Distinct`]: each key once.

use std::fmt;
use std::time::Duration;

use crate::window::KeyOf;
use crate::{Batch, Keyed, Operator, Outbox, Parts, Result, StateKey, StateVisitor, Timers, Timestamp, Turn};

/// Gives the key of a row that is the first of it, and again of one that comes more than `ttl` of event time behind the
/// newest row of its key:
///
/// ```text
/// rows (ttl 10)   a3   b5   a9   a12   | b16 |
/// keys            a    b                 b
/// ```
///
/// # State
/// The time of the newest row of each key; a key is forgotten when the watermark is `ttl` behind it: without watermarks, never.
///
/// # Order
/// That of first rows, as they come.
pub struct Distinct<T, K> {
    key: KeyOf<T, K>,
    ttl: Duration,
    newest: Keyed<K, Timestamp>,
    timers: Timers<K>,
}

impl<T, K: StateKey> Distinct<T, K> {
    /// The operator that finds keys with `key`.
    pub fn new(key: KeyOf<T, K>, ttl: Duration) -> Self {
        Distinct { key, ttl, newest: Keyed::default(), timers: Timers::default() }
    }

    /// The key of a row, if it is to be given.
    fn take(&mut self, row: &T, time: Timestamp) -> Option<K> {
        let key = (self.key)(row);
        let gone_at = |newest| gone_at(newest, self.ttl);
        if let Some(newest) = self.newest.get_mut(&key) {
            let again = gone_at(*newest) <= time;
            // The timer that is set finds out that it must come back later.
            *newest = time.max(*newest);
            return again.then_some(key);
        }
        self.timers.set(gone_at(time), key.clone());
        self.newest.insert(key.clone(), time);
        Some(key)
    }
}

fn gone_at(newest: Timestamp, ttl: Duration) -> Timestamp {
    newest.saturating_add(ttl).saturating_add(Duration::from_micros(1))
}

impl<T: Send + 'static, K: StateKey> Operator for Distinct<T, K> {
    type In = Vec<T>;
    type Out = Vec<K>;

    fn on_batch(&mut self, batch: Batch<Vec<T>>, out: &mut Outbox<'_, Vec<K>>) -> Result<Turn> {
        let Parts { times, rows, origins, weight } = batch.into_parts();
        let total = rows.len();
        let (mut given_times, mut given, mut of) = (Vec::new(), Vec::new(), Vec::new());
        for (at, (row, time)) in rows.iter().zip(times).enumerate() {
            if let Some(key) = self.take(row, time) {
                given.push(key);
                given_times.push(time);
                of.push(at);
            }
        }
        let weight = crate::batch::scaled_to(weight, given.len(), total);
        let origins = origins.map(|origins| if of.len() == total { origins } else { origins.select(of) });
        out.send(Batch::from_parts(Parts { times: given_times, rows: given, origins, weight })?);
        Ok(Turn::Done)
    }

    fn on_watermark(&mut self, now: Timestamp, _: &mut Outbox<'_, Vec<K>>) -> Result<Turn> {
        while let Some((at, key)) = self.timers.next_due(now) {
            match self.newest.get(&key).map(|newest| gone_at(*newest, self.ttl)) {
                Some(later) if later > at => self.timers.set(later, key),
                _ => drop(self.newest.remove(&key)),
            }
        }
        Ok(Turn::Done)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        visit.timers("timers", &mut self.timers)?;
        visit.keyed("newest", &mut self.newest)
    }
}

impl<T, K> fmt::Debug for Distinct<T, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Distinct({:?}, {:?})", self.ttl, self.newest)
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

    fn distinct() -> Distinct<(char, u32), char> {
        Distinct::new(Arc::new(|row| row.0), Duration::from_micros(10))
    }

    #[test]
    fn a_key_is_given_once_and_again_when_none_of_it_came_for_long() {
        let rows = [(3, 'a'), (5, 'b'), (9, 'a'), (12, 'a'), (16, 'b'), (22, 'a'), (33, 'a'), (20, 'c')];
        let steps: Vec<_> = (0..).zip(rows).map(|(n, (time, key))| Step::Row(at(time), (key, n))).collect();
        assert_eq!(steps_do_not_matter(distinct, &steps), ['a', 'b', 'b', 'a', 'c']);
        let mut followed = steps.clone();
        followed.insert(4, Step::Watermark(at(12)));
        followed.insert(7, Step::Watermark(at(22)));
        assert_eq!(steps_do_not_matter(distinct, &followed), steps_do_not_matter(distinct, &steps));
    }

    #[test]
    fn a_key_is_forgotten_when_the_watermark_has_left_its_newest_row_behind() {
        let mut bench = Bench::new(distinct());
        bench.batch([(at(0), ('a', 1)), (at(8), ('a', 2)), (at(0), ('b', 3))].into_iter().collect());
        bench.watermark(at(11));
        assert_eq!(bench.operator().newest.len(), 1);
        bench.watermark(at(19));
        assert_eq!((bench.operator().newest.len(), bench.operator().timers.len()), (0, 0));
    }
}
