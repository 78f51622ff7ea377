//! [`Merge`]: several streams become one.

use std::marker::PhantomData;

use crate::{Batch, Operator, Outbox, Payload, Result, Turn};

/// Rows go on as they come: where several streams meet. Each stream keeps its own order; the engine merges their
/// watermarks.
#[derive(Debug)]
pub struct Merge<P>(PhantomData<fn() -> P>);

impl<P> Default for Merge<P> {
    fn default() -> Self {
        Merge(PhantomData)
    }
}

impl<P: Payload> Operator for Merge<P> {
    type In = P;
    type Out = P;

    fn on_batch(&mut self, batch: Batch<P>, out: &mut Outbox<'_, P>) -> Result<Turn> {
        out.send(batch);
        Ok(Turn::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::{cuts_do_not_matter, timed};

    #[test]
    fn rows_go_on_as_they_come() {
        assert_eq!(cuts_do_not_matter(Merge::<Vec<i64>>::default, &timed(0..9)), Vec::from_iter(0..9));
    }
}
