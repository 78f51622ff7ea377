//! [`ThrottleDrop`]: no more than so many rows in a span of time; the others go.

use std::marker::PhantomData;
use std::time::Duration;

use crate::{Batch, Operator, Outbox, Payload, Result, Timestamp, Turn};

/// At most `rows` rows pass in each span of time of the engine's clock; what is too much is counted and dropped.
///
/// ```text
/// rows (3 in 1s)   0   1 | 2   3   4 |    | 5
/// clock                  |           | 1s |
/// given            0   1 | 2         |    | 5
/// dropped                |     3   4 |    |
/// ```
///
/// A span begins with the first row in it. It goes by processing time, so a replay may let other rows pass; nothing is kept,
/// so a restart begins a new span. Each subtask counts for itself. To delay in place of dropping, throttle the stage.
#[derive(Debug)]
pub struct ThrottleDrop<P> {
    rows: u64,
    per: Duration,
    left: u64,
    open: bool,
    dropped: u64,
    payload: PhantomData<fn() -> P>,
}

impl<P> ThrottleDrop<P> {
    /// The operator that lets `rows` rows pass in every `per`.
    pub fn new(rows: u64, per: Duration) -> Self {
        ThrottleDrop { rows, per, left: rows, open: false, dropped: 0, payload: PhantomData }
    }

    /// How many rows were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl<P: Payload> Operator for ThrottleDrop<P> {
    type In = P;
    type Out = P;

    fn on_batch(&mut self, mut batch: Batch<P>, out: &mut Outbox<'_, P>) -> Result<Turn> {
        if !self.open {
            // The span begins with the first row in it.
            self.open = true;
            self.left = self.rows;
            out.wake_after(self.per);
        }
        let passing = usize::try_from(self.left).unwrap_or(usize::MAX).min(batch.len());
        self.dropped += batch.split_off(passing).len() as u64;
        self.left -= passing as u64;
        out.send(batch);
        Ok(Turn::Done)
    }

    fn on_wake(&mut self, _: Timestamp, _: &mut Outbox<'_, P>) -> Result<Turn> {
        self.open = false;
        Ok(Turn::Done)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testkit::Bench;

    #[derive(Clone, Debug)]
    enum Step {
        Rows(usize),
        Millis(u64),
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![(1usize..8).prop_map(Step::Rows), (0u64..1_200).prop_map(Step::Millis), Just(Step::Restart)]
    }

    proptest! {
        #[test]
        fn how_rows_come_in_batches_does_not_matter_and_a_restart_begins_a_span(
            steps in prop::collection::vec(step(), 1..40), most in 1u64..6,
        ) {
            let make = || ThrottleDrop::new(most, Duration::from_secs(1));
            let (mut bench, mut next, mut given) = (Bench::new(make()), 0i64, Vec::new());
            // By the definition: when the span ends, and how many rows of it have passed.
            let (mut now, mut span, mut expected) = (0, None::<(u64, u64)>, Vec::new());
            for step in steps {
                match step {
                    Step::Rows(count) => {
                        let rows = next..next + i64::try_from(count).unwrap();
                        next = rows.end;
                        bench.rows(rows.clone());
                        for row in rows {
                            let (_, passed) = span.get_or_insert((now + 1_000, 0));
                            *passed += 1;
                            expected.extend((*passed <= most).then_some(row));
                        }
                    }
                    Step::Millis(millis) => {
                        bench.advance(Duration::from_millis(millis));
                        now += millis;
                        span = span.filter(|(end, _)| *end > now);
                    }
                    Step::Restart => {
                        given.extend(bench.take());
                        bench = Bench::restored(make(), &bench.save());
                        span = None;
                    }
                }
            }
            given.extend(bench.take());
            prop_assert_eq!(given, expected);
        }
    }

    #[test]
    fn what_is_too_much_in_a_span_is_dropped() {
        let mut bench = Bench::new(ThrottleDrop::new(3, Duration::from_secs(1)));
        bench.rows(0..2);
        bench.rows(2..5);
        assert_eq!(bench.take(), [0, 1, 2]);
        bench.advance(Duration::from_secs(1));
        bench.rows(5..6);
        assert_eq!((bench.take(), bench.operator().dropped()), (vec![5], 2));
    }
}
