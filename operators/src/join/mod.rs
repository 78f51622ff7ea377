//! Rows of two streams put together by key and time.
//!
//! A join sees both streams as one, of [`Sided`] rows: it is an operator like any other, and its state goes where its keys
//! go. In windows, rows of both sides are gathered by a window ([`Gathered`]) and then paired.

mod bounds;
mod gathered;
mod interval;
mod sided;
mod temporal;
#[cfg(test)]
mod tests;
mod versions;

pub use bounds::{Interval, Unbounded, UntilInterval, unbounded, within};
pub use gathered::{Both, Gathered};
pub use interval::{IntervalJoin, UntilOf};
pub use sided::{Pair, Sided};
pub use temporal::TemporalJoin;
pub use versions::RowVersions;
