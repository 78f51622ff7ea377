//! [`TimeWindowed`]: rows aggregated by key in tumbling or sliding windows.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::windowed::CLOSED;
use super::{Emit, Firing, KeyOf, TimeWindows, Windowed, late_port, refuse_late};
use crate::aggregate::Aggregate;
use crate::bugs::{Bug, planted};
use crate::{Batch, Keyed, Operator, Outbox, Parts, PortType, Result, StateKey, StateVisitor, Timers, Timestamp, Turn};

/// Aggregates rows by key in windows of equal length. A window gives a result for each of its keys, in the order of keys,
/// when the watermark reaches its end:
///
/// ```text
/// rows (tumbling, 10)    3  7  12 |    | 8 | 25 |
/// watermark                       | 11 |   |    | 30
/// results                         | [0,10) of 3, 7    | [10,20) of 12, [20,30) of 25
/// late                                 | 8 |
/// ```
///
/// A row is taken in once, by the pane that it falls into: a piece of time that windows share. Results have the last time
/// of their window, a microsecond before its end. [`Emit`] says which come early.
///
/// # State
/// What is aggregated of each key in each pane, until the last window of the pane is closed and no lateness is allowed for it
/// any more.
///
/// # Errors
/// A row all of whose windows are closed leaves by the port `late`, with the code [`Late`](crate::Code::Late). It may be left
/// open.
///
/// # Examples
/// ```
/// use std::{sync::Arc, time::Duration};
/// use millstream_operators::aggregate::sum;
/// use millstream_operators::window::{TimeWindowed, tumbling};
/// use millstream_operators::{Batch, Rejected, Timestamp, testkit::Bench};
///
/// // Rows are their times, and all have one key.
/// let windows = tumbling(Duration::from_micros(10));
/// let mut bench = Bench::new(TimeWindowed::new(windows, Arc::new(|_: &i64| ()), Arc::new(sum(|n: &i64| *n))));
/// let rows = |times: &[i64]| -> Batch<Vec<i64>> {
///     times.iter().map(|n| (Timestamp::from_micros(*n), *n)).collect()
/// };
/// bench.batch(rows(&[3, 7, 12]));
/// bench.watermark(Timestamp::from_micros(11));
/// let results = bench.take();
/// assert_eq!((results[0].start.as_micros(), results[0].end.as_micros(), results[0].value), (0, 10, 10));
/// bench.batch(rows(&[8, 25]));
/// assert_eq!(bench.take_side::<Rejected<i64>>(1)[0].row, 8);
/// bench.watermark(Timestamp::from_micros(30));
/// assert_eq!(bench.take().iter().map(|result| result.value).collect::<Vec<_>>(), [12, 25]);
/// ```
pub struct TimeWindowed<T, K, A: Aggregate<T>> {
    windows: TimeWindows,
    key: KeyOf<T, K>,
    aggregate: Arc<A>,
    panes: BTreeMap<i64, Keyed<K, A::State>>,
    // How far the watermark has come, and up to which end windows were closed on the way there.
    now: Timestamp,
    closed: i64,
    // What a window that is closing has left to give.
    closing: std::vec::IntoIter<Windowed<K, A::Out>>,
    // The open windows whose results have changed since they were last given early, by their ends.
    changed: Timers<K>,
}

impl<T, K: StateKey, A: Aggregate<T>> TimeWindowed<T, K, A> {
    /// The operator that finds keys with `key`.
    pub fn new(windows: TimeWindows, key: KeyOf<T, K>, aggregate: Arc<A>) -> Self {
        TimeWindowed {
            windows,
            key,
            aggregate,
            panes: BTreeMap::new(),
            now: Timestamp::MIN,
            closed: i64::MIN,
            closing: Vec::new().into_iter(),
            changed: Timers::default(),
        }
    }

    /// The panes of the window that ends at `end`, by their beginnings.
    fn panes_of(&self, end: i64) -> impl Iterator<Item = &Keyed<K, A::State>> {
        self.panes.range(end.saturating_sub(self.windows.size)..end).map(|(_, keyed)| keyed)
    }

    fn result(&self, end: i64, key: K, state: &A::State, firing: Firing) -> Windowed<K, A::Out> {
        let start = Timestamp::from_micros(end.saturating_sub(self.windows.size));
        Windowed { key, start, end: Timestamp::from_micros(end), value: self.aggregate.result(state), firing }
    }

    /// The result of one key in the window that ends at `end`, now.
    fn result_of(&self, end: i64, key: &K, firing: Firing) -> Option<Windowed<K, A::Out>> {
        let mut panes = self.panes_of(end).filter_map(|pane| pane.get(key));
        let mut state = panes.next()?.clone();
        panes.for_each(|pane| self.aggregate.merge(&mut state, pane));
        Some(self.result(end, key.clone(), &state, firing))
    }

    /// All results of the window that ends at `end`, in the order of keys.
    fn results(&self, end: i64) -> Vec<Windowed<K, A::Out>> {
        let panes: Vec<_> = self.panes_of(end).collect();
        let mut results: Vec<_> = match panes.as_slice() {
            [pane] => pane.iter().map(|(key, state)| self.result(end, key.clone(), state, Firing::OnTime)).collect(),
            panes => {
                let mut whole: Keyed<K, A::State> = Keyed::default();
                for (key, state) in panes.iter().flat_map(|pane| pane.iter()) {
                    match whole.get_mut(key) {
                        Some(sum) => self.aggregate.merge(sum, state),
                        None => drop(whole.insert(key.clone(), state.clone())),
                    }
                }
                whole.iter().map(|(key, state)| self.result(end, key.clone(), state, Firing::OnTime)).collect()
            }
        };
        results.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        results
    }

    /// Where the next window ends that has rows and is not closed yet.
    fn next_end(&self) -> Option<i64> {
        let from = self.closed.saturating_sub(self.windows.size);
        let ends =
            self.panes.range(from..).map(|(pane, _)| *pane).filter(|pane| self.windows.last_end(*pane) > self.closed);
        ends.map(|pane| self.windows.first_end(pane, self.closed)).next()
    }

    /// Gives what the closing window has left, and closes the next, until `now`.
    fn close(&mut self, now: Timestamp, out: &mut Outbox<'_, Vec<Windowed<K, A::Out>>>) -> Turn {
        loop {
            for result in self.closing.by_ref() {
                out.push(last_of(result.end), result);
                if !out.has_room() {
                    return Turn::Again;
                }
            }
            match self.next_end().filter(|end| *end <= now.as_micros()) {
                Some(end) => {
                    self.closing = self.results(end).into_iter();
                    self.closed = end;
                }
                None => break,
            }
        }
        self.closed = self.closed.max(now.as_micros());
        // They have given their results.
        while self.changed.next_due(now).is_some() {}
        while !planted(Bug::KeepWindows)
            && let Some(entry) = self.panes.first_entry()
            && self.windows.gone_at(self.windows.last_end(*entry.key())) <= now
        {
            entry.remove();
        }
        Turn::Done
    }

    /// Notes which open windows a row has changed; closed ones give their results again.
    fn update(&mut self, pane: i64, key: &K, out: &mut Outbox<'_, Vec<Windowed<K, A::Out>>>) {
        let after = self.now.as_micros().saturating_sub(micros(self.windows.allowed_lateness));
        for end in self.windows.ends(pane, after, self.windows.last_end(pane)) {
            let at = Timestamp::from_micros(end);
            if at > self.now {
                if self.windows.emit != Emit::OnClose {
                    self.changed.set(at, key.clone());
                }
            } else if let Some(result) = self.result_of(end, key, Firing::Late) {
                out.push(last_of(at), result);
            }
        }
    }

    /// Gives the results so far of open windows that have changed.
    fn give_early(&mut self, out: &mut Outbox<'_, Vec<Windowed<K, A::Out>>>) -> Turn {
        while let Some((end, key)) = self.changed.next_due(Timestamp::MAX) {
            if let Some(result) = self.result_of(end.as_micros(), &key, Firing::Early) {
                out.push(last_of(end), result);
            }
            if !out.has_room() {
                return Turn::Again;
            }
        }
        Turn::Done
    }
}

/// The last time in a window that ends at `end`.
pub(super) fn last_of(end: Timestamp) -> Timestamp {
    Timestamp::from_micros(end.as_micros().saturating_sub(1))
}

fn micros(span: std::time::Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

impl<T: Send + 'static, K: StateKey, A: Aggregate<T>> Operator for TimeWindowed<T, K, A> {
    type In = Vec<T>;
    type Out = Vec<Windowed<K, A::Out>>;

    fn on_batch(&mut self, batch: Batch<Vec<T>>, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        let Parts { times, rows, origins, .. } = batch.into_parts();
        for (at, (row, time)) in rows.into_iter().zip(times).enumerate() {
            let pane = self.windows.pane_of(time);
            let is_gone = |pane| {
                let end = self.windows.last_end(pane);
                let gone_at = self.windows.gone_at(end);
                let gone_at = if planted(Bug::NoAllowance) { Timestamp::from_micros(end) } else { gone_at };
                gone_at <= self.now
            };
            // Behind the end of time there is no window.
            if pane.map_or(time == Timestamp::MAX, is_gone) {
                if planted(Bug::CountLateToo)
                    && let Some(pane) = pane
                {
                    let (mut state, end) = (self.aggregate.start(), self.windows.last_end(pane));
                    self.aggregate.add(&mut state, &row, time);
                    out.push(time, self.result(end, (self.key)(&row), &state, Firing::Late));
                }
                refuse_late(row, (time, self.now, CLOSED), origins.as_ref(), at, out);
                continue;
            }
            // Between windows.
            let Some(pane) = pane else { continue };
            let key = (self.key)(&row);
            let keyed = self.panes.entry(pane).or_default();
            match keyed.get_mut(&key) {
                Some(state) => self.aggregate.add(state, &row, time),
                None => {
                    let mut state = self.aggregate.start();
                    self.aggregate.add(&mut state, &row, time);
                    keyed.insert(key.clone(), state);
                }
            }
            if self.windows.emit != Emit::OnClose || self.windows.first_end(pane, i64::MIN) <= self.closed {
                self.update(pane, &key, out);
            }
        }
        self.on_more(out)
    }

    fn on_more(&mut self, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        match self.windows.emit {
            Emit::OnChange => Ok(self.give_early(out)),
            Emit::OnClose | Emit::Every(_) => Ok(Turn::Done),
        }
    }

    fn on_watermark(&mut self, now: Timestamp, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        let now = now.max(self.now);
        let is_due = self.windows.emit.due(self.now, now).is_some();
        if self.close(now, out) == Turn::Again || is_due && self.give_early(out) == Turn::Again {
            return Ok(Turn::Again);
        }
        self.now = now;
        Ok(Turn::Done)
    }

    fn on_end(&mut self, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        self.on_watermark(Timestamp::MAX, out)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        visit.shape(&format!("{}: {}", self.windows.grid(), self.aggregate.shape()))?;
        visit.time("now", &mut self.now)?;
        self.closed = self.now.as_micros();
        if let Emit::Every(_) = self.windows.emit {
            visit.timers("changed", &mut self.changed)?;
        }
        visit.panes_as("panes", &mut self.panes, &self.aggregate.versions())
    }

    fn sides(&self) -> Vec<PortType> {
        vec![late_port::<T>()]
    }
}

impl<T, K, A: Aggregate<T>> fmt::Debug for TimeWindowed<T, K, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TimeWindowed({}, {} panes)", self.windows, self.panes.len())
    }
}
