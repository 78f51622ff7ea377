//! Delivering: which message is next, and to which pull it goes.

use super::ack::{Delivery, ack_subject, left};
use super::consumer::{Consumer, Pending};
use super::log::{Log, Stored};
use super::turn::Turn;
use crate::broker::message::headers_len;
use crate::broker::{AckPolicy, Incoming, Subject};

/// What there is to deliver.
enum Next<'a> {
    /// This message, for the so many'th time.
    Message(u64, &'a Stored, u64),
    /// Nothing: the end of the stream.
    Nothing,
    /// Nothing before some messages are acknowledged.
    Full,
}

impl Consumer {
    /// Delivers as long as there are messages and pulls.
    pub(super) fn pump(&mut self, log: &Log, turn: &mut Turn<'_>) {
        let mut at_end = true;
        while !self.waiting.is_empty() {
            let (seq, message, deliveries) = match self.next_message(log, turn) {
                Next::Message(seq, message, deliveries) => (seq, message, deliveries),
                Next::Nothing => break,
                Next::Full => {
                    at_end = false;
                    break;
                }
            };
            if deliveries == 1 {
                self.to_come -= 1;
            }
            let delivery = Delivery { deliveries, stream_seq: seq, consumer_seq: self.next_delivery };
            let ack = ack_subject(self, delivery, message.at, self.to_come);
            let size = message.subject.len() + ack.len() + headers_len(&message.headers) + message.payload.len();
            let Some(pull) = self.claim(i64::try_from(size).unwrap_or(i64::MAX), turn) else {
                self.put_back(seq, deliveries);
                break;
            };
            self.deliver(&pull.reply, ack, delivery, message, turn);
            if pull.left <= 0 && pull.bytes_left > 0 {
                turn.send_status(&pull.reply, 409, "Batch Completed", left(pull.left, pull.bytes_left));
            }
        }
        if !self.waiting.is_empty() {
            self.sweep(at_end, turn);
        }
    }

    /// Finds the next message and moves on behind it.
    fn next_message<'a>(&mut self, log: &'a Log, turn: &mut Turn<'_>) -> Next<'a> {
        while let Some(seq) = self.redeliveries.pop() {
            let again = self.redelivered.entry(seq).or_default();
            *again += 1;
            let deliveries = *again + 1;
            let most = u64::try_from(self.config.max_deliver).unwrap_or(0);
            if most > 0 && deliveries > most {
                if deliveries == most + 1 {
                    self.advise_exhausted(seq, deliveries - 1, turn);
                }
                if let Some(pending) = self.pending.remove(&seq) {
                    self.show_delivered(pending.consumer_seq, seq);
                    self.move_floor(pending.consumer_seq, seq);
                }
                continue;
            }
            match log.get(seq) {
                Some(message) => return Next::Message(seq, message, deliveries),
                // It was removed while it waited to be delivered again.
                None => self.uncount(seq),
            }
        }
        if self.is_full() {
            return Next::Full;
        }
        while let Some(seq) = self.lasts.pop_front() {
            self.next = if self.lasts.is_empty() { self.after_lasts } else { seq } + 1;
            if let Some(message) = log.get(seq) {
                return Next::Message(seq, message, 1);
            }
        }
        if let Some((seq, message)) = log.next(self.next, &self.filter) {
            self.next = seq + 1;
            return Next::Message(seq, message, 1);
        }
        self.next = self.next.max(log.last() + 1);
        if self.to_come != 0 {
            (self.to_come, self.counted_to) = (0, log.last());
        }
        Next::Nothing
    }

    /// Nobody took the message that was next.
    fn put_back(&mut self, seq: u64, deliveries: u64) {
        if deliveries == 1 && seq + 1 == self.next {
            self.next = seq;
            self.to_come += 1;
        } else if !self.redeliveries.contains(seq) {
            self.uncount(seq);
            self.redeliveries.push(seq);
        }
    }

    /// A redelivery that was counted did not happen.
    fn uncount(&mut self, seq: u64) {
        if let Some(again) = self.redelivered.get_mut(&seq) {
            *again = again.saturating_sub(1);
            if *again == 0 {
                self.redelivered.remove(&seq);
            }
        }
    }

    fn deliver(&mut self, to: &Subject, ack: Subject, delivery: Delivery, message: &Stored, turn: &mut Turn<'_>) {
        let Delivery { stream_seq, consumer_seq, .. } = delivery;
        self.next_delivery += 1;
        self.last_delivered_at = Some(turn.now);
        self.active_at = turn.now;
        self.show_delivered(consumer_seq, stream_seq);
        if self.config.ack_policy == AckPolicy::None {
            self.floor.consumer_seq = consumer_seq;
            self.floor.stream_seq = stream_seq;
            if self.releases {
                self.released.push(stream_seq);
            }
        } else {
            let pending = self.pending.entry(stream_seq).or_insert(Pending { consumer_seq, at: turn.now });
            pending.at = turn.now;
            self.watch(stream_seq, turn);
        }
        let wire_len = message.subject.len() + ack.len() + headers_len(&message.headers) + message.payload.len();
        let incoming = Incoming {
            subject: message.subject.clone(),
            reply: Some(ack),
            headers: message.headers.clone(),
            status: None,
            description: None,
            payload: message.payload.clone(),
            wire_len,
        };
        turn.deliver(to, incoming);
    }
}
