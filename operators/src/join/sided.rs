//! [`Sided`]: a row of the left stream or of the right one. [`Pair`]: what a join gives.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::window::KeyOf;

/// A row of the left stream or of the right one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sided<L, R> {
    /// From the left.
    Left(L),
    /// From the right.
    Right(R),
}

impl<L, R> Sided<L, R> {
    /// How the key is found of a row of either side.
    pub fn key_of<K>(left: KeyOf<L, K>, right: KeyOf<R, K>) -> KeyOf<Sided<L, R>, K>
    where
        L: 'static,
        R: 'static,
        K: 'static,
    {
        Arc::new(move |row| match row {
            Sided::Left(row) => left(row),
            Sided::Right(row) => right(row),
        })
    }
}

/// What a join gives: two rows that belong together, or one that has none on the other side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pair<L, R> {
    /// Rows of both sides.
    Both(L, R),
    /// A row of the left side that has none on the right.
    Left(L),
    /// A row of the right side that has none on the left.
    Right(R),
}

impl<L, R> Pair<L, R> {
    /// Both rows, if there are.
    pub fn inner(self) -> Option<(L, R)> {
        match self {
            Pair::Both(left, right) => Some((left, right)),
            Pair::Left(_) | Pair::Right(_) => None,
        }
    }

    /// The left row and what it has on the right.
    pub fn left(self) -> Option<(L, Option<R>)> {
        match self {
            Pair::Both(left, right) => Some((left, Some(right))),
            Pair::Left(left) => Some((left, None)),
            Pair::Right(_) => None,
        }
    }

    /// What the right row has on the left, and that row.
    pub fn right(self) -> Option<(Option<L>, R)> {
        match self {
            Pair::Both(left, right) => Some((Some(left), right)),
            Pair::Right(right) => Some((None, right)),
            Pair::Left(_) => None,
        }
    }

    /// What there is on both sides.
    pub fn full(self) -> (Option<L>, Option<R>) {
        match self {
            Pair::Both(left, right) => (Some(left), Some(right)),
            Pair::Left(left) => (Some(left), None),
            Pair::Right(right) => (None, Some(right)),
        }
    }
}
