//! [`Pull`]: a request for messages that waits at a consumer until it is served, too old or unheard.

use millstream_operators::Headers;
use serde::Deserialize;

use super::ack::left;
use super::consumer::Consumer;
use super::log::Log;
use super::turn::Turn;
use crate::broker::Subject;

/// A waiting pull request.
#[derive(Clone, Debug)]
pub(super) struct Pull {
    pub(super) reply: Subject,
    /// How many messages it still wants.
    pub(super) left: i64,
    pub(super) delivered: u64,
    /// How many bytes it still takes; 0 if it did not say.
    pub(super) bytes_left: i64,
    no_wait: bool,
    /// When it ends; `None` for never.
    pub(super) expires: Option<i64>,
    /// Every so many nanoseconds without a message it wants a sign of life.
    heartbeat: u64,
    pub(super) next_heartbeat: Option<i64>,
}

/// The body of a pull request. Durations are nanoseconds.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Request {
    batch: i64,
    expires: u64,
    max_bytes: i64,
    no_wait: bool,
    idle_heartbeat: u64,
    // Priority groups are not here.
}

impl Request {
    /// Reads nothing, a number, or JSON; other text counts as nothing.
    fn parse(body: &[u8]) -> Result<Request, String> {
        let body = body.trim_ascii();
        let one = Request { batch: 1, ..Request::default() };
        if body.first() != Some(&b'{') {
            let number = std::str::from_utf8(body).ok().and_then(|text| text.parse().ok());
            return Ok(number.map_or(one, |batch| Request { batch, ..Request::default() }));
        }
        let request: Request = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        if request.idle_heartbeat.saturating_mul(2) > request.expires {
            return Err("heartbeat value too large".to_owned());
        }
        Ok(request)
    }
}

impl Consumer {
    /// A client asks for messages.
    pub(super) fn on_pull(&mut self, reply: &Subject, body: &[u8], log: &Log, turn: &mut Turn<'_>) {
        let request = match Request::parse(body) {
            Ok(request) => request,
            Err(why) => return turn.send_status(reply, 400, &format!("Bad Request - {why}"), Headers::NONE),
        };
        if let Err(why) = self.check_limits(&request) {
            return turn.send_status(reply, 409, &why, Headers::NONE);
        }
        if u64::try_from(self.config.max_waiting).is_ok_and(|most| self.waiting.len() as u64 >= most) {
            self.sweep(false, turn);
        }
        if request.no_wait {
            let there = self.to_come.max(0).unsigned_abs() + self.redeliveries.len();
            if there == 0 && request.expires == 0 {
                self.active_at = turn.now;
                return turn.send_status(reply, 404, "No Messages", Headers::NONE);
            }
            if there > 0 && there < self.sweep(false, turn) {
                self.active_at = turn.now;
                return turn.send_status(reply, 408, "Requests Pending", Headers::NONE);
            }
        }
        if u64::try_from(self.config.max_waiting).is_ok_and(|most| self.waiting.len() as u64 >= most) {
            // A client that expects heartbeats will miss them; an answer would make it ask again at once.
            if request.idle_heartbeat == 0 {
                turn.send_status(reply, 409, "Exceeded MaxWaiting", Headers::NONE);
            }
            return;
        }
        self.active_at = turn.now;
        self.waiting.push_back(Pull {
            reply: reply.clone(),
            left: request.batch,
            delivered: 0,
            bytes_left: request.max_bytes,
            no_wait: request.no_wait,
            expires: (request.expires > 0).then(|| turn.wake_after(request.expires)),
            heartbeat: request.idle_heartbeat,
            next_heartbeat: (request.idle_heartbeat > 0).then(|| turn.wake_after(request.idle_heartbeat)),
        });
        self.pump(log, turn);
    }

    /// The limits of the consumer's configuration.
    fn check_limits(&self, request: &Request) -> Result<(), String> {
        let limit =
            |name: &str| self.config.rest.get(name).and_then(serde_json::Value::as_i64).filter(|most| *most > 0);
        if let Some(most) = limit("max_batch")
            && request.batch > most
        {
            return Err(format!("Exceeded MaxRequestBatch of {most}"));
        }
        if let Some(most) = limit("max_expires")
            && request.expires > most.unsigned_abs()
        {
            return Err(format!("Exceeded MaxRequestExpires of {}", go_text(most.unsigned_abs())));
        }
        if let Some(most) = limit("max_bytes")
            && request.max_bytes > most
        {
            return Err(format!("Exceeded MaxRequestMaxBytes of {most}"));
        }
        Ok(())
    }

    /// Ends pulls that are over (at the end of the stream also those that do not wait), forgets those whose client
    /// is gone, and sends heartbeats. Returns how many messages the others want.
    pub(super) fn sweep(&mut self, at_end: bool, turn: &mut Turn<'_>) -> u64 {
        let mut wanted = 0;
        let (delivery, message) = (self.next_delivery.saturating_sub(1), self.next.saturating_sub(1));
        self.waiting.retain_mut(|pull| {
            if pull.expires.is_some_and(|expires| expires <= turn.now) {
                turn.send_status(&pull.reply, 408, "Request Timeout", left(pull.left, pull.bytes_left));
                return false;
            }
            if at_end && pull.no_wait && (pull.expires.is_none() || pull.delivered > 0) {
                turn.send_status(&pull.reply, 404, "No Messages", Headers::NONE);
                return false;
            }
            if !turn.hears(&pull.reply) {
                return false;
            }
            wanted += pull.left.max(0).unsigned_abs();
            if let Some(due) = pull.next_heartbeat {
                if due <= turn.now {
                    let mut place = Headers::NONE;
                    for (name, value) in [("Nats-Last-Consumer", delivery), ("Nats-Last-Stream", message)] {
                        // Both are sound.
                        let _ = place.push(name, &value.to_string());
                    }
                    turn.send_status(&pull.reply, 100, "Idle Heartbeat", place);
                    pull.next_heartbeat = Some(turn.wake_after(pull.heartbeat));
                } else {
                    turn.due.at(due);
                }
            }
            if let Some(expires) = pull.expires {
                turn.due.at(expires);
            }
            true
        });
        wanted
    }

    /// The pull that a message of this size goes to, with what is left of it after that; whoever cannot take it
    /// loses its place.
    pub(super) fn claim(&mut self, size: i64, turn: &mut Turn<'_>) -> Option<Pull> {
        while let Some(mut pull) = self.waiting.pop_front() {
            if pull.expires.is_some_and(|expires| expires <= turn.now) {
                turn.send_status(&pull.reply, 408, "Request Timeout", left(pull.left, pull.bytes_left));
                continue;
            }
            if pull.bytes_left > 0 {
                if size > pull.bytes_left {
                    let left = left(pull.left, pull.bytes_left);
                    turn.send_status(&pull.reply, 409, "Message Size Exceeds MaxBytes", left);
                    continue;
                }
                pull.bytes_left -= size;
                if pull.bytes_left == 0 {
                    pull.left = 1;
                }
            }
            if !turn.hears(&pull.reply) {
                continue;
            }
            pull.delivered += 1;
            pull.left -= 1;
            if pull.heartbeat > 0 {
                pull.next_heartbeat = Some(turn.wake_after(pull.heartbeat));
            }
            if pull.left > 0 {
                // Several pulls take turns.
                self.waiting.push_back(pull.clone());
            }
            return Some(pull);
        }
        None
    }

    /// The consumer goes: so do its pulls.
    pub(super) fn on_deleted(&mut self, turn: &mut Turn<'_>) {
        for pull in self.waiting.drain(..) {
            turn.send_status(&pull.reply, 409, "Consumer Deleted", Headers::NONE);
        }
    }
}

/// A duration as Go writes it.
fn go_text(nanos: u64) -> String {
    let seconds = nanos / 1_000_000_000;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    if nanos < 1_000_000_000 {
        return format!("{}ms", nanos as f64 / 1e6);
    }
    let rest = (nanos - (hours * 3600 + minutes * 60) * 1_000_000_000) as f64 / 1e9;
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, minutes) => format!("{minutes}m{rest}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_is_nothing_a_number_or_json() {
        assert_eq!(Request::parse(b"").unwrap().batch, 1);
        assert_eq!(Request::parse(b"7").unwrap().batch, 7);
        assert_eq!(Request::parse(b"zz").unwrap().batch, 1);
        assert!(Request::parse(br#"{"batch":3,"no_wait":true}"#).unwrap().no_wait);
        assert!(Request::parse(b"{").is_err());
        let too_large = br#"{"batch":3,"expires":10,"idle_heartbeat":6}"#;
        assert_eq!(Request::parse(too_large).err().as_deref(), Some("heartbeat value too large"));
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (nanos, text) in [(1_500_000_000, "1.5s"), (90_000_000_000, "1m30s"), (5_000_000, "5ms")] {
            assert_eq!(go_text(nanos), text);
        }
        assert_eq!(go_text(3_600_000_000_000), "1h0m0s");
    }
}
