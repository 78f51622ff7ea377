//! [`Frame`]: rows of declared columns in the DSL.

mod node;
#[cfg(test)]
mod tests;
mod verbs;

pub(super) use node::frame_port;
pub use verbs::Frame;
