//! The typed DSL: a chain of verbs over rows of your own types.
//!
//! A [`Pipeline`] has sources; each gives a [`Stream`], whose verbs take it and give another. Verbs never fail: what is
//! wrong is collected, and [`Pipeline::build`] reports all of it at once.

mod ends;
mod keyed;
mod pipeline;
mod stream;
#[cfg(test)]
mod tests;

pub use ends::{Decoding, Discard, Encoding, IntoSink, IntoSource, ReadFrom, SinkNode, SourceNode, WriteTo};
pub use keyed::KeyedStream;
pub use pipeline::Pipeline;
pub use stream::{Added, Open, Stream, when};
