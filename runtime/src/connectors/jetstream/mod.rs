//! JetStream as source and sink: at least once, whatever fails.
//!
//! The source reads by one durable consumer whose acknowledgements cover all before them, checks every delivery for a
//! gap, and resets the consumer when there is one: positions live in the checkpoint, the server's view of them is for
//! people. The sink publishes with a bounded window and sends everything unconfirmed again after any doubt.

mod answer;
mod attach;
mod delivery;
mod dsl;
mod fast;
mod groups;
mod ingest;
mod position;
mod sink;
mod source;
mod status;
mod stream;
mod until_end;
mod window;

#[cfg(feature = "cli")]
pub(crate) use attach::consumer_name;
#[cfg(feature = "columnar")]
pub(super) use dsl::connections;
pub use dsl::{DeadLetters, JetStreamFrom, JetStreamTo, dead_letters, jetstream, jetstream_to};
pub use position::{JetStreamPosition, OnGap, Start};
pub use sink::{JetStreamSink, JetStreamWrite};
pub use source::{JetStreamRead, JetStreamSource};
