//! [`MemoryStore`]: keeps manifests in memory, for tests and for runs that need not survive.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::store::{Revision, Store, StoreError, Stored};

/// A store that lives as long as the process. Clones share what is kept, so that a test can crash one run and start
/// another.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<HashMap<String, (Revision, Bytes)>>>);

impl Store for MemoryStore {
    fn read<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Option<(Revision, Bytes)>> {
        Box::pin(async move { Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).get(pipeline).cloned()) })
    }

    fn write<'a>(&'a self, pipeline: &'a str, expected: Revision, manifest: Bytes) -> Stored<'a, Revision> {
        Box::pin(async move {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let slot = kept.entry(pipeline.to_owned()).or_default();
            if slot.0 != expected {
                return Err(StoreError::Fenced);
            }
            *slot = (Revision(expected.0 + 1), manifest);
            Ok(slot.0)
        })
    }

    fn remove<'a>(&'a self, pipeline: &'a str) -> Stored<'a, ()> {
        Box::pin(async move {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(pipeline);
            Ok(())
        })
    }

    fn describe(&self, _: &str) -> String {
        "memory (gone when the process ends)".into()
    }
}
