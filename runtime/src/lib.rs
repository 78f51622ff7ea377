//! Millstream: a stateful stream-processing runtime for NATS JetStream.

pub mod broker;
