//! [`Merge`]: several streams become one.

use std::marker::PhantomData;

use crate::{Batch, Operator, Outbox, Payload, Result, Turn};

/// Rows go on as they come: where several streams meet.
///
/// ```text
/// left    1   3 |   | 4
/// right         | 2 |
/// given   1   3 | 2 | 4
/// ```
///
/// Each stream keeps its own order, and between them there is none. The engine merges their watermarks: event time has
/// come as far as in the stream where it has come least, of those that are neither idle nor at their end.
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
    use crate::testkit::{Bench, cuts_do_not_matter, timed};

    #[test]
    fn rows_go_on_as_they_come() {
        assert_eq!(cuts_do_not_matter(Merge::<Vec<i64>>::default, &timed(0..9)), Vec::from_iter(0..9));
    }

    #[test]
    fn batches_of_several_streams_go_on_in_the_order_in_which_they_come() {
        let mut bench = Bench::new(Merge::<Vec<i64>>::default());
        bench.rows([1, 3]);
        bench.rows([2]);
        bench.rows([4]);
        assert_eq!(bench.take(), [1, 3, 2, 4]);
    }
}
