//! The sink that stores each row once: outputs are part of the checkpoint before they are published, and are published in
//! atomic batches that begin with a fenced marker.
//!
//! The marker says how far the outputs of which checkpoint are in the stream, and who may go on. It changes with the
//! outputs or not at all, by compare-and-set: whoever takes over rewrites it, and from then on every batch of the one
//! before is refused as a whole.

mod batch;
mod ledger;
mod marker;
mod publisher;
mod sink;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use marker::is_marker;
#[cfg(feature = "cli")]
pub(crate) use marker::marker_subjects;
#[cfg(feature = "cli")]
pub(crate) use publisher::marked;
pub use sink::TransactionalSink;
#[cfg(feature = "cli")]
pub(crate) use stream::{forgets, lacks};
