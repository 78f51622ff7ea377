//! [`JetStreamSink`]: records into a stream, every one confirmed.

use std::sync::Arc;
use std::time::Duration;

use millstream_operators::{Batch, Epoch, Fault, FaultKind, Headers, Origins, Record, Result, Sink};
use tokio::time::Instant;

use super::window::{GROUP, Window};
use crate::broker::{Connection, Incoming, LinkState, Outgoing, PubAck, StreamConfig, Subject, Subscription};
use crate::connectors::{Connections, Purpose, fault};

/// What a sink writes to, and how.
#[derive(Clone, Debug)]
pub struct JetStreamWrite {
    /// The stream that must take the records.
    pub stream: String,
    /// Creates the stream with these subjects if there is none.
    pub create: Option<Vec<String>>,
    /// Adds a `Nats-Msg-Id` made of each record's origin, so that the stream drops repeats within its duplicate window.
    /// It costs the server 3 to 4 microseconds a message.
    pub dedup: bool,
}

impl JetStreamWrite {
    /// Records into this stream, which exists.
    pub fn to(stream: impl Into<String>) -> Self {
        JetStreamWrite { stream: stream.into(), create: None, dedup: false }
    }
}

const ACK_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A sink that publishes ahead, within a bounded window, and accounts for every acknowledgement.
///
/// After an error, a time-out or a new link it sends everything unconfirmed again, in order. While the stream is full,
/// missing or away it waits and says so: what is upstream waits with it, and nothing is dropped.
pub struct JetStreamSink {
    write: JetStreamWrite,
    pipeline: String,
    connections: Arc<Connections>,
    open: Option<Open>,
    window: Window,
    repeats: Repeats,
    trouble: Option<Trouble>,
    pause: Duration,
}

struct Open {
    connection: Connection,
    acks: Subscription,
    inbox: String,
    link: tokio::sync::watch::Receiver<LinkState>,
    generation: u64,
    // When something was last confirmed, or sent into an empty window.
    moved_at: Instant,
    heard: Vec<Incoming>,
    expected: Vec<u8>,
}

/// Why everything unconfirmed must be sent again, and when.
#[derive(Debug)]
struct Trouble {
    why: String,
    at: Instant,
}

/// Tells apart the outputs of one message, for message ids.
#[derive(Debug, Default)]
struct Repeats {
    sequence: u64,
    count: u64,
}

impl JetStreamSink {
    /// A sink of `pipeline`.
    pub fn new(pipeline: &str, write: JetStreamWrite, connections: Arc<Connections>) -> Self {
        JetStreamSink {
            write,
            pipeline: pipeline.into(),
            connections,
            open: None,
            window: Window::default(),
            repeats: Repeats::default(),
            trouble: None,
            pause: FIRST_PAUSE,
        }
    }

    fn is_open(&mut self) -> Result<&mut Open> {
        self.open.as_mut().ok_or_else(|| Fault::bug("a JetStream sink was not opened"))
    }

    fn outgoing(&mut self, record: Record, origins: Option<&Origins>, row: usize, max: usize) -> Result<Outgoing> {
        let mut headers = match record.headers.is_empty() {
            true => record.headers.clone(),
            // Whoever made the record: these are the sink's to add.
            false => record.headers.filtered(|name| !Headers::is_reserved(name)),
        };
        if self.write.dedup
            && let Some((place, origin)) = origins.and_then(|all| Some((all.place(), all.get(row)?)))
        {
            let repeat = self.repeats.next(origin.sequence);
            let id = format!("{}:{}:{}:{repeat}", self.pipeline, place.stream, origin.sequence);
            headers.push("Nats-Msg-Id", &id).map_err(|error| Fault::bug(error.to_string()))?;
        }
        let subject = record.subject().to_owned();
        let outgoing = Outgoing::new(subject, record.payload).headers(headers);
        if outgoing.size() > max {
            let words = format!(
                "a message of {} bytes for {} is over the server's max_payload of {max}: set the sink's max_size to it, so that such rows are rejected",
                outgoing.size(),
                outgoing.subject
            );
            return Err(Fault::new(FaultKind::Setup, words));
        }
        Ok(outgoing)
    }

    async fn send(&mut self, id: u64, messages: Vec<Outgoing>) -> Result {
        let open = self.is_open()?;
        let reply = Subject::from(format!("{}.{id}", open.inbox));
        let messages = messages.into_iter().map(|message| message.reply_to(reply.clone()));
        open.connection.publish_all(messages).await.map_err(fault)
    }

    /// Waits until something was confirmed, or sends again what must be. Cancel-safe.
    async fn step(&mut self) -> Result {
        if let Some(trouble) = &self.trouble {
            let (at, idle) = (trouble.at, self.window.is_empty());
            tokio::time::sleep_until(at).await;
            if !idle {
                self.send_again().await?;
            }
            self.trouble = None;
            return Ok(());
        }
        let waits = !self.window.is_empty();
        let open = self.open.as_mut().ok_or_else(|| Fault::bug("a JetStream sink was not opened"))?;
        if open.connection.generation() != open.generation {
            self.doubt("the connection was made anew".into());
            return Ok(());
        }
        let late = open.moved_at + ACK_TIMEOUT;
        let is_late = tokio::select! {
            biased;
            heard = open.acks.next_many(&mut open.heard, 4_096) => {
                if heard == 0 {
                    return Err(Fault::new(FaultKind::Connection, "the connection is closed"));
                }
                false
            }
            _ = open.link.wait_for(|link| link.generation != open.generation) => false,
            () = tokio::time::sleep_until(late), if waits => true,
        };
        if is_late {
            let denied = self.window.first().and_then(|first| open.connection.denied(&first.subject));
            if let Some(denied) = denied {
                return Err(fault(denied));
            }
            self.doubt(format!("no acknowledgement came within {ACK_TIMEOUT:?}"));
        }
        self.account()
    }

    /// Counts the acknowledgements that were heard.
    fn account(&mut self) -> Result {
        let Some(open) = &mut self.open else { return Ok(()) };
        let mut doubt = None;
        for ack in open.heard.drain(..) {
            let Some(id) = ack.subject.rsplit('.').next().and_then(|id| id.parse().ok()) else { continue };
            if ack.status == Some(503) {
                doubt = Some(format!("no stream takes what is published (is stream {} missing?)", self.write.stream));
                continue;
            }
            // The common answer is told by its beginning; all else is read with care.
            let plain = ack.payload.starts_with(&open.expected);
            if !plain {
                match PubAck::parse(&ack.payload) {
                    Ok(ack) if ack.stream == self.write.stream => {}
                    Ok(ack) => {
                        let words = format!(
                            "stream {} took a message that was meant for stream {}: its subject belongs to the former; correct `stream` or `subject`",
                            ack.stream, self.write.stream
                        );
                        return Err(Fault::new(FaultKind::Setup, words));
                    }
                    Err(Some(error)) => {
                        doubt = Some(format!("stream {} refuses: {}", self.write.stream, error.description));
                        continue;
                    }
                    Err(None) => {
                        doubt = Some("an acknowledgement makes no sense".to_owned());
                        continue;
                    }
                }
            }
            if self.window.ack(id) {
                open.moved_at = Instant::now();
                self.pause = FIRST_PAUSE;
            }
        }
        if let Some(why) = doubt {
            self.doubt(why);
        }
        Ok(())
    }

    fn doubt(&mut self, why: String) {
        if self.window.is_empty() {
            if let Some(open) = &mut self.open {
                open.generation = open.connection.generation();
            }
            return;
        }
        let unconfirmed = self.window.len();
        tracing::warn!(
            stream = self.write.stream,
            "the output waits, {unconfirmed} messages will be sent again in {:?}: {why}",
            self.pause
        );
        self.trouble = Some(Trouble { why, at: Instant::now() + self.pause });
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    async fn send_again(&mut self) -> Result {
        let groups: Vec<_> = self.window.again().map(|group| (group.id, group.messages.clone())).collect();
        let open = self.is_open()?;
        open.generation = open.connection.generation();
        open.moved_at = Instant::now();
        for (id, messages) in groups {
            self.send(id, messages).await?;
        }
        Ok(())
    }
}

impl Repeats {
    fn next(&mut self, sequence: u64) -> u64 {
        self.count = if sequence == self.sequence { self.count + 1 } else { 0 };
        self.sequence = sequence;
        self.count
    }
}

impl Sink for JetStreamSink {
    type In = Vec<Record>;

    async fn open(&mut self) -> Result {
        let js = self.connections.js(Purpose::Write).await?;
        let name = &self.write.stream;
        match (js.find_stream(name).await.map_err(fault)?, &self.write.create) {
            (Some(_), _) => {}
            (None, Some(subjects)) => {
                js.create_stream(&StreamConfig::new(name, subjects.clone())).await.map_err(fault)?;
            }
            (None, None) => {
                let words = format!("there is no stream {name}: create it, or let the sink do it (`create`)");
                return Err(Fault::new(FaultKind::Setup, words));
            }
        }
        let connection = js.connection().clone();
        let (link, generation, inbox) = (connection.link(), connection.generation(), connection.new_inbox());
        let acks = connection.subscribe(format!("{inbox}.*"), 1 << 14).await.map_err(fault)?;
        let expected = format!("{{\"stream\":{:?}, \"seq\":", self.write.stream).into_bytes();
        let (moved_at, heard) = (Instant::now(), Vec::new());
        self.open = Some(Open { connection, acks, inbox, link, generation, moved_at, heard, expected });
        Ok(())
    }

    async fn write(&mut self, batch: Batch<Vec<Record>>) -> Result {
        let parts = batch.into_parts();
        let max = self.is_open()?.connection.max_payload();
        let mut group = Vec::with_capacity(GROUP.min(parts.rows.len()));
        let last = parts.rows.len().saturating_sub(1);
        for (row, record) in parts.rows.into_iter().enumerate() {
            group.push(self.outgoing(record, parts.origins.as_ref(), row, max)?);
            if group.len() < GROUP && row < last {
                continue;
            }
            let group = std::mem::take(&mut group);
            let bytes = group.iter().map(Outgoing::size).sum();
            while self.trouble.is_some() || !self.window.has_room(group.len(), bytes) {
                self.step().await?;
            }
            if self.window.is_empty() {
                let open = self.is_open()?;
                open.moved_at = Instant::now();
                open.generation = open.connection.generation();
            }
            let id = self.window.push(group.clone());
            self.send(id, group).await?;
        }
        Ok(())
    }

    async fn flush(&mut self, _: Epoch) -> Result {
        while !self.window.is_empty() {
            self.step().await?;
        }
        Ok(())
    }

    async fn drive(&mut self) -> Result {
        loop {
            self.step().await?;
        }
    }
}

impl std::fmt::Debug for JetStreamSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let why = self.trouble.as_ref().map_or("", |trouble| trouble.why.as_str());
        write!(f, "JetStreamSink({}, {} unconfirmed {why})", self.write.stream, self.window.len())
    }
}
