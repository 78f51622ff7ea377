//! How a source finds its stream and sets its consumer: the part of its protocol before the first delivery.

use std::time::Duration;

use millstream_operators::{Fault, FaultKind, Result};

use super::position::Start;
use super::source::{HEARTBEAT, JetStreamSource};
use crate::broker::{AckPolicy, BrokerError, ConsumerConfig, DeliverPolicy, Js, StreamInfo, codes};
use crate::connectors::fault;

// Long enough that no checkpoint ever takes so long: a redelivery by time-out would only be dropped as a repeat.
const ACK_WAIT: Duration = Duration::from_secs(3600);

impl JetStreamSource {
    pub(super) async fn stream(&self, js: &Js, known: bool) -> Result<StreamInfo> {
        match js.find_stream(&self.read.stream).await.map_err(fault)? {
            Some(info) => Ok(info),
            None if known => Err(Fault::new(
                FaultKind::SourceLost,
                format!("stream {} is gone, and what was not read yet with it", self.read.stream),
            )),
            None => Err(Fault::new(
                FaultKind::Setup,
                format!("there is no stream {}: create it, or correct `stream`", self.read.stream),
            )),
        }
    }

    /// Where a first run begins: a sequence, found once, so that "from now on" means one place for ever.
    pub(super) async fn first_position(&self, js: &Js, info: &StreamInfo) -> Result<u64> {
        Ok(match &self.read.start {
            Start::Earliest => info.state.first_seq.saturating_sub(1),
            Start::Latest => info.state.last_seq,
            Start::Sequence(sequence) => {
                let before = sequence.saturating_sub(1);
                if before > info.state.last_seq {
                    let words = format!(
                        "start is sequence {sequence}, but stream {} ends at {}",
                        self.read.stream, info.state.last_seq
                    );
                    return Err(Fault::new(FaultKind::Setup, words));
                }
                before
            }
            Start::Time(time) => {
                let name = format!("{}-start", self.consumer);
                let config = ConsumerConfig {
                    name: name.clone(),
                    deliver_policy: DeliverPolicy::ByStartTime,
                    opt_start_time: Some(time.to_string()),
                    ack_policy: AckPolicy::None,
                    inactive_threshold: nanos(HEARTBEAT),
                    ..ConsumerConfig::default()
                };
                let found = js.create_consumer(&self.read.stream, &config).await.map_err(fault)?;
                // It goes by itself if this fails.
                let _ = js.delete_consumer(&self.read.stream, &name).await;
                found.delivered.stream_seq
            }
        })
    }

    /// Whether every sequence of the stream is a message that we read, so that a jump is a loss.
    pub(super) fn is_contiguous(&self, info: &StreamInfo) -> bool {
        let config = &info.config;
        self.read.subjects.is_empty()
            && config.max_msgs_per_subject <= 0
            && !config.allow_msg_ttl
            && !config.allow_rollup_hdrs
            && config.deny_delete
    }

    /// Creates the consumer if there is none, and sets it right behind our position.
    pub(super) async fn reset(&self, js: &Js) -> Result {
        let (stream, next) = (&self.read.stream, self.position.sequence + 1);
        let config = self.consumer_config();
        let created = match js.create_consumer(stream, &config).await {
            // It exists and differs in what cannot be changed; our position is not in it, so it may go.
            Err(error) if matches!(error.api_code(), Some(codes::CONSUMER_CONFIG | codes::CONSUMER_EXISTS)) => {
                js.delete_consumer(stream, &self.consumer).await.map_err(fault)?;
                js.create_consumer(stream, &config).await
            }
            other => other,
        };
        created.map_err(|error| match error.api_code() {
            Some(codes::WORKQUEUE_NEEDS_EXPLICIT_ACK) => Fault::new(
                FaultKind::Setup,
                format!(
                    "stream {stream} is a work queue, which allows explicit acks only: let a stream of limits retention source it, and read that one"
                ),
            ),
            _ => fault(error),
        })?;
        match js.reset_consumer(stream, &self.consumer, Some(next)).await {
            Ok(_) => Ok(()),
            // Before 2.14 there is no reset: a new consumer that begins there.
            Err(BrokerError::NoResponders { .. } | BrokerError::Timeout { .. }) if self.is_old(js).await? => {
                js.delete_consumer(stream, &self.consumer).await.map_err(fault)?;
                let deliver_policy = DeliverPolicy::ByStartSequence;
                let config = ConsumerConfig { deliver_policy, opt_start_seq: next, ..config };
                js.create_consumer(stream, &config).await.map(drop).map_err(fault)
            }
            Err(error) => Err(fault(error)),
        }
    }

    async fn is_old(&self, js: &Js) -> Result<bool> {
        const RESET_SINCE: u32 = 4;
        Ok(js.account().await.map_err(fault)?.level.0 < RESET_SINCE)
    }

    fn consumer_config(&self) -> ConsumerConfig {
        ConsumerConfig {
            ack_policy: AckPolicy::All,
            deliver_policy: DeliverPolicy::All,
            filter_subjects: self.read.subjects.clone(),
            ack_wait: nanos(ACK_WAIT),
            max_ack_pending: i64::from(self.read.max_ack_pending),
            max_deliver: -1,
            ..ConsumerConfig::durable(&self.consumer)
        }
    }
}

/// The durable consumer of a source. Pipeline and node names hold no dots or spaces.
pub(crate) fn consumer_name(pipeline: &str, node: &str) -> String {
    format!("mill-{pipeline}-{node}")
}

pub(super) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Says what in a stream's settings can lose messages before they are read.
pub(super) fn lint(info: &StreamInfo) {
    let config = &info.config;
    let mut risks = Vec::new();
    if config.max_age > 0 || config.max_msgs > 0 || config.max_bytes > 0 {
        risks.push("its limits (max_age, max_msgs, max_bytes) discard old messages, read or not");
    }
    if config.max_msgs_per_subject > 0 {
        risks.push("max_msgs_per_subject discards older messages of a subject, which cannot be noticed");
    }
    if config.allow_msg_ttl {
        risks.push("messages may expire by their own time to live, which cannot be noticed");
    }
    if !risks.is_empty() {
        tracing::warn!(
            stream = config.name,
            "messages of this stream can be lost before they are read: {}",
            risks.join("; ")
        );
    }
}
