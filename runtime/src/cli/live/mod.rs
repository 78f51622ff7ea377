//! What a running pipeline shows: one live line on a terminal, events in the log elsewhere, and a table at the end.
//!
//! [`Status`] and the table are pure functions of what was counted; [`Watch`] takes the samples and shows them.

mod screen;
mod shape;
mod status;
mod table;
mod watch;

pub(super) use screen::Screen;
pub(super) use shape::Shape;
pub(super) use watch::Watch;

use status::{Sample, Status};
