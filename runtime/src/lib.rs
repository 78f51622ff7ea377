//! Millstream: a stateful stream-processing runtime for NATS JetStream.

pub mod broker;
pub mod checkpoint;
pub mod connectors;
pub mod engine;
#[cfg(feature = "testkit")]
pub mod testkit;
