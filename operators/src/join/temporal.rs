//! [`TemporalJoin`]: each row with the version of a table that was valid at its time.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Pair, RowVersions, Sided};
use crate::state::{AsSaved, ReadError};
use crate::window::{KeyOf, UNJOINED, late_port, refuse_late};
use crate::{
    Batch, Keyed, Operator, Outbox, Parts, PortType, Result, StateKey, StateValue, StateVisitor, Timers, Timestamp,
    Turn,
};

/// What is held for a key: rows of the left that wait, and the versions of the right that are valid now or later.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Held<L, R> {
    waiting: BTreeMap<Timestamp, Vec<L>>,
    versions: BTreeMap<Timestamp, R>,
}

impl<L, R> Held<L, R> {
    /// The same, of rows of another version.
    fn put(
        held: Held<AsSaved, AsSaved>,
        left: &dyn Fn(AsSaved) -> Result<L, ReadError>,
        right: &dyn Fn(AsSaved) -> Result<R, ReadError>,
    ) -> Result<Self, ReadError> {
        let waiting = held.waiting.into_iter();
        let waiting = waiting.map(|(time, rows)| Ok((time, rows.into_iter().map(left).collect::<Result<_, _>>()?)));
        let versions = held.versions.into_iter().map(|(time, row)| Ok((time, right(row)?)));
        Ok(Held {
            waiting: waiting.collect::<Result<_, ReadError>>()?,
            versions: versions.collect::<Result<_, ReadError>>()?,
        })
    }
}

impl<L, R> Default for Held<L, R> {
    fn default() -> Self {
        Held { waiting: BTreeMap::new(), versions: BTreeMap::new() }
    }
}

/// Pairs each row of the left with the newest row of the right of its key that is not later than it: rows of the right are
/// versions of a table.
///
/// ```text
/// right (prices)   5: a          9: b |
/// left                   7   3        |
/// pairs                               | 3-  7-a
/// ```
///
/// A row waits until the watermark has come to its time, as an earlier version may still come; rows of one key are given
/// in the order of time. The newest version of each key is kept for ever, unless versions are [valid](Self::valid_for) for a
/// time only.
///
/// # State
/// Of each key the rows that wait, and the versions from the one on that is valid where the watermark is.
///
/// # Errors
/// A version that comes behind the watermark is taken if it is newer than the one that was valid so far: it counts for the
/// rows to come, and those that were given stay as they are. Other rows behind the watermark leave by the port `late`, which
/// may be left open.
pub struct TemporalJoin<L, R, K> {
    key: KeyOf<Sided<L, R>, K>,
    row_versions: RowVersions<L, R>,
    ttl: Option<Duration>,
    held: Keyed<K, Held<L, R>>,
    timers: Timers<K>,
    now: Timestamp,
}

impl<L, R, K: StateKey> TemporalJoin<L, R, K> {
    /// The join.
    pub fn new(key: KeyOf<Sided<L, R>, K>) -> Self {
        let (held, timers, row_versions) = (Keyed::default(), Timers::default(), RowVersions::default());
        TemporalJoin { key, row_versions, ttl: None, held, timers, now: Timestamp::MIN }
    }

    /// The same join, whose rows are of these versions.
    #[must_use]
    pub fn row_versions(mut self, versions: RowVersions<L, R>) -> Self {
        self.row_versions = versions;
        self
    }

    /// The same join, where a version is valid for `ttl` and no longer, also if no newer one comes: then a row of the left that
    /// is later has none. So keys whose versions stay away do not stay for ever; those of a checkpoint that was made without it
    /// stay until a row of their key comes.
    #[must_use]
    pub fn valid_for(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }
}

impl<L: StateValue, R: StateValue, K: StateKey> TemporalJoin<L, R, K> {
    /// Whether a row behind the watermark is a version that rows of the left may still need: until now there is no newer one
    /// that is valid.
    fn is_needed(&mut self, key: &K, row: &Sided<L, R>, time: Timestamp) -> bool {
        let Sided::Right(_) = row else { return false };
        if end_of(self.ttl, time) < self.now {
            return false;
        }
        let newer = (Bound::Excluded(time), Bound::Included(self.now));
        self.held.get(key).is_none_or(|held| held.versions.range(newer).next().is_none())
    }
}

impl<L: StateValue, R: StateValue, K: StateKey> Operator for TemporalJoin<L, R, K> {
    type In = Vec<Sided<L, R>>;
    type Out = Vec<Pair<L, R>>;

    fn on_batch(&mut self, batch: Batch<Self::In>, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        let Parts { times, rows, origins, .. } = batch.into_parts();
        for (at, (row, time)) in rows.into_iter().zip(times).enumerate() {
            let key = (self.key)(&row);
            if time < self.now && !self.is_needed(&key, &row, time) {
                refuse_late(row, (time, self.now, UNJOINED), origins.as_ref(), at, out);
                continue;
            }
            self.timers.set(shortly_after(time), key.clone());
            let held = self.held.entry(key).or_default();
            match row {
                Sided::Left(row) => held.waiting.entry(time).or_default().push(row),
                Sided::Right(row) => drop(held.versions.insert(time, row)),
            }
        }
        Ok(Turn::Done)
    }

    fn on_watermark(&mut self, now: Timestamp, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        let now = now.max(self.now);
        while let Some((due, key)) = self.timers.next_due(now) {
            let ttl = self.ttl;
            let Some(held) = self.held.get_mut(&key) else { continue };
            while let Some(entry) = held.waiting.first_entry()
                && *entry.key() < due
            {
                let (time, rows) = entry.remove_entry();
                let version = held.versions.range(..=time).next_back().filter(|(from, _)| time <= end_of(ttl, **from));
                let version = version.map(|(_, version)| version);
                for row in rows {
                    out.push(
                        time,
                        match version {
                            Some(version) => Pair::Both(row, version.clone()),
                            None => Pair::Left(row),
                        },
                    );
                }
            }
            // Versions that a newer one has taken the place of, as no row before `due` will come.
            let newest = held.versions.range(..due).next_back().map(|(time, _)| *time);
            if let Some(newest) = newest {
                held.versions = held.versions.split_off(&newest);
            }
            while let Some(first) = held.versions.first_entry()
                && end_of(ttl, *first.key()) < due
            {
                first.remove();
            }
            let end = held.versions.first_key_value().and_then(|(from, _)| gone_at(ttl?, *from));
            if let Some(end) = end {
                self.timers.set(end, key.clone());
            }
            if held.waiting.is_empty() && held.versions.is_empty() {
                self.held.remove(&key);
            }
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
        visit.shape("each row with the version of its time")?;
        visit.time("now", &mut self.now)?;
        visit.timers("timers", &mut self.timers)?;
        visit.keyed_as("held", &mut self.held, &self.row_versions.of(Held::put))
    }

    fn sides(&self) -> Vec<PortType> {
        vec![late_port::<Sided<L, R>>()]
    }
}

/// The last moment at which a version is valid.
fn end_of(ttl: Option<Duration>, version: Timestamp) -> Timestamp {
    ttl.map_or(Timestamp::MAX, |ttl| version.saturating_add(ttl))
}

/// When to come back to a version that is not valid any more: a quarter of `ttl` late at most, so that a key whose versions take
/// each other's place has a few timers, and not one for each of them.
fn gone_at(ttl: Duration, version: Timestamp) -> Option<Timestamp> {
    let tick = i64::try_from(ttl.as_micros() / 4).unwrap_or(i64::MAX).max(1);
    let end = shortly_after(end_of(Some(ttl), version)).as_micros();
    // Behind the end of time nobody comes back.
    let at = end.checked_add(tick - 1)?.div_euclid(tick).checked_mul(tick)?;
    Some(Timestamp::from_micros(at))
}

/// A row is due when the watermark is behind its time: another of the same time may come until then.
fn shortly_after(time: Timestamp) -> Timestamp {
    Timestamp::from_micros(time.as_micros().saturating_add(1))
}

impl<L, R, K> fmt::Debug for TemporalJoin<L, R, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TemporalJoin({:?})", self.held)
    }
}
