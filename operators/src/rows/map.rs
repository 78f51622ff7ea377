//! [`Map`] and [`MapWith`]: one row becomes another.

use std::fmt;
use std::sync::Arc;

use super::{Gives, RowContext, RowFn};

/// Each row becomes another, in its place: with the time and the message that it had.
///
/// ```text
/// rows (times ten)    1    2    3
/// given              10   20   30
/// ```
///
/// Nothing is kept, and no row is rejected: for what may fail there is [`TryMap`](super::TryMap).
pub struct Map<C, F> {
    before: C,
    f: Arc<F>,
}

impl<C, F> Map<C, F> {
    /// The same step with a closure that others share.
    pub fn shared(before: C, f: Arc<F>) -> Self {
        Map { before, f }
    }

    /// `f` of what `before` gives.
    pub fn new<U>(before: C, f: F) -> Self
    where
        C: RowFn,
        F: Fn(C::Out) -> U,
    {
        Map::shared(before, Arc::new(f))
    }
}

impl<C: RowFn, U: Send + 'static, F: Fn(C::Out) -> U + Send + Sync + 'static> RowFn for Map<C, F> {
    type In = C::In;
    type Out = U;
    type Tally = (C::Tally, u64);
    const GIVES: Gives = C::GIVES.then(Gives::One);

    #[inline(always)]
    fn run(&self, row: C::In, context: RowContext<'_>, (before, seen): &mut Self::Tally, emit: &mut impl FnMut(U)) {
        self.before.run(row, context, before, &mut |row| {
            *seen += 1;
            emit((self.f)(row));
        });
    }
}

/// Each row becomes another, as with [`Map`]; the closure also sees its time and the message that it came from
/// ([`RowContext`]).
///
/// ```text
/// rows                          5           6
/// their messages                no. 1       no. 2
/// their times                   0           1
/// given (row, message, time)    (5, 1, 0)   (6, 2, 1)
/// ```
pub struct MapWith<C, F> {
    before: C,
    f: Arc<F>,
}

impl<C, F> MapWith<C, F> {
    /// The same step with a closure that others share.
    pub fn shared(before: C, f: Arc<F>) -> Self {
        MapWith { before, f }
    }

    /// `f` of what `before` gives, and of the message that it came from.
    pub fn new<U>(before: C, f: F) -> Self
    where
        C: RowFn,
        F: Fn(C::Out, RowContext<'_>) -> U,
    {
        MapWith::shared(before, Arc::new(f))
    }
}

impl<C, U, F> RowFn for MapWith<C, F>
where
    C: RowFn,
    U: Send + 'static,
    F: Fn(C::Out, RowContext<'_>) -> U + Send + Sync + 'static,
{
    type In = C::In;
    type Out = U;
    type Tally = (C::Tally, u64);
    const GIVES: Gives = C::GIVES.then(Gives::One);

    #[inline(always)]
    fn run(&self, row: C::In, context: RowContext<'_>, (before, seen): &mut Self::Tally, emit: &mut impl FnMut(U)) {
        self.before.run(row, context, before, &mut |row| {
            *seen += 1;
            emit((self.f)(row, context));
        });
    }
}

super::pass_step!(Map, MapWith);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{RowPass, Whole};
    use crate::testkit::{Bench, timed, with_origins};

    #[test]
    fn a_closure_can_see_where_a_row_came_from() {
        let map = MapWith::new(Whole::default(), |n: i64, from: RowContext<'_>| (n, from.sequence(), from.time()));
        let mut bench = Bench::new(RowPass::new(map));
        bench.batch(with_origins(timed(5..7)));
        let rows: Vec<_> =
            bench.take().into_iter().map(|(n, sequence, time)| (n, sequence, time.as_micros())).collect();
        assert_eq!(rows, [(5, 1, 0), (6, 2, 1)]);
    }

    #[test]
    fn each_row_becomes_another_with_the_time_that_it_had() {
        let mut bench = Bench::new(RowPass::new(Map::new(Whole::default(), |n: i64| n * 10)));
        bench.rows(1..4);
        let given = bench.take_batches().remove(0);
        let times: Vec<_> = given.times().iter().map(|time| time.as_micros()).collect();
        assert_eq!((given.rows(), times), (&vec![10, 20, 30], vec![0, 1, 2]));
    }
}
