//! A stream that several processes of a pipeline share: one durable consumer with an acknowledgement for each message.
//!
//! ```text
//!             deliveries            rows                    confirmed by all sinks
//! consumer ------------> in hand --------> pipeline ... barrier ----------------> +ACK, or -NAK, or +TERM
//!     ^        +WPI        |  stop: -NAK
//!     '------- in time ----'
//! ```
//!
//! There is no position: what is not settled comes again, here or elsewhere. So a message is settled only when a
//! checkpoint covers it, which means that everything that came of it is confirmed.

mod consumer;
mod settle;
mod source;
#[cfg(test)]
mod tests;
mod words;

pub use settle::Settlements;
pub use source::SharedSource;
