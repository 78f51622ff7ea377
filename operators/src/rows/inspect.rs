//! [`Inspect`]: rows are looked at and go on.

use std::fmt;
use std::sync::Arc;

use super::{RowContext, RowFn};

/// A closure sees each row, which goes on as it is. For counting and for looking while developing; it runs again for
/// rows that are replayed.
pub struct Inspect<C, F> {
    before: C,
    f: Arc<F>,
    seen: u64,
}

impl<C, F> Inspect<C, F> {
    /// The same step with a closure that others share.
    pub fn shared(before: C, f: Arc<F>) -> Self {
        Inspect { before, f, seen: 0 }
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
    const ONE_TO_ONE: bool = C::ONE_TO_ONE;

    #[inline(always)]
    fn run(&mut self, row: C::In, context: RowContext<'_>, emit: &mut impl FnMut(C::Out)) {
        let Inspect { before, f, seen } = self;
        before.run(row, context, &mut |row| {
            *seen += 1;
            f(&row);
            emit(row);
        });
    }

    fn counts(&self, into: &mut Vec<u64>) {
        self.before.counts(into);
        into.push(self.seen);
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
