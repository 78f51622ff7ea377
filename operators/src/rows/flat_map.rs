//! [`FlatMap`]: one row becomes many, or none.

use std::fmt;
use std::sync::Arc;

use super::{Gives, RowContext, RowFn};

/// Each row becomes the rows of an iterator, many or none; they have its time and message.
///
/// ```text
/// rows (n times n)   0   1   2       3
/// given                  1   2   2   3   3   3
/// times                  1   2   2   3   3   3
/// ```
///
/// Nothing is kept. Many rows are given some thousand at a time, as there is room for them; those of one row are in one
/// batch.
pub struct FlatMap<C, F> {
    before: C,
    f: Arc<F>,
}

impl<C, F> FlatMap<C, F> {
    /// The same step with a closure that others share.
    pub fn shared(before: C, f: Arc<F>) -> Self {
        FlatMap { before, f }
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
    type Tally = (C::Tally, u64);
    const GIVES: Gives = Gives::Any;

    #[inline(always)]
    fn run(
        &self,
        row: C::In,
        context: RowContext<'_>,
        (before, seen): &mut Self::Tally,
        emit: &mut impl FnMut(I::Item),
    ) {
        self.before.run(row, context, before, &mut |row| {
            *seen += 1;
            (self.f)(row).into_iter().for_each(&mut *emit);
        });
    }
}

super::pass_step!(FlatMap);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{RowPass, Whole};
    use crate::testkit::{Bench, cuts_do_not_matter, timed};

    #[test]
    fn a_row_may_become_none_or_many() {
        let given = cuts_do_not_matter(
            || RowPass::new(FlatMap::new(Whole::default(), |n: i64| vec![n; n as usize])),
            &timed(0..4),
        );
        assert_eq!(given, [1, 2, 2, 3, 3, 3]);
    }

    #[test]
    fn what_becomes_of_a_row_has_its_time() {
        let mut bench = Bench::new(RowPass::new(FlatMap::new(Whole::default(), |n: i64| vec![n; n as usize])));
        bench.rows(0..4);
        let given = bench.take_batches().remove(0);
        let times: Vec<_> = given.times().iter().map(|time| time.as_micros()).collect();
        assert_eq!((given.rows(), times), (&vec![1, 2, 2, 3, 3, 3], vec![1, 2, 2, 3, 3, 3]));
    }
}
