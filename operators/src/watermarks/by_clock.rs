//! [`ByClock`]: rows get the time at which they come.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use crate::{
    Batch, Operator, Outbox, Parts, Payload, Problem, Result, StateVisitor, TimeKeeping, Times, Timestamp, Turn,
    Watermark,
};

const LEAST: Duration = Duration::from_millis(1);

/// Gives each row the time of the engine's clock as its event time: windows, joins and timers behind it go by the clock, and
/// no row is late. Watermarks follow each batch, and the clock alone when nothing comes. The times of upstream end here.
///
/// ```text
/// clock        3     5  |       8       10 (every 5)
/// rows         a     b  |       c          |
/// times        3     5  |       8          |
/// watermarks   3     5  |       8       10 |
/// ```
///
/// Rows that are read again after a crash come when they come: which window they are in may be another then. What counts is
/// the time at which this operator sees a row, not that at which its message was stored. A clock that is set back stands
/// still until it has caught up, over a restart too. Behind the end of an input, which has closed all windows, the clock stands
/// still until the next row.
///
/// # State
/// How far the clock had come. No row is rejected.
///
/// # Examples
/// ```
/// use std::sync::{Arc, atomic::{AtomicI64, Ordering}};
/// use std::time::Duration;
/// use millstream_operators::{Timestamp, watermarks::ByClock, testkit::Bench};
///
/// let now = Arc::new(AtomicI64::new(3));
/// let clock = Arc::clone(&now);
/// let clock = Arc::new(move || Timestamp::from_micros(clock.load(Ordering::Relaxed)));
/// let mut bench = Bench::new(ByClock::<Vec<char>>::new(clock, Duration::from_micros(5)));
/// bench.rows(['a']);
/// now.store(5, Ordering::Relaxed);
/// bench.rows(['b']);
/// let times: Vec<i64> = bench.take_batches().iter().map(|batch| batch.times()[0].as_micros()).collect();
/// assert_eq!(times, [3, 5]);
/// ```
pub struct ByClock<P> {
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    every: Duration,
    now: Timestamp,
    // Whether that is told.
    told: bool,
    rows: PhantomData<fn(P)>,
}

impl<P> ByClock<P> {
    /// The operator, which looks at the clock so often when nothing comes.
    pub fn new(clock: Arc<dyn Fn() -> Timestamp + Send + Sync>, every: Duration) -> Self {
        ByClock { clock, every, now: Timestamp::MIN, told: false, rows: PhantomData }
    }

    /// What is wrong with how often the clock is looked at, as pipeline files call it.
    pub fn problem(every: Duration) -> Option<Problem> {
        let wrong = || Problem::at("", "the clock would be looked at all the time").in_setting("every");
        (every < LEAST).then(|| wrong().help("say how late a window may close, a millisecond at least: `100ms`"))
    }

    fn look(&mut self) -> Timestamp {
        let before = self.now;
        self.now = self.now.max((self.clock)());
        self.told &= self.now == before;
        self.now
    }
}

impl<P: Payload> ByClock<P> {
    fn tell(&mut self, out: &mut Outbox<'_, P>) {
        if !std::mem::replace(&mut self.told, true) {
            out.watermark(Watermark::At(self.now));
        }
    }
}

impl<P: Payload> Operator for ByClock<P> {
    type In = P;
    type Out = P;

    fn on_batch(&mut self, batch: Batch<P>, out: &mut Outbox<'_, P>) -> Result<Turn> {
        let now = self.look();
        let Parts { rows, origins, weight, .. } = batch.into_parts();
        out.send(Batch::from_parts(Parts { times: Times::same(now, rows.len()), rows, origins, weight })?);
        self.tell(out);
        Ok(Turn::Done)
    }

    fn on_watermark(&mut self, now: Timestamp, out: &mut Outbox<'_, P>) -> Result<Turn> {
        // Whatever an input may say of its times, the end of time is the end.
        if now == Timestamp::MAX {
            out.watermark(Watermark::At(now));
        }
        Ok(Turn::Done)
    }

    fn on_wake(&mut self, _: Timestamp, out: &mut Outbox<'_, P>) -> Result<Turn> {
        self.look();
        self.tell(out);
        out.wake_after(self.every);
        Ok(Turn::Done)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        visit.shape("processing time")?;
        visit.time("now", &mut self.now)
    }

    fn time_keeping(&self) -> TimeKeeping {
        TimeKeeping::Makes
    }
}

impl<P> fmt::Debug for ByClock<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ByClock(every {:?}, at {})", self.every, self.now)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use proptest::prelude::*;

    use super::*;
    use crate::testkit::Bench;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    #[test]
    fn rows_have_the_time_at_which_they_come_and_the_clock_alone_moves_time_on() {
        let clock = Arc::new(AtomicI64::new(3));
        let make = || {
            let clock = Arc::clone(&clock);
            ByClock::<Vec<char>>::new(Arc::new(move || at(clock.load(Ordering::Relaxed))), Duration::from_micros(5))
        };
        let mut bench = Bench::new(make());
        bench.rows(['a']);
        clock.store(5, Ordering::Relaxed);
        bench.rows(['b', 'c']);
        clock.store(10, Ordering::Relaxed);
        bench.advance(Duration::from_micros(5));
        let times: Vec<_> = bench.take_batches().iter().flat_map(|batch| batch.times().to_vec()).collect();
        assert_eq!(times, [3, 5, 5].map(at));
        assert_eq!(bench.take_watermarks(), [3, 5, 10].map(|time| Watermark::At(at(time))));
        // It is set back, over a restart too.
        clock.store(4, Ordering::Relaxed);
        let mut bench = Bench::restored(make(), &bench.save());
        bench.rows(['d']);
        bench.watermark(at(1_000));
        bench.watermark(Timestamp::MAX);
        assert_eq!(bench.take_watermarks(), [10, i64::MAX].map(|time| Watermark::At(at(time))));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Rows(usize),
        // It may be set back.
        Clock(i64),
        Silence,
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        let clock = (-5i64..20).prop_map(Step::Clock);
        prop_oneof![(1usize..5).prop_map(Step::Rows), clock, Just(Step::Silence), Just(Step::Restart)]
    }

    proptest! {
        #[test]
        fn rows_have_the_latest_time_that_was_seen_however_they_come_and_wherever_it_is_restarted(
            steps in prop::collection::vec(step(), 1..60),
        ) {
            let clock = Arc::new(AtomicI64::new(100));
            let make = || {
                let clock = Arc::clone(&clock);
                ByClock::<Vec<u8>>::new(Arc::new(move || at(clock.load(Ordering::Relaxed))), Duration::from_micros(5))
            };
            let mut bench = Bench::new(make());
            let (mut times, mut told, mut expected, mut seen) = (Vec::new(), Vec::new(), Vec::new(), 100);
            let mut take = |bench: &mut Bench<ByClock<Vec<u8>>>| {
                times.extend(bench.take_batches().iter().flat_map(|batch| batch.times().to_vec()));
                told.extend(bench.take_watermarks());
            };
            for step in steps {
                match step {
                    Step::Rows(count) => {
                        seen = seen.max(clock.load(Ordering::Relaxed));
                        expected.extend(std::iter::repeat_n(at(seen), count));
                        bench.rows(std::iter::repeat_n(0, count));
                    }
                    Step::Clock(by) => drop(clock.fetch_add(by, Ordering::Relaxed)),
                    Step::Silence => {
                        seen = seen.max(clock.load(Ordering::Relaxed));
                        bench.advance(Duration::from_micros(5));
                    }
                    Step::Restart => {
                        take(&mut bench);
                        // A start looks at the clock as well.
                        seen = seen.max(clock.load(Ordering::Relaxed));
                        bench = Bench::restored(make(), &bench.save());
                    }
                }
            }
            take(&mut bench);
            prop_assert_eq!(times, expected);
            prop_assert_eq!(told.last(), Some(&Watermark::At(at(seen))));
            prop_assert!(told.is_sorted_by(|a, b| matches!((a, b), (Watermark::At(a), Watermark::At(b)) if a <= b)));
        }
    }

    #[test]
    fn a_clock_that_is_looked_at_all_the_time_is_refused() {
        assert!(ByClock::<Vec<char>>::problem(Duration::from_micros(999)).is_some());
        assert!(ByClock::<Vec<char>>::problem(Duration::from_millis(1)).is_none());
    }
}
