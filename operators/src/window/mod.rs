//! How rows fall into windows, and the operators that aggregate them there.

mod count;
mod grid;
mod session;
mod time;
mod windowed;

pub use count::{CountWindowed, CountWindows, count_windows, global};
pub use grid::{Emit as EmitWindows, TimeWindows, sliding, tumbling};
pub use session::{SessionWindowed, SessionWindows, session};
pub use time::TimeWindowed;
pub use windowed::{Firing, KeyOf, Windowed, Windows};

pub(crate) use windowed::{late_port, refuse_late};

#[cfg(test)]
mod tests;
