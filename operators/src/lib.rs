//! What moves through a Millstream pipeline, and what is done to it.
//!
//! This crate is pure: it does no I/O, reads no clock, draws no random number and knows no async runtime. (The
//! DataFusion crates behind the feature `columnar` depend on one; nothing here uses it.)
//!
//! # Operators
//! | what they do | over typed rows: [`rows`] | over columns: `columnar` |
//! |---|---|---|
//! | bytes to rows and back | [`Decode`](rows::Decode), [`Encode`](rows::Encode) | `Decode`, `Encode`, `RejectedColumns` |
//! | row by row | [`Map`](rows::Map), [`MapWith`](rows::MapWith), [`Filter`](rows::Filter), [`FilterMap`](rows::FilterMap), [`FlatMap`](rows::FlatMap), [`Inspect`](rows::Inspect), in one [`RowPass`](rows::RowPass); [`TryMap`](rows::TryMap) | `Select`, `Filter`, `Explode` |
//! | streams part and meet | [`Route`](rows::Route), [`Merge`](rows::Merge) | `Route`, [`Merge`](rows::Merge) |
//! | fewer rows, or groups of them | [`Sample`](rows::Sample), [`ThrottleDrop`](rows::ThrottleDrop), [`Batching`](rows::Batching) | [`Sample`](rows::Sample), [`ThrottleDrop`](rows::ThrottleDrop) |
//! | event time | [`EventTime`](watermarks::EventTime), [`ByClock`](watermarks::ByClock) | `EventTime`, [`ByClock`](watermarks::ByClock) |
//! | state by key | [`Fold`](rows::Fold), [`Process`](rows::Process), [`Dedup`](rows::Dedup) | `Dedup` |
//! | windows | [`TimeWindowed`](window::TimeWindowed), [`SessionWindowed`](window::SessionWindowed), [`CountWindowed`](window::CountWindowed), [`LastWindowed`](window::LastWindowed), [`GlobalWindowed`](window::GlobalWindowed) | `WindowAggregate`, `SessionAggregate`, `CountAggregate`, `LastAggregate`, `GlobalAggregate` |
//! | joins and tables outside | [`IntervalJoin`](join::IntervalJoin), [`TemporalJoin`](join::TemporalJoin), [`Lookup`](rows::Lookup) | `Join`, `Lookup` |
//!
//! # Timelines
//! The docs of each operator show what it gives for some rows. What comes first stands on the left, and `|` parts what comes
//! one after the other: batches, watermarks, steps of the clock. Numbers of rows are their event times where time counts, in
//! whatever unit; times are kept in microseconds since 1970 ([`Timestamp`]), and spans are cut to whole microseconds.

pub mod aggregate;
mod batch;
#[doc(hidden)]
pub mod bugs;
#[cfg(feature = "columnar")]
pub mod columnar;
mod edge;
mod either;
mod error;
mod headers;
pub mod join;
mod key;
mod ledger;
mod message;
mod operator;
mod origin;
mod outbox;
mod outputs;
mod port;
mod problem;
mod record;
mod rejected;
pub mod rows;
mod size_limit;
mod state;
pub mod suggest;
mod table;
mod template;
#[cfg(feature = "testkit")]
pub mod testkit;
mod time;
mod times;
pub mod watermarks;
pub mod window;

pub use batch::{Batch, Parts, Payload};
pub use edge::{AsyncOperator, Sink, Source};
pub use either::Either;
pub use error::{Fault, FaultKind, Result, Retry};
pub use headers::{Headers, InvalidHeader};
pub use key::{Fnv1a32, Key, KeyGroup, KeyWriter};
pub use ledger::{Ledger, Outcome, Written};
pub use message::{AnyBatch, Barrier, Epoch, Message, Then, Watermark};
pub use operator::{Operator, TimeKeeping, Turn};
pub use origin::{Origin, Origins, Place};
pub use outbox::{Emit, Outbox};
pub use outputs::{Marked, Outputs};
pub use port::{PortType, Side};
pub use problem::{BuildError, Problem};
pub use record::Record;
pub use rejected::{Cause, Code, Rejected};
pub use size_limit::SizeLimit;
pub use state::{
    Expiry, Frozen, Keyed, PaneGroups, Panes, Pieces, Run, Runs, Saved, Scan, Snapshot, Spill, SpillGauge, SpillStore,
    SpillTable, SpillView, StateKey, StateValue, StateVisitor, Timers, Unsplittable, Versions,
};
pub use table::Table;
pub use template::{InvalidTemplate, Template, check_subject, check_token};
pub use time::Timestamp;
pub use times::Times;
