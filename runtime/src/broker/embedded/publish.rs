//! Publishing to a [`Stream`]: the checks in the server's order, and the acknowledgement.

use serde_json::json;

use super::place::is_fast;
use super::refusal::{refusal, wrong_last};
use super::stream::Stream;
use super::turn::Turn;
use super::wishes::Wishes;
use crate::broker::{ApiError, Outgoing, Purge, Retention, codes};

/// What became of a message that was not refused.
pub(super) enum Accepted {
    /// It has this sequence.
    At(u64),
    /// It came before, and has this sequence.
    Before(u64),
}

impl Stream {
    /// Takes a message that a client published.
    pub(super) fn take(&mut self, message: &Outgoing, turn: &mut Turn<'_>) {
        if let Some(reply) = message.reply.as_ref().filter(|reply| is_fast(reply)) {
            return self.take_fast(message, reply, turn);
        }
        let wishes = Wishes::of(&message.headers);
        if let Some(id) = wishes.batch {
            return self.take_atomic(id, message, &wishes, turn);
        }
        let accepted = self.publish(message, &wishes, turn);
        if let Some(reply) = &message.reply
            && !self.is_silent()
        {
            let answer = match &accepted {
                Ok(Accepted::At(seq)) => format!("{}{seq}}}", self.ack_prefix),
                Ok(Accepted::Before(seq)) => format!("{}{seq},\"duplicate\": true}}", self.ack_prefix),
                Err(error) => self.refuse(error),
            };
            turn.send(reply, answer);
        }
        if let Ok(Accepted::At(seq)) = accepted {
            self.announce(seq, message, turn);
        }
    }

    /// Whether it acknowledges nothing.
    pub(super) fn is_silent(&self) -> bool {
        self.config.rest.get("no_ack").and_then(serde_json::Value::as_bool).unwrap_or(false)
    }

    /// The answer to a publish that is refused.
    pub(super) fn refuse(&self, error: &ApiError) -> String {
        json!({ "error": error, "stream": self.config.name, "seq": 0 }).to_string()
    }

    /// Lets the consumers have a stored message.
    pub(super) fn announce(&mut self, seq: u64, message: &Outgoing, turn: &mut Turn<'_>) {
        for consumer in self.consumers.values_mut() {
            consumer.on_stored(seq, &message.subject, &self.log, turn);
        }
        self.settle(turn);
    }

    fn publish(&mut self, message: &Outgoing, wishes: &Wishes<'_>, turn: &mut Turn<'_>) -> Result<Accepted, ApiError> {
        self.check_expected(message, wishes)?;
        if let Some(id) = wishes.id
            && let Some(seq) = self.ids.find(id, turn.now, self.config.duplicate_window)
        {
            return Ok(Accepted::Before(seq));
        }
        if let Some(expected) = wishes.last_id
            && *expected != *self.last_id
        {
            return Err(refusal(400, codes::WRONG_LAST_ID, format!("wrong last msg ID: {}", self.last_id)));
        }
        self.check_rollup(wishes)?;
        self.check_size(message)?;
        self.store(message, wishes, turn).map(Accepted::At)
    }

    /// The expectations that a message names, and what its stream does not allow.
    pub(super) fn check_expected(&self, message: &Outgoing, wishes: &Wishes<'_>) -> Result<(), ApiError> {
        if wishes.stream.is_some_and(|stream| stream != self.config.name) {
            return Err(refusal(400, codes::STREAM_MISMATCH, "expected stream does not match"));
        }
        if !self.config.allow_msg_ttl && matches!(wishes.ttl(), Ok(Some(_))) {
            return Err(refusal(400, codes::TTL_DISABLED, "per-message TTL is disabled"));
        }
        if let Some(expected) = wishes.last_subject_seq {
            let last = self.log.last_of(wishes.last_subject.unwrap_or(&message.subject)).unwrap_or(0);
            if last != expected {
                return Err(wrong_last(last));
            }
        } else if wishes.last_subject.is_some() {
            return Err(refusal(400, 10193, "missing sequence for expected last sequence per subject"));
        }
        match wishes.last_seq {
            Some(expected) if expected != self.log.last() => Err(wrong_last(self.log.last())),
            _ => Ok(()),
        }
    }

    pub(super) fn check_rollup(&self, wishes: &Wishes<'_>) -> Result<(), ApiError> {
        let Some(rollup) = wishes.rollup else { return Ok(()) };
        if !self.config.allow_rollup_hdrs || self.config.deny_purge {
            return Err(refusal(500, codes::ROLLUP_FAILED, "rollup not permitted"));
        }
        if rollup != "sub" && rollup != "all" {
            return Err(refusal(500, codes::ROLLUP_FAILED, format!("rollup value invalid: {rollup:?}")));
        }
        Ok(())
    }

    pub(super) fn check_size(&self, message: &Outgoing) -> Result<(), ApiError> {
        let most = usize::try_from(self.config.max_msg_size).ok().filter(|most| *most > 0);
        if most.is_some_and(|most| message.size() > most) {
            return Err(refusal(400, codes::MESSAGE_TOO_LARGE, "message size exceeds maximum allowed"));
        }
        if message.size() - message.payload.len() > usize::from(u16::MAX) {
            return Err(refusal(400, 10097, "header size exceeds maximum allowed of 64k"));
        }
        Ok(())
    }

    /// Stores a message that passed its checks; only the room is still in question.
    pub(super) fn store(
        &mut self,
        message: &Outgoing,
        wishes: &Wishes<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<u64, ApiError> {
        let seq = if self.config.retention == Retention::Interest && !self.is_wanted(&message.subject) {
            self.log.skip()
        } else {
            let ttl = wishes.ttl().map_err(|()| refusal(400, codes::TTL_INVALID, "invalid per-message TTL"))?;
            let size = self.log.size_of(&message.subject, &message.headers, &message.payload);
            if let Some(full) = self.refuses(&message.subject, size, wishes.rollup.is_some()) {
                return Err(refusal(503, codes::STORE_FAILED, full));
            }
            self.append(&message.subject, &message.headers, &message.payload, ttl, turn)
        };
        self.last_id = wishes.id.unwrap_or_default().into();
        if let Some(id) = wishes.id {
            self.ids.insert(id, seq, turn.now);
        }
        match wishes.rollup {
            Some("sub") => {
                self.purge(&Purge { filter: Some(message.subject.to_string()), seq: 0, keep: 1 }, turn);
            }
            Some("all") => {
                self.purge(&Purge { filter: None, seq: 0, keep: 1 }, turn);
            }
            _ => {}
        }
        Ok(seq)
    }

    fn is_wanted(&self, subject: &str) -> bool {
        self.consumers.values().any(|consumer| consumer.filter.matches(subject))
    }
}
