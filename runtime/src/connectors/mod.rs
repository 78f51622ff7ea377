//! Connectors: where rows come from and where they go. Each is a [`Source`](millstream_operators::Source) of raw payloads
//! or a [`Sink`](millstream_operators::Sink) of records; formats are operators beside them.

mod connections;
mod core_nats;
mod file;
mod jetstream;
mod stdout;

pub use connections::{Connections, Purpose, fault};
pub use core_nats::{CoreNatsSink, CoreNatsSource};
pub use file::{FilePosition, FileSink, FileSource};
pub use jetstream::{
    DeadLetters, JetStreamFrom, JetStreamPosition, JetStreamRead, JetStreamSink, JetStreamSource, JetStreamTo,
    JetStreamWrite, OnGap, Settlements, Share, SharedSource, Start, dead_letters, jetstream, jetstream_to,
};
pub use stdout::StdoutSink;
