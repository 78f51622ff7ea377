//! [`Monitor`]: watermarks never go back, over a restart either.

use std::cell::Cell;

use millstream::prelude::*;

thread_local! {
    static WENT_BACK: Cell<Option<(Timestamp, Timestamp)>> = const { Cell::new(None) };
}

/// Lets rows pass, and looks at the watermarks.
#[derive(Debug)]
pub(super) struct Monitor<T> {
    now: Timestamp,
    rows: std::marker::PhantomData<fn(T)>,
}

impl<T> Default for Monitor<T> {
    fn default() -> Self {
        Monitor { now: Timestamp::MIN, rows: std::marker::PhantomData }
    }
}

/// What went wrong on this thread since the last time that it was asked.
pub(super) fn violation() -> Result<(), String> {
    match WENT_BACK.take() {
        Some((from, to)) => Err(format!("the watermark went back from {from} to {to}")),
        None => Ok(()),
    }
}

impl<T: Send + 'static> Operator for Monitor<T> {
    type In = Vec<T>;
    type Out = Vec<T>;

    fn on_batch(&mut self, batch: Batch<Vec<T>>, out: &mut Outbox<'_, Vec<T>>) -> millstream::operators::Result<Turn> {
        out.send(batch);
        Ok(Turn::Done)
    }

    fn on_watermark(&mut self, now: Timestamp, _: &mut Outbox<'_, Vec<T>>) -> millstream::operators::Result<Turn> {
        if now < self.now {
            WENT_BACK.set(Some((self.now, now)));
        }
        self.now = now;
        Ok(Turn::Done)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> millstream::operators::Result {
        visit.time("now", &mut self.now)
    }
}
