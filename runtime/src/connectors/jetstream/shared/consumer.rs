//! The consumer that processes share: created by whichever comes first, never deleted here.

use std::sync::Arc;

use millstream_operators::{Fault, FaultKind, Result};

use super::super::attach::{Reader, beyond};
use super::super::position::Start;
use super::super::pull::{Pull, nanos};
use super::super::read::Share;
use crate::broker::{
    AckPolicy, BrokerError, ConsumerConfig, ConsumerInfo, DeliverPolicy, Js, Retention, StoredMessage, StreamInfo,
    codes,
};
use crate::connectors::{Purpose, fault};

// Small, so that processes have equal shares of what waits; the server gives to those who ask in turn.
const PULL: u64 = 500;

/// An inbox on the shared consumer.
pub(super) struct Joined {
    pub(super) pull: Pull,
    /// Up to where everything is acknowledged.
    pub(super) done: u64,
    /// What the consumer has delivered and the client cannot read.
    pub(super) unread: Vec<StoredMessage>,
}

impl Reader {
    /// Sees to it that there is a consumer, and opens an inbox for what it delivers. One that was deleted begins again
    /// behind `done`, up to which everything is known to have been acknowledged.
    /// Where the link `broke` and the last message that had come was this one, messages that the client cannot read are
    /// looked for.
    pub(super) async fn join(
        self: Arc<Self>,
        share: Share,
        created: String,
        done: u64,
        broke: Option<u64>,
    ) -> Result<Joined> {
        let js = self.connections.js(Purpose::Read).await?;
        let info = self.stream(&js, true).await?;
        self.check_is_same(&info, &created)?;
        let generation = js.connection().generation();
        let consumer = self.consumer_to_share(&js, &info, &share, Some(done)).await?;
        let done = consumer.ack_floor.stream_seq;
        let unread = match broke {
            Some(reached) => self.malformed(done, reached, consumer.delivered.stream_seq).await?,
            None => Vec::new(),
        };
        let most = PULL.min(u64::from(share.prefetch));
        let pull = Pull::open(js, &self.read.stream, &self.consumer, most, generation).await?;
        Ok(Joined { pull, done, unread })
    }

    /// Refuses a stream that was made again under the same name.
    pub(super) fn check_is_same(&self, info: &StreamInfo, created: &str) -> Result {
        if info.created == created {
            return Ok(());
        }
        let words = format!(
            "stream {} was deleted and created again (at {}, before {created}): what was not read yet is gone; start again to read the new one",
            self.read.stream, info.created
        );
        Err(Fault::new(FaultKind::SourceLost, words))
    }

    /// Creates the shared consumer, or adapts it to these settings, except for where it began.
    pub(super) async fn consumer_to_share(
        &self,
        js: &Js,
        info: &StreamInfo,
        share: &Share,
        done: Option<u64>,
    ) -> Result<ConsumerInfo> {
        let stream = &self.read.stream;
        // Another process may create it between our question and our creating; then the second question finds it.
        let mut again = true;
        loop {
            let known = match js.consumer(stream, &self.consumer).await {
                Ok(known) => Some(known.config),
                Err(error) if error.api_code() == Some(codes::CONSUMER_NOT_FOUND) => None,
                Err(error) => return Err(fault(error)),
            };
            let mut config = self.shared_config(share);
            match known {
                Some(known) if known.ack_policy != AckPolicy::Explicit => return Err(self.is_not_shared()),
                Some(known) => {
                    config.deliver_policy = known.deliver_policy;
                    config.opt_start_seq = known.opt_start_seq;
                    config.opt_start_time = known.opt_start_time;
                }
                None => self.begin(&mut config, info, done)?,
            }
            match js.create_consumer(stream, &config).await {
                Ok(consumer) => return Ok(consumer),
                Err(error)
                    if again && matches!(error.api_code(), Some(codes::CONSUMER_CONFIG | codes::CONSUMER_EXISTS)) =>
                {
                    again = false;
                }
                Err(error) => return Err(self.refused(&error).unwrap_or_else(|| fault(error))),
            }
        }
    }

    /// Where a consumer that is created now begins.
    fn begin(&self, config: &mut ConsumerConfig, info: &StreamInfo, done: Option<u64>) -> Result {
        if let Some(done) = done {
            tracing::warn!(
                stream = self.read.stream,
                "the consumer {} is gone and is made again behind {done}: what others had done beyond that is done again",
                self.consumer
            );
        }
        // A work queue holds nothing but what is not done, and takes no other beginning.
        if info.config.retention == Retention::WorkQueue {
            return Ok(());
        }
        match (done, &self.read.start) {
            (Some(done), _) => {
                config.deliver_policy = DeliverPolicy::ByStartSequence;
                config.opt_start_seq = done + 1;
            }
            (None, Start::Earliest) => {}
            (None, Start::Latest) => config.deliver_policy = DeliverPolicy::New,
            (None, Start::Sequence(sequence)) => {
                if *sequence > info.state.last_seq + 1 {
                    return Err(beyond(&self.read.stream, *sequence, info.state.last_seq));
                }
                config.deliver_policy = DeliverPolicy::ByStartSequence;
                config.opt_start_seq = (*sequence).max(1);
            }
            (None, Start::Time(time)) => {
                config.deliver_policy = DeliverPolicy::ByStartTime;
                config.opt_start_time = Some(time.to_string());
            }
        }
        Ok(())
    }

    fn shared_config(&self, share: &Share) -> ConsumerConfig {
        ConsumerConfig {
            ack_policy: AckPolicy::Explicit,
            filter_subjects: self.read.subjects.clone(),
            ack_wait: nanos(share.ack_wait),
            max_ack_pending: i64::from(self.read.max_ack_pending),
            max_deliver: share.max_deliver.map_or(-1, i64::from),
            backoff: share.backoff.iter().copied().map(nanos).collect(),
            ..ConsumerConfig::durable(&self.consumer)
        }
    }

    fn is_not_shared(&self) -> Fault {
        let words = format!(
            "the consumer {} of stream {} belongs to one process: this pipeline has run without sharing it; start under a new pipeline name, or delete the consumer to read all again",
            self.consumer, self.read.stream
        );
        Fault::new(FaultKind::Setup, words)
    }

    /// What a refusal means that is nobody's mistake but the user's.
    fn refused(&self, error: &BrokerError) -> Option<Fault> {
        let (stream, consumer) = (&self.read.stream, &self.consumer);
        let words = match error.api_code()? {
            codes::WORKQUEUE_OVERLAP | codes::WORKQUEUE_NOT_UNIQUE => format!(
                "another consumer of the work queue {stream} reads subjects that {consumer} would read too: a message of a work queue goes to one consumer; correct `subjects`, or delete the other consumer"
            ),
            codes::CONSUMER_CONFIG | codes::CONSUMER_EXISTS => {
                format!("stream {stream} refuses the consumer {consumer} with these settings: {error}")
            }
            _ => return None,
        };
        Some(Fault::new(FaultKind::Setup, words))
    }
}
