//! [`IntervalJoin`]: rows of two streams whose times are near each other.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Pair, Sided};
use crate::window::{KeyOf, late_port, refuse_late};
use crate::{
    Batch, Keyed, Operator, Origins, Outbox, Parts, PortType, Result, StateKey, StateValue, StateVisitor, Timers,
    Timestamp, Turn, Watermark,
};

/// How much earlier or later than a row of the left the rows of the right may be that belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    // Right times are between left + from and left + to, both included.
    from: i64,
    to: i64,
    allowed_lateness: Duration,
}

/// Rows of the right that are at most `before` earlier than a row of the left, or at most `after` later.
pub fn within(before: Duration, after: Duration) -> Interval {
    let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    Interval { from: -micros(before), to: micros(after), allowed_lateness: Duration::ZERO }
}

impl Interval {
    /// Rows may be so much older than the watermark; what has no partner is known so much later, and the watermark that
    /// goes on stays behind as much.
    #[must_use]
    pub fn allowed_lateness(mut self, span: Duration) -> Self {
        self.allowed_lateness = span;
        self
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = |micros: i64| Duration::from_micros(micros.unsigned_abs());
        write!(f, "from {:?} before to {:?} after", span(self.from), span(self.to))
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Held<T> {
    row: T,
    paired: bool,
}

type ByTime<T> = BTreeMap<Timestamp, Vec<Held<T>>>;

/// What is held for a key.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Sides<L, R> {
    left: ByTime<L>,
    right: ByTime<R>,
}

impl<L, R> Default for Sides<L, R> {
    fn default() -> Self {
        Sides { left: BTreeMap::new(), right: BTreeMap::new() }
    }
}

/// Pairs rows of one key whose times are within an [`Interval`] of each other:
///
/// ```text
/// left (1 before to 2 after)   10             |
/// right                            9   12  13 |
/// pairs                           10-9 10-12  |
/// ```
///
/// A pair has the later of its two times. A row without a partner is given when the watermark says that none will come,
/// with the last time at which one could have. What an inner, outer, semi or anti join is made of is picked from the
/// [`Pair`]s; which rows without partner are wanted is told beforehand.
pub struct IntervalJoin<L, R, K> {
    interval: Interval,
    // Whether rows of the left, and of the right, are given when they have no partner.
    alone: (bool, bool),
    // Only the first partner of a row of the left counts.
    once: bool,
    key: KeyOf<Sided<L, R>, K>,
    sides: Keyed<K, Sides<L, R>>,
    timers: Timers<K>,
    // Rows before this are late.
    horizon: Timestamp,
    rest: Option<Rest<Sided<L, R>>>,
}

struct Rest<T> {
    rows: std::iter::Enumerate<std::iter::Zip<std::vec::IntoIter<T>, std::vec::IntoIter<Timestamp>>>,
    origins: Option<Origins>,
}

impl<L, R, K: StateKey> IntervalJoin<L, R, K> {
    /// The join that gives rows of the left, and of the right, also when they have no partner, as `alone` says.
    pub fn new(interval: Interval, alone: (bool, bool), key: KeyOf<Sided<L, R>, K>) -> Self {
        let (sides, timers) = (Keyed::default(), Timers::default());
        IntervalJoin { interval, alone, once: false, key, sides, timers, horizon: Timestamp::MIN, rest: None }
    }

    /// The same join, in which a row of the left is paired once at most: for semi joins.
    #[must_use]
    pub fn once(mut self) -> Self {
        self.once = true;
        self
    }
}

fn shifted(time: Timestamp, by: i64) -> Timestamp {
    Timestamp::from_micros(time.as_micros().saturating_add(by))
}

impl<L: StateValue, R: StateValue, K: StateKey> IntervalJoin<L, R, K> {
    fn take(&mut self, row: Sided<L, R>, time: Timestamp, out: &mut Outbox<'_, Vec<Pair<L, R>>>) {
        let key = (self.key)(&row);
        let Interval { from, to, .. } = self.interval;
        let sides = self.sides.entry(key.clone()).or_default();
        match row {
            Sided::Left(row) => {
                let mut held = Held { row, paired: false };
                for (at, others) in sides.right.range_mut(shifted(time, from)..=shifted(time, to)) {
                    for other in others {
                        other.paired = true;
                        if !(self.once && held.paired) {
                            out.push(time.max(*at), Pair::Both(held.row.clone(), other.row.clone()));
                        }
                        held.paired = true;
                    }
                }
                sides.left.entry(time).or_default().push(held);
                self.timers.set(shifted(shifted(time, to), 1), key);
            }
            Sided::Right(row) => {
                let mut held = Held { row, paired: false };
                for (at, others) in sides.left.range_mut(shifted(time, -to)..=shifted(time, -from)) {
                    for other in others {
                        held.paired = true;
                        if !(self.once && other.paired) {
                            out.push(time.max(*at), Pair::Both(other.row.clone(), held.row.clone()));
                        }
                        other.paired = true;
                    }
                }
                sides.right.entry(time).or_default().push(held);
                self.timers.set(shifted(shifted(time, -from), 1), key);
            }
        }
    }

    /// Forgets the rows of a key that can have no more partners at `now`, and gives those that had none.
    fn forget(&mut self, key: &K, now: Timestamp, out: &mut Outbox<'_, Vec<Pair<L, R>>>) {
        let Interval { from, to, .. } = self.interval;
        let Some(sides) = self.sides.get_mut(key) else { return };
        while let Some(entry) = sides.left.first_entry()
            && shifted(*entry.key(), to) < now
        {
            let last = shifted(*entry.key(), to);
            let rows = entry.remove().into_iter().filter(|held| self.alone.0 && !held.paired);
            rows.for_each(|held| out.push(last, Pair::Left(held.row)));
        }
        while let Some(entry) = sides.right.first_entry()
            && shifted(*entry.key(), -from) < now
        {
            let last = shifted(*entry.key(), -from);
            let rows = entry.remove().into_iter().filter(|held| self.alone.1 && !held.paired);
            rows.for_each(|held| out.push(last, Pair::Right(held.row)));
        }
        if sides.left.is_empty() && sides.right.is_empty() {
            self.sides.remove(key);
        }
    }
}

impl<L: StateValue, R: StateValue, K: StateKey> Operator for IntervalJoin<L, R, K> {
    type In = Vec<Sided<L, R>>;
    type Out = Vec<Pair<L, R>>;

    fn on_batch(&mut self, batch: Batch<Self::In>, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        let Parts { times, rows, origins, .. } = batch.into_parts();
        self.rest = Some(Rest { rows: rows.into_iter().zip(times).enumerate(), origins });
        self.on_more(out)
    }

    fn on_more(&mut self, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        let Some(mut rest) = self.rest.take() else { return Ok(Turn::Done) };
        while let Some((at, (row, time))) = rest.rows.next() {
            if time < self.horizon {
                refuse_late(row, (time, self.horizon), rest.origins.as_ref(), at, out);
                continue;
            }
            self.take(row, time, out);
            if !out.has_room() {
                self.rest = Some(rest);
                return Ok(Turn::Again);
            }
        }
        Ok(Turn::Done)
    }

    fn on_watermark(&mut self, now: Timestamp, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        let horizon = match now {
            Timestamp::MAX => now,
            now => now.saturating_sub(self.interval.allowed_lateness).max(self.horizon),
        };
        while let Some((at, key)) = self.timers.next_due(horizon) {
            self.forget(&key, at, out);
            if !out.has_room() {
                return Ok(Turn::Again);
            }
        }
        self.horizon = horizon;
        out.watermark(Watermark::At(horizon));
        Ok(Turn::Done)
    }

    fn on_end(&mut self, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        // What is held behind the end of time: its timers are beyond it.
        match self.horizon {
            Timestamp::MAX => Ok(Turn::Done),
            _ => self.on_watermark(Timestamp::MAX, out),
        }
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        visit.time("horizon", &mut self.horizon)?;
        visit.timers("timers", &mut self.timers)?;
        visit.keyed("sides", &mut self.sides)
    }

    fn makes_watermarks(&self) -> bool {
        true
    }

    fn sides(&self) -> Vec<PortType> {
        vec![late_port::<Sided<L, R>>()]
    }
}

impl<L, R, K> fmt::Debug for IntervalJoin<L, R, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IntervalJoin({}, {:?})", self.interval, self.sides)
    }
}
