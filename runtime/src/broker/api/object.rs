//! Objects of any size: chunks and what is said of them, in the stream of a bucket (ADR-20 of the NATS project), so that
//! `nats object` reads what is written here.

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use millstream_operators::Headers;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Js, Purge, StreamConfig, StreamInfo, base64, codes};
use crate::broker::{BrokerError, Subject};

/// What is known of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name.
    pub name: String,
    /// How many bytes it has.
    pub size: u64,
    /// When it was stored, in nanoseconds since the epoch.
    pub stored_at: i64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Meta {
    name: String,
    bucket: String,
    nuid: String,
    size: u64,
    chunks: u64,
    digest: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
}

/// Chunks are read through the API, whose answers carry them in base 64.
const CHUNK: usize = 256 << 10;
/// So many chunks wait for their acknowledgement.
const IN_FLIGHT: usize = 16;

impl Js {
    /// Creates the bucket's stream, as the `nats` tool would; it is no error if it is there.
    ///
    /// # Errors
    /// JetStream refuses.
    pub async fn create_object_bucket(&self, bucket: &str, replicas: usize) -> Result<StreamInfo, BrokerError> {
        let config = StreamConfig {
            discard: super::Discard::New,
            allow_rollup_hdrs: true,
            allow_direct: true,
            num_replicas: replicas,
            ..StreamConfig::new(stream_of(bucket), [format!("$O.{bucket}.C.>"), format!("$O.{bucket}.M.>")])
        };
        self.create_stream(&config).await
    }

    /// Stores an object: its chunks, and when all are there what is said of it. Until then it is not there. If there is
    /// another of its name it takes its place; the chunks of that stay.
    ///
    /// # Errors
    /// JetStream refuses or does not answer: then the object may not be there, and may be stored again.
    pub async fn object_put(&self, bucket: &str, name: &str, bytes: Bytes, sha256: &[u8]) -> Result<(), BrokerError> {
        // The last token of an inbox is as good an id as any.
        let inbox = self.connection().new_inbox();
        let nuid = inbox.rsplit('.').next().unwrap_or_default().to_owned();
        let most = CHUNK.min(self.connection().max_payload() / 2).max(1);
        let (mut rest, mut publishing) = (bytes.clone(), Vec::new());
        let subject = self.object_subject(bucket, "C", &nuid);
        while !rest.is_empty() {
            let chunk = rest.split_to(most.min(rest.len()));
            publishing.push(self.publish(subject.clone(), Headers::NONE, chunk));
        }
        let stored: Result<Vec<_>, _> = stream::iter(publishing).buffered(IN_FLIGHT).try_collect().await;
        let stored = match stored {
            // They are read in the order of the stream.
            Ok(acks) if acks.is_sorted_by_key(|ack| ack.seq) => Ok(acks.len() as u64),
            Ok(_) => Err(BrokerError::Protocol { subject, what: "chunks are stored in another order".into() }),
            Err(error) => Err(error),
        };
        let chunks = match stored {
            Ok(chunks) => chunks,
            Err(error) => {
                // Nothing speaks of them; where this does not arrive they are swept away later.
                let _ = self.purge_objects(bucket, "C", &nuid).await;
                return Err(error);
            }
        };
        let digest = format!("SHA-256={}", url_safe(sha256));
        let (size, name, bucket_name) = (bytes.len() as u64, name.to_owned(), bucket.to_owned());
        let meta = Meta { name, bucket: bucket_name, nuid, size, chunks, digest, deleted: false };
        self.describe(bucket, &meta, most).await
    }

    /// Gives an object another name, of which there is none; under its own it is still to be found until another is stored
    /// there. It is no error if it is not there.
    ///
    /// # Errors
    /// JetStream refuses or does not answer.
    pub async fn object_set_aside(&self, bucket: &str, name: &str, aside: &str) -> Result<(), BrokerError> {
        let Some(meta) = self.object_meta(bucket, name).await? else { return Ok(()) };
        self.describe(bucket, &Meta { name: aside.to_owned(), ..meta }, CHUNK).await
    }

    /// Says what an object is: from then on it is there.
    async fn describe(&self, bucket: &str, meta: &Meta, most: usize) -> Result<(), BrokerError> {
        let mut body = json!(meta);
        if let Some(fields) = body.as_object_mut() {
            fields.insert("options".into(), json!({ "max_chunk_size": most }));
            fields.insert("mtime".into(), json!("0001-01-01T00:00:00Z"));
        }
        let mut rollup = Headers::NONE;
        // Both are ours and sound.
        let _ = rollup.push("Nats-Rollup", "sub");
        let subject = self.object_subject(bucket, "M", &url_safe(meta.name.as_bytes()));
        self.publish(subject, rollup, body.to_string()).await.map(drop)
    }

    /// An object's bytes, unchecked, none of them if it is not whole; `None` if it is not there.
    ///
    /// # Errors
    /// JetStream refuses or does not answer.
    pub async fn object_get(&self, bucket: &str, name: &str) -> Result<Option<Bytes>, BrokerError> {
        let Some(meta) = self.object_meta(bucket, name).await? else { return Ok(None) };
        let (stream, subject) = (stream_of(bucket), format!("$O.{bucket}.C.{}", meta.nuid));
        let (mut bytes, mut next) = (BytesMut::new(), 1);
        for _ in 0..meta.chunks {
            let Some(chunk) = self.next_message(&stream, next, &subject).await? else { return Ok(Some(Bytes::new())) };
            bytes.extend_from_slice(&chunk.payload);
            next = chunk.seq + 1;
        }
        Ok(Some(bytes.freeze()))
    }

    /// Forgets an object; it is no error if it is not there.
    ///
    /// # Errors
    /// JetStream refuses or does not answer.
    pub async fn object_delete(&self, bucket: &str, name: &str) -> Result<(), BrokerError> {
        let Some(meta) = self.object_meta(bucket, name).await? else { return Ok(()) };
        // Without what is said of it, it is not there; its chunks are of no use then.
        self.purge_objects(bucket, "M", &url_safe(name.as_bytes())).await?;
        self.purge_objects(bucket, "C", &meta.nuid).await
    }

    /// All objects of a bucket; none if there is no bucket.
    ///
    /// # Errors
    /// JetStream refuses or does not answer.
    pub async fn objects(&self, bucket: &str) -> Result<Vec<ObjectInfo>, BrokerError> {
        let (mut all, mut next) = (Vec::new(), 1);
        loop {
            let found = self.next_message(&stream_of(bucket), next, &format!("$O.{bucket}.M.>")).await;
            let message = match found {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(all),
                Err(error) if error.api_code() == Some(codes::STREAM_NOT_FOUND) => return Ok(all),
                Err(error) => return Err(error),
            };
            next = message.seq + 1;
            let meta = serde_json::from_slice::<Meta>(&message.payload).ok().filter(|meta| !meta.deleted);
            let stored_at = message.stored_at();
            all.extend(meta.map(|meta| ObjectInfo { name: meta.name, size: meta.size, stored_at }));
        }
    }

    async fn object_meta(&self, bucket: &str, name: &str) -> Result<Option<Meta>, BrokerError> {
        let subject = format!("$O.{bucket}.M.{}", url_safe(name.as_bytes()));
        let found = match self.last_message(&stream_of(bucket), &subject).await {
            Err(error) if error.api_code() == Some(codes::STREAM_NOT_FOUND) => return Ok(None),
            found => found?,
        };
        let Some(message) = found else { return Ok(None) };
        let meta = serde_json::from_slice::<Meta>(&message.payload)
            .map_err(|error| BrokerError::Protocol { subject: subject.into(), what: error.to_string() })?;
        Ok(Some(meta).filter(|meta| !meta.deleted))
    }

    async fn purge_objects(&self, bucket: &str, kind: &str, token: &str) -> Result<(), BrokerError> {
        let purge = Purge { filter: Some(format!("$O.{bucket}.{kind}.{token}")), ..Purge::default() };
        self.purge(&stream_of(bucket), &purge).await.map(drop)
    }

    /// Through a domain or an import, the API's prefix stands before the bucket's subjects too.
    fn object_subject(&self, bucket: &str, kind: &str, token: &str) -> Subject {
        match self.prefix() {
            "$JS.API" => format!("$O.{bucket}.{kind}.{token}"),
            prefix => format!("{prefix}.$O.{bucket}.{kind}.{token}"),
        }
        .into()
    }
}

fn stream_of(bucket: &str) -> String {
    format!("OBJ_{bucket}")
}

fn url_safe(bytes: &[u8]) -> String {
    base64::encode(bytes).replace('+', "-").replace('/', "_")
}
