//! [`Sample`]: one row of so many.

use std::marker::PhantomData;

use crate::{Batch, Operator, Outbox, Result, StateVisitor, Turn};

/// The first of every `n` rows goes on.
#[derive(Debug)]
pub struct Sample<T> {
    every: u64,
    until_next: u64,
    rows: PhantomData<fn() -> T>,
}

impl<T> Sample<T> {
    /// The operator that lets the first of every `n` rows pass; 0 counts as 1.
    pub fn new(n: u64) -> Self {
        Sample { every: n.max(1), until_next: 0, rows: PhantomData }
    }
}

impl<T: Send + 'static> Operator for Sample<T> {
    type In = Vec<T>;
    type Out = Vec<T>;

    fn on_batch(&mut self, mut batch: Batch<Vec<T>>, out: &mut Outbox<'_, Vec<T>>) -> Result<Turn> {
        let Sample { every, until_next, .. } = self;
        batch.retain(|_| {
            let passes = *until_next == 0;
            *until_next = if passes { *every - 1 } else { *until_next - 1 };
            passes
        });
        out.send(batch);
        Ok(Turn::Done)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        visit.value("until_next", &mut self.until_next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::{cuts_do_not_matter, timed};

    #[test]
    fn the_first_of_every_n_rows_passes() {
        assert_eq!(cuts_do_not_matter(|| Sample::new(4), &timed(0..10)), [0, 4, 8]);
    }
}
