//! [`FlatMap`]: one row becomes many, or none.

use std::fmt;
use std::sync::Arc;

use super::{RowContext, RowFn};

/// Each row becomes the rows of an iterator; they have its time and origin.
pub struct FlatMap<C, F> {
    before: C,
    f: Arc<F>,
    seen: u64,
}

impl<C, F> FlatMap<C, F> {
    /// The same step with a closure that others share.
    pub fn shared(before: C, f: Arc<F>) -> Self {
        FlatMap { before, f, seen: 0 }
    }

    /// All rows that `f` makes of what `before` gives.
    pub fn new<I: IntoIterator>(before: C, f: F) -> Self
    where
        C: RowFn,
        F: Fn(C::Out) -> I,
    {
        FlatMap::shared(before, Arc::new(f))
    }
}

impl<C, I, F> RowFn for FlatMap<C, F>
where
    C: RowFn,
    I: IntoIterator,
    I::Item: Send + 'static,
    F: Fn(C::Out) -> I + Send + Sync + 'static,
{
    type In = C::In;
    type Out = I::Item;
    const ONE_TO_ONE: bool = false;

    #[inline(always)]
    fn run(&mut self, row: C::In, context: RowContext<'_>, emit: &mut impl FnMut(I::Item)) {
        let FlatMap { before, f, seen } = self;
        before.run(row, context, &mut |row| {
            *seen += 1;
            f(row).into_iter().for_each(&mut *emit);
        });
    }

    fn counts(&self, into: &mut Vec<u64>) {
        self.before.counts(into);
        into.push(self.seen);
    }
}

super::pass_step!(FlatMap);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{RowPass, Whole};
    use crate::testkit::{cuts_do_not_matter, timed};

    #[test]
    fn a_row_may_become_none_or_many() {
        let given = cuts_do_not_matter(
            || RowPass::new(FlatMap::new(Whole::default(), |n: i64| vec![n; n as usize])),
            &timed(0..4),
        );
        assert_eq!(given, [1, 2, 2, 3, 3, 3]);
    }
}
