//! [`top_rows`]: the rows that are best by something.

use std::fmt;

use super::Aggregate;
use crate::{StateValue, Timestamp};

/// The rows that are best; see [`top_rows`].
#[derive(Clone, Copy)]
pub struct TopRows<F> {
    rows: usize,
    by: F,
    ties: bool,
}

/// The `rows` rows for which `by` gives the greatest values, best first; of equal ones the earlier in event time, and of those
/// the one that came first. For the least values let `by` give a [`Reverse`](std::cmp::Reverse).
///
/// ```text
/// rows (the best 2)    a: 5   b: 9   c: 7   d: 7
/// result                                          [b: 9, c: 7]
/// with ties                                       [b: 9, c: 7, d: 7]
/// ```
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// use millstream_operators::aggregate::top_rows;
/// use millstream_operators::testkit::Bench;
/// use millstream_operators::window::{GlobalWindowed, global};
///
/// let best = Arc::new(top_rows(2, |row: &(char, i64)| row.1));
/// let mut bench = Bench::new(GlobalWindowed::new(global(), Arc::new(|_: &(char, i64)| ()), best));
/// bench.rows([('a', 5), ('b', 9), ('c', 7), ('d', 7)]);
/// bench.end();
/// assert_eq!(bench.take()[0].value, [('b', 9), ('c', 7)]);
/// ```
pub fn top_rows<F>(rows: usize, by: F) -> TopRows<F> {
    TopRows { rows: rows.max(1), by, ties: false }
}

impl<F> TopRows<F> {
    /// Also all rows that are equal to the last one that fits.
    #[must_use]
    pub fn ties(mut self) -> Self {
        self.ties = true;
        self
    }
}

/// What decides about a row, its time, and the row.
type Ranked<B, T> = (B, Timestamp, T);

impl<F> TopRows<F> {
    /// Takes a row in unless it is not among the best: only then it is copied.
    fn take<B: Ord, T>(&self, best: &mut Vec<Ranked<B, T>>, by: B, time: Timestamp, row: impl FnOnce() -> T) {
        let place = best.partition_point(|(kept, at, _)| (&by, *at) <= (kept, time));
        let last_that_fits = best.get(self.rows - 1).map(|(last, ..)| last);
        match self.ties {
            true if last_that_fits.is_some_and(|last| by < *last) => return,
            false if place >= self.rows => return,
            _ => best.insert(place, (by, time, row())),
        }
        best.truncate(self.fitting(best));
    }

    /// How many of the best fit: more are kept where the pipeline asks for fewer than before.
    fn fitting<B: Ord, T>(&self, best: &[Ranked<B, T>]) -> usize {
        match best.get(self.rows - 1) {
            Some((last, ..)) if self.ties => best.partition_point(|(kept, ..)| kept >= last),
            _ => self.rows,
        }
    }
}

impl<T, B, F> Aggregate<T> for TopRows<F>
where
    T: StateValue,
    B: StateValue + Ord,
    F: Fn(&T) -> B + Send + Sync + 'static,
{
    type State = Vec<Ranked<B, T>>;
    type Out = Vec<T>;

    fn start(&self) -> Self::State {
        Vec::new()
    }

    fn add(&self, best: &mut Self::State, row: &T, time: Timestamp) {
        self.take(best, (self.by)(row), time, || row.clone());
    }

    fn merge(&self, best: &mut Self::State, other: &Self::State) {
        for (by, time, row) in other {
            self.take(best, by.clone(), *time, || row.clone());
        }
    }

    fn result(&self, best: &Self::State) -> Vec<T> {
        best.iter().take(self.fitting(best)).map(|(.., row)| row.clone()).collect()
    }

    fn shape(&self) -> String {
        format!("the best {} rows{}", self.rows, if self.ties { " with ties" } else { "" })
    }
}

impl<F> fmt::Debug for TopRows<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopRows({}{})", self.rows, if self.ties { " and ties" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::of;
    use super::*;

    fn price(bid: &(u64, char)) -> u64 {
        bid.0
    }

    #[test]
    fn the_best_rows_come_first_and_of_equal_ones_the_earlier() {
        let bids = [(3, 'a'), (9, 'b'), (1, 'c'), (9, 'd'), (4, 'e')];
        assert_eq!(of(&top_rows(1, price), &bids), [(9, 'b')]);
        assert_eq!(of(&top_rows(3, price), &bids), [(9, 'b'), (9, 'd'), (4, 'e')]);
        assert_eq!(of(&top_rows(9, price), &bids).len(), 5);
    }

    #[test]
    fn fewer_than_before_are_fewer_at_once() {
        let (mut best, three) = (Vec::new(), top_rows(3, price));
        [(3, 'a'), (9, 'b'), (3, 'c')].iter().for_each(|bid| three.add(&mut best, bid, Timestamp::MIN));
        assert_eq!(top_rows(1, price).result(&best), [(9, 'b')]);
        assert_eq!(top_rows(2, price).ties().result(&best), [(9, 'b'), (3, 'a'), (3, 'c')]);
    }

    #[test]
    fn with_ties_all_that_are_equal_to_the_last_one_stay() {
        let bids = [(3, 'a'), (9, 'b'), (3, 'c'), (9, 'd'), (4, 'e'), (9, 'f'), (4, 'g')];
        assert_eq!(of(&top_rows(1, price).ties(), &bids), [(9, 'b'), (9, 'd'), (9, 'f')]);
        assert_eq!(of(&top_rows(4, price).ties(), &bids), [(9, 'b'), (9, 'd'), (9, 'f'), (4, 'e'), (4, 'g')]);
    }

    #[test]
    fn it_does_not_matter_in_which_order_rows_of_different_times_come() {
        let (top, mut one, mut other) = (top_rows(2, price), Vec::new(), Vec::new());
        let bids = [(5, (9, 'a')), (3, (9, 'b')), (4, (9, 'c'))];
        for (time, bid) in bids {
            top.add(&mut one, &bid, Timestamp::from_micros(time));
        }
        for (time, bid) in bids.into_iter().rev() {
            top.add(&mut other, &bid, Timestamp::from_micros(time));
        }
        assert_eq!((top.result(&one), one), (vec![(9, 'b'), (9, 'c')], other));
    }
}
