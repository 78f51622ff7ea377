//! [`Turn`]: what one operation of the broker may use: the time, and the way out.

use bytes::Bytes;
use millstream_operators::Headers;

use super::core::status;
use super::due::{Due, after};
use super::router::Router;
use crate::broker::message::headers_len;
use crate::broker::{Incoming, Outgoing, Subject};

/// One operation under the lock. Everything in it happens at one moment.
pub(super) struct Turn<'a> {
    /// Nanoseconds since the epoch.
    pub(super) now: i64,
    pub(super) router: &'a mut Router,
    pub(super) due: &'a mut Due,
    /// Advisories, which go through the broker like a client's messages once the operation is done.
    pub(super) advisories: &'a mut Vec<Outgoing>,
    /// The most messages of an atomic batch.
    pub(super) max_batch: u64,
}

impl Turn<'_> {
    /// Asks for a look at the broker in so many nanoseconds; returns when that is.
    pub(super) fn wake_after(&mut self, nanos: u64) -> i64 {
        let when = after(self.now, nanos);
        self.due.at(when);
        when
    }

    /// Whether anybody listens there.
    pub(super) fn hears(&self, to: &str) -> bool {
        self.router.hears(to)
    }

    /// Sends a payload of the broker itself.
    pub(super) fn send(&mut self, to: &Subject, payload: impl Into<Bytes>) {
        let payload = payload.into();
        let message = Incoming {
            wire_len: to.len() + payload.len(),
            subject: to.clone(),
            reply: None,
            headers: Headers::NONE,
            status: None,
            description: None,
            payload,
        };
        self.router.deliver(message);
    }

    /// Sends a status without content.
    pub(super) fn send_status(&mut self, to: &Subject, code: u16, description: &str, headers: Headers) {
        let mut message = status(to.clone(), code, Some(description));
        message.wire_len += headers_len(&headers);
        message.headers = headers;
        self.router.deliver(message);
    }

    /// Delivers a message to who listens on `to`, which is not the subject it was published to.
    pub(super) fn deliver(&mut self, to: &Subject, message: Incoming) {
        self.router.deliver_to(to, message);
    }

    /// Publishes an advisory after this operation.
    pub(super) fn advise(&mut self, subject: String, body: &serde_json::Value) {
        self.advisories.push(Outgoing::new(Subject::from(subject), body.to_string()));
    }
}
