//! [`SessionWindowed`]: rows aggregated by key in sessions, which end where rows stay away.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::time::last_of;
use super::{Firing, KeyOf, Windowed, late_port, refuse_late};
use crate::aggregate::Aggregate;
use crate::{Batch, Keyed, Operator, Outbox, Parts, PortType, Result, StateKey, StateVisitor, Timers, Timestamp, Turn};

/// Windows that last as long as rows of a key follow each other; see [`session`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionWindows {
    gap: Duration,
    allowed_lateness: Duration,
}

/// Windows that last as long as rows of a key follow each other within less than `gap`: from the first of them to `gap`
/// after the last.
pub fn session(gap: Duration) -> SessionWindows {
    SessionWindows { gap: gap.max(Duration::from_micros(1)), allowed_lateness: Duration::ZERO }
}

impl SessionWindows {
    /// Sessions stay for so long after the watermark has passed their end: a row that comes then changes the result,
    /// which is given again.
    #[must_use]
    pub fn allowed_lateness(mut self, span: Duration) -> Self {
        self.allowed_lateness = span;
        self
    }
}

impl fmt::Display for SessionWindows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session with gaps of {:?}", self.gap)?;
        match self.allowed_lateness.is_zero() {
            true => Ok(()),
            false => write!(f, ", {:?} late allowed", self.allowed_lateness),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Session<S> {
    start: Timestamp,
    end: Timestamp,
    given: bool,
    state: S,
}

/// Aggregates rows by key in sessions. A row may join two sessions into one; what was aggregated is put together. A session
/// gives its result when the watermark reaches its end.
pub struct SessionWindowed<T, K, A: Aggregate<T>> {
    windows: SessionWindows,
    key: KeyOf<T, K>,
    aggregate: Arc<A>,
    // Of each key, in the order of time.
    sessions: Keyed<K, Vec<Session<A::State>>>,
    // When a session may be due, or may go. One that has moved on since finds nothing.
    timers: Timers<K>,
    now: Timestamp,
}

impl<T, K: StateKey, A: Aggregate<T>> SessionWindowed<T, K, A> {
    /// The operator that finds keys with `key`.
    pub fn new(windows: SessionWindows, key: KeyOf<T, K>, aggregate: Arc<A>) -> Self {
        let (sessions, timers) = (Keyed::default(), Timers::default());
        SessionWindowed { windows, key, aggregate, sessions, timers, now: Timestamp::MIN }
    }

    /// Takes a row into the session that it belongs to; false if that is gone.
    fn take(&mut self, key: &K, row: &T, time: Timestamp, out: &mut Outbox<'_, Vec<Windowed<K, A::Out>>>) -> bool {
        let (mut start, mut end) = (time, time.saturating_add(self.windows.gap));
        let touches = |session: &Session<A::State>| session.start < end && time < session.end;
        let known = self.sessions.get_mut(key);
        let joined = known.as_ref().map_or(0..0, |sessions| {
            let first = sessions
                .iter()
                .position(touches)
                .unwrap_or_else(|| sessions.iter().position(|session| session.start > time).unwrap_or(sessions.len()));
            first..first + sessions.iter().skip(first).take_while(|session| touches(session)).count()
        });
        for session in known.iter().flat_map(|sessions| sessions.get(joined.clone()).unwrap_or_default()) {
            (start, end) = (start.min(session.start), end.max(session.end));
        }
        if end.saturating_add(self.windows.allowed_lateness) <= self.now {
            return false;
        }
        let sessions = self.sessions.entry(key.clone()).or_default();
        let mut joined = sessions.splice(joined, []).collect::<Vec<_>>().into_iter();
        let begun = joined.next();
        // A session that waits for its end has a timer already, which moves on with it.
        let mut is_awaited = begun.as_ref().is_some_and(|session| !session.given);
        let mut state = begun.map_or_else(|| self.aggregate.start(), |session| session.state);
        self.aggregate.add(&mut state, row, time);
        for later in joined {
            is_awaited |= !later.given;
            self.aggregate.merge(&mut state, &later.state);
        }
        let given = end <= self.now;
        if given {
            let value = self.aggregate.result(&state);
            out.push(last_of(end), Windowed { key: key.clone(), start, end, value, firing: Firing::Late });
            self.timers.set(end.saturating_add(self.windows.allowed_lateness), key.clone());
        } else if !is_awaited {
            self.timers.set(end, key.clone());
        }
        let place = sessions.partition_point(|other| other.start < start);
        sessions.insert(place, Session { start, end, given, state });
        true
    }

    /// Gives the results of a key that are due, and forgets what is gone.
    fn close(&mut self, key: &K, at: Timestamp, out: &mut Outbox<'_, Vec<Windowed<K, A::Out>>>) {
        let Some(mut sessions) = self.sessions.remove(key) else { return };
        for session in sessions.iter_mut().filter(|session| !session.given) {
            if session.end > at {
                // It has grown since the timer was set.
                self.timers.set(session.end, key.clone());
                continue;
            }
            session.given = true;
            let (start, end, value) = (session.start, session.end, self.aggregate.result(&session.state));
            out.push(last_of(end), Windowed { key: key.clone(), start, end, value, firing: Firing::OnTime });
            if !self.windows.allowed_lateness.is_zero() {
                self.timers.set(end.saturating_add(self.windows.allowed_lateness), key.clone());
            }
        }
        sessions.retain(|session| !session.given || session.end.saturating_add(self.windows.allowed_lateness) > at);
        if !sessions.is_empty() {
            self.sessions.insert(key.clone(), sessions);
        }
    }
}

impl<T: Send + 'static, K: StateKey, A: Aggregate<T>> Operator for SessionWindowed<T, K, A> {
    type In = Vec<T>;
    type Out = Vec<Windowed<K, A::Out>>;

    fn on_batch(&mut self, batch: Batch<Vec<T>>, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        let Parts { times, rows, origins, .. } = batch.into_parts();
        for (at, (row, time)) in rows.into_iter().zip(times).enumerate() {
            let key = (self.key)(&row);
            if !self.take(&key, &row, time, out) {
                refuse_late(row, (time, self.now), origins.as_ref(), at, out);
            }
        }
        Ok(Turn::Done)
    }

    fn on_watermark(&mut self, now: Timestamp, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        let now = now.max(self.now);
        while let Some((at, key)) = self.timers.next_due(now) {
            self.close(&key, at, out);
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
        visit.time("now", &mut self.now)?;
        visit.timers("timers", &mut self.timers)?;
        visit.keyed("sessions", &mut self.sessions)
    }

    fn sides(&self) -> Vec<PortType> {
        vec![late_port::<T>()]
    }
}

impl<T, K, A: Aggregate<T>> fmt::Debug for SessionWindowed<T, K, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionWindowed({}, {:?})", self.windows, self.sessions)
    }
}
