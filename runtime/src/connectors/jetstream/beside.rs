//! Messages that the client cannot read: its parser refuses malformed headers, which a stream keeps, and drops the link at
//! each. They are read one at a time by the API, which carries headers as base64.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::join_all;
use millstream_operators::Result;

use super::attach::Reader;
use super::delivery::Delivery;
use super::position::{Gap, JetStreamPosition};
use super::rows::{Given, Rows};
use super::source::{FIRST_PAUSE, JetStreamSource};
use crate::broker::{BrokerError, Incoming, Js, StoredMessage, matches};
use crate::connectors::{Purpose, fault};

/// How often in a row the link breaks at one place before the next message is read in this way. Once one was found that
/// the client cannot read, the first break is enough, as there may be more of them.
pub(super) const PATIENCE: u32 = 3;

// Read at once, when one follows the other.
const MOST: usize = 256;
// Looked at behind a place where a shared consumer's link broke.
const SOME: u64 = 64;

/// What was read beside a consumer.
pub(super) struct Beside {
    gap: Option<Gap>,
    found: Vec<StoredMessage>,
}

impl Reader {
    /// The malformed messages right behind `position`; with `anyway`, the first whatever it is. And what is gone before
    /// them, if that may be skipped.
    ///
    /// # Errors
    /// The stream no longer holds what follows, or a request failed: then it may be tried again.
    pub(super) async fn beside(self: Arc<Self>, position: JetStreamPosition, anyway: bool) -> Result<Beside> {
        let js = self.connections.js(Purpose::Control).await?;
        let (mut found, mut from) = (Vec::new(), position.sequence + 1);
        while found.len() < MOST {
            let Some(message) = self.first_from(&js, from).await.map_err(fault)? else { break };
            if message.flaws.is_empty() && !(anyway && found.is_empty()) {
                break;
            }
            from = message.seq + 1;
            found.push(message);
        }
        // Asked last, so that no gap before the first of them goes unnoticed.
        let info = self.stream(&js, true).await?;
        let gap = position.validate(&info, self.read.on_gap)?;
        Ok(Beside { gap, found })
    }

    /// The malformed messages among those that a shared consumer has delivered up to `delivered` and that may not have
    /// come: some behind `floor`, up to which all are acknowledged, and some behind the last that came here.
    ///
    /// # Errors
    /// A request failed: then it may be tried again.
    pub(super) async fn malformed(&self, floor: u64, reached: u64, delivered: u64) -> Result<Vec<StoredMessage>> {
        let js = self.connections.js(Purpose::Control).await?;
        let behind = |sequence: u64| sequence + 1..=(sequence + SOME).min(delivered);
        let sequences: BTreeSet<u64> = behind(floor).chain(behind(reached)).collect();
        let asked = sequences.into_iter().map(|sequence| js.message(&self.read.stream, sequence));
        let mut found = Vec::new();
        for message in join_all(asked).await {
            let subjects = &self.read.subjects;
            found.extend(message.map_err(fault)?.filter(|message| {
                !message.flaws.is_empty()
                    && (subjects.is_empty() || subjects.iter().any(|subject| matches(subject, &message.subject)))
            }));
        }
        Ok(found)
    }

    /// The first message that is read at or behind `sequence`.
    pub(super) async fn first_from(&self, js: &Js, sequence: u64) -> Result<Option<StoredMessage>, BrokerError> {
        if self.read.subjects.is_empty() {
            return js.next_message(&self.read.stream, sequence, ">").await;
        }
        let mut first: Option<StoredMessage> = None;
        for subject in &self.read.subjects {
            let next = js.next_message(&self.read.stream, sequence, subject).await?;
            first = first.into_iter().chain(next).min_by_key(|message| message.seq);
        }
        Ok(first)
    }
}

impl JetStreamSource {
    /// Reads by itself what the link seems to break at. Cancel-safe.
    pub(super) async fn read_beside(&mut self) -> Result<Given> {
        let anyway = self.in_vain >= PATIENCE;
        let Beside { gap, found } = loop {
            let beside = self.beside.get_or_insert_with(|| {
                let (reader, position, at) = (Arc::clone(&self.reader), self.position.clone(), self.attach_at);
                Box::pin(async move {
                    tokio::time::sleep_until(at).await;
                    reader.beside(position, anyway).await
                })
            });
            let found = beside.await;
            self.beside = None;
            match found {
                Ok(found) => break found,
                Err(fault) => self.later(fault)?,
            }
        };
        if let Some(gap) = gap {
            self.pass(gap);
            if self.gone.is_some() {
                return Ok(None);
            }
        }
        self.broke = false;
        self.patience = if found.iter().any(|message| !message.flaws.is_empty()) { 1 } else { PATIENCE };
        let mut rows = Rows::with_capacity(found.len());
        for message in found {
            let (delivery, message) = as_delivered(&self.reader.read.stream, message);
            self.position.sequence = delivery.stream_seq;
            rows.push(&delivery, message);
        }
        if let Some(last) = rows.last_stored_at() {
            self.position.reached_at = Some(last);
            (self.in_vain, self.pause, self.beside_upto) = (0, FIRST_PAUSE, self.position.sequence);
        }
        rows.into_batch(&self.place)
    }
}

/// A message that was read beside the consumer, as if that had delivered it.
pub(super) fn as_delivered(stream: &str, message: StoredMessage) -> (Delivery, Incoming) {
    let (sequence, flaws) = (message.seq, message.flaws.join("; "));
    if flaws.is_empty() {
        tracing::warn!(stream, "message {sequence} was read by itself, as the link broke again and again before it");
    } else {
        tracing::warn!(
            stream,
            "message {sequence} has malformed headers, at which the client drops the link: its payload and legal headers are read, and left out is: {flaws}"
        );
    }
    let delivery =
        Delivery { times: 1, stream_seq: sequence, consumer_seq: 0, stored_at: message.stored_at(), pending: 0 };
    let wire_len = message.subject.len() + message.headers.wire_len() + message.payload.len();
    let StoredMessage { subject, headers, payload, .. } = message;
    let incoming = Incoming { subject, reply: None, headers, status: None, description: None, payload, wire_len };
    (delivery, incoming)
}
