//! Atomic batches: messages that are stored all together, or not at all.

use std::collections::BTreeMap;

use serde_json::json;

use super::clock::rfc3339;
use super::refusal::refusal;
use super::staged::Staged;
use super::stream::Stream;
use super::turn::Turn;
use super::wishes::Wishes;
use crate::broker::{ApiError, Outgoing, codes};

/// The most open batches of a stream.
const MOST_BATCHES: usize = 50;
/// After so many nanoseconds without a message a batch is abandoned.
pub(super) const IDLE: u64 = 10_000_000_000;
/// The longest id of a batch.
pub(super) const LONGEST_ID: usize = 64;

/// The open batches of a stream, by id.
#[derive(Default)]
pub(super) struct Atomic(BTreeMap<Box<str>, Batch>);

struct Batch {
    messages: Vec<Outgoing>,
    abandoned_at: i64,
}

/// What became of a message of a batch.
enum Step {
    /// It waits for the others.
    Kept,
    /// It was the last, and all are stored: how many, and the sequence of the last.
    Committed { count: u64, seq: u64 },
}

impl Stream {
    /// Takes a message of an atomic batch.
    pub(super) fn take_atomic(&mut self, id: &str, message: &Outgoing, wishes: &Wishes<'_>, turn: &mut Turn<'_>) {
        let step = self.stage(id, message, wishes, turn);
        let Some(reply) = message.reply.as_ref().filter(|_| !self.is_silent()) else { return };
        let answer = match step {
            Ok(Step::Kept) => String::new(),
            Ok(Step::Committed { count, seq }) => self.confirm(seq, id, count),
            Err(error) => self.refuse(&error),
        };
        turn.send(reply, answer);
    }

    /// The acknowledgement of a batch.
    pub(super) fn confirm(&self, seq: u64, id: &str, count: u64) -> String {
        format!("{}{seq},\"batch\":{},\"count\":{count}}}", self.ack_prefix, json!(id))
    }

    fn stage(
        &mut self,
        id: &str,
        message: &Outgoing,
        wishes: &Wishes<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<Step, ApiError> {
        self.check_size(message)?;
        if !self.config.allow_atomic {
            return Err(refusal(400, codes::ATOMIC_DISABLED, "atomic publish is disabled"));
        }
        if id.len() > LONGEST_ID {
            return Err(refusal(400, 10179, "atomic publish batch ID is invalid"));
        }
        let Some(seq) = wishes.batch_seq else {
            return Err(refusal(400, 10175, "atomic publish sequence is missing"));
        };
        let (commit, end_only) = (wishes.batch_commit.is_some(), wishes.batch_commit == Some("eob"));
        let too_large = seq - u64::from(end_only && seq > 0) > turn.max_batch;
        if !self.atomic.0.contains_key(id) {
            if seq != 1 {
                return Err(if too_large { batch_too_large(turn) } else { incomplete() });
            }
            if self.atomic.0.len() >= MOST_BATCHES {
                return Err(refusal(429, codes::ATOMIC_TOO_MANY, "atomic publish too many inflight"));
            }
        }
        let batch = self.atomic.0.entry(id.into()).or_insert(Batch { messages: Vec::new(), abandoned_at: 0 });
        batch.abandoned_at = turn.wake_after(IDLE);
        if wishes.batch_commit.is_some_and(|commit| commit != "1" && commit != "eob") {
            self.atomic.0.remove(id);
            return Err(refusal(400, 10200, "atomic publish batch commit is invalid"));
        }
        if batch.messages.len() as u64 + 1 != seq || (seq == 1 && end_only) {
            self.abandon(id, "incomplete", turn);
            return Err(incomplete());
        }
        if too_large {
            self.abandon(id, "large", turn);
            return Err(batch_too_large(turn));
        }
        if !end_only {
            batch.messages.push(message.clone());
        }
        if !commit {
            return Ok(Step::Kept);
        }
        let mut messages = self.atomic.0.remove(id).map(|batch| batch.messages).unwrap_or_default();
        if end_only && let Some(last) = messages.last_mut() {
            // The server marks it as if it had been sent as the last; the header is sound.
            let _ = last.headers.push("Nats-Batch-Commit", "1");
        }
        self.commit(&messages, turn)
    }

    /// Checks all messages, then stores all.
    fn commit(&mut self, messages: &[Outgoing], turn: &mut Turn<'_>) -> Result<Step, ApiError> {
        let mut staged = Staged::default();
        for message in messages {
            let wishes = Wishes::of(&message.headers);
            if wishes.last_id.is_some() {
                let why = "atomic publish unsupported header used: Nats-Expected-Last-Msg-Id";
                return Err(refusal(400, codes::ATOMIC_UNSUPPORTED_HEADER, why));
            }
            staged.check(self, message, &wishes, turn.now).map_err(super::staged::Refused::into_error)?;
        }
        let mut last = 0;
        for message in messages {
            last = self.store(message, &Wishes::of(&message.headers), turn)?;
            self.announce(last, message, turn);
        }
        Ok(Step::Committed { count: messages.len() as u64, seq: last })
    }

    fn abandon(&mut self, id: &str, reason: &str, turn: &mut Turn<'_>) {
        self.atomic.0.remove(id);
        let stream = &self.config.name;
        turn.advise(
            format!("$JS.EVENT.ADVISORY.STREAM.BATCH_ABANDONED.{stream}"),
            &json!({
                "type": "io.nats.jetstream.advisory.v1.stream_batch_abandoned",
                "timestamp": rfc3339(turn.now),
                "stream": stream,
                "batch": id,
                "reason": reason,
            }),
        );
    }

    /// Abandons batches that wait too long for their next message.
    pub(super) fn expire_atomic(&mut self, turn: &mut Turn<'_>) {
        let idle = self.atomic.0.iter().filter(|(_, batch)| batch.abandoned_at <= turn.now);
        for id in idle.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.abandon(&id, "timeout", turn);
        }
        for batch in self.atomic.0.values() {
            turn.due.at(batch.abandoned_at);
        }
    }
}

fn incomplete() -> ApiError {
    refusal(400, codes::ATOMIC_INCOMPLETE, "atomic publish batch is incomplete")
}

fn batch_too_large(turn: &Turn<'_>) -> ApiError {
    refusal(400, codes::ATOMIC_TOO_LARGE, format!("atomic publish batch is too large: {}", turn.max_batch))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millstream_operators::Headers;

    use crate::broker::{BrokerError, Embedded, Js, PubAck, StreamConfig, codes};

    async fn step(js: &Js, number: u32, commit: bool) -> Result<PubAck, BrokerError> {
        let mut headers = Headers::NONE;
        headers.push("Nats-Batch-Id", "b").unwrap();
        headers.push("Nats-Batch-Sequence", &number.to_string()).unwrap();
        if commit {
            headers.push("Nats-Batch-Commit", "1").unwrap();
        }
        js.publish("s", headers, "x").await
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_stored_at_its_commit_and_abandoned_when_idle() {
        let js = Js::new(Embedded::default().connect());
        js.create_stream(&StreamConfig { allow_atomic: true, ..StreamConfig::new("S", ["s"]) }).await.unwrap();
        // What is kept for later is answered with nothing, which is no acknowledgement.
        assert!(matches!(step(&js, 1, false).await, Err(BrokerError::Protocol { .. })));
        assert_eq!(js.stream("S").await.unwrap().state.messages, 0);
        let ack = step(&js, 2, true).await.unwrap();
        assert_eq!((ack.seq, ack.count, ack.batch.as_deref()), (2, 2, Some("b")));
        let _ = step(&js, 1, false).await;
        tokio::time::advance(Duration::from_secs(11)).await;
        let error = step(&js, 2, true).await.unwrap_err();
        assert_eq!(error.api_code(), Some(codes::ATOMIC_INCOMPLETE));
        assert_eq!(js.stream("S").await.unwrap().state.messages, 2);
    }
}
