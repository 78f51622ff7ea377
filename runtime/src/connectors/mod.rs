//! Connectors: where rows come from and where they go. Each is a [`Source`](millstream_operators::Source) of raw payloads
//! or a [`Sink`](millstream_operators::Sink) of records; formats are operators beside them.

mod connections;
mod core_nats;
mod file;
mod stdout;

pub use connections::{Connections, Purpose, fault};
pub use core_nats::{CoreNatsSink, CoreNatsSource};
pub use file::{FilePosition, FileSink, FileSource};
pub use stdout::StdoutSink;
