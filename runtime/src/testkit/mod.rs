//! The test kit for whole graphs: [`Flow`] runs one on the real engine with ends made of memory, on a paused clock, and
//! can crash it; a cast of misfits fails on purpose.

mod flow;
mod misfits;

pub use crate::connectors::{CollectSink, Collected, ListSource};
pub use flow::Flow;
pub use misfits::{FailingStore, Gate, StallingSink};
