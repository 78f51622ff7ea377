//! [`Process`]: state and timers by key, for what no other verb does.

use std::any::TypeId;
use std::fmt;
use std::sync::Arc;

use super::Kept;
use super::silence::Silence;
use crate::window::KeyOf;
use crate::{
    Batch, Fault, FaultKind, Keyed, Operator, Outbox, PortType, Result, Retry, Side, StateKey, StateValue,
    StateVisitor, Timers, Timestamp, Turn, Versions,
};

/// What a closure of [`Process`] sees and may do: the key it is about, its state, timers, and the way out.
pub struct Visit<'a, 'o, K, S, U: Send + 'static> {
    key: &'a K,
    time: Timestamp,
    state: &'a mut Option<S>,
    timers: &'a mut Timers<K>,
    out: &'a mut Outbox<'o, Vec<U>>,
    // The side outputs that there are, and the first other that a row was given to.
    sides: &'a [PortType],
    undeclared: Option<String>,
}

impl<K: StateKey, S, U: Send + 'static> Visit<'_, '_, K, S, U> {
    /// The key.
    pub fn key(&self) -> &K {
        self.key
    }

    /// The event time of the row, or the time that the timer was set for.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// The state of the key: set it, change it, or take it to forget the key.
    pub fn state(&mut self) -> &mut Option<S> {
        self.state
    }

    /// Comes back to this key when event time has come to `at`.
    pub fn set_timer(&mut self, at: Timestamp) {
        self.timers.set(at, self.key.clone());
    }

    /// Takes a timer back.
    pub fn clear_timer(&mut self, at: Timestamp) {
        self.timers.clear(at, self.key.clone());
    }

    /// Gives a row, at the time of what this is about.
    pub fn give(&mut self, row: U) {
        self.out.push(self.time, row);
    }

    /// Gives a row at a side output, which must be among those that the operator [has](Process::with_sides): the run ends with a
    /// fault if it is not.
    pub fn give_to<V: Send + 'static>(&mut self, side: &Side<V>, row: V) {
        let of = side.port().checked_sub(1).and_then(|place| self.sides.get(place));
        if of.is_none_or(|of| of.payload() != TypeId::of::<Vec<V>>()) {
            self.undeclared.get_or_insert_with(|| format!("{side:?} of {}", side.port_type().rows()));
            return;
        }
        self.out.push_side(side, self.time, row);
    }

    /// Gives a row at another time.
    pub fn give_at(&mut self, time: Timestamp, row: U) {
        self.out.push(time, row);
    }
}

impl<K, S, U: Send + 'static> fmt::Debug for Visit<'_, '_, K, S, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Visit(at {})", self.time)
    }
}

/// Calls a closure for each row with the state of its key, and another when event time has come to a timer that one of
/// them has set. Timers come in the order of time, then of keys. To tell of keys that say nothing for 10:
///
/// ```text
/// rows        0: b   0: a   5: a  |        15: b  |
/// watermark                       | 14            | 15
/// timers      b: 10  a: 10  a: 15 | b at 10       | a at 15
/// given                           | b             | a
/// ```
///
/// # State
/// A value for each key that was set and not taken, and timers. Values are kept for ever, unless [`kept`](Process::kept) says
/// for how long.
///
/// # Time
/// A timer is called when the watermark has come to it. At the end of the input time comes to its end: all timers are called
/// that are still set, and those that they set, so that a timer that always sets another must know when to stop.
///
/// # Order
/// What is given for a row comes before what is given for the next; by default it has the time of the row, or of the timer.
///
/// # Examples
/// Keys that say nothing for 10 microseconds, with the number that they said last:
///
/// ```
/// use std::{sync::Arc, time::Duration};
/// use millstream_operators::{Timestamp, rows::{Process, Visit}, testkit::Bench};
///
/// type Row = (char, i64);
/// let on_row = |visit: &mut Visit<'_, '_, char, (Timestamp, i64), Row>, (_, n): Row| {
///     let due = visit.time().saturating_add(Duration::from_micros(10));
///     if let Some((before, _)) = visit.state().replace((due, n)) {
///         visit.clear_timer(before);
///     }
///     visit.set_timer(due);
/// };
/// let on_timer = |visit: &mut Visit<'_, '_, char, (Timestamp, i64), Row>| {
///     if let Some((_, n)) = visit.state().take() {
///         let key = *visit.key();
///         visit.give((key, n));
///     }
/// };
/// let silent = Process::new(Arc::new(|row: &Row| row.0), Arc::new(on_row), Arc::new(on_timer));
/// let mut bench = Bench::new(silent.operator::<Row>());
/// let at = Timestamp::from_micros;
/// bench.batch([(at(0), ('b', 1)), (at(0), ('a', 2)), (at(5), ('a', 3))].into_iter().collect());
/// bench.watermark(at(14));
/// assert_eq!(bench.take(), [('b', 1)]);
/// bench.watermark(at(15));
/// assert_eq!(bench.take(), [('a', 3)]);
/// ```
pub struct Process<T, K, S, R, W> {
    key: KeyOf<T, K>,
    on_row: Arc<R>,
    on_timer: Arc<W>,
    state: Keyed<K, S>,
    timers: Timers<K>,
    silence: Option<Silence<K>>,
    versions: Versions<S>,
    sides: Vec<PortType>,
}

impl<T, K: StateKey, S: StateValue, R, W> Process<T, K, S, R, W> {
    /// The operator that finds keys with `key`.
    pub fn new(key: KeyOf<T, K>, on_row: Arc<R>, on_timer: Arc<W>) -> Self {
        let (state, timers, versions) = (Keyed::default(), Timers::default(), Versions::default());
        Process { key, on_row, on_timer, state, timers, silence: None, versions, sides: Vec::new() }
    }

    /// The same operator, which keeps its state as `kept` says. A timer counts as something that comes for its key, too.
    #[must_use]
    pub fn kept(mut self, kept: Kept<S>) -> Self {
        self.silence = kept.silence();
        self.versions = kept.versions;
        self
    }

    /// The same operator with these side outputs, whose ports are 1, 2, ….
    #[must_use]
    pub fn with_sides<V: Send + 'static>(mut self, sides: &[Side<V>]) -> Self {
        self.sides = sides.iter().map(Side::port_type).collect();
        self
    }

    fn begin<U: Send + 'static>(&mut self, out: &mut Outbox<'_, Vec<U>>) {
        if let Some(silence) = &mut self.silence {
            silence.begin(out);
        }
    }

    fn visit<U: Send + 'static>(
        &mut self,
        key: K,
        time: Timestamp,
        out: &mut Outbox<'_, Vec<U>>,
        call: impl FnOnce(&mut Visit<'_, '_, K, S, U>),
    ) -> Result {
        if let Some(silence) = &mut self.silence
            && silence.touch(&key, time)
        {
            self.state.remove(&key);
        }
        let (timers, sides) = (&mut self.timers, self.sides.as_slice());
        let undeclared = self.state.update(key, |key, state| {
            let mut visit = Visit { key, time, state, timers, out, sides, undeclared: None };
            call(&mut visit);
            visit.undeclared
        });
        match undeclared {
            None => Ok(()),
            Some(side) => {
                let words = format!(
                    "a row is given to {side} rows, which is not declared as a side output: hand it to `process_with_sides`"
                );
                Err(Fault::new(FaultKind::Setup, words).retry_with(Retry::Never))
            }
        }
    }
}

/// An operator's types, which the closures alone do not tell.
pub(crate) struct Typed<T, K, S, U, R, W>(pub(crate) Process<T, K, S, R, W>, std::marker::PhantomData<fn() -> U>);

impl<T, K, S, R, W> Process<T, K, S, R, W>
where
    T: Send + 'static,
    K: StateKey,
    S: StateValue,
{
    /// The operator, as one that gives rows of type `U`.
    pub fn operator<U>(self) -> impl Operator<In = Vec<T>, Out = Vec<U>>
    where
        U: Send + 'static,
        R: Fn(&mut Visit<'_, '_, K, S, U>, T) + Send + Sync + 'static,
        W: Fn(&mut Visit<'_, '_, K, S, U>) + Send + Sync + 'static,
    {
        Typed(self, std::marker::PhantomData)
    }
}

impl<T, K, S, U, R, W> Operator for Typed<T, K, S, U, R, W>
where
    T: Send + 'static,
    K: StateKey,
    S: StateValue,
    U: Send + 'static,
    R: Fn(&mut Visit<'_, '_, K, S, U>, T) + Send + Sync + 'static,
    W: Fn(&mut Visit<'_, '_, K, S, U>) + Send + Sync + 'static,
{
    type In = Vec<T>;
    type Out = Vec<U>;

    fn on_batch(&mut self, batch: Batch<Vec<T>>, out: &mut Outbox<'_, Vec<U>>) -> Result<Turn> {
        let on_row = Arc::clone(&self.0.on_row);
        self.0.begin(out);
        for (time, row) in batch {
            let key = (self.0.key)(&row);
            self.0.visit(key, time, out, |visit| on_row(visit, row))?;
        }
        Ok(Turn::Done)
    }

    fn on_watermark(&mut self, now: Timestamp, out: &mut Outbox<'_, Vec<U>>) -> Result<Turn> {
        let on_timer = Arc::clone(&self.0.on_timer);
        self.0.begin(out);
        while let Some((at, key)) = self.0.timers.next_due(now) {
            self.0.visit(key, at, out, |visit| on_timer(visit))?;
            if !out.has_room() {
                return Ok(Turn::Again);
            }
        }
        // Behind the timers, each of which may have been set before the end of what its key had.
        let Process { silence, state, .. } = &mut self.0;
        let Some(silence) = silence else { return Ok(Turn::Done) };
        Ok(silence.on_watermark(now, out, |key| drop(state.remove(&key))))
    }

    fn on_wake(&mut self, now: Timestamp, out: &mut Outbox<'_, Vec<U>>) -> Result<Turn> {
        let Process { silence, state, .. } = &mut self.0;
        let Some(silence) = silence else { return Ok(Turn::Done) };
        Ok(silence.on_wake(now, out, |key| drop(state.remove(&key))))
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        visit.shape("process")?;
        visit.timers("timers", &mut self.0.timers)?;
        visit.keyed_as("state", &mut self.0.state, &self.0.versions)?;
        self.0.silence.as_mut().map_or(Ok(()), |silence| silence.state(visit))
    }

    fn sides(&self) -> Vec<PortType> {
        self.0.sides.clone()
    }
}

impl<T, K, S, R, W> fmt::Debug for Process<T, K, S, R, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Process({:?}, {:?})", self.state, self.timers)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::rows::kept;
    use crate::testkit::{Bench, Step, steps_do_not_matter};

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    /// Tells of keys that say nothing for 10.
    fn silence() -> impl Operator<In = Vec<(u8, u32)>, Out = Vec<(u8, u32)>> {
        let on_row = |visit: &mut Visit<'_, '_, u8, (Timestamp, u32), (u8, u32)>, row: (u8, u32)| {
            let due = at(visit.time().as_micros() + 10);
            if let Some((before, _)) = visit.state().replace((due, row.1)) {
                visit.clear_timer(before);
            }
            visit.set_timer(due);
        };
        let on_timer = |visit: &mut Visit<'_, '_, u8, (Timestamp, u32), (u8, u32)>| {
            if let Some((_, last)) = visit.state().take() {
                let key = *visit.key();
                visit.give((key, last));
            }
        };
        Process::new(Arc::new(|row: &(u8, u32)| row.0), Arc::new(on_row), Arc::new(on_timer)).operator()
    }

    #[test]
    fn timers_come_when_event_time_has_come_so_far_with_the_state_of_their_keys() {
        let row = |time, key, n| Step::Row(at(time), (key, n));
        let steps =
            [row(0, 2, 1), row(0, 1, 2), row(5, 1, 3), Step::Watermark(at(14)), row(15, 2, 4), Step::Watermark(at(15))];
        assert_eq!(steps_do_not_matter(silence, &steps), [(2, 1), (1, 3)]);
    }

    /// A row, or a timer that has come, with how many rows its key had until then.
    type Seen = (u8, i64, bool, u32);

    /// Counts the rows of each key, and comes back to it so long behind each row.
    fn counts(wait: i64, ttl: i64) -> impl Operator<In = Vec<(u8, i64)>, Out = Vec<Seen>> {
        let on_row = move |visit: &mut Visit<'_, '_, u8, u32, Seen>, row: (u8, i64)| {
            let count = visit.state().get_or_insert(0);
            *count += 1;
            let count = *count;
            visit.set_timer(at(row.1 + wait));
            visit.give((row.0, row.1, true, count));
        };
        let on_timer = |visit: &mut Visit<'_, '_, u8, u32, Seen>| {
            let (key, time) = (*visit.key(), visit.time().as_micros());
            let count = visit.state().unwrap_or(0);
            visit.give((key, time, false, count));
        };
        let process = Process::new(Arc::new(|row: &(u8, i64)| row.0), Arc::new(on_row), Arc::new(on_timer));
        process.kept(kept().ttl(Duration::from_micros(ttl.unsigned_abs()))).operator()
    }

    /// The same, one step after the other.
    fn counts_by_definition(steps: &[Step<(u8, i64)>], wait: i64, ttl: i64) -> Vec<Seen> {
        let (mut timers, mut known, mut seen) = (BTreeSet::new(), BTreeMap::<u8, (i64, u32)>::new(), Vec::new());
        let mut touch = |key: u8, time: i64, rows: u32| {
            let (newest, count) = known.entry(key).or_insert((time, 0));
            if time - *newest > ttl {
                *count = 0;
            }
            (*newest, *count) = (time.max(*newest), *count + rows);
            *count
        };
        for step in steps.iter().cloned().chain([Step::Watermark(Timestamp::MAX)]) {
            match step {
                Step::Row(_, (key, time)) => {
                    seen.push((key, time, true, touch(key, time, 1)));
                    timers.insert((time + wait, key));
                }
                Step::Watermark(now) => {
                    while let Some((time, key)) = timers.first().copied().filter(|(time, _)| *time <= now.as_micros()) {
                        timers.remove(&(time, key));
                        seen.push((key, time, false, touch(key, time, 0)));
                    }
                }
            }
        }
        seen
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(crate::testkit::cases(256)))]
        #[test]
        fn rows_and_timers_find_what_their_keys_have_until_they_are_silent(
            mut rows in prop::collection::vec((0i64..150, 0i64..10, 0u8..4), 1..40), wait in 0i64..30, ttl in 1i64..30,
            every in 1usize..9,
        ) {
            rows.sort_by_key(|(time, jitter, _)| time + jitter);
            let (mut steps, mut latest) = (Vec::new(), i64::MIN);
            for (n, (time, _, key)) in rows.into_iter().enumerate() {
                latest = latest.max(time);
                steps.push(Step::Row(at(time), (key, time)));
                // No row is late.
                steps.extend((n % every == 0).then(|| Step::Watermark(at(latest - 10))));
            }
            steps.push(Step::Watermark(at(1_000)));
            let expected = counts_by_definition(&steps, wait, ttl);
            prop_assert_eq!(steps_do_not_matter(|| counts(wait, ttl), &steps), expected);
        }
    }

    #[test]
    fn a_side_output_takes_what_is_told_beside() {
        type Row = (u8, u32);
        let small = || Side::<Row>::new(1, "small");
        let make = || {
            let on_row = move |visit: &mut Visit<'_, '_, u8, u32, Row>, row: Row| {
                visit.set_timer(at(visit.time().as_micros() + 3));
                match visit.state().replace(row.1) {
                    Some(before) if before > row.1 => visit.give_to(&small(), row),
                    _ => visit.give(row),
                }
            };
            let on_timer = move |visit: &mut Visit<'_, '_, u8, u32, Row>| {
                let key = *visit.key();
                visit.give_to(&small(), (key, 0));
            };
            let key: KeyOf<Row, u8> = Arc::new(|row: &Row| row.0);
            Process::new(key, Arc::new(on_row), Arc::new(on_timer)).with_sides(&[small()]).operator()
        };
        let steps = [(0, 5), (1, 4), (2, 6)].map(|(time, n)| Step::Row(at(time), (1, n)));
        let steps = [&steps[..], &[Step::Watermark(at(4))]].concat();
        assert_eq!(steps_do_not_matter(make, &steps), [(1, 5), (1, 6)]);
        let mut bench = Bench::new(make());
        bench.rows([(1, 5), (1, 4)]);
        assert_eq!(bench.take_side::<Row>(1), [(1, 4)]);
        assert_eq!(make().sides().iter().map(PortType::name).collect::<Vec<_>>(), ["small"]);
    }

    #[test]
    fn a_row_for_a_side_output_that_is_not_declared_is_a_fault_and_not_lost() {
        fn given<V: Send + Sync + Copy + 'static>(
            side: impl Fn() -> Side<V> + Send + Sync + 'static,
            row: V,
        ) -> String {
            let on_row = move |visit: &mut Visit<'_, '_, u8, u32, u8>, _: u8| visit.give_to(&side(), row);
            let key: KeyOf<u8, u8> = Arc::new(|row: &u8| *row);
            let process = Process::new(key, Arc::new(on_row), Arc::new(|_: &mut Visit<'_, '_, u8, u32, u8>| {}));
            let mut bench = Bench::new(process.with_sides(&[Side::<u32>::new(1, "small")]).operator());
            bench.try_batch(Batch::at(at(0), vec![1])).map_or_else(|fault| fault.to_string(), |()| String::new())
        }
        assert_eq!(given(|| Side::<u32>::new(1, "small"), 7), "");
        for words in [given(|| Side::<u32>::new(2, "large"), 7), given(|| Side::<u64>::new(1, "small"), 7)] {
            assert!(words.contains("hand it to `process_with_sides`"), "{words}");
        }
    }
}
