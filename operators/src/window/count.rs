//! [`CountWindowed`]: rows aggregated by key in windows of so many rows.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Firing, KeyOf, Windowed};
use crate::aggregate::Aggregate;
use crate::state::{AsSaved, ReadError};
use crate::{Batch, Keyed, Operator, Outbox, Result, StateKey, StateVisitor, Timestamp, Turn};

/// Windows of so many rows; see [`count_windows`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountWindows {
    rows: u64,
}

/// Windows of so many rows of a key each, in the order in which they come. At the end of the input the last of each key
/// gives what it has.
pub fn count_windows(rows: u64) -> CountWindows {
    CountWindows { rows: rows.max(1) }
}

impl fmt::Display for CountWindows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows each", self.rows)
    }
}

/// What a window that goes by rows has seen.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Open<S> {
    pub(super) rows: u64,
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    pub(super) state: S,
}

impl<S> Open<S> {
    /// The same, of what was aggregated in another version.
    pub(super) fn put(open: Open<AsSaved>, read: &dyn Fn(AsSaved) -> Result<S, ReadError>) -> Result<Self, ReadError> {
        let Open { rows, first, last, state } = open;
        Ok(Open { rows, first, last, state: read(state)? })
    }

    /// A window that begins with a row at `time`.
    pub(super) fn at(time: Timestamp, state: S) -> Self {
        Open { rows: 0, first: time, last: time, state }
    }

    /// Takes a row in.
    pub(super) fn add<T>(&mut self, aggregate: &impl Aggregate<T, State = S>, row: &T, time: Timestamp) {
        self.rows += 1;
        (self.first, self.last) = (self.first.min(time), self.last.max(time));
        aggregate.add(&mut self.state, row, time);
    }

    /// Its result, which is about the times of its rows: it begins at the earliest and ends just behind the latest.
    pub(super) fn result<T, K, A>(&self, aggregate: &A, key: K, firing: Firing) -> Windowed<K, A::Out>
    where
        A: Aggregate<T, State = S>,
    {
        let end = Timestamp::from_micros(self.last.as_micros().saturating_add(1));
        Windowed { key, start: self.first, end, value: aggregate.result(&self.state), firing }
    }
}

/// Aggregates rows by key in windows that go by rows:
///
/// ```text
/// rows (2 rows each)   1   2   3 |  the end
/// results                  3     |  3
/// ```
///
/// A result is about the times of its rows: it begins at the earliest and ends just behind the latest. It is given at that
/// time, or at that of the watermark if that is later, so that it is not late for windows behind. No row is late.
///
/// # State
/// What is aggregated of each key until its window is full.
pub struct CountWindowed<T, K, A: Aggregate<T>> {
    windows: CountWindows,
    key: KeyOf<T, K>,
    aggregate: Arc<A>,
    open: Keyed<K, Open<A::State>>,
    now: Timestamp,
    ending: std::vec::IntoIter<(K, Open<A::State>)>,
}

impl<T, K: StateKey, A: Aggregate<T>> CountWindowed<T, K, A> {
    /// The operator that finds keys with `key`.
    pub fn new(windows: CountWindows, key: KeyOf<T, K>, aggregate: Arc<A>) -> Self {
        let (open, ending) = (Keyed::default(), Vec::new().into_iter());
        CountWindowed { windows, key, aggregate, open, now: Timestamp::MIN, ending }
    }
}

impl<T: Send + 'static, K: StateKey, A: Aggregate<T>> Operator for CountWindowed<T, K, A> {
    type In = Vec<T>;
    type Out = Vec<Windowed<K, A::Out>>;

    fn on_batch(&mut self, batch: Batch<Vec<T>>, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        let CountWindowed { windows, key, aggregate, open, now, .. } = self;
        for (time, row) in batch {
            let key = key(&row);
            let window = open.entry(key.clone()).or_insert_with(|| Open::at(time, aggregate.start()));
            window.add(aggregate.as_ref(), &row, time);
            if window.rows >= windows.rows {
                out.push(window.last.max(*now), window.result(aggregate.as_ref(), key.clone(), Firing::OnTime));
                open.remove(&key);
            }
        }
        Ok(Turn::Done)
    }

    fn on_watermark(&mut self, now: Timestamp, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        // What is behind would take what comes after the end of time for late.
        if now == Timestamp::MAX {
            return self.on_end(out);
        }
        self.now = self.now.max(now);
        Ok(Turn::Done)
    }

    fn on_end(&mut self, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        if !self.open.is_empty() {
            self.ending = self.open.take_sorted().into_iter();
        }
        for (key, open) in self.ending.by_ref() {
            out.push(open.last.max(self.now), open.result(self.aggregate.as_ref(), key, Firing::OnTime));
            if !out.has_room() {
                return Ok(Turn::Again);
            }
        }
        Ok(Turn::Done)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        visit.shape(&format!("so many rows each: {}", self.aggregate.shape()))?;
        visit.time("now", &mut self.now)?;
        visit.keyed_as("open", &mut self.open, &self.aggregate.versions().within(Open::put))
    }
}

impl<T, K, A: Aggregate<T>> fmt::Debug for CountWindowed<T, K, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CountWindowed({}, {:?})", self.windows, self.open)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::tests::{Row, at, key, sample, timeline, told};
    use super::*;
    use crate::aggregate::collect;
    use crate::testkit::{Step, cases};

    /// The window of some rows, with their times and numbers, and when it is given: never behind the watermark.
    fn of(key: u8, rows: &[(i64, i64)], now: i64) -> (i64, Windowed<u8, Vec<i64>>) {
        let times = || rows.iter().map(|(time, _)| *time);
        let (start, last) = (times().min().unwrap(), times().max().unwrap());
        let value = rows.iter().map(|(_, number)| *number).collect();
        (last.max(now), Windowed { key, start: at(start), end: at(last + 1), value, firing: Firing::OnTime })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(cases(1_000)))]

        #[test]
        fn windows_of_so_many_rows_are_those_of_the_definition(steps in timeline(20), rows in 1usize..6, sample in sample()) {
            let collected = || Arc::new(collect(|row: &Row| row.1));
            let make = || CountWindowed::new(count_windows(rows as u64), key(), collected());
            let (mut now, mut open, mut expected) = (i64::MIN, BTreeMap::<u8, Vec<(i64, i64)>>::new(), Vec::new());
            for step in &steps {
                match step {
                    Step::Watermark(time) => now = now.max(time.as_micros()),
                    Step::Row(time, (key, number)) => {
                        let window = open.entry(*key).or_default();
                        window.push((time.as_micros(), *number));
                        if window.len() == rows {
                            expected.push(of(*key, &std::mem::take(window), now));
                        }
                    }
                }
            }
            expected.extend(open.iter().filter(|(_, rows)| !rows.is_empty()).map(|(key, rows)| of(*key, rows, now)));
            prop_assert_eq!(told(make, &steps, sample), (expected, Vec::new()));
        }
    }
}
