//! [`GlobalWindowed`]: rows aggregated by key in one window for ever.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::count::Open;
use super::{Emit, Firing, KeyOf, Windowed};
use crate::aggregate::Aggregate;
use crate::{Batch, Keyed, Operator, Outbox, Result, StateKey, StateVisitor, Timers, Timestamp, Turn};

/// One window of a key for ever; see [`global`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GlobalWindows {
    pub(crate) every: Option<u64>,
    pub(crate) emit: Emit,
}

/// One window for all rows of a key, which gives its result at the end of the input, and on the way as often as
/// [`emit`](GlobalWindows::emit) and [`every`](GlobalWindows::every) say. It never closes, so that no row is late.
pub fn global() -> GlobalWindows {
    GlobalWindows { every: None, emit: Emit::OnClose }
}

impl GlobalWindows {
    /// Gives the result so far with every so many rows of a key.
    #[must_use]
    pub fn every(mut self, rows: u64) -> Self {
        self.every = Some(rows.max(1));
        self
    }

    /// When to give the result so far: at the end of the input only, unless this is called.
    #[must_use]
    pub fn emit(mut self, emit: Emit) -> Self {
        self.emit = emit;
        self
    }

    /// Whether results come at an interval of event time.
    pub fn go_by_time(&self) -> bool {
        matches!(self.emit, Emit::Every(_))
    }
}

impl fmt::Display for GlobalWindows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("global")?;
        if let Some(rows) = self.every {
            write!(f, ", every {rows} rows")?;
        }
        write!(f, "{}", self.emit)
    }
}

/// Aggregates all rows of a key. What is given on the way is the result so far; the last result of a key is the one that
/// counts:
///
/// ```text
/// rows                    1   2 |   |   4 |   |  the end
/// watermark                     | 5 |     | 6 |
/// OnClose                                     |  7
/// Every(4), event time          | 3           |  7
/// OnChange, two batches     3           7     |  7
/// ```
///
/// A result is about the times of its rows: it begins at the earliest and ends just behind the latest. It is given at that
/// time, or at that of the watermark if that is later.
///
/// # State
/// What is aggregated of each key, for ever.
pub struct GlobalWindowed<T, K, A: Aggregate<T>> {
    windows: GlobalWindows,
    key: KeyOf<T, K>,
    aggregate: Arc<A>,
    open: Keyed<K, Open<A::State>>,
    // The keys that have changed since their results were last given: a set that is saved, all at one time.
    changed: Timers<K>,
    now: Timestamp,
    ending: std::vec::IntoIter<(K, Open<A::State>)>,
}

impl<T, K: StateKey, A: Aggregate<T>> GlobalWindowed<T, K, A> {
    /// The operator that finds keys with `key`.
    pub fn new(windows: GlobalWindows, key: KeyOf<T, K>, aggregate: Arc<A>) -> Self {
        let (open, changed, ending) = (Keyed::default(), Timers::default(), Vec::new().into_iter());
        GlobalWindowed { windows, key, aggregate, open, changed, now: Timestamp::MIN, ending }
    }

    /// Gives the results so far of the keys that have changed.
    fn give_early(&mut self, now: Timestamp, out: &mut Outbox<'_, Vec<Windowed<K, A::Out>>>) -> Turn {
        while let Some((_, key)) = self.changed.next_due(Timestamp::MAX) {
            if let Some(open) = self.open.get(&key) {
                out.push(open.last.max(now), open.result(self.aggregate.as_ref(), key, Firing::Early));
            }
            if !out.has_room() {
                return Turn::Again;
            }
        }
        Turn::Done
    }
}

impl<T: Send + 'static, K: StateKey, A: Aggregate<T>> Operator for GlobalWindowed<T, K, A> {
    type In = Vec<T>;
    type Out = Vec<Windowed<K, A::Out>>;

    fn on_batch(&mut self, batch: Batch<Vec<T>>, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        let GlobalWindowed { windows, key, aggregate, open, changed, now, .. } = self;
        for (time, row) in batch {
            let key = key(&row);
            let window = open.entry(key.clone()).or_insert_with(|| Open::at(time, aggregate.start()));
            window.add(aggregate.as_ref(), &row, time);
            if windows.every.is_some_and(|every| window.rows.is_multiple_of(every)) {
                out.push(window.last.max(*now), window.result(aggregate.as_ref(), key.clone(), Firing::Early));
            }
            if windows.emit != Emit::OnClose {
                changed.set(Timestamp::MIN, key);
            }
        }
        self.on_more(out)
    }

    fn on_more(&mut self, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        match self.windows.emit {
            Emit::OnChange => Ok(self.give_early(self.now, out)),
            Emit::OnClose | Emit::Every(_) => Ok(Turn::Done),
        }
    }

    fn on_watermark(&mut self, now: Timestamp, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        if now == Timestamp::MAX {
            // What is behind would take what comes after the end of time for late.
            return self.on_end(out);
        }
        if let Some(due) = self.windows.emit.due(self.now, now)
            // The last moment before, as with windows that close then.
            && self.give_early(due.saturating_sub(Duration::from_micros(1)), out) == Turn::Again
        {
            return Ok(Turn::Again);
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
        visit.shape(&format!("global: {}", self.aggregate.shape()))?;
        visit.time("now", &mut self.now)?;
        if let Emit::Every(_) = self.windows.emit {
            visit.timers("changed", &mut self.changed)?;
        }
        visit.keyed_as("open", &mut self.open, &self.aggregate.versions().within(Open::put))
    }
}

impl<T, K, A: Aggregate<T>> fmt::Debug for GlobalWindowed<T, K, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GlobalWindowed({}, {:?})", self.windows, self.open)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::super::tests::{Row, at, key, sample, span, timeline, told};
    use super::*;
    use crate::aggregate::collect;
    use crate::testkit::{Step, cases};

    type Given = (i64, Windowed<u8, Vec<i64>>);

    /// What is so far of a key, given at `now` or when its last row is.
    fn of(key: u8, rows: &[(i64, i64)], now: i64, firing: Firing) -> Given {
        let times = || rows.iter().map(|(time, _)| *time);
        let (start, last) = (times().min().unwrap(), times().max().unwrap());
        let value = rows.iter().map(|(_, number)| *number).collect();
        (last.max(now), Windowed { key, start: at(start), end: at(last + 1), value, firing })
    }

    /// One step after the other, where the rows between two watermarks come as one batch.
    fn by_definition(steps: &[Step<Row>], every: Option<usize>, emit: Emit) -> Vec<Given> {
        let (mut all, mut changed) = (BTreeMap::<u8, Vec<(i64, i64)>>::new(), BTreeSet::new());
        let (mut now, mut given) = (i64::MIN, Vec::new());
        for step in steps.iter().cloned().chain([Step::Watermark(Timestamp::MAX)]) {
            match step {
                Step::Row(time, (key, number)) => {
                    let rows = all.entry(key).or_default();
                    rows.push((time.as_micros(), number));
                    changed.insert(key);
                    if every.is_some_and(|every| rows.len() % every == 0) {
                        given.push(of(key, rows, now, Firing::Early));
                    }
                }
                Step::Watermark(time) => {
                    let time = time.as_micros();
                    // The moment at which early results are due, if there is one: behind the batch, or just before a multiple.
                    let due = match emit {
                        Emit::OnClose => None,
                        Emit::OnChange => Some(now),
                        Emit::Every(span) => {
                            let step = span.as_micros() as i64;
                            let due = time.div_euclid(step) * step;
                            (now < due && time != i64::MAX).then_some(due - 1)
                        }
                    };
                    if let Some(due) = due {
                        let changed = std::mem::take(&mut changed);
                        given.extend(changed.into_iter().map(|key| of(key, &all[&key], due, Firing::Early)));
                    }
                    if time == i64::MAX {
                        given.extend(all.iter().map(|(key, rows)| of(*key, rows, now, Firing::OnTime)));
                    }
                    now = now.max(time);
                }
            }
        }
        given
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(cases(1_000)))]

        #[test]
        fn what_is_given_on_the_way_and_at_the_end_is_what_the_definition_gives(
            steps in timeline(20), every in prop::option::of(1usize..6), due in 1i64..30, n in 0usize..3, sample in sample(),
        ) {
            let emit = [Emit::OnChange, Emit::Every(span(due)), Emit::OnClose][n];
            let windows = global().emit(emit);
            let windows = every.map_or(windows, |every| windows.every(every as u64));
            let make = || GlobalWindowed::new(windows, key(), Arc::new(collect(|row: &Row| row.1)));
            // What comes on change depends on how rows come in batches.
            let sample = if emit == Emit::OnChange { 1 } else { sample };
            prop_assert_eq!(told(make, &steps, sample), (by_definition(&steps, every, emit), Vec::new()));
        }
    }
}
