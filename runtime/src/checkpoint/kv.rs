//! [`KvStore`]: manifests in a JetStream key-value bucket of the pipeline.

use std::sync::Arc;

use bytes::Bytes;
use millstream_operators::{Fault, FaultKind};

use super::store::{Revision, Store, StoreError, Stored};
use crate::broker::{BrokerError, Connections, Js, Purpose, codes, fault, stream_fault};

/// A store that keeps the manifest of a pipeline under the key `ckpt` of the bucket `mill_<pipeline>`, changed by
/// compare-and-set on the key's revision. The bucket is made when it is first needed.
#[derive(Debug)]
pub struct KvStore {
    connections: Arc<Connections>,
    replicas: usize,
}

const KEY: &str = "ckpt";

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

fn not_made(error: BrokerError, bucket: &str) -> StoreError {
    if error.may_pass() {
        return StoreError::Unknown(fault(error));
    }
    StoreError::Failed(stream_fault(error, &format!("KV_{bucket}"), &[format!("$KV.{bucket}.>")]))
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
                        js.create_bucket(&bucket, self.replicas).await.map_err(|error| not_made(error, &bucket))?;
                        js.kv_create(&bucket, KEY, manifest).await
                    }
                    other => other,
                },
                Revision(revision) => js.kv_update(&bucket, KEY, manifest, revision).await,
            };
            match written {
                Ok(Some(revision)) => Ok(Revision(revision)),
                Ok(None) => Err(StoreError::Fenced),
                // Replicated: another write of the key is under way; whose, a look will tell.
                Err(error) if error.api_code() == Some(codes::WRONG_LAST_SEQUENCE_IN_PROCESS) => {
                    Err(StoreError::Unknown(fault(error)))
                }
                Err(error) => Err(stored_fault(error)),
            }
        })
    }

    fn remove<'a>(&'a self, pipeline: &'a str) -> Stored<'a, ()> {
        Box::pin(async move {
            match self.js().await?.delete_stream(&format!("KV_{}", bucket(pipeline))).await {
                Ok(()) => Ok(()),
                Err(error) if error.api_code() == Some(codes::STREAM_NOT_FOUND) => Ok(()),
                Err(error) => Err(stored_fault(error)),
            }
        })
    }

    fn describe(&self, pipeline: &str) -> String {
        format!("key `{KEY}` of the bucket `{}` at {}", bucket(pipeline), self.connections.describe())
    }
}
