//! [`KvStore`]: checkpoints in a JetStream key-value bucket and an object bucket of the pipeline.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use millstream_operators::{Fault, FaultKind, Timestamp};

use super::segment::BlobId;
use super::store::{Blob, Revision, Store, StoreError, Stored, is_it};
use crate::broker::{BrokerError, Connections, Entry, Js, ObjectInfo, Purpose, codes, fault, stream_fault};

/// A store that keeps the manifest of a pipeline under the key `ckpt` of the bucket `mill_<pipeline>`, changed by
/// compare-and-set on the key's revision, savepoints under `save.<name>`, and what manifests speak of as objects of the
/// object bucket of the same name. Each bucket is made when it is first needed.
#[derive(Debug)]
pub struct KvStore {
    connections: Arc<Connections>,
    replicas: usize,
}

const KEY: &str = "ckpt";
const SAVED: &str = "save.";
/// So many manifests are kept.
const MANIFESTS: u8 = 3;

impl KvStore {
    /// A store over these connections; a bucket that it makes has `replicas` copies.
    pub fn new(connections: Arc<Connections>, replicas: usize) -> Self {
        KvStore { connections, replicas: replicas.max(1) }
    }

    async fn js(&self) -> Result<Js, StoreError> {
        self.connections.js(Purpose::Control).await.map_err(StoreError::Failed)
    }
}

fn bucket(pipeline: &str) -> String {
    format!("mill_{pipeline}")
}

fn stored_fault(error: BrokerError) -> StoreError {
    if error.may_pass() { StoreError::Unknown(fault(error)) } else { StoreError::Failed(fault(error)) }
}

/// Of a write that compares.
fn written_fault(error: BrokerError) -> StoreError {
    // Replicated: another write of the key is under way; whose, a look will tell.
    let is_in_process = error.api_code() == Some(codes::WRONG_LAST_SEQUENCE_IN_PROCESS);
    if is_in_process { StoreError::Unknown(fault(error)) } else { stored_fault(error) }
}

fn not_made(error: BrokerError, stream: &str, subjects: &str) -> StoreError {
    if error.may_pass() {
        return StoreError::Unknown(fault(error));
    }
    StoreError::Failed(stream_fault(error, stream, &[subjects.to_owned()]))
}

impl Store for KvStore {
    fn read<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Option<(Revision, Bytes)>> {
        Box::pin(async move {
            match self.js().await?.kv_get(&bucket(pipeline), KEY).await {
                Ok(found) => Ok(found.map(|entry| (Revision(entry.revision), entry.value))),
                Err(error) if error.api_code() == Some(codes::STREAM_NOT_FOUND) => Ok(None),
                Err(error) => Err(stored_fault(error)),
            }
        })
    }

    fn write<'a>(&'a self, pipeline: &'a str, expected: Revision, manifest: Bytes) -> Stored<'a, Revision> {
        Box::pin(async move {
            let (js, bucket) = (self.js().await?, bucket(pipeline));
            let max = js.connection().max_payload();
            // Room for the headers of the comparison.
            if manifest.len() + 256 > max {
                let words = format!(
                    "a checkpoint of {} bytes does not fit in a message of the server (max_payload {max}): keep checkpoints in a directory, or keep less state",
                    manifest.len()
                );
                return Err(StoreError::Failed(Fault::new(FaultKind::Setup, words)));
            }
            let written = match expected {
                // Where the bucket is there already, the user needs no right to make one.
                Revision(0) => match js.kv_create(&bucket, KEY, manifest.clone()).await {
                    Err(BrokerError::NoResponders { .. }) => {
                        js.create_bucket(&bucket, self.replicas, MANIFESTS)
                            .await
                            .map_err(|error| not_made(error, &format!("KV_{bucket}"), &format!("$KV.{bucket}.>")))?;
                        js.kv_create(&bucket, KEY, manifest).await
                    }
                    other => other,
                },
                Revision(revision) => js.kv_update(&bucket, KEY, manifest, revision).await,
            };
            match written {
                Ok(Some(revision)) => Ok(Revision(revision)),
                Ok(None) => Err(StoreError::Fenced),
                Err(error) => Err(written_fault(error)),
            }
        })
    }

    fn history<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Vec<(Revision, Bytes)>> {
        Box::pin(async move {
            let entries = self.js().await?.kv_entries(&bucket(pipeline), KEY).await.map_err(stored_fault)?;
            Ok(entries.into_iter().rev().map(|(_, entry)| (Revision(entry.revision), entry.value)).collect())
        })
    }

    fn put<'a>(&'a self, pipeline: &'a str, id: BlobId, bytes: Bytes) -> Stored<'a, ()> {
        Box::pin(async move {
            let (js, bucket, name) = (self.js().await?, bucket(pipeline), id.to_string());
            match js.object_get(&bucket, &name).await.map_err(stored_fault)? {
                Some(there) if BlobId::of(&there) == id => return Ok(()),
                // It is damaged: kept, for whoever wants to know how, but not under this name.
                Some(_) => {
                    let aside = format!("{name}.damaged");
                    js.object_set_aside(&bucket, &name, &aside).await.map_err(stored_fault)?;
                }
                None => {}
            }
            match js.object_put(&bucket, &name, bytes.clone(), id.as_bytes()).await {
                // Where the bucket is there already, the user needs no right to make one.
                Err(BrokerError::NoResponders { .. }) => {
                    let made = js.create_object_bucket(&bucket, self.replicas).await;
                    made.map_err(|error| not_made(error, &format!("OBJ_{bucket}"), &format!("$O.{bucket}.>")))?;
                    js.object_put(&bucket, &name, bytes, id.as_bytes()).await.map_err(stored_fault)
                }
                other => other.map_err(stored_fault),
            }
        })
    }

    fn get<'a>(&'a self, pipeline: &'a str, id: BlobId) -> Stored<'a, Option<Bytes>> {
        Box::pin(
            async move { self.js().await?.object_get(&bucket(pipeline), &id.to_string()).await.map_err(stored_fault) },
        )
    }

    fn blobs<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Vec<Blob>> {
        Box::pin(async move {
            let objects = self.js().await?.objects(&bucket(pipeline)).await.map_err(stored_fault)?;
            let blob = |object: ObjectInfo| {
                let stored_at = Timestamp::from_micros(object.stored_at / 1_000);
                Some(Blob { id: object.name.parse().ok()?, size: object.size, stored_at })
            };
            Ok(objects.into_iter().filter_map(blob).collect())
        })
    }

    fn forget<'a>(&'a self, pipeline: &'a str, id: BlobId) -> Stored<'a, ()> {
        Box::pin(async move {
            self.js().await?.object_delete(&bucket(pipeline), &id.to_string()).await.map_err(stored_fault)
        })
    }

    fn save<'a>(&'a self, pipeline: &'a str, name: &'a str, manifest: Bytes) -> Stored<'a, bool> {
        Box::pin(async move {
            let (js, bucket, key) = (self.js().await?, bucket(pipeline), format!("{SAVED}{name}"));
            match js.kv_create(&bucket, &key, manifest.clone()).await {
                Ok(Some(_)) => Ok(true),
                Ok(None) => {
                    let there = js.kv_get(&bucket, &key).await.map_err(stored_fault)?;
                    is_it(there.map(|entry| entry.value), &manifest)
                }
                Err(error) => Err(written_fault(error)),
            }
        })
    }

    fn saved<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Vec<(String, Bytes)>> {
        Box::pin(async move {
            let keys = format!("{SAVED}*");
            let entries = self.js().await?.kv_entries(&bucket(pipeline), &keys).await.map_err(stored_fault)?;
            // Of those of one name the last counts.
            let named = |(key, entry): (String, Entry)| Some((key.strip_prefix(SAVED)?.to_owned(), entry.value));
            let newest: BTreeMap<String, Bytes> = entries.into_iter().filter_map(named).collect();
            Ok(newest.into_iter().collect())
        })
    }

    fn unsave<'a>(&'a self, pipeline: &'a str, name: &'a str) -> Stored<'a, bool> {
        Box::pin(async move {
            let there = self.saved(pipeline).await?.iter().any(|(other, _)| other == name);
            if there {
                let key = format!("{SAVED}{name}");
                self.js().await?.kv_purge(&bucket(pipeline), &key).await.map_err(stored_fault)?;
            }
            Ok(there)
        })
    }

    fn remove<'a>(&'a self, pipeline: &'a str) -> Stored<'a, ()> {
        Box::pin(async move {
            let bucket = bucket(pipeline);
            // Manifests first: what they speak of is then of no use to anybody.
            for stream in [format!("KV_{bucket}"), format!("OBJ_{bucket}")] {
                match self.js().await?.delete_stream(&stream).await {
                    Ok(()) => {}
                    Err(error) if error.api_code() == Some(codes::STREAM_NOT_FOUND) => {}
                    Err(error) => return Err(stored_fault(error)),
                }
            }
            Ok(())
        })
    }

    fn follows<'a>(&'a self, pipeline: &'a str, earlier: Revision, later: Revision) -> Stored<'a, bool> {
        // The server counts the entries of all keys.
        Box::pin(async move {
            let next = self.js().await?.kv_behind(&bucket(pipeline), KEY, earlier.0).await.map_err(stored_fault)?;
            let Some(next) = next else {
                let words = format!("{} has nothing behind revision {}", self.describe(pipeline), earlier.0);
                return Err(StoreError::Unknown(Fault::new(FaultKind::Checkpoint, words)));
            };
            // Where it has been pushed out since, what is behind it tells nothing.
            Ok(earlier < later && next >= later.0)
        })
    }

    fn describe(&self, pipeline: &str) -> String {
        format!("key `{KEY}` of the bucket `{}` at {}", bucket(pipeline), self.connections.describe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{Embedded, EmbeddedOptions};

    #[tokio::test]
    async fn bytes_that_are_damaged_are_stored_again_and_kept_aside() {
        let connections = Arc::new(Connections::to_embedded(Embedded::new(EmbeddedOptions::default())));
        let (store, bytes) = (KvStore::new(connections, 1), Bytes::from_static(b"state"));
        let id = BlobId::of(&bytes);
        store.put("p", id, bytes.clone()).await.unwrap();
        let (js, name) = (store.js().await.unwrap(), id.to_string());
        js.object_delete(&bucket("p"), &name).await.unwrap();
        js.object_put(&bucket("p"), &name, Bytes::from_static(b"stale"), id.as_bytes()).await.unwrap();
        store.put("p", id, bytes.clone()).await.unwrap();
        assert_eq!(store.get("p", id).await.unwrap(), Some(bytes));
        let aside = js.object_get(&bucket("p"), &format!("{name}.damaged")).await.unwrap();
        assert_eq!(aside, Some(Bytes::from_static(b"stale")));
        assert_eq!(store.blobs("p").await.unwrap().len(), 1);
    }
}
