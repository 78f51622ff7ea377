//! The typed DSL: a chain of verbs over rows of your own types.
//!
//! A [`Pipeline`] has sources; each gives a [`Stream`], whose verbs take it and give another. Verbs never fail: what is
//! wrong is collected, and [`Pipeline::build`] reports all of it at once.

#[cfg(feature = "columnar")]
mod columns;
mod ends;
mod formats;
#[cfg(feature = "columnar")]
mod frame;
mod joined;
#[cfg(test)]
mod joined_tests;
mod keeping;
mod keyed;
mod lookup;
mod pipeline;
#[cfg(feature = "columnar")]
mod rejections;
mod stream;
#[cfg(test)]
mod tests;
mod time;
mod windowed;

#[cfg(feature = "columnar")]
pub use columns::{ColumnsFrom, ColumnsTo, IntoFrame, columns_from, columns_to};
pub use ends::{Decoding, Discard, Encoding, IntoSink, IntoSource, ReadFrom, SinkNode, SourceNode, WriteTo};
#[cfg(feature = "columnar")]
pub use frame::{Best, ColumnWindows, Frame, JoinedFrame, KeyedFrame, LookupValues, WindowedFrame, best};
pub use joined::{Bounded, How, Join, Wanted};
pub use keeping::Keeping;
pub use keyed::KeyedStream;
pub use lookup::{LookedUp, MakeTable, TableNode, TableOf};
pub use pipeline::Pipeline;
#[cfg(feature = "columnar")]
pub use rejections::{OnRejected, Outlet};
pub use stream::{Added, Open, Stream, when};
pub use windowed::WindowedStream;
