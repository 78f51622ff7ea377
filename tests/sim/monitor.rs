//! [`Monitor`]: watermarks never go back, over a restart either, and are never ahead of what the rows that came justify (P5).

use std::cell::RefCell;

use millstream::prelude::*;

use super::oracle::{self, AHEAD, START};

pub(super) const LATE: Duration = Duration::from_millis(oracle::LATE);
const FAR: Duration = Duration::from_millis(oracle::FAR);
// Whatever is later is what the broker's clock shows to be wrong.
const LATEST: Timestamp = Timestamp::from_millis((START + 3 * AHEAD).cast_signed());

thread_local! {
    static WRONG: RefCell<Option<String>> = const { RefCell::new(None) };
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

/// Something is wrong, as who stands among the operators has seen.
pub(super) fn blame(what: String) {
    WRONG.with_borrow_mut(|wrong| _ = wrong.get_or_insert(what));
}

/// Takes each panic for something wrong: a run that begins again behind one gives what it must all the same.
pub(super) fn blame_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            blame(format!("it panics: {panic}"));
            before(panic);
        }));
    });
}

/// What went wrong first on this thread since the last time that it was asked.
pub(super) fn violation() -> Result<(), String> {
    WRONG.take().map_or(Ok(()), Err)
}

impl<T: Send + 'static> Operator for Monitor<T> {
    type In = Vec<T>;
    type Out = Vec<T>;

    fn on_batch(&mut self, batch: Batch<Vec<T>>, out: &mut Outbox<'_, Vec<T>>) -> millstream::operators::Result<Turn> {
        for time in batch.times() {
            if *time > LATEST {
                blame(format!("P5: a row of {time} passes, which is far ahead of when it was stored"));
            }
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
            blame(format!("P5: the watermark went back from {} to {now}", self.now));
        }
        // The end of time is told where the input ends.
        if now < Timestamp::MAX && now > self.highest.saturating_sub(LATE) {
            blame(format!("P5: the watermark is {now}, and rows go up to {}", self.highest));
        }
        self.now = now;
        Ok(Turn::Done)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> millstream::operators::Result {
        visit.time("now", &mut self.now)?;
        visit.time("highest", &mut self.highest)
    }
}
