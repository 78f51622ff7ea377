//! The test kit for whole graphs: [`Flow`] runs one on the real engine with ends made of memory, on a paused clock, and
//! can crash it; a cast of misfits fails on purpose.

mod flow;
mod misfits;

#[cfg(feature = "jetstream")]
pub use crate::broker::free_port;
pub use crate::connectors::{CollectSink, Collected, ListSource};
pub use flow::Flow;
pub use misfits::{FailingStore, Gate, StallingSink};
