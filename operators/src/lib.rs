//! What moves through a Millstream pipeline, and what is done to it.
//!
//! This crate is pure: it does no I/O, reads no clock, draws no random number and knows no async runtime. (The
//! DataFusion crates behind the feature `columnar` depend on one; nothing here uses it.)

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
    Expiry, Frozen, Keyed, PaneGroups, Pieces, Run, Runs, Saved, Scan, Snapshot, Spill, SpillGauge, SpillStore,
    SpillTable, SpillView, StateKey, StateValue, StateVisitor, Timers, Unsplittable, Versions,
};
pub use table::Table;
pub use template::{InvalidTemplate, Template, check_subject, check_token};
pub use time::Timestamp;
