//! [`Frame`]: rows of declared columns in the DSL.

mod joined;
mod lookup;
mod node;
#[cfg(test)]
mod tests;
mod time;
mod verbs;
mod window;

pub use joined::JoinedFrame;
pub use lookup::LookupValues;
pub(super) use node::frame_port;
pub use time::KeyedFrame;
pub use verbs::Frame;
pub use window::{Best, ColumnWindows, WindowedFrame, best};
