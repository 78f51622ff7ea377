//! What moves through a Millstream pipeline, and what is done to it.
//!
//! This crate is pure: it does no I/O, reads no clock, draws no random number and knows no async runtime.

mod headers;
mod time;

pub use headers::{Headers, InvalidHeader};
pub use time::Timestamp;
