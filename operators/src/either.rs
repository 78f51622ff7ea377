//! [`Either`]: a payload from one of two inputs, so that a join is an operator like any other.

use crate::Payload;

/// Rows from the left input or from the right one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Either<L, R> {
    /// From the first input.
    Left(L),
    /// From the second input.
    Right(R),
}

impl<L: Payload, R: Payload> Payload for Either<L, R> {
    fn len(&self) -> usize {
        match self {
            Either::Left(rows) => rows.len(),
            Either::Right(rows) => rows.len(),
        }
    }

    fn scatter(self, to: &[u32], parts: usize) -> Vec<Self> {
        match self {
            Either::Left(rows) => rows.scatter(to, parts).into_iter().map(Either::Left).collect(),
            Either::Right(rows) => rows.scatter(to, parts).into_iter().map(Either::Right).collect(),
        }
    }

    fn split_off(&mut self, at: usize) -> Self {
        match self {
            Either::Left(rows) => Either::Left(rows.split_off(at)),
            Either::Right(rows) => Either::Right(rows.split_off(at)),
        }
    }
}
