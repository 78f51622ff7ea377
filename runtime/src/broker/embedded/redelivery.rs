//! [`Redeliveries`]: what is to be delivered again, in the order in which that was decided; and the looking after
//! of messages that nobody acknowledges.

use std::collections::{BTreeMap, VecDeque};

use serde_json::json;

use super::clock::rfc3339;
use super::consumer::Consumer;
use super::log::Log;
use super::turn::Turn;

/// A queue without repeats, from which anything can be taken quickly.
#[derive(Debug, Default)]
pub(super) struct Redeliveries {
    queue: VecDeque<(u64, u64)>,
    /// The one ticket of each sequence that counts; other entries of the queue are left-overs.
    tickets: BTreeMap<u64, u64>,
    last_ticket: u64,
}

impl Redeliveries {
    pub(super) fn contains(&self, seq: u64) -> bool {
        self.tickets.contains_key(&seq)
    }

    pub(super) fn len(&self) -> u64 {
        self.tickets.len() as u64
    }

    pub(super) fn push(&mut self, seq: u64) {
        self.last_ticket += 1;
        self.tickets.insert(seq, self.last_ticket);
        self.queue.push_back((seq, self.last_ticket));
    }

    pub(super) fn pop(&mut self) -> Option<u64> {
        while let Some((seq, ticket)) = self.queue.pop_front() {
            if self.tickets.get(&seq) == Some(&ticket) {
                self.tickets.remove(&seq);
                return Some(seq);
            }
        }
        None
    }

    pub(super) fn remove(&mut self, seq: u64) {
        self.tickets.remove(&seq);
        if self.tickets.is_empty() {
            self.queue.clear();
        }
    }

    /// Keeps only what is at or after `seq`.
    pub(super) fn retain_from(&mut self, seq: u64) {
        self.tickets.retain(|s, _| *s >= seq);
        self.queue.retain(|(s, _)| *s >= seq);
    }
}

/// The server's timers run this much late, so that what is due together comes together.
const SLACK: u64 = 1_000_000;

impl Consumer {
    /// How long a message may stay unacknowledged after so many redeliveries.
    fn ack_wait(&self, redeliveries: u64) -> u64 {
        let last = self.config.backoff.len().saturating_sub(1);
        let step = usize::try_from(redeliveries).unwrap_or(usize::MAX).min(last);
        self.config.backoff.get(step).copied().unwrap_or(self.config.ack_wait)
    }

    /// The longest time a message may stay unacknowledged.
    pub(super) fn longest_wait(&self) -> i64 {
        let longest = self.config.backoff.iter().copied().max().unwrap_or(self.config.ack_wait);
        i64::try_from(longest).unwrap_or(i64::MAX)
    }

    /// Sees to it that a message delivered just now is looked at in time.
    pub(super) fn watch(&mut self, seq: u64, turn: &mut Turn<'_>) {
        if self.config.ack_wait == 0 {
            return;
        }
        let wait = self.ack_wait(self.redelivered.get(&seq).copied().unwrap_or(0)).saturating_add(SLACK);
        let when = super::due::after(turn.now, wait);
        if self.ack_check.is_none_or(|due| due > when) {
            self.ack_check = Some(turn.wake_after(wait));
        }
    }

    /// How often a message was delivered, as the server counts: 1 after the first redelivery still.
    pub(super) fn deliveries(&self, seq: u64) -> u64 {
        self.redelivered.get(&seq).copied().unwrap_or(1).max(1)
    }

    /// Has messages delivered again that were not acknowledged in time.
    pub(super) fn check_pending(&mut self, log: &Log, turn: &mut Turn<'_>) {
        match self.ack_check {
            Some(due) if due <= turn.now => {}
            Some(due) => return turn.due.at(due),
            None => return,
        }
        self.ack_check = None;
        let first = log.first();
        let mut next = self.config.backoff.last().copied().unwrap_or(self.config.ack_wait.saturating_add(SLACK));
        let (mut expired, mut invalid, mut exhausted) = (Vec::new(), Vec::new(), Vec::new());
        for (seq, pending) in &self.pending {
            if *seq < first || *seq <= self.floor.stream_seq {
                invalid.push((*seq, *pending));
                continue;
            }
            let redeliveries = self.redelivered.get(seq).copied().unwrap_or(0);
            let deadline = self.ack_wait(redeliveries);
            if !self.config.backoff.is_empty() {
                next = next.min(self.ack_wait(redeliveries + 1));
            }
            let left = super::due::after(pending.at, deadline).saturating_sub(turn.now);
            if left > 0 {
                next = next.min(left.unsigned_abs());
            } else if self.is_exhausted(*seq) {
                exhausted.push(*seq);
            } else if !self.redeliveries.contains(*seq) {
                expired.push((*seq, pending.at));
            }
        }
        for (seq, pending) in &invalid {
            self.pending.remove(seq);
            self.redelivered.remove(seq);
            self.redeliveries.remove(*seq);
            self.floor.stream_seq = self.floor.stream_seq.max(*seq);
            self.floor.consumer_seq = self.floor.consumer_seq.max(pending.consumer_seq);
        }
        for seq in exhausted {
            self.exhaust(seq, turn);
        }
        if let Some((_, oldest)) = expired.first().copied() {
            // Later ones stay later, so that the next look finds them in the same order.
            let shift = turn.now.saturating_sub(oldest);
            for (seq, _) in &expired {
                self.redeliveries.push(*seq);
                if let Some(pending) = self.pending.get_mut(seq) {
                    pending.at = pending.at.saturating_add(shift);
                }
            }
        }
        if self.pending.is_empty() {
            self.redeliveries = Redeliveries::default();
            self.floor = self.position();
        } else {
            self.ack_check = Some(turn.wake_after(next.max(SLACK)));
        }
        if !invalid.is_empty() {
            self.show_all();
        }
        if !self.waiting.is_empty() {
            self.pump(log, turn);
        }
    }

    /// Whether a message was delivered as often as is allowed. After a first redelivery the server finds out only
    /// when it is about to deliver the message once more.
    fn is_exhausted(&self, seq: u64) -> bool {
        u64::try_from(self.config.max_deliver).is_ok_and(|most| most > 0 && self.deliveries(seq) >= most)
    }

    /// Gives a message up that was delivered as often as is allowed.
    fn exhaust(&mut self, seq: u64, turn: &mut Turn<'_>) {
        let deliveries = self.deliveries(seq);
        if i64::try_from(deliveries).is_ok_and(|count| count == self.config.max_deliver) {
            self.advise_exhausted(seq, deliveries, turn);
        }
        if let Some(pending) = self.pending.remove(&seq) {
            self.show_delivered(pending.consumer_seq, seq);
            self.move_floor(pending.consumer_seq, seq);
        }
        self.redelivered.insert(seq, deliveries);
    }

    pub(super) fn advise_exhausted(&self, seq: u64, deliveries: u64, turn: &mut Turn<'_>) {
        let (stream, name) = (&self.stream, &self.name);
        turn.advise(
            format!("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stream}.{name}"),
            &json!({
                "type": "io.nats.jetstream.advisory.v1.max_deliver",
                "timestamp": rfc3339(turn.now),
                "stream": stream,
                "consumer": name,
                "stream_seq": seq,
                "deliveries": deliveries,
            }),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_queued_again_is_last_again() {
        let mut redeliveries = Redeliveries::default();
        for seq in [3, 1, 2] {
            redeliveries.push(seq);
        }
        redeliveries.remove(3);
        redeliveries.push(3);
        assert_eq!(redeliveries.len(), 3);
        let order: Vec<u64> = std::iter::from_fn(|| redeliveries.pop()).collect();
        assert_eq!(order, [1, 2, 3]);
    }
}
