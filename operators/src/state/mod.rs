//! State: what operators keep, how they list it, and what is saved of it.

mod frozen;
mod keyed;
mod run;
mod saved;
mod shards;
mod timers;
mod touched;
mod visitor;

pub use frozen::{Frozen, Pieces, Snapshot};
pub use keyed::{Keyed, StateKey, StateValue};
pub use run::Run;
pub use saved::{Saved, Unsplittable};
pub use timers::Timers;
pub use visitor::{PaneGroups, StateVisitor};
