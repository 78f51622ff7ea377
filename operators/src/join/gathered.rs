//! [`Gathered`]: the rows of both sides in a window, as an aggregate.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Pair, RowVersions, Sided};
use crate::aggregate::Aggregate;
use crate::state::{AsSaved, ReadError};
use crate::{Result, StateValue, Timestamp, Versions};

/// Gathers the rows of both sides, in the order in which they came.
pub struct Gathered<L, R>(RowVersions<L, R>);

impl<L, R> Gathered<L, R> {
    /// The aggregate of rows that are of these versions.
    pub fn new(versions: RowVersions<L, R>) -> Self {
        Gathered(versions)
    }
}

impl<L, R> Default for Gathered<L, R> {
    fn default() -> Self {
        Gathered::new(RowVersions::default())
    }
}

/// The rows of both sides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Both<L, R> {
    /// Those of the left.
    pub left: Vec<L>,
    /// Those of the right.
    pub right: Vec<R>,
}

impl<L, R> Both<L, R> {
    /// The same, of rows of another version.
    fn put(
        both: Both<AsSaved, AsSaved>,
        left: &dyn Fn(AsSaved) -> Result<L, ReadError>,
        right: &dyn Fn(AsSaved) -> Result<R, ReadError>,
    ) -> Result<Self, ReadError> {
        let left = both.left.into_iter().map(left).collect::<Result<_, _>>()?;
        Ok(Both { left, right: both.right.into_iter().map(right).collect::<Result<_, _>>()? })
    }
}

impl<L: Clone, R: Clone> Both<L, R> {
    /// Each row of the left with each of the right; where one side has none, the rows of the other by themselves.
    pub fn pairs(self) -> Vec<Pair<L, R>> {
        let Both { left, right } = self;
        if right.is_empty() {
            return left.into_iter().map(Pair::Left).collect();
        }
        if left.is_empty() {
            return right.into_iter().map(Pair::Right).collect();
        }
        let of_left = |left: L| right.iter().map(move |right| Pair::Both(left.clone(), right.clone()));
        left.into_iter().flat_map(of_left).collect()
    }
}

impl<L: StateValue, R: StateValue> Aggregate<Sided<L, R>> for Gathered<L, R> {
    type State = Both<L, R>;
    type Out = Both<L, R>;

    fn start(&self) -> Both<L, R> {
        Both { left: Vec::new(), right: Vec::new() }
    }

    fn add(&self, both: &mut Both<L, R>, row: &Sided<L, R>, _: Timestamp) {
        match row {
            Sided::Left(row) => both.left.push(row.clone()),
            Sided::Right(row) => both.right.push(row.clone()),
        }
    }

    fn merge(&self, both: &mut Both<L, R>, other: &Both<L, R>) {
        both.left.extend_from_slice(&other.left);
        both.right.extend_from_slice(&other.right);
    }

    fn result(&self, both: &Both<L, R>) -> Both<L, R> {
        both.clone()
    }

    fn versions(&self) -> Versions<Both<L, R>> {
        self.0.of(Both::put)
    }
}

impl<L, R> fmt::Debug for Gathered<L, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gathered")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_meets_each_and_a_side_without_rows_leaves_the_others_alone() {
        let both = |left: &[u8], right: &[u8]| Both { left: left.to_vec(), right: right.to_vec() }.pairs();
        assert_eq!(both(&[1, 2], &[3]), [Pair::Both(1, 3), Pair::Both(2, 3)]);
        assert_eq!(both(&[1], &[]), [Pair::Left(1)]);
        assert_eq!(both(&[], &[3]), [Pair::Right(3)]);
    }
}
