//! [`mean`] and [`variance`].

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Aggregate;
use crate::Timestamp;

/// The mean; see [`mean`].
#[derive(Clone, Copy)]
pub struct Mean<F>(F);

/// The variance; see [`variance`].
#[derive(Clone, Copy)]
pub struct Variance<F>(F);

/// The mean of the numbers that `of` gives for the rows; not a number for no rows.
pub fn mean<F>(of: F) -> Mean<F> {
    Mean(of)
}

/// The sample variance of the numbers that `of` gives for the rows; not a number for fewer than two.
pub fn variance<F>(of: F) -> Variance<F> {
    Variance(of)
}

/// Count, mean and sum of squared distances from it, by Welford's method; put together as Chan, Golub and LeVeque do
/// ("Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    count: u64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, number: f64) {
        self.count += 1;
        let distance = number - self.mean;
        self.mean += distance / self.count as f64;
        self.squares += distance * (number - self.mean);
    }

    fn merge(&mut self, other: &Moments) {
        if other.count == 0 {
            return;
        }
        let (ours, theirs) = (self.count as f64, other.count as f64);
        let distance = other.mean - self.mean;
        self.count += other.count;
        self.mean += distance * theirs / (ours + theirs);
        self.squares += other.squares + distance * distance * ours * theirs / (ours + theirs);
    }
}

macro_rules! of_moments {
    ($($name:ident: $result:expr;)*) => {$(
        impl<T, F: Fn(&T) -> f64 + Send + Sync + 'static> Aggregate<T> for $name<F> {
            type State = Moments;
            type Out = f64;

            fn start(&self) -> Moments {
                Moments::default()
            }

            fn add(&self, moments: &mut Moments, row: &T, _: Timestamp) {
                moments.add((self.0)(row));
            }

            fn merge(&self, moments: &mut Moments, other: &Moments) {
                moments.merge(other);
            }

            fn result(&self, moments: &Moments) -> f64 {
                let result: fn(&Moments) -> f64 = $result;
                result(moments)
            }
        }

        impl<F> fmt::Debug for $name<F> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )*};
}
of_moments! {
    Mean: |moments| if moments.count == 0 { f64::NAN } else { moments.mean };
    Variance: |moments| if moments.count < 2 { f64::NAN } else { moments.squares / (moments.count - 1) as f64 };
}

#[cfg(test)]
mod tests {
    use super::super::tests::of;
    use super::*;

    #[test]
    fn the_mean_and_the_variance_are_those_of_the_books() {
        let numbers = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0];
        assert_eq!(of(&mean(|n: &f64| *n), &numbers), 5.0);
        assert_eq!(of(&variance(|n: &f64| (n * 7.0).round() / 7.0), &[1.0, 2.0, 3.0]), 1.0);
        let mut moments = Moments::default();
        numbers.iter().for_each(|n| moments.add(*n));
        assert!((Variance(|n: &f64| *n).result(&moments) - 32.0 / 7.0).abs() < 1e-12);
    }

    #[test]
    fn a_great_offset_does_not_drown_the_variance() {
        let mut moments = Moments::default();
        [1e9 + 4.0, 1e9 + 7.0, 1e9 + 13.0, 1e9 + 16.0].iter().for_each(|n| moments.add(*n));
        assert!((Variance(|n: &f64| *n).result(&moments) - 30.0).abs() < 1e-6);
    }

    #[test]
    fn too_few_rows_give_no_number() {
        assert!(mean(|n: &f64| *n).result(&Moments::default()).is_nan());
        let mut one = Moments::default();
        one.add(1.0);
        assert!(variance(|n: &f64| *n).result(&one).is_nan());
    }
}
