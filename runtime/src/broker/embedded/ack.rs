//! What clients say to deliveries: acknowledgements, refusals, signs of life; and what the server writes down.

use millstream_operators::Headers;
use serde_json::{Value, json};

use super::clock::rfc3339;
use super::consumer::Consumer;
use super::due::after;
use super::log::Log;
use super::turn::Turn;
use super::wishes::go_duration;
use crate::broker::{AckPolicy, Outgoing, SequencePair, Subject};

/// Which delivery an acknowledgement is for: the end of its subject.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivery {
    pub(super) deliveries: u64,
    pub(super) stream_seq: u64,
    pub(super) consumer_seq: u64,
}

impl Delivery {
    /// Reads `<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`.
    pub(super) fn parse(tokens: &[&str]) -> Option<Self> {
        let [deliveries, stream_seq, consumer_seq, _, _] = tokens else { return None };
        // What is no number is 0, which no delivery has.
        let number = |text: &str| text.parse().unwrap_or(0);
        Some(Delivery {
            deliveries: number(deliveries),
            stream_seq: number(stream_seq),
            consumer_seq: number(consumer_seq),
        })
    }
}

impl Consumer {
    /// A client's word on a delivery.
    pub(super) fn on_ack(&mut self, delivery: Delivery, message: &Outgoing, log: &Log, turn: &mut Turn<'_>) {
        let Delivery { deliveries, stream_seq, consumer_seq } = delivery;
        let word: &[u8] = &message.payload;
        let answered = match word {
            b"" | b"+ACK" | b"+OK" => self.acknowledge(stream_seq, consumer_seq, log, turn),
            b"+WPI" => {
                if let Some(pending) = self.pending.get_mut(&stream_seq) {
                    pending.at = turn.now;
                    let first = pending.consumer_seq;
                    self.show_delivered(first, stream_seq);
                    self.last_delivered_at = Some(turn.now);
                }
                true
            }
            word => {
                if let Some(request) = word.strip_prefix(b"+NXT") {
                    self.acknowledge(stream_seq, consumer_seq, log, turn);
                    if let Some(reply) = &message.reply {
                        self.on_pull(reply, request, log, turn);
                    }
                    return;
                } else if let Some(wait) = word.strip_prefix(b"-NAK") {
                    self.refuse(stream_seq, consumer_seq, wait, log, turn);
                    true
                } else if let Some(reason) = word.strip_prefix(b"+TERM") {
                    let reason = String::from_utf8_lossy(reason);
                    self.terminate(stream_seq, consumer_seq, deliveries, reason.trim(), log, turn)
                } else {
                    true
                }
            }
        };
        if let Some(reply) = &message.reply
            && answered
            && stream_seq > 0
        {
            turn.send(reply, "");
        }
    }

    /// Takes note of an acknowledgement; false if it means nothing here, which nobody is told.
    fn acknowledge(&mut self, seq: u64, consumer_seq: u64, log: &Log, turn: &mut Turn<'_>) -> bool {
        if seq >= self.next {
            return false;
        }
        let was_full = self.is_full();
        let was_pending = self.pending.contains_key(&seq);
        let mut consumer_seq = consumer_seq;
        match self.config.ack_policy {
            AckPolicy::None => return self.releases,
            AckPolicy::Explicit => {
                if let Some(pending) = self.pending.remove(&seq) {
                    consumer_seq = pending.consumer_seq;
                    self.move_floor(consumer_seq, seq);
                }
                self.redelivered.remove(&seq);
                self.redeliveries.remove(seq);
                if self.releases {
                    self.released.push(seq);
                }
            }
            AckPolicy::All => {
                if consumer_seq <= self.floor.consumer_seq || seq <= self.floor.stream_seq {
                    return true;
                }
                self.floor = SequencePair { consumer_seq, stream_seq: seq };
                let later = self.pending.split_off(&(seq + 1));
                let done = std::mem::replace(&mut self.pending, later);
                for other in done.keys() {
                    self.redelivered.remove(other);
                    self.redeliveries.remove(*other);
                }
                self.redelivered.remove(&seq);
                self.redeliveries.remove(seq);
                if self.releases {
                    self.released.push(seq);
                    self.released.extend(done.into_keys().filter(|other| *other != seq));
                }
            }
        }
        self.show_ack(consumer_seq, seq, was_pending);
        self.last_acked_at = Some(turn.now);
        if was_full && !self.waiting.is_empty() {
            self.pump(log, turn);
        }
        true
    }

    /// Delivers a message again, at once or after the wait that the client asks for.
    fn refuse(&mut self, seq: u64, consumer_seq: u64, wait: &[u8], log: &Log, turn: &mut Turn<'_>) {
        if consumer_seq <= self.floor.consumer_seq || consumer_seq > self.next_delivery {
            return;
        }
        let ack_wait = self.config.ack_wait;
        let Some(pending) = self.pending.get_mut(&seq) else { return };
        if let Some(delay) = delay(wait) {
            self.redeliveries.remove(seq);
            // It counts as delivered long enough ago to be due after the delay.
            pending.at = after(turn.now, delay).saturating_sub(i64::try_from(ack_wait).unwrap_or(i64::MAX));
            let first = pending.consumer_seq;
            self.show_delivered(first, seq);
            let look = turn.wake_after(delay.clamp(1_000_000, 10_000_000));
            self.ack_check = Some(self.ack_check.map_or(look, |due| due.min(look)));
            return;
        }
        if !self.redeliveries.contains(seq) {
            self.redeliveries.push(seq);
        }
        self.pump(log, turn);
    }

    /// Gives a message up for good.
    pub(super) fn terminate(
        &mut self,
        seq: u64,
        consumer_seq: u64,
        deliveries: u64,
        reason: &str,
        log: &Log,
        turn: &mut Turn<'_>,
    ) -> bool {
        let answered = self.acknowledge(seq, consumer_seq, log, turn);
        let (stream, name) = (&self.stream, &self.name);
        let mut body = json!({
            "type": "io.nats.jetstream.advisory.v1.terminated",
            "timestamp": rfc3339(turn.now),
            "stream": stream,
            "consumer": name,
            "consumer_seq": consumer_seq,
            "stream_seq": seq,
            "deliveries": deliveries,
        });
        if let Some(body) = body.as_object_mut()
            && !reason.is_empty()
        {
            body.insert("reason".into(), reason.into());
        }
        turn.advise(format!("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.{stream}.{name}"), &body);
        answered
    }

    /// Whether as many messages are unacknowledged as may be.
    pub(super) fn is_full(&self) -> bool {
        u64::try_from(self.config.max_ack_pending).is_ok_and(|most| most > 0 && self.pending.len() as u64 >= most)
    }

    /// Moves the ack floor after this message was taken from the pending ones.
    pub(super) fn move_floor(&mut self, consumer_seq: u64, seq: u64) {
        if self.pending.is_empty() {
            self.floor = self.position();
        } else if consumer_seq == self.floor.consumer_seq + 1 {
            self.floor = SequencePair { consumer_seq, stream_seq: seq };
            if let Some((next, pending)) = self.pending.range(seq + 1..self.next.max(seq + 1)).next() {
                self.floor =
                    SequencePair { consumer_seq: pending.consumer_seq.saturating_sub(1), stream_seq: next - 1 };
            }
        }
    }

    /// Writes a delivery down.
    pub(super) fn show_delivered(&mut self, consumer_seq: u64, seq: u64) {
        if consumer_seq <= self.shown_floor.consumer_seq {
            return;
        }
        let grow = |pair: &mut SequencePair| {
            pair.consumer_seq = pair.consumer_seq.max(consumer_seq);
            pair.stream_seq = pair.stream_seq.max(seq);
        };
        grow(&mut self.shown_delivered);
        if self.config.ack_policy == AckPolicy::None {
            grow(&mut self.shown_floor);
        }
    }

    /// Writes an acknowledgement down, of a message that was pending or not.
    pub(super) fn show_ack(&mut self, consumer_seq: u64, seq: u64, was_pending: bool) {
        if consumer_seq <= self.shown_floor.consumer_seq || !was_pending {
            return;
        }
        let acked = SequencePair { consumer_seq, stream_seq: seq };
        if self.config.ack_policy == AckPolicy::All {
            self.shown_floor = acked;
        } else if self.pending.is_empty() {
            self.shown_floor = self.shown_delivered;
        } else if consumer_seq == self.shown_floor.consumer_seq + 1 {
            self.shown_floor = acked;
            let last = self.shown_delivered.stream_seq;
            if self.shown_delivered.consumer_seq > consumer_seq
                && let Some((next, pending)) = self.pending.range(seq + 1..=last.max(seq + 1)).next()
                && *next <= last
            {
                self.shown_floor =
                    SequencePair { consumer_seq: pending.consumer_seq.saturating_sub(1), stream_seq: next - 1 };
            }
        }
    }

    /// Writes everything down, unless it makes no sense or goes back.
    pub(super) fn show_all(&mut self) {
        let (delivered, floor) = (self.position(), self.floor);
        let sound = floor.consumer_seq <= delivered.consumer_seq
            && floor.stream_seq <= delivered.stream_seq
            && self.pending.keys().all(|seq| *seq > floor.stream_seq && *seq <= delivered.stream_seq);
        let newer = delivered.consumer_seq >= self.shown_delivered.consumer_seq
            && floor.stream_seq >= self.shown_floor.stream_seq;
        if sound && newer {
            self.shown_delivered = delivered;
            self.shown_floor = floor;
        }
    }
}

/// The wait in a refusal: `{"delay": nanoseconds}` or a duration as Go writes it; `None` for none or nonsense.
fn delay(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.trim();
    if text.starts_with('{') {
        let body: Value = serde_json::from_str(text).ok()?;
        return Some(body.get("delay").and_then(Value::as_u64).unwrap_or(0));
    }
    go_duration(text)
}

/// The reply subject of a delivery, in the server's first format.
pub(super) fn ack_subject(consumer: &Consumer, delivery: Delivery, stored_at: i64, to_come: i64) -> Subject {
    use std::fmt::Write as _;
    let (stream, name) = (&consumer.stream, &consumer.name);
    let Delivery { deliveries, stream_seq, consumer_seq } = delivery;
    let mut subject = String::with_capacity(stream.len() + name.len() + 70);
    // Writing to a string cannot fail.
    let _ = write!(
        subject,
        "$JS.ACK.{stream}.{name}.{deliveries}.{stream_seq}.{consumer_seq}.{stored_at}.{}",
        to_come.max(0)
    );
    subject.into()
}

/// The headers that tell how much of a pull is left.
pub(super) fn left(messages: i64, bytes: i64) -> Headers {
    let mut headers = Headers::NONE;
    for (name, value) in [("Nats-Pending-Messages", messages), ("Nats-Pending-Bytes", bytes)] {
        // Both are sound.
        let _ = headers.push(name, &value.to_string());
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_may_ask_for_a_wait() {
        assert_eq!(delay(br#" {"delay": 5}"#), Some(5));
        assert_eq!(delay(b" 2s"), Some(2_000_000_000));
        assert_eq!(delay(b""), None);
        assert_eq!(delay(b" soon"), None);
    }
}
