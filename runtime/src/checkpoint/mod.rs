//! Checkpoints: what a complete one is ([`Manifest`], which names its [`Segment`]s and [`OutputLog`]s), and where it is kept ([`Store`]).

mod kv;
mod load;
mod local;
mod manifest;
mod memory;
mod output_log;
mod retention;
#[cfg(any(feature = "s3", feature = "cli"))]
mod s3;
mod segment;
mod store;

pub use kv::KvStore;
pub(crate) use load::{Restored, StateIn, as_stored, is_outdated, newest, read_revision, read_run, savepoint};
#[cfg(feature = "cli")]
pub(crate) use load::{load, read_manifest};
pub use local::LocalStore;
pub use manifest::{Manifest, NodeState, SourcePosition};
pub use memory::MemoryStore;
pub use output_log::OutputLog;
pub(crate) use retention::Retention;
#[cfg(any(feature = "s3", feature = "cli"))]
pub use s3::S3Options;
#[cfg(feature = "s3")]
pub use s3::S3Store;
#[cfg(feature = "cli")]
pub(crate) use s3::SCHEME;
pub use segment::{BlobId, Segment};
pub use store::{Blob, Revision, Store, StoreError, Stored};
