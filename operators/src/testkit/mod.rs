//! The test kit: [`Bench`] drives one operator by hand, with no runtime.

mod bench;
mod cases;
mod cuts;
mod tables;

pub use bench::Bench;
pub use cases::cases;
#[cfg(test)]
pub(crate) use cuts::sizes;
pub use cuts::{Step, cuts_do_not_matter, steps_do_not_matter, steps_in_one_piece, timed, with_origins};
pub(crate) use tables::MemoryTables;
