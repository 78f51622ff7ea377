//! [`MemoryStore`]: keeps checkpoints in memory, for tests and for runs that need not survive.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use millstream_operators::Timestamp;

use super::segment::BlobId;
use super::store::{Blob, Revision, Store, StoreError, Stored};

/// A store that lives as long as the process. Clones share what is kept, so that a test can crash one run and start
/// another.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<HashMap<String, Kept>>>);

#[derive(Debug, Default)]
struct Kept {
    // The newest last.
    manifests: Vec<(Revision, Bytes)>,
    blobs: BTreeMap<BlobId, Bytes>,
    saved: BTreeMap<String, Bytes>,
}

/// So many manifests are kept.
const MANIFESTS: usize = 3;

impl MemoryStore {
    fn kept(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of<T: Default + Send + 'static>(&self, pipeline: &str, look: impl FnOnce(&Kept) -> T) -> Stored<'_, T> {
        let found = self.kept().get(pipeline).map(look).unwrap_or_default();
        Box::pin(async move { Ok(found) })
    }

    fn change<T: Send + 'static>(&self, pipeline: &str, change: impl FnOnce(&mut Kept) -> T) -> Stored<'_, T> {
        let given = change(self.kept().entry(pipeline.to_owned()).or_default());
        Box::pin(async move { Ok(given) })
    }
}

impl Store for MemoryStore {
    fn read<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Option<(Revision, Bytes)>> {
        self.of(pipeline, |kept| kept.manifests.last().cloned())
    }

    fn write<'a>(&'a self, pipeline: &'a str, expected: Revision, manifest: Bytes) -> Stored<'a, Revision> {
        Box::pin(async move {
            let mut kept = self.kept();
            let manifests = &mut kept.entry(pipeline.to_owned()).or_default().manifests;
            if manifests.last().map(|(revision, _)| *revision).unwrap_or_default() != expected {
                return Err(StoreError::Fenced);
            }
            let revision = Revision(expected.0 + 1);
            manifests.push((revision, manifest));
            let old = manifests.len().saturating_sub(MANIFESTS);
            manifests.drain(..old);
            Ok(revision)
        })
    }

    fn history<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Vec<(Revision, Bytes)>> {
        self.of(pipeline, |kept| kept.manifests.iter().rev().cloned().collect())
    }

    fn put<'a>(&'a self, pipeline: &'a str, id: BlobId, bytes: Bytes) -> Stored<'a, ()> {
        self.change(pipeline, |kept| {
            kept.blobs.entry(id).or_insert(bytes);
        })
    }

    fn get<'a>(&'a self, pipeline: &'a str, id: BlobId) -> Stored<'a, Option<Bytes>> {
        self.of(pipeline, |kept| kept.blobs.get(&id).cloned())
    }

    fn blobs<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Vec<Blob>> {
        let blob =
            |(id, bytes): (&BlobId, &Bytes)| Blob { id: *id, size: bytes.len() as u64, stored_at: Timestamp::MAX };
        self.of(pipeline, |kept| kept.blobs.iter().map(blob).collect())
    }

    fn forget<'a>(&'a self, pipeline: &'a str, id: BlobId) -> Stored<'a, ()> {
        self.change(pipeline, |kept| drop(kept.blobs.remove(&id)))
    }

    fn save<'a>(&'a self, pipeline: &'a str, name: &'a str, manifest: Bytes) -> Stored<'a, bool> {
        self.change(pipeline, |kept| *kept.saved.entry(name.to_owned()).or_insert_with(|| manifest.clone()) == manifest)
    }

    fn saved<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Vec<(String, Bytes)>> {
        self.of(pipeline, |kept| kept.saved.iter().map(|(name, bytes)| (name.clone(), bytes.clone())).collect())
    }

    fn unsave<'a>(&'a self, pipeline: &'a str, name: &'a str) -> Stored<'a, bool> {
        self.change(pipeline, |kept| kept.saved.remove(name).is_some())
    }

    fn remove<'a>(&'a self, pipeline: &'a str) -> Stored<'a, ()> {
        self.kept().remove(pipeline);
        Box::pin(async { Ok(()) })
    }

    fn describe(&self, _: &str) -> String {
        "memory (gone when the process ends)".into()
    }
}
