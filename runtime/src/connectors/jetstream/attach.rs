//! [`Reader`]: how a source finds its stream and sets its consumer: the part of its protocol before the first delivery.

use std::sync::Arc;
use std::time::Duration;

use millstream_operators::bugs::{Bug, planted};
use millstream_operators::{Fault, FaultKind, Result};
use millstream_pipelines::graph::Subtask;

use super::jumps::Jumps;
use super::position::{Gap, JetStreamPosition, Start};
use super::pull::{HEARTBEAT, Pull, nanos};
use super::read::JetStreamRead;
use crate::broker::{
    AckPolicy, BrokerError, Connection, ConsumerConfig, DeliverPolicy, Js, Retention, StreamInfo, codes,
};
use crate::connectors::{Connections, Purpose, fault};

// Long enough that no checkpoint ever takes so long: a redelivery by time-out would only be dropped as a repeat.
const ACK_WAIT: Duration = Duration::from_secs(3600);
// What a pull asks for; the next is sent when half of it is there.
const PULL: u64 = 5_000;

/// What a source reads, by which consumer and over which connections.
pub(super) struct Reader {
    pub(super) read: JetStreamRead,
    pub(super) consumer: String,
    pub(super) connections: Arc<Connections>,
}

/// A consumer that is set to a position, and an inbox for what it delivers from there.
pub(super) struct Attached {
    pub(super) pull: Pull,
    /// What is gone behind the position, and may be skipped: it is set behind that.
    pub(super) gap: Option<Gap>,
    /// The sequence behind which it is set, which may be before the position.
    pub(super) behind: u64,
    /// What it means that deliveries leave out sequences.
    pub(super) jumps: Jumps,
}

impl Reader {
    /// The reader of the node of `subtask`.
    pub(super) fn new(subtask: &Subtask, read: JetStreamRead) -> Result<Self> {
        if subtask.of != 1 {
            let words =
                format!("it has {} subtasks, and a stream is read by one: set its parallelism to 1", subtask.of);
            return Err(Fault::new(FaultKind::Setup, words));
        }
        let connections = Connections::of(subtask)?;
        Ok(Reader { read, consumer: consumer_name(&subtask.pipeline, &subtask.node), connections })
    }

    /// The connection that acknowledgements go over, so that they never queue behind bulk data.
    pub(super) async fn control(&self) -> Result<Connection> {
        self.connections.get(Purpose::Control).await
    }

    /// As [`control`](Self::control); none while there is no way to a server, for what can be said later as well.
    pub(super) async fn control_now(&self) -> Result<Option<Connection>> {
        match self.control().await {
            Ok(connection) => Ok(Some(connection)),
            Err(fault) if fault.kind() == FaultKind::Connection => {
                tracing::warn!(stream = self.read.stream, "acknowledgements have to wait: {}", fault.chain());
                Ok(None)
            }
            Err(fault) => Err(fault),
        }
    }

    pub(super) async fn stream(&self, js: &Js, known: bool) -> Result<StreamInfo> {
        let found = js.find_stream(&self.read.stream).await.map_err(fault)?;
        found.ok_or_else(|| self.no_stream(known))
    }

    /// There is no such stream; where it was `known` before, it took unread messages with it.
    pub(super) fn no_stream(&self, known: bool) -> Fault {
        let stream = &self.read.stream;
        match known {
            true => {
                Fault::new(FaultKind::SourceLost, format!("stream {stream} is gone, and what was not read yet with it"))
            }
            false => {
                Fault::new(FaultKind::Setup, format!("there is no stream {stream}: create it, or correct `stream`"))
            }
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
                    return Err(beyond(&self.read.stream, *sequence, info.state.last_seq));
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

    /// The position, but where it is planted to trust the consumer instead.
    pub(super) async fn misled(&self, js: &Js, from: JetStreamPosition) -> JetStreamPosition {
        if planted(Bug::PositionFromFloor)
            && let Ok(consumer) = js.consumer(&self.read.stream, &self.consumer).await
        {
            return JetStreamPosition { sequence: consumer.ack_floor.stream_seq, ..from };
        }
        from
    }

    /// Sets the consumer right behind `position` and opens an inbox for what it delivers. An interest stream lets go of
    /// what its consumer is set behind; so there it is set behind `durable`, up to which a checkpoint covers everything,
    /// and the source drops what it has read already.
    ///
    /// # Errors
    /// The stream no longer holds what follows, or a request failed: then it may be tried again.
    pub(super) async fn attach(self: Arc<Self>, position: JetStreamPosition, durable: u64) -> Result<Attached> {
        let js = self.connections.js(Purpose::Read).await?;
        let info = self.stream(&js, true).await?;
        let gap = position.validate(&info, self.read.on_gap)?;
        let sequence = gap.as_ref().map_or(position.sequence, |gap| gap.to);
        let generation = js.connection().generation();
        let behind = if is_interest(&info) { durable.min(sequence) } else { sequence };
        self.reset(&js, &info, behind + 1).await?;
        let pull = Pull::open(js, &self.read.stream, &self.consumer, PULL, generation).await?;
        Ok(Attached { pull, gap, behind, jumps: Jumps::of(&info.config, !self.read.subjects.is_empty()) })
    }

    /// Refuses a stream that one reader with a position cannot read.
    pub(super) fn check_retention(&self, info: &StreamInfo) -> Result {
        match info.config.retention {
            Retention::WorkQueue => Err(self.is_work_queue()),
            Retention::Limits | Retention::Interest => Ok(()),
        }
    }

    fn is_work_queue(&self) -> Fault {
        let stream = &self.read.stream;
        let words = format!(
            "stream {stream} is a work queue, which wants every message acknowledged by itself and keeps none for a second reading: share it (`share = true`, or `.shared()` in Rust), without order and state; or create a stream of limits retention that sources {stream}, and read that one"
        );
        Fault::new(FaultKind::Setup, words)
    }

    /// Makes the interest of a pipeline that starts for the first time known to its stream, which keeps nothing for it
    /// before.
    pub(super) async fn show_interest(&self, js: &Js, info: StreamInfo) -> Result<StreamInfo> {
        if !is_interest(&info) {
            return Ok(info);
        }
        self.create(js, &info).await?;
        self.stream(js, false).await
    }

    /// Creates the consumer if there is none.
    async fn create(&self, js: &Js, info: &StreamInfo) -> Result {
        let stream = &self.read.stream;
        let config = self.consumer_config();
        let created = match js.create_consumer(stream, &config).await {
            // It exists and differs in what cannot be changed; our position is not in it, so it may go.
            Err(error) if matches!(error.api_code(), Some(codes::CONSUMER_CONFIG | codes::CONSUMER_EXISTS)) => {
                self.check_is_ours(js).await?;
                self.check_may_go(info)?;
                js.delete_consumer(stream, &self.consumer).await.map_err(fault)?;
                js.create_consumer(stream, &config).await
            }
            other => other,
        };
        created.map(drop).map_err(|error| match error.api_code() {
            Some(codes::WORKQUEUE_NEEDS_EXPLICIT_ACK) => self.is_work_queue(),
            _ => fault(error),
        })
    }

    /// Creates the consumer if there is none, and sets it to `next`.
    async fn reset(&self, js: &Js, info: &StreamInfo, next: u64) -> Result {
        self.create(js, info).await?;
        let stream = &self.read.stream;
        match js.reset_consumer(stream, &self.consumer, Some(next)).await {
            Ok(_) => Ok(()),
            // Before 2.14 there is no reset: a new consumer that begins there.
            Err(BrokerError::NoResponders { .. } | BrokerError::Timeout { .. }) if self.is_old(js).await? => {
                self.check_may_go(info)?;
                js.delete_consumer(stream, &self.consumer).await.map_err(fault)?;
                let deliver_policy = DeliverPolicy::ByStartSequence;
                let config = ConsumerConfig { deliver_policy, opt_start_seq: next, ..self.consumer_config() };
                js.create_consumer(stream, &config).await.map(drop).map_err(fault)
            }
            Err(error) => Err(fault(error)),
        }
    }

    /// Refuses to delete a consumer that is all that an interest stream keeps its messages for.
    fn check_may_go(&self, info: &StreamInfo) -> Result {
        if !is_interest(info) {
            return Ok(());
        }
        let (stream, consumer) = (&self.read.stream, &self.consumer);
        let words = format!(
            "the consumer {consumer} cannot be set anew without being deleted, and {stream} is an interest stream, which would let go of what was not read yet: start under a new pipeline name, or delete the consumer by hand when nothing waits; with nats-server 2.14 and up it is only needed where its settings cannot be changed"
        );
        Err(Fault::new(FaultKind::Setup, words))
    }

    /// A consumer that processes share knows what they have done, and nothing else does.
    async fn check_is_ours(&self, js: &Js) -> Result {
        let known = js.consumer(&self.read.stream, &self.consumer).await.map_err(fault)?;
        if known.config.ack_policy != AckPolicy::Explicit {
            return Ok(());
        }
        let words = format!(
            "the consumer {} of stream {} is shared by the processes of this pipeline, and this one would not share: share here too, start under a new pipeline name, or delete the consumer, which forgets what they have done",
            self.consumer, self.read.stream
        );
        Err(Fault::new(FaultKind::Setup, words))
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

/// Whether a stream keeps only what its consumers have not acknowledged.
pub(super) fn is_interest(info: &StreamInfo) -> bool {
    info.config.retention == Retention::Interest
}

/// A start at a sequence that the stream has not reached.
pub(super) fn beyond(stream: &str, sequence: u64, last: u64) -> Fault {
    let words = format!(
        "start is sequence {sequence}, but stream {stream} ends at {last}: begin at {} for what comes next, or before it",
        last + 1
    );
    Fault::new(FaultKind::Setup, words)
}

/// The durable consumer of a source. Pipeline and node names hold no dots or spaces.
pub(crate) fn consumer_name(pipeline: &str, node: &str) -> String {
    format!("mill-{pipeline}-{node}")
}

/// Where the server says that a consumer has given up on a message, which was delivered as often as it may be.
pub(crate) fn advisories_of(stream: &str, consumer: &str) -> String {
    format!("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stream}.{consumer}")
}
