//! Checkpoints: what a complete one is ([`Manifest`], which names its [`Segment`]s and [`OutputLog`]s), and where it is kept ([`Store`]).

mod kv;
mod load;
mod local;
mod manifest;
mod memory;
mod output_log;
mod retention;
mod segment;
mod store;

pub use kv::KvStore;
pub(crate) use load::{Restored, StateIn, as_stored, newest, read_run, savepoint};
#[cfg(feature = "cli")]
pub(crate) use load::{load, read_manifest};
pub use local::LocalStore;
pub use manifest::{Manifest, NodeState, SourcePosition};
pub use memory::MemoryStore;
pub use output_log::OutputLog;
pub(crate) use retention::Retention;
pub use segment::{BlobId, Segment};
pub use store::{Blob, Revision, Store, StoreError, Stored};
