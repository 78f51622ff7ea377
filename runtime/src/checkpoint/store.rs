//! [`Store`]: keeps the newest manifest of a pipeline, changed by compare-and-set only.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use millstream_operators::{Fault, FaultKind, Timestamp};

use super::segment::BlobId;

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

impl StoreError {
    /// What it is for who cannot go on.
    pub(crate) fn into_fault(self) -> Fault {
        match self {
            StoreError::Fenced => Fault::bug("a store was asked for something else than a manifest, and fenced it"),
            StoreError::Unknown(fault) | StoreError::Failed(fault) => fault,
        }
    }
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

/// Bytes that a store keeps under their id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// What they are.
    pub id: BlobId,
    /// How many.
    pub size: u64,
    /// When they were stored; the end of time where nobody knows.
    pub stored_at: Timestamp,
}

/// Where the checkpoints of a pipeline are kept: manifests, of which the newest changes by compare-and-set, and the bytes
/// that manifests speak of, which never change.
///
/// A write takes effect whole or not at all, and that of a manifest only if nobody has written since the revision that it
/// names. When it returns, what was written survives a crash of the process, and as much more as the store promises.
pub trait Store: Send + Sync + fmt::Debug {
    /// The newest manifest and its revision, read where writes are decided; `None` when there is none.
    fn read<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Option<(Revision, Bytes)>>;

    /// Replaces the manifest of revision `expected`, 0 for none; gives the new revision.
    fn write<'a>(&'a self, pipeline: &'a str, expected: Revision, manifest: Bytes) -> Stored<'a, Revision>;

    /// The newest manifest and those before it that are still there, the newest first.
    fn history<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Vec<(Revision, Bytes)>>;

    /// Keeps bytes under their id; nothing happens if they are there.
    fn put<'a>(&'a self, pipeline: &'a str, id: BlobId, bytes: Bytes) -> Stored<'a, ()>;

    /// The bytes with this id, unchecked; `None` if they are not there.
    fn get<'a>(&'a self, pipeline: &'a str, id: BlobId) -> Stored<'a, Option<Bytes>>;

    /// All bytes that are kept under an id.
    fn blobs<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Vec<Blob>>;

    /// Forgets bytes; it is no error if they are not there.
    fn forget<'a>(&'a self, pipeline: &'a str, id: BlobId) -> Stored<'a, ()>;

    /// Keeps a manifest under a name; whether it has the name then. It has not, and nothing changes, if another one has it.
    fn save<'a>(&'a self, pipeline: &'a str, name: &'a str, manifest: Bytes) -> Stored<'a, bool>;

    /// The manifests that have names.
    fn saved<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Vec<(String, Bytes)>>;

    /// Forgets a manifest that has a name; false if there is none.
    fn unsave<'a>(&'a self, pipeline: &'a str, name: &'a str) -> Stored<'a, bool>;

    /// Removes all that is kept for the pipeline.
    fn remove<'a>(&'a self, pipeline: &'a str) -> Stored<'a, ()>;

    /// What it is and where, for people.
    fn describe(&self, pipeline: &str) -> String;

    /// A manifest of it, for people: what it is called where it is kept.
    fn manifest(&self, pipeline: &str, revision: Revision) -> String {
        format!("revision {} of {}", revision.0, self.describe(pipeline))
    }

    /// Whether the manifest of revision `later` was the next to be written behind revision `earlier`, 0 for none, as far as
    /// what is there shows: that of a store whose revisions have no gaps is.
    fn follows<'a>(&'a self, _pipeline: &'a str, earlier: Revision, later: Revision) -> Stored<'a, bool> {
        Box::pin(async move { Ok(earlier.0.checked_add(1) == Some(later.0)) })
    }

    /// Which of the last manifests somebody has taken away, in words; `None` where nothing shows that.
    ///
    /// If it was the newest, the one before it is read as if it were: a store whose revisions have no gaps can notice it,
    /// as one is missing among those that it keeps. It cannot tell the newest from the oldest.
    fn taken<'a>(&'a self, _pipeline: &'a str) -> Stored<'a, Option<String>> {
        Box::pin(async { Ok(None) })
    }
}

/// What [`Store::save`] says where a name was taken, of what is there now.
pub(super) fn is_it(there: Option<Bytes>, manifest: &Bytes) -> Result<bool, StoreError> {
    match there {
        Some(there) => Ok(there == *manifest),
        // It was let go of meanwhile: the name may be had now.
        None => {
            Err(StoreError::Unknown(Fault::new(FaultKind::Checkpoint, "a savepoint of that name has gone just now")))
        }
    }
}

/// What [`Store::taken`] says, of a store that keeps the last `kept` of revisions without gaps, of which these are there, the
/// newest first.
pub(super) fn taken(there: &[Revision], kept: u64, place: &str) -> Option<String> {
    let newest = there.first()?.0;
    let in_a_row = (0..kept.min(newest)).zip(there).take_while(|(back, revision)| newest - back == revision.0).count();
    ((in_a_row as u64) < kept.min(newest)).then(|| {
        let there: Vec<String> = there.iter().map(|revision| revision.0.to_string()).collect();
        format!("of the last {kept} manifests in {place} one was taken away: there are {}", there.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_that_was_taken_away_is_noticed_by_the_gap_that_it_leaves() {
        let taken = |there: &[u64]| {
            let there: Vec<Revision> = there.iter().copied().map(Revision).collect();
            taken(&there, 3, "here")
        };
        for whole in [&[][..], &[1], &[2, 1], &[3, 2, 1], &[9, 8, 7], &[9, 8, 7, 6], &[9, 8, 7, 3]] {
            assert_eq!(taken(whole), None, "{whole:?}");
        }
        for lacking in [&[2][..], &[3, 2], &[3, 1], &[9, 8], &[9, 8, 6], &[9, 7, 6], &[9]] {
            assert!(taken(lacking).is_some(), "{lacking:?}");
        }
    }
}
