//! State: what operators keep, how they list it, and what is saved of it.

mod as_saved;
mod away;
mod encoder;
mod entries;
mod expiry;
mod far;
mod fetched;
mod frozen;
mod keyed;
mod long_keys;
mod notes;
mod ordered;
mod panes;
mod restoring;
mod run;
mod saved;
mod shape;
mod shards;
mod spill;
#[cfg(test)]
mod spill_tests;
mod timers;
#[cfg(test)]
mod timers_tests;
mod touched;
mod versions;
mod visitor;
#[cfg(test)]
mod visitor_tests;

pub(crate) use as_saved::{AsSaved, ReadError};
#[cfg(feature = "columnar")]
pub(crate) use entries::{AwayEntries, FrozenEntries, key_of};

pub use expiry::Expiry;
pub use frozen::{Frozen, Pieces, Snapshot};
pub use keyed::{Keyed, StateKey, StateValue};
pub use panes::Panes;
#[cfg(feature = "columnar")]
pub(crate) use restoring::Piece;
pub use restoring::Runs;
pub use run::Run;
pub use saved::{Saved, Unsplittable};
pub use spill::{Scan, Spill, SpillGauge, SpillStore, SpillTable, SpillView};
pub use timers::Timers;
pub(crate) use versions::Read;
pub use versions::Versions;
pub use visitor::{PaneGroups, StateVisitor};
