//! [`Stream`]: one stream of the embedded broker, its messages and its consumers.

use std::collections::BTreeMap;

use bytes::Bytes;
use millstream_operators::Headers;
use serde_json::{Value, json};

use super::atomic::Atomic;
use super::clock::{NEVER, rfc3339};
use super::consumer::Consumer;
use super::due::after;
use super::fast::Fast;
use super::filter::Filter;
use super::ids::Ids;
use super::log::{Log, Stored};
use super::stream_config::describe;
use super::turn::Turn;
use crate::broker::{Discard, Retention, Storage, StreamConfig, Subject};

/// A stream.
pub(super) struct Stream {
    pub(super) config: StreamConfig,
    pub(super) created: i64,
    pub(super) log: Log,
    pub(super) consumers: BTreeMap<Box<str>, Consumer>,
    pub(super) ids: Ids,
    /// The id of the last message, if it had one.
    pub(super) last_id: Box<str>,
    /// The beginning of each publish acknowledgement, up to the sequence.
    pub(super) ack_prefix: String,
    pub(super) atomic: Atomic,
    pub(super) fast: Fast,
    captures: Filter,
}

impl Stream {
    pub(super) fn new(config: StreamConfig, now: i64) -> Self {
        Stream {
            created: now,
            log: Log::new(config.storage == Storage::Memory),
            consumers: BTreeMap::new(),
            ids: Ids::default(),
            last_id: Box::default(),
            ack_prefix: format!("{{\"stream\":{},\"seq\":", Value::from(config.name.as_str())),
            atomic: Atomic::default(),
            fast: Fast::default(),
            captures: Filter::new(&config.subjects),
            config,
        }
    }

    /// Whether a message to this subject belongs here.
    pub(super) fn captures(&self, subject: &str) -> bool {
        self.captures.matches(subject)
    }

    pub(super) fn limits_only(&self) -> bool {
        self.config.retention == Retention::Limits
    }

    /// Takes over a changed configuration, which was checked.
    pub(super) fn configure(&mut self, config: StreamConfig, turn: &mut Turn<'_>) {
        self.captures = Filter::new(&config.subjects);
        self.config = config;
        if let Some(most) = limit(self.config.max_msgs_per_subject) {
            for (subject, count) in self.log.totals(">") {
                for seq in self.log.sequences(&subject).into_iter().take(count.saturating_sub(most) as usize) {
                    self.remove(seq, turn);
                }
            }
        }
        self.enforce(turn);
        self.expire(turn);
    }

    /// Why a message cannot be stored as a stream that refuses new messages sees it; `None` if it can.
    pub(super) fn refuses(&self, subject: &Subject, size: u64, rollup: bool) -> Option<&'static str> {
        if self.config.discard != Discard::New {
            return None;
        }
        // A message over its subject's limit takes the place of an older one.
        let replaced = limit(self.config.max_msgs_per_subject)
            .map(|most| (most, self.log.count_of(subject)))
            .filter(|(most, (count, _))| count >= most)
            .and_then(|(_, (_, first))| self.log.get(first?));
        if replaced.is_some() && self.config.discard_new_per_subject && !rollup {
            return Some("maximum messages per subject exceeded");
        }
        if limit(self.config.max_msgs).is_some_and(|most| self.log.len() >= most) && replaced.is_none() {
            return Some("maximum messages exceeded");
        }
        if limit(self.config.max_bytes).is_some_and(|most| self.log.bytes() + size > most) {
            let room = replaced.map_or(0, |old| self.log.size_of(&old.subject, &old.headers, &old.payload));
            if room < size {
                return Some("maximum bytes exceeded");
            }
        }
        None
    }

    /// Stores a message for which there is room, and gives up what the limits no longer allow.
    pub(super) fn append(
        &mut self,
        subject: &Subject,
        headers: &Headers,
        payload: &Bytes,
        ttl: Option<u64>,
        turn: &mut Turn<'_>,
    ) -> u64 {
        let expires = ttl.map(|nanos| {
            if nanos == u64::MAX {
                return i64::MAX;
            }
            turn.wake_after(nanos)
        });
        let seq = self.log.push(Stored {
            subject: subject.clone(),
            headers: headers.clone(),
            payload: payload.clone(),
            at: turn.now,
            expires,
        });
        if let Some(most) = limit(self.config.max_msgs_per_subject) {
            while let (count, Some(first)) = self.log.count_of(subject)
                && count > most
            {
                self.remove(first, turn);
            }
        }
        self.enforce(turn);
        if self.config.max_age > 0 {
            turn.wake_after(self.config.max_age);
        }
        seq
    }

    fn enforce(&mut self, turn: &mut Turn<'_>) {
        if self.config.discard != Discard::Old {
            return;
        }
        let (most, most_bytes) = (limit(self.config.max_msgs), limit(self.config.max_bytes));
        while self.log.len() > 0
            && (most.is_some_and(|most| self.log.len() > most)
                || most_bytes.is_some_and(|most| self.log.bytes() > most))
        {
            self.remove(self.log.first(), turn);
        }
    }

    /// Removes one message and tells the consumers; false if there is none.
    pub(super) fn remove(&mut self, seq: u64, turn: &mut Turn<'_>) -> bool {
        let Some(message) = self.log.remove(seq) else { return false };
        for consumer in self.consumers.values_mut() {
            consumer.on_removed(seq, &message.subject, &self.log, turn);
        }
        true
    }

    /// Removes what is too old.
    fn expire(&mut self, turn: &mut Turn<'_>) {
        if self.config.max_age > 0 {
            while let Some(seq) = self.oldest(turn.now) {
                self.remove(seq, turn);
            }
            let next = self.log.from(0).find(|(_, message)| message.expires != Some(i64::MAX));
            if let Some((_, message)) = next {
                turn.due.at(after(message.at, self.config.max_age));
            }
        }
        if self.config.allow_msg_ttl {
            let dead = self.log.from(0).filter(|(_, m)| m.expires.is_some_and(|at| at <= turn.now));
            for seq in dead.map(|(seq, _)| seq).collect::<Vec<_>>() {
                self.remove(seq, turn);
            }
            if let Some(next) = self.log.from(0).filter_map(|(_, m)| m.expires).filter(|at| *at != i64::MAX).min() {
                turn.due.at(next);
            }
        }
    }

    /// The first message if it is over the greatest age.
    fn oldest(&self, now: i64) -> Option<u64> {
        let (seq, message) = self.log.from(0).find(|(_, message)| message.expires != Some(i64::MAX))?;
        (after(message.at, self.config.max_age) <= now).then_some(seq)
    }

    /// Does what is due.
    pub(super) fn on_time(&mut self, turn: &mut Turn<'_>) {
        self.expire(turn);
        self.expire_atomic(turn);
        self.expire_fast(turn);
        let mut gone = Vec::new();
        for (name, consumer) in &mut self.consumers {
            if !consumer.on_time(&self.log, turn) {
                gone.push(name.clone());
            }
        }
        for name in gone {
            self.delete_consumer(&name, turn);
        }
        self.settle(turn);
    }

    /// Deletes a consumer; false if there is none.
    pub(super) fn delete_consumer(&mut self, name: &str, turn: &mut Turn<'_>) -> bool {
        let Some(mut consumer) = self.consumers.remove(name) else { return false };
        consumer.on_deleted(turn);
        if self.config.retention == Retention::Interest {
            if self.consumers.is_empty() {
                self.log.clear(0);
            } else {
                self.drop_unwanted(consumer.floor.stream_seq, turn);
            }
        }
        true
    }

    /// Removes messages from `seq` on that no consumer wants (any more).
    pub(super) fn drop_unwanted(&mut self, seq: u64, turn: &mut Turn<'_>) {
        let wanted = |seq: u64, subject: &str| self.consumers.values().any(|c| c.needs(seq, subject));
        let unwanted: Vec<u64> =
            self.log.from(seq).filter(|(seq, m)| !wanted(*seq, &m.subject)).map(|(seq, _)| seq).collect();
        for seq in unwanted {
            self.remove(seq, turn);
        }
    }

    /// Removes messages that consumers are done with, if the stream keeps them for consumers only.
    pub(super) fn settle(&mut self, turn: &mut Turn<'_>) {
        if self.limits_only() {
            return;
        }
        let mut done = Vec::new();
        for consumer in self.consumers.values_mut() {
            done.append(&mut consumer.released);
        }
        for seq in done {
            let Some(message) = self.log.get(seq) else { continue };
            if !self.consumers.values().any(|consumer| consumer.needs(seq, &message.subject)) {
                self.remove(seq, turn);
            }
        }
    }

    /// What the API tells of the stream.
    pub(super) fn describe(&self, now: i64) -> Value {
        let first_at = self.log.from(0).next().map(|(_, message)| message.at);
        let mut state = json!({
            "messages": self.log.len(),
            "bytes": self.log.bytes(),
            "first_seq": self.log.first(),
            "first_ts": first_at.map_or_else(|| NEVER.to_owned(), rfc3339),
            "last_seq": self.log.last(),
            "last_ts": self.log.last_at().map_or_else(|| NEVER.to_owned(), rfc3339),
            "consumer_count": self.consumers.len(),
        });
        if let Some(state) = state.as_object_mut() {
            let deleted = (self.log.last() + 1).saturating_sub(self.log.first()).saturating_sub(self.log.len());
            if self.log.len() > 0 && deleted > 0 {
                state.insert("num_deleted".into(), deleted.into());
            }
            if self.log.subject_count() > 0 {
                state.insert("num_subjects".into(), self.log.subject_count().into());
            }
        }
        json!({ "config": describe(&self.config), "created": rfc3339(self.created), "state": state, "ts": rfc3339(now) })
    }
}

/// A limit, if there is one.
pub(super) fn limit(value: i64) -> Option<u64> {
    u64::try_from(value).ok().filter(|most| *most > 0)
}
