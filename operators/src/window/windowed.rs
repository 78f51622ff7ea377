//! [`Windowed`]: what comes of a window; and what all windows share.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    CountWindowed, CountWindows, Emit, GlobalWindowed, GlobalWindows, LastRows, LastWindowed, RowOrder,
    SessionWindowed, SessionWindows, TimeWindowed, TimeWindows, Until,
};
use crate::aggregate::Aggregate;
use crate::{Cause, Code, Operator, Origins, Outbox, Payload, PortType, Problem, Rejected, Side, StateKey, Timestamp};

/// Windows of one kind that rows of type `T` fall into: they make the operator that aggregates rows in them.
pub trait Windows<T>: fmt::Display + Clone + Send + Sync + 'static {
    /// The operator, for rows whose keys `key` finds.
    fn operator<K: StateKey, A: Aggregate<T>>(
        self,
        key: KeyOf<T, K>,
        aggregate: Arc<A>,
    ) -> impl Operator<In = Vec<T>, Out = Vec<Windowed<K, A::Out>>>;

    /// What is wrong with them: each with the setting that is to blame, as pipeline files call it.
    fn problems(&self) -> Vec<Problem>;

    /// Whether they close, or take rows for late, by event time, which all rows must have then.
    fn by_event_time(&self) -> bool {
        true
    }
}

macro_rules! windows {
    ($($windows:ty => $operator:ident by $time:expr $(, $param:ident: { $($bound:tt)+ })?;)*) => {$(
        impl<T: Send + 'static $(, $param: $($bound)+)?> Windows<T> for $windows {
            fn operator<K: StateKey, A: Aggregate<T>>(
                self,
                key: KeyOf<T, K>,
                aggregate: Arc<A>,
            ) -> impl Operator<In = Vec<T>, Out = Vec<Windowed<K, A::Out>>> {
                $operator::new(self, key, aggregate)
            }

            fn problems(&self) -> Vec<Problem> {
                self.problems()
            }

            fn by_event_time(&self) -> bool {
                ($time)(self)
            }
        }
    )*};
}
windows! {
    TimeWindows => TimeWindowed by |_: &_| true;
    SessionWindows => SessionWindowed by |_: &_| true;
    CountWindows => CountWindowed by |_: &_| false;
    GlobalWindows => GlobalWindowed by |windows: &GlobalWindows| matches!(windows.emit, Emit::Every(_));
    LastRows<O> => LastWindowed by |_: &_| true, O: { RowOrder<T> };
    Until<F> => SessionWindowed by |_: &_| true, F: { Fn(&T) -> Timestamp + Clone + Send + Sync + 'static };
}

/// How the key of a row is found.
pub type KeyOf<T, K> = Arc<dyn Fn(&T) -> K + Send + Sync>;

/// What comes of the rows of a key in a window.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Windowed<K, V> {
    /// The key.
    pub key: K,
    /// Where the window begins.
    pub start: Timestamp,
    /// Where it ends; this time is no longer in it.
    pub end: Timestamp,
    /// What comes of its rows.
    pub value: V,
    /// Which of its results this is.
    pub firing: Firing,
}

impl<K: Clone, V> Windowed<K, Vec<V>> {
    /// Each of several values by itself.
    pub fn each(self) -> impl Iterator<Item = Windowed<K, V>> {
        let Windowed { key, start, end, value, firing } = self;
        value.into_iter().map(move |value| Windowed { key: key.clone(), start, end, value, firing })
    }
}

/// Which of its results a window gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Firing {
    /// The window is still open: another result follows if rows do.
    Early,
    /// Event time has passed its end.
    OnTime,
    /// A row came after its end and within the allowed lateness: this takes the place of what was given before.
    Late,
}

/// The port of late rows, which may be left open: they are counted then, and dropped.
pub(crate) fn late_port<T: Send + 'static>() -> PortType {
    late_side::<T>().port_type().named("late").optional()
}

fn late_side<T: Send + 'static>() -> Side<Rejected<T>> {
    Side::rejected(1)
}

/// Where a late row finds nothing any more.
pub(crate) const CLOSED: &str = "its windows are closed";
/// Where a late row of a join finds nothing any more.
pub(crate) const UNJOINED: &str = "what it could be joined with is gone";

/// Sends a row to the port of late rows: its time, how far event time has come, and why that is too late.
pub(crate) fn refuse_late<T: Send + 'static, P: Payload>(
    row: T,
    (time, now, why): (Timestamp, Timestamp, &str),
    origins: Option<&Origins>,
    at: usize,
    out: &mut Outbox<'_, P>,
) {
    let late = now.since(time);
    let words = format!("it is late: event time {time} is {late:?} behind the watermark, and {why}");
    let row = Rejected { row, cause: Cause::new(Code::Late, words) };
    out.push_side_from(&late_side::<T>(), time, row, origins, at);
}
