//! [`LastWindowed`]: each row with the rows of its key before it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::windowed::CLOSED;
use super::{Firing, KeyOf, Windowed, late_port, refuse_late};
use crate::aggregate::Aggregate;
use crate::state::{AsSaved, ReadError};
use crate::{
    Batch, Keyed, Operator, Outbox, Parts, PortType, Result, StateKey, StateValue, StateVisitor, Timers, Timestamp,
    Turn,
};

/// For each row, the newest rows of its key up to itself; see [`last_rows`].
#[derive(Clone, Copy)]
pub struct LastRows<O = AsTheyCame> {
    rows: usize,
    order: O,
}

/// For each row, the `rows` newest rows of its key including itself, in the order of event time: what
/// `OVER (PARTITION BY key ORDER BY time ROWS rows - 1 PRECEDING)` is in SQL.
///
/// Rows of one time are in the order in which they come, unless [`order_by`](LastRows::order_by) says what decides.
pub fn last_rows(rows: usize) -> LastRows {
    LastRows { rows: rows.max(1), order: AsTheyCame }
}

impl LastRows {
    /// Rows of one time are in the order of what `order` tells of them.
    pub fn order_by<O>(self, order: O) -> LastRows<O> {
        LastRows { rows: self.rows, order }
    }
}

/// Which of two rows of one time comes first: what a closure tells of them decides.
pub trait RowOrder<T>: Clone + Send + Sync + 'static {
    /// What decides.
    type By: StateValue + Ord;

    /// What decides about a row.
    fn by(&self, row: &T) -> Self::By;
}

/// Rows of one time are in the order in which they come.
#[derive(Clone, Copy, Debug, Default)]
pub struct AsTheyCame;

impl<T> RowOrder<T> for AsTheyCame {
    type By = ();

    fn by(&self, _: &T) {}
}

impl<T, V: StateValue + Ord, F: Fn(&T) -> V + Clone + Send + Sync + 'static> RowOrder<T> for F {
    type By = V;

    fn by(&self, row: &T) -> V {
        self(row)
    }
}

impl<O> fmt::Display for LastRows<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the last {} rows", self.rows)
    }
}

impl<O> fmt::Debug for LastRows<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LastRows({})", self.rows)
    }
}

/// What is held for a key; of each row, what an aggregate makes of it alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Held<B: Ord, S> {
    waiting: BTreeMap<(Timestamp, B), Vec<S>>,
    // Those that the watermark has passed: the newest, in order, the last of them behind.
    newest: VecDeque<(Timestamp, S)>,
}

impl<B: Ord, S> Held<B, S> {
    /// The same, of what was aggregated in another version.
    fn put(held: Held<B, AsSaved>, read: &dyn Fn(AsSaved) -> Result<S, ReadError>) -> Result<Self, ReadError> {
        let each = |states: Vec<AsSaved>| states.into_iter().map(read).collect::<Result<_, _>>();
        let waiting = held.waiting.into_iter().map(|(at, states)| Ok((at, each(states)?)));
        let newest = held.newest.into_iter().map(|(time, state)| Ok((time, read(state)?)));
        Ok(Held {
            waiting: waiting.collect::<Result<_, ReadError>>()?,
            newest: newest.collect::<Result<_, ReadError>>()?,
        })
    }
}

impl<B: Ord, S> Default for Held<B, S> {
    fn default() -> Self {
        Held { waiting: BTreeMap::new(), newest: VecDeque::new() }
    }
}

/// Aggregates, for each row, the newest rows of its key including itself. A row waits until the watermark has passed it, as
/// one before it may still come, and then gives a result:
///
/// ```text
/// rows (the last 2)   3   9   5 |                 |
/// watermark                     | 8               | 12
/// results                       | of 3   of 3, 5  | of 5, 9
/// ```
///
/// A result has the time of its row, and begins at the earliest of the rows in it.
///
/// # State
/// Of each key the rows that wait, and the newest that do not, for ever: of what an aggregate makes of a row alone. Results
/// put that together, row by row, and so cost as much as there are rows in one.
///
/// # Errors
/// A row that is older than the watermark leaves by the port `late`.
pub struct LastWindowed<T, K, A: Aggregate<T>, O: RowOrder<T> = AsTheyCame> {
    windows: LastRows<O>,
    key: KeyOf<T, K>,
    aggregate: Arc<A>,
    held: Keyed<K, Held<O::By, A::State>>,
    timers: Timers<K>,
    now: Timestamp,
}

impl<T, K: StateKey, A: Aggregate<T>, O: RowOrder<T>> LastWindowed<T, K, A, O> {
    /// The operator that finds keys with `key`.
    pub fn new(windows: LastRows<O>, key: KeyOf<T, K>, aggregate: Arc<A>) -> Self {
        let (held, timers) = (Keyed::default(), Timers::default());
        LastWindowed { windows, key, aggregate, held, timers, now: Timestamp::MIN }
    }

    /// Gives the results of the rows of a key that are before `due`.
    fn pass(&mut self, key: &K, due: Timestamp, out: &mut Outbox<'_, Vec<Windowed<K, A::Out>>>) {
        let Some(held) = self.held.get_mut(key) else { return };
        while let Some(entry) = held.waiting.first_entry()
            && (entry.key().0 < due || due == Timestamp::MAX)
        {
            let ((time, _), states) = entry.remove_entry();
            for state in states {
                held.newest.push_back((time, state));
                // More than one where the pipeline asks for fewer rows than before.
                while held.newest.len() > self.windows.rows {
                    held.newest.pop_front();
                }
                let mut rows = held.newest.iter();
                let Some((start, mut whole)) = rows.next().cloned() else { continue };
                rows.for_each(|(_, state)| self.aggregate.merge(&mut whole, state));
                let value = self.aggregate.result(&whole);
                let end = shortly_after(time);
                out.push(time, Windowed { key: key.clone(), start, end, value, firing: Firing::OnTime });
            }
        }
    }
}

/// A row is due when the watermark is behind its time: another of the same time may come until then.
fn shortly_after(time: Timestamp) -> Timestamp {
    time.saturating_add(Duration::from_micros(1))
}

impl<T: Send + 'static, K: StateKey, A: Aggregate<T>, O: RowOrder<T>> Operator for LastWindowed<T, K, A, O> {
    type In = Vec<T>;
    type Out = Vec<Windowed<K, A::Out>>;

    fn on_batch(&mut self, batch: Batch<Vec<T>>, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        let Parts { times, rows, origins, .. } = batch.into_parts();
        for (at, (row, time)) in rows.into_iter().zip(times).enumerate() {
            if time < self.now {
                refuse_late(row, (time, self.now, CLOSED), origins.as_ref(), at, out);
                continue;
            }
            let key = (self.key)(&row);
            let mut state = self.aggregate.start();
            self.aggregate.add(&mut state, &row, time);
            self.timers.set(shortly_after(time), key.clone());
            let held = self.held.entry(key).or_default();
            held.waiting.entry((time, self.windows.order.by(&row))).or_default().push(state);
        }
        Ok(Turn::Done)
    }

    fn on_watermark(&mut self, now: Timestamp, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        let now = now.max(self.now);
        while let Some((due, key)) = self.timers.next_due(now) {
            self.pass(&key, due, out);
            if !out.has_room() {
                return Ok(Turn::Again);
            }
        }
        self.now = now;
        Ok(Turn::Done)
    }

    fn on_end(&mut self, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        self.on_watermark(Timestamp::MAX, out)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        // Rows that more of them would need may be gone.
        visit.shape(&format!("the last {} rows: {}", self.windows.rows, self.aggregate.shape()))?;
        visit.time("now", &mut self.now)?;
        visit.timers("timers", &mut self.timers)?;
        visit.keyed_as("held", &mut self.held, &self.aggregate.versions().within(Held::put))
    }

    fn sides(&self) -> Vec<PortType> {
        vec![late_port::<T>()]
    }
}

impl<T, K, A: Aggregate<T>, O: RowOrder<T>> fmt::Debug for LastWindowed<T, K, A, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LastWindowed({}, {:?})", self.windows, self.held)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{Row, at, give, given, key, rows, sample, timeline};
    use super::*;
    use crate::Rejected;
    use crate::aggregate::collect;
    use crate::testkit::{Bench, cases};

    fn values<K, V>(results: Vec<Windowed<K, V>>) -> Vec<V> {
        results.into_iter().map(|result| result.value).collect()
    }

    #[test]
    fn a_row_waits_until_the_watermark_has_passed_it_and_sees_the_rows_before_it() {
        let last = || LastWindowed::new(last_rows(2), key(), Arc::new(collect(|row: &Row| row.1)));
        let mut bench = Bench::new(last());
        give(&mut bench, &[3, 9, 5]);
        bench.watermark(at(5));
        assert_eq!(values(bench.take()), [vec![3]], "another row of the time 5 may still come");
        bench.watermark(at(8));
        assert_eq!(values(bench.take()), [vec![3, 5]]);
        let mut bench = Bench::restored(last(), &bench.save());
        give(&mut bench, &[7]);
        assert_eq!(bench.take_side::<Rejected<Row>>(1).len(), 1);
        bench.end();
        let results = bench.take_batches();
        assert_eq!(results[0].times(), [at(9)]);
        let result = &results[0].rows()[0];
        assert_eq!((result.start, result.end, result.value.as_slice()), (at(5), at(10), &[5, 9][..]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(cases(1_000)))]

        #[test]
        fn the_last_rows_are_those_of_the_definition(steps in timeline(20), n in 1usize..5, sample in sample()) {
            let order = |row: &Row| row.1 % 3;
            let collected = || Arc::new(collect(|row: &Row| row.1));
            let make = || LastWindowed::new(last_rows(n).order_by(order), key(), collected());
            let given: Vec<_> = given(make, &steps, sample).into_iter().map(|result| (result.key, result.value)).collect();
            let mut rows = rows(&steps);
            rows.sort_by_key(|(time, row)| (*time, row.0, order(row)));
            let expected: Vec<_> = rows.iter().enumerate().map(|(at, (_, (key, _)))| {
                let of_key = rows[..=at].iter().rev().filter(|(_, row)| row.0 == *key).take(n);
                let mut last: Vec<i64> = of_key.map(|(_, row)| row.1).collect();
                last.reverse();
                (*key, last)
            }).collect();
            prop_assert_eq!(given, expected);
        }
    }
}
