//! Event times of rows, and the watermarks that follow from them.

mod by_clock;
mod ended;
mod event_time;
mod part;
mod progress;
mod strategy;

pub use by_clock::ByClock;
pub use event_time::{EventTime, IntoEventTime};
#[cfg(feature = "columnar")]
pub(crate) use event_time::{tell, wake};
pub use progress::Progress;
pub use strategy::{Watermarks, ascending, bounded_lateness};
