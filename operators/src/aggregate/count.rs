//! [`count`]: how many rows there are.

use super::Aggregate;
use crate::Timestamp;

/// How many rows there are; see [`count`].
#[derive(Clone, Copy, Debug)]
pub struct Count;

/// How many rows there are.
pub fn count() -> Count {
    Count
}

impl<T> Aggregate<T> for Count {
    type State = u64;
    type Out = u64;

    fn start(&self) -> u64 {
        0
    }

    fn add(&self, count: &mut u64, _: &T, _: Timestamp) {
        *count += 1;
    }

    fn merge(&self, count: &mut u64, other: &u64) {
        *count += other;
    }

    fn result(&self, count: &u64) -> u64 {
        *count
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::of;
    use super::*;

    #[test]
    fn counts_rows() {
        assert_eq!(of(&count(), &["a", "b", "c"]), 3);
    }
}
