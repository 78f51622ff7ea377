//! [`JetStreamSource`]: a stream's messages, each at least once, in order.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_operators::{Batch, Fault, FaultKind, Origin, Origins, Place, Result, Retry, Source, Timestamp};
use serde_json::json;
use tokio::time::Instant;

use super::attach::{consumer_name, lint, nanos};
use super::delivery::Delivery;
use super::position::{JetStreamPosition, OnGap, Start};
use super::status::{Status, status_of};
use crate::broker::{BrokerError, Incoming, Js, LinkState, Outgoing, Subject, Subscription};
use crate::connectors::{Connections, Purpose, fault};
use crate::engine::Nudge;

/// What a source reads, and how.
#[derive(Clone, Debug)]
pub struct JetStreamRead {
    /// The stream.
    pub stream: String,
    /// Which of its subjects; none for all.
    pub subjects: Vec<String>,
    /// Where to begin when there is no checkpoint.
    pub start: Start,
    /// What happens when messages are gone that were not read yet.
    pub on_gap: OnGap,
    /// How many messages may be delivered and not yet part of a checkpoint.
    pub max_ack_pending: u32,
}

impl JetStreamRead {
    /// All subjects of a stream, from its first message.
    pub fn of(stream: impl Into<String>) -> Self {
        JetStreamRead {
            stream: stream.into(),
            subjects: Vec::new(),
            start: Start::default(),
            on_gap: OnGap::default(),
            max_ack_pending: 100_000,
        }
    }
}

// A pull asks for so many messages or bytes; the next is sent when half of them are there.
const PULL: u64 = 5_000;
const PULL_BYTES: usize = 8 << 20;
const PULL_EXPIRES: Duration = Duration::from_secs(30);
pub(super) const HEARTBEAT: Duration = Duration::from_secs(5);
const SILENT: Duration = Duration::from_secs(15);
const LOOK_AGAIN: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A source that reads a stream through one durable pull consumer.
///
/// Its protocol: the position comes from the checkpoint and the consumer is reset to it; every delivery must be the
/// consumer's next one, or the consumer is reset and read again; what was read already is dropped; the acknowledgement
/// of a position follows its checkpoint and is confirmed. Input that is gone is a fault, never skipped in silence.
pub struct JetStreamSource {
    pub(super) read: JetStreamRead,
    pub(super) consumer: String,
    connections: Arc<Connections>,
    nudge: Option<Arc<Nudge>>,
    place: Arc<Place>,
    pub(super) position: JetStreamPosition,
    attached: Option<Attached>,
    attachments: u64,
    heard: Vec<Incoming>,
    // Deliveries of this attachment that are part of a checkpoint.
    acked: u64,
    nudged: bool,
    lag: Option<u64>,
    contiguous: bool,
    look_at: Instant,
    pause: Duration,
}

/// An attachment to the consumer: what ends with a reset.
struct Attached {
    js: Js,
    subscription: Subscription,
    inbox: String,
    link: tokio::sync::watch::Receiver<LinkState>,
    generation: u64,
    // The number that the next delivery must have.
    expected: u64,
    // Messages that were asked for and have not come.
    asked: u64,
    heard_at: Instant,
}

/// Messages as a batch, if there are any.
type Rows = Option<Batch<Vec<Bytes>>>;

/// Why reading must begin again at the last position.
#[derive(Debug)]
enum Again {
    /// Deliveries are missing between two that came.
    Gap { expected: u64, got: u64 },
    /// The link was made anew: what was on its way is lost.
    Link,
    /// Neither message nor heartbeat came.
    Silence,
    /// The server ended the pull.
    Ended(String),
}

impl JetStreamSource {
    /// A source of the node `node` of `pipeline`; `nudge` asks for early checkpoints.
    pub fn new(
        pipeline: &str,
        node: &str,
        read: JetStreamRead,
        connections: Arc<Connections>,
        nudge: Option<Arc<Nudge>>,
    ) -> Self {
        let place = Arc::new(Place { node: node.into(), stream: read.stream.clone() });
        JetStreamSource {
            consumer: consumer_name(pipeline, node),
            position: JetStreamPosition { stream: read.stream.clone(), ..JetStreamPosition::default() },
            read,
            connections,
            nudge,
            place,
            attached: None,
            attachments: 0,
            heard: Vec::new(),
            acked: 0,
            nudged: false,
            lag: None,
            contiguous: false,
            look_at: Instant::now(),
            pause: FIRST_PAUSE,
        }
    }

    async fn attach(&mut self) -> Result {
        self.attached = None;
        self.heard.clear();
        let js = self.connections.js(Purpose::Read).await?;
        let info = self.stream(&js, true).await?;
        if let Some(behind) = self.position.validate(&info, self.read.on_gap)? {
            self.position.sequence = behind;
        }
        self.contiguous = self.is_contiguous(&info);
        let connection = js.connection().clone();
        let (link, generation) = (connection.link(), connection.generation());
        self.reset(&js).await?;
        let inbox = connection.new_inbox();
        let capacity = usize::try_from(PULL * 4).unwrap_or(usize::MAX);
        let subscription = connection.subscribe(inbox.clone(), capacity).await.map_err(fault)?;
        self.attachments += 1;
        self.acked = 0;
        self.nudged = false;
        self.look_at = Instant::now() + LOOK_AGAIN;
        self.attached = Some(Attached {
            js,
            subscription,
            inbox,
            link,
            generation,
            expected: 1,
            asked: 0,
            heard_at: Instant::now(),
        });
        Ok(())
    }

    /// Asks for more when half of what was asked for has come.
    async fn pull(&mut self) -> Result {
        let Some(attached) = &mut self.attached else { return Ok(()) };
        if attached.asked > PULL / 2 {
            return Ok(());
        }
        let bytes = PULL_BYTES.max(attached.js.connection().max_payload() * 2);
        let body = json!({
            "batch": PULL, "max_bytes": bytes, "expires": nanos(PULL_EXPIRES), "idle_heartbeat": nanos(HEARTBEAT),
        });
        let subject = attached.js.next_subject(&self.read.stream, &self.consumer);
        let request = Outgoing::new(subject, body.to_string()).reply_to(Subject::from(attached.inbox.clone()));
        attached.js.connection().publish(request).await.map_err(fault)?;
        attached.asked += PULL;
        Ok(())
    }

    /// Waits for messages; they are in `heard` then. Cancel-safe.
    async fn hear(&mut self, max: usize) -> Result<Option<Again>> {
        let Some(attached) = &mut self.attached else { return Ok(None) };
        if attached.js.connection().generation() != attached.generation {
            return Ok(Some(Again::Link));
        }
        let silent_at = attached.heard_at + SILENT;
        tokio::select! {
            biased;
            heard = attached.subscription.next_many(&mut self.heard, max) => {
                attached.heard_at = Instant::now();
                let closed = || Again::Ended("the connection is closed".into());
                return Ok((heard == 0).then(closed));
            }
            _ = attached.link.wait_for(|link| link.generation != attached.generation) => return Ok(Some(Again::Link)),
            () = tokio::time::sleep_until(silent_at) => return Ok(Some(Again::Silence)),
            () = tokio::time::sleep_until(self.look_at) => {}
        }
        self.look_at = Instant::now() + LOOK_AGAIN;
        self.look().await.map(|()| None)
    }

    /// Looks whether the stream throws away what was not read yet; moves the position of an idle source forward, so that
    /// messages of other subjects that expire are not taken for a loss.
    async fn look(&mut self) -> Result {
        let Some(attached) = &self.attached else { return Ok(()) };
        let js = attached.js.clone();
        let info = match js.find_stream(&self.read.stream).await {
            Ok(Some(info)) => info,
            Ok(None) => return self.stream(&js, true).await.map(drop),
            Err(error) if error.may_pass() => return Ok(()),
            Err(error) => return Err(fault(error)),
        };
        let Ok(consumer) = js.consumer(&self.read.stream, &self.consumer).await else { return Ok(()) };
        let attached_all = self.attached.as_ref().is_some_and(|a| consumer.delivered.consumer_seq + 1 == a.expected);
        if consumer.num_pending == 0 && attached_all && self.heard.is_empty() {
            self.position.sequence = self.position.sequence.max(info.state.last_seq);
        } else if let Some(behind) = self.position.validate(&info, self.read.on_gap)? {
            self.position.sequence = behind;
        }
        Ok(())
    }

    /// What was heard as rows, up to the first thing that is not as expected.
    fn rows(&mut self) -> Result<(Rows, Option<Again>)> {
        let Some(attached) = &mut self.attached else { return Ok((None, None)) };
        let capacity = self.heard.len();
        let (mut times, mut rows) = (Vec::with_capacity(capacity), Vec::with_capacity(capacity));
        let mut messages = Vec::with_capacity(capacity);
        let (mut weight, mut again, mut last_reply) = (0, None, None);
        for message in self.heard.drain(..) {
            if let Some(status) = message.status {
                match status_of(status, &message, PULL) {
                    Status::Heartbeat => {}
                    Status::PullOver(left) => attached.asked = attached.asked.saturating_sub(left),
                    Status::Ended(why) => {
                        again = Some(Again::Ended(why));
                        break;
                    }
                    Status::Wrong(why) => return Err(Fault::new(FaultKind::Setup, why)),
                }
                continue;
            }
            let Some((reply, delivery)) = message.reply.and_then(|reply| Delivery::parse(&reply).map(|d| (reply, d)))
            else {
                continue;
            };
            attached.asked = attached.asked.saturating_sub(1);
            if delivery.consumer_seq != attached.expected {
                again = Some(Again::Gap { expected: attached.expected, got: delivery.consumer_seq });
                break;
            }
            attached.expected += 1;
            last_reply = Some(reply);
            self.lag = Some(delivery.pending);
            if delivery.stream_seq <= self.position.sequence {
                continue;
            }
            if self.contiguous && delivery.stream_seq != self.position.sequence + 1 {
                let (from, to) = (self.position.sequence + 1, delivery.stream_seq - 1);
                let words = format!(
                    "stream {} went on at {} where {from} was next: the messages {from} to {to} are gone and were not read",
                    self.read.stream, delivery.stream_seq
                );
                if self.read.on_gap == OnGap::Fail {
                    return Err(Fault::new(FaultKind::SourceLost, words).retry_with(Retry::Never));
                }
                tracing::warn!("{words}; going on, as on_gap says");
            }
            self.position.sequence = delivery.stream_seq;
            let stored_at = Timestamp::from_micros(delivery.stored_at / 1000);
            weight += message.wire_len;
            times.push(stored_at);
            rows.push(message.payload.clone());
            messages.push(Origin {
                sequence: delivery.stream_seq,
                stored_at,
                headers: message.headers,
                payload: message.payload,
                subject_bytes: Bytes::copy_from_slice(message.subject.as_bytes()),
            });
        }
        if let Some(reply) = last_reply {
            self.position.ack = Some((self.attachments, reply.as_str().to_owned()));
        }
        if rows.is_empty() {
            return Ok((None, again));
        }
        self.pause = FIRST_PAUSE;
        let batch = Batch::new(times, rows)?.weighing(weight);
        Ok((Some(batch.with_origins(Origins::one_each(Arc::clone(&self.place), messages))?), again))
    }

    /// Asks for a checkpoint when half of what may be in flight is.
    fn nudge(&mut self) {
        let Some(attached) = &self.attached else { return };
        let in_flight = (attached.expected - 1).saturating_sub(self.acked);
        if !self.nudged && in_flight > u64::from(self.read.max_ack_pending) / 2 {
            self.nudged = true;
            if let Some(nudge) = &self.nudge {
                nudge.checkpoint();
            }
        }
    }

    fn detach(&mut self, why: &Again) {
        let stream = &self.read.stream;
        match why {
            Again::Gap { expected, got } => {
                tracing::info!(
                    stream,
                    "delivery {expected} was expected and {got} came: reading again from the last position"
                );
            }
            Again::Link => tracing::info!(stream, "the connection was made anew: reading again from the last position"),
            Again::Silence => tracing::warn!(
                stream,
                "nothing was heard from the server for {SILENT:?}: reading again from the last position"
            ),
            Again::Ended(why) => {
                tracing::info!(stream, "the server ended the pull ({why}): reading again from the last position");
            }
        }
        self.attached = None;
        // An acknowledgement of an earlier attachment means nothing to the next.
        self.position.ack = None;
    }
}

impl Source for JetStreamSource {
    type Out = Vec<Bytes>;
    type Position = JetStreamPosition;

    async fn open(&mut self, from: Option<JetStreamPosition>) -> Result {
        let js = self.connections.js(Purpose::Read).await?;
        let info = self.stream(&js, from.is_some()).await?;
        match from {
            Some(from) => {
                let behind = from.validate(&info, self.read.on_gap)?;
                let sequence = behind.unwrap_or(from.sequence);
                self.position = JetStreamPosition { sequence, ack: None, ..from };
            }
            None => {
                let sequence = self.first_position(&js, &info).await?;
                let (stream, created) = (self.read.stream.clone(), info.created.clone());
                self.position = JetStreamPosition { stream, created, sequence, ack: None };
            }
        }
        lint(&info);
        self.attached = None;
        Ok(())
    }

    async fn next(&mut self, max_rows: usize) -> Result<Option<Batch<Vec<Bytes>>>> {
        loop {
            if self.attached.is_none() {
                match self.attach().await {
                    Ok(()) => {}
                    Err(fault) if fault.kind() == FaultKind::Connection => {
                        tracing::warn!(
                            stream = self.read.stream,
                            "cannot read yet, trying again in {:?}: {}",
                            self.pause,
                            fault.chain()
                        );
                        tokio::time::sleep(self.pause).await;
                        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                        continue;
                    }
                    Err(fault) => return Err(fault),
                }
            }
            self.pull().await?;
            let mut again = self.hear(max_rows).await?;
            let (rows, wrong) = self.rows()?;
            again = wrong.or(again);
            self.nudge();
            if let Some(why) = again {
                self.detach(&why);
            }
            if rows.is_some() {
                return Ok(rows);
            }
        }
    }

    fn position(&self) -> JetStreamPosition {
        self.position.clone()
    }

    async fn commit(&mut self, upto: JetStreamPosition) -> Result {
        let Some((attachment, reply)) = upto.ack else { return Ok(()) };
        if attachment != self.attachments || self.attached.is_none() {
            return Ok(());
        }
        let acked = Delivery::parse(&reply).map_or(0, |delivery| delivery.consumer_seq);
        if acked <= self.acked {
            return Ok(());
        }
        let connection = self.connections.get(Purpose::Control).await?;
        let confirmed = connection.request(reply, millstream_operators::Headers::NONE, "+ACK", HEARTBEAT).await;
        match confirmed {
            Ok(_) => {
                self.acked = acked;
                self.nudged = false;
            }
            Err(error @ BrokerError::Permission { .. }) => return Err(fault(error)),
            // The next one covers it: acks are for people and for the server's limit, positions are in the checkpoint.
            Err(error) => tracing::debug!(stream = self.read.stream, "an acknowledgement was not confirmed: {error}"),
        }
        Ok(())
    }

    fn lag(&self) -> Option<u64> {
        self.lag
    }
}

impl std::fmt::Debug for JetStreamSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JetStreamSource({} of {}, at {})", self.consumer, self.read.stream, self.position.sequence)
    }
}
