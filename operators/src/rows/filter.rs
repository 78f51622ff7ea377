//! [`Filter`] and [`FilterMap`]: some rows go on.

use std::fmt;
use std::sync::Arc;

use super::{Gives, RowContext, RowFn};

/// Rows for which a predicate holds go on as they are, with their times and messages; the others are gone.
///
/// ```text
/// rows (even ones)   10   11   12   13   14
/// given              10        12        14
/// ```
///
/// Nothing is kept. To have the others as well, [`Route`](super::Route) them.
pub struct Filter<C, F> {
    before: C,
    f: Arc<F>,
}

impl<C, F> Filter<C, F> {
    /// The same step with a closure that others share.
    pub fn shared(before: C, f: Arc<F>) -> Self {
        Filter { before, f }
    }

    /// Of what `before` gives, the rows for which `f` holds.
    pub fn new(before: C, f: F) -> Self
    where
        C: RowFn,
        F: Fn(&C::Out) -> bool,
    {
        Filter::shared(before, Arc::new(f))
    }
}

impl<C: RowFn, F: Fn(&C::Out) -> bool + Send + Sync + 'static> RowFn for Filter<C, F> {
    type In = C::In;
    type Out = C::Out;
    type Tally = (C::Tally, u64);
    const GIVES: Gives = C::GIVES.then(Gives::OneOrNone);

    #[inline(always)]
    fn run(
        &self,
        row: C::In,
        context: RowContext<'_>,
        (before, seen): &mut Self::Tally,
        emit: &mut impl FnMut(C::Out),
    ) {
        self.before.run(row, context, before, &mut |row| {
            *seen += 1;
            if (self.f)(&row) {
                emit(row);
            }
        });
    }
}

/// Each row becomes another, with its time and message, or is gone where the closure gives none.
///
/// ```text
/// rows (half of even ones)   0   1   2   3   4
/// given                      0       1       2
/// ```
///
/// Nothing is kept. To know which rows are gone and why, use [`TryMap`](super::TryMap).
pub struct FilterMap<C, F> {
    before: C,
    f: Arc<F>,
}

impl<C, F> FilterMap<C, F> {
    /// The same step with a closure that others share.
    pub fn shared(before: C, f: Arc<F>) -> Self {
        FilterMap { before, f }
    }

    /// Of what `before` gives, what `f` makes of it.
    pub fn new<U>(before: C, f: F) -> Self
    where
        C: RowFn,
        F: Fn(C::Out) -> Option<U>,
    {
        FilterMap::shared(before, Arc::new(f))
    }
}

impl<C: RowFn, U: Send + 'static, F: Fn(C::Out) -> Option<U> + Send + Sync + 'static> RowFn for FilterMap<C, F> {
    type In = C::In;
    type Out = U;
    type Tally = (C::Tally, u64);
    const GIVES: Gives = C::GIVES.then(Gives::OneOrNone);

    #[inline(always)]
    fn run(&self, row: C::In, context: RowContext<'_>, (before, seen): &mut Self::Tally, emit: &mut impl FnMut(U)) {
        self.before.run(row, context, before, &mut |row| {
            *seen += 1;
            if let Some(row) = (self.f)(row) {
                emit(row);
            }
        });
    }
}

super::pass_step!(Filter, FilterMap);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{RowPass, Whole};
    use crate::testkit::{Bench, cuts_do_not_matter, timed};

    #[test]
    fn only_rows_that_satisfy_the_predicate_go_on() {
        let given = cuts_do_not_matter(|| RowPass::new(Filter::new(Whole::default(), |n| n % 7 == 0)), &timed(0..50));
        assert_eq!(given, [0, 7, 14, 21, 28, 35, 42, 49]);
    }

    #[test]
    fn weight_goes_with_the_rows() {
        let mut bench = Bench::new(RowPass::new(FilterMap::new(Whole::default(), |n: i64| (n < 5).then_some(n))));
        bench.batch(timed(0..10).into_iter().collect::<crate::Batch<_>>().weighing(1000));
        assert_eq!(bench.take_batches()[0].weight(), 500);
    }

    #[test]
    fn rows_that_go_on_keep_their_times() {
        let mut bench = Bench::new(RowPass::new(Filter::new(Whole::default(), |n: &i64| n % 2 == 0)));
        bench.rows(10..15);
        let given = bench.take_batches().remove(0);
        let times: Vec<_> = given.times().iter().map(|time| time.as_micros()).collect();
        assert_eq!((given.rows(), times), (&vec![10, 12, 14], vec![0, 2, 4]));
    }

    #[test]
    fn a_row_becomes_another_or_is_gone() {
        let half = |n: i64| (n % 2 == 0).then_some(n / 2);
        let mut bench = Bench::new(RowPass::new(FilterMap::new(Whole::default(), half)));
        bench.rows(0..5);
        assert_eq!(bench.take(), [0, 1, 2]);
    }
}
