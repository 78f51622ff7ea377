//! [`Js`]: the calls.

use std::time::Duration;

use bytes::Bytes;
use millstream_operators::Headers;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::types::{
    AccountInfo, ApiLevel, ConsumerConfig, ConsumerInfo, PubAck, Purge, StoredMessage, StreamConfig, StreamInfo,
};
use super::wire::read_headers;
use super::{base64, codes};
use crate::broker::{ApiError, BrokerError, Connection, Subject};

/// The JetStream API of one account, over one connection.
#[derive(Clone, Debug)]
pub struct Js {
    connection: Connection,
    prefix: String,
    timeout: Duration,
}

/// An answer: an error, or the fields of `T`.
#[derive(Deserialize)]
struct Answer<T> {
    error: Option<ApiError>,
    #[serde(flatten)]
    body: Option<T>,
}

impl Js {
    /// The API of the account's own JetStream.
    pub fn new(connection: Connection) -> Self {
        Js::with_prefix(connection, "$JS.API")
    }

    /// The API under another prefix: a domain's, or an imported one
    /// ([`ConnectOptions::js_prefix`](crate::broker::ConnectOptions::js_prefix)).
    pub fn with_prefix(connection: Connection, prefix: impl Into<String>) -> Self {
        Js { connection, prefix: prefix.into(), timeout: Duration::from_secs(5) }
    }

    /// The same with another time to wait for an answer, in place of 5 seconds.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The API's prefix.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The connection below.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The API's subject for `call`, such as `STREAM.INFO.ORDERS`.
    pub fn subject(&self, call: &str) -> Subject {
        Subject::from(format!("{}.{call}", self.prefix))
    }

    /// Where a consumer is asked for messages.
    pub fn next_subject(&self, stream: &str, consumer: &str) -> Subject {
        self.subject(&format!("CONSUMER.MSG.NEXT.{stream}.{consumer}"))
    }

    async fn call<T: DeserializeOwned>(&self, call: &str, body: impl Into<Bytes>) -> Result<T, BrokerError> {
        let subject = self.subject(call);
        let reply = self.connection.request(subject.clone(), Headers::NONE, body, self.timeout).await?;
        let protocol = |what: String| BrokerError::Protocol { subject: subject.clone(), what };
        let answer: Answer<T> = serde_json::from_slice(&reply.payload).map_err(|error| protocol(error.to_string()))?;
        match answer {
            Answer { error: Some(error), .. } => Err(BrokerError::Api { subject, error }),
            Answer { body: Some(body), .. } => Ok(body),
            Answer { .. } => Err(protocol("fields are missing".to_owned())),
        }
    }

    /// What the account has.
    ///
    /// # Errors
    /// JetStream does not answer or refuses.
    pub async fn account(&self) -> Result<AccountInfo, BrokerError> {
        let info: Value = self.call("INFO", "").await?;
        let level = info.pointer("/api/level").and_then(Value::as_u64).unwrap_or(0);
        Ok(AccountInfo {
            level: ApiLevel(u32::try_from(level).unwrap_or(u32::MAX)),
            domain: info.get("domain").and_then(Value::as_str).map(str::to_owned),
            streams: info.get("streams").and_then(Value::as_u64).unwrap_or(0),
        })
    }

    /// A stream, as its leader tells.
    ///
    /// # Errors
    /// There is none ([`codes::STREAM_NOT_FOUND`]), or JetStream does not answer.
    pub async fn stream(&self, name: &str) -> Result<StreamInfo, BrokerError> {
        self.call(&format!("STREAM.INFO.{name}"), "").await
    }

    /// A stream, or `None` if there is none of this name.
    ///
    /// # Errors
    /// JetStream does not answer or refuses.
    pub async fn find_stream(&self, name: &str) -> Result<Option<StreamInfo>, BrokerError> {
        absent(self.stream(name).await, codes::STREAM_NOT_FOUND)
    }

    /// Creates a stream; it is no error if it exists and is the same.
    ///
    /// # Errors
    /// JetStream refuses.
    pub async fn create_stream(&self, config: &StreamConfig) -> Result<StreamInfo, BrokerError> {
        self.call(&format!("STREAM.CREATE.{}", config.name), encode(config)).await
    }

    /// Changes a stream.
    ///
    /// # Errors
    /// JetStream refuses.
    pub async fn update_stream(&self, config: &StreamConfig) -> Result<StreamInfo, BrokerError> {
        self.call(&format!("STREAM.UPDATE.{}", config.name), encode(config)).await
    }

    /// Deletes a stream with all it holds.
    ///
    /// # Errors
    /// JetStream refuses.
    pub async fn delete_stream(&self, name: &str) -> Result<(), BrokerError> {
        self.call::<Value>(&format!("STREAM.DELETE.{name}"), "").await.map(drop)
    }

    /// Deletes messages; returns how many.
    ///
    /// # Errors
    /// JetStream refuses.
    pub async fn purge(&self, stream: &str, purge: &Purge) -> Result<u64, BrokerError> {
        let answer: Value = self.call(&format!("STREAM.PURGE.{stream}"), encode(purge)).await?;
        Ok(answer.get("purged").and_then(Value::as_u64).unwrap_or(0))
    }

    /// Deletes one message, without overwriting it on disk.
    ///
    /// # Errors
    /// JetStream refuses.
    pub async fn delete_message(&self, stream: &str, seq: u64) -> Result<(), BrokerError> {
        let body = json!({ "seq": seq, "no_erase": true }).to_string();
        self.call::<Value>(&format!("STREAM.MSG.DELETE.{stream}"), body).await.map(drop)
    }

    /// Reads one message from the stream's leader; `None` if there is none.
    ///
    /// # Errors
    /// JetStream refuses.
    pub async fn message(&self, stream: &str, seq: u64) -> Result<Option<StoredMessage>, BrokerError> {
        self.get(stream, json!({ "seq": seq })).await
    }

    /// Reads the last message of a subject from the stream's leader; `None` if there is none.
    ///
    /// # Errors
    /// JetStream refuses.
    pub async fn last_message(&self, stream: &str, subject: &str) -> Result<Option<StoredMessage>, BrokerError> {
        self.get(stream, json!({ "last_by_subj": subject })).await
    }

    /// Reads the first message at or after `seq` whose subject matches, from the stream's leader; `None` if there is none.
    ///
    /// # Errors
    /// JetStream refuses.
    pub async fn next_message(
        &self,
        stream: &str,
        seq: u64,
        subject: &str,
    ) -> Result<Option<StoredMessage>, BrokerError> {
        self.get(stream, json!({ "seq": seq, "next_by_subj": subject })).await
    }

    async fn get(&self, stream: &str, what: Value) -> Result<Option<StoredMessage>, BrokerError> {
        #[derive(Deserialize)]
        struct Found {
            message: Raw,
        }
        #[derive(Deserialize)]
        struct Raw {
            subject: String,
            seq: u64,
            #[serde(default)]
            hdrs: String,
            #[serde(default)]
            data: String,
            time: String,
        }
        let call = format!("STREAM.MSG.GET.{stream}");
        let found: Option<Found> = absent(self.call(&call, what.to_string()).await, codes::NO_MESSAGE)?;
        let Some(Found { message: raw }) = found else { return Ok(None) };
        let protocol = |what: &str| BrokerError::Protocol { subject: self.subject(&call), what: what.to_owned() };
        let headers = base64::decode(&raw.hdrs).ok_or_else(|| protocol("headers are no base64"))?;
        let payload = base64::decode(&raw.data).ok_or_else(|| protocol("data is no base64"))?;
        let (headers, flaws) = read_headers(&headers);
        Ok(Some(StoredMessage {
            subject: raw.subject.into(),
            seq: raw.seq,
            headers,
            flaws,
            payload: payload.into(),
            time: raw.time,
        }))
    }

    /// Creates a consumer, or gets it if it exists and is the same, or changes what may be changed.
    ///
    /// # Errors
    /// JetStream refuses, for one because the consumer exists with something else that cannot be changed.
    pub async fn create_consumer(&self, stream: &str, config: &ConsumerConfig) -> Result<ConsumerInfo, BrokerError> {
        let name = if config.name.is_empty() { &config.durable_name } else { &config.name };
        // A user's permissions may name the filter, so a single one belongs into the subject.
        let filter = match (&config.filter_subject, config.filter_subjects.as_slice()) {
            (single, []) if !single.is_empty() => format!(".{single}"),
            _ => String::new(),
        };
        let body = json!({ "stream_name": stream, "config": config }).to_string();
        self.call(&format!("CONSUMER.CREATE.{stream}.{name}{filter}"), body).await
    }

    /// A consumer, as its leader tells.
    ///
    /// # Errors
    /// There is none ([`codes::CONSUMER_NOT_FOUND`]), or JetStream does not answer.
    pub async fn consumer(&self, stream: &str, name: &str) -> Result<ConsumerInfo, BrokerError> {
        self.call(&format!("CONSUMER.INFO.{stream}.{name}"), "").await
    }

    /// Deletes a consumer.
    ///
    /// # Errors
    /// There is none, or JetStream does not answer.
    pub async fn delete_consumer(&self, stream: &str, name: &str) -> Result<(), BrokerError> {
        self.call::<Value>(&format!("CONSUMER.DELETE.{stream}.{name}"), "").await.map(drop)
    }

    /// Sets a consumer to `seq`, or back to its ack floor (server 2.14 and up). Everything delivered and not
    /// acknowledged is forgotten, and deliveries count from 1 again. A sequence beyond the end of the stream is
    /// accepted silently and skips what comes: check it first.
    ///
    /// # Errors
    /// JetStream refuses; an older server does not answer.
    pub async fn reset_consumer(
        &self,
        stream: &str,
        name: &str,
        seq: Option<u64>,
    ) -> Result<ConsumerInfo, BrokerError> {
        let body = seq.map_or_else(String::new, |seq| json!({ "seq": seq }).to_string());
        self.call(&format!("CONSUMER.RESET.{stream}.{name}"), body).await
    }

    /// Publishes one message and waits until its stream has it.
    ///
    /// # Errors
    /// No stream captures the subject, the stream refuses, or nothing comes in time.
    pub async fn publish(
        &self,
        subject: impl Into<Subject>,
        headers: Headers,
        payload: impl Into<Bytes>,
    ) -> Result<PubAck, BrokerError> {
        let subject = subject.into();
        let reply = self.connection.request(subject.clone(), headers, payload, self.timeout).await?;
        PubAck::parse(&reply.payload).map_err(|error| match error {
            Some(error) => BrokerError::Api { subject, error },
            None => BrokerError::Protocol { subject, what: "it is no publish acknowledgement".to_owned() },
        })
    }
}

/// `None` in place of a refusal with this code.
fn absent<T>(result: Result<T, BrokerError>, code: u16) -> Result<Option<T>, BrokerError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.api_code() == Some(code) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Our own types become JSON without fail; if that were wrong, the server would refuse the empty body.
fn encode(body: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(body).unwrap_or_default()
}
