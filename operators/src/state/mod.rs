//! State: what operators keep, how they list it, and what is saved of it.

mod keyed;
mod saved;
mod timers;
mod visitor;

pub use keyed::{Keyed, StateKey, StateValue};
pub use saved::{Saved, Unsplittable};
pub use timers::Timers;
pub use visitor::StateVisitor;
