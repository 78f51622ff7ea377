//! JetStream as source and sink: at least once, whatever fails.
//!
//! The source reads by one durable consumer whose acknowledgements cover all before them, checks every delivery for a
//! gap, and resets the consumer when there is one: positions live in the checkpoint, the server's view of them is for
//! people. Shared, it is one of several that take turns at a consumer with an acknowledgement for each message, and has no
//! position. The sink publishes with a bounded window and sends everything unconfirmed again after any doubt. Under the
//! guarantee effectively-once another sink takes its place, which publishes what checkpoints hold.

mod answer;
mod attach;
mod beside;
mod delivery;
mod dsl;
mod fast;
mod gaps;
mod gather;
mod groups;
mod holes;
mod ingest;
mod jumps;
mod letters;
mod lint;
mod look;
mod message_ids;
mod messages;
mod position;
mod pull;
mod read;
mod rows;
mod shared;
mod sink;
mod source;
mod status;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod transactional;
mod until_end;
mod watch;
mod window;

#[cfg(feature = "cli")]
pub(crate) use attach::{advisories_of, consumer_name};
pub use dsl::{DeadLetters, JetStreamFrom, JetStreamTo, dead_letters, jetstream, jetstream_to};
#[cfg(feature = "cli")]
pub(crate) use lint::removals;
pub use position::{JetStreamPosition, OnGap, Start};
pub use read::{JetStreamRead, Share};
pub use shared::{Settlements, SharedSource};
pub use sink::{JetStreamSink, JetStreamWrite};
pub use source::JetStreamSource;
pub use table::{Tables, kv_table};
pub use transactional::TransactionalSink;
#[cfg(feature = "cli")]
pub(crate) use transactional::{forgets, lacks, marked, marker_subjects};
