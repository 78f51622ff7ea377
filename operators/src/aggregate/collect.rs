//! Rows that are kept: [`collect`], [`first`], [`last`] and [`top`].

use std::fmt;

use super::Aggregate;
use crate::{StateValue, Timestamp};

/// Something of every row; see [`collect`].
#[derive(Clone, Copy)]
pub struct Collect<F>(F);

/// Something of the first row; see [`first`].
#[derive(Clone, Copy)]
pub struct First<F>(F);

/// Something of the last row; see [`last`].
#[derive(Clone, Copy)]
pub struct Last<F>(F);

/// The greatest of what rows have; see [`top`].
#[derive(Clone, Copy)]
pub struct Top<F> {
    rows: usize,
    of: F,
}

/// What `of` gives for every row, in the order in which they came. All of it is state: meant for windows of few rows.
pub fn collect<F>(of: F) -> Collect<F> {
    Collect(of)
}

/// What `of` gives for the row with the earliest event time; of several, for the one that came first.
pub fn first<F>(of: F) -> First<F> {
    First(of)
}

/// What `of` gives for the row with the latest event time; of several, for the one that came last.
pub fn last<F>(of: F) -> Last<F> {
    Last(of)
}

/// The `rows` greatest of what `of` gives, the greatest first: make it a tuple that begins with what decides.
pub fn top<F>(rows: usize, of: F) -> Top<F> {
    Top { rows, of }
}

impl<T, V: StateValue, F: Fn(&T) -> V + Send + Sync + 'static> Aggregate<T> for Collect<F> {
    type State = Vec<V>;
    type Out = Vec<V>;

    fn start(&self) -> Vec<V> {
        Vec::new()
    }

    fn add(&self, all: &mut Vec<V>, row: &T, _: Timestamp) {
        all.push((self.0)(row));
    }

    fn merge(&self, all: &mut Vec<V>, other: &Vec<V>) {
        all.extend_from_slice(other);
    }

    fn result(&self, all: &Vec<V>) -> Vec<V> {
        all.clone()
    }
}

macro_rules! end {
    ($($name:ident $replaces:tt),*) => {$(
        impl<T, V: StateValue, F: Fn(&T) -> V + Send + Sync + 'static> Aggregate<T> for $name<F> {
            type State = Option<(Timestamp, V)>;
            type Out = Option<V>;

            fn start(&self) -> Self::State {
                None
            }

            fn add(&self, kept: &mut Self::State, row: &T, time: Timestamp) {
                if kept.as_ref().is_none_or(|(at, _)| time $replaces *at) {
                    *kept = Some((time, (self.0)(row)));
                }
            }

            fn merge(&self, kept: &mut Self::State, other: &Self::State) {
                let Some((time, _)) = other else { return };
                if kept.as_ref().is_none_or(|(at, _)| *time $replaces *at) {
                    kept.clone_from(other);
                }
            }

            fn result(&self, kept: &Self::State) -> Option<V> {
                kept.as_ref().map(|(_, value)| value.clone())
            }
        }
    )*};
}
end!(First <, Last >=);

impl<T, V: StateValue + Ord, F: Fn(&T) -> V + Send + Sync + 'static> Aggregate<T> for Top<F> {
    type State = Vec<V>;
    type Out = Vec<V>;

    fn start(&self) -> Vec<V> {
        Vec::new()
    }

    fn add(&self, top: &mut Vec<V>, row: &T, _: Timestamp) {
        self.take(top, (self.of)(row));
    }

    fn merge(&self, top: &mut Vec<V>, other: &Vec<V>) {
        other.iter().for_each(|value| self.take(top, value.clone()));
    }

    fn result(&self, top: &Vec<V>) -> Vec<V> {
        top.iter().take(self.rows).cloned().collect()
    }

    fn shape(&self) -> String {
        format!("the greatest {}", self.rows)
    }
}

impl<F> Top<F> {
    fn take<V: Ord>(&self, top: &mut Vec<V>, value: V) {
        let place = top.partition_point(|kept| *kept >= value);
        if place < self.rows {
            top.insert(place, value);
            top.truncate(self.rows);
        }
    }
}

macro_rules! debug {
    ($($name:ident),*) => {$(impl<F> fmt::Debug for $name<F> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(stringify!($name))
        }
    })*};
}
debug!(Collect, First, Last, Top);

#[cfg(test)]
mod tests {
    use super::super::tests::of;
    use super::*;

    #[test]
    fn keeps_all_the_first_the_last_and_the_greatest() {
        let words = ["b", "a", "c"].map(str::to_owned);
        assert_eq!(of(&collect(String::clone), &words), words);
        assert_eq!(of(&first(String::clone), &words), Some("b".to_owned()));
        assert_eq!(of(&last(String::clone), &words), Some("c".to_owned()));
        assert_eq!(of(&top(2, |n: &i64| *n), &[3, 9, 1, 9, 4]), [9, 9]);
    }

    #[test]
    fn the_first_and_the_last_go_by_event_time() {
        let (first, last) = (first(|n: &u8| *n), last(|n: &u8| *n));
        let (mut earliest, mut latest) = (None, None);
        for (time, row) in [(5, 1), (3, 2), (3, 3), (5, 4)] {
            first.add(&mut earliest, &row, Timestamp::from_micros(time));
            last.add(&mut latest, &row, Timestamp::from_micros(time));
        }
        assert_eq!((first.result(&earliest), last.result(&latest)), (Some(2), Some(4)));
    }
}
