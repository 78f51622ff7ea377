//! [`Sample`]: one row of so many.

use std::marker::PhantomData;

use crate::{Batch, Operator, Outbox, Payload, Result, StateVisitor, Turn};

/// The first of every `n` rows goes on.
///
/// ```text
/// rows (1 of 4)   0   1   2   3   4   5 | restart | 6   7   8   9
/// given           0               4     |         |         8
/// ```
///
/// Each subtask counts for itself.
///
/// # State
/// How many rows are left out until the next one goes on. It belongs to a subtask, so that a run with another number of
/// subtasks does not go on from it.
#[derive(Debug)]
pub struct Sample<P> {
    every: u64,
    until_next: u64,
    payload: PhantomData<fn() -> P>,
}

impl<P> Sample<P> {
    /// The operator that lets the first of every `n` rows pass; 0 counts as 1.
    pub fn new(n: u64) -> Self {
        Sample { every: n.max(1), until_next: 0, payload: PhantomData }
    }
}

impl<P: Payload> Operator for Sample<P> {
    type In = P;
    type Out = P;

    fn on_batch(&mut self, batch: Batch<P>, out: &mut Outbox<'_, P>) -> Result<Turn> {
        let Sample { every, until_next, .. } = self;
        let parts: Vec<u32> = (0..batch.len())
            .map(|_| {
                let passes = *until_next == 0;
                *until_next = if passes { *every - 1 } else { *until_next - 1 };
                u32::from(!passes)
            })
            .collect();
        if let Some(passing) = batch.scatter(&parts, 2).into_iter().next() {
            out.send(passing);
        }
        Ok(Turn::Done)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        visit.value("until_next", &mut self.until_next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testkit::{Bench, cuts_do_not_matter, timed};

    #[test]
    fn the_first_of_every_n_rows_passes() {
        assert_eq!(cuts_do_not_matter(|| Sample::new(4), &timed(0..10)), [0, 4, 8]);
    }

    #[test]
    fn it_goes_on_counting_after_a_restart() {
        let mut bench = Bench::new(Sample::<Vec<i64>>::new(4));
        bench.rows(0..6);
        assert_eq!(bench.take(), [0, 4]);
        let mut bench = Bench::restored(Sample::<Vec<i64>>::new(4), &bench.save());
        bench.rows(6..10);
        assert_eq!(bench.take(), [8]);
    }

    proptest! {
        #[test]
        fn what_passes_is_what_the_definition_gives(rows in 1u64..60, n in 0u64..9) {
            let expected: Vec<u64> = (0..rows).step_by(n.max(1) as usize).collect();
            prop_assert_eq!(cuts_do_not_matter(|| Sample::new(n), &timed(0..rows)), expected);
        }
    }
}
