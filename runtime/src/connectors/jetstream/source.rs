//! [`JetStreamSource`]: a stream's messages, each at least once, in order.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_operators::bugs::{Bug, planted};
use millstream_operators::{Batch, Fault, FaultKind, Headers, Place, Result, Source};
use millstream_pipelines::graph::{Settings, Subtask};
use tokio::time::Instant;

use super::attach::{Attached, Reader, is_interest};
use super::beside::{Beside, PATIENCE};
use super::delivery::Delivery;
use super::gaps::{judge, jumped};
use super::gather::Gather;
use super::holes::Holes;
use super::jumps::Jumps;
use super::lint::{overdue, risks};
use super::look::{LOOK_AGAIN, Look};
use super::position::{Gap, JetStreamPosition};
use super::pull::{Again, HEARTBEAT, Pull};
use super::read::JetStreamRead;
use super::rows::{Given, Rows};
use crate::broker::{BrokerError, StreamInfo};
use crate::connectors::{Purpose, fault};
use crate::engine::{Clock, Nudge, Ownership};

pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(100);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A source that reads a stream through one durable pull consumer.
///
/// Its protocol: the position comes from the checkpoint and the consumer is reset to it; every delivery must be the
/// consumer's next one, or the consumer is reset and read again; what was read already is dropped; the acknowledgement
/// of a position follows its checkpoint and is confirmed. Input that is gone is a fault, never skipped in silence.
pub struct JetStreamSource {
    pub(super) reader: Arc<Reader>,
    pub(super) nudge: Option<Arc<Nudge>>,
    pub(super) clock: Option<Arc<Clock>>,
    pub(super) ownership: Option<Arc<Ownership>>,
    pub(super) place: Arc<Place>,
    pub(super) position: JetStreamPosition,
    // Up to where a checkpoint covers everything.
    pub(super) durable: u64,
    pub(super) pull: Option<Pull>,
    // Kept between calls, because whoever waits for rows may stop waiting at any time: on a slow link both take longer
    // than a checkpoint interval.
    pub(super) attaching: Option<Doing<Attached>>,
    pub(super) looking: Option<Doing<Look>>,
    pub(super) attach_at: Instant,
    pub(super) look_at: Instant,
    pub(super) pause: Duration,
    // When this attachment began, and how many in a row have ended since the last row came.
    pub(super) attached_at: Instant,
    pub(super) in_vain: u32,
    // Whether the last one ended with its link, and how often in a row that may happen before the next message is read
    // by itself.
    pub(super) broke: bool,
    pub(super) patience: u32,
    pub(super) beside: Option<Doing<Beside>>,
    // The last message that was read so.
    pub(super) beside_upto: u64,
    pub(super) lets_go: bool,
    pub(super) attachments: u64,
    pub(super) gather: Gather,
    // The number that the next delivery of this attachment must have, and how many of its deliveries are part of a
    // checkpoint.
    pub(super) expected: u64,
    // The sequence of the last delivery of this attachment, or behind which the consumer was set.
    pub(super) delivered: u64,
    pub(super) acked: u64,
    pub(super) nudged: bool,
    pub(super) lag: Option<u64>,
    // Where the source stood when it began to look.
    pub(super) looked_from: u64,
    pub(super) jumps: Jumps,
    // How many messages waited behind the last delivery of this attachment; 0 before the first.
    pub(super) waiting: u64,
    // What a look found to wait behind a delivery, where it is the last.
    pub(super) seen: Option<(u64, u64)>,
    // What was last delivered by the server's word and by ours, where a look found that they differ, and since when.
    pub(super) apart: Option<(u64, u64, Instant)>,
    // A jump between deliveries that were not given yet, the question how the stream is because of it, and its answer,
    // which holds for all deliveries up to this one.
    pub(super) in_doubt: bool,
    pub(super) asking: Option<(u64, Doing<Option<Holes>>)>,
    pub(super) answer: Option<(u64, Holes)>,
    // What is gone right behind the position, where a record of it is to be given before what follows.
    pub(super) gone: Option<Gap>,
    pub(super) released: bool,
}

/// Something that goes on while nobody waits for it.
pub(super) type Doing<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

impl JetStreamSource {
    /// The source of the node of `subtask`.
    ///
    /// # Errors
    /// There are no NATS connections among its resources.
    pub fn new(subtask: &Subtask, read: JetStreamRead) -> Result<Self> {
        let place = Arc::new(Place { node: subtask.node.to_string(), stream: read.stream.clone() });
        let settings = subtask.resources.get::<Settings>().unwrap_or_default();
        Ok(JetStreamSource {
            position: JetStreamPosition { stream: read.stream.clone(), ..JetStreamPosition::default() },
            durable: 0,
            reader: Arc::new(Reader::new(subtask, read)?),
            nudge: subtask.resources.get(),
            clock: subtask.resources.get(),
            ownership: subtask.resources.get(),
            place,
            pull: None,
            attaching: None,
            looking: None,
            attach_at: Instant::now(),
            look_at: Instant::now(),
            pause: FIRST_PAUSE,
            attached_at: Instant::now(),
            in_vain: 0,
            broke: false,
            patience: PATIENCE,
            beside: None,
            beside_upto: 0,
            lets_go: false,
            attachments: 0,
            gather: Gather::lingering(settings.linger),
            expected: 1,
            delivered: 0,
            acked: 0,
            nudged: false,
            lag: None,
            looked_from: 0,
            jumps: Jumps::Untold,
            waiting: 0,
            seen: None,
            apart: None,
            in_doubt: false,
            asking: None,
            answer: None,
            gone: None,
            released: false,
        })
    }

    pub(super) fn read(&self) -> &JetStreamRead {
        &self.reader.read
    }

    /// Sets the consumer to the position, and tries again while there is no way to. Cancel-safe.
    async fn attach(&mut self) -> Result {
        loop {
            let attached = self.attaching.get_or_insert_with(|| {
                let (reader, position, at) = (Arc::clone(&self.reader), self.position.clone(), self.attach_at);
                let durable = self.durable;
                // An instance that was taken over must not take the consumer from its successor.
                let ownership = self.ownership.clone().filter(|_| self.attachments > 0 && !planted(Bug::TrustConsumer));
                Box::pin(async move {
                    tokio::time::sleep_until(at).await;
                    if let Some(ownership) = ownership {
                        ownership.held().await?;
                    }
                    reader.attach(position, durable).await
                })
            });
            let attached = attached.await;
            self.attaching = None;
            match attached {
                Ok(Attached { pull, gap, behind, jumps }) => {
                    self.delivered = behind;
                    if let Some(gap) = gap {
                        self.pass(gap);
                    }
                    (self.jumps, self.waiting, self.seen, self.apart) = (jumps, 0, None, None);
                    self.attachments += 1;
                    self.attached_at = Instant::now();
                    (self.expected, self.acked, self.nudged) = (1, 0, false);
                    self.look_at = Instant::now() + LOOK_AGAIN;
                    self.pull = Some(pull);
                    return Ok(());
                }
                Err(fault) => self.later(fault)?,
            }
        }
    }

    /// Makes the next attempt later, if there is to be one.
    pub(super) fn later(&mut self, fault: Fault) -> Result {
        if fault.kind() != FaultKind::Connection {
            return Err(fault);
        }
        let (pause, stream) = (self.pause, &self.read().stream);
        tracing::warn!(stream, "cannot read yet, trying again in {pause:?}: {}", fault.chain());
        self.attach_at = Instant::now() + pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }

    /// Waits for a batch, and looks now and then how stream and consumer are. Cancel-safe.
    async fn hear(&mut self, max: usize) -> Result<Option<Again>> {
        loop {
            let Some(pull) = &mut self.pull else { return Ok(None) };
            let (look_at, looks) = (self.look_at, self.looking.is_some());
            tokio::select! {
                biased;
                again = self.gather.fill(pull, max) => return again,
                look = done(&mut self.looking), if looks => {
                    self.looking = None;
                    self.look_at = Instant::now() + LOOK_AGAIN;
                    let again = self.see(look?)?;
                    if again.is_some() || self.gone.is_some() {
                        return Ok(again);
                    }
                }
                () = tokio::time::sleep_until(look_at), if !looks => self.look(),
            }
        }
    }

    /// What was heard as rows, up to the first thing that is not as expected.
    fn rows(&mut self, max: usize) -> Result<(Given, Option<Again>)> {
        let Some(pull) = &mut self.pull else { return Ok((None, None)) };
        let (mut rows, mut again, mut last_reply) = (Rows::with_capacity(max.min(self.gather.heard.len())), None, None);
        let (mut heard, mut doubted) = (self.gather.take(max), None);
        for mut message in heard.by_ref() {
            if let Some(status) = message.status {
                again = pull.told(status, &message)?;
                if again.is_some() {
                    break;
                }
                continue;
            }
            let Some((reply, delivery)) = Delivery::of(&mut message) else { continue };
            let trusts = planted(Bug::TrustDeliveries);
            if delivery.consumer_seq != self.expected && !trusts {
                again = Some(Again::Gap { expected: self.expected, got: delivery.consumer_seq });
                break;
            }
            let (is_new, trusts) = (delivery.stream_seq > self.position.sequence, trusts || planted(Bug::IgnoreGap));
            let doubts = self.jumps.doubts(self.position.sequence, self.waiting, &delivery);
            if is_new && !trusts && (doubts || (self.expected == 1 && self.jumps.is_in_part())) {
                let from = self.position.sequence + 1;
                let holds = self.answer.as_ref().filter(|(upto, _)| delivery.consumer_seq <= *upto);
                let Some((info, next)) = holds.and_then(|(_, holes)| Some((&holes.info, holes.next(from)?))) else {
                    message.reply = Some(reply);
                    doubted = Some(message);
                    self.in_doubt = true;
                    break;
                };
                if next.is_some_and(|next| next < delivery.stream_seq) && !planted(Bug::TrustConsumer) {
                    again = Some(Again::Ended("another instance has set its consumer elsewhere".into()));
                    break;
                }
                let gap = match self.jumps {
                    _ if !doubts => None,
                    Jumps::Losses => Some(jumped(&self.reader.read, from, delivery.stream_seq)),
                    _ => self.position.gap(info, self.jumps.least(self.waiting, delivery.pending + 1)),
                };
                if let Some(gap) = gap {
                    judge(gap, &mut self.jumps, self.reader.read.on_gap, &mut self.gone)?;
                }
                // Its record comes first.
                if self.gone.is_some() {
                    message.reply = Some(reply);
                    doubted = Some(message);
                    break;
                }
            }
            pull.came();
            self.expected += 1;
            self.delivered = delivery.stream_seq;
            last_reply = Some(reply);
            self.waiting = delivery.pending;
            if is_new {
                self.position.sequence = delivery.stream_seq;
                rows.push(&delivery, message);
            }
        }
        if let Some(doubted) = doubted {
            let rest = std::iter::once(doubted).chain(heard).collect();
            self.gather.put_back(rest);
        }
        if let Some(reply) = last_reply {
            self.lag = Some(self.waiting);
            self.position.ack = Some((self.attachments, reply.as_str().to_owned()));
        }
        if let Some(last) = rows.last_stored_at() {
            self.position.reached_at = Some(last);
            (self.pause, self.in_vain) = (FIRST_PAUSE, 0);
        }
        Ok((rows.into_batch(&self.place)?, again))
    }

    /// Asks for a checkpoint when half of what may be in flight is.
    fn nudge(&mut self) {
        let in_flight = (self.expected - 1).saturating_sub(self.acked);
        if !self.nudged && in_flight > u64::from(self.read().max_ack_pending) / 2 {
            self.nudged = true;
            if let Some(nudge) = &self.nudge {
                nudge.checkpoint();
            }
        }
    }

    pub(super) fn detach(&mut self, why: &Again) {
        why.log(&self.read().stream);
        self.pull = None;
        self.gather.clear();
        (self.looking, self.asking, self.answer, self.in_doubt) = (None, None, None, false);
        self.broke = why.is_break();
        let now = Instant::now();
        if now - self.attached_at >= LOOK_AGAIN {
            (self.pause, self.in_vain) = (FIRST_PAUSE, 0);
        }
        self.in_vain += 1;
        self.attach_at = now;
        if self.in_vain > 1 {
            let (pause, stream, position) = (self.pause, &self.reader.read.stream, self.position.sequence);
            tracing::warn!(
                stream,
                "reading broke off {} times in a row and brought nothing behind message {position}: again in {pause:?}",
                self.in_vain
            );
            self.attach_at = now + pause;
            self.pause = (pause * 2).min(LONGEST_PAUSE);
        }
        // An acknowledgement of an earlier attachment means nothing to the next.
        self.position.ack = None;
    }
}

/// Waits until what is being done is done; for ever if nothing is.
pub(super) async fn done<T>(doing: &mut Option<Doing<T>>) -> Result<T> {
    match doing {
        Some(doing) => doing.await,
        None => std::future::pending().await,
    }
}

impl Source for JetStreamSource {
    type Out = Vec<Bytes>;
    type Position = JetStreamPosition;

    async fn open(&mut self, from: Option<JetStreamPosition>) -> Result {
        let js = self.reader.connections.js(Purpose::Read).await?;
        // Here, and not when there is something to acknowledge: to try again costs nothing yet.
        self.reader.control().await?;
        let mut info = self.reader.stream(&js, from.is_some()).await?;
        self.reader.check_retention(&info)?;
        self.lets_go = is_interest(&info);
        match from {
            Some(from) => {
                let from = self.reader.misled(&js, from).await;
                self.durable = from.sequence;
                let JetStreamRead { subjects, on_gap, .. } = self.read();
                let (gap, left_out) = (from.validate(&info, *on_gap)?, from.check_subjects(&info, subjects, *on_gap)?);
                let subjects = Some(subjects.clone());
                self.position = JetStreamPosition { subjects, ack: None, ..from };
                // What is gone behind the position is found again when the consumer is set to it.
                for gap in gap.into_iter().chain(left_out) {
                    self.pass(gap);
                }
            }
            None => {
                info = self.reader.show_interest(&js, info).await?;
                let sequence = self.reader.first_position(&js, &info).await?;
                self.durable = sequence;
                let (stream, created) = (self.read().stream.clone(), info.created.clone());
                let subjects = Some(self.read().subjects.clone());
                self.position =
                    JetStreamPosition { stream, created, subjects, sequence, ..JetStreamPosition::default() };
            }
        }
        self.lint(&info);
        self.pull = None;
        Ok(())
    }

    async fn next(&mut self, max_rows: usize) -> Result<Option<Batch<Vec<Bytes>>>> {
        let max_rows = max_rows.max(1);
        loop {
            if let Some(gap) = self.gone.take() {
                return self.record(gap);
            }
            if self.pull.is_none() {
                if self.broke && self.in_vain >= self.patience {
                    let rows = self.read_beside().await?;
                    if rows.is_some() {
                        return Ok(rows);
                    }
                    if self.gone.is_some() {
                        continue;
                    }
                }
                // An interest stream delivers again what no checkpoint covers; behind that, it can be gone past.
                if self.lets_go && self.beside_upto > self.durable {
                    std::future::pending::<()>().await;
                }
                self.attach().await?;
                continue;
            }
            if self.in_doubt
                && let Some(why) = self.clear_up().await?
            {
                self.detach(&why);
                continue;
            }
            if let Some(pull) = &mut self.pull {
                pull.ask(u64::MAX).await?;
            }
            let again = self.hear(max_rows).await?;
            if self.gone.is_some() {
                continue;
            }
            let (rows, wrong) = self.rows(max_rows)?;
            self.nudge();
            if let Some(why) = wrong.or(again) {
                self.detach(&why);
            }
            if rows.is_some() {
                return Ok(rows);
            }
        }
    }

    fn is_endless(&self) -> bool {
        true
    }

    fn position(&self) -> JetStreamPosition {
        if planted(Bug::PositionAhead) && self.waiting > 0 {
            return JetStreamPosition { sequence: self.position.sequence + 1, ..self.position.clone() };
        }
        self.position.clone()
    }

    async fn commit(&mut self, upto: JetStreamPosition) -> Result {
        self.durable = self.durable.max(upto.sequence);
        let Some((attachment, reply)) = upto.ack else { return Ok(()) };
        if attachment != self.attachments || self.pull.is_none() {
            return Ok(());
        }
        let acked = Delivery::parse(&reply).map_or(0, |delivery| delivery.consumer_seq);
        if acked <= self.acked {
            return Ok(());
        }
        let Some(connection) = self.reader.control_now().await? else { return Ok(()) };
        let confirmed = connection.request(reply, Headers::NONE, "+ACK", HEARTBEAT).await;
        match confirmed {
            Ok(_) => {
                self.acked = acked;
                self.nudged = false;
            }
            Err(error @ BrokerError::Permission { .. }) => return Err(fault(error)),
            // The next one covers it: acks are for people and for the server's limit, positions are in the checkpoint.
            Err(error) => tracing::debug!(stream = self.read().stream, "an acknowledgement was not confirmed: {error}"),
        }
        Ok(())
    }

    fn lag(&self) -> Option<u64> {
        self.lag
    }

    async fn drive(&mut self) -> Result {
        self.keep_looking().await
    }

    async fn release(&mut self) -> Result {
        // What happens to the stream from now on is for the next start to find.
        (self.released, self.looking) = (true, None);
        Ok(())
    }
}

impl JetStreamSource {
    /// Warns of what can lose messages before they are read.
    fn lint(&self, info: &StreamInfo) {
        let stream = &self.read().stream;
        let risks = risks(info);
        if !risks.is_empty() {
            tracing::warn!(stream, "messages of this stream can be lost before they are read: {}", risks.join("; "));
        }
        let unread = info.state.last_seq > self.position.sequence;
        if unread
            && let (Some(clock), Some(reached_at)) = (&self.clock, self.position.reached_at)
            && let Some(words) = overdue(info, reached_at, clock.now())
        {
            tracing::warn!(stream, "{words}");
        }
    }
}

impl std::fmt::Debug for JetStreamSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (consumer, stream) = (&self.reader.consumer, &self.read().stream);
        write!(f, "JetStreamSource({consumer} of {stream}, at {})", self.position.sequence)
    }
}
