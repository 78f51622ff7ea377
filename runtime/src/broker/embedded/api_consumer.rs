//! The calls of the JetStream API that create and reset consumers.

use serde::Deserialize;
use serde_json::{Value, json};

use super::api::Answer;
use super::api_stream::read;
use super::consumer::Consumer;
use super::consumer_config::{check_update, complete, parse};
use super::jetstream::JetStream;
use super::refusal::{bad_json, name_mismatch, no_consumer, refusal};
use super::stream::Stream;
use super::turn::Turn;
use crate::broker::{AckPolicy, ApiError, ConsumerConfig, DeliverPolicy, Retention, codes, overlaps};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    #[serde(default)]
    stream_name: String,
    #[serde(default)]
    config: Value,
    #[serde(default)]
    action: String,
    #[serde(default, rename = "pedantic")]
    _pedantic: bool,
}

impl JetStream {
    /// `target` is the stream, and in the newer form of the call the consumer and perhaps its filter.
    pub(super) fn create_consumer(&mut self, target: &str, body: &[u8], turn: &mut Turn<'_>) -> Answer {
        let request: Create = serde_json::from_slice(body).map_err(bad_json)?;
        let config = if request.config.is_null() { json!({}) } else { request.config };
        let mut config = parse(config)?;
        let mut tokens = target.splitn(3, '.');
        let (stream, name, filter) = (tokens.next().unwrap_or_default(), tokens.next(), tokens.next());
        if stream != request.stream_name {
            return Err(name_mismatch());
        }
        if let Some(name) = name {
            if !config.durable_name.is_empty() && config.durable_name != name {
                let why = "consumer name in subject does not match durable name in request";
                return Err(refusal(400, 10017, why));
            }
            config.name = name.to_owned();
        } else if !config.durable_name.is_empty() {
            let why = "consumer expected to be ephemeral but a durable name was set in request";
            return Err(refusal(400, 10020, why));
        }
        if let Some(filter) = filter {
            if !config.filter_subjects.is_empty() {
                return Err(refusal(400, 10137, "consumer with multiple subject filters cannot use subject based API"));
            }
            if config.filter_subject != filter {
                let why = "Consumer create request did not match filtered subject from create subject";
                return Err(refusal(400, 10131, why));
            }
        }
        if config.name.is_empty() && config.durable_name.is_empty() {
            self.last_name += 1;
            config.name = format!("C{:07}", self.last_name);
        }
        if config.num_replicas > 1 {
            return Err(refusal(500, 10074, "replicas > 1 not supported in non-clustered mode"));
        }
        let stream = self.stream(stream)?;
        let config = complete(config, &stream.config)?;
        stream.add_consumer(config, &request.action, turn)
    }

    pub(super) fn reset_consumer(&mut self, target: &str, body: &[u8], turn: &mut Turn<'_>) -> Answer {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Request {
            seq: u64,
        }
        let Request { seq } = read(body)?;
        let (stream, name) = target.split_once('.').unwrap_or((target, ""));
        let stream = self.stream(stream)?;
        let consumer = stream.consumers.get_mut(name).ok_or_else(no_consumer)?;
        let from = consumer.floor.stream_seq;
        let seq = consumer
            .reset(seq, &stream.log, turn)
            .map_err(|why| refusal(400, 10204, format!("invalid reset: {why}")))?;
        let mut answer = consumer.describe(&stream.log, turn);
        if let Some(answer) = answer.as_object_mut() {
            answer.insert("reset_seq".into(), seq.into());
        }
        if stream.config.retention == Retention::Interest {
            stream.drop_unwanted(from.min(seq), turn);
        }
        stream.settle(turn);
        Ok(answer)
    }
}

impl Stream {
    fn add_consumer(&mut self, config: ConsumerConfig, action: &str, turn: &mut Turn<'_>) -> Answer {
        let name = config.name.clone();
        if let Some(consumer) = self.consumers.get(name.as_str()) {
            if action == "create" && consumer.config != config {
                return Err(refusal(400, codes::CONSUMER_EXISTS, "consumer already exists"));
            }
            if self.config.retention == Retention::WorkQueue && !self.is_alone(&config) {
                return Err(refusal(400, codes::WORKQUEUE_OVERLAP, "filtered consumer not unique on workqueue stream"));
            }
            check_update(&consumer.config, &config)?;
        } else if action == "update" {
            return Err(refusal(400, 10149, "consumer does not exist"));
        } else {
            self.check_work_queue(&config)?;
        }
        if let Some(consumer) = self.consumers.get_mut(name.as_str()) {
            if consumer.config != config {
                consumer.configure(config, &self.log, turn);
                if self.config.retention == Retention::Interest {
                    self.drop_unwanted(0, turn);
                }
            }
        } else {
            let consumer = Consumer::new(&self.config.name, config, self.config.retention, &self.log, turn);
            self.consumers.insert(name.as_str().into(), consumer);
        }
        self.settle(turn);
        let consumer = self.consumers.get_mut(name.as_str()).ok_or_else(no_consumer)?;
        Ok(consumer.describe(&self.log, turn))
    }

    /// What consumers of a work queue must be like.
    fn check_work_queue(&self, config: &ConsumerConfig) -> Result<(), ApiError> {
        if self.config.retention != Retention::WorkQueue {
            return Ok(());
        }
        if config.ack_policy != AckPolicy::Explicit {
            return Err(refusal(400, codes::WORKQUEUE_NEEDS_EXPLICIT_ACK, "workqueue stream requires explicit ack"));
        }
        if config.deliver_policy != DeliverPolicy::All {
            return Err(refusal(400, 10101, "consumer must be deliver all on workqueue stream"));
        }
        if !self.consumers.is_empty() {
            if filters(config).next().is_none() {
                return Err(refusal(400, 10099, "multiple non-filtered consumers not allowed on workqueue stream"));
            }
            if !self.is_alone(config) {
                return Err(refusal(400, codes::WORKQUEUE_OVERLAP, "filtered consumer not unique on workqueue stream"));
            }
        }
        Ok(())
    }

    /// Whether no other consumer reads what this one wants to.
    fn is_alone(&self, config: &ConsumerConfig) -> bool {
        filters(config).all(|filter| {
            self.consumers.values().filter(|other| *other.name != *config.name).all(|other| {
                !other.filter.is_all() && other.filter.patterns().iter().all(|theirs| !overlaps(theirs, filter))
            })
        })
    }
}

fn filters(config: &ConsumerConfig) -> impl Iterator<Item = &String> {
    config.filter_subjects.iter().chain(Some(&config.filter_subject).filter(|filter| !filter.is_empty()))
}
