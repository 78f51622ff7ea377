//! [`EventTime`]: rows get the time at which what they tell of happened, and watermarks follow.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use super::{Progress, Watermarks};
use crate::{
    Batch, Cause, Code, Operator, Outbox, Parts, PortType, Rejected, Result, Side, StateVisitor, TimeKeeping,
    Timestamp, Turn, Watermark,
};

/// What a closure may give as the event time of a row.
pub trait IntoEventTime {
    /// The time, or why there is none.
    ///
    /// # Errors
    /// In words: there is none.
    fn into_event_time(self) -> Result<Timestamp, String>;
}

impl IntoEventTime for Timestamp {
    fn into_event_time(self) -> Result<Timestamp, String> {
        Ok(self)
    }
}

impl IntoEventTime for Option<Timestamp> {
    fn into_event_time(self) -> Result<Timestamp, String> {
        self.ok_or_else(|| "it has no event time".to_owned())
    }
}

impl<E: fmt::Display> IntoEventTime for Result<Timestamp, E> {
    fn into_event_time(self) -> Result<Timestamp, String> {
        self.map_err(|error| format!("it has no event time: {error}"))
    }
}

/// Gives each row its event time, and tells how far event time has come.
///
/// Watermarks from upstream end here; when nothing comes from there for now, that goes on. After each batch that moves the
/// highest time, a watermark follows:
///
/// ```text
/// rows         10   12 |   | 11   none | 20 |
/// watermarks           | 7 |           |    | 15     (5 late at most)
/// rejected             |   |      none |    |
/// ```
///
/// # State
/// The highest time so far, or that of each subject: see [`Progress`]. After a restart it is told at once, so that event time
/// does not begin anew.
///
/// # Errors
/// Rows without a time, and those too far ahead of their message, go to the side output `rejected`, with the code
/// [`EventTime`](Code::EventTime).
///
/// # Examples
/// ```
/// use std::{sync::Arc, time::Duration};
/// use millstream_operators::watermarks::{EventTime, bounded_lateness};
/// use millstream_operators::{Rejected, Timestamp, Watermark, testkit::Bench};
///
/// let at = Timestamp::from_micros;
/// let time = Arc::new(move |row: &Option<i64>| row.map(at));
/// let mut bench = Bench::new(EventTime::new(time, bounded_lateness(Duration::from_micros(5))));
/// bench.rows([Some(10), Some(12)]);
/// bench.rows([Some(11), None]);
/// bench.rows([Some(20)]);
/// assert_eq!(bench.take_watermarks(), [7, 15].map(|time| Watermark::At(at(time))));
/// assert_eq!(bench.take_side::<Rejected<Option<i64>>>(1).len(), 1);
/// ```
pub struct EventTime<T, V, F> {
    time: Arc<F>,
    progress: Progress,
    rejected: Side<Rejected<T>>,
    types: PhantomData<fn() -> V>,
}

impl<T: Send + 'static, V, F> EventTime<T, V, F> {
    /// The operator that has the time of a row told by `time`.
    pub fn new(time: Arc<F>, watermarks: Watermarks) -> Self {
        EventTime { time, progress: Progress::new(watermarks), rejected: Side::rejected(1), types: PhantomData }
    }
}

/// What the operators that make watermarks do on a wake.
pub(crate) fn wake<P: crate::Payload>(progress: &mut Progress, out: &mut Outbox<'_, P>) {
    progress.look();
    tell(progress, out);
    if let Some(span) = progress.look_after() {
        out.wake_after(span);
    }
}

/// Tells of a watermark that is new.
pub(crate) fn tell<P: crate::Payload>(progress: &mut Progress, out: &mut Outbox<'_, P>) {
    if let Some(watermark) = progress.news() {
        out.watermark(watermark);
    }
}

impl<T, V, F> Operator for EventTime<T, V, F>
where
    T: Send + 'static,
    V: IntoEventTime + 'static,
    F: Fn(&T) -> V + Send + Sync + 'static,
{
    type In = Vec<T>;
    type Out = Vec<T>;

    fn on_batch(&mut self, batch: Batch<Vec<T>>, out: &mut Outbox<'_, Vec<T>>) -> Result<Turn> {
        let Parts { times, rows, origins, weight } = batch.into_parts();
        let total = rows.len();
        let (mut given_times, mut given) = (Vec::with_capacity(total), Vec::with_capacity(total));
        let mut of = Vec::new();
        for (at, (row, before)) in rows.into_iter().zip(times).enumerate() {
            let origin = origins.as_ref().and_then(|origins| origins.get(at));
            let time = (self.time)(&row).into_event_time().map_err(|words| Cause::new(Code::EventTime, words));
            match time.and_then(|time| self.progress.judge(time, origin).map(|()| time)) {
                Ok(time) => {
                    given.push(row);
                    given_times.push(time);
                    if origins.is_some() {
                        of.push(at);
                    }
                }
                Err(cause) => {
                    out.push_side_from(&self.rejected, before, Rejected { row, cause }, origins.as_ref(), at);
                }
            }
        }
        let weight = crate::batch::scaled_to(weight, given.len(), total);
        let origins = origins.map(|origins| if of.len() == total { origins } else { origins.select(of) });
        self.progress.saw_all(&given_times, origins.as_ref());
        out.send(Batch::from_parts(Parts { times: given_times.into(), rows: given, origins, weight })?);
        tell(&mut self.progress, out);
        Ok(Turn::Done)
    }

    fn on_watermark(&mut self, now: Timestamp, out: &mut Outbox<'_, Vec<T>>) -> Result<Turn> {
        // Whatever an input without event times may say, the end of time is the end.
        if now == Timestamp::MAX {
            out.watermark(Watermark::At(now));
        }
        Ok(Turn::Done)
    }

    fn on_idle(&mut self, out: &mut Outbox<'_, Vec<T>>) -> Result<Turn> {
        self.progress.fall_silent();
        tell(&mut self.progress, out);
        Ok(Turn::Done)
    }

    fn on_wake(&mut self, _: Timestamp, out: &mut Outbox<'_, Vec<T>>) -> Result<Turn> {
        wake(&mut self.progress, out);
        Ok(Turn::Done)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        self.progress.state(visit)
    }

    fn time_keeping(&self) -> TimeKeeping {
        TimeKeeping::Makes
    }

    fn sides(&self) -> Vec<PortType> {
        vec![self.rejected.port_type()]
    }
}

impl<T, V, F> fmt::Debug for EventTime<T, V, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventTime({:?})", self.progress)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::bounded_lateness;
    use super::*;
    use crate::testkit::{Bench, cuts_do_not_matter, timed};

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    fn by_value() -> impl Operator<In = Vec<i64>, Out = Vec<i64>> {
        let time = |n: &i64| (*n >= 0).then(|| at(*n));
        EventTime::new(Arc::new(time), bounded_lateness(Duration::from_micros(5)))
    }

    #[test]
    fn rows_get_their_times_and_a_watermark_follows_each_batch_that_moves_it() {
        let mut bench = Bench::new(by_value());
        bench.rows([10, 12]);
        bench.rows([11]);
        bench.rows([20]);
        assert_eq!(bench.take_watermarks(), [Watermark::At(at(7)), Watermark::At(at(15))]);
        let times: Vec<_> = bench.take_batches().iter().flat_map(|batch| batch.times().to_vec()).collect();
        assert_eq!(times, [10, 12, 11, 20].map(at));
    }

    #[test]
    fn a_row_without_a_time_is_rejected() {
        let mut bench = Bench::new(by_value());
        bench.rows([1, -1, 2]);
        assert_eq!(bench.take(), [1, 2]);
        let rejected = bench.take_side::<Rejected<i64>>(1);
        assert_eq!((rejected[0].row, rejected[0].cause.message.as_str()), (-1, "it has no event time"));
    }

    #[test]
    fn it_knows_after_a_restart_how_far_event_time_had_come() {
        let mut bench = Bench::new(by_value());
        bench.rows([100]);
        let mut bench = Bench::restored(by_value(), &bench.save());
        assert_eq!(bench.take_watermarks(), [Watermark::At(at(95))]);
        bench.rows([98]);
        assert_eq!(bench.take_watermarks(), []);
    }

    #[test]
    fn what_upstream_says_of_time_ends_here_but_for_the_end() {
        let mut bench = Bench::new(by_value());
        bench.watermark(at(50));
        assert_eq!(bench.take_watermarks(), []);
        bench.watermark(Timestamp::MAX);
        assert_eq!(bench.take_watermarks(), [Watermark::At(Timestamp::MAX)]);
    }

    #[test]
    fn when_nothing_comes_from_upstream_it_says_so_and_with_the_next_row_it_is_back() {
        let mut bench = Bench::new(by_value());
        bench.rows([10]);
        bench.idle();
        bench.idle();
        bench.rows([11]);
        assert_eq!(bench.take_watermarks(), [Watermark::At(at(5)), Watermark::Idle, Watermark::At(at(6))]);
    }

    #[test]
    fn rows_do_not_depend_on_cuts() {
        assert_eq!(cuts_do_not_matter(by_value, &timed([3, 1, -1, 2])), [3, 1, 2]);
    }
}
