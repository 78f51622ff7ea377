//! Fast ingest: batches whose messages are stored as they come, and acknowledged every so many.

use std::collections::BTreeMap;

use serde_json::json;

use super::atomic::{IDLE, LONGEST_ID};
use super::place::{Operation, Place};
use super::refusal::refusal;
use super::staged::{Refused, Staged};
use super::stream::Stream;
use super::turn::Turn;
use super::wishes::Wishes;
use crate::broker::{ApiError, Outgoing, Subject, codes};

/// The most messages between two acknowledgements, shared by the batches of a stream.
const MOST_FLOW: u64 = 500;
/// The most open batches of a stream.
const MOST_BATCHES: usize = 1000;

/// The open batches of a stream, by id.
#[derive(Default)]
pub(super) struct Fast(BTreeMap<Box<str>, Batch>);

struct Batch {
    gaps_allowed: bool,
    /// The number of its last message.
    last: u64,
    /// Up to which number all is stored.
    stored: u64,
    /// The sequence of what was stored last.
    stored_seq: u64,
    /// The number that was acknowledged last.
    acked: u64,
    /// How many messages there are to an acknowledgement, and how many the client wants at most.
    flow: u64,
    most_flow: u64,
    /// Whether a message passed its checks and was not stored after all.
    stuck: bool,
    abandoned_at: i64,
}

impl Batch {
    /// The flow acknowledgement that is due now, if one is; the flow then follows the number of open batches.
    fn due_flow(&mut self, batches: usize) -> Option<String> {
        if self.stored < self.acked + self.flow {
            return None;
        }
        self.acked += (self.stored - self.acked) / self.flow * self.flow;
        let most = (MOST_FLOW / batches.max(1) as u64).max(1).min(self.most_flow);
        if self.flow < most {
            self.flow = (self.flow * 2).min(most);
        } else if self.flow > most {
            self.flow = (self.flow / 2).max(most);
        }
        Some(self.flow_ack(self.acked))
    }

    fn flow_ack(&self, number: u64) -> String {
        json!({ "type": "ack", "seq": number, "msgs": self.flow }).to_string()
    }
}

impl Stream {
    /// Takes a message of fast ingest.
    pub(super) fn take_fast(&mut self, message: &Outgoing, reply: &Subject, turn: &mut Turn<'_>) {
        match self.admit(message, reply, turn) {
            Err(error) => turn.send(reply, self.refuse(&error)),
            Ok(place) if place.operation == Operation::Ping => self.ping(&place, reply, turn),
            Ok(place) => self.take_numbered(&place, message, reply, turn),
        }
    }

    /// Finds or opens the batch.
    fn admit<'a>(&mut self, message: &Outgoing, reply: &'a str, turn: &mut Turn<'_>) -> Result<Place<'a>, ApiError> {
        self.check_size(message)?;
        if !self.config.allow_batched {
            return Err(refusal(400, codes::FAST_DISABLED, "batch publish is disabled"));
        }
        let place = Place::parse(reply).ok_or_else(|| refusal(400, 10206, "batch publish pattern is invalid"))?;
        if place.batch.len() > LONGEST_ID {
            return Err(refusal(400, 10207, "batch publish ID is invalid"));
        }
        let open = self.fast.0.len();
        if !self.fast.0.contains_key(place.batch) {
            if place.number != 1 {
                return Err(refusal(400, codes::FAST_UNKNOWN_BATCH, "batch publish ID unknown"));
            }
            if open >= MOST_BATCHES {
                return Err(refusal(429, 10211, "batch publish too many inflight"));
            }
        }
        let batch = self.fast.0.entry(place.batch.into()).or_insert(Batch {
            gaps_allowed: place.gaps_allowed,
            last: 0,
            stored: 0,
            stored_seq: 0,
            acked: 0,
            // With others there it has to begin slowly.
            flow: if open > 0 { 1 } else { place.flow.min(MOST_FLOW) },
            most_flow: place.flow,
            stuck: false,
            abandoned_at: 0,
        });
        batch.abandoned_at = turn.wake_after(IDLE);
        Ok(place)
    }

    fn ping(&mut self, place: &Place<'_>, reply: &Subject, turn: &mut Turn<'_>) {
        let open = self.fast.0.len();
        let Some(batch) = self.fast.0.get_mut(place.batch) else { return };
        if place.number > batch.last {
            turn.send(reply, gap(batch.last + 1, place.number + 1));
            if !batch.gaps_allowed {
                return self.finish(place.batch, reply, turn);
            }
            batch.last = place.number;
            if !batch.stuck {
                batch.stored = batch.last;
            }
            if let Some(ack) = batch.due_flow(open) {
                return turn.send(reply, ack);
            }
        }
        turn.send(reply, batch.flow_ack(batch.acked));
    }

    fn take_numbered(&mut self, place: &Place<'_>, message: &Outgoing, reply: &Subject, turn: &mut Turn<'_>) {
        let Some(batch) = self.fast.0.get_mut(place.batch) else { return };
        if place.number != batch.last + 1 {
            turn.send(reply, gap(batch.last + 1, place.number));
            if !batch.gaps_allowed || place.number <= batch.last {
                return self.finish(place.batch, reply, turn);
            }
        }
        if place.operation == Operation::End {
            batch.last = batch.last.max(place.number - 1);
            if !batch.stuck {
                batch.stored = batch.last;
            }
            return self.finish(place.batch, reply, turn);
        }
        batch.last = place.number;
        let commit = place.operation == Operation::Commit;
        if place.number == 1 && !commit {
            turn.send(reply, batch.flow_ack(0));
        }
        let wishes = Wishes::of(&message.headers);
        if let Err(refused) = Staged::default().check(self, message, &wishes, turn.now) {
            return self.skip(place, refused, reply, turn);
        }
        match self.store_fast(message, &wishes, turn) {
            Ok(seq) => {
                self.note(place.batch, seq, commit, reply, turn);
                self.announce(seq, message, turn);
            }
            Err(error) => {
                if let Some(batch) = self.fast.0.get_mut(place.batch) {
                    batch.stuck = true;
                }
                turn.send(reply, self.refuse(&error));
            }
        }
    }

    fn store_fast(&mut self, message: &Outgoing, wishes: &Wishes<'_>, turn: &mut Turn<'_>) -> Result<u64, ApiError> {
        if let Some(expected) = wishes.last_id
            && *expected != *self.last_id
        {
            return Err(refusal(400, codes::WRONG_LAST_ID, format!("wrong last msg ID: {}", self.last_id)));
        }
        self.store(message, wishes, turn)
    }

    /// A message of the batch was stored.
    fn note(&mut self, id: &str, seq: u64, commit: bool, reply: &Subject, turn: &mut Turn<'_>) {
        let open = self.fast.0.len();
        let Some(batch) = self.fast.0.get_mut(id) else { return };
        batch.stored_seq = seq;
        batch.stored = batch.last;
        if commit {
            return self.finish(id, reply, turn);
        }
        if let Some(ack) = batch.due_flow(open) {
            turn.send(reply, ack);
        }
    }

    /// A message of the batch was refused.
    fn skip(&mut self, place: &Place<'_>, refused: Refused, reply: &Subject, turn: &mut Turn<'_>) {
        let open = self.fast.0.len();
        let commit = place.operation == Operation::Commit;
        let Some(batch) = self.fast.0.get_mut(place.batch) else { return };
        if let Refused::Duplicate(seq) = refused {
            if !batch.stuck {
                batch.stored = place.number;
                if let Some(ack) = batch.due_flow(open) {
                    turn.send(reply, ack);
                }
            }
            if !commit {
                return;
            }
            if !place.gaps_allowed && batch.last == 1 && seq > 0 {
                self.fast.0.remove(place.batch);
                let (prefix, id, count) = (&self.ack_prefix, json!(place.batch), place.number);
                let answer = format!("{prefix}{seq},\"duplicate\": true,\"batch\":{id},\"count\":{count}}}");
                return turn.send(reply, answer);
            }
        } else {
            let error = refused.into_error();
            if !place.gaps_allowed && batch.last == 1 {
                self.fast.0.remove(place.batch);
                return turn.send(reply, self.refuse(&error));
            }
            turn.send(reply, json!({ "type": "err", "seq": place.number, "error": error }).to_string());
            if place.gaps_allowed && !commit {
                return;
            }
            batch.last -= 1;
            if !batch.stuck {
                batch.stored = batch.last;
            }
        }
        self.finish(place.batch, reply, turn);
    }

    /// Ends a batch; what was stored stays and is acknowledged.
    fn finish(&mut self, id: &str, reply: &Subject, turn: &mut Turn<'_>) {
        let Some(batch) = self.fast.0.get(id) else { return };
        if batch.last != batch.stored {
            return;
        }
        let answer = self.confirm(batch.stored_seq, id, batch.last);
        self.fast.0.remove(id);
        turn.send(reply, answer);
    }

    /// Forgets batches that wait too long for their next message.
    pub(super) fn expire_fast(&mut self, turn: &mut Turn<'_>) {
        self.fast.0.retain(|_, batch| batch.abandoned_at > turn.now);
        for batch in self.fast.0.values() {
            turn.due.at(batch.abandoned_at);
        }
    }
}

/// The event that tells of numbers that did not come.
fn gap(expected: u64, number: u64) -> String {
    json!({ "type": "gap", "last_seq": expected, "seq": number }).to_string()
}

#[cfg(test)]
mod tests {
    use crate::broker::{Embedded, Js, Outgoing, StreamConfig};

    #[tokio::test(start_paused = true)]
    async fn every_so_many_messages_are_acknowledged_and_the_end_is_confirmed() {
        let js = Js::new(Embedded::default().connect());
        js.create_stream(&StreamConfig { allow_batched: true, ..StreamConfig::new("S", ["s"]) }).await.unwrap();
        let inbox = js.connection().new_inbox();
        let mut answers = js.connection().subscribe(format!("{inbox}.>"), 64).await.unwrap();
        for (number, operation) in [(1, 0), (2, 1), (3, 1), (4, 1), (5, 3)] {
            let reply = format!("{inbox}.b.2.fail.{number}.{operation}.$FI");
            js.connection().publish(Outgoing::new("s", "x").reply_to(reply)).await.unwrap();
        }
        let mut told = Vec::new();
        answers.drain(&mut told, 64);
        let told: Vec<_> = told.iter().map(|answer| String::from_utf8_lossy(&answer.payload)).collect();
        assert_eq!(
            told,
            [
                r#"{"msgs":2,"seq":0,"type":"ack"}"#,
                r#"{"msgs":2,"seq":2,"type":"ack"}"#,
                r#"{"msgs":2,"seq":4,"type":"ack"}"#,
                r#"{"stream":"S","seq":4,"batch":"b","count":4}"#,
            ]
        );
    }
}
