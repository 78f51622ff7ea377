//! [`Panes`]: keyed state by pieces of event time, which go as a whole.

use std::collections::BTreeMap;
use std::fmt;

use super::Keyed;
use crate::{Key, Timestamp};

/// A value for each key in each of some panes of event time: what an operator is made of that keeps something an hour, or a
/// day, long. A pane goes as a whole when its time is over, so no key needs a timer. List it in
/// [`Operator::state`](crate::Operator::state) with [`StateVisitor::panes`](crate::StateVisitor::panes).
///
/// A pane is named by where it begins, in microseconds since the epoch; those of one size begin at multiples of it
/// ([`start_of`](Panes::start_of)).
///
/// ```
/// use millstream_operators::{Panes, Timestamp};
/// let mut seen: Panes<&'static str, u64> = Panes::of(60_000_000);
/// for (second, word) in [(5, "to"), (59, "be"), (61, "to")] {
///     *seen.entry(Timestamp::from_millis(second * 1_000), word).or_default() += 1;
/// }
/// // The watermark has come to the end of the first minute.
/// let over: Vec<_> = seen.take_until(Timestamp::from_millis(60_000)).collect();
/// assert_eq!(over.len(), 1);
/// let (start, mut words) = over.into_iter().next().unwrap();
/// assert_eq!((start, words.take_sorted()), (0, vec![("be", 1), ("to", 1)]));
/// assert_eq!(seen.get(60_000_000).and_then(|pane| pane.get(&"to")), Some(&1));
/// ```
pub struct Panes<K, S> {
    size: i64,
    panes: BTreeMap<i64, Keyed<K, S>>,
}

impl<K, S> Panes<K, S> {
    /// Panes of so many microseconds, one at least.
    pub fn of(size: i64) -> Self {
        Panes { size: size.max(1), panes: BTreeMap::new() }
    }

    /// Where the pane begins that a time is in.
    pub fn start_of(&self, time: Timestamp) -> i64 {
        // What is before the earliest time that there is begins there.
        let time = time.as_micros();
        time.checked_sub(time.rem_euclid(self.size)).unwrap_or(i64::MIN)
    }

    /// The pane that begins here.
    pub fn get(&self, start: i64) -> Option<&Keyed<K, S>> {
        self.panes.get(&start)
    }

    /// All panes and where they begin, the earliest first.
    pub fn iter(&self) -> impl Iterator<Item = (i64, &Keyed<K, S>)> {
        self.panes.iter().map(|(start, pane)| (*start, pane))
    }

    /// Takes out all panes that end at `now` or before, the earliest first.
    pub fn take_until(&mut self, now: Timestamp) -> impl Iterator<Item = (i64, Keyed<K, S>)> {
        // A pane that would end behind the end of time goes with it.
        let first_kept = match now {
            Timestamp::MAX => None,
            now => Some(now.as_micros().saturating_sub(self.size).saturating_add(1)),
        };
        let kept = first_kept.map(|first| self.panes.split_off(&first)).unwrap_or_default();
        std::mem::replace(&mut self.panes, kept).into_iter()
    }

    /// All panes, as the visitor of state knows them.
    pub(super) fn all(&mut self) -> &mut BTreeMap<i64, Keyed<K, S>> {
        &mut self.panes
    }
}

impl<K: Key, S: Clone> Panes<K, S> {
    /// The place of a key in the pane of a time, whether there is a value or not.
    pub fn entry(&mut self, time: Timestamp, key: K) -> std::collections::hash_map::Entry<'_, K, S> {
        let start = self.start_of(time);
        self.panes.entry(start).or_default().entry(key)
    }

    /// The pane that begins here, to be changed; it is made if there is none.
    pub fn pane(&mut self, start: i64) -> &mut Keyed<K, S> {
        self.panes.entry(start).or_default()
    }
}

impl<K, S> fmt::Debug for Panes<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Panes({} of {} µs)", self.panes.len(), self.size)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testkit::Bench;
    use crate::{Batch, Operator, Outbox, Result, StateVisitor, Turn};

    /// How often each key came in each ten microseconds.
    struct Tens(Panes<u8, u64>);

    impl Operator for Tens {
        type In = Vec<u8>;
        type Out = Vec<(i64, u8, u64)>;

        fn on_batch(&mut self, batch: Batch<Vec<u8>>, _: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
            for (time, key) in batch {
                *self.0.entry(time, key).or_default() += 1;
            }
            Ok(Turn::Done)
        }

        fn on_watermark(&mut self, now: Timestamp, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
            for (start, mut pane) in self.0.take_until(now) {
                for (key, count) in pane.take_sorted() {
                    out.push(Timestamp::from_micros(start.saturating_add(9)), (start, key, count));
                }
            }
            Ok(Turn::Done)
        }

        fn on_end(&mut self, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
            self.on_watermark(Timestamp::MAX, out)
        }

        fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
            visit.panes("tens", &mut self.0)
        }
    }

    proptest! {
        #[test]
        fn an_operator_of_panes_counts_what_is_in_each_wherever_it_is_restarted(
            rows in prop::collection::vec((-50i64..50, 0u8..3), 1..60), cut in 1usize..9,
        ) {
            let mut expected = BTreeMap::<(i64, u8), u64>::new();
            rows.iter().for_each(|(time, key)| *expected.entry((time.div_euclid(10) * 10, *key)).or_default() += 1);
            let mut bench = Bench::new(Tens(Panes::of(10)));
            for rows in rows.chunks(cut) {
                bench.batch(rows.iter().map(|(time, key)| (Timestamp::from_micros(*time), *key)).collect());
                bench = Bench::restored(Tens(Panes::of(10)), &bench.save());
            }
            bench.watermark(Timestamp::from_micros(10));
            prop_assert!(bench.operator().0.iter().all(|(start, _)| start > 0));
            let mut told = bench.take();
            prop_assert!(told.iter().all(|(start, ..)| *start <= 0));
            bench.end();
            told.extend(bench.take());
            prop_assert_eq!(told, expected.into_iter().map(|((start, key), n)| (start, key, n)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_first_and_the_last_pane_that_there_are_do_not_overflow() {
        let mut panes: Panes<u8, u8> = Panes::of(1_000);
        for time in [Timestamp::MIN, Timestamp::MAX] {
            panes.entry(time, 1).or_insert(2);
        }
        assert_eq!(panes.take_until(Timestamp::from_micros(0)).count(), 1);
        assert_eq!(panes.take_until(Timestamp::MAX).count(), 1);
        assert_eq!(panes.iter().count(), 0);
    }
}
