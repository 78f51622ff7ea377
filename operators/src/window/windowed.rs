//! [`Windowed`]: what comes of a window; and what all windows share.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{CountWindowed, CountWindows, SessionWindowed, SessionWindows, TimeWindowed, TimeWindows};
use crate::aggregate::Aggregate;
use crate::{Cause, Code, Operator, Origins, Outbox, Payload, PortType, Rejected, Side, StateKey, Timestamp};

/// Windows of one kind: they make the operator that aggregates rows in them.
pub trait Windows: fmt::Display + Copy + Send + Sync + 'static {
    /// The operator, for rows whose keys `key` finds.
    fn operator<T: Send + 'static, K: StateKey, A: Aggregate<T>>(
        self,
        key: KeyOf<T, K>,
        aggregate: Arc<A>,
    ) -> impl Operator<In = Vec<T>, Out = Vec<Windowed<K, A::Out>>>;
}

impl Windows for TimeWindows {
    fn operator<T: Send + 'static, K: StateKey, A: Aggregate<T>>(
        self,
        key: KeyOf<T, K>,
        aggregate: Arc<A>,
    ) -> impl Operator<In = Vec<T>, Out = Vec<Windowed<K, A::Out>>> {
        TimeWindowed::new(self, key, aggregate)
    }
}

impl Windows for SessionWindows {
    fn operator<T: Send + 'static, K: StateKey, A: Aggregate<T>>(
        self,
        key: KeyOf<T, K>,
        aggregate: Arc<A>,
    ) -> impl Operator<In = Vec<T>, Out = Vec<Windowed<K, A::Out>>> {
        SessionWindowed::new(self, key, aggregate)
    }
}

impl Windows for CountWindows {
    fn operator<T: Send + 'static, K: StateKey, A: Aggregate<T>>(
        self,
        key: KeyOf<T, K>,
        aggregate: Arc<A>,
    ) -> impl Operator<In = Vec<T>, Out = Vec<Windowed<K, A::Out>>> {
        CountWindowed::new(self, key, aggregate)
    }
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

/// Sends a row to the port of late rows.
pub(crate) fn refuse_late<T: Send + 'static, P: Payload>(
    row: T,
    (time, now): (Timestamp, Timestamp),
    origins: Option<&Origins>,
    at: usize,
    out: &mut Outbox<'_, P>,
) {
    let late = now.since(time);
    let words = format!("it is late: event time {time} is {late:?} behind the watermark, and its windows are closed");
    let row = Rejected { row, cause: Cause::new(Code::Late, words) };
    out.push_side_from(&late_side::<T>(), time, row, origins, at);
}
