//! [`sum`]: numbers added up.

use std::fmt;

use super::Aggregate;
use crate::{StateValue, Timestamp};

/// A number that can be added up. Whole numbers stop at the ends of their type rather than wrap around.
pub trait Number: Copy + Default + StateValue {
    /// The sum of both.
    #[must_use]
    fn plus(self, other: Self) -> Self;
}

macro_rules! numbers {
    ($($int:ty),*) => {$(impl Number for $int {
        fn plus(self, other: Self) -> Self { self.saturating_add(other) }
    })*};
}
numbers!(i32, i64, i128, u32, u64, u128);

impl Number for f64 {
    fn plus(self, other: Self) -> Self {
        self + other
    }
}

/// Numbers added up; see [`sum`].
#[derive(Clone, Copy)]
pub struct Sum<F>(F);

/// The numbers that `of` gives for the rows, added up. Sums of floats depend on the order of rows in their last digits.
pub fn sum<F>(of: F) -> Sum<F> {
    Sum(of)
}

impl<T, N: Number, F: Fn(&T) -> N + Send + Sync + 'static> Aggregate<T> for Sum<F> {
    type State = N;
    type Out = N;

    fn start(&self) -> N {
        N::default()
    }

    fn add(&self, sum: &mut N, row: &T, _: Timestamp) {
        *sum = sum.plus((self.0)(row));
    }

    fn merge(&self, sum: &mut N, other: &N) {
        *sum = sum.plus(*other);
    }

    fn result(&self, sum: &N) -> N {
        *sum
    }
}

impl<F> fmt::Debug for Sum<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sum")
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::of;
    use super::*;

    #[test]
    fn adds_up_and_stops_at_the_end_of_the_type() {
        assert_eq!(of(&sum(|n: &i64| *n), &[1, 2, 3]), 6);
        assert_eq!(of(&sum(|n: &i64| *n), &[i64::MAX, 1]), i64::MAX);
        assert_eq!(of(&sum(|n: &f64| n * 2.0), &[0.5, 0.25]), 1.5);
    }
}
