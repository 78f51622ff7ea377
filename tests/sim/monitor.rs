//! [`Monitor`]: watermarks never go back, over a restart either, and are never ahead of what the rows that came justify (P5).

use std::cell::Cell;

use millstream::prelude::*;

use super::oracle;

const LATE: Duration = Duration::from_millis(oracle::LATE);
const FAR: Duration = Duration::from_millis(oracle::FAR);

thread_local! {
    static WRONG: Cell<Option<Wrong>> = const { Cell::new(None) };
}

#[derive(Clone, Copy)]
enum Wrong {
    WentBack { from: Timestamp, to: Timestamp },
    Ahead { now: Timestamp, highest: Timestamp },
}

/// Lets rows pass, and looks at the watermarks.
#[derive(Debug)]
pub(super) struct Monitor<T> {
    now: Timestamp,
    // The highest time of rows, but for those that are far ahead of all before.
    highest: Timestamp,
    rows: std::marker::PhantomData<fn(T)>,
}

impl<T> Default for Monitor<T> {
    fn default() -> Self {
        Monitor { now: Timestamp::MIN, highest: Timestamp::MIN, rows: std::marker::PhantomData }
    }
}

/// What went wrong on this thread since the last time that it was asked.
pub(super) fn violation() -> Result<(), String> {
    match WRONG.take() {
        Some(Wrong::WentBack { from, to }) => Err(format!("P5: the watermark went back from {from} to {to}")),
        Some(Wrong::Ahead { now, highest }) => Err(format!("P5: the watermark is {now}, and rows go up to {highest}")),
        None => Ok(()),
    }
}

impl<T: Send + 'static> Operator for Monitor<T> {
    type In = Vec<T>;
    type Out = Vec<T>;

    fn on_batch(&mut self, batch: Batch<Vec<T>>, out: &mut Outbox<'_, Vec<T>>) -> millstream::operators::Result<Turn> {
        for time in batch.times() {
            let is_far = self.highest > Timestamp::MIN && *time > self.highest.saturating_add(FAR / 2);
            if !is_far {
                self.highest = self.highest.max(*time);
            }
        }
        out.send(batch);
        Ok(Turn::Done)
    }

    fn on_watermark(&mut self, now: Timestamp, _: &mut Outbox<'_, Vec<T>>) -> millstream::operators::Result<Turn> {
        if now < self.now {
            WRONG.set(Some(Wrong::WentBack { from: self.now, to: now }));
        }
        // The end of time is told where the input ends.
        if now < Timestamp::MAX && now > self.highest.saturating_sub(LATE) {
            WRONG.set(Some(Wrong::Ahead { now, highest: self.highest }));
        }
        self.now = now;
        Ok(Turn::Done)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> millstream::operators::Result {
        visit.time("now", &mut self.now)?;
        visit.time("highest", &mut self.highest)
    }
}
