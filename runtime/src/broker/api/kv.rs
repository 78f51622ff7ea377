//! Key-value entries: the messages of a bucket's stream, changed by compare-and-set.

use bytes::Bytes;
use millstream_operators::Headers;

use super::{Js, StreamConfig, StreamInfo, codes};
use crate::broker::{BrokerError, Subject};

/// A key's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// What an update must name to replace it.
    pub revision: u64,
}

impl Js {
    /// Creates the bucket's stream, as the `nats` tool would, which keeps the last `history` values of each key; it is no
    /// error if it is there.
    ///
    /// # Errors
    /// JetStream refuses.
    pub async fn create_bucket(&self, bucket: &str, replicas: usize, history: u8) -> Result<StreamInfo, BrokerError> {
        let config = StreamConfig {
            max_msgs_per_subject: history.into(),
            discard: super::Discard::New,
            allow_rollup_hdrs: true,
            allow_direct: true,
            deny_delete: true,
            num_replicas: replicas,
            ..StreamConfig::new(format!("KV_{bucket}"), [format!("$KV.{bucket}.>")])
        };
        self.create_stream(&config).await
    }

    /// Through a domain or an import, the API's prefix stands before the bucket's subjects too.
    fn key_subject(&self, bucket: &str, key: &str) -> Subject {
        match self.prefix() {
            "$JS.API" => format!("$KV.{bucket}.{key}"),
            prefix => format!("{prefix}.$KV.{bucket}.{key}"),
        }
        .into()
    }

    /// A key's value, read from the leader; `None` if it has none.
    ///
    /// # Errors
    /// JetStream refuses, for one because there is no such bucket.
    pub async fn kv_get(&self, bucket: &str, key: &str) -> Result<Option<Entry>, BrokerError> {
        let found = self.last_message(&format!("KV_{bucket}"), &format!("$KV.{bucket}.{key}")).await?;
        Ok(found
            .filter(|message| !is_gone(&message.headers))
            .map(|message| Entry { value: message.payload, revision: message.seq }))
    }

    /// The values of the keys that match `keys` (such as `a.*`), with all that there is of their history, the oldest
    /// first; none if there is no bucket. A key that was deleted has those since.
    ///
    /// # Errors
    /// JetStream refuses or does not answer.
    pub async fn kv_entries(&self, bucket: &str, keys: &str) -> Result<Vec<(String, Entry)>, BrokerError> {
        let (mut entries, mut next) = (Vec::<(String, Entry)>::new(), 1);
        let prefix = format!("$KV.{bucket}.");
        loop {
            let found = self.next_message(&format!("KV_{bucket}"), next, &format!("{prefix}{keys}")).await;
            let message = match found {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(entries),
                Err(error) if error.api_code() == Some(codes::STREAM_NOT_FOUND) => return Ok(entries),
                Err(error) => return Err(error),
            };
            next = message.seq + 1;
            let key = message.subject.as_str();
            let key = key.strip_prefix(&prefix).unwrap_or(key).to_owned();
            if is_gone(&message.headers) {
                entries.retain(|(other, _)| *other != key);
            } else {
                entries.push((key, Entry { value: message.payload, revision: message.seq }));
            }
        }
    }

    /// The revision of the first entry of a key behind a revision, be it a value or the mark that it was deleted; `None` if there is
    /// none. Behind 0 it is the first value since it was last deleted.
    ///
    /// # Errors
    /// JetStream refuses or does not answer.
    pub async fn kv_behind(&self, bucket: &str, key: &str, revision: u64) -> Result<Option<u64>, BrokerError> {
        let (stream, subject) = (format!("KV_{bucket}"), format!("$KV.{bucket}.{key}"));
        let (mut next, mut first) = (revision.saturating_add(1), None);
        while let Some(found) = self.next_message(&stream, next, &subject).await? {
            if revision > 0 {
                return Ok(Some(found.seq));
            }
            // Who deletes a key leaves what it had before the mark.
            first = if is_gone(&found.headers) { None } else { first.or(Some(found.seq)) };
            next = found.seq + 1;
        }
        Ok(first)
    }

    /// Sets a key to a value, whatever it had.
    ///
    /// # Errors
    /// JetStream refuses or does not answer.
    pub async fn kv_put(&self, bucket: &str, key: &str, value: impl Into<Bytes>) -> Result<u64, BrokerError> {
        self.publish(self.key_subject(bucket, key), Headers::NONE, value).await.map(|ack| ack.seq)
    }

    /// Sets a key that has no value; `None` if it has one.
    ///
    /// # Errors
    /// JetStream refuses for another reason, or does not answer.
    pub async fn kv_create(
        &self,
        bucket: &str,
        key: &str,
        value: impl Into<Bytes>,
    ) -> Result<Option<u64>, BrokerError> {
        let value = value.into();
        if let Some(revision) = self.kv_update(bucket, key, value.clone(), 0).await? {
            return Ok(Some(revision));
        }
        // What is there may be a mark that the key was deleted: that is no value.
        match self.last_message(&format!("KV_{bucket}"), &format!("$KV.{bucket}.{key}")).await? {
            Some(mark) if is_gone(&mark.headers) => self.kv_update(bucket, key, value, mark.seq).await,
            _ => Ok(None),
        }
    }

    /// Replaces the value of a key if its revision still is `revision` (0: if it was never set); the new revision,
    /// or `None` if somebody was quicker.
    ///
    /// # Errors
    /// JetStream refuses for another reason, or does not answer: then whether the key was set is unknown.
    pub async fn kv_update(
        &self,
        bucket: &str,
        key: &str,
        value: impl Into<Bytes>,
        revision: u64,
    ) -> Result<Option<u64>, BrokerError> {
        let expected = [("Nats-Expected-Last-Subject-Sequence", revision.to_string())];
        let ack = self.publish(self.key_subject(bucket, key), headers(&expected), value).await;
        match ack {
            Ok(ack) => Ok(Some(ack.seq)),
            Err(error) if error.api_code() == Some(codes::WRONG_LAST_SEQUENCE) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes a key and its history; a mark stays, so that watchers see it go.
    ///
    /// # Errors
    /// JetStream refuses or does not answer.
    pub async fn kv_purge(&self, bucket: &str, key: &str) -> Result<(), BrokerError> {
        let marks = [("KV-Operation", "PURGE".to_owned()), ("Nats-Rollup", "sub".to_owned())];
        self.publish(self.key_subject(bucket, key), headers(&marks), "").await.map(drop)
    }
}

/// Whether these headers mark that a key's value is gone.
pub(crate) fn is_gone(headers: &Headers) -> bool {
    headers.get("KV-Operation").is_some_and(|op| op != "PUT") || headers.get("Nats-Marker-Reason").is_some()
}

fn headers(pairs: &[(&str, String)]) -> Headers {
    let mut headers = Headers::NONE;
    for (name, value) in pairs {
        // Both are ours and sound.
        let _ = headers.push(name, value);
    }
    headers
}
