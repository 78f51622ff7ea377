//! What is computed of the rows of a window: [`Aggregate`], and those that come with Millstream.
//!
//! Several at once are a tuple: `(count(), sum(|o: &Order| o.amount), max(|o: &Order| o.amount))` goes over the rows once
//! and gives a tuple.

mod collect;
mod count;
mod distinct;
mod extremes;
mod mean;
mod quantile;
mod sum;
mod top_rows;
mod tuple;
mod versioned;

pub use collect::{Collect, First, Last, Top, collect, first, last, top};
pub use count::{Count, count};
pub use distinct::{ApproxDistinct, CountDistinct, approx_distinct, count_distinct};
pub use extremes::{Max, Min, max, min};
pub use mean::{Mean, Variance, mean, variance};
pub use quantile::{Quantile, quantile};
pub use sum::{Number, Sum, sum};
pub use top_rows::{TopRows, top_rows};
pub use versioned::{Versioned, of_version};

use crate::port::short_type_name;
use crate::{StateValue, Timestamp, Versions};

/// What is computed of rows, piece by piece: a state that takes rows in, can be put together with another, and gives a
/// result at any time.
///
/// Putting two states together gives what one state would give that had seen the rows of both, those of the first one
/// first. Windows that overlap rely on it, and so do sessions that grow together.
///
/// ```
/// use millstream_operators::aggregate::Aggregate;
/// use millstream_operators::Timestamp;
///
/// /// The longest text.
/// struct Longest;
///
/// impl Aggregate<String> for Longest {
///     type State = String;
///     type Out = String;
///     fn start(&self) -> String { String::new() }
///     fn add(&self, longest: &mut String, row: &String, _: Timestamp) {
///         if row.len() > longest.len() { longest.clone_from(row) }
///     }
///     fn merge(&self, longest: &mut String, other: &String) { self.add(longest, other, Timestamp::MIN) }
///     fn result(&self, longest: &String) -> String { longest.clone() }
/// }
/// ```
pub trait Aggregate<T>: Send + Sync + 'static {
    /// What is kept between rows, and saved with a checkpoint.
    type State: StateValue;
    /// What comes of it.
    type Out: Send + 'static;

    /// The state before the first row.
    fn start(&self) -> Self::State;

    /// Takes a row in.
    fn add(&self, state: &mut Self::State, row: &T, time: Timestamp);

    /// Takes in what another state has seen, which comes behind what this one has.
    fn merge(&self, state: &mut Self::State, other: &Self::State);

    /// What comes of the rows seen.
    fn result(&self, state: &Self::State) -> Self::Out;

    /// What is kept, in words: a run does not go on from state that something else has kept. It is the name of the type, without
    /// what that is generic over, unless an aggregate says otherwise. It has to where what it keeps depends on more: on a
    /// number, or on other aggregates that it is made of (`Pair<Count, Sum>` and `Pair<Sum, Count>` have one name), whose
    /// shapes it then names in its own.
    fn shape(&self) -> String {
        // Names of closures and rows change with the program around them, and state stays what it was.
        let name = std::any::type_name::<Self>();
        short_type_name(name.split('<').next().unwrap_or(name))
    }

    /// The version of what is kept, and how what an older program kept becomes such: version 1 unless an aggregate says
    /// otherwise, or [`of_version`] does.
    fn versions(&self) -> Versions<Self::State> {
        Versions::default()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What an aggregate gives of rows at the times 0, 1, 2, …; and that it does not matter where they are parted.
    pub(crate) fn of<T, A>(aggregate: &A, rows: &[T]) -> A::Out
    where
        A: Aggregate<T>,
        A::Out: PartialEq + std::fmt::Debug,
    {
        let seen = |range: std::ops::Range<usize>| {
            let mut state = aggregate.start();
            for at in range {
                aggregate.add(&mut state, &rows[at], Timestamp::from_micros(i64::try_from(at).unwrap()));
            }
            state
        };
        let whole = aggregate.result(&seen(0..rows.len()));
        for at in 0..=rows.len() {
            let mut state = seen(0..at);
            aggregate.merge(&mut state, &seen(at..rows.len()));
            assert_eq!(aggregate.result(&state), whole, "parted at {at}");
        }
        whole
    }
}
