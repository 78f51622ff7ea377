//! [`Map`] and [`MapWith`]: one row becomes another.

use std::fmt;
use std::sync::Arc;

use super::{Gives, RowContext, RowFn};

/// Each row becomes another.
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

/// Each row becomes another, and the closure also sees where it came from.
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
}
