//! How rows fall into windows, and the operators that aggregate them there.
//!
//! | windows | a row falls into | they close | timeline |
//! |---|---|---|---|
//! | [`tumbling`], [`sliding`] | those of equal length that have its time in them | when the watermark reaches their end | [`TimeWindowed`] |
//! | [`session`](session()) | the one that lasts as long as rows of its key follow each other | after a gap | [`SessionWindowed`] |
//! | [`until`](until()) | the one of its key that lasts until a time that its rows tell | behind that time | [`until`](until()) |
//! | [`last_rows`](last_rows()) | its own: with the rows of its key before it | when the watermark has passed the row | [`LastWindowed`] |
//! | [`count_windows`] | the next so many rows of its key | when they are full | [`CountWindowed`] |
//! | [`global`](global()) | one of its key for ever | at the end of the input | [`GlobalWindowed`] |

mod count;
mod emit;
mod global;
mod grid;
mod last_rows;
mod mistakes;
mod session;
#[cfg(test)]
mod tests;
mod time;
mod until;
mod windowed;

pub use count::{CountWindowed, CountWindows, count_windows};
pub use emit::Emit;
pub use global::{GlobalWindowed, GlobalWindows, global};
pub use grid::{TimeWindows, sliding, tumbling};
pub use last_rows::{AsTheyCame, LastRows, LastWindowed, RowOrder, last_rows};
pub use session::{OwnWindow, SessionWindowed, SessionWindows, session};
pub use time::TimeWindowed;
pub use until::{Until, until};
pub use windowed::{Firing, KeyOf, Windowed, Windows};

#[cfg(feature = "columnar")]
pub(crate) use mistakes::no_gap;
pub(crate) use windowed::{UNJOINED, late_port, refuse_late};
