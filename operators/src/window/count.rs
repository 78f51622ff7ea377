//! [`CountWindowed`]: rows aggregated by key in windows of so many rows, or in one that holds all.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Firing, KeyOf, Windowed};
use crate::aggregate::Aggregate;
use crate::{Batch, Keyed, Operator, Outbox, Result, StateKey, StateVisitor, Timestamp, Turn};

/// Windows that go by rows rather than by time; see [`count_windows`] and [`global`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountWindows {
    every: Option<u64>,
    begins_anew: bool,
}

/// Windows of so many rows of a key each. At the end of the input the last of each key gives what it has.
pub fn count_windows(rows: u64) -> CountWindows {
    CountWindows { every: Some(rows.max(1)), begins_anew: true }
}

/// One window for all rows of a key, which gives its result at the end of the input, and on the way as often as
/// [`every`](CountWindows::every) says.
pub fn global() -> CountWindows {
    CountWindows { every: None, begins_anew: false }
}

impl CountWindows {
    /// Gives the result so far with every so many rows of a key.
    #[must_use]
    pub fn every(mut self, rows: u64) -> Self {
        self.every = Some(rows.max(1));
        self
    }
}

impl fmt::Display for CountWindows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.begins_anew, self.every) {
            (true, Some(rows)) => write!(f, "{rows} rows each"),
            (_, Some(rows)) => write!(f, "global, every {rows} rows"),
            (_, None) => f.write_str("global"),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Open<S> {
    rows: u64,
    first: Timestamp,
    last: Timestamp,
    state: S,
}

/// Aggregates rows by key in windows that go by rows. A result is about the times of its rows: it begins at the earliest
/// and ends just behind the latest.
pub struct CountWindowed<T, K, A: Aggregate<T>> {
    windows: CountWindows,
    key: KeyOf<T, K>,
    aggregate: Arc<A>,
    open: Keyed<K, Open<A::State>>,
    ending: Option<std::vec::IntoIter<(K, Open<A::State>)>>,
}

impl<T, K: StateKey, A: Aggregate<T>> CountWindowed<T, K, A> {
    /// The operator that finds keys with `key`.
    pub fn new(windows: CountWindows, key: KeyOf<T, K>, aggregate: Arc<A>) -> Self {
        CountWindowed { windows, key, aggregate, open: Keyed::default(), ending: None }
    }
}

fn result<T, K, A: Aggregate<T>>(aggregate: &A, key: K, open: &Open<A::State>, firing: Firing) -> Windowed<K, A::Out> {
    let end = Timestamp::from_micros(open.last.as_micros().saturating_add(1));
    Windowed { key, start: open.first, end, value: aggregate.result(&open.state), firing }
}

impl<T: Send + 'static, K: StateKey, A: Aggregate<T>> Operator for CountWindowed<T, K, A> {
    type In = Vec<T>;
    type Out = Vec<Windowed<K, A::Out>>;

    fn on_batch(&mut self, batch: Batch<Vec<T>>, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        let CountWindowed { windows, key, aggregate, open, .. } = self;
        for (time, row) in batch {
            let key = key(&row);
            let window = open.entry(key.clone()).or_insert_with(|| Open {
                rows: 0,
                first: time,
                last: time,
                state: aggregate.start(),
            });
            window.rows += 1;
            (window.first, window.last) = (window.first.min(time), window.last.max(time));
            aggregate.add(&mut window.state, &row, time);
            if windows.every.is_some_and(|every| window.rows.is_multiple_of(every)) {
                let firing = if windows.begins_anew { Firing::OnTime } else { Firing::Early };
                out.push(window.last, result(aggregate.as_ref(), key.clone(), window, firing));
                if windows.begins_anew {
                    open.remove(&key);
                }
            }
        }
        Ok(Turn::Done)
    }

    fn on_end(&mut self, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        let ending = self.ending.get_or_insert_with(|| self.open.take_sorted().into_iter());
        for (key, open) in ending.by_ref() {
            out.push(open.last, result(self.aggregate.as_ref(), key, &open, Firing::OnTime));
            if !out.has_room() {
                return Ok(Turn::Again);
            }
        }
        Ok(Turn::Done)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        visit.keyed("open", &mut self.open)
    }
}

impl<T, K, A: Aggregate<T>> fmt::Debug for CountWindowed<T, K, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CountWindowed({}, {:?})", self.windows, self.open)
    }
}
