//! [`quantile`]: nearly the value that a share of the rows does not exceed.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Aggregate;
use crate::Timestamp;

/// Nearly a quantile; see [`quantile`].
#[derive(Clone, Copy)]
pub struct Quantile<F> {
    share: f64,
    of: F,
}

/// Nearly the value that a `share` of the rows (0.5 for the median, 0.99 for the 99th percentile) does not exceed, of the
/// numbers that `of` gives: off by 1 % of the value at most. `None` for no rows.
///
/// By DDSketch (Masson, Rim and Lee, 2019): buckets whose bounds grow by a factor. How rows are parted and in which order
/// they come changes nothing.
pub fn quantile<F>(share: f64, of: F) -> Quantile<F> {
    Quantile { share: share.clamp(0.0, 1.0), of }
}

/// How many numbers fell into each bucket; what is not a number is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Buckets {
    // Buckets of negative numbers have negative signs, so that the order of keys is that of values.
    counts: BTreeMap<(i8, i32), u64>,
    total: u64,
}

const ERROR: f64 = 0.01;

// Nearer to zero than this is zero.
const LEAST: f64 = 1e-9;

fn growth() -> f64 {
    (1.0 + ERROR) / (1.0 - ERROR)
}

impl Buckets {
    fn take(&mut self, number: f64) {
        if number.is_nan() {
            return;
        }
        let bucket = match number.abs() {
            size if size < LEAST => (0, 0),
            size => {
                let index = (size.min(f64::MAX).ln() / growth().ln()).ceil() as i32;
                if number > 0.0 { (1, index) } else { (-1, -index) }
            }
        };
        *self.counts.entry(bucket).or_default() += 1;
        self.total += 1;
    }

    fn at(&self, share: f64) -> Option<f64> {
        let rank = (share * self.total.saturating_sub(1) as f64).floor() as u64;
        let mut seen = 0;
        for ((sign, index), count) in &self.counts {
            seen += count;
            if seen > rank {
                let middle = |index: i32| 2.0 * growth().powi(index) / (growth() + 1.0);
                return Some(match sign {
                    0 => 0.0,
                    1 => middle(*index),
                    _ => -middle(-index),
                });
            }
        }
        None
    }
}

impl<T, F: Fn(&T) -> f64 + Send + Sync + 'static> Aggregate<T> for Quantile<F> {
    type State = Buckets;
    type Out = Option<f64>;

    fn start(&self) -> Buckets {
        Buckets::default()
    }

    fn add(&self, buckets: &mut Buckets, row: &T, _: Timestamp) {
        buckets.take((self.of)(row));
    }

    fn merge(&self, buckets: &mut Buckets, other: &Buckets) {
        for (bucket, count) in &other.counts {
            *buckets.counts.entry(*bucket).or_default() += count;
        }
        buckets.total += other.total;
    }

    fn result(&self, buckets: &Buckets) -> Option<f64> {
        buckets.at(self.share)
    }
}

impl<F> fmt::Debug for Quantile<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Quantile({})", self.share)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::of;
    use super::*;

    #[test]
    fn is_within_a_percent_of_the_true_value() {
        let numbers: Vec<f64> = (0..1_000).map(|n| f64::from(n * 7 % 1_000) - 300.0).collect();
        for (share, expected) in [(0.0, -300.0), (0.1, -201.0), (0.3, -1.0), (0.5, 199.0), (0.99, 689.0), (1.0, 699.0)]
        {
            let mut buckets = Buckets::default();
            numbers.iter().for_each(|n| buckets.take(*n));
            let given = buckets.at(share).unwrap();
            assert!((given - expected).abs() <= expected.abs() * 0.011, "{share}: {given} for {expected}");
        }
    }

    #[test]
    fn what_is_not_a_number_is_left_out() {
        let numbers = [f64::NAN, 5.0, f64::NAN];
        let median = of(&quantile(0.5, |n: &f64| *n), &numbers).unwrap();
        assert!((median - 5.0).abs() < 0.05);
        assert_eq!(of(&quantile(0.5, |n: &f64| *n), &[0.0]), Some(0.0));
        assert_eq!(of(&quantile(0.5, |n: &f64| *n), &[]), None);
    }
}
