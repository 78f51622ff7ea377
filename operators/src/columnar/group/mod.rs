//! Rows of columns grouped by key: how keys are found, what is computed of a group, and windows of groups.

mod calls;
mod codec;
mod dedup;
mod groups;
mod keys;
mod pane;
#[cfg(test)]
mod tests;
mod window;

pub(in crate::columnar) use codec::{KeyBytes, KeyCodec, RowKeys};
pub(in crate::columnar) use keys::hashes;

pub use calls::Aggregates;
pub use dedup::Dedup;
pub use keys::KeyColumns;
pub use window::WindowAggregate;
