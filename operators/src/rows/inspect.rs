//! [`Inspect`]: rows are looked at and go on.

use std::fmt;
use std::sync::Arc;

use super::{Gives, RowContext, RowFn};

/// A closure sees each row, which goes on as it is.
///
/// ```text
/// rows    0   1   2   3   4
/// seen    0   1   2   3   4     (added up: 10)
/// given   0   1   2   3   4
/// ```
///
/// For counting and for looking while developing; it runs again for rows that are replayed, and for what a closure does
/// outside there is no undoing.
pub struct Inspect<C, F> {
    before: C,
    f: Arc<F>,
}

impl<C, F> Inspect<C, F> {
    /// The same step with a closure that others share.
    pub fn shared(before: C, f: Arc<F>) -> Self {
        Inspect { before, f }
    }

    /// What `before` gives, seen by `f`.
    pub fn new(before: C, f: F) -> Self
    where
        C: RowFn,
        F: Fn(&C::Out),
    {
        Inspect::shared(before, Arc::new(f))
    }
}

impl<C: RowFn, F: Fn(&C::Out) + Send + Sync + 'static> RowFn for Inspect<C, F> {
    type In = C::In;
    type Out = C::Out;
    type Tally = (C::Tally, u64);
    const GIVES: Gives = C::GIVES.then(Gives::One);

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
            (self.f)(&row);
            emit(row);
        });
    }
}

super::pass_step!(Inspect);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;
    use crate::rows::{RowPass, Whole};
    use crate::testkit::Bench;

    #[test]
    fn rows_are_seen_and_go_on() {
        static SUM: AtomicI64 = AtomicI64::new(0);
        let mut bench = Bench::new(RowPass::new(Inspect::new(Whole::default(), |n: &i64| {
            SUM.fetch_add(*n, Ordering::Relaxed);
        })));
        bench.rows(0..5);
        assert_eq!((bench.take(), SUM.load(Ordering::Relaxed)), (vec![0, 1, 2, 3, 4], 10));
    }
}
