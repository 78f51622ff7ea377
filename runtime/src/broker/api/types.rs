//! What the JetStream API sends and answers: the fields Millstream uses, and the rest kept as it came.

use bytes::Bytes;
use millstream_operators::Headers;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::broker::{ApiError, Subject};

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What a stream keeps its messages for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Retention {
    /// Until a limit is reached.
    #[default]
    Limits,
    /// Until all consumers acknowledged.
    Interest,
    /// Until the one consumer acknowledged.
    WorkQueue,
}

/// What a full stream gives up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Discard {
    /// Its oldest messages.
    #[default]
    Old,
    /// New messages: they are refused.
    New,
}

/// Where a stream is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// In files.
    #[default]
    File,
    /// In memory.
    Memory,
}

/// How a stream shall be. Durations are nanoseconds; 0 stands for the server's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamConfig {
    /// Its name.
    pub name: String,
    /// What it captures.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subjects: Vec<String>,
    /// What it keeps messages for.
    pub retention: Retention,
    /// Where it is stored.
    pub storage: Storage,
    /// What gives way when it is full.
    pub discard: Discard,
    /// With `discard` new: whether the limit for each subject refuses too.
    #[serde(skip_serializing_if = "is_default")]
    pub discard_new_per_subject: bool,
    /// The most messages; below 1 for no limit.
    #[serde(skip_serializing_if = "is_default")]
    pub max_msgs: i64,
    /// The most bytes; below 1 for no limit.
    #[serde(skip_serializing_if = "is_default")]
    pub max_bytes: i64,
    /// The greatest age, in nanoseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub max_age: u64,
    /// The most messages of each subject.
    #[serde(skip_serializing_if = "is_default")]
    pub max_msgs_per_subject: i64,
    /// The largest message.
    #[serde(skip_serializing_if = "is_default")]
    pub max_msg_size: i32,
    /// How many servers hold it.
    pub num_replicas: usize,
    /// How long message ids are remembered, in nanoseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub duplicate_window: u64,
    /// Allows fast ingest.
    #[serde(skip_serializing_if = "is_default")]
    pub allow_batched: bool,
    /// Allows atomic batches.
    #[serde(skip_serializing_if = "is_default")]
    pub allow_atomic: bool,
    /// Allows a time to live for each message.
    #[serde(skip_serializing_if = "is_default")]
    pub allow_msg_ttl: bool,
    /// Allows `Nats-Rollup`.
    #[serde(skip_serializing_if = "is_default")]
    pub allow_rollup_hdrs: bool,
    /// Allows reading messages from any replica.
    #[serde(skip_serializing_if = "is_default")]
    pub allow_direct: bool,
    /// Refuses to delete messages.
    #[serde(skip_serializing_if = "is_default")]
    pub deny_delete: bool,
    /// Refuses to purge.
    #[serde(skip_serializing_if = "is_default")]
    pub deny_purge: bool,
    /// Everything else, as it came.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl StreamConfig {
    /// A stream of one replica on these subjects.
    pub fn new<S: Into<String>>(name: impl Into<String>, subjects: impl IntoIterator<Item = S>) -> Self {
        StreamConfig {
            name: name.into(),
            subjects: subjects.into_iter().map(Into::into).collect(),
            num_replicas: 1,
            ..StreamConfig::default()
        }
    }
}

/// What a stream holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamState {
    /// How many messages.
    pub messages: u64,
    /// How many bytes.
    pub bytes: u64,
    /// The sequence of the first message; one beyond the last if there is none.
    pub first_seq: u64,
    /// The sequence of the last message there ever was.
    pub last_seq: u64,
    /// How many consumers read it.
    pub consumer_count: u64,
    /// How many messages between first and last are gone.
    pub num_deleted: u64,
    /// How many subjects it holds.
    pub num_subjects: u64,
}

/// A stream, as the server tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamInfo {
    /// When it was created; another value means another stream of the same name.
    pub created: String,
    /// How it is.
    pub config: StreamConfig,
    /// What it holds.
    pub state: StreamState,
}

/// Which messages a consumer begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliverPolicy {
    /// The first.
    #[default]
    All,
    /// The last.
    Last,
    /// Those that come from now on.
    New,
    /// The one at `opt_start_seq`.
    ByStartSequence,
    /// The first at or after `opt_start_time`.
    ByStartTime,
    /// The last of each subject.
    LastPerSubject,
}

/// What an acknowledgement covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AckPolicy {
    /// Nothing is acknowledged.
    None,
    /// The message and all before it.
    All,
    /// The message.
    #[default]
    Explicit,
}

/// How a consumer shall be. Durations are nanoseconds; 0 stands for the server's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConsumerConfig {
    /// Its name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its name again, if it is durable.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub durable_name: String,
    /// Where it begins.
    pub deliver_policy: DeliverPolicy,
    /// The first sequence, with [`DeliverPolicy::ByStartSequence`].
    #[serde(skip_serializing_if = "is_default")]
    pub opt_start_seq: u64,
    /// The first time, with [`DeliverPolicy::ByStartTime`], RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opt_start_time: Option<String>,
    /// What an acknowledgement covers.
    pub ack_policy: AckPolicy,
    /// After how long without acknowledgement a message comes again.
    #[serde(skip_serializing_if = "is_default")]
    pub ack_wait: u64,
    /// How often a message is delivered at most; below 1 for no limit.
    #[serde(skip_serializing_if = "is_default")]
    pub max_deliver: i64,
    /// How long to wait before each further delivery.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backoff: Vec<u64>,
    /// The one subject it reads.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub filter_subject: String,
    /// The subjects it reads; none for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filter_subjects: Vec<String>,
    /// How many messages may be delivered and not acknowledged; -1 for no limit.
    #[serde(skip_serializing_if = "is_default")]
    pub max_ack_pending: i64,
    /// How many pulls may wait.
    #[serde(skip_serializing_if = "is_default")]
    pub max_waiting: i64,
    /// After how long without a pull it goes.
    #[serde(skip_serializing_if = "is_default")]
    pub inactive_threshold: u64,
    /// How many servers hold it; 0 for as many as the stream.
    pub num_replicas: usize,
    /// Keeps its state in memory.
    #[serde(skip_serializing_if = "is_default")]
    pub mem_storage: bool,
    /// Whose it is.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// Everything else, as it came.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl ConsumerConfig {
    /// A durable consumer.
    pub fn durable(name: impl Into<String>) -> Self {
        let name = name.into();
        ConsumerConfig { durable_name: name.clone(), name, ..ConsumerConfig::default() }
    }
}

/// A place in a consumer's deliveries and in its stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SequencePair {
    /// Counts deliveries.
    pub consumer_seq: u64,
    /// Counts messages.
    pub stream_seq: u64,
}

/// A consumer, as the server tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConsumerInfo {
    /// Its name.
    pub name: String,
    /// When it was created.
    pub created: String,
    /// How it is.
    pub config: ConsumerConfig,
    /// The last that was delivered.
    pub delivered: SequencePair,
    /// The last up to which all is acknowledged.
    pub ack_floor: SequencePair,
    /// Delivered and not acknowledged.
    pub num_ack_pending: u64,
    /// Delivered more than once and not acknowledged.
    pub num_redelivered: u64,
    /// Pulls that wait.
    pub num_waiting: u64,
    /// Not yet delivered.
    pub num_pending: u64,
    /// After a reset: where it begins.
    #[serde(skip_serializing_if = "is_default")]
    pub reset_seq: u64,
}

/// The acknowledgement of a publish.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PubAck {
    /// The stream that took it.
    pub stream: String,
    /// Its sequence there.
    pub seq: u64,
    /// Whether the stream had it already, by its message id.
    pub duplicate: bool,
    /// The batch that is confirmed, if it is one.
    pub batch: Option<String>,
    /// How many messages the batch has.
    pub count: u64,
    /// The JetStream domain.
    pub domain: String,
    error: Option<ApiError>,
}

impl PubAck {
    /// Reads an acknowledgement. The error comes first: a refusal carries sequence 0 and looks like success else.
    ///
    /// # Errors
    /// The refusal, or `None` if this is no acknowledgement at all.
    pub fn parse(payload: &[u8]) -> Result<PubAck, Option<ApiError>> {
        let mut ack: PubAck = serde_json::from_slice(payload).map_err(|_| None)?;
        match ack.error.take() {
            Some(error) => Err(Some(error)),
            None if ack.stream.is_empty() => Err(None),
            None => Ok(ack),
        }
    }
}

/// What to purge: all, or what these narrow it to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Purge {
    /// Only what this matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Only what is before this sequence.
    #[serde(skip_serializing_if = "is_default")]
    pub seq: u64,
    /// All but so many of the last.
    #[serde(skip_serializing_if = "is_default")]
    pub keep: u64,
}

/// A message read back from a stream.
#[derive(Clone, Debug)]
pub struct StoredMessage {
    /// Its subject.
    pub subject: Subject,
    /// Its sequence.
    pub seq: u64,
    /// Its headers, as far as they are legal.
    pub headers: Headers,
    /// What is wrong with those that are not, one sentence each: the client takes no delivery of such a message.
    pub flaws: Vec<String>,
    /// Its content.
    pub payload: Bytes,
    /// When it was stored, RFC 3339.
    pub time: String,
}

impl StoredMessage {
    /// When it was stored, in nanoseconds since the epoch; 0 where the server does not say it legibly.
    pub fn stored_at(&self) -> i64 {
        let time = chrono::DateTime::parse_from_rfc3339(&self.time).ok();
        time.and_then(|time| time.timestamp_nanos_opt()).unwrap_or(0)
    }
}

/// How new the server's JetStream is: 2.11 is 1, 2.12 is 2, 2.14 is 4; older ones have none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiLevel(pub u32);

impl ApiLevel {
    /// The first that knows atomic batches: that of nats-server 2.12.
    pub const ATOMIC_BATCHES: ApiLevel = ApiLevel(2);
    /// The first that knows fast ingest: that of nats-server 2.14.
    pub const FAST_INGEST: ApiLevel = ApiLevel(4);
}

/// What an account has of JetStream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountInfo {
    /// How new the API is.
    pub level: ApiLevel,
    /// The JetStream domain, if it has a name.
    pub domain: Option<String>,
    /// How many streams there are.
    pub streams: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_seen_before_its_sequence() {
        let refused = br#"{"stream":"S","seq":0,"error":{"code":400,"err_code":10071,"description":"wrong"}}"#;
        assert_eq!(PubAck::parse(refused).unwrap_err().unwrap().err_code, 10071);
        let ack = PubAck::parse(br#"{"stream":"S","seq":7,"batch":"b","count":3}"#).unwrap();
        assert_eq!((ack.seq, ack.batch.as_deref(), ack.count), (7, Some("b"), 3));
        assert_eq!(PubAck::parse(b"").unwrap_err(), None);
        assert_eq!(PubAck::parse(b"{}").unwrap_err(), None);
    }

    #[test]
    fn an_update_sends_back_what_it_does_not_know() {
        let config: StreamConfig =
            serde_json::from_str(r#"{"name":"S","subjects":["s"],"compression":"s2","max_msgs":-1}"#).unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert!(text.contains(r#""compression":"s2""#) && text.contains(r#""max_msgs":-1"#), "{text}");
    }
}
