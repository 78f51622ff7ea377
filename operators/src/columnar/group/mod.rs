//! Rows of columns grouped by key: how keys are found, what is computed of a group, and windows of groups.

mod away;
mod calls;
mod codec;
mod count;
mod dedup;
mod early;
mod frozen;
mod global;
mod grouped;
mod groups;
mod kept;
mod key_set;
mod keys;
mod last;
mod late;
mod outputs;
mod pane;
mod results;
mod rounds;
mod sealed;
mod session;
mod spans;
mod table;
#[cfg(test)]
mod tests;
mod top;
mod window;

pub(in crate::columnar) use codec::{KeyBytes, KeyCodec, RowKeys};
pub(in crate::columnar) use keys::hashes;

pub use calls::Aggregates;
pub use count::CountAggregate;
pub use dedup::Dedup;
pub use global::GlobalAggregate;
pub use kept::Computed;
pub use keys::KeyColumns;
pub use last::LastAggregate;
pub use session::{OwnWindows, SessionAggregate};
pub use top::Top;
pub use window::WindowAggregate;
