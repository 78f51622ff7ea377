//! [`Store`]: keeps the newest manifest of a pipeline, changed by compare-and-set only.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use millstream_operators::Fault;

/// The version of what a store holds; 0 when it holds nothing yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(pub u64);

/// Why a store did not do what it was asked.
#[derive(Debug)]
pub enum StoreError {
    /// Somebody else has written since: another instance has taken over.
    Fenced,
    /// It is not known whether the write happened; read, and try again.
    Unknown(Fault),
    /// It cannot be done.
    Failed(Fault),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Fenced => f.write_str("another instance of this pipeline has taken over"),
            StoreError::Unknown(_) => f.write_str("it is not known whether the checkpoint was written"),
            StoreError::Failed(_) => f.write_str("the checkpoint could not be written or read"),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StoreError::Fenced => None,
            StoreError::Unknown(fault) | StoreError::Failed(fault) => Some(fault),
        }
    }
}

/// A future of a store.
pub type Stored<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Where the newest manifest of a pipeline is kept.
///
/// A write takes effect whole or not at all, and only if nobody has written since the revision that it names. When it
/// returns, the manifest survives a crash of the process, and as much more as the store promises.
pub trait Store: Send + Sync + fmt::Debug {
    /// The newest manifest and its revision, read where writes are decided; `None` when there is none.
    fn read<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Option<(Revision, Bytes)>>;

    /// Replaces the manifest of revision `expected`, 0 for none; gives the new revision.
    fn write<'a>(&'a self, pipeline: &'a str, expected: Revision, manifest: Bytes) -> Stored<'a, Revision>;

    /// Removes all that is kept for the pipeline.
    fn remove<'a>(&'a self, pipeline: &'a str) -> Stored<'a, ()>;

    /// What it is and where, for people.
    fn describe(&self, pipeline: &str) -> String;
}
