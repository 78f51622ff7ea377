//! [`ThrottleDrop`]: no more than so many rows in a span of time; the others go.

use std::marker::PhantomData;
use std::time::Duration;

use crate::{Batch, Operator, Outbox, Result, Timestamp, Turn};

/// At most `rows` rows pass in each span of time of the engine's clock; what is too much is counted and dropped.
///
/// It goes by processing time, so a replay may let other rows pass. To delay in place of dropping, throttle the stage.
#[derive(Debug)]
pub struct ThrottleDrop<T> {
    rows: u64,
    per: Duration,
    left: u64,
    open: bool,
    dropped: u64,
    types: PhantomData<fn() -> T>,
}

impl<T> ThrottleDrop<T> {
    /// The operator that lets `rows` rows pass in every `per`.
    pub fn new(rows: u64, per: Duration) -> Self {
        ThrottleDrop { rows, per, left: rows, open: false, dropped: 0, types: PhantomData }
    }

    /// How many rows were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl<T: Send + 'static> Operator for ThrottleDrop<T> {
    type In = Vec<T>;
    type Out = Vec<T>;

    fn on_batch(&mut self, mut batch: Batch<Vec<T>>, out: &mut Outbox<'_, Vec<T>>) -> Result<Turn> {
        if !self.open {
            // The span begins with the first row in it.
            self.open = true;
            self.left = self.rows;
            out.wake_after(self.per);
        }
        let ThrottleDrop { left, dropped, .. } = self;
        batch.retain(|_| {
            let passes = *left > 0;
            *left = left.saturating_sub(1);
            *dropped += u64::from(!passes);
            passes
        });
        out.send(batch);
        Ok(Turn::Done)
    }

    fn on_wake(&mut self, _: Timestamp, _: &mut Outbox<'_, Vec<T>>) -> Result<Turn> {
        self.open = false;
        Ok(Turn::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::Bench;

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
