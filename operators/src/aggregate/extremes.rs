//! [`min`] and [`max`]: the least and the greatest value.

use std::fmt;

use super::Aggregate;
use crate::{StateValue, Timestamp};

/// The least value; see [`min`].
#[derive(Clone, Copy)]
pub struct Min<F>(F);

/// The greatest value; see [`max`].
#[derive(Clone, Copy)]
pub struct Max<F>(F);

/// The least of the values that `of` gives for the rows; the first of several that are equal. What cannot be compared, as
/// a float that is not a number, counts only where there is nothing else. `None` for no rows.
pub fn min<F>(of: F) -> Min<F> {
    Min(of)
}

/// The greatest of the values that `of` gives for the rows; see [`min`].
pub fn max<F>(of: F) -> Max<F> {
    Max(of)
}

/// Keeps `value` if it comes before what is kept, or if what is kept cannot even be compared with itself.
fn keep<V: PartialOrd>(kept: &mut Option<V>, value: V, comes_before: impl Fn(&V, &V) -> bool) {
    let replaces = match kept {
        None => true,
        Some(kept) => comes_before(&value, kept) || kept.partial_cmp(&kept).is_none(),
    };
    if replaces {
        *kept = Some(value);
    }
}

macro_rules! extreme {
    ($($name:ident $compare:tt),*) => {$(
        impl<T, V, F> Aggregate<T> for $name<F>
        where
            V: PartialOrd + StateValue,
            F: Fn(&T) -> V + Send + Sync + 'static,
        {
            type State = Option<V>;
            type Out = Option<V>;

            fn start(&self) -> Option<V> {
                None
            }

            fn add(&self, kept: &mut Option<V>, row: &T, _: Timestamp) {
                keep(kept, (self.0)(row), |a, b| a $compare b);
            }

            fn merge(&self, kept: &mut Option<V>, other: &Option<V>) {
                if let Some(other) = other {
                    keep(kept, other.clone(), |a, b| a $compare b);
                }
            }

            fn result(&self, kept: &Option<V>) -> Option<V> {
                kept.clone()
            }
        }

        impl<F> fmt::Debug for $name<F> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )*};
}
extreme!(Min <, Max >);

#[cfg(test)]
mod tests {
    use super::super::tests::of;
    use super::*;

    #[test]
    fn keeps_the_least_and_the_greatest() {
        assert_eq!(of(&min(|n: &i64| *n), &[3, 1, 2]), Some(1));
        assert_eq!(of(&max(|n: &i64| *n), &[3, 1, 2]), Some(3));
        assert_eq!(of(&max(|n: &i64| *n), &[]), None);
    }

    #[test]
    fn what_is_not_a_number_does_not_hide_the_others() {
        assert_eq!(of(&min(|n: &f64| *n), &[f64::NAN, 2.0, 1.0]), Some(1.0));
        assert_eq!(of(&max(|n: &f64| *n), &[2.0, f64::NAN, 1.0]), Some(2.0));
    }
}
