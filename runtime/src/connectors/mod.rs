//! Connectors: where rows come from and where they go. Each is a [`Source`](millstream_operators::Source) of raw payloads
//! or a [`Sink`](millstream_operators::Sink) of records; formats are operators beside them.

mod core_nats;
mod endless;
mod file;
#[cfg(feature = "columnar")]
mod generate;
#[cfg(feature = "columnar")]
mod generated;
mod jetstream;
#[cfg(feature = "columnar")]
mod kinds;
#[cfg(feature = "columnar")]
mod lookup;
mod memory;
mod nodes;
mod stdout;

pub(crate) use crate::broker::stream_fault;
pub use crate::broker::{Connections, Purpose, fault};
pub use core_nats::{CoreNatsSink, CoreNatsSource};
use endless::refuse_until_end;
pub use file::{FilePosition, FileSink, FileSource, FileStart};
#[cfg(feature = "columnar")]
pub use generate::{GeneratePosition, GenerateSource};
#[cfg(feature = "columnar")]
pub use generated::{Generated, generate};
pub use jetstream::{
    DeadLetters, JetStreamFrom, JetStreamPosition, JetStreamRead, JetStreamSink, JetStreamSource, JetStreamTo,
    JetStreamWrite, OnGap, Settlements, Share, SharedSource, Start, Tables, TransactionalSink, dead_letters, jetstream,
    jetstream_to, kv_table,
};
#[cfg(feature = "cli")]
pub(crate) use jetstream::{advisories_of, consumer_name, forgets, lacks, marked, marker_subjects, removals};
#[cfg(feature = "columnar")]
pub use kinds::registry;
pub use memory::{CollectSink, Collected, ListSource};
#[cfg(feature = "columnar")]
pub(crate) use nodes::output_file;
pub use nodes::{core_nats, core_nats_group, core_nats_to, file_sink, file_source, stdout, stdout_with_subjects};
pub use stdout::StdoutSink;

/// The engine's clock, for a connector that is being made.
fn clock(subtask: &millstream_pipelines::graph::Subtask) -> crate::engine::Clock {
    subtask.resources.get::<crate::engine::Clock>().map_or_else(crate::engine::Clock::system, |clock| *clock)
}
