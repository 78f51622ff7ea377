//! [`Staged`]: the checks of a message in a batch, against its stream and the messages of the batch before it.

use std::collections::{BTreeMap, BTreeSet};

use super::refusal::{refusal, wrong_last};
use super::stream::{Stream, limit};
use super::wishes::Wishes;
use crate::broker::{ApiError, Discard, Outgoing, Subject, codes};

/// What is known of the messages of a batch that were checked and are not stored yet.
#[derive(Default)]
pub(super) struct Staged {
    ids: BTreeSet<String>,
    /// How many messages each subject gets.
    written: BTreeMap<Subject, u64>,
    messages: u64,
    bytes: u64,
}

/// Why a message of a batch is refused.
pub(super) enum Refused {
    /// Its id is known; its sequence, if it is stored.
    Duplicate(u64),
    Because(ApiError),
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Refused::Because(error)
    }
}

impl Refused {
    pub(super) fn into_error(self) -> ApiError {
        match self {
            Refused::Because(error) => error,
            Refused::Duplicate(_) => {
                refusal(400, codes::ATOMIC_DUPLICATE_ID, "atomic publish batch contains duplicate message id")
            }
        }
    }
}

impl Staged {
    /// Checks a message in the server's order, and counts it in if nothing speaks against it.
    pub(super) fn check(
        &mut self,
        stream: &mut Stream,
        message: &Outgoing,
        wishes: &Wishes<'_>,
        now: i64,
    ) -> Result<(), Refused> {
        if message.size() - message.payload.len() > usize::from(u16::MAX) {
            return Err(refusal(400, 10097, "header size exceeds maximum allowed of 64k").into());
        }
        if wishes.stream.is_some_and(|name| name != stream.config.name) {
            return Err(refusal(400, codes::STREAM_MISMATCH, "expected stream does not match").into());
        }
        match wishes.ttl() {
            Ok(None) => {}
            _ if !stream.config.allow_msg_ttl => {
                return Err(refusal(400, codes::TTL_DISABLED, "per-message TTL is disabled").into());
            }
            Ok(Some(_)) => {}
            Err(()) => return Err(refusal(400, codes::TTL_INVALID, "invalid per-message TTL").into()),
        }
        if let Some(id) = wishes.id {
            if self.ids.contains(id) {
                return Err(Refused::Duplicate(0));
            }
            if let Some(seq) = stream.ids.find(id, now, stream.config.duplicate_window) {
                return Err(Refused::Duplicate(seq));
            }
            self.ids.insert(id.to_owned());
        }
        self.check_expected(stream, message, wishes)?;
        self.check_rollup(stream, message, wishes)?;
        self.messages += 1;
        self.bytes += stream.log.size_of(&message.subject, &message.headers, &message.payload);
        *self.written.entry(message.subject.clone()).or_default() += 1;
        self.check_room(stream, message, wishes)?;
        Ok(())
    }

    fn check_expected(&self, stream: &Stream, message: &Outgoing, wishes: &Wishes<'_>) -> Result<(), ApiError> {
        // A check that depends on the batch itself could never be right.
        let confused = || refusal(400, codes::WRONG_LAST_SEQUENCE_IN_PROCESS, "wrong last sequence");
        if let Some(expected) = wishes.last_seq {
            let last = stream.log.last() + self.messages;
            if expected != last {
                return Err(wrong_last(last));
            }
            if self.messages > 0 {
                return Err(confused());
            }
        }
        if let Some(expected) = wishes.last_subject_seq {
            let subject = wishes.last_subject.unwrap_or(&message.subject);
            if self.written.contains_key(subject) {
                return Err(confused());
            }
            let last = stream.log.last_of(subject).unwrap_or(0);
            if last != expected {
                return Err(wrong_last(last));
            }
        } else if wishes.last_subject.is_some() {
            return Err(refusal(400, 10193, "missing sequence for expected last sequence per subject"));
        }
        Ok(())
    }

    fn check_rollup(&self, stream: &Stream, message: &Outgoing, wishes: &Wishes<'_>) -> Result<(), ApiError> {
        stream.check_rollup(wishes)?;
        let why = match wishes.rollup {
            Some("sub") if self.written.contains_key(&message.subject) => "batch rollup sub invalid",
            Some("all") if self.messages > 0 => "batch rollup all invalid",
            _ => return Ok(()),
        };
        Err(refusal(500, codes::ROLLUP_FAILED, why))
    }

    fn check_room(&self, stream: &Stream, message: &Outgoing, wishes: &Wishes<'_>) -> Result<(), ApiError> {
        let config = &stream.config;
        if config.discard != Discard::New {
            return Ok(());
        }
        let why = if limit(config.max_msgs).is_some_and(|most| stream.log.len() + self.messages > most) {
            "maximum messages exceeded"
        } else if limit(config.max_bytes).is_some_and(|most| stream.log.bytes() + self.bytes > most) {
            "maximum bytes exceeded"
        } else if config.discard_new_per_subject && wishes.rollup.is_none() {
            let (stored, _) = stream.log.count_of(&message.subject);
            let written = self.written.get(&message.subject).copied().unwrap_or(0);
            if limit(config.max_msgs_per_subject).is_none_or(|most| stored + written <= most) {
                return Ok(());
            }
            "maximum messages per subject exceeded"
        } else {
            return Ok(());
        };
        Err(refusal(503, codes::STORE_FAILED, why))
    }
}
