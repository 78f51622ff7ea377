//! Rows of two streams of columns put together by key and time: one operator, [`Join`], whatever [bounds](Bound) which rows
//! belong together.
//!
//! ```text
//!  batch of a side --> chunk of its Store, rows numbered --> Keys: of each key two lists of (time, number), and when to
//!                                                            come back to it
//!  pairs of numbers, 8192 at a time --interleave--> a batch of results
//! ```
//!
//! Rows stay in the columns in which they came. A checkpoint has the chunks of both sides as pieces of their own, and only
//! those that have changed are encoded: rows by key group, so that another number of subtasks shares them out. Where memory is
//! bounded, the keys of the oldest rows go with all their rows to the spill store, and come back as a chunk when they are needed.

mod away;
mod away_saved;
#[cfg(test)]
mod away_tests;
mod bound;
mod keys;
mod operator;
#[cfg(test)]
mod oracle;
mod parked;
mod plan;
mod saved;
mod spilled;
mod store;
#[cfg(test)]
mod tests;
mod together;
mod width;

pub use bound::{Bound, JoinKind};
pub use operator::Join;
pub use plan::{JoinMistakes, JoinPlan};
