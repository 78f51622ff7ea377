//! [`JetStreamSink`]: records into a stream, every one confirmed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_operators::bugs::{Bug, planted};
use millstream_operators::{Batch, Epoch, Fault, FaultKind, Record, Result, Sink, SizeLimit};
use tokio::time::Instant;

use super::ingest::Ingest;
use super::messages::Messages;
use super::stream::find_or_create;
use super::window::Window;
use crate::broker::{Connection, Incoming, LinkState, Outgoing, Subscription};
use crate::connectors::{Connections, Purpose, fault};
use crate::engine::NodeMetrics;

/// What a sink writes to, and how.
#[derive(Clone, Debug)]
pub struct JetStreamWrite {
    /// The stream that must take the records.
    pub stream: String,
    /// Creates the stream with these subjects if there is none.
    pub create: Option<Vec<String>>,
    /// What the stream must take, if that is to be looked at: with `create`, a stream that does not gets those subjects.
    pub needs: Vec<String>,
    /// Adds a `Nats-Msg-Id` made of each record's origin and of what it says, so that the stream drops repeats within its
    /// duplicate window. It costs the server 3 to 4 microseconds a message. Records without an origin that is known again
    /// after a restart get none, and that is logged once.
    pub dedup: bool,
    /// Writes a message that is larger than the server takes without its payload, and says in the header `Mill-Dlq-Ref`
    /// in which stream and at which sequence the whole of it stands: for dead letters, whose headers come on top. Headers
    /// that are too many are shortened, and named in `Mill-Dlq-Truncated`.
    pub by_reference: bool,
    /// How many copies a stream has that is created.
    pub replicas: usize,
    /// What is published, as far as it is known, for a word of warning where the stream takes none of it.
    pub publishes: Vec<String>,
}

impl JetStreamWrite {
    /// Records into this stream, which exists.
    pub fn to(stream: impl Into<String>) -> Self {
        JetStreamWrite {
            stream: stream.into(),
            create: None,
            needs: Vec::new(),
            dedup: false,
            by_reference: false,
            replicas: 1,
            publishes: Vec::new(),
        }
    }
}

const ACK_TIMEOUT: Duration = Duration::from_secs(5);
// A batch of fast ingest that gets no more messages is ended after this: its last messages are confirmed by its end alone,
// and the server forgets it after ten seconds.
const LINGER: Duration = Duration::from_millis(250);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A sink that publishes ahead, within a bounded window, and accounts for every message.
///
/// It uses fast ingest where the server and the stream allow it, and group replies elsewhere. After an error, a time-out or
/// a new link it sends everything unconfirmed again, in order. While the stream is full, missing or away it waits and says
/// so: what is upstream waits with it, and nothing is dropped.
pub struct JetStreamSink {
    messages: Messages,
    connections: Arc<Connections>,
    open: Option<Open>,
    window: Window,
    trouble: Option<Trouble>,
    pause: Duration,
    node: Option<Arc<NodeMetrics>>,
    // Whether the node was told to be stalled.
    stalled: bool,
    limit: SizeLimit,
}

struct Open {
    connection: Connection,
    answers: Subscription,
    link: tokio::sync::watch::Receiver<LinkState>,
    // The link that all in flight went over.
    generation: u64,
    ingest: Ingest,
    heard: Vec<Incoming>,
    // When an answer that is due was last waited for anew, and when a message was last sent.
    due_since: Instant,
    sent_at: Instant,
}

/// Why everything unconfirmed must be sent again, and when.
#[derive(Debug)]
struct Trouble {
    why: String,
    at: Instant,
}

/// What a step waits for, and so when a batch of fast ingest is ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Nothing: more may come at any time.
    More,
    /// Room in the window.
    Room,
    /// Everything is confirmed.
    Confirmed,
}

/// Why a step goes on.
enum Woken {
    Answers(usize),
    NewLink,
    Late,
    Idle,
}

impl JetStreamSink {
    /// A sink that message ids call `name`: no two that write to one stream may have the same, and none may change its own.
    pub fn new(name: &str, write: JetStreamWrite, connections: Arc<Connections>) -> Self {
        JetStreamSink {
            messages: Messages::of(name, write),
            connections,
            open: None,
            window: Window::default(),
            trouble: None,
            pause: FIRST_PAUSE,
            node: None,
            stalled: false,
            limit: SizeLimit::default(),
        }
    }

    /// The same sink, which says there what the server takes.
    #[must_use]
    pub fn telling(mut self, limit: SizeLimit) -> Self {
        self.limit = limit;
        self
    }

    /// The same sink, which says there why it waits for its peer.
    #[must_use]
    pub fn reporting(mut self, node: Option<Arc<NodeMetrics>>) -> Self {
        self.node = node;
        self
    }

    /// Sends what waits and may be sent; whether anything was. Cancel-safe: a message counts as sent when it was.
    async fn send(&mut self) -> Result<bool> {
        if self.trouble.is_some() || !self.is_same_link()? {
            return Ok(false);
        }
        let Some(open) = &mut self.open else { return Ok(false) };
        if self.window.unsent().is_none() || !open.ingest.may_send() {
            return Ok(false);
        }
        open.sent_at = Instant::now();
        if !open.ingest.expects() {
            open.due_since = open.sent_at;
        }
        let (mut sent, flow) = (0_u32, self.window.half());
        while open.ingest.may_send()
            && let Some((number, message)) = self.window.unsent()
        {
            let message = message.outgoing(open.ingest.reply(number, flow)?);
            open.connection.publish(message).await.map_err(fault)?;
            self.window.sent_one();
            open.ingest.sent(number);
            sent += 1;
            // The embedded broker answers at once; whoever reads the answers must get a turn.
            if sent.is_multiple_of(256) && open.connection.is_embedded() {
                tokio::task::yield_now().await;
            }
        }
        open.sent_at = Instant::now();
        Ok(true)
    }

    /// Whether the link is still the one that everything in flight went over. If not, and anything is, that is a trouble.
    fn is_same_link(&mut self) -> Result<bool> {
        let open = self.open.as_mut().ok_or_else(|| Fault::bug("a JetStream sink was not opened"))?;
        if open.connection.generation() == open.generation {
            return Ok(true);
        }
        if self.window.in_flight() == 0 {
            open.generation = open.connection.generation();
            open.ingest.forget();
            return Ok(true);
        }
        self.doubt("the connection was made anew".into(), None);
        Ok(false)
    }

    /// Ends the batch of fast ingest, if one is open: its answer confirms what no other does. Cancel-safe.
    async fn end_batch(&mut self) -> Result {
        let Some(open) = &mut self.open else { return Ok(()) };
        let subject = self.window.last_sent().map(|message| message.subject.clone());
        // Without a message in flight any subject of the stream will do.
        let Some(subject) = subject.or_else(|| self.messages.last_subject()) else {
            return Ok(());
        };
        if let Some(reply) = open.ingest.end()? {
            open.connection.publish(Outgoing::new(subject, Bytes::new()).reply_to(reply)).await.map_err(fault)?;
            open.ingest.ended();
            open.due_since = Instant::now();
        }
        Ok(())
    }

    /// Sends, waits for an answer, or sends again what must be. Cancel-safe.
    async fn step(&mut self, until: Until) -> Result {
        if self.trouble.is_some() {
            return self.wait_and_begin_again().await;
        }
        if self.send().await? || self.trouble.is_some() {
            return Ok(());
        }
        let Some(open) = &self.open else { return Ok(()) };
        let (expects, is_open) = (open.ingest.expects(), open.ingest.is_open());
        if is_open && (until == Until::Confirmed || (until == Until::Room && !expects)) {
            self.end_batch().await?;
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        let (expects, may_end) = (open.ingest.expects(), open.ingest.is_open() && until == Until::More);
        let (late, idle) = (open.due_since + ACK_TIMEOUT, open.sent_at + LINGER);
        let woken = tokio::select! {
            biased;
            heard = open.answers.next_many(&mut open.heard, 4_096) => Woken::Answers(heard),
            _ = open.link.wait_for(|link| link.generation > open.generation) => Woken::NewLink,
            () = tokio::time::sleep_until(late), if expects => Woken::Late,
            () = tokio::time::sleep_until(idle), if may_end => Woken::Idle,
        };
        match woken {
            Woken::Answers(heard) => self.account(heard),
            Woken::NewLink => self.is_same_link().map(drop),
            Woken::Late => self.is_late(),
            Woken::Idle => self.end_batch().await,
        }
    }

    /// Goes through the answers that were heard.
    fn account(&mut self, heard: usize) -> Result {
        if heard == 0 {
            return Err(Fault::new(FaultKind::Connection, "the connection is closed"));
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        // What a batch's words say is true only if none was lost with a link.
        if open.connection.generation() != open.generation {
            open.heard.clear();
            return self.is_same_link().map(drop);
        }
        let was_fast = open.ingest.is_fast();
        let (mut moved, mut doubt) = (false, None);
        for answer in open.heard.drain(..) {
            let told = open.ingest.hear(&answer)?;
            moved |= told.moved;
            if let Some(upto) = told.upto
                && self.window.confirm(upto)
            {
                self.pause = FIRST_PAUSE;
                if std::mem::take(&mut self.stalled)
                    && let Some(node) = &self.node
                {
                    node.stalled(None);
                }
            }
            doubt = doubt.or(told.doubt);
        }
        if moved {
            open.due_since = Instant::now();
        }
        if was_fast && !open.ingest.is_fast() {
            tracing::info!(
                stream = self.messages.write().stream,
                "fast ingest is not allowed any more: going on by group replies"
            );
        }
        if let Some((why, at)) = doubt {
            if planted(Bug::DropDeadLetters) && self.messages.write().by_reference {
                self.window.confirm(at.unwrap_or(u64::MAX));
            }
            self.doubt(why, at);
        }
        Ok(())
    }

    fn is_late(&mut self) -> Result {
        let first = self.window.first().zip(self.open.as_ref());
        match first.and_then(|(first, open)| open.connection.denied(&first.subject)) {
            Some(denied) => return Err(fault(denied)),
            None => self.doubt(format!("no acknowledgement came within {ACK_TIMEOUT:?}"), None),
        }
        Ok(())
    }

    /// What is in flight may not arrive; `at` is the first message of which that is known.
    fn doubt(&mut self, why: String, at: Option<u64>) {
        if self.trouble.is_some() {
            return;
        }
        if self.window.in_flight() == 0 {
            // There is nothing to send again; what comes shall not count on what was before.
            if let Some(open) = &mut self.open {
                open.ingest.forget();
            }
            return;
        }
        let subject = at.and_then(|at| self.window.get(at)).or(self.window.first());
        tracing::warn!(
            stream = self.messages.write().stream,
            subject = subject.map(|message| message.subject.as_str()),
            "the output waits, {} messages will be sent again in {:?}: {why}",
            self.window.in_flight(),
            self.pause
        );
        if let Some(node) = &self.node {
            node.stalled(Some(why.clone()));
            self.stalled = true;
        }
        self.trouble = Some(Trouble { why, at: Instant::now() + self.pause });
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// Waits until it is time to send again, and still takes answers: what they confirm need not be sent twice.
    async fn wait_and_begin_again(&mut self) -> Result {
        let (Some(open), Some(trouble)) = (&mut self.open, &self.trouble) else { return Ok(()) };
        let (at, latest) = (trouble.at, trouble.at + LONGEST_PAUSE);
        let heard = tokio::select! {
            biased;
            heard = open.answers.next_many(&mut open.heard, 4_096) => Some(heard),
            () = async {
                tokio::time::sleep_until(at).await;
                // While the link is down, what is sent would only queue up.
                let _ = tokio::time::timeout_at(latest, open.link.wait_for(|link| link.connected)).await;
            } => None,
        };
        if let Some(heard) = heard {
            return self.account(heard);
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        self.window.again();
        open.ingest.begin_again();
        open.generation = open.connection.generation();
        self.trouble = None;
        Ok(())
    }
}

impl Sink for JetStreamSink {
    type In = Vec<Record>;

    async fn open(&mut self) -> Result {
        let js = self.connections.js(Purpose::Write).await?;
        let fast = find_or_create(&js, self.messages.write()).await?;
        let connection = js.connection().clone();
        self.limit.set(self.messages.room(connection.max_payload()));
        let (link, generation, inbox) = (connection.link(), connection.generation(), connection.new_inbox());
        let answers = connection.subscribe(format!("{inbox}.>"), 1 << 14).await.map_err(fault)?;
        let ingest = Ingest::new(&self.messages.write().stream, &inbox, fast);
        let now = Instant::now();
        let heard = Vec::new();
        self.open = Some(Open { connection, answers, link, generation, ingest, heard, due_since: now, sent_at: now });
        Ok(())
    }

    async fn write(&mut self, batch: Batch<Vec<Record>>) -> Result {
        let parts = batch.into_parts();
        let max = self.open.as_ref().map_or(usize::MAX, |open| open.connection.max_payload());
        for (row, record) in parts.rows.into_iter().enumerate() {
            let message = self.messages.message(record, parts.origins.as_ref(), row, max)?;
            while !self.window.has_room(message.size()) {
                self.step(Until::Room).await?;
            }
            self.window.push(message);
        }
        self.send().await.map(drop)
    }

    async fn flush(&mut self, _: Epoch) -> Result {
        while !self.window.is_empty() && !planted(Bug::FlushUnconfirmed) {
            self.step(Until::Confirmed).await?;
        }
        self.messages.end_epoch();
        Ok(())
    }

    async fn drive(&mut self) -> Result {
        loop {
            self.step(Until::More).await?;
        }
    }
}

impl std::fmt::Debug for JetStreamSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let why = self.trouble.as_ref().map_or("", |trouble| trouble.why.as_str());
        write!(f, "JetStreamSink({}, {} unconfirmed {why})", self.messages.write().stream, self.window.in_flight())
    }
}
