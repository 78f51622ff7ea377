//! State: what operators keep, how they list it, and what is saved of it.

mod away;
mod encoder;
mod expiry;
mod far;
mod fetched;
mod frozen;
mod keyed;
mod run;
mod saved;
mod shards;
mod spill;
#[cfg(test)]
mod spill_tests;
mod timers;
mod touched;
mod versions;
mod visitor;

pub use expiry::Expiry;
pub use frozen::{Frozen, Pieces, Snapshot};
pub use keyed::{Keyed, StateKey, StateValue};
pub use run::Run;
pub use saved::{Saved, Unsplittable};
pub use spill::{Scan, Spill, SpillStore, SpillTable, SpillView};
pub use timers::Timers;
pub use versions::Versions;
pub use visitor::{PaneGroups, Runs, StateVisitor};
