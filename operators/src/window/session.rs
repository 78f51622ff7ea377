//! [`SessionWindowed`]: rows aggregated by key in windows that grow together, such as sessions, which end where rows stay away.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::time::last_of;
use super::windowed::CLOSED;
use super::{Emit, Firing, KeyOf, Windowed, late_port, refuse_late};
use crate::aggregate::Aggregate;
use crate::state::{AsSaved, ReadError};
use crate::{Batch, Keyed, Operator, Outbox, Parts, PortType, Result, StateKey, StateVisitor, Timers, Timestamp, Turn};

/// Windows that last as long as rows of a key follow each other; see [`session`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionWindows {
    gap: Duration,
    pub(super) allowed_lateness: Duration,
    pub(super) emit: Emit,
    // It was said to have no length.
    pub(super) no_gap: bool,
}

/// Windows that last as long as rows of a key follow each other within less than `gap`: from the first of them to `gap`
/// after the last.
pub fn session(gap: Duration) -> SessionWindows {
    let (no_gap, gap) = (gap.is_zero(), gap.max(Duration::from_micros(1)));
    SessionWindows { no_gap, gap, allowed_lateness: Duration::ZERO, emit: Emit::OnClose }
}

impl SessionWindows {
    /// Sessions stay for so long after the watermark has passed their end: a row that comes then changes the result,
    /// which is given again.
    #[must_use]
    pub fn allowed_lateness(mut self, span: Duration) -> Self {
        self.allowed_lateness = span;
        self
    }

    /// When to give results of sessions that are still open: when they end only, unless this is called.
    #[must_use]
    pub fn emit(mut self, emit: Emit) -> Self {
        self.emit = emit;
        self
    }
}

/// Windows that each row begins by itself, from its time on; those of a key that overlap are one.
pub trait OwnWindow<T>: fmt::Display + Clone + Send + Sync + 'static {
    /// What they are, in a word.
    const KIND: &'static str;

    /// Where the window of a row by itself ends.
    fn end(&self, row: &T, time: Timestamp) -> Timestamp;

    /// How long windows stay after the watermark has passed their end.
    fn lateness(&self) -> Duration;

    /// When windows that are still open give results.
    fn emits(&self) -> Emit;
}

impl<T> OwnWindow<T> for SessionWindows {
    const KIND: &'static str = "session";

    fn end(&self, _: &T, time: Timestamp) -> Timestamp {
        time.saturating_add(self.gap)
    }

    fn lateness(&self) -> Duration {
        self.allowed_lateness
    }

    fn emits(&self) -> Emit {
        self.emit
    }
}

impl fmt::Display for SessionWindows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session with gaps of {:?}", self.gap)?;
        if !self.allowed_lateness.is_zero() {
            write!(f, ", {:?} late allowed", self.allowed_lateness)?;
        }
        write!(f, "{}", self.emit)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Session<S> {
    start: Timestamp,
    end: Timestamp,
    given: bool,
    state: S,
    // Since its result was last given early, where results are; the last field, as it may be left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    changed: bool,
}

/// Sessions of a key, of what was aggregated in another version.
fn put<S>(
    sessions: VecDeque<Session<AsSaved>>,
    read: &dyn Fn(AsSaved) -> Result<S, ReadError>,
) -> Result<VecDeque<Session<S>>, ReadError> {
    let put =
        |Session { start, end, given, state, changed }| Ok(Session { start, end, given, state: read(state)?, changed });
    sessions.into_iter().map(put).collect()
}

/// Aggregates rows by key in sessions, or in other windows that each row begins by itself ([`OwnWindow`]). A row may join
/// two windows into one; what was aggregated is put together. A window gives its result when the watermark reaches its end.
///
/// ```text
/// rows (session, 10)   0   5   30  |    | 38   45 |
/// watermark                        | 15 |         | 100
/// results                          | [0,15) of 0, 5    | [30,55) of 30, 38, 45
/// ```
///
/// Results have the last time of their window, a microsecond before its end; they come in the order of ends, then of keys.
/// [`Emit`] says which come early.
///
/// # State
/// What is aggregated of each key in each window, until it is closed and no lateness is allowed for it any more.
///
/// # Errors
/// A row whose window is closed already leaves by the port `late`, with the code [`Late`](crate::Code::Late). It may be left
/// open.
///
/// # Examples
/// ```
/// use std::{sync::Arc, time::Duration};
/// use millstream_operators::aggregate::count;
/// use millstream_operators::window::{SessionWindowed, session};
/// use millstream_operators::{Timestamp, testkit::Bench};
///
/// // Rows are their times, and all have one key.
/// let (gap, key) = (session(Duration::from_micros(10)), Arc::new(|_: &i64| ()));
/// let mut bench = Bench::new(SessionWindowed::new(gap, key, Arc::new(count())));
/// bench.batch([0, 5, 30].map(|n| (Timestamp::from_micros(n), n)).into_iter().collect());
/// bench.watermark(Timestamp::from_micros(15));
/// let session = bench.take().remove(0);
/// assert_eq!((session.start.as_micros(), session.end.as_micros(), session.value), (0, 15, 2));
/// ```
pub struct SessionWindowed<T, K, A: Aggregate<T>, W = SessionWindows> {
    windows: W,
    key: KeyOf<T, K>,
    aggregate: Arc<A>,
    // Of each key, in the order of time.
    sessions: Keyed<K, VecDeque<Session<A::State>>>,
    // When a session may be due, or may go. One that has moved on since finds nothing.
    timers: Timers<K>,
    // The keys of sessions that have changed since their results were last given early: a set that is saved, all at one time.
    changed: Timers<K>,
    // What is left of results that are given early.
    early: std::vec::IntoIter<Windowed<K, A::Out>>,
    now: Timestamp,
}

impl<T, K: StateKey, A: Aggregate<T>, W: OwnWindow<T>> SessionWindowed<T, K, A, W> {
    /// The operator that finds keys with `key`.
    pub fn new(windows: W, key: KeyOf<T, K>, aggregate: Arc<A>) -> Self {
        let (sessions, timers, changed) = (Keyed::default(), Timers::default(), Timers::default());
        let early = Vec::new().into_iter();
        SessionWindowed { windows, key, aggregate, sessions, timers, changed, early, now: Timestamp::MIN }
    }

    /// Takes a row into the session that it belongs to; false if that is gone.
    fn take(&mut self, key: &K, row: &T, time: Timestamp, out: &mut Outbox<'_, Vec<Windowed<K, A::Out>>>) -> bool {
        let (mut start, mut end) = (time, self.windows.end(row, time));
        let own_end = end;
        let mut known = self.sessions.get_mut(key);
        let joined = known.as_ref().map_or(0..0, |sessions| {
            let first = sessions.partition_point(|session| session.end <= time);
            first..first + sessions.range(first..).take_while(|session| session.start < own_end).count()
        });
        for session in known.iter().flat_map(|sessions| sessions.range(joined.clone())) {
            (start, end) = (start.min(session.start), end.max(session.end));
        }
        if end.saturating_add(self.windows.lateness()) <= self.now {
            return false;
        }
        let early = self.windows.emits() != Emit::OnClose;
        // Nearly every row: it goes into one session, which is open.
        if joined.len() == 1
            && let Some(session) = known.as_mut().and_then(|sessions| sessions.get_mut(joined.start))
            && !session.given
        {
            (session.start, session.end) = (start, end);
            self.aggregate.add(&mut session.state, row, time);
            if early && !session.changed {
                session.changed = true;
                self.changed.set(Timestamp::MIN, key.clone());
            }
            return true;
        }
        let sessions = self.sessions.entry(key.clone()).or_default();
        let mut joined = sessions.drain(joined).collect::<Vec<_>>().into_iter();
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
            self.timers.set(end.saturating_add(self.windows.lateness()), key.clone());
        } else if !is_awaited {
            self.timers.set(end, key.clone());
        }
        let changed = early && !given;
        if changed {
            self.changed.set(Timestamp::MIN, key.clone());
        }
        let place = sessions.partition_point(|other| other.start < start);
        sessions.insert(place, Session { start, end, given, changed, state });
        true
    }

    /// Gives the results of a key that are due, and forgets what is gone. Sessions do not overlap, so these are the first ones.
    fn close(&mut self, key: &K, at: Timestamp, out: &mut Outbox<'_, Vec<Windowed<K, A::Out>>>) {
        let Some(sessions) = self.sessions.get_mut(key) else { return };
        let ended = sessions.partition_point(|session| session.end <= at);
        for session in sessions.range_mut(..ended).filter(|session| !session.given) {
            (session.given, session.changed) = (true, false);
            let (start, end, value) = (session.start, session.end, self.aggregate.result(&session.state));
            out.push(last_of(end), Windowed { key: key.clone(), start, end, value, firing: Firing::OnTime });
            if !self.windows.lateness().is_zero() {
                self.timers.set(end.saturating_add(self.windows.lateness()), key.clone());
            }
        }
        // It may have grown since its timer was set; those behind have theirs, or come after it.
        if let Some(open) = sessions.get(ended) {
            self.timers.set(open.end, key.clone());
        }
        let gone = sessions.partition_point(|session| session.end.saturating_add(self.windows.lateness()) <= at);
        sessions.drain(..gone);
        if sessions.is_empty() {
            self.sessions.remove(key);
        }
    }

    /// The results so far of open sessions that have changed, in the order of their ends.
    fn early_results(&mut self) -> Vec<Windowed<K, A::Out>> {
        let mut early = Vec::new();
        while let Some((_, key)) = self.changed.next_due(Timestamp::MAX) {
            let sessions = self.sessions.get_mut(&key).into_iter().flatten();
            for session in sessions.filter(|session| session.changed) {
                session.changed = false;
                let (start, end, value) = (session.start, session.end, self.aggregate.result(&session.state));
                early.push(Windowed { key: key.clone(), start, end, value, firing: Firing::Early });
            }
        }
        early.sort_unstable_by(|a, b| (a.end, &a.key).cmp(&(b.end, &b.key)));
        early
    }

    fn give_early(&mut self, out: &mut Outbox<'_, Vec<Windowed<K, A::Out>>>) -> Turn {
        if self.early.len() == 0 {
            self.early = self.early_results().into_iter();
        }
        for result in self.early.by_ref() {
            out.push(last_of(result.end), result);
            if !out.has_room() {
                return Turn::Again;
            }
        }
        Turn::Done
    }
}

impl<T: Send + 'static, K: StateKey, A: Aggregate<T>, W: OwnWindow<T>> Operator for SessionWindowed<T, K, A, W> {
    type In = Vec<T>;
    type Out = Vec<Windowed<K, A::Out>>;

    fn on_batch(&mut self, batch: Batch<Vec<T>>, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        let Parts { times, rows, origins, .. } = batch.into_parts();
        for (at, (row, time)) in rows.into_iter().zip(times).enumerate() {
            let key = (self.key)(&row);
            if !self.take(&key, &row, time, out) {
                refuse_late(row, (time, self.now, CLOSED), origins.as_ref(), at, out);
            }
        }
        self.on_more(out)
    }

    fn on_more(&mut self, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        match self.windows.emits() {
            Emit::OnChange => Ok(self.give_early(out)),
            Emit::OnClose | Emit::Every(_) => Ok(Turn::Done),
        }
    }

    fn on_watermark(&mut self, now: Timestamp, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        let now = now.max(self.now);
        while let Some((at, key)) = self.timers.next_due(now) {
            self.close(&key, at, out);
            if !out.has_room() {
                return Ok(Turn::Again);
            }
        }
        if self.windows.emits().due(self.now, now).is_some() && self.give_early(out) == Turn::Again {
            return Ok(Turn::Again);
        }
        self.now = now;
        Ok(Turn::Done)
    }

    fn on_end(&mut self, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        self.on_watermark(Timestamp::MAX, out)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        visit.shape(&format!("{}: {}", W::KIND, self.aggregate.shape()))?;
        visit.time("now", &mut self.now)?;
        visit.timers("timers", &mut self.timers)?;
        if let Emit::Every(_) = self.windows.emits() {
            visit.timers("changed", &mut self.changed)?;
        }
        visit.keyed_as("sessions", &mut self.sessions, &self.aggregate.versions().within(put))
    }

    fn sides(&self) -> Vec<PortType> {
        vec![late_port::<T>()]
    }
}

impl<T, K, A: Aggregate<T>, W: fmt::Display> fmt::Debug for SessionWindowed<T, K, A, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionWindowed({}, {:?})", self.windows, self.sessions)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{Row, at, key, sample, span, timeline, told};
    use super::super::{session, until};
    use super::*;
    use crate::aggregate::{count, sum};
    use crate::testkit::{Step, cases};

    /// When, of which key, from when, until when, how many rows, of what sum.
    type Given = (i64, u8, i64, i64, (u64, i64), Firing);

    /// A window as the definition sees it: one that a row begins, or what several that overlap have become.
    struct Open {
        key: u8,
        start: i64,
        end: i64,
        numbers: Vec<i64>,
        given: bool,
        changed: bool,
    }

    impl Open {
        fn result(&self, firing: Firing) -> Given {
            let value = (self.numbers.len() as u64, self.numbers.iter().sum());
            (self.end - 1, self.key, self.start, self.end, value, firing)
        }
    }

    /// What is given, and the numbers of rows that are late, one step after the other: a row's own window ends at `own_end`,
    /// windows stay for `lateness`, and early results are due at the multiples of `due`.
    fn by_definition(
        steps: &[Step<Row>],
        own_end: impl Fn(i64, &Row) -> i64,
        (lateness, due): (i64, Option<i64>),
    ) -> (Vec<Given>, Vec<i64>) {
        let (mut open, mut now, mut given, mut late) = (Vec::<Open>::new(), i64::MIN, Vec::new(), Vec::new());
        for step in steps.iter().cloned().chain([Step::Watermark(Timestamp::MAX)]) {
            match step {
                Step::Row(time, row) => {
                    let (start, end) = (time.as_micros(), own_end(time.as_micros(), &row));
                    let (touched, others) = open
                        .into_iter()
                        .partition::<Vec<Open>, _>(|open| open.key == row.0 && open.start < end && start < open.end);
                    open = others;
                    if touched.is_empty() && end + lateness <= now {
                        late.push(row.1);
                        continue;
                    }
                    let mut whole = Open { key: row.0, start, end, numbers: vec![row.1], given: false, changed: true };
                    for part in touched {
                        (whole.start, whole.end) = (whole.start.min(part.start), whole.end.max(part.end));
                        whole.numbers.extend(part.numbers);
                    }
                    if whole.end <= now {
                        whole.given = true;
                        given.push(whole.result(Firing::Late));
                    }
                    open.push(whole);
                }
                Step::Watermark(time) => {
                    let time = time.as_micros();
                    open.sort_by_key(|open| (open.end, open.key));
                    for open in open.iter_mut().filter(|open| open.end <= time && !open.given) {
                        open.given = true;
                        given.push(open.result(Firing::OnTime));
                    }
                    if due.is_some_and(|due| time.div_euclid(due) * due > now) && time != i64::MAX {
                        for open in open.iter_mut().filter(|open| open.changed && !open.given) {
                            open.changed = false;
                            given.push(open.result(Firing::Early));
                        }
                    }
                    open.retain(|open| open.end.saturating_add(lateness) > time);
                    now = now.max(time);
                }
            }
        }
        (given, late)
    }

    /// Results, each with when it is given, and the times of rows that are late.
    type Told = (Vec<(i64, Windowed<u8, (u64, i64)>)>, Vec<i64>);

    fn short(told: Told) -> (Vec<Given>, Vec<i64>) {
        let given = |(time, w): (i64, Windowed<u8, (u64, i64)>)| {
            (time, w.key, w.start.as_micros(), w.end.as_micros(), w.value, w.firing)
        };
        (told.0.into_iter().map(given).collect(), told.1)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(cases(1_000)))]

        #[test]
        fn whatever_is_late_and_whatever_comes_early_is_what_the_definition_gives(
            steps in timeline(40), by in 0i64..40, gap in 1i64..30, lateness in 0i64..20, due in prop::option::of(1i64..30),
            untils: bool, sample in sample(),
        ) {
            // Watermarks that run ahead of some rows.
            let ahead = |step: Step<Row>| match step {
                Step::Watermark(time) => Step::Watermark(at(time.as_micros() + by)),
                row => row,
            };
            let steps: Vec<_> = steps.into_iter().map(ahead).collect();
            let emit = due.map_or(Emit::OnClose, |due| Emit::Every(span(due)));
            let aggregates = || Arc::new((count(), sum(|row: &Row| row.1)));
            // Rows do not know their times: some tell of one before their own.
            let tells = move |row: &Row| row.1 * 2 + gap;
            let expected = match untils {
                true => by_definition(&steps, |time, row| tells(row).max(time) + 1, (lateness, due)),
                false => by_definition(&steps, |time, _| time + gap, (lateness, due)),
            };
            let given = match untils {
                true => {
                    let windows = until(move |row: &Row| at(tells(row))).allowed_lateness(span(lateness)).emit(emit);
                    told(|| SessionWindowed::new(windows, key(), aggregates()), &steps, sample)
                }
                false => {
                    let windows = session(span(gap)).allowed_lateness(span(lateness)).emit(emit);
                    told(|| SessionWindowed::new(windows, key(), aggregates()), &steps, sample)
                }
            };
            prop_assert_eq!(short(given), expected);
        }
    }
}
