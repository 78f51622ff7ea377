//! [`of_version`]: an aggregate whose state an older program kept in another way.

use std::fmt;

use super::Aggregate;
use crate::{StateValue, Timestamp, Versions};

/// An aggregate whose state is of a version: see [`of_version`].
pub struct Versioned<A, S> {
    aggregate: A,
    versions: Versions<S>,
}

/// The same aggregate, whose state is of a version and may have been another before: where it keeps rows, or what closures make
/// of them, and their type has changed. Of several aggregates it is said of the tuple.
///
/// ```
/// use millstream_operators::aggregate::{Aggregate, collect, of_version};
/// use millstream_operators::Versions;
/// use serde::{Deserialize, Serialize};
/// #[derive(Clone, Serialize, Deserialize)]
/// struct Order { id: u64, currency: String }
///
/// // The program before collected the ids.
/// let versions = Versions::new(2).migrate(1, |ids: Vec<u64>| {
///     ids.into_iter().map(|id| Order { id, currency: "EUR".into() }).collect()
/// });
/// let orders = of_version(collect(Order::clone), versions);
/// # let _ = Aggregate::<Order>::versions(&orders);
/// ```
pub fn of_version<A, S>(aggregate: A, versions: Versions<S>) -> Versioned<A, S> {
    Versioned { aggregate, versions }
}

impl<T, S: StateValue, A: Aggregate<T, State = S>> Aggregate<T> for Versioned<A, S> {
    type State = S;
    type Out = A::Out;

    fn start(&self) -> S {
        self.aggregate.start()
    }

    fn add(&self, state: &mut S, row: &T, time: Timestamp) {
        self.aggregate.add(state, row, time);
    }

    fn merge(&self, state: &mut S, other: &S) {
        self.aggregate.merge(state, other);
    }

    fn result(&self, state: &S) -> A::Out {
        self.aggregate.result(state)
    }

    fn shape(&self) -> String {
        self.aggregate.shape()
    }

    fn versions(&self) -> Versions<S> {
        self.versions.clone()
    }
}

impl<A: fmt::Debug, S> fmt::Debug for Versioned<A, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {:?}", self.aggregate, self.versions)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::collect;
    use super::*;
    use crate::testkit::Bench;
    use crate::window::{KeyOf, Windows, count_windows, global, last_rows, session, tumbling};
    use crate::{Operator, StateVisitor};

    type Row = (u8, i64);

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    fn key() -> KeyOf<Row, u8> {
        Arc::new(|row: &Row| row.0)
    }

    fn is_read_in<W: Windows<Row> + Clone>(windows: &W) {
        let mut before = Bench::new(windows.clone().operator(key(), Arc::new(collect(|row: &Row| row.1))));
        before.batch([(at(1), (1, 5)), (at(2), (1, 6))].into_iter().collect());
        let saved = before.save();
        let now = |versions| {
            let words = of_version(collect(|row: &Row| row.1.to_string()), versions);
            windows.clone().operator(key(), Arc::new(words))
        };
        let words = |old: Vec<i64>| old.into_iter().map(|n| format!("once {n}")).collect::<Vec<_>>();
        let mut after = Bench::restored(now(Versions::new(2).migrate(1, words)), &saved);
        after.batch([(at(3), (1, 7))].into_iter().collect());
        after.watermark(Timestamp::MAX);
        after.end();
        assert_eq!(after.take().pop().unwrap().value, ["once 5", "once 6", "7"]);
        let fault = now(Versions::new(2)).state(&mut StateVisitor::restore(&saved)).unwrap_err();
        assert!(fault.to_string().contains("no way from 1 to 2"), "{fault}");
    }

    #[test]
    fn what_an_older_program_aggregated_is_read_as_what_it_is_now_in_windows_of_all_kinds() {
        let span = Duration::from_micros(10);
        is_read_in(&tumbling(span));
        is_read_in(&session(span));
        is_read_in(&count_windows(5));
        is_read_in(&global());
        is_read_in(&last_rows(5));
    }
}
