//! The test kit: [`Bench`] drives one operator by hand, with no runtime.

mod bench;
mod cuts;

pub use bench::Bench;
pub use cuts::{Step, cuts_do_not_matter, steps_do_not_matter, timed, with_origins};
