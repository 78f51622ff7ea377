//! [`IntervalJoin`]: rows of two streams whose times are near each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Interval, Pair, RowVersions, Sided, Unbounded, within};
use crate::bugs::{Bug, planted};
use crate::state::{AsSaved, ReadError};
use crate::window::{KeyOf, UNJOINED, late_port, refuse_late};
use crate::{
    Batch, Keyed, Operator, Origins, Outbox, Parts, PortType, Result, StateKey, StateValue, StateVisitor, TimeKeeping,
    Timers, Timestamp, Turn, Watermark,
};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Held<T> {
    row: T,
    paired: bool,
    // Of a row of the left that tells it: the latest time of its partners, even if that is before its own. The last field,
    // as it may be left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
}

type ByTime<T> = BTreeMap<Timestamp, Vec<Held<T>>>;

/// What is held for a key.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Sides<L, R> {
    left: ByTime<L>,
    right: ByTime<R>,
    // The times of those of the left that tell until when they wait, by that: it is not saved, and made when it is needed.
    #[serde(skip)]
    ends: Option<BTreeMap<Timestamp, BTreeSet<Timestamp>>>,
}

impl<L, R> Sides<L, R> {
    /// The same, of rows of another version.
    fn put(
        sides: Sides<AsSaved, AsSaved>,
        left: &dyn Fn(AsSaved) -> Result<L, ReadError>,
        right: &dyn Fn(AsSaved) -> Result<R, ReadError>,
    ) -> Result<Self, ReadError> {
        Ok(Sides { left: by_time(sides.left, left)?, right: by_time(sides.right, right)?, ends: None })
    }
}

fn by_time<T>(rows: ByTime<AsSaved>, read: &dyn Fn(AsSaved) -> Result<T, ReadError>) -> Result<ByTime<T>, ReadError> {
    let held = |Held { row, paired, until }| Ok::<_, ReadError>(Held { row: read(row)?, paired, until });
    rows.into_iter().map(|(time, rows)| Ok((time, rows.into_iter().map(held).collect::<Result<_, _>>()?))).collect()
}

impl<L, R> Default for Sides<L, R> {
    fn default() -> Self {
        Sides { left: BTreeMap::new(), right: BTreeMap::new(), ends: None }
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
/// or, with [`until`](IntervalJoin::until), from so much before a row of the left until a time that this row tells:
///
/// ```text
/// left (time-until, 0 before)  10-15               |
/// right                             9   12  15  16 |
/// pairs                               10-12 10-15  |
/// ```
///
/// A pair has the later of its two times, or that of the watermark if it lies behind that, as rows that are late but not
/// forgotten may make it. A row without a partner is given when the watermark says that none will come,
/// with the last time at which one could have. What an inner, outer, semi or anti join is made of is picked from the
/// [`Pair`]s; which rows without partner are wanted is told beforehand.
///
/// # State
/// Rows of both sides until the watermark has passed the last time at which a partner could come.
///
/// # Time
/// The watermark goes on as it is, less the lateness that is allowed; that nothing comes for now goes on, too.
///
/// # Errors
/// A row behind that watermark leaves by the port `late`; without a bound, one that would be forgotten already.
///
/// # Examples
/// ```
/// use std::{sync::Arc, time::Duration};
/// use millstream_operators::join::{IntervalJoin, Pair, Sided, within};
/// use millstream_operators::{Timestamp, testkit::Bench};
///
/// // Rows are their times, and all have one key; rows without a partner are given as well.
/// let (before, after) = (Duration::from_micros(1), Duration::from_micros(2));
/// let key = Arc::new(|_: &Sided<i64, i64>| ());
/// let mut bench = Bench::new(IntervalJoin::new(within(before, after), (true, true), key));
/// let rows = [Sided::Left(10), Sided::Right(9), Sided::Right(12), Sided::Right(13)];
/// let time = |row: &Sided<i64, i64>| match row {
///     Sided::Left(n) | Sided::Right(n) => Timestamp::from_micros(*n),
/// };
/// bench.batch(rows.into_iter().map(|row| (time(&row), row)).collect());
/// assert_eq!(bench.take(), [Pair::Both(10, 9), Pair::Both(10, 12)]);
/// bench.watermark(Timestamp::from_micros(15));
/// assert_eq!(bench.take(), [Pair::Right(13)]);
/// ```
pub struct IntervalJoin<L, R, K> {
    interval: Interval,
    // Whether rows of the left, and of the right, are given when they have no partner.
    alone: (bool, bool),
    // Only the first partner of a row of the left counts.
    once: bool,
    // What tells the latest time of partners of a row of the left, in place of the interval.
    until: Option<UntilOf<L>>,
    // Rows that are so much behind the watermark are not late yet.
    late_after: Duration,
    key: KeyOf<Sided<L, R>, K>,
    row_versions: RowVersions<L, R>,
    sides: Keyed<K, Sides<L, R>>,
    timers: Timers<K>,
    // Rows before this are late.
    horizon: Timestamp,
    rest: Option<Rest<Sided<L, R>>>,
}

/// How the latest time, that included, of the partners of a row of the left is told.
pub type UntilOf<L> = Arc<dyn Fn(&L) -> Timestamp + Send + Sync>;

struct Rest<T> {
    rows: std::iter::Enumerate<std::iter::Zip<std::vec::IntoIter<T>, std::vec::IntoIter<Timestamp>>>,
    origins: Option<Origins>,
}

impl<L, R, K: StateKey> IntervalJoin<L, R, K> {
    /// The join that gives rows of the left, and of the right, also when they have no partner, as `alone` says.
    pub fn new(interval: Interval, alone: (bool, bool), key: KeyOf<Sided<L, R>, K>) -> Self {
        IntervalJoin {
            interval,
            alone,
            once: false,
            until: None,
            late_after: Duration::ZERO,
            key,
            row_versions: RowVersions::default(),
            sides: Keyed::default(),
            timers: Timers::default(),
            horizon: Timestamp::MIN,
            rest: None,
        }
    }

    /// The join without a bound, in which rows meet while they are not forgotten: what has no partner is not known.
    pub fn unbounded(unbounded: Unbounded, key: KeyOf<Sided<L, R>, K>) -> Self {
        let ttl = unbounded.ttl();
        IntervalJoin { late_after: ttl, ..IntervalJoin::new(within(ttl, ttl), (false, false), key) }
    }

    /// The same join, in which `until` tells the latest time of the partners of a row of the left, and not the interval.
    #[must_use]
    pub fn until(mut self, until: UntilOf<L>) -> Self {
        self.until = Some(until);
        self
    }

    /// The same join, in which a row of the left is paired once at most: for semi joins.
    #[must_use]
    pub fn once(mut self) -> Self {
        self.once = true;
        self
    }

    /// The same join, whose rows are of these versions.
    #[must_use]
    pub fn row_versions(mut self, versions: RowVersions<L, R>) -> Self {
        self.row_versions = versions;
        self
    }

    /// What is held, in words: rows that another join would still need may be gone.
    fn shape(&self) -> String {
        let Interval { from, to, .. } = self.interval;
        let bound = match (&self.until, self.late_after.is_zero()) {
            (Some(_), _) => format!("from {from} µs until a time of the left row"),
            (None, true) => format!("from {from} to {to} µs"),
            (None, false) => format!("forgotten after {to} µs"),
        };
        let alone = match self.alone {
            (false, false) => "pairs",
            (true, false) => "pairs, and the left alone",
            (false, true) => "pairs, and the right alone",
            (true, true) => "pairs, and both alone",
        };
        format!("{alone}{}, {bound}", if self.once { " once" } else { "" })
    }
}

fn shifted(time: Timestamp, by: i64) -> Timestamp {
    Timestamp::from_micros(time.as_micros().saturating_add(by))
}

/// When it is known of a row of the left whether it has a partner; not before its own time, so that it is not late then.
fn known_at<L>(held: &Held<L>, time: Timestamp, to: i64) -> Timestamp {
    held.until.map_or_else(|| shifted(time, to), |until| until.max(time))
}

/// The times of rows of the left, by the times at which it is known of them whether they have a partner.
fn ends_of<L>(left: &ByTime<L>, to: i64) -> BTreeMap<Timestamp, BTreeSet<Timestamp>> {
    let mut ends: BTreeMap<Timestamp, BTreeSet<Timestamp>> = BTreeMap::new();
    for (time, rows) in left {
        for held in rows {
            ends.entry(known_at(held, *time, to)).or_default().insert(*time);
        }
    }
    ends
}

impl<L: StateValue, R: StateValue, K: StateKey> IntervalJoin<L, R, K> {
    fn take(&mut self, row: Sided<L, R>, time: Timestamp, out: &mut Outbox<'_, Vec<Pair<L, R>>>) {
        let key = (self.key)(&row);
        let Interval { from, to, .. } = self.interval;
        // What has gone out as a watermark holds for pairs as well.
        let horizon = self.horizon;
        let sides = self.sides.entry(key.clone()).or_default();
        match row {
            Sided::Left(row) => {
                let until = self.until.as_ref().map(|until| until(&row));
                let mut held = Held { row, paired: false, until };
                let (earliest, latest) = (shifted(time, from), until.unwrap_or(shifted(time, to)));
                // A range must not end before it begins.
                for (at, others) in sides.right.range_mut(earliest..=latest.max(earliest)) {
                    for other in others.iter_mut().filter(|_| *at <= latest) {
                        other.paired = true;
                        if !(self.once && held.paired) {
                            out.push(time.max(*at).max(horizon), Pair::Both(held.row.clone(), other.row.clone()));
                        }
                        held.paired = true;
                    }
                }
                if !(self.once && held.paired) {
                    if let (Some(until), Some(ends)) = (until, &mut sides.ends) {
                        ends.entry(until.max(time)).or_default().insert(time);
                    }
                    sides.left.entry(time).or_default().push(held);
                    self.timers.set(shifted(latest.max(time), 1), key);
                }
            }
            Sided::Right(row) => {
                let mut held = Held { row, paired: false, until: None };
                let earliest = if self.until.is_some() { Timestamp::MIN } else { shifted(time, -to) };
                let mut emptied = Vec::new();
                for (at, others) in sides.left.range_mut(earliest..=shifted(time, -from)) {
                    for other in others.iter_mut().filter(|other| other.until.is_none_or(|until| time <= until)) {
                        held.paired = true;
                        if !(self.once && other.paired) {
                            out.push(time.max(*at).max(horizon), Pair::Both(other.row.clone(), held.row.clone()));
                        }
                        other.paired = true;
                    }
                    if self.once {
                        others.retain(|other| !other.paired);
                        emptied.extend(others.is_empty().then_some(*at));
                    }
                }
                for at in emptied {
                    sides.left.remove(&at);
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
        if self.until.is_some() {
            // Those that came first need not be the first to go.
            let ends = sides.ends.get_or_insert_with(|| ends_of(&sides.left, to));
            while let Some(entry) = ends.first_entry()
                && (*entry.key() < now || now == Timestamp::MAX)
            {
                let (end, times) = entry.remove_entry();
                for time in times {
                    let Some(rows) = sides.left.get_mut(&time) else { continue };
                    for held in rows.extract_if(.., |held| known_at(held, time, to) == end) {
                        if self.alone.0 && !held.paired {
                            out.push(end, Pair::Left(held.row));
                        }
                    }
                    if rows.is_empty() {
                        sides.left.remove(&time);
                    }
                }
            }
        } else {
            while let Some(entry) = sides.left.first_entry()
                && shifted(*entry.key(), to) < now
            {
                let last = shifted(*entry.key(), to);
                let rows = entry.remove().into_iter().filter(|held| self.alone.0 && !held.paired);
                rows.for_each(|held| out.push(last, Pair::Left(held.row)));
            }
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
            if time.saturating_add(self.late_after) < self.horizon {
                let now = self.horizon.saturating_add(self.interval.allowed_lateness);
                refuse_late(row, (time, now, UNJOINED), rest.origins.as_ref(), at, out);
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
        visit.shape(&self.shape())?;
        visit.time("horizon", &mut self.horizon)?;
        visit.timers("timers", &mut self.timers)?;
        visit.keyed_as("sides", &mut self.sides, &self.row_versions.of(Sides::put))?;
        if visit.is_restoring() && planted(Bug::ForgetPairs) {
            let keys: Vec<K> = self.sides.iter().map(|(key, _)| key.clone()).collect();
            for key in keys {
                let Some(sides) = self.sides.get_mut(&key) else { continue };
                sides.left.values_mut().flatten().for_each(|held| held.paired = false);
            }
        }
        Ok(())
    }

    fn time_keeping(&self) -> TimeKeeping {
        TimeKeeping::Delays
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
